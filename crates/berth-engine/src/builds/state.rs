//! The files of a state, read from its layers.

use super::folder::{hash, meta_of};
use crate::files::{Found, Root, reopen};
use berth_build::{Meta, Tree};
use berth_types::Digest;
use rustix::fs::Dir;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Attributes that a copy keeps; those of the overlay and of the host's labels mean nothing elsewhere.
const KEPT: [&[u8]; 2] = [b"security.capability", b"user."];

pub(crate) struct StateTree {
    root: Root,
    identity: Digest,
}

impl StateTree {
    pub(crate) fn new(root: Root, identity: Digest) -> StateTree {
        StateTree { root, identity }
    }

    fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        match self.root.find_no_follow(path) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_absent() || error.is_not_folder() => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn there(&self, path: &Path) -> io::Result<Found> {
        self.find(path)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Tree for StateTree {
    fn meta(&self, path: &Path) -> io::Result<Option<Meta>> {
        let Some(found) = self.find(path)? else { return Ok(None) };
        let link = match found.kind() {
            rustix::fs::FileType::Symlink => Some(found.link_target().map_err(io::Error::other)?),
            _ => None,
        };
        Ok(Some(meta_of(&found.stat, link, true)))
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let found = self.there(folder)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(found.open_folder().map_err(io::Error::other)?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn digest(&self, file: &Path) -> io::Result<[u8; 32]> {
        hash(std::fs::File::from(reopen(&self.there(file)?).map_err(io::Error::other)?))
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::fs::File::from(reopen(&self.there(file)?).map_err(io::Error::other)?)))
    }

    fn open_file(&self, file: &Path) -> io::Result<Option<std::fs::File>> {
        Ok(Some(std::fs::File::from(reopen(&self.there(file)?).map_err(io::Error::other)?)))
    }

    fn attributes(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let found = self.there(path)?;
        if !matches!(found.kind(), rustix::fs::FileType::RegularFile | rustix::fs::FileType::Directory) {
            return Ok(Vec::new());
        }
        let file = reopen(&found).map_err(io::Error::other)?;
        let mut names = vec![0; 64 << 10];
        let length = match rustix::fs::flistxattr(&file, &mut names) {
            Ok(length) => length,
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut kept = Vec::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if KEPT.iter().any(|kept| name.starts_with(kept)) {
                let mut value = vec![0; 64 << 10];
                let length = rustix::fs::fgetxattr(&file, name, &mut value)?;
                value.truncate(length);
                kept.push((name.to_vec(), value));
            }
        }
        kept.sort();
        Ok(kept)
    }

    fn identity(&self) -> Option<Digest> {
        Some(self.identity)
    }
}

/// Files of a result that are read after its build: their layers stay as long.
pub(crate) struct Kept {
    files: Arc<dyn Tree>,
    _held: Arc<super::cache::Held>,
}

impl Kept {
    pub(crate) fn new(files: Arc<dyn Tree>, held: Arc<super::cache::Held>) -> Kept {
        Kept { files, _held: held }
    }
}

impl Tree for Kept {
    fn meta(&self, path: &Path) -> io::Result<Option<Meta>> {
        self.files.meta(path)
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.files.names(folder)
    }

    fn digest(&self, file: &Path) -> io::Result<[u8; 32]> {
        self.files.digest(file)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + Send>> {
        self.files.open(file)
    }

    fn attributes(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.files.attributes(path)
    }

    fn identity(&self) -> Option<Digest> {
        self.files.identity()
    }
}
