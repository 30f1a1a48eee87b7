//! A context that came as an archive: one unnamed file on the disk, and where in it each file's bytes are.
//!
//! Nothing is unpacked: files are copied from the archive to where a `COPY` wants them. Names that leave the
//! context are refused, links are kept as they are and never followed by the host, and everything is gone with the
//! last reference, also when the engine is killed.

use crate::full;
use berth_build::{FileKind, Meta, Tree};
use berth_dockerfile::ignore::Matcher;
use berth_types::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use sha2::Digest as _;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// More files are refused: each costs memory.
const FILES_MAX: usize = 2_000_000;
const NAME_BYTES_MAX: usize = 4096;
const TAR_HEAD_BYTES: usize = 512;

struct Entry {
    meta: Meta,
    offset: u64,
    digest: [u8; 32],
}

pub(crate) struct SpoolTree {
    file: Arc<std::fs::File>,
    entries: BTreeMap<PathBuf, Entry>,
    ignore: Matcher,
}

fn broken(cause: io::Error) -> Error {
    full::or_here(ErrorKind::InvalidArgument, "cannot read the build context", &cause)
}

fn inside(name: &[u8]) -> Option<PathBuf> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(path)
}

/// How far an archive was read.
#[derive(Default)]
struct Progress {
    read: Cell<u64>,
    ended: Cell<bool>,
}

impl Progress {
    /// The archive ends after the last byte of a content and before the next block. Docker's client sends such contexts
    /// where the Dockerfile lies outside (`build -f ../Dockerfile`): it closes the pipe before the archive.
    fn ended_in_padding_after(&self, content_end: u64) -> bool {
        let read = self.read.get();
        self.ended.get() && read >= content_end && read < content_end.next_multiple_of(512)
    }
}

struct Watched<'a, R> {
    inner: R,
    progress: &'a Progress,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.progress.read.set(self.progress.read.get() + count as u64);
        if count == 0 && !buffer.is_empty() {
            self.progress.ended.set(true);
        }
        Ok(count)
    }
}

/// A file without a name on the disk of `folder`.
pub(crate) fn unnamed(folder: &Path) -> io::Result<std::fs::File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// The first header of what is a tar archive; a header's checksum holds only where there is one.
pub(super) fn tar_head(plain: &mut dyn Read) -> io::Result<Option<[u8; TAR_HEAD_BYTES]>> {
    let mut head = [0; TAR_HEAD_BYTES];
    match plain.read_exact(&mut head) {
        Ok(()) => Ok(tar_checksum_holds(&head).then_some(head)),
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// The sum of a header's bytes, its own field counted as blanks (POSIX.1-2017, pax, "ustar").
fn tar_checksum_holds(header: &[u8]) -> bool {
    let field = &header[148..156];
    let digits: String = field.iter().map(|&byte| char::from(byte)).filter(char::is_ascii_digit).collect();
    let Ok(wanted) = u64::from_str_radix(&digits, 8) else { return false };
    let sum: u64 =
        header.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u64::from(byte) }).sum();
    sum == wanted && header[0] != 0
}

impl SpoolTree {
    /// Reads the whole archive. `folder`: where the unnamed file is.
    pub(crate) fn read(from: impl Read, folder: &Path) -> Result<SpoolTree> {
        let mut file = unnamed(folder).map_err(broken)?;
        let mut tree = SpoolTree {
            file: Arc::new(file.try_clone().map_err(broken)?),
            entries: BTreeMap::new(),
            ignore: Matcher::default(),
        };
        tree.entries.insert(PathBuf::new(), Entry { meta: Meta::folder(0o755), offset: 0, digest: [0; 32] });
        let progress = Progress::default();
        let decoded = berth_image::decode(io::BufReader::new(from)).map_err(broken)?;
        let mut archive = tar::Archive::new(Watched { inner: decoded, progress: &progress });
        let mut offset = 0;
        let mut buffer = vec![0; 128 << 10];
        let mut content_end = 0;
        for entry in archive.entries().map_err(broken)? {
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(_) if progress.ended_in_padding_after(content_end) => break,
                Err(cause) => return Err(broken(cause)),
            };
            content_end = entry.raw_file_position() + entry.header().entry_size().map_err(broken)?;
            let name = entry.path_bytes().into_owned();
            let shown = || String::from_utf8_lossy(&name).into_owned();
            let kind = entry.header().entry_type();
            if matches!(kind, tar::EntryType::XGlobalHeader) {
                continue;
            }
            let Some(path) = inside(&name) else {
                return Err(Error::invalid(format!("the build context's archive has {:?}, which leaves it", shown())));
            };
            if tree.entries.len() >= FILES_MAX {
                return Err(Error::invalid(format!("the build context has more than {FILES_MAX} files")));
            }
            let header = entry.header();
            let mut meta = Meta::file(0, header.mode().map_err(broken)? & 0o7777);
            meta.mtime_nanos =
                header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0).saturating_mul(1_000_000_000);
            let mut made = Entry { meta, offset, digest: [0; 32] };
            match kind {
                tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                    let mut hash = sha2::Sha256::new();
                    let mut size = 0;
                    loop {
                        let count = entry.read(&mut buffer).map_err(broken)?;
                        if count == 0 {
                            break;
                        }
                        hash.update(&buffer[..count]);
                        file.write_all(&buffer[..count]).map_err(broken)?;
                        size += count as u64;
                    }
                    made.meta.size = size;
                    made.digest = hash.finalize().into();
                    offset += size;
                }
                tar::EntryType::Directory => made.meta.kind = FileKind::Folder,
                tar::EntryType::Symlink => {
                    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                    made.meta.kind = FileKind::Link;
                    made.meta.link = Some(PathBuf::from(OsString::from_vec(target)));
                }
                tar::EntryType::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                    let of = inside(&target).and_then(|path| tree.entries.get(&path));
                    let Some(of) = of.filter(|of| of.meta.kind == FileKind::File) else {
                        let target = String::from_utf8_lossy(&target).into_owned();
                        return Err(Error::invalid(format!(
                            "the build context's archive has {:?}, a link to {target:?}, which is no file in it",
                            shown()
                        )));
                    };
                    made = Entry { meta: of.meta.clone(), offset: of.offset, digest: of.digest };
                }
                // Pipes and devices mean nothing in a context.
                _ => continue,
            }
            tree.insert(path, made);
        }
        Ok(tree)
    }

    fn insert(&mut self, path: PathBuf, entry: Entry) {
        if path.as_os_str().is_empty() {
            return;
        }
        for parent in path.ancestors().skip(1) {
            match self.entries.get(parent) {
                Some(entry) if entry.meta.kind == FileKind::Folder => break,
                // A file or link that is to be a folder as well: the folder wins, nothing is followed.
                _ => drop(
                    self.entries
                        .insert(parent.to_owned(), Entry { meta: Meta::folder(0o755), offset: 0, digest: [0; 32] }),
                ),
            }
        }
        if entry.meta.kind != FileKind::Folder
            && self.entries.get(&path).is_some_and(|e| e.meta.kind == FileKind::Folder)
        {
            let within: Vec<PathBuf> = self.entries.keys().filter(|key| key.starts_with(&path)).cloned().collect();
            within.iter().for_each(|key| drop(self.entries.remove(key)));
        }
        self.entries.insert(path, entry);
    }

    /// One file that is written already, alone in a folder.
    pub(crate) fn one(file: std::fs::File, name: &Path, meta: Meta, digest: [u8; 32]) -> SpoolTree {
        let top = Entry { meta: Meta::folder(0o755), offset: 0, digest: [0; 32] };
        let entries = [(PathBuf::new(), top), (name.to_owned(), Entry { meta, offset: 0, digest })];
        SpoolTree { file: Arc::new(file), entries: entries.into(), ignore: Matcher::default() }
    }

    /// A small file's bytes; `None` where there is no such file.
    pub(crate) fn small(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let Some(entry) = self.entries.get(path).filter(|entry| entry.meta.kind == FileKind::File) else {
            return Ok(None);
        };
        if entry.meta.size > bytes_max {
            return Err(Error::invalid(format!("{} is larger than {bytes_max} bytes", path.display())));
        }
        let mut bytes = vec![0; entry.meta.size as usize];
        self.file.read_exact_at(&mut bytes, entry.offset).map_err(broken)?;
        Ok(Some(bytes))
    }

    pub(crate) fn ignoring(mut self, ignore: Matcher) -> SpoolTree {
        self.ignore = ignore;
        self
    }

    fn get(&self, path: &Path) -> io::Result<&Entry> {
        self.entries.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn visible(&self, path: &Path, entry: &Entry) -> bool {
        if self.ignore.is_empty() || path.as_os_str().is_empty() {
            return true;
        }
        let text = path.to_string_lossy();
        if !self.ignore.matches(&text) {
            return true;
        }
        entry.meta.kind == FileKind::Folder
            && self.ignore.may_bring_back_in(&text)
            && self.children(path).any(|(path, entry)| self.visible(path, entry))
    }

    fn children<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = (&'a PathBuf, &'a Entry)> {
        // Paths are ordered by their parts: all that is in a folder follows it.
        self.entries
            .range(folder.to_owned()..)
            .take_while(move |(path, _)| path.starts_with(folder))
            .filter(move |(path, _)| path.parent() == Some(folder))
    }
}

struct Part {
    file: Arc<std::fs::File>,
    offset: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Tree for SpoolTree {
    fn meta(&self, path: &Path) -> io::Result<Option<Meta>> {
        let entry = self.entries.get(path);
        Ok(entry.filter(|entry| self.visible(path, entry)).map(|entry| entry.meta.clone()))
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let visible = self.children(folder).filter(|(path, entry)| self.visible(path, entry));
        Ok(visible.filter_map(|(path, _)| path.file_name().map(OsStr::to_owned)).collect())
    }

    fn digest(&self, file: &Path) -> io::Result<[u8; 32]> {
        Ok(self.get(file)?.digest)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + Send>> {
        let entry = self.get(file)?;
        Ok(Box::new(Part { file: self.file.clone(), offset: entry.offset, left: entry.meta.size }))
    }

    fn is_ignored(&self, path: &Path) -> bool {
        self.ignore.matches(&path.to_string_lossy()) && self.entries.contains_key(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            let data = match kind {
                tar::EntryType::Regular => content.as_bytes(),
                _ => {
                    header.set_link_name_literal(content).unwrap();
                    b""
                }
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(entries: &[(&str, tar::EntryType, &str)]) -> Result<SpoolTree> {
        SpoolTree::read(&archive(entries)[..], &std::env::temp_dir())
    }

    #[test]
    fn an_archive_is_a_tree_without_being_unpacked() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        let tree = read(&[
            ("./a/b/", Directory, ""),
            ("a/b/file", Regular, "content"),
            ("hard", Link, "a/b/file"),
            ("soft", Symlink, "/etc/passwd"),
            ("x/y/z", Regular, "zz"),
        ])
        .unwrap();
        let mut text = String::new();
        tree.open(Path::new("hard")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert_eq!(tree.names(Path::new("")).unwrap(), ["a", "hard", "soft", "x"]);
        assert_eq!(tree.names(Path::new("x")).unwrap(), ["y"]);
        assert_eq!(tree.meta(Path::new("soft")).unwrap().unwrap().kind, FileKind::Link);
        assert_eq!(tree.small(Path::new("x/y/z"), 10).unwrap().unwrap(), b"zz");
        assert!(tree.small(Path::new("x/y/z"), 1).is_err());
    }

    #[test]
    fn names_and_links_that_leave_are_refused() {
        use tar::EntryType::{Link, Regular, Symlink};
        assert!(read(&[("../out", Regular, "x")]).is_err());
        assert!(read(&[("a/../../out", Regular, "x")]).is_err());
        assert!(read(&[("hard", Link, "../../etc/passwd")]).is_err());
        assert!(read(&[("hard", Link, "nothing")]).is_err());
        // What goes through a link lands in the context, not where the link points.
        let tree = read(&[("d", Symlink, "/etc"), ("d/passwd", Regular, "mine")]).unwrap();
        assert_eq!(tree.meta(Path::new("d")).unwrap().unwrap().kind, FileKind::Folder);
        assert!(
            SpoolTree::read(&b"no archive at all, but long enough to be looked at"[..], &std::env::temp_dir()).is_err()
        );
    }

    #[test]
    fn an_archive_may_lack_the_padding_after_its_last_content_but_nothing_of_a_content() {
        let whole = archive(&[("a", tar::EntryType::Regular, "first"), ("f", tar::EntryType::Regular, "content")]);
        let content_end = 512 + 512 + 512 + "content".len();
        for end in [content_end, content_end + 1, content_end + 504, content_end + 505, whole.len()] {
            let tree = SpoolTree::read(&whole[..end], &std::env::temp_dir()).unwrap();
            assert_eq!(tree.small(Path::new("f"), 10).unwrap().unwrap(), b"content", "{end} bytes");
        }
        for end in [content_end - 1, 1400, 515] {
            assert!(SpoolTree::read(&whole[..end], &std::env::temp_dir()).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn compressed_archives_are_read() {
        let plain = archive(&[("f", tar::EntryType::Regular, "x")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        for bytes in [gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()] {
            let tree = SpoolTree::read(&bytes[..], &std::env::temp_dir()).unwrap();
            assert!(tree.meta(Path::new("f")).unwrap().is_some());
        }
    }
}
