//! What a container changed, as a layer's archive.
//!
//! ```text
//! upper folder of the overlay      archive
//! character device 0/0             .wh.<name>
//! trusted.overlay.opaque           the folder, then <folder>/.wh..wh..opq
//! a file's second name             a hard link
//! socket                           left out: nobody can listen on it again
//! ```
//!
//! Folders are walked by descriptors in the order of their names; nothing is followed. The container may write
//! meanwhile: a file that shrinks is filled up with zeros to what its header said, one that is gone is left out.

use crate::tar::{Head, padding, trailer};
use berth_snapshot::Meta;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Deeper trees are refused: each level is an open descriptor.
const DEPTH_MAX: usize = 400;
/// XATTR_LIST_MAX and XATTR_SIZE_MAX of linux/limits.h.
const XATTR_BYTES_MAX: usize = 64 << 10;
const XATTR_BYTES_USUAL: usize = 1 << 10;
const BUFFER_BYTES: usize = 256 << 10;

/// Why changes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    #[error("cannot {action} {}", path.display())]
    Step {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{}: folders are nested too deep", .0.display())]
    Depth(PathBuf),
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// Where the archive goes, headers and contents apart.
pub(crate) trait Archive {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// So many bytes of a file's content follow.
    fn begin(&mut self, _path: &[u8], _size: u64) -> io::Result<()> {
        Ok(())
    }
    fn content(&mut self, bytes: &[u8]) -> io::Result<()>;
}

struct Plain<'a>(&'a mut dyn Write);

impl Archive for Plain<'_> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}

/// Writes the changes in `upper` as an archive; whether there were any. `leave_out` says for a path (absolute, as in
/// the container) whether it is not the container's own doing; folders that are left out are not looked into.
pub fn write_changes(
    upper: &Path,
    leave_out: &dyn Fn(&Path) -> bool,
    to: &mut dyn Write,
) -> Result<bool, ChangesError> {
    walk(upper, leave_out, false, &mut Plain(to))
}

/// The same of files that nobody uses any more and that are to be as the archive has them: sockets go, and times
/// are whole seconds.
pub(crate) fn settle_changes(upper: &Path, to: &mut dyn Archive) -> Result<bool, ChangesError> {
    walk(upper, &|_| false, true, to)
}

fn walk(
    upper: &Path,
    leave_out: &dyn Fn(&Path) -> bool,
    settle: bool,
    to: &mut dyn Archive,
) -> Result<bool, ChangesError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = rustix::fs::openat(CWD, upper, flags, Mode::empty()).map_err(|errno| ChangesError::Step {
        action: "open",
        path: upper.to_owned(),
        cause: errno.into(),
    })?;
    let buffer = vec![0; BUFFER_BYTES];
    let mut walk = Walk { to, leave_out, settle, links: HashMap::new(), any: false, buffer };
    walk.folder(&top, &[], 0)?;
    walk.to.raw(&trailer()).map_err(ChangesError::Write)?;
    Ok(walk.any)
}

struct Walk<'a> {
    to: &'a mut dyn Archive,
    leave_out: &'a dyn Fn(&Path) -> bool,
    settle: bool,
    /// Device and inode of files with several names, and where the first one is.
    links: HashMap<(u64, u64), Vec<u8>>,
    any: bool,
    buffer: Vec<u8>,
}

fn step(action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> ChangesError {
    let path = PathBuf::from(format!("/{}", String::from_utf8_lossy(path)));
    move |errno| ChangesError::Step { action, path, cause: errno.into() }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn is_opaque(folder: &OwnedFd) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0_u8; 1];
        matches!(rustix::fs::fgetxattr(folder, *name, &mut value[..]), Ok(1)) && value[0] == b'y'
    })
}

impl Walk<'_> {
    fn folder(&mut self, folder: &OwnedFd, path: &[u8], depth: usize) -> Result<(), ChangesError> {
        if depth > DEPTH_MAX {
            return Err(ChangesError::Depth(String::from_utf8_lossy(path).into_owned().into()));
        }
        let mut names: BTreeSet<Vec<u8>> = BTreeSet::new();
        for entry in Dir::read_from(folder).map_err(step("read", path))? {
            let entry = entry.map_err(step("read", path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.insert(name.to_vec());
            }
        }
        for name in names {
            let whole = join(path, &name);
            let shown = PathBuf::from(std::ffi::OsString::from(format!("/{}", String::from_utf8_lossy(&whole))));
            if (self.leave_out)(&shown) {
                continue;
            }
            match self.entry(folder, &name, &whole, depth) {
                // It went away while we looked.
                Err(ChangesError::Step { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], depth: usize) -> Result<(), ChangesError> {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(step("stat", path))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket {
            return match self.settle {
                true => rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(step("remove", path)),
                false => Ok(()),
            };
        }
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            let (parent, last) = path.split_at(path.len() - name.len());
            return self.head(&[parent, b".wh.", last].concat(), b'0', b"", 0, (0, 0), &Meta::default());
        }
        let mut meta = Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_seconds: stat.st_mtime,
            mtime_nanos: 0,
            xattrs: Vec::new(),
        };
        let key = (stat.st_dev, stat.st_ino);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&key).cloned() {
                return self.head(path, b'1', &first, 0, (0, 0), &meta);
            }
            self.links.insert(key, path.to_vec());
        }
        let read = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match kind {
            FileType::Directory => {
                let opened = rustix::fs::openat(folder, name, read | OFlags::DIRECTORY, Mode::empty())
                    .map_err(step("open", path))?;
                meta.xattrs = attributes(&opened).map_err(step("read attributes of", path))?;
                let slashed = [path, b"/"].concat();
                self.head(&slashed, b'5', b"", 0, (0, 0), &meta)?;
                if is_opaque(&opened) {
                    self.head(&[path, b"/.wh..wh..opq"].concat(), b'0', b"", 0, (0, 0), &Meta::default())?;
                }
                self.folder(&opened, path, depth + 1)?;
                self.settle_time(folder, name, &stat, path)
            }
            FileType::RegularFile => {
                let opened = rustix::fs::openat(folder, name, read, Mode::empty()).map_err(step("open", path))?;
                meta.xattrs = attributes(&opened).map_err(step("read attributes of", path))?;
                let size = stat.st_size.unsigned_abs();
                self.head(path, b'0', b"", size, (0, 0), &meta)?;
                self.content(&opened, size, path)?;
                self.settle_time(folder, name, &stat, path)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(step("read", path))?;
                meta.xattrs = attributes_of_link(folder, name).map_err(step("read attributes of", path))?;
                self.head(path, b'2', target.as_bytes(), 0, (0, 0), &meta)?;
                self.settle_time(folder, name, &stat, path)
            }
            _ => {
                let letter = match kind {
                    FileType::CharacterDevice => b'3',
                    FileType::BlockDevice => b'4',
                    _ => b'6',
                };
                self.head(path, letter, b"", 0, device(&stat), &meta)?;
                self.settle_time(folder, name, &stat, path)
            }
        }
    }

    /// Headers have whole seconds: so has the file then, as if it had been unpacked.
    fn settle_time(&self, folder: &OwnedFd, name: &[u8], stat: &Stat, path: &[u8]) -> Result<(), ChangesError> {
        let exact = stat.st_mtime_nsec == 0 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if !self.settle || exact {
            return Ok(());
        }
        let whole = Timespec { tv_sec: stat.st_mtime, tv_nsec: 0 };
        let times = Timestamps { last_access: whole, last_modification: whole };
        rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(step("set the time of", path))
    }

    fn head(
        &mut self,
        path: &[u8],
        kind: u8,
        link: &[u8],
        size: u64,
        device: (u32, u32),
        meta: &Meta,
    ) -> Result<(), ChangesError> {
        self.any = true;
        let head = Head { path, kind, link, size, device, meta };
        self.to.raw(&head.to_bytes()).map_err(ChangesError::Write)
    }

    /// Exactly `size` bytes and their padding; holes are not read.
    fn content(&mut self, file: &OwnedFd, size: u64, path: &[u8]) -> Result<(), ChangesError> {
        self.to.begin(path, size).map_err(ChangesError::Write)?;
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(errno) => return Err(step("read", path)(errno)),
            };
            self.zeros(data - at)?;
            at = data;
            let end = match rustix::fs::seek(file, SeekFrom::Hole(at)) {
                Ok(hole) if hole > at => hole.min(size),
                _ => size,
            };
            while at < end {
                let most = self.buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                match rustix::io::pread(file, &mut self.buffer[..most], at) {
                    // Shorter than it was: the rest of what the header said is zeros.
                    Ok(0) => {
                        self.zeros(size - at)?;
                        at = size;
                        break;
                    }
                    Ok(count) => {
                        self.to.content(&self.buffer[..count]).map_err(ChangesError::Write)?;
                        at += count as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(step("read", path)(errno)),
                }
            }
        }
        self.to.raw(padding(size)).map_err(ChangesError::Write)
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), ChangesError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while count > 0 {
            let most = ZEROS.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            self.to.content(&ZEROS[..most]).map_err(ChangesError::Write)?;
            count -= most as u64;
        }
        Ok(())
    }
}

fn device(stat: &Stat) -> (u32, u32) {
    (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
}

/// Overlayfs' own attributes are no content; labels of SELinux are the host's.
fn is_content(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") && name != b"security.selinux"
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

fn attributes(file: &OwnedFd) -> Result<Attributes, Errno> {
    collect(
        |list| rustix::fs::flistxattr(file, list),
        |name, value| rustix::fs::fgetxattr(file, name.as_c_str(), value),
    )
}

fn attributes_of_link(folder: &OwnedFd, name: &[u8]) -> Result<Attributes, Errno> {
    // The last name of the path is not followed.
    let path = [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name].concat();
    collect(
        |list| rustix::fs::llistxattr(&path[..], list),
        |key, value| rustix::fs::lgetxattr(&path[..], key.as_c_str(), value),
    )
}

fn collect(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&CString, &mut [u8]) -> Result<usize, Errno>,
) -> Result<Attributes, Errno> {
    // Almost no file has any, and a small buffer takes all there usually are. An empty one would ask for the
    // length, but rustix answers 0 then.
    let mut names = vec![0; XATTR_BYTES_USUAL];
    let mut length = list(&mut names);
    if matches!(length, Err(Errno::RANGE)) {
        names.resize(XATTR_BYTES_MAX, 0);
        length = list(&mut names);
    }
    let length = match length {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty() && is_content(name)) {
        let key = CString::new(name).map_err(|_| Errno::INVAL)?;
        let mut value = vec![0; XATTR_BYTES_MAX];
        match get(&key, &mut value) {
            Ok(length) => {
                value.truncate(length);
                all.push((name.to_vec(), value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(all)
}
