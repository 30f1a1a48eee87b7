//! A layer's archive becomes a layer.
//!
//! ```text
//!  stream --read, decompress--+--> hash        (a thread)
//!   (caller's thread)         '--> tar entries (a thread) --> LayerWriter (threads of its own), record
//! ```
//!
//! Pieces are shared, not copied. The archive's names are cleaned and bounded here, whiteouts of the archive
//! (`.wh.name`, `.wh..wh..opq`) become the driver's; containing what links do is the driver's too. The result is
//! a staged layer: nobody sees it before it is committed, and dropping it removes it.

use crate::changes::{ChangesError, write_changes};
use crate::decode::decoded;
use crate::record;
use crate::stream::{FromRead, Pieces, Queue, ToQueue};
use crate::tar::{Kind, Reader, TarError};
use berth_snapshot::{Entry, LayerWriter, Meta, SnapshotError, Snapshotter, StagedLayer};
use berth_types::Digest;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Pieces between two threads.
const QUEUE: usize = 16;
/// An archive of a layer, unpacked. Zeros become holes, so this bounds time, not space.
const ARCHIVE_BYTES_MAX: u64 = 1 << 40;
/// What is kept before it goes into the record.
const RAW_KEPT_MAX: usize = 1 << 20;
pub(crate) const WHITEOUT: &[u8] = b".wh.";
pub(crate) const WHITEOUT_META: &[u8] = b".wh..wh.";
pub(crate) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// Why an archive does not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("invalid entry {}: {why}", path.display())]
    Entry { path: PathBuf, why: &'static str },
    #[error(transparent)]
    Layer(#[from] SnapshotError),
    #[error("cannot write the layer's record")]
    Record(#[source] io::Error),
    #[error("the layer has the digest {found} instead of {expected}")]
    Digest { expected: Digest, found: Digest },
    #[error("the archive unpacks to more than a terabyte")]
    TooLarge,
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// A container's changes cannot become a layer.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Changes(#[from] ChangesError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

impl UnpackError {
    /// The archive is to blame, not the host.
    pub fn is_archive(&self) -> bool {
        match self {
            UnpackError::Tar(_) | UnpackError::Entry { .. } | UnpackError::Digest { .. } | UnpackError::TooLarge => {
                true
            }
            UnpackError::Layer(cause) => cause.is_refusal(),
            UnpackError::Record(_) | UnpackError::Thread(_) => false,
        }
    }
}

/// A layer that nobody sees yet.
#[derive(Debug)]
pub struct Unpacked {
    pub layer: StagedLayer,
    /// Digest of the uncompressed archive, which is the layer's name.
    pub diff_id: Digest,
    /// Bytes of the uncompressed archive.
    pub archive_bytes: u64,
}

/// Unpacks an archive, plain or compressed (gzip, zstd, bzip2, xz). With `expected`, another digest of the
/// uncompressed archive is an error. Blocks; reads `stream` to its end in the calling thread.
pub fn unpack(
    snapshots: &dyn Snapshotter,
    stream: impl Read,
    expected: Option<&Digest>,
) -> Result<Unpacked, UnpackError> {
    unpack_pieces(snapshots, FromRead::new(stream), expected)
}

/// Makes a layer of what a container changed in `upper`, the upper folder of its overlay; `None` where there is
/// nothing. `leave_out`: see [`crate::write_changes`].
pub fn unpack_changes(
    snapshots: &dyn Snapshotter,
    upper: &Path,
    leave_out: &(dyn Fn(&Path) -> bool + Sync),
) -> Result<Option<Unpacked>, CommitError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(QUEUE);
        let reading = std::thread::Builder::new().name("read-changes".to_owned()).spawn_scoped(scope, move || {
            let mut to = ToQueue::new(sender);
            let done = write_changes(upper, leave_out, &mut to);
            to.finish(done.as_ref().map(drop).map_err(|_| io::ErrorKind::UnexpectedEof.into()));
            done
        });
        let reading = reading.map_err(UnpackError::Thread)?;
        let unpacked = unpack_pieces(snapshots, Queue(receiver), None);
        let joined = |_| UnpackError::Thread(io::Error::other("it ended early"));
        match (reading.join().map_err(joined)?, unpacked) {
            // A reader that gave up is why nothing more could be written.
            (Err(ChangesError::Write(_)), Err(cause)) => Err(cause.into()),
            (Err(cause), _) => Err(cause.into()),
            (Ok(_), Err(cause)) => Err(cause.into()),
            (Ok(any), Ok(unpacked)) => Ok(any.then_some(unpacked)),
        }
    })
}

pub(crate) fn unpack_pieces(
    snapshots: &dyn Snapshotter,
    pieces: impl Pieces,
    expected: Option<&Digest>,
) -> Result<Unpacked, UnpackError> {
    let writer = snapshots.begin_layer()?;
    let (_, mut pieces) = decoded(pieces).map_err(TarError::from)?;
    std::thread::scope(|scope| {
        let (to_hash, hashed) = sync_channel::<Bytes>(QUEUE);
        let (to_entries, entries) = sync_channel::<io::Result<Bytes>>(QUEUE);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let hash = thread("hash-layer").spawn_scoped(scope, move || hash_all(&hashed)).map_err(UnpackError::Thread)?;
        let unpacking = thread("unpack-layer")
            .spawn_scoped(scope, move || Unpacking::run(writer, entries))
            .map_err(UnpackError::Thread)?;
        let read = pass_on(&mut *pieces, to_hash, to_entries);
        let joined = |_| UnpackError::Thread(io::Error::other("it ended early"));
        let diff_id = hash.join().map_err(joined)?;
        let unpacked = unpacking.join().map_err(joined)?;
        // Where reading failed the entries end early as well; why is in what was read last.
        let (writer, record) = unpacked?;
        let archive_bytes = read?;
        if let Some(&expected) = expected
            && expected != diff_id
        {
            return Err(UnpackError::Digest { expected, found: diff_id });
        }
        finish(writer, record, diff_id, archive_bytes)
    })
}

fn finish(
    mut writer: Box<dyn LayerWriter>,
    record: record::Writer,
    diff_id: Digest,
    archive_bytes: u64,
) -> Result<Unpacked, UnpackError> {
    let displaced = writer.settle()?;
    record.finish(&displaced, archive_bytes, &diff_id).map_err(UnpackError::Record)?;
    Ok(Unpacked { layer: writer.finish(diff_id)?, diff_id, archive_bytes })
}

fn hash_all(pieces: &Receiver<Bytes>) -> Digest {
    let mut hash = Sha256::new();
    while let Ok(piece) = pieces.recv() {
        hash.update(&piece);
    }
    Digest::from_bytes(hash.finalize().into())
}

/// Gives every piece to both threads; how many bytes there were.
fn pass_on(
    pieces: &mut dyn Pieces,
    to_hash: SyncSender<Bytes>,
    to_entries: SyncSender<io::Result<Bytes>>,
) -> Result<u64, UnpackError> {
    let mut total = 0;
    loop {
        let piece = match pieces.piece() {
            Ok(piece) if piece.is_empty() => return Ok(total),
            Ok(piece) => piece,
            Err(cause) => {
                // The other side tells; when it has given up already, its own error counts.
                drop(to_entries.send(Err(cause)));
                return Ok(total);
            }
        };
        total += piece.len() as u64;
        if total > ARCHIVE_BYTES_MAX {
            drop(to_entries.send(Err(io::ErrorKind::FileTooLarge.into())));
            return Err(UnpackError::TooLarge);
        }
        let hash_ended = to_hash.send(piece.clone()).is_err();
        if to_entries.send(Ok(piece)).is_err() || hash_ended {
            return Ok(total);
        }
    }
}

struct Unpacking {
    writer: Box<dyn LayerWriter>,
    tar: Reader<Queue>,
    record: record::Writer,
    entries: u64,
}

fn shown(path: &[u8]) -> PathBuf {
    String::from_utf8_lossy(path).into_owned().into()
}

/// The path without `.`, `..` and doubled slashes, relative to the layer; `None` where it leaves it.
pub(crate) fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    let mut depth = 0;
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return None,
            b".." => {
                depth -= 1;
                clean.truncate(clean.iter().rposition(|&byte| byte == b'/').unwrap_or(0));
            }
            _ => {
                if depth > 0 {
                    clean.push(b'/');
                }
                clean.extend_from_slice(name);
                depth += 1;
            }
        }
    }
    Some(clean)
}

impl Unpacking {
    fn run(
        mut writer: Box<dyn LayerWriter>,
        pieces: Receiver<io::Result<Bytes>>,
    ) -> Result<(Box<dyn LayerWriter>, record::Writer), UnpackError> {
        let record = record::Writer::new(writer.record()?).map_err(UnpackError::Record)?;
        let mut unpacking = Unpacking { writer, tar: Reader::new(Queue(pieces)), record, entries: 0 };
        while let Some(member) = unpacking.tar.next()? {
            unpacking.member(member)?;
        }
        unpacking.flush()?;
        loop {
            let rest = unpacking.tar.rest()?;
            if rest.is_empty() {
                break;
            }
            unpacking.record.raw(&rest).map_err(UnpackError::Record)?;
        }
        Ok((unpacking.writer, unpacking.record))
    }

    /// Raw bytes go into the record.
    fn flush(&mut self) -> Result<(), UnpackError> {
        let raw = self.tar.take_raw();
        self.record.raw(&raw).map_err(UnpackError::Record)
    }

    fn entry(&mut self, path: &[u8], entry: Entry<'_>, meta: &Meta) -> Result<Option<Vec<u8>>, UnpackError> {
        let moved = self.writer.entry(path, entry, meta)?;
        self.entries += 1;
        Ok(moved)
    }

    fn member(&mut self, member: crate::tar::Member) -> Result<(), UnpackError> {
        let refuse = |why| Err(UnpackError::Entry { path: shown(&member.path), why });
        let Some(path) = clean(&member.path) else { return refuse("it leaves the layer") };
        if path.contains(&0) || member.link.contains(&0) {
            return refuse("its name has a zero byte");
        }
        let (folder, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&[][..], &path[..]),
        };
        if name == WHITEOUT_OPAQUE {
            self.entry(folder, Entry::Opaque, &Meta::default())?;
            return self.content_is_raw();
        }
        if path.split(|&byte| byte == b'/').any(|name| name.starts_with(WHITEOUT_META)) {
            // What aufs kept for itself; Docker leaves it out too.
            return self.content_is_raw();
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return refuse("it deletes nothing that can be deleted");
            }
            let whole = if folder.is_empty() { hidden.to_vec() } else { [folder, b"/", hidden].concat() };
            self.entry(&whole, Entry::Whiteout, &Meta::default())?;
            return self.content_is_raw();
        }
        let meta = &member.meta;
        let (major, minor) = member.device;
        let entry = match member.kind {
            Kind::File => return self.file(&path, &member),
            Kind::Directory => Entry::Directory,
            Kind::Symlink if member.link.is_empty() => return refuse("it is a link to nothing"),
            Kind::Symlink => Entry::Symlink { target: &member.link },
            Kind::HardLink => {
                let Some(to) = clean(&member.link) else { return refuse("it is a second name of a file outside") };
                self.entry(&path, Entry::HardLink { to: &to }, meta)?;
                return Ok(());
            }
            Kind::CharDevice => Entry::CharDevice { major, minor },
            Kind::BlockDevice => Entry::BlockDevice { major, minor },
            Kind::Fifo => Entry::Fifo,
            // The reader keeps these to itself.
            Kind::GnuSparse | Kind::Pax | Kind::PaxGlobal | Kind::GnuLongName | Kind::GnuLongLink => return Ok(()),
        };
        self.entry(&path, entry, meta).map(drop)
    }

    fn file(&mut self, path: &[u8], member: &crate::tar::Member) -> Result<(), UnpackError> {
        let number = self.entries;
        let moved = self.entry(path, Entry::File { size: member.size }, &member.meta)?;
        let real = moved.as_deref().unwrap_or(path);
        self.flush()?;
        for extent in &member.extents {
            self.record.content(number, real, extent.offset, extent.length).map_err(UnpackError::Record)?;
        }
        let mut extents = member.extents.iter();
        let mut now = extents.next().copied();
        while let Some(mut bytes) = self.tar.content()? {
            while !bytes.is_empty() {
                let Some(extent) = &mut now else {
                    return Err(TarError::Damaged("a file has too much content").into());
                };
                let count = bytes.len().min(usize::try_from(extent.length).unwrap_or(usize::MAX));
                self.writer.write(extent.offset, bytes.split_to(count))?;
                extent.offset += count as u64;
                extent.length -= count as u64;
                if extent.length == 0 {
                    now = extents.next().copied();
                }
            }
        }
        Ok(())
    }

    /// Content of an entry that becomes no file: kept for the archive alone.
    fn content_is_raw(&mut self) -> Result<(), UnpackError> {
        let mut kept = 0;
        self.flush()?;
        while let Some(bytes) = self.tar.content()? {
            kept += bytes.len();
            if kept > RAW_KEPT_MAX {
                let why = "an entry that deletes something has more than a megabyte of content";
                return Err(TarError::Damaged(why).into());
            }
            self.record.raw(&bytes).map_err(UnpackError::Record)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_none_leaves() {
        for (name, expected) in [
            ("a/b", Some("a/b")),
            ("./a//b/", Some("a/b")),
            ("/etc/passwd", Some("etc/passwd")),
            ("a/../b", Some("b")),
            ("./", Some("")),
            ("a/..", Some("")),
            ("..", None),
            ("a/../../b", None),
            ("/../etc", None),
        ] {
            assert_eq!(clean(name.as_bytes()).as_deref(), expected.map(str::as_bytes), "{name}");
        }
    }
}
