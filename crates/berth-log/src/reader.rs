//! The reading end: oldest record first, across files, and on as the log grows.

use crate::{Format, LogError, RECORD_BYTES_MAX, Record, Stream, file_name, json, local};
use rustix::fs::inotify;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 64 << 10;
/// How often a log that rotates while its files are opened is looked at again.
const LOOKS_MAX: usize = 16;

#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only the last so many records (of both streams, before the other conditions, as Docker counts).
    pub tail: Option<u64>,
    /// Not before this, nanoseconds since 1970.
    pub since: Option<i64>,
    /// Nothing after this.
    pub until: Option<i64>,
    /// `None`: both.
    pub stream: Option<Stream>,
    pub follow: bool,
}

/// Never blocks. With `follow`, `next` returning `None` means: wait until [`Reader::wait_fd`] is
/// readable, call [`Reader::clear_wait`], ask again.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    files_max: u32,
    format: Format,
    query: Query,
    /// Front: being read.
    files: VecDeque<Open>,
    buffer: Vec<u8>,
    /// Where `buffer` was read from in the front file, and how much of it is used.
    offset: u64,
    used: usize,
    inotify: Option<OwnedFd>,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: (u64, u64),
}

impl Reader {
    pub fn open(path: &Path, files_max: u32, format: Format, query: Query) -> Result<Reader, LogError> {
        let failed = |source| LogError { action: "read", path: path.to_owned(), source };
        // Watching starts before the first look, so that no change falls between.
        let inotify = if query.follow { Some(watch(path).map_err(failed)?) } else { None };
        let mut reader = Reader {
            path: path.to_owned(),
            files_max,
            format,
            query,
            files: VecDeque::new(),
            buffer: Vec::new(),
            offset: 0,
            used: 0,
            inotify,
        };
        reader.files = reader.all().map_err(failed)?;
        if let Some(tail) = reader.query.tail {
            reader.seek_tail(tail).map_err(failed)?;
        }
        Ok(reader)
    }

    /// Readable when the log may have grown; only with `follow`.
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|fd| fd.as_fd())
    }

    /// Forgets the changes announced so far; call before reading on.
    pub fn clear_wait(&self) {
        let mut events = [0; 4096];
        if let Some(fd) = &self.inotify {
            while matches!(rustix::io::read(fd, &mut events), Ok(1..)) {}
        }
    }

    /// The next record that the query asks for; `None` at the present end.
    // Not an `Iterator`: with `follow` the end is not final.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            let record = match self.next_of_any() {
                Ok(record) => record,
                Err(source) => return Err(LogError { action: "read", path: self.path.clone(), source }),
            };
            let Some(record) = record else { return Ok(None) };
            let early = self.query.since.is_some_and(|since| record.unix_nanos < since);
            let late = self.query.until.is_some_and(|until| record.unix_nanos > until);
            let other = self.query.stream.is_some_and(|stream| record.stream != stream);
            if !early && !late && !other {
                return Ok(Some(record));
            }
        }
    }

    fn next_of_any(&mut self) -> io::Result<Option<Record>> {
        loop {
            if let Some(record) = self.next_of_front()? {
                return Ok(Some(record));
            }
            if self.files.len() <= 1 && self.query.follow {
                let front = self.files.front().map(|open| open.identity);
                let newer = self.newer_than(front)?;
                self.files.extend(newer);
                // Rotated between the last read and the look: the front's last records come first.
                if self.files.len() > 1
                    && let Some(record) = self.next_of_front()?
                {
                    return Ok(Some(record));
                }
            }
            if self.files.len() <= usize::from(front_is_known(&self.files)) {
                return Ok(None);
            }
            self.files.pop_front();
            (self.offset, self.used) = (0, 0);
            self.buffer.clear();
        }
    }

    fn next_of_front(&mut self) -> io::Result<Option<Record>> {
        loop {
            let rest = &self.buffer[self.used..];
            match self.format {
                Format::JsonFile => {
                    if let Some(end) = rest.iter().position(|&b| b == b'\n') {
                        let record = json::decode(&rest[..end]);
                        self.used += end + 1;
                        if record.is_some() {
                            return Ok(record);
                        }
                        continue;
                    }
                }
                Format::Local => match local::decode(rest) {
                    local::Taken::Record(record, bytes) => {
                        self.used += bytes;
                        return Ok(Some(record));
                    }
                    local::Taken::Incomplete => {}
                    // Without a length there is no next record in this file.
                    local::Taken::Damaged => return Ok(None),
                },
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads one more block. At the end of the file an unfinished record is dropped, to be read again
    /// whole: its writer may be gone and the next one may cut it off.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(front) = self.files.front() else { return Ok(false) };
        self.buffer.drain(..self.used);
        self.offset += self.used as u64;
        self.used = 0;
        if self.buffer.len() > RECORD_BYTES_MAX {
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
        }
        let have = self.buffer.len();
        self.buffer.resize(have + BLOCK_BYTES, 0);
        let read = front.file.read_at(&mut self.buffer[have..], self.offset + have as u64);
        let read = read.inspect_err(|_| self.buffer.truncate(have))?;
        self.buffer.truncate(have + read);
        if read == 0 {
            self.buffer = Vec::new();
        }
        Ok(read > 0)
    }

    /// All files, oldest first, as they lay between two rotations.
    fn all(&self) -> io::Result<VecDeque<Open>> {
        for _ in 0..LOOKS_MAX {
            let found = self.newer_than(None)?;
            let newest = match std::fs::metadata(&self.path) {
                Ok(metadata) => Some((metadata.dev(), metadata.ino())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if found.back().map(|open| open.identity) == newest {
                return Ok(found);
            }
            // Rotated meanwhile: the newest records are not among these, or files are out of order.
        }
        self.newer_than(None)
    }

    /// Files newer than the one with `identity`, oldest first; all if it is none of them.
    ///
    /// Opened from the newest: a rotation meanwhile shows a file twice rather than not at all.
    fn newer_than(&self, identity: Option<(u64, u64)>) -> io::Result<VecDeque<Open>> {
        let mut found: VecDeque<Open> = VecDeque::new();
        for age in 0..self.files_max.max(1) {
            let file = match File::open(file_name(&self.path, age)) {
                Ok(file) => file,
                // A gap that a crash or a rotation under way left.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let metadata = file.metadata()?;
            let this = (metadata.dev(), metadata.ino());
            if Some(this) == identity {
                break;
            }
            if found.iter().all(|open| open.identity != this) {
                found.push_front(Open { file, identity: this });
            }
        }
        Ok(found)
    }

    /// Drops files and sets the offset so that `tail` records are left.
    fn seek_tail(&mut self, tail: u64) -> io::Result<()> {
        let mut wanted = tail;
        for index in (0..self.files.len()).rev() {
            let file = &self.files[index].file;
            let (offset, records) = match self.format {
                Format::JsonFile => json_tail(file, wanted)?,
                Format::Local => local_tail(file, wanted)?,
            };
            wanted -= records;
            if wanted == 0 {
                self.files.drain(..index);
                self.offset = offset;
                break;
            }
        }
        Ok(())
    }
}

/// Whether a front file is to be kept for what it may still get.
fn front_is_known(files: &VecDeque<Open>) -> bool {
    !files.is_empty()
}

/// Offset of the last `wanted` lines, and how many of them there are. Bytes behind the last newline do not count.
fn json_tail(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    let (mut newlines, mut block) = (0, vec![0; BLOCK_BYTES]);
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES as u64);
        let part = &mut block[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        for at in (0..part.len()).rev().filter(|&at| part[at] == b'\n') {
            // The newline before the first wanted line is one more than there are lines.
            if newlines == wanted {
                return Ok((start + at as u64 + 1, wanted));
            }
            newlines += 1;
        }
        end = start;
    }
    Ok((0, newlines))
}

fn local_tail(file: &File, wanted: u64) -> io::Result<(u64, u64)> {
    let frame = 2 * local::LENGTH_BYTES as u64;
    let (mut end, mut records) = (file.metadata()?.len(), 0);
    let (mut head, mut foot) = ([0; local::LENGTH_BYTES], [0; local::LENGTH_BYTES]);
    while records < wanted && end >= frame {
        file.read_exact_at(&mut foot, end - local::LENGTH_BYTES as u64)?;
        let body = local::body_length(foot).map(|body| body as u64 + frame);
        let Some(start) = body.and_then(|bytes| end.checked_sub(bytes)) else { break };
        file.read_exact_at(&mut head, start)?;
        if head != foot {
            break;
        }
        (end, records) = (start, records + 1);
    }
    Ok((end, records))
}

fn watch(path: &Path) -> io::Result<OwnedFd> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, folder, events)?;
    Ok(fd)
}
