//! A container's log on disk: bounded writers, readers that follow.
//!
//! ```text
//! <path>      newest, appended to         json-file: Docker's records, one JSON object a line
//! <path>.1    rotated, never changed      local:     u32 length | i64 time | u8 flags | text | u32 length
//! <path>.N    oldest; N = files_max - 1
//! ```
//!
//! One [`Writer`] per log, any number of [`Reader`]s in other processes. A file is rotated by rename when
//! the next record would pass `bytes_max`; readers tell files apart by inode, so a follower misses
//! nothing that is still on disk. A writer killed in the middle of a record leaves a torn tail: readers
//! do not show it, the next writer cuts it off. Nothing is synced to the disk.
//!
//! Not here: compressed files (`.N.gz` is not read), and record attributes in the `local` format.

mod json;
mod local;
mod reader;
mod time;
mod writer;

pub use reader::{Query, Reader};
pub use time::rfc3339_nanos;
pub use writer::{Options, Writer};

use std::path::{Path, PathBuf};

/// A longer line becomes several records, all but the last of them partial. Docker's number.
pub const LINE_BYTES_MAX: usize = 16 << 10;
/// A longer run of bytes without a record's end is damage and is skipped. Above the largest honest
/// record: every byte of a line escaped as `\u0000`, plus attributes.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    JsonFile,
    Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub unix_nanos: i64,
    pub stream: Stream,
    /// With its newline, unless the line goes on in the stream's next record.
    pub text: Vec<u8>,
    pub attributes: Option<serde_json::Value>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} log {}", path.display())]
pub struct LogError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: std::io::Error,
}

/// The file with this age: 0 the newest.
fn file_name(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

#[cfg(test)]
mod tests;
