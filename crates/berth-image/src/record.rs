//! How a layer's archive is made again from its files.
//!
//! ```text
//! zstd of:  "berth layer record 1\n", then steps
//!   0 raw        length, bytes          headers, padding, all that is no file's content
//!   1 content    entry, path, offset, length    read from the layer's file
//!   2 displaced  by, number, path       a later entry took the place of that path: its content is kept elsewhere
//!   3 end        length, digest         of the whole archive
//! ```
//!
//! Numbers are LEB128. The archive that comes out has the layer's digest, or reading it fails at its end: the
//! record is our own, but files on a disk rot.

use berth_snapshot::{Content, Displaced, LayerReader, SnapshotError};
use berth_types::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};

const MAGIC: &[u8] = b"berth layer record 1\n";
/// Longest path and raw step that are read back; the writer cuts raw steps shorter.
const PATH_BYTES_MAX: u64 = 8192;
const RAW_BYTES_MAX: usize = 1 << 20;
/// Headers of archives are almost all alike: the fastest level makes a fortieth of them.
const LEVEL: i32 = 1;

/// Why an archive cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot read its record")]
    Read(Digest, #[source] io::Error),
    #[error("layer {} is damaged: its record is another one's", .0.short())]
    Damaged(Digest),
    #[error("layer {} is damaged: its files make an archive with the digest {found}", expected.short())]
    Digest { expected: Digest, found: Digest },
    #[error("layer {} is damaged: {} cannot be read whole", id.short(), path.display())]
    File {
        id: Digest,
        path: std::path::PathBuf,
        #[source]
        cause: io::Error,
    },
    /// Its contents are right; what is said of one of its names is not.
    #[error("layer {} is damaged: {} {what}", id.short(), path.display())]
    Differs { id: Digest, path: std::path::PathBuf, what: &'static str },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Writes a record while the layer is unpacked.
pub(crate) struct Writer {
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    step: Vec<u8>,
}

fn number(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

impl Writer {
    pub(crate) fn new(file: File) -> io::Result<Writer> {
        let mut out = zstd::stream::write::Encoder::new(BufWriter::new(file), LEVEL)?;
        out.write_all(MAGIC)?;
        Ok(Writer { out, step: Vec::new() })
    }

    fn flush_step(&mut self) -> io::Result<()> {
        self.out.write_all(&self.step)?;
        self.step.clear();
        Ok(())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(RAW_BYTES_MAX) {
            self.step.push(0);
            number(&mut self.step, part.len() as u64);
            self.flush_step()?;
            self.out.write_all(part)?;
        }
        Ok(())
    }

    pub(crate) fn content(&mut self, entry: u64, path: &[u8], offset: u64, length: u64) -> io::Result<()> {
        self.step.push(1);
        number(&mut self.step, entry);
        number(&mut self.step, path.len() as u64);
        self.step.extend_from_slice(path);
        number(&mut self.step, offset);
        number(&mut self.step, length);
        self.flush_step()
    }

    pub(crate) fn finish(mut self, displaced: &[Displaced], length: u64, digest: &Digest) -> io::Result<()> {
        for one in displaced {
            self.step.push(2);
            number(&mut self.step, one.by);
            number(&mut self.step, u64::from(one.number));
            number(&mut self.step, one.path.len() as u64);
            self.step.extend_from_slice(&one.path);
            self.flush_step()?;
        }
        self.step.push(3);
        number(&mut self.step, length);
        self.step.extend_from_slice(digest.as_bytes());
        self.flush_step()?;
        self.out.finish()?.flush()
    }
}

pub(crate) enum Step {
    Raw(usize),
    Content { entry: u64, path: Vec<u8>, offset: u64, length: u64 },
    Displaced { by: u64, number: u32, path: Vec<u8> },
    End { length: u64, digest: Digest },
}

pub(crate) struct Steps {
    pub(crate) input: zstd::stream::read::Decoder<'static, BufReader<File>>,
}

impl Steps {
    pub(crate) fn open(file: File) -> io::Result<Steps> {
        let mut input = zstd::stream::read::Decoder::new(file)?;
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        match magic == MAGIC {
            true => Ok(Steps { input }),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn path(&mut self) -> io::Result<Vec<u8>> {
        let length = self.number()?;
        if length > PATH_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut path = vec![0; usize::try_from(length).unwrap_or(0)];
        self.input.read_exact(&mut path)?;
        Ok(path)
    }

    pub(crate) fn next(&mut self) -> io::Result<Step> {
        Ok(match self.byte()? {
            0 => match usize::try_from(self.number()?) {
                Ok(length @ 0..=RAW_BYTES_MAX) => Step::Raw(length),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            },
            1 => Step::Content {
                entry: self.number()?,
                path: self.path()?,
                offset: self.number()?,
                length: self.number()?,
            },
            2 => Step::Displaced {
                by: self.number()?,
                number: u32::try_from(self.number()?).map_err(|_| io::ErrorKind::InvalidData)?,
                path: self.path()?,
            },
            3 => {
                let length = self.number()?;
                let mut digest = [0; 32];
                self.input.read_exact(&mut digest)?;
                Step::End { length, digest: Digest::from_bytes(digest) }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

/// A layer's archive, made again while it is read. After its last byte the digest has been compared.
pub struct LayerArchive {
    id: Digest,
    layer: Box<dyn LayerReader>,
    steps: Steps,
    displaced: HashMap<Vec<u8>, Vec<(u64, u32)>>,
    length: u64,
    hash: Option<Sha256>,
    now: Now,
}

enum Now {
    Between,
    Raw(usize),
    Content { file: Box<dyn Content>, path: Vec<u8>, offset: u64, left: u64 },
    Done,
}

impl LayerArchive {
    /// The archive of layer `id`, uncompressed.
    pub fn open(id: &Digest, layer: Box<dyn LayerReader>) -> Result<LayerArchive, RecordError> {
        let failed = |cause| RecordError::Read(*id, cause);
        // Once through for its end: what was displaced, and how long it all is.
        let mut steps = Steps::open(layer.record()?).map_err(failed)?;
        let mut displaced: HashMap<Vec<u8>, Vec<(u64, u32)>> = HashMap::new();
        let length = loop {
            match steps.next().map_err(failed)? {
                Step::Raw(length) => {
                    io::copy(&mut steps.input.by_ref().take(length as u64), &mut io::sink()).map_err(failed)?;
                }
                Step::Content { .. } => {}
                Step::Displaced { by, number, path } => displaced.entry(path).or_default().push((by, number)),
                Step::End { length, digest } if digest == *id => break length,
                Step::End { .. } => return Err(RecordError::Damaged(*id)),
            }
        };
        let steps = Steps::open(layer.record()?).map_err(failed)?;
        let hash = Some(Sha256::new());
        Ok(LayerArchive { id: *id, layer, steps, displaced, length, hash, now: Now::Between })
    }

    /// Bytes of the whole archive.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where the content of `path` is, as entry `entry` left it.
    fn content(&self, entry: u64, path: &[u8]) -> Result<Box<dyn Content>, RecordError> {
        let mut first: Option<(u64, u32, &[u8])> = None;
        if !self.displaced.is_empty() {
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            for end in ends.chain([path.len()]) {
                let events = self.displaced.get(&path[..end]).into_iter().flatten();
                let rest = path.get(end + 1..).unwrap_or_default();
                for &(by, number) in events.filter(|(by, _)| *by > entry) {
                    if first.is_none_or(|(earliest, ..)| by < earliest) {
                        first = Some((by, number, rest));
                    }
                }
            }
        }
        Ok(match first {
            Some((_, number, rest)) => self.layer.open(rest, Some(number))?,
            None => self.layer.open(path, None)?,
        })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, RecordError> {
        let id = self.id;
        loop {
            match &mut self.now {
                Now::Done => return Ok(0),
                Now::Raw(0) => self.now = Now::Between,
                Now::Content { left: 0, .. } => self.now = Now::Between,
                Now::Raw(left) => {
                    let most = buffer.len().min(*left);
                    self.steps.input.read_exact(&mut buffer[..most]).map_err(|cause| RecordError::Read(id, cause))?;
                    *left -= most;
                    return Ok(most);
                }
                Now::Content { file, path, offset, left } => {
                    let most = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let read = loop {
                        match file.read_at(&mut buffer[..most], *offset) {
                            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                            // Shorter than it was: nothing else could follow.
                            Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                            other => break other,
                        }
                    };
                    let shown = || std::path::PathBuf::from(String::from_utf8_lossy(path).into_owned());
                    let count = read.map_err(|cause| RecordError::File { id, path: shown(), cause })?;
                    *offset += count as u64;
                    *left -= count as u64;
                    return Ok(count);
                }
                Now::Between => match self.steps.next().map_err(|cause| RecordError::Read(id, cause))? {
                    Step::Raw(length) => self.now = Now::Raw(length),
                    Step::Content { entry, path, offset, length } => {
                        let file = self.content(entry, &path)?;
                        self.now = Now::Content { file, path, offset, left: length };
                    }
                    Step::Displaced { .. } => {}
                    Step::End { .. } => self.now = Now::Done,
                },
            }
        }
    }
}

/// Compares a layer's files with its digest, and what is said of them with its headers; how many bytes its archive has.
pub fn check(id: &Digest, layer: Box<dyn LayerReader>) -> Result<u64, RecordError> {
    let mut archive = LayerArchive::open(id, layer)?;
    let mut buffer = vec![0; 256 << 10];
    let mut hash = Sha256::new();
    // Compared here and not in `Read`, whose errors would have to be unwrapped again.
    archive.hash = None;
    loop {
        let mut length = 0;
        while length < buffer.len() {
            match archive.fill(&mut buffer[length..])? {
                0 => break,
                count => length += count,
            }
        }
        hash.update(&buffer[..length]);
        if length < buffer.len() {
            break;
        }
    }
    let found = Digest::from_bytes(hash.finalize().into());
    if found != *id {
        return Err(RecordError::Digest { expected: *id, found });
    }
    crate::inspect::inspect(id, &*archive.layer)?;
    Ok(archive.length)
}

impl Read for LayerArchive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        // Many small files fill one buffer.
        while length < buffer.len() {
            match self.fill(&mut buffer[length..]).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))? {
                0 => break,
                count => length += count,
            }
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..length]);
        }
        if length < buffer.len()
            && let Some(hash) = self.hash.take()
        {
            let found = Digest::from_bytes(hash.finalize().into());
            if found != self.id {
                let cause = RecordError::Digest { expected: self.id, found };
                return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
            }
        }
        Ok(length)
    }
}
