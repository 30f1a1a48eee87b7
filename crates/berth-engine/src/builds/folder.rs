//! A folder of the host as a build's context, read where it is.
//!
//! Names are opened beneath the folder and no link is followed on the way, so nothing outside is ever read. Files
//! belong to root in a build, whoever has them here. Contents that were hashed once are known by device, inode,
//! size and times; a file that changed a moment ago is hashed again, as its times may not tell the next change.

use berth_build::{FileKind, Meta, Tree};
use berth_dockerfile::ignore::Matcher;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2};
use rustix::io::Errno;
use sha2::Digest as _;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Digests kept; about 100 bytes each.
const KNOWN_MAX: usize = 500_000;
/// The kernel's file times step by up to 10 ms; a change within the same step is not seen in them.
const SETTLED_NANOS: i64 = 50_000_000;

/// What says that a file is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    mtime: i64,
    ctime: i64,
}

impl Identity {
    fn of(stat: &Stat) -> Identity {
        Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.unsigned_abs(),
            mtime: nanos(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: nanos(stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

/// Contents that were hashed, for all builds.
#[derive(Default)]
pub(crate) struct Digests {
    known: Mutex<HashMap<Identity, [u8; 32]>>,
}

fn nanos(seconds: i64, part: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(part)
}

pub(crate) struct FolderTree {
    base: OwnedFd,
    ignore: Matcher,
    digests: Arc<Digests>,
    /// Files of this build as they were when they were hashed.
    seen: Mutex<HashMap<PathBuf, Identity>>,
    /// Owners stay as they are (another state's files), or become root.
    keep_owners: bool,
}

impl FolderTree {
    pub(crate) fn open(path: &Path, ignore: Matcher, digests: Arc<Digests>) -> io::Result<FolderTree> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(FolderTree { base, ignore, digests, seen: Mutex::default(), keep_owners: false })
    }

    /// A folder in it as a tree of its own.
    pub(crate) fn within(&self, path: &Path, ignore: Matcher) -> io::Result<FolderTree> {
        let base = self.at(path, OFlags::PATH | OFlags::DIRECTORY)?;
        let digests = self.digests.clone();
        Ok(FolderTree { base, ignore, digests, seen: Mutex::default(), keep_owners: self.keep_owners })
    }

    fn at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let name: &OsStr = if path.as_os_str().is_empty() { OsStr::new(".") } else { path.as_os_str() };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.base, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// A link as the last name is itself.
    fn stat(&self, path: &Path) -> io::Result<Option<(Stat, Option<PathBuf>)>> {
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => return Ok(Some((rustix::fs::fstat(&self.base)?, None))),
        };
        let absent = |error: &io::Error| {
            matches!(
                error.raw_os_error().map(Errno::from_raw_os_error),
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
            )
        };
        let folder = match self.at(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let link = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&folder, name, Vec::new())?;
                Some(PathBuf::from(OsString::from_vec(target.into_bytes())))
            }
            _ => None,
        };
        Ok(Some((stat, link)))
    }

    fn visible(&self, path: &Path, is_folder: bool) -> io::Result<bool> {
        if self.ignore.is_empty() || path.as_os_str().is_empty() {
            return Ok(true);
        }
        let text = path.to_string_lossy();
        if !self.ignore.matches(&text) {
            return Ok(true);
        }
        if !is_folder || !self.ignore.brings_back() || !self.ignore.may_bring_back_in(&text) {
            return Ok(false);
        }
        // A folder that is left out is there for the sake of what is brought back in it.
        Ok(!self.names(path)?.is_empty())
    }

    fn file(&self, path: &Path) -> io::Result<(std::fs::File, Stat)> {
        let file = self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no file any more"));
        }
        Ok((std::fs::File::from(file), stat))
    }
}

/// What a stat says, as a build sees it.
pub(super) fn meta_of(stat: &Stat, link: Option<PathBuf>, keep_owner: bool) -> Meta {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Folder,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Special,
    };
    let owner = |id: u32| if keep_owner { id } else { 0 };
    Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: owner(stat.st_uid),
        gid: owner(stat.st_gid),
        size: stat.st_size.unsigned_abs(),
        mtime_nanos: nanos(stat.st_mtime, stat.st_mtime_nsec as i64),
        link,
        device: (stat.st_mode & 0o170_000, stat.st_rdev),
    }
}

pub(super) fn hash(mut from: impl Read) -> io::Result<[u8; 32]> {
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

impl Tree for FolderTree {
    fn meta(&self, path: &Path) -> io::Result<Option<Meta>> {
        let Some((stat, link)) = self.stat(path)? else { return Ok(None) };
        let meta = meta_of(&stat, link, self.keep_owners);
        Ok(self.visible(path, meta.kind == FileKind::Folder)?.then_some(meta))
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.at(folder, OFlags::RDONLY | OFlags::DIRECTORY)?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name).to_owned();
            if self.ignore.is_empty() || self.visible(&folder.join(&name), entry.file_type() == FileType::Directory)? {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn digest(&self, path: &Path) -> io::Result<[u8; 32]> {
        let Some((stat, _)) = self.stat(path)? else { return Err(io::ErrorKind::NotFound.into()) };
        let identity = Identity::of(&stat);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), identity);
        let known = || self.digests.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known().get(&identity) {
            return Ok(*digest);
        }
        let (file, stat) = self.file(path)?;
        let before = Identity::of(&stat);
        let digest = hash(&file)?;
        let settled = crate::events::now_unix_nanos() - before.ctime > SETTLED_NANOS;
        if settled && before == identity && Identity::of(&rustix::fs::fstat(&file)?) == before {
            let mut known = known();
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(before, digest);
        }
        Ok(digest)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.file(path)?.0))
    }

    fn open_file(&self, path: &Path) -> io::Result<Option<std::fs::File>> {
        Ok(Some(self.file(path)?.0))
    }

    fn changed(&self, path: &Path) -> io::Result<bool> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
        let Some(seen) = seen else { return Ok(false) };
        Ok(self.stat(path)?.is_none_or(|(stat, _)| Identity::of(&stat) != seen))
    }

    fn is_ignored(&self, path: &Path) -> bool {
        self.ignore.matches(&path.to_string_lossy()) && matches!(self.stat(path), Ok(Some(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(folder: &Path, ignore: &[&str]) -> FolderTree {
        let patterns: Vec<String> = ignore.iter().map(|&pattern| pattern.to_owned()).collect();
        FolderTree::open(folder, Matcher::new(&patterns).unwrap(), Arc::default()).unwrap()
    }

    #[test]
    fn links_on_the_way_are_not_followed_and_what_is_ignored_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("context");
        std::fs::create_dir_all(root.join("docs/api")).unwrap();
        std::fs::write(folder.path().join("outside"), "secret").unwrap();
        for name in ["a.txt", "docs/guide.md", "docs/api/keep.md", "x.log"] {
            std::fs::write(root.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        let tree = tree(&root, &["docs", "!docs/api/keep.md", "*.log"]);
        let there = |path: &str| tree.meta(Path::new(path)).unwrap().is_some();
        assert!(there("a.txt") && there("docs") && there("docs/api/keep.md") && there("up"));
        assert!(!there("docs/guide.md") && !there("x.log") && !there("up/outside") && !there("nothing"));
        assert!(tree.is_ignored(Path::new("x.log")) && !tree.is_ignored(Path::new("y.log")));
        assert_eq!(tree.names(Path::new("")).unwrap(), ["a.txt", "docs", "up"]);
        assert!(tree.open(Path::new("up/outside")).is_err());
        assert_eq!(tree.meta(Path::new("a.txt")).unwrap().unwrap().uid, 0);
    }

    #[test]
    fn a_change_after_hashing_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "one").unwrap();
        let tree = tree(folder.path(), &[]);
        let first = tree.digest(Path::new("f")).unwrap();
        assert!(!tree.changed(Path::new("f")).unwrap());
        std::fs::write(&file, "second").unwrap();
        assert!(tree.changed(Path::new("f")).unwrap());
        assert_ne!(tree.digest(Path::new("f")).unwrap(), first);
    }
}
