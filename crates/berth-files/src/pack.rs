//! A tree of a container's files becomes a tar archive (pax), written while it is walked.

use super::copy::list_attributes;
use super::{FilesError, Found, Root};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Deeper trees are refused: each level holds descriptors open.
const DEPTH_MAX: usize = 400;

/// Why packing ended: the tree, or whoever reads the archive.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("cannot write the archive")]
    Write(#[source] std::io::Error),
}

/// Packs what was found under the name `name` (`.` or empty for the content of the root itself).
pub fn pack(root: &Root, found: &Found, name: &OsStr, sink: impl Write) -> Result<(), PackError> {
    let mut pack = Pack { root, builder: tar::Builder::new(sink), links: HashMap::new() };
    pack.entry(found, Path::new(name), 0)?;
    pack.builder.into_inner().and_then(|mut sink| sink.flush()).map_err(PackError::Write)
}

/// Packs what is in the folder that was found, names relative to it, without the folder itself.
pub fn pack_content(root: &Root, found: &Found, sink: impl Write) -> Result<(), PackError> {
    let mut pack = Pack { root, builder: tar::Builder::new(sink), links: HashMap::new() };
    pack.content(found, Path::new(""), 0)?;
    pack.builder.into_inner().and_then(|mut sink| sink.flush()).map_err(PackError::Write)
}

struct Pack<'a, W: Write> {
    root: &'a Root,
    builder: tar::Builder<W>,
    /// Device and inode of files with several names → the first one's name in the archive.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Pack<'_, W> {
    fn entry(&mut self, found: &Found, name: &Path, depth: usize) -> Result<(), PackError> {
        let stat = &found.stat;
        let mut entry = Entry::of(name, stat);
        let key = (stat.st_dev, stat.st_ino);
        if !found.is_dir() && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&key) {
                entry.header.set_entry_type(tar::EntryType::Link);
                entry.header.set_size(0);
                entry.link(first.as_os_str());
                return entry.write(&mut self.builder, std::io::empty());
            }
            self.links.insert(key, name.to_owned());
        }
        match found.kind() {
            FileType::Directory => {
                let folder = found.open_folder()?;
                entry.attributes(&folder, found)?;
                entry.header.set_entry_type(tar::EntryType::Directory);
                entry.write(&mut self.builder, std::io::empty())?;
                self.content(found, name, depth)
            }
            FileType::RegularFile => {
                let file = match reopen(found) {
                    Ok(file) => file,
                    // Gone since we looked (a process in the container may do that): as if it never was.
                    Err(error) if error.is_absent() => return Ok(()),
                    Err(error) => return Err(error.into()),
                };
                entry.attributes(&file, found)?;
                entry.header.set_entry_type(tar::EntryType::Regular);
                entry.set_size(stat.st_size.unsigned_abs());
                let exactly = Exactly { file: std::fs::File::from(file), left: stat.st_size.unsigned_abs() };
                entry.write(&mut self.builder, exactly)
            }
            FileType::Symlink => {
                entry.header.set_entry_type(tar::EntryType::Symlink);
                entry.link(found.link_target()?.as_os_str());
                entry.write(&mut self.builder, std::io::empty())
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let char = found.kind() == FileType::CharacterDevice;
                entry.header.set_entry_type(if char { tar::EntryType::Char } else { tar::EntryType::Block });
                let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                entry.header.set_device_major(major).map_err(PackError::Write)?;
                entry.header.set_device_minor(minor).map_err(PackError::Write)?;
                entry.write(&mut self.builder, std::io::empty())
            }
            FileType::Fifo => {
                entry.header.set_entry_type(tar::EntryType::Fifo);
                entry.write(&mut self.builder, std::io::empty())
            }
            // A socket means nothing without its process.
            _ => Ok(()),
        }
    }

    fn content(&mut self, folder: &Found, name: &Path, depth: usize) -> Result<(), PackError> {
        if depth > DEPTH_MAX {
            return Err(FilesError::Depth(folder.path.clone()).into());
        }
        let fail = |errno: Errno| FilesError::step("read", &folder.path, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(folder.open_folder()?).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let bytes = entry.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.push(OsString::from_vec(bytes.to_vec()));
            }
        }
        names.extend(self.root.mounts_in(&folder.path).map(OsStr::to_owned));
        // The same tree gives the same archive.
        names.sort();
        names.dedup();
        for child_name in names {
            match self.root.child(folder, &child_name) {
                Ok(child) => self.entry(&child, &name.join(&child_name), depth + 1)?,
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Opens the file behind an `O_PATH` descriptor for reading: its link in our own /proc cannot be moved by
/// anybody in a container.
pub fn reopen(found: &Found) -> Result<OwnedFd, FilesError> {
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found.fd));
    rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .map_err(|errno| FilesError::step("open", &found.path, errno))
}

/// As many bytes as the header said, zeros for those that were cut off meanwhile.
struct Exactly {
    file: std::fs::File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let mut read = self.file.read(&mut buffer[..want])?;
        if read == 0 {
            buffer[..want].fill(0);
            read = want;
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// One header with the pax records that it needs.
struct Entry {
    header: tar::Header,
    pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn of(name: &Path, stat: &Stat) -> Entry {
        let mut entry = Entry { header: tar::Header::new_ustar(), pax: Vec::new() };
        let header = &mut entry.header;
        header.set_mode(stat.st_mode & 0o7777);
        header.set_size(0);
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        for (key, id) in [("uid", stat.st_uid), ("gid", stat.st_gid)] {
            // Seven octal digits; more goes into a record.
            let small = if id < 0o7_777_777 { id } else { 0 };
            match key {
                "uid" => entry.header.set_uid(small.into()),
                _ => entry.header.set_gid(small.into()),
            }
            if small != id {
                entry.pax.push((key.to_owned(), id.to_string().into_bytes()));
            }
        }
        let mut bytes = name.as_os_str().as_bytes().to_vec();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && !bytes.ends_with(b"/") {
            bytes.push(b'/');
        }
        entry.name(&bytes);
        entry
    }

    /// The name field, raw (it may be absolute); what does not fit goes into a record.
    fn name(&mut self, bytes: &[u8]) {
        let field = &mut self.header.as_old_mut().name;
        let length = bytes.len().min(field.len());
        field[..length].copy_from_slice(&bytes[..length]);
        if bytes.len() > field.len() || std::str::from_utf8(bytes).is_err() {
            self.pax.push(("path".to_owned(), bytes.to_vec()));
        }
    }

    fn link(&mut self, target: &OsStr) {
        let (bytes, field) = (target.as_bytes(), &mut self.header.as_old_mut().linkname);
        let length = bytes.len().min(field.len());
        field[..length].copy_from_slice(&bytes[..length]);
        if bytes.len() > field.len() {
            self.pax.push(("linkpath".to_owned(), bytes.to_vec()));
        }
    }

    fn set_size(&mut self, size: u64) {
        // Eleven octal digits: 8 GiB.
        if size < 1 << 33 {
            self.header.set_size(size);
        } else {
            // The field has the number in base 256 too, which `tar` reads where pax is not.
            self.header.set_size(size);
            self.pax.push(("size".to_owned(), size.to_string().into_bytes()));
        }
    }

    fn attributes(&mut self, fd: &OwnedFd, found: &Found) -> Result<(), FilesError> {
        let all =
            list_attributes(fd.as_fd()).map_err(|errno| FilesError::step("read attributes of", &found.path, errno))?;
        for (name, value) in all {
            // Labels belong to the host that they are on.
            if name.to_bytes() != b"security.selinux"
                && let Ok(name) = name.into_string()
            {
                self.pax.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        Ok(())
    }

    fn write<W: Write>(mut self, builder: &mut tar::Builder<W>, data: impl Read) -> Result<(), PackError> {
        if !self.pax.is_empty() {
            let records = self.pax.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            builder.append_pax_extensions(records).map_err(PackError::Write)?;
        }
        self.header.set_cksum();
        builder.append(&self.header, data).map_err(PackError::Write)
    }
}
