//! The writing end: chunks of output in, whole records on disk.

use crate::{Format, LINE_BYTES_MAX, LogError, Stream, file_name, json, local};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct Options {
    pub format: Format,
    pub path: PathBuf,
    /// 0: never rotated.
    pub bytes_max: u64,
    /// All files together; 0 counts as 1.
    pub files_max: u32,
    /// For every json-file record.
    pub attributes: Option<serde_json::Value>,
}

/// An unfinished line of one stream. Holds no memory while the stream is at a line's start.
#[derive(Debug, Default)]
struct Unfinished {
    text: Vec<u8>,
    /// Time of the first part of a line that is already partly written; later parts repeat it.
    first_part: Option<i64>,
}

/// Memory is held only for an unfinished line and while a chunk is being written.
#[derive(Debug)]
pub struct Writer {
    options: Options,
    attributes: Option<String>,
    file: File,
    size: u64,
    unfinished: [Unfinished; 2],
    rotations: u64,
}

impl Writer {
    /// Opens or makes the newest file, and cuts off a record that an earlier writer left torn.
    pub fn open(options: Options) -> Result<Writer, LogError> {
        let failed = |source| LogError { action: "open", path: options.path.clone(), source };
        let file = open(&options.path).map_err(failed)?;
        let size = healthy_size(&file, options.format).map_err(failed)?;
        file.set_len(size).map_err(failed)?;
        let attributes = options.attributes.as_ref().map(serde_json::Value::to_string);
        Ok(Writer { options, attributes, file, size, unfinished: Default::default(), rotations: 0 })
    }

    /// How often this writer has rotated; a caller compares it before and after a write.
    pub fn rotations(&self) -> u64 {
        self.rotations
    }

    /// Takes what a stream said. The lines that `chunk` ends go to the disk in one write per file.
    ///
    /// After an error the records of this chunk are lost, and the log goes on whole with the next.
    pub fn write(&mut self, stream: Stream, chunk: &[u8], unix_nanos: i64) -> Result<(), LogError> {
        let mut batch = Vec::new();
        let mut rest = chunk;
        while !rest.is_empty() {
            let line = &mut self.unfinished[stream as usize];
            let room = &rest[..rest.len().min(LINE_BYTES_MAX - line.text.len())];
            let newline = room.iter().position(|&b| b == b'\n');
            // A newline right behind a full line belongs to it.
            let newline = newline.or_else(|| (rest.get(room.len()) == Some(&b'\n')).then_some(room.len()));
            let taken = newline.map_or(room.len(), |at| at + 1);
            line.text.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            if newline.is_some() || line.text.len() >= LINE_BYTES_MAX {
                self.emit(stream, newline.is_none(), unix_nanos, &mut batch)?;
            }
        }
        self.flush(&mut batch)
    }

    /// The stream has ended: what it left without a newline is written as Docker does, without one.
    pub fn end(&mut self, stream: Stream, unix_nanos: i64) -> Result<(), LogError> {
        let mut batch = Vec::new();
        if !self.unfinished[stream as usize].text.is_empty() {
            self.emit(stream, true, unix_nanos, &mut batch)?;
        }
        self.unfinished[stream as usize] = Unfinished::default();
        self.flush(&mut batch)
    }

    fn emit(&mut self, stream: Stream, partial: bool, now: i64, batch: &mut Vec<u8>) -> Result<(), LogError> {
        let line = std::mem::take(&mut self.unfinished[stream as usize]);
        let time = line.first_part.unwrap_or(now);
        self.unfinished[stream as usize].first_part = partial.then_some(time);
        let start = batch.len();
        match self.options.format {
            Format::JsonFile => json::encode(time, stream, &line.text, self.attributes.as_deref(), batch),
            Format::Local => local::encode(time, stream, &line.text, batch),
        }
        let bytes_max = self.options.bytes_max;
        let before = self.size + start as u64;
        if bytes_max > 0 && before > 0 && self.size + batch.len() as u64 > bytes_max {
            let record = batch.split_off(start);
            self.flush(batch)?;
            self.rotate()?;
            *batch = record;
        }
        Ok(())
    }

    fn flush(&mut self, batch: &mut Vec<u8>) -> Result<(), LogError> {
        if batch.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(batch);
        if let Err(source) = written {
            batch.clear();
            // A full disk tears the record it hits. If cutting fails too, readers skip it as damage.
            let cut = self.file.set_len(self.size);
            return Err(self.failed("write", cut.err().unwrap_or(source)));
        }
        self.size += batch.len() as u64;
        batch.clear();
        Ok(())
    }

    /// Renames from the oldest, so that a crash between two leaves a gap and never overwrites a file.
    fn rotate(&mut self) -> Result<(), LogError> {
        let path = &self.options.path;
        let keep = self.options.files_max.max(1);
        let step = || -> io::Result<File> {
            if keep == 1 {
                gone_is_fine(fs::remove_file(path))?;
            }
            for age in (0..keep - 1).rev() {
                gone_is_fine(fs::rename(file_name(path, age), file_name(path, age + 1)))?;
            }
            open(path)
        };
        self.file = step().map_err(|source| self.failed("rotate", source))?;
        self.size = 0;
        self.rotations += 1;
        Ok(())
    }

    fn failed(&self, action: &'static str, source: io::Error) -> LogError {
        LogError { action, path: self.options.path.clone(), source }
    }
}

fn open(path: &std::path::Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Bytes up to the end of the last whole record.
fn healthy_size(file: &File, format: Format) -> io::Result<u64> {
    let size = file.metadata()?.len();
    match format {
        Format::JsonFile => {
            let mut end = size;
            let mut block = vec![0; 4096];
            while end > 0 {
                let start = end.saturating_sub(block.len() as u64);
                let part = &mut block[..(end - start) as usize];
                file.read_exact_at(part, start)?;
                if let Some(at) = part.iter().rposition(|&b| b == b'\n') {
                    return Ok(start + at as u64 + 1);
                }
                end = start;
            }
            Ok(0)
        }
        Format::Local => {
            // From the front: a torn tail can end in bytes of a text that look like a length.
            let (mut at, mut length) = (0, [0; local::LENGTH_BYTES]);
            while at + (local::LENGTH_BYTES as u64) <= size {
                file.read_exact_at(&mut length, at)?;
                let Some(body) = local::body_length(length) else { break };
                let next = at + (body + 2 * local::LENGTH_BYTES) as u64;
                if next > size {
                    break;
                }
                at = next;
            }
            Ok(at)
        }
    }
}
