//! The folders of a layer that is being made, held open.
//!
//! Archives go through a tree folder by folder: the way to the last entry is kept as descriptors, so most entries
//! cost one call relative to an open folder instead of a walk from the top. Nothing is followed on the way. A link
//! of the layer itself is resolved by the kernel within the layer ([`ResolveFlags::IN_ROOT`]), as in a container.

use super::{open_folder, open_top};
use crate::layer::{names, refused};
use crate::{Result, step};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Deeper trees are refused: each level of the current path is an open descriptor.
pub(super) const DEPTH_MAX: usize = 256;
/// Links resolved for one entry; path_resolution(7) has 40.
const LINKS_MAX: usize = 40;

/// Makes a folder that is missing: in which one, at what path, of what name.
pub(super) type Make<'a> = &'a mut dyn FnMut(&OwnedFd, &[u8], &[u8]) -> Result<()>;

pub(super) struct Folders {
    path: PathBuf,
    pub top: Arc<OwnedFd>,
    stack: Vec<(Vec<u8>, Arc<OwnedFd>)>,
}

/// An opened folder, and where it is if a link stood on the way.
pub(super) struct Opened {
    pub fd: Arc<OwnedFd>,
    pub moved: Option<Vec<u8>>,
}

impl Folders {
    pub(super) fn open(path: &Path) -> Result<Folders> {
        let top = Arc::new(open_top(path)?);
        Ok(Folders { path: path.to_owned(), top, stack: Vec::new() })
    }

    /// Forgets what is open: folders have moved.
    pub(super) fn forget(&mut self) {
        self.stack.clear();
    }

    /// Opens the folder `path`. Missing ones are made by `make`, which is told the path of each.
    pub(super) fn at(&mut self, path: &[u8], make: Make<'_>) -> Result<Opened> {
        let mut wanted = path.to_vec();
        let mut moved = false;
        for _ in 0..LINKS_MAX {
            match self.descend(&wanted, make)? {
                Step::There => {
                    let fd = self.stack.last().map_or(&self.top, |(_, fd)| fd).clone();
                    return Ok(Opened { fd, moved: moved.then_some(wanted) });
                }
                Step::Link(real) => (wanted, moved) = (real, true),
            }
        }
        Err(refused(path, "too many links of the same layer stand on the way"))
    }

    fn descend(&mut self, path: &[u8], make: Make<'_>) -> Result<Step> {
        let same = self.stack.iter().zip(names(path)).take_while(|((have, _), want)| have == want).count();
        self.stack.truncate(same);
        let mut end: usize = self.stack.iter().map(|(name, _)| name.len() + 1).sum();
        for name in names(path).skip(same) {
            if self.stack.len() >= DEPTH_MAX {
                return Err(refused(path, "its folders are nested too deep"));
            }
            end += name.len() + 1;
            let here = &path[..end - 1];
            let folder = self.stack.last().map_or(&self.top, |(_, fd)| fd).clone();
            let mut opened = open_folder(&folder, name);
            if matches!(opened, Err(Errno::NOENT)) {
                make(&folder, here, name)?;
                opened = open_folder(&folder, name);
            }
            match opened {
                Ok(fd) => self.stack.push((name.to_vec(), Arc::new(fd))),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let rest = path.get(end..).unwrap_or_default();
                    return self.resolve(&folder, name, here, rest);
                }
                Err(errno) => return Err(step("open", self.path.join(crate::shown(here)))(errno.into())),
            }
        }
        Ok(Step::There)
    }

    /// A link stands at `here`: where it leads within the layer, with the rest of the way.
    fn resolve(&self, folder: &OwnedFd, name: &[u8], here: &[u8], rest: &[u8]) -> Result<Step> {
        let stat = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| step("stat", crate::shown(here))(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(refused(here, "a file stands where a folder must be"));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let leads_nowhere = "a link of the same layer stands on the way and leads to no folder";
        let fd = rustix::fs::openat2(&self.top, here, flags, Mode::empty(), resolve)
            .map_err(|_| refused(here, leads_nowhere))?;
        let link = |fd: &OwnedFd| rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
        let (real, top) = match (link(&fd), link(&self.top)) {
            (Ok(real), Ok(top)) => (real, top),
            (Err(errno), _) | (_, Err(errno)) => return Err(step("read", crate::shown(here))(errno.into())),
        };
        let real = Path::new(std::ffi::OsStr::from_bytes(real.as_bytes()));
        let top = Path::new(std::ffi::OsStr::from_bytes(top.as_bytes()));
        let inside = real.strip_prefix(top).map_err(|_| refused(here, leads_nowhere))?;
        let mut whole = inside.as_os_str().as_bytes().to_vec();
        if !rest.is_empty() {
            if !whole.is_empty() {
                whole.push(b'/');
            }
            whole.extend_from_slice(rest);
        }
        Ok(Step::Link(whole))
    }
}

enum Step {
    There,
    Link(Vec<u8>),
}
