//! The open file, and opening it again.
//!
//! After one failed write redb refuses everything until its file is opened anew (`PreviousIo`): what it holds in
//! memory may not be what is on the disk. An engine whose disk was full for a minute would stay deaf for good. So a
//! file that failed is closed and opened again, before anybody else asks of it; while that fails too (the disk is
//! still full), each question tries once more and is answered with the reason.

use redb::Database;
use std::sync::{PoisonError, RwLock};

pub(crate) type Opener = Box<dyn Fn() -> Result<Database, redb::Error> + Send + Sync>;

pub(crate) struct File {
    opened: RwLock<Opened>,
    open: Opener,
}

struct Opened {
    /// `None`: it failed, and could not be opened again yet.
    database: Option<Database>,
    /// How often it was opened.
    times: u64,
}

impl File {
    pub(crate) fn new(database: Database, open: Opener) -> File {
        File { opened: RwLock::new(Opened { database: Some(database), times: 1 }), open }
    }

    /// Does `work`; nobody's failure is the next one's.
    pub(crate) fn work<T>(&self, work: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        for last in [false, true] {
            let (result, times) = {
                let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
                (opened.database.as_ref().map(&work), opened.times)
            };
            match result {
                // Somebody else's failure: ours is still to come, or not.
                None => self.open_again(times)?,
                Some(Err(redb::Error::PreviousIo)) if !last => self.open_again(times)?,
                Some(Err(error @ (redb::Error::Io(_) | redb::Error::PreviousIo))) => {
                    // Why that fails too, the next one hears.
                    self.open_again(times).ok();
                    return Err(error);
                }
                Some(result) => return result,
            }
        }
        Err(redb::Error::PreviousIo)
    }

    /// Closes what was the `times`-th, unless somebody has, and opens the next.
    fn open_again(&self, times: u64) -> Result<(), redb::Error> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.times != times {
            return Ok(());
        }
        // Closed first: its lock is ours.
        opened.database = None;
        opened.database = Some((self.open)()?);
        opened.times += 1;
        Ok(())
    }
}
