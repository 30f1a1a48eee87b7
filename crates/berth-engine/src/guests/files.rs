//! A container's files, as its guest's agent reads and writes them: `cp`, `diff`, `export`, `commit`.
//!
//! ```text
//!  engine ── control.sock ── berth-vmm ── port ── agent ── a process of its own, in the container's root
//!         Request on a stream ────────────────────►  reads or writes files
//!         Data of STDIN ──────────────────────────►  an archive to unpack
//!         ◄──────────────────────────── Data of STDOUT  an archive, or what was asked
//!         ◄──────────────────────────── Data of STDERR  a Failure, where it ends with another code than 0
//! ```
//!
//! The guest may be hostile: what it says is bounded, and an archive of its is as any that comes from elsewhere.

use super::Agent;
use super::agent::{lost, told};
use crate::Engine;
use crate::containers::{
    Archive, ArchivePut, ByteSource, ByteStream, Change, ChangeKind, Inspect, PathStat, Sink, Source, blocking,
    bytes_of, decompressed, read_only,
};
use berth_agent_proto::{
    Answer, DATA_BYTES_MAX, Ended, Failure, FailureKind, Kind, Request, STDERR, STDIN, STDOUT, Stat, WINDOW_BYTES,
    changes as words,
};
use berth_types::{Error, ErrorKind, Phase, Result};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// For each piece; a guest under a heavy load needs some.
const PIECE: Duration = Duration::from_secs(120);
/// What a failure or what is at a path takes at most.
const WORDS_BYTES_MAX: usize = 64 << 10;
/// All changes of a container; half a million of them.
const CHANGES_BYTES_MAX: u64 = 64 << 20;
/// A layer's archive: what the container's disk holds, and headers.
const LAYER_BYTES_MAX: u64 = 24 << 30;

/// A process of the agent's that writes to us, and reads what we send.
struct Stream {
    agent: Agent,
    /// What came and was not taken yet.
    held: Vec<u8>,
    taken: usize,
    words: Vec<u8>,
    /// How much of our input the guest still takes.
    left: u32,
    ended: Option<Ended>,
}

impl Stream {
    fn begin(engine: &Engine, inspect: &Inspect, request: &Request) -> Result<Stream> {
        match inspect.state.phase {
            Phase::Running { .. } => {}
            Phase::Paused { .. } => {
                return Err(Error::conflict(format!("container {} is paused: its guest reads no files", inspect.name))
                    .with_hint(format!("berth unpause {}", inspect.name)));
            }
            Phase::Created | Phase::Exited { .. } | Phase::Removing => {
                return Err(Error::conflict(format!(
                    "the files of {} cannot be reached: they are on the disk of its machine, which does not run",
                    inspect.name
                ))
                .with_hint(format!("berth start {}", inspect.name)));
            }
        }
        let mut agent = Agent::connect(&crate::machines::run_folder(engine, &inspect.id), PIECE)?;
        match agent.ask(request)? {
            Answer::Started { .. } => {}
            _ => return Err(Error::new(ErrorKind::DataLoss, "the guest's agent answered something else")),
        }
        Ok(Stream { agent, held: Vec::new(), taken: 0, words: Vec::new(), left: WINDOW_BYTES, ended: None })
    }

    /// The next frame, whatever it is about.
    fn advance(&mut self) -> Result<()> {
        self.agent.renew();
        let frame = self.agent.frame()?;
        match (frame.kind, frame.payload.as_slice()) {
            (Kind::Data, [STDOUT, bytes @ ..]) => {
                // More than was allowed: nobody honest sends it.
                if self.held.len() - self.taken + bytes.len() > WINDOW_BYTES as usize {
                    return Err(Error::new(ErrorKind::DataLoss, "the guest's agent sends more than it may"));
                }
                self.held.drain(..self.taken);
                self.taken = 0;
                self.held.extend_from_slice(bytes);
            }
            (Kind::Data, [STDERR, bytes @ ..]) => {
                let room = WORDS_BYTES_MAX - self.words.len().min(WORDS_BYTES_MAX);
                self.words.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            (Kind::Window, [STDIN, number @ ..]) => {
                let more = number.try_into().map(u32::from_le_bytes).unwrap_or(0);
                self.left = self.left.saturating_add(more).min(WINDOW_BYTES);
            }
            (Kind::End, payload) => {
                self.ended = Some(serde_json::from_slice(payload).map_err(|cause| lost("understand", &cause))?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Some of what it writes; none at its end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.taken == self.held.len() && self.ended.is_none() {
            self.advance()?;
        }
        let rest = &self.held[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        if count > 0 && self.ended.is_none() {
            let mut grant = vec![STDOUT];
            grant.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
            self.agent.send(Kind::Window, &grant)?;
        }
        Ok(count)
    }

    /// All of it to its input; whether it took it.
    fn write(&mut self, mut bytes: &[u8]) -> Result<bool> {
        while !bytes.is_empty() {
            while self.left == 0 && self.ended.is_none() {
                self.advance()?;
            }
            if self.ended.is_some() {
                return Ok(false);
            }
            let count = bytes.len().min(DATA_BYTES_MAX).min(self.left as usize);
            let (now, rest) = bytes.split_at(count);
            self.agent.renew();
            self.agent.send(Kind::Data, &[&[STDIN], now].concat())?;
            self.left -= u32::try_from(count).unwrap_or(self.left);
            bytes = rest;
        }
        Ok(true)
    }

    /// How it ended; to be asked at the end of what it wrote.
    fn finish(mut self) -> Result<std::result::Result<(), Failure>> {
        while self.ended.is_none() {
            self.advance()?;
        }
        let failure = |text: String| Failure::new(FailureKind::Internal, text);
        Ok(match self.ended {
            Some(Ended::Code(0)) => Ok(()),
            Some(Ended::Failed(failure)) => Err(failure),
            Some(Ended::Signal(signal)) => Err(failure(format!("the guest ended it with signal {signal}"))),
            Some(Ended::Code(_)) | None => Err(serde_json::from_slice(&self.words)
                .unwrap_or_else(|_| failure(String::from_utf8_lossy(&self.words).trim().to_owned()))),
        })
    }

    /// Everything that it writes, up to so much, where it ended well.
    fn all(mut self, bytes_max: u64) -> Result<std::result::Result<Vec<u8>, Failure>> {
        let (mut all, mut buffer) = (Vec::new(), vec![0_u8; 64 << 10]);
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(self.finish()?.map(|()| all)),
                count if (all.len() + count) as u64 <= bytes_max => all.extend_from_slice(&buffer[..count]),
                _ => return Err(Error::new(ErrorKind::DataLoss, "the guest's agent says too much")),
            }
        }
    }

    fn pour_into(mut self, sink: &mut Sink) -> Result<()> {
        let mut buffer = vec![0_u8; 64 << 10];
        let gone = |cause: std::io::Error| Error::because(ErrorKind::Cancelled, "nobody reads the archive", &cause);
        loop {
            match self.read(&mut buffer)? {
                0 => break,
                count => sink.write_all(&buffer[..count]).map_err(gone)?,
            }
        }
        self.finish()?.map_err(|failure| told(&failure).context("cannot pack the archive"))?;
        sink.flush().map_err(gone)
    }
}

/// Not found in dockerd's words.
fn refused(failure: &Failure, path: &str, inspect: &Inspect) -> Error {
    match failure.kind {
        FailureKind::NotFound => {
            Error::not_found(format!("Could not find the file {path} in container {}", inspect.name))
        }
        FailureKind::ReadOnly => read_only(inspect, Path::new(path)),
        _ => told(failure),
    }
}

fn stat_now(engine: &Engine, inspect: &Inspect, path: &str) -> Result<PathStat> {
    let request = Request::Stat { path: path.to_owned() };
    let bytes = Stream::begin(engine, inspect, &request)?
        .all(WORDS_BYTES_MAX as u64)?
        .map_err(|failure| refused(&failure, path, inspect))?;
    let stat: Stat = serde_json::from_slice(&bytes).map_err(|cause| lost("understand", &cause))?;
    Ok(PathStat {
        name: stat.name,
        size: stat.size,
        mode: stat.mode,
        mtime_unix_nanos: stat.mtime_unix_nanos,
        link_target: stat.link_target,
    })
}

/// What is at `path`.
pub(crate) async fn archive_stat(engine: &Engine, inspect: Inspect, path: String) -> Result<PathStat> {
    let engine = engine.clone();
    blocking(move || stat_now(&engine, &inspect, &path)).await
}

/// A file or folder as a tar archive.
pub(crate) async fn archive_get(engine: &Engine, inspect: Inspect, path: String) -> Result<Archive> {
    let engine = engine.clone();
    let (stat, stream) = blocking(move || {
        let stat = stat_now(&engine, &inspect, &path)?;
        Ok((stat, Stream::begin(&engine, &inspect, &Request::Get { path })?))
    })
    .await?;
    Ok(Archive { stat, body: bytes_of(move |sink| stream.pour_into(sink)) })
}

/// A tar archive into a folder; on a thread that may wait.
pub(crate) fn archive_put(
    engine: &Engine,
    inspect: &Inspect,
    path: &str,
    options: ArchivePut,
    body: ByteSource,
) -> Result<()> {
    let owner = if options.copy_uid_gid { inspect.spec.config.user.clone() } else { String::new() };
    let request = Request::Put { path: path.to_owned(), keep_kinds: options.no_overwrite_dir_non_dir, owner };
    let mut stream = Stream::begin(engine, inspect, &request)?;
    let mut archive = decompressed(Source::new(body))?;
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let count = match archive.read(&mut buffer) {
            Ok(count) => count,
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(Error::because(ErrorKind::InvalidArgument, "cannot read the archive", &cause)),
        };
        if count == 0 || !stream.write(&buffer[..count])? {
            break;
        }
    }
    if stream.ended.is_none() {
        stream.agent.send(Kind::Eof, &[STDIN])?;
    }
    stream.finish()?.map_err(|failure| refused(&failure, path, inspect))
}

/// All of its files as a tar archive.
pub(crate) async fn export(engine: &Engine, inspect: Inspect) -> Result<ByteStream> {
    let engine = engine.clone();
    let stream = blocking(move || Stream::begin(&engine, &inspect, &Request::Export)).await?;
    Ok(bytes_of(move |sink| stream.pour_into(sink)))
}

/// What it changed against its image.
pub(crate) async fn changes(engine: &Engine, inspect: Inspect) -> Result<Vec<Change>> {
    let engine = engine.clone();
    blocking(move || {
        let bytes = Stream::begin(&engine, &inspect, &Request::Changes)?
            .all(CHANGES_BYTES_MAX)?
            .map_err(|failure| told(&failure).context("cannot compare the container with its image"))?;
        bytes.split(|byte| *byte == 0).filter(|line| !line.is_empty()).map(change).collect()
    })
    .await
}

fn change(line: &[u8]) -> Result<Change> {
    let kind = match line.first() {
        Some(&words::MODIFIED) => ChangeKind::Modified,
        Some(&words::ADDED) => ChangeKind::Added,
        Some(&words::DELETED) => ChangeKind::Deleted,
        _ => return Err(Error::new(ErrorKind::DataLoss, "the guest's agent tells of a change that is none")),
    };
    Ok(Change { kind, path: String::from_utf8_lossy(&line[1..]).into_owned() })
}

/// Its changes as a layer's archive; `still`: the container stands still until the last of it was read.
pub(crate) async fn layer(engine: &Engine, inspect: Inspect, still: bool) -> Result<Box<dyn Read + Send>> {
    let engine = engine.clone();
    blocking(move || {
        let stream = Stream::begin(&engine, &inspect, &Request::Layer { still })?;
        Ok(Box::new(Layer { stream: Some(stream), left: LAYER_BYTES_MAX }) as Box<dyn Read + Send>)
    })
    .await
}

/// Ends as an archive does only where the guest says that this was all.
struct Layer {
    stream: Option<Stream>,
    left: u64,
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        let count = stream.read(buffer).map_err(std::io::Error::other)?;
        if count == 0
            && !buffer.is_empty()
            && let Some(stream) = self.stream.take()
        {
            let ended = stream.finish().map_err(std::io::Error::other)?;
            ended.map_err(std::io::Error::other)?;
        }
        self.left = self.left.checked_sub(count as u64).ok_or(std::io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_letter_and_a_path() {
        assert_eq!(change(b"A/new").unwrap(), Change { kind: ChangeKind::Added, path: "/new".to_owned() });
        assert_eq!(change(b"D/x y").unwrap().kind, ChangeKind::Deleted);
        assert!(change(b"?/x").is_err() && change(b"").is_err());
    }
}
