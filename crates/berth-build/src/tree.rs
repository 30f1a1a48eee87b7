//! Trees of files: the context, a state's files, a here-document.

use berth_types::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Deeper folders are refused: nobody's file system needs them, and walks nest.
const DEPTH_MAX: usize = 400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Folder,
    Link,
    /// A pipe, socket or device.
    Special,
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    pub kind: FileKind,
    /// Rights and sticky, set-id bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime_nanos: i64,
    /// Where a link points.
    pub link: Option<PathBuf>,
    /// Type bits and number of a special file.
    pub device: (u32, u64),
}

impl Meta {
    pub fn file(size: u64, mode: u32) -> Meta {
        let kind = FileKind::File;
        Meta { kind, mode, uid: 0, gid: 0, size, mtime_nanos: 0, link: None, device: (0, 0) }
    }

    pub fn folder(mode: u32) -> Meta {
        Meta { kind: FileKind::Folder, ..Meta::file(0, mode) }
    }
}

/// Files to copy from. Paths are relative, without `.`, `..` or links on the way; the empty one is the root.
/// All methods may block.
pub trait Tree: Send + Sync {
    /// `None` where there is nothing. A link is itself.
    fn meta(&self, path: &Path) -> io::Result<Option<Meta>>;
    /// Names in a folder, in order.
    fn names(&self, folder: &Path) -> io::Result<Vec<std::ffi::OsString>>;
    /// Digest of a file's content.
    fn digest(&self, file: &Path) -> io::Result<[u8; 32]>;
    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + Send>>;
    /// Extended attributes that a copy keeps.
    fn attributes(&self, _path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(Vec::new())
    }
    /// What everything in it is known by, where that costs nothing.
    fn identity(&self) -> Option<Digest> {
        None
    }
    /// The file changed after it was hashed: what was read is not what the key says.
    fn changed(&self, _file: &Path) -> io::Result<bool> {
        Ok(false)
    }
    /// An open file whose whole content is the file's: lets the kernel copy it.
    fn open_file(&self, _file: &Path) -> io::Result<Option<std::fs::File>> {
        Ok(None)
    }
    /// The ignore file left it out.
    fn is_ignored(&self, _path: &Path) -> bool {
        false
    }
}

/// Everything at and below `root`, folders before what is in them.
pub fn walk(tree: &dyn Tree, root: &Path, visit: &mut dyn FnMut(&Path, &Meta) -> io::Result<bool>) -> io::Result<()> {
    let Some(meta) = tree.meta(root)? else { return Err(io::ErrorKind::NotFound.into()) };
    walk_from(tree, root.to_owned(), &meta, visit, 0)
}

fn walk_from(
    tree: &dyn Tree,
    path: PathBuf,
    meta: &Meta,
    visit: &mut dyn FnMut(&Path, &Meta) -> io::Result<bool>,
    depth: usize,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("{}: folders are nested too deep", path.display())));
    }
    if !visit(&path, meta)? || meta.kind != FileKind::Folder {
        return Ok(());
    }
    for name in tree.names(&path)? {
        let child = path.join(name);
        if let Some(meta) = tree.meta(&child)? {
            walk_from(tree, child, &meta, visit, depth + 1)?;
        }
    }
    Ok(())
}

/// A few files in memory.
#[derive(Debug, Clone, Default)]
pub struct MemTree {
    files: BTreeMap<PathBuf, (Meta, Vec<u8>)>,
}

impl MemTree {
    pub fn one(name: &str, data: Vec<u8>) -> MemTree {
        let mut tree = MemTree::default();
        tree.add(name, Meta::file(data.len() as u64, 0o644), data);
        tree
    }

    /// Folders on the way appear by themselves.
    pub fn add(&mut self, path: impl Into<PathBuf>, meta: Meta, data: Vec<u8>) {
        let path = path.into();
        for parent in path.ancestors().skip(1) {
            let folder = || (Meta::folder(0o755), Vec::new());
            self.files.entry(parent.to_owned()).or_insert_with(folder);
        }
        self.files.insert(path, (meta, data));
    }

    fn get(&self, path: &Path) -> io::Result<&(Meta, Vec<u8>)> {
        self.files.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Tree for MemTree {
    fn meta(&self, path: &Path) -> io::Result<Option<Meta>> {
        Ok(self.files.get(path).map(|(meta, _)| meta.clone()))
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        let inside = self.files.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name().map(std::ffi::OsStr::to_owned)).collect())
    }

    fn digest(&self, file: &Path) -> io::Result<[u8; 32]> {
        Ok(Sha256::digest(&self.get(file)?.1).into())
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.get(file)?.1.clone())))
    }
}
