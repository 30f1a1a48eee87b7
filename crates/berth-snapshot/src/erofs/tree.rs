//! The names of a layer that is being written, in memory: what is where, and where links of the layer lead.

use super::format::Kind;
use crate::Result;
use crate::layer::{Meta, names, refused, split};
use std::collections::BTreeMap;

/// Deeper trees are refused, as by the other driver.
const DEPTH_MAX: usize = 256;
/// Links resolved for one entry; path_resolution(7) has 40.
const LINKS_MAX: usize = 40;
/// What EROFS and every other file system takes.
const NAME_BYTES_MAX: usize = 255;
/// What names and folders may take in memory, estimated: more than two million entries.
const MEMORY_BYTES_MAX: usize = 256 << 20;
/// An entry beside its name: a node of the map, the inode.
const ENTRY_BYTES: usize = 80;

pub(super) const TOP: FolderId = FolderId(0);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FolderId(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FileId(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    Folder(FolderId),
    File(FileId),
}

#[derive(Debug, Default)]
pub(super) struct Folder {
    pub names: BTreeMap<Box<[u8]>, Child>,
    /// Without it only a path named the folder.
    pub meta: Option<Meta>,
    pub is_opaque: bool,
    pub parent: Option<FolderId>,
    name: Box<[u8]>,
    depth: usize,
}

/// Everything that is no folder; its inode is in the image already.
#[derive(Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub nid: u64,
    pub is_whiteout: bool,
    /// Of a link: where it leads.
    target: Option<Box<[u8]>>,
}

#[derive(Debug)]
pub(super) struct Tree {
    folders: Vec<Folder>,
    files: Vec<Node>,
    memory_bytes: usize,
}

/// Where an entry is to be.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub folder: FolderId,
    pub name: &'a [u8],
    /// The path as it really is, where a link of the layer stood on the way.
    pub moved: Option<Vec<u8>>,
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree { folders: vec![Folder::default()], files: Vec::new(), memory_bytes: 0 }
    }

    pub(super) fn folder(&self, id: FolderId) -> &Folder {
        &self.folders[id.0 as usize]
    }

    pub(super) fn folder_mut(&mut self, id: FolderId) -> &mut Folder {
        &mut self.folders[id.0 as usize]
    }

    pub(super) fn file(&self, id: FileId) -> &Node {
        &self.files[id.0 as usize]
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        (self.folders.len(), self.files.len())
    }

    pub(super) fn child(&self, folder: FolderId, name: &[u8]) -> Option<Child> {
        self.folder(folder).names.get(name).copied()
    }

    fn take(&mut self, path: &[u8], bytes: usize) -> Result<()> {
        self.memory_bytes += bytes + ENTRY_BYTES;
        match self.memory_bytes > MEMORY_BYTES_MAX {
            true => Err(refused(path, "the layer has too many entries")),
            false => Ok(()),
        }
    }

    pub(super) fn add_file(
        &mut self,
        kind: Kind,
        nid: u64,
        is_whiteout: bool,
        target: Option<&[u8]>,
    ) -> Result<FileId> {
        if let Some(target) = target {
            self.take(target, target.len())?;
        }
        self.files.push(Node { kind, nid, is_whiteout, target: target.map(Box::from) });
        Ok(FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX)))
    }

    /// Gives a name to something; what had the name is no longer there.
    pub(super) fn name(&mut self, folder: FolderId, name: &[u8], child: Child) -> Result<()> {
        self.take(name, name.len())?;
        self.folder_mut(folder).names.insert(name.into(), child);
        Ok(())
    }

    pub(super) fn make_folder(&mut self, parent: FolderId, name: &[u8], path: &[u8]) -> Result<FolderId> {
        let depth = self.folder(parent).depth + 1;
        if depth > DEPTH_MAX {
            return Err(refused(path, "its folders are nested too deep"));
        }
        self.take(path, name.len() + size_of::<Folder>())?;
        let id = FolderId(u32::try_from(self.folders.len()).unwrap_or(u32::MAX));
        self.folders.push(Folder { parent: Some(parent), name: name.into(), depth, ..Folder::default() });
        self.name(parent, name, Child::Folder(id))?;
        Ok(id)
    }

    /// Remembers what an entry says of its folder.
    pub(super) fn describe(&mut self, folder: FolderId, path: &[u8], meta: &Meta) -> Result<()> {
        let xattrs: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.take(path, xattrs)?;
        self.folder_mut(folder).meta = Some(meta.clone());
        Ok(())
    }

    fn path_of(&self, folder: FolderId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self.folder(folder);
        while let Some(parent) = at.parent {
            names.push(&at.name[..]);
            at = self.folder(parent);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The folder that `path` is in; missing ones are made.
    pub(super) fn place<'a>(&mut self, path: &'a [u8]) -> Result<Place<'a>> {
        let (folder, name) = split(path);
        let (folder, has_moved) = self.at(folder)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(refused(path, "its name has more than 255 bytes"));
        }
        let moved = has_moved.then(|| {
            let mut real = self.path_of(folder);
            if !real.is_empty() {
                real.push(b'/');
            }
            real.extend_from_slice(name);
            real
        });
        Ok(Place { folder, name, moved })
    }

    /// The folder `path`, made where it is missing, and whether a link stood on the way.
    pub(super) fn at(&mut self, path: &[u8]) -> Result<(FolderId, bool)> {
        let mut here = TOP;
        let mut links = 0;
        for name in names(path) {
            if name.len() > NAME_BYTES_MAX {
                return Err(refused(path, "a name on the way has more than 255 bytes"));
            }
            here = match self.child(here, name) {
                None => self.make_folder(here, name, path)?,
                Some(Child::Folder(folder)) => folder,
                Some(Child::File(file)) => self.follow(here, file, path, &mut links)?,
            };
        }
        Ok((here, links > 0))
    }

    /// The folder that `path` means, links followed; nothing is made.
    pub(super) fn find(&self, path: &[u8]) -> Option<FolderId> {
        let mut links = 0;
        let mut here = TOP;
        for name in names(path) {
            here = match self.child(here, name)? {
                Child::Folder(folder) => folder,
                Child::File(file) => self.follow(here, file, path, &mut links).ok()?,
            };
        }
        Some(here)
    }

    /// Where a link in `folder` leads: within the layer, as in a container. The top's parent is the top.
    fn follow(&self, folder: FolderId, file: FileId, path: &[u8], links: &mut usize) -> Result<FolderId> {
        let target = self.file(file).target.as_deref();
        let target = target.ok_or_else(|| refused(path, "a file stands where a folder must be"))?;
        *links += 1;
        if *links > LINKS_MAX {
            return Err(refused(path, "too many links of the same layer stand on the way"));
        }
        let mut here = if target.starts_with(b"/") { TOP } else { folder };
        for name in names(target) {
            here = match name {
                b"." => here,
                b".." => self.folder(here).parent.unwrap_or(TOP),
                name => match self.child(here, name) {
                    Some(Child::Folder(folder)) => folder,
                    // At most LINKS_MAX deep.
                    Some(Child::File(file)) => self.follow(here, file, path, links)?,
                    None => {
                        let why = "a link of the same layer stands on the way and leads to no folder";
                        return Err(refused(path, why));
                    }
                },
            };
        }
        Ok(here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_round_and_round_come_to_an_end() {
        let mut tree = Tree::new();
        for (name, target) in [(&b"a"[..], &b"b/x"[..]), (b"b", b"a/y")] {
            let file = tree.add_file(Kind::Symlink, 0, false, Some(target)).unwrap();
            tree.name(TOP, name, Child::File(file)).unwrap();
        }
        assert!(tree.at(b"a/z").is_err_and(|error| error.is_refusal()));
        assert!(tree.find(b"b").is_none());
    }

    #[test]
    fn memory_is_bounded_whatever_an_archive_says() {
        let mut tree = Tree::new();
        let value = vec![(b"user.a".to_vec(), vec![0; 60 << 10])];
        let meta = Meta { xattrs: value, ..Meta::default() };
        let made = (0..8000).try_for_each(|n: u32| {
            let folder = tree.at(n.to_string().as_bytes())?.0;
            tree.describe(folder, b"x", &meta)
        });
        assert!(made.is_err_and(|error| error.is_refusal()));
    }
}
