//! Reading what is still being written.

use super::{Result, step};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What followers watch.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<(u64, Outcome)>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Outcome {
    #[default]
    Open,
    Whole,
    Abandoned,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, (u64, Outcome)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, written: u64, outcome: Outcome) {
        *self.lock() = (written, outcome);
        self.changed.notify_all();
    }

    /// Nothing more comes, unless all has.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        if state.1 == Outcome::Open {
            state.1 = Outcome::Abandoned;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until there is more than `at`; how much more, 0 at the end.
    fn more_than(&self, at: u64) -> io::Result<u64> {
        let mut state = self.lock();
        loop {
            let (written, outcome) = *state;
            if written > at {
                return Ok(written - at);
            }
            match outcome {
                Outcome::Whole => return Ok(0),
                Outcome::Abandoned => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "what was being written ended early"));
                }
                Outcome::Open => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Reads a blob that is still being written, waiting for what is to come. The end comes after the digest is known (of
/// an ingest: was found right); where the writer ends otherwise, reading fails.
#[derive(Debug)]
pub struct Follower {
    file: File,
    at: u64,
    progress: Arc<Progress>,
}

impl Follower {
    pub(super) fn open(path: &Path, progress: Arc<Progress>) -> Result<Follower> {
        let file = File::open(path).map_err(step("open", path))?;
        Ok(Follower { file, at: 0, progress })
    }

    /// Bytes from `at` on; 0 at the end.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let there = self.progress.more_than(at)?;
        if there == 0 {
            return Ok(0);
        }
        let want = buffer.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        match self.file.read_at(&mut buffer[..want], at)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download was started over")),
            count => Ok(count),
        }
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
