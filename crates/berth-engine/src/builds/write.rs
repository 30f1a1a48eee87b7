//! Files are written into a state: `COPY`, `ADD`, `WORKDIR`.
//!
//! Everything goes through an opened root: links of the state are followed within it and never out of it. What a
//! copied folder meets is kept, what a copied file meets is replaced.

use super::spool::tar_head;
use crate::files::{FilesError, Found, Root};
use crate::full;
use berth_build::{Chmod, CopySource, CopyStep, FileKind, Item, Meta, MkdirStep, Shape, Tree};
use berth_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// /etc/passwd of a state is read up to here.
const PASSWD_BYTES_MAX: u64 = 4 << 20;

pub(crate) struct Writer {
    root: Root,
    epoch_nanos: Option<i64>,
}

fn failed(action: &str, path: &Path, cause: impl Into<io::Error>) -> Error {
    let cause = cause.into();
    full::or(ErrorKind::InvalidArgument, format!("cannot {action} {}", path.display()), &cause)
}

fn files(error: &FilesError) -> Error {
    full::or(ErrorKind::InvalidArgument, "cannot write into the stage's files", error)
}

fn timespec(nanos: i64) -> Timespec {
    Timespec { tv_sec: nanos.div_euclid(1_000_000_000), tv_nsec: nanos.rem_euclid(1_000_000_000) }
}

/// Who owns what is copied.
#[derive(Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of(self, meta: &Meta) -> (u32, u32) {
        self.0.unwrap_or((meta.uid, meta.gid))
    }
}

impl Writer {
    pub(crate) fn new(root: Root, epoch_seconds: Option<i64>) -> Writer {
        Writer { root, epoch_nanos: epoch_seconds.map(|seconds| seconds.saturating_mul(1_000_000_000)) }
    }

    fn times(&self, mtime: i64) -> Timestamps {
        let mtime = self.epoch_nanos.map_or(mtime, |epoch| mtime.min(epoch));
        Timestamps { last_access: timespec(mtime), last_modification: timespec(mtime) }
    }

    /// Makes the folder of a `WORKDIR`.
    pub(crate) fn mkdir(&self, step: &MkdirStep) -> Result<()> {
        let owner = self.owner(&step.user)?.unwrap_or((0, 0));
        self.folder(Path::new(&step.path), owner).map(drop)
    }

    pub(crate) fn copy(&self, step: &CopyStep) -> Result<()> {
        let owner = Owner(if step.chown.is_empty() { None } else { self.owner(&step.chown)? });
        for source in &step.sources {
            self.source(source, step, owner)?;
        }
        Ok(())
    }

    fn source(&self, source: &CopySource, step: &CopyStep, owner: Owner) -> Result<()> {
        let destination = Path::new(&step.destination);
        let parents = owner.0.unwrap_or((0, 0));
        match &source.shape {
            Shape::Folder(items) => {
                // `COPY from /to`, where there is no /to: it becomes what the source is.
                let named = !step.destination.ends_with('/');
                let is_new = named && self.root.find(destination).is_err_and(|error| error.is_absent());
                let top = self.folder(destination, parents)?;
                self.items(&*source.tree, &top, items, step, owner)?;
                match items.first().filter(|item| is_new && item.to.as_os_str().is_empty()) {
                    Some(item) => {
                        let fail = |cause| failed("change", destination, cause);
                        let opened = top.open_folder().map_err(|error| files(&error))?;
                        self.finish_file(&*source.tree, item, &opened, step, owner).map_err(fail)?;
                        let times = self.times(item.meta.mtime_nanos);
                        rustix::fs::futimens(&opened, &times).map_err(|errno| fail(errno.into()))
                    }
                    None => Ok(()),
                }
            }
            Shape::File(item) => {
                if source.unpack && self.unpack(&*source.tree, item, destination, owner)? {
                    return Ok(());
                }
                let existing = self.root.find(destination);
                let is_folder = step.destination.ends_with('/') || existing.as_ref().is_ok_and(Found::is_dir);
                let (folder, name) = match is_folder {
                    true => (self.folder(destination, parents)?, item.to.as_os_str()),
                    false => {
                        let parent = destination.parent().unwrap_or(Path::new("/"));
                        (self.folder(parent, parents)?, destination.file_name().unwrap_or(item.to.as_os_str()))
                    }
                };
                self.one(&*source.tree, item, &folder, name, step, owner)
            }
        }
    }

    /// Finds the folder, making what is missing on the way.
    fn folder(&self, path: &Path, owner: (u32, u32)) -> Result<Found> {
        match self.root.find(path) {
            Ok(found) if found.is_dir() => return Ok(found),
            Ok(_) => return Err(failed("make", path, io::Error::from(Errno::NOTDIR))),
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(files(&error)),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed("make", path, io::Error::from(Errno::NOENT)));
        };
        let parent = self.folder(parent, owner)?;
        let fail = |errno: Errno| failed("make", path, io::Error::from(errno));
        rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o755)).map_err(fail)?;
        let made = self.root.child(&parent, name).map_err(|error| files(&error))?;
        let opened = made.open_folder().map_err(|error| files(&error))?;
        // The umask does not count.
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(0o755)).map_err(fail)?;
        chown(&opened, owner).map_err(fail)?;
        if let Some(epoch) = self.epoch_nanos {
            rustix::fs::futimens(&opened, &self.times(epoch)).map_err(fail)?;
        }
        Ok(made)
    }

    fn items(&self, tree: &dyn Tree, top: &Found, items: &[Item], step: &CopyStep, owner: Owner) -> Result<()> {
        // Folders from the destination down to where we are, and those whose times are set when all is in them.
        let mut stack: Vec<(PathBuf, Found, Option<Timestamps>)> = Vec::new();
        for item in items {
            let Some(name) = item.to.file_name() else { continue };
            let parent = item.to.parent().unwrap_or(Path::new(""));
            while stack.last().is_some_and(|(path, _, _)| path != parent) {
                finish(stack.pop())?;
            }
            let folder = stack.last().map_or(top, |(_, found, _)| found);
            if item.meta.kind != FileKind::Folder {
                self.one(tree, item, folder, name, step, owner)?;
                continue;
            }
            let path = folder.path.join(name);
            let fail = |errno: Errno| failed("make", &path, io::Error::from(errno));
            let (made, times) = match rustix::fs::mkdirat(&folder.fd, name, Mode::RWXU) {
                Ok(()) => {
                    let made = self.root.child(folder, name).map_err(|error| files(&error))?;
                    let opened = made.open_folder().map_err(|error| files(&error))?;
                    self.finish_file(tree, item, &opened, step, owner)
                        .map_err(|cause| failed("change", &path, cause))?;
                    (made, Some(self.times(item.meta.mtime_nanos)))
                }
                Err(Errno::EXIST) => match self.root.find(&path) {
                    Ok(found) if found.is_dir() => (found, None),
                    Ok(_) => {
                        let message = format!("cannot copy to non-directory: {}", path.display());
                        return Err(Error::invalid(message));
                    }
                    Err(error) => return Err(files(&error)),
                },
                Err(errno) => return Err(fail(errno)),
            };
            stack.push((item.to.clone(), made, times));
        }
        while let Some(last) = stack.pop() {
            finish(Some(last))?;
        }
        Ok(())
    }

    /// Writes what is no folder.
    fn one(
        &self,
        tree: &dyn Tree,
        item: &Item,
        folder: &Found,
        name: &OsStr,
        step: &CopyStep,
        owner: Owner,
    ) -> Result<()> {
        let path = folder.path.join(name);
        let fail = |cause: io::Error| failed("copy to", &path, cause);
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let again = |errno: Errno| -> Result<()> {
            if errno != Errno::EXIST {
                return Err(fail(errno.into()));
            }
            match rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty()) {
                Ok(()) => Ok(()),
                Err(Errno::ISDIR) => Err(Error::invalid(format!("cannot copy to directory: {}", path.display()))),
                Err(errno) => Err(fail(errno.into())),
            }
        };
        match item.meta.kind {
            FileKind::File => {
                let open = || rustix::fs::openat(&folder.fd, name, create, Mode::RUSR | Mode::WUSR);
                let file = match open() {
                    Ok(file) => file,
                    Err(errno) => {
                        again(errno)?;
                        open().map_err(|errno| fail(errno.into()))?
                    }
                };
                let mut file = std::fs::File::from(file);
                match tree.open_file(&item.from).map_err(fail)? {
                    // The standard library lets the kernel copy between files.
                    Some(mut from) => drop(io::copy(&mut from, &mut file).map_err(fail)?),
                    None => drop(io::copy(&mut tree.open(&item.from).map_err(fail)?, &mut file).map_err(fail)?),
                }
                if tree.changed(&item.from).map_err(fail)? {
                    let message = format!("{} changed while it was copied", item.from.display());
                    return Err(Error::conflict(message).with_hint("build again when nothing writes to the context"));
                }
                let file = OwnedFd::from(file);
                self.finish_file(tree, item, &file, step, owner).map_err(fail)?;
                rustix::fs::futimens(&file, &self.times(item.meta.mtime_nanos)).map_err(|errno| fail(errno.into()))
            }
            FileKind::Link => {
                let target = item.meta.link.as_deref().unwrap_or(Path::new(""));
                if let Err(errno) = rustix::fs::symlinkat(target, &folder.fd, name) {
                    again(errno)?;
                    rustix::fs::symlinkat(target, &folder.fd, name).map_err(|errno| fail(errno.into()))?;
                }
                self.finish_name(item, folder, name, owner).map_err(fail)
            }
            FileKind::Special => {
                let (bits, number) = item.meta.device;
                let kind = FileType::from_raw_mode(bits);
                if kind == FileType::Socket {
                    return Ok(());
                }
                let rights = Mode::from_raw_mode(item.meta.mode);
                if let Err(errno) = rustix::fs::mknodat(&folder.fd, name, kind, rights, number) {
                    again(errno)?;
                    rustix::fs::mknodat(&folder.fd, name, kind, rights, number).map_err(|errno| fail(errno.into()))?;
                }
                self.finish_name(item, folder, name, owner).map_err(fail)
            }
            FileKind::Folder => Ok(()),
        }
    }

    fn finish_file(
        &self,
        tree: &dyn Tree,
        item: &Item,
        file: &OwnedFd,
        step: &CopyStep,
        owner: Owner,
    ) -> io::Result<()> {
        chown(file, owner.of(&item.meta))?;
        let mode = rights(step.chmod.as_ref(), &item.meta);
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        for (name, value) in tree.attributes(&item.from)? {
            rustix::fs::fsetxattr(file, name, &value, XattrFlags::empty())?;
        }
        Ok(())
    }

    fn finish_name(&self, item: &Item, folder: &Found, name: &OsStr, owner: Owner) -> io::Result<()> {
        let (uid, gid) = owner.of(&item.meta);
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&folder.fd, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), nofollow)?;
        rustix::fs::utimensat(&folder.fd, name, &self.times(item.meta.mtime_nanos), nofollow)?;
        Ok(())
    }

    /// `ADD` of an archive: `false` where the file is none.
    fn unpack(&self, tree: &dyn Tree, item: &Item, destination: &Path, owner: Owner) -> Result<bool> {
        let fail = |cause: io::Error| failed("unpack", &item.from, cause);
        let packed = io::BufReader::new(tree.open(&item.from).map_err(fail)?);
        let mut plain = berth_image::decode(packed).map_err(fail)?;
        let Ok(Some(head)) = tar_head(&mut plain) else { return Ok(false) };
        let top = self.folder(destination, owner.0.unwrap_or((0, 0)))?;
        let options = crate::files::UnpackOptions { no_overwrite_dir_non_dir: false, owner: owner.0 };
        let whole = io::Cursor::new(head).chain(plain);
        crate::files::unpack(&self.root, &top, whole, options).map_err(|cause| {
            Error::because(ErrorKind::InvalidArgument, format!("cannot unpack {}", item.from.display()), &cause)
        })?;
        Ok(true)
    }

    /// `user[:group]`; names are those of the state.
    fn owner(&self, text: &str) -> Result<Option<(u32, u32)>> {
        if text.is_empty() {
            return Ok(None);
        }
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let (uid, of_user) = match user.parse::<u32>() {
            Ok(uid) => (uid, None),
            Err(_) if user.is_empty() => (0, None),
            Err(_) => {
                let line = self.entry("/etc/passwd", user)?.ok_or_else(|| {
                    Error::invalid(format!("unable to find user {user}: no matching entries in passwd file"))
                })?;
                let number = |at: usize| line.split(':').nth(at).and_then(|field| field.parse::<u32>().ok());
                (number(2).unwrap_or(0), number(3))
            }
        };
        let gid = match group {
            None => of_user.unwrap_or(uid),
            Some(group) => match group.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => {
                    let line = self.entry("/etc/group", group)?.ok_or_else(|| {
                        Error::invalid(format!("unable to find group {group}: no matching entries in group file"))
                    })?;
                    line.split(':').nth(2).and_then(|field| field.parse().ok()).unwrap_or(0)
                }
            },
        };
        Ok(Some((uid, gid)))
    }

    fn entry(&self, file: &str, name: &str) -> Result<Option<String>> {
        let found = match self.root.find(Path::new(file)) {
            Ok(found) => found,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(files(&error)),
        };
        if found.kind() != FileType::RegularFile {
            return Ok(None);
        }
        let opened = crate::files::reopen(&found).map_err(|error| files(&error))?;
        let mut text = String::new();
        std::fs::File::from(opened)
            .take(PASSWD_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|cause| failed("read", Path::new(file), cause))?;
        Ok(text.lines().find(|line| line.split(':').next() == Some(name)).map(str::to_owned))
    }
}

fn finish(folder: Option<(PathBuf, Found, Option<Timestamps>)>) -> Result<()> {
    if let Some((_, found, Some(times))) = folder {
        let opened = found.open_folder().map_err(|error| files(&error))?;
        rustix::fs::futimens(&opened, &times).map_err(|errno| failed("change", &found.path, io::Error::from(errno)))?;
    }
    Ok(())
}

fn chown(file: &OwnedFd, (uid, gid): (u32, u32)) -> Result<(), Errno> {
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn rights(chmod: Option<&Chmod>, meta: &Meta) -> u32 {
    chmod.map_or(meta.mode, |chmod| chmod.apply(meta.mode, meta.kind == FileKind::Folder))
}

/// Writes `tree`'s file or folder `source` to `to` on the host, for a mount. What `source` links to is looked for in
/// the tree: `to` never is a link, which the host would follow. Owners as they are.
pub(crate) fn materialise(tree: &dyn Tree, source: &Path, to: &Path) -> io::Result<bool> {
    let source = &berth_build::resolve(tree, source)?.ok_or(io::ErrorKind::NotFound)?;
    let mut is_file = false;
    berth_build::walk(tree, source, &mut |path, meta| {
        let relative = path.strip_prefix(source).unwrap_or(path);
        let target = match relative.as_os_str().is_empty() {
            true => to.to_owned(),
            false => to.join(relative),
        };
        match meta.kind {
            FileKind::Folder => std::fs::create_dir_all(&target)?,
            FileKind::File => {
                is_file |= relative.as_os_str().is_empty();
                let mut file = std::fs::File::create_new(&target)?;
                io::copy(&mut tree.open(path)?, &mut file)?;
                file.flush()?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(meta.mode))?;
                rustix::fs::futimens(
                    &file,
                    &Timestamps {
                        last_access: timespec(meta.mtime_nanos),
                        last_modification: timespec(meta.mtime_nanos),
                    },
                )?;
            }
            FileKind::Link => {
                std::os::unix::fs::symlink(meta.link.as_deref().unwrap_or(Path::new("")), &target)?;
            }
            FileKind::Special => {}
        }
        Ok(true)
    })?;
    Ok(is_file)
}

/// Sets times later than `epoch` back to it in everything below `folder`: what a step made has no times of its own.
pub(crate) fn clamp_times(folder: &Path, epoch_seconds: i64) -> io::Result<()> {
    let epoch = Timestamps {
        last_access: timespec(epoch_seconds.saturating_mul(1_000_000_000)),
        last_modification: timespec(epoch_seconds.saturating_mul(1_000_000_000)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    clamp(&rustix::fs::open(folder, flags, Mode::empty())?, epoch_seconds, &epoch, 0)
}

fn clamp(folder: &OwnedFd, epoch_seconds: i64, epoch: &Timestamps, depth: usize) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    if depth > 400 {
        return Err(io::Error::other("folders are nested too deep"));
    }
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            clamp(&rustix::fs::openat(folder, name, flags, Mode::empty())?, epoch_seconds, epoch, depth + 1)?;
        }
        if stat.st_mtime >= epoch_seconds {
            rustix::fs::utimensat(folder, name, epoch, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}
