//! `cp` both ways: tar archives out of and into a container, contained to its root.
//!
//! A running container is read and written through `/proc/<pid>/root`, so its tmpfs and volumes are what it
//! sees itself; a stopped one through a detached mount of its layers with its volumes put in. Archives are
//! packed and unpacked on a thread of their own, through a bounded queue: nobody's memory holds a whole one.

use super::{Archive, ArchivePut, ByteSource, ByteStream, Containers, Inspect, PathStat};
use crate::files::{self, FilesError, Found, PackError, Root, UnpackError, UnpackOptions};
use crate::full;
use berth_types::{Error, ErrorKind, Phase, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use tokio::sync::mpsc;

/// Chunks of an archive on their way; each is at most [`CHUNK_BYTES`].
const CHUNKS_MAX: usize = 8;
const CHUNK_BYTES: usize = 64 << 10;

impl Containers {
    /// A file or folder of it as a tar archive.
    pub async fn archive_get(&self, container: &str, path: &str) -> Result<Archive> {
        let archive = self.archive_of(container, path).await?;
        self.tell_read(container, "archive-path");
        Ok(archive)
    }

    /// Its files were read. One that has gone meanwhile has said so itself.
    pub(super) fn tell_read(&self, container: &str, action: &str) {
        if let Ok(found) = self.get(container) {
            self.tell(&found, action, &[]);
        }
    }

    async fn archive_of(&self, container: &str, path: &str) -> Result<Archive> {
        check_path(path)?;
        let (inspect, path) = (self.inspect(container, false).await?, path.to_owned());
        if inspect.rootfs.is_none() {
            return crate::guests::archive_get(&self.engine, inspect, path).await;
        }
        let (stat, root, found, name) = blocking(move || {
            let root = root_of(&inspect)?;
            let found = find(&root, &path, &inspect.name)?;
            let stat = files::look(&root, &found, &path);
            let name = if path.ends_with("/.") { OsString::from(".") } else { files::last_name(&path) };
            Ok((stat, root, found, name))
        })
        .await?;
        let body = stream(move |sink| files::pack(&root, &found, &name, sink));
        Ok(Archive { stat, body })
    }

    /// What is at `path`; a final link is not followed.
    pub async fn archive_stat(&self, container: &str, path: &str) -> Result<PathStat> {
        check_path(path)?;
        let (inspect, path) = (self.inspect(container, false).await?, path.to_owned());
        if inspect.rootfs.is_none() {
            return crate::guests::archive_stat(&self.engine, inspect, path).await;
        }
        blocking(move || {
            let root = root_of(&inspect)?;
            let found = find(&root, &path, &inspect.name)?;
            Ok(files::look(&root, &found, &path))
        })
        .await
    }

    /// Unpacks a tar archive (plain, gzip, zstd) into a folder of it.
    pub async fn archive_put(&self, container: &str, path: &str, options: ArchivePut, body: ByteSource) -> Result<()> {
        check_path(path)?;
        let (inspect, path) = (self.inspect(container, false).await?, path.to_owned());
        let (id, name) = (inspect.id.clone(), inspect.name.clone());
        let image = inspect.spec.config.image.clone();
        let engine = self.engine.clone();
        blocking(move || match inspect.rootfs.is_none() {
            true => crate::guests::archive_put(&engine, &inspect, &path, options, body),
            false => put(&inspect, &path, options, body),
        })
        .await?;
        let attributes = BTreeMap::from([("name".to_owned(), name), ("image".to_owned(), image)]);
        let kind = crate::events::EventKind::Container;
        self.engine.events().publish(kind, "extract-to-dir", id.as_str(), attributes);
        Ok(())
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("file work ended early: {error}"))),
    }
}

fn opened(error: &FilesError) -> Error {
    // They go with a container that ends or is removed just now: whoever asked was too late.
    let kind = if error.is_absent() { ErrorKind::Conflict } else { ErrorKind::Internal };
    Error::because(kind, "cannot open the container's files", error)
}

/// The container's root as it is now: the running one's, or what the next start will see.
pub(super) fn root_of(inspect: &Inspect) -> Result<Root> {
    if inspect.rootfs.is_none() {
        return Err(super::no_files(&inspect.name));
    }
    match inspect.state.phase {
        Phase::Running { pid } | Phase::Paused { pid } => Root::running(pid),
        Phase::Created | Phase::Exited { .. } => match &inspect.rootfs {
            Some(rootfs) => files::stopped(rootfs, &inspect.mounts, inspect.spec.host.readonly_rootfs),
            None => return Err(super::no_files(&inspect.name)),
        },
        Phase::Removing => return Err(Error::conflict(format!("container {} is being removed", inspect.name))),
    }
    .map_err(|error| opened(&error))
}

fn find(root: &Root, path: &str, container: &str) -> Result<Found> {
    root.find_no_follow(Path::new(path)).map_err(|error| refused(&error, path, container))
}

pub(super) fn refused(error: &FilesError, path: &str, container: &str) -> Error {
    if error.is_absent() || error.is_not_folder() {
        return Error::not_found(format!("Could not find the file {path} in container {container}"));
    }
    Error::because(ErrorKind::Internal, format!("cannot read {path} in container {container}"), error)
}

/// dockerd's words for what cannot be written.
pub(crate) fn read_only(inspect: &Inspect, folder: &Path) -> Error {
    let volume = inspect.mounts.iter().any(|point| folder.starts_with(&point.target));
    Error::invalid(if volume { "mounted volume is marked read-only" } else { "container rootfs is marked read-only" })
}

/// Refuses a folder that the container itself could not write.
pub(super) fn checked_writable(root: &Root, folder: &Found, inspect: &Inspect) -> Result<()> {
    if inspect.state.template {
        return Err(Error::conflict(format!("container {} is a template: its files stay as they are", inspect.name))
            .with_hint(format!("berth clone {} NEW", inspect.name)));
    }
    match root.can_write(folder) {
        true => Ok(()),
        false => Err(read_only(inspect, &folder.path)),
    }
}

fn put(inspect: &Inspect, path: &str, options: ArchivePut, body: ByteSource) -> Result<()> {
    let root = root_of(inspect)?;
    let folder = root.find(Path::new(path)).map_err(|error| refused(&error, path, &inspect.name))?;
    if !folder.is_dir() {
        return Err(Error::invalid("extraction point is not a directory"));
    }
    let read_only = || read_only(inspect, &folder.path);
    checked_writable(&root, &folder, inspect)?;
    let owner = match options.copy_uid_gid {
        true => owner(&root, &inspect.spec.config.user)?,
        false => None,
    };
    let options = UnpackOptions { no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir, owner };
    let archive = decompressed(Source::new(body))?;
    files::unpack(&root, &folder, archive, options).map_err(|error| {
        let kind = match &error {
            UnpackError::Files(inner) if inner.is_read_only() => return read_only(),
            UnpackError::Files(_) => ErrorKind::Internal,
            _ => ErrorKind::InvalidArgument,
        };
        full::or(kind, format!("cannot copy to {path} in container {}", inspect.name), &error)
    })
}

/// By the first bytes: plain tar, gzip or zstd. Others are refused: no program is run to read them.
pub(crate) fn decompressed(mut source: impl Read + 'static) -> Result<Box<dyn Read>> {
    let mut head = [0_u8; 6];
    let mut length = 0;
    while length < head.len() {
        match source.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(cause) => return Err(Error::because(ErrorKind::InvalidArgument, "cannot read the archive", &cause)),
        }
    }
    let whole = std::io::Cursor::new(head[..length].to_vec()).chain(source);
    match &head[..length] {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::Decoder::new(whole)
                .map_err(|cause| Error::because(ErrorKind::Internal, "cannot read the archive", &cause))?;
            Ok(Box::new(decoder))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(Error::invalid("archives compressed with xz are not supported")),
        [b'B', b'Z', b'h', ..] => Err(Error::invalid("archives compressed with bzip2 are not supported")),
        _ => Ok(Box::new(whole)),
    }
}

/// Whether a running container knows `user`, `name[:group]`; numbers need no entry.
pub(super) async fn check_user(pid: i32, user: &str) -> Result<()> {
    let user = user.to_owned();
    blocking(move || {
        let root = Root::running(pid)
            .map_err(|cause| Error::because(ErrorKind::Unavailable, "cannot look into the container", &cause))?;
        owner(&root, &user).map(drop)
    })
    .await
}

fn owner(root: &Root, user: &str) -> Result<Option<(u32, u32)>> {
    files::owner(root, user).map_err(|cause| Error::invalid(cause.to_string()))
}

/// An archive's bytes, written by `work` on a thread of its own while they are read.
pub(super) fn stream(work: impl FnOnce(&mut Sink) -> Result<(), PackError> + Send + 'static) -> ByteStream {
    let failed = |error: PackError| Error::because(ErrorKind::Internal, "cannot pack the archive", &error);
    bytes_of(move |sink| work(sink).map_err(failed))
}

/// The same of any work.
pub(crate) fn bytes_of(work: impl FnOnce(&mut Sink) -> Result<()> + Send + 'static) -> ByteStream {
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || {
        let mut sink = Sink { sender, buffer: Vec::with_capacity(CHUNK_BYTES) };
        if let Err(error) = work(&mut sink) {
            // Nobody to tell: the reader has gone.
            sink.sender.blocking_send(Err(error)).ok();
        }
    });
    ByteStream { chunks }
}

/// Collects bytes into chunks and waits while the queue is full.
pub(crate) struct Sink {
    sender: mpsc::Sender<Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Sink {
    fn send(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let take = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() >= CHUNK_BYTES {
            self.send()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.send()
    }
}

/// A request's body as a reader, for a thread that may wait.
pub(crate) struct Source {
    chunks: ByteSource,
    rest: Bytes,
}

impl Source {
    pub(crate) fn new(chunks: ByteSource) -> Source {
        Source { chunks, rest: Bytes::new() }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => return Err(std::io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let take = self.rest.len().min(buffer.len());
        buffer[..take].copy_from_slice(&self.rest.split_to(take));
        Ok(take)
    }
}

/// Everything below the root, for `export`.
pub(super) fn whole(root: &Root, sink: &mut Sink) -> Result<(), PackError> {
    let top = root.find(Path::new("/"))?;
    files::pack_content(root, &top, sink)
}

/// No name of a file has one: the kernel would not even look.
fn check_path(path: &str) -> Result<()> {
    match path.contains('\0') {
        true => Err(Error::invalid(format!("bad parameter: path {path:?} has a NUL character in it"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_archive_is_known_by_its_first_bytes() {
        let read = |bytes: &'static [u8]| {
            let (sender, chunks) = mpsc::channel(1);
            sender.blocking_send(Ok(Bytes::from_static(bytes))).unwrap();
            drop(sender);
            decompressed(Source::new(chunks))
        };
        assert!(read(b"\xfd7zXZ\0rest").is_err());
        let mut text = String::new();
        read(b"plain text").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "plain text");
    }
}
