//! A damaged layer is put right where it lies, by a whole one of its name.
//!
//! Containers that run have the layer's files open, or its image mounted, and go on with them. What is wrong in a file
//! is therefore written into that very file; only what cannot be is replaced by a rename, which who runs does not see
//! before its next start. Every step leaves the layer no worse: after a power cut the next check finds the rest.

use super::{open_folder, open_top};
use crate::layer::Temporary;
use crate::{Result, step};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Compared and written at a time.
const PIECE: usize = 256 << 10;

/// Makes what is in `damaged` as it is in `whole`, one folder of files. What has to go is moved into `away`.
pub(super) fn files(whole: &Path, damaged: &Path, away: &Temporary) -> Result<()> {
    let folder = away.path.join("away");
    crate::make_folder(&folder)?;
    let mut mending = Mending { away: open_top(&folder)?, moved: 0 };
    let (from, to) = (open_top(whole)?, open_top(damaged)?);
    mending.folder(&from, &to).map_err(|errno| step("repair", damaged)(errno.into()))
}

/// Makes the file `damaged` as long as `whole` is, and the same, in place.
pub(super) fn file(whole: &Path, damaged: &Path) -> Result<()> {
    let open = || -> io::Result<(File, File)> {
        Ok((File::open(whole)?, File::options().read(true).write(true).open(damaged)?))
    };
    let (from, to) = open().map_err(step("repair", damaged))?;
    let mend = || -> io::Result<()> {
        to.set_len(from.metadata()?.len())?;
        match first_difference(&from, &to)? {
            Some(at) => content(&from, &to, at),
            None => Ok(()),
        }
    };
    mend().map_err(step("repair", damaged))
}

/// The piece in which two files begin to differ, as far as the first one goes.
fn first_difference(one: &File, other: &File) -> io::Result<Option<u64>> {
    let (mut right, mut found) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let length = read_full(one, &mut right, at)?;
        if length == 0 {
            return Ok(None);
        }
        let there = read_full(other, &mut found[..length], at)?;
        if found[..there] != right[..length] {
            return Ok(Some(at));
        }
        at += length as u64;
    }
}

/// Writes what differs from `at` on.
fn content(from: &File, to: &File, mut at: u64) -> io::Result<()> {
    let (mut right, mut found) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let length = read_full(from, &mut right, at)?;
        if length == 0 {
            return Ok(());
        }
        let there = read_full(to, &mut found[..length], at)?;
        if found[..there] != right[..length] {
            to.write_all_at(&right[..length], at)?;
        }
        at += length as u64;
    }
}

fn read_full(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], at + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(length)
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

struct Mending {
    away: OwnedFd,
    moved: u64,
}

fn names(folder: &OwnedFd) -> Result<BTreeSet<CString>, Errno> {
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.insert(name);
        }
    }
    Ok(names)
}

fn stat(folder: &OwnedFd, name: &CStr) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn open_file(folder: &OwnedFd, name: &CStr, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from)
}

/// A file system without attributes has none.
fn xattrs(fd: impl AsFd) -> Result<Xattrs, Errno> {
    let mut buffer = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(&fd, &mut buffer[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut all = Vec::new();
    for name in buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(&fd, name, &mut value[..])?;
        value.truncate(length);
        all.push((name.to_vec(), value));
    }
    all.sort();
    Ok(all)
}

fn same_meta(one: &Stat, other: &Stat) -> bool {
    (one.st_mode, one.st_uid, one.st_gid) == (other.st_mode, other.st_uid, other.st_gid)
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

impl Mending {
    fn folder(&mut self, whole: &OwnedFd, damaged: &OwnedFd) -> Result<(), Errno> {
        let (wanted, there) = (names(whole)?, names(damaged)?);
        // Before its entries are moved, which changes its time.
        let described = rustix::fs::fstat(whole)?;
        for name in there.difference(&wanted) {
            self.move_away(damaged, name)?;
        }
        for name in &wanted {
            let right = stat(whole, name)?;
            let kind = FileType::from_raw_mode(right.st_mode);
            let is_mended = match stat(damaged, name) {
                Err(Errno::NOENT) => false,
                Err(errno) => return Err(errno),
                Ok(found) if FileType::from_raw_mode(found.st_mode) != kind => false,
                Ok(found) => match kind {
                    FileType::Directory => {
                        let (from, to) = (open_folder(whole, name.to_bytes())?, open_folder(damaged, name.to_bytes())?);
                        self.folder(&from, &to)?;
                        true
                    }
                    FileType::RegularFile => in_place(whole, damaged, name, &right, &found)?,
                    FileType::Symlink => {
                        let target = |folder| rustix::fs::readlinkat(folder, name.as_c_str(), Vec::new());
                        target(whole)? == target(damaged)? && same_meta(&right, &found)
                    }
                    _ => right.st_rdev == found.st_rdev && same_meta(&right, &found),
                },
            };
            if !is_mended {
                match self.move_away(damaged, name) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
                rustix::fs::renameat(whole, name.as_c_str(), damaged, name.as_c_str())?;
            }
        }
        describe_folder(whole, &described, damaged)
    }

    fn move_away(&mut self, folder: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        self.moved += 1;
        rustix::fs::renameat(folder, name, &self.away, self.moved.to_string())
    }
}

/// Rights, owner, attributes and time of a folder, whose entries are right now.
fn describe_folder(whole: &OwnedFd, right: &Stat, damaged: &OwnedFd) -> Result<(), Errno> {
    let found = rustix::fs::fstat(damaged)?;
    if !same_meta(right, &found) {
        rustix::fs::fchown(damaged, Some(Uid::from_raw(right.st_uid)), Some(Gid::from_raw(right.st_gid)))?;
        rustix::fs::fchmod(damaged, Mode::from_raw_mode(right.st_mode))?;
    }
    let (wanted, there) = (xattrs(whole)?, xattrs(damaged)?);
    for (name, _) in there.iter().filter(|(name, _)| !wanted.iter().any(|(other, _)| other == name)) {
        rustix::fs::fremovexattr(damaged, &name[..])?;
    }
    for (name, value) in wanted.iter().filter(|pair| !there.contains(pair)) {
        rustix::fs::fsetxattr(damaged, &name[..], value, XattrFlags::empty())?;
    }
    rustix::fs::futimens(damaged, &times(right))
}

/// Writes into a file what differs in it; `false` where more than its content and its time is wrong, or a program
/// runs from it.
fn in_place(whole: &OwnedFd, damaged: &OwnedFd, name: &CStr, right: &Stat, found: &Stat) -> Result<bool, Errno> {
    if right.st_size != found.st_size || !same_meta(right, found) {
        return Ok(false);
    }
    let (from, there) = (open_file(whole, name, OFlags::RDONLY)?, open_file(damaged, name, OFlags::RDONLY)?);
    let attributes = xattrs(&from)?;
    if attributes != xattrs(&there)? {
        return Ok(false);
    }
    let failed = |cause: io::Error| Errno::from_io_error(&cause).unwrap_or(Errno::IO);
    if let Some(at) = first_difference(&from, &there).map_err(failed)? {
        let to = match open_file(damaged, name, OFlags::RDWR) {
            Err(Errno::TXTBSY) => return Ok(false),
            to => to?,
        };
        content(&from, &to, at).map_err(failed)?;
        // Writing took away what lets a program do more than its caller.
        rustix::fs::fchmod(&to, Mode::from_raw_mode(right.st_mode))?;
        for (name, value) in &attributes {
            rustix::fs::fsetxattr(&to, &name[..], value, XattrFlags::empty())?;
        }
    }
    rustix::fs::futimens(&there, &times(right))?;
    Ok(true)
}
