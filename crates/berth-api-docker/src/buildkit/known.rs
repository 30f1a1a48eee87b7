//! Contents that were hashed before, so that a file that is as it was does not travel again.
//!
//! As it was means: the same name in what the client calls the same folder, the same size and the same time to the
//! nanosecond. A time without a part of a second may be anybody's (an archive's, a checkout's) and says nothing; one
//! of a moment ago may not tell the next change.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Folders, and files in one of them: about 200 bytes each.
const FOLDERS_MAX: usize = 64;
const FILES_MAX: usize = 100_000;
/// The kernel's file times step by up to 10 ms.
const SETTLED_NANOS: i64 = 100_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    size: u64,
    mtime_nanos: i64,
    digest: [u8; 32],
}

/// One folder's contents.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<PathBuf, Seen>>);

impl Known {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, path: &Path, size: u64, mtime_nanos: i64) -> Option<[u8; 32]> {
        let seen = self.lock().get(path).copied()?;
        (seen.size == size && seen.mtime_nanos == mtime_nanos).then_some(seen.digest)
    }

    /// What was known of it is wrong.
    pub(super) fn forget(&self, path: &Path) {
        self.lock().remove(path);
    }

    /// `listed_nanos`: when the client told the file's time.
    pub(super) fn put(&self, path: &Path, size: u64, mtime_nanos: i64, digest: [u8; 32], listed_nanos: i64) {
        let settled = mtime_nanos < listed_nanos.saturating_sub(SETTLED_NANOS);
        if !settled || mtime_nanos % 1_000_000_000 == 0 {
            return;
        }
        let mut files = self.lock();
        if files.len() >= FILES_MAX {
            files.clear();
        }
        files.insert(path.to_owned(), Seen { size, mtime_nanos, digest });
    }
}

/// All clients' folders.
#[derive(Default)]
pub(super) struct Folders(Mutex<BTreeMap<String, Arc<Known>>>);

impl Folders {
    /// What is known of the folder that a client names so; of one without a name nothing stays.
    pub(super) fn of(&self, name: &str) -> Arc<Known> {
        if name.is_empty() {
            return Arc::default();
        }
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.len() >= FOLDERS_MAX && !folders.contains_key(name) {
            folders.clear();
        }
        folders.entry(name.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_size_and_a_time_that_says_something() {
        let folders = Folders::default();
        let (path, now) = (Path::new("a"), 10_000_000_000);
        folders.of("x").put(path, 3, 1_000_000_001, [7; 32], now);
        assert_eq!(folders.of("x").get(path, 3, 1_000_000_001), Some([7; 32]));
        assert_eq!(folders.of("x").get(path, 4, 1_000_000_001), None);
        assert_eq!(folders.of("x").get(path, 3, 1_000_000_002), None);
        assert_eq!(folders.of("y").get(path, 3, 1_000_000_001), None);
        folders.of("").put(path, 3, 1_000_000_001, [7; 32], now);
        assert_eq!(folders.of("").get(path, 3, 1_000_000_001), None);
        folders.of("x").forget(path);
        assert_eq!(folders.of("x").get(path, 3, 1_000_000_001), None);
        // A whole second, and a moment ago.
        for mtime in [2_000_000_000, now - 1] {
            folders.of("x").put(path, 3, mtime, [8; 32], now);
            assert_eq!(folders.of("x").get(path, 3, mtime), None);
        }
    }
}
