//! Taking folders away.

use super::{GONE, NEW};
use crate::{Result, step};
use std::io;
use std::path::{Path, PathBuf};

/// Removes a folder with everything in it; one that is gone is as good as removed.
pub(super) fn folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(step("remove", path)(cause)),
        _ => Ok(()),
    }
}

fn is_unfinished(name: &str) -> bool {
    name.starts_with(NEW) || name.starts_with(GONE)
}

/// Folders whose making or removal did not come to its end.
pub(super) fn leftovers(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(folder).map_err(step("read", folder))? {
            let path = entry.map_err(step("read", folder))?.path();
            let unfinished = path.file_name().and_then(|name| name.to_str()).is_some_and(is_unfinished);
            left.extend(unfinished.then_some(path));
        }
    }
    Ok(left)
}

pub(super) fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.rsplit('-').next()?.parse().ok()
}

/// Nobody waits for it: an engine answers before half a gigabyte of small files is gone.
pub(super) fn in_background(paths: Vec<PathBuf>) {
    if paths.is_empty() {
        return;
    }
    let work = move || {
        for path in paths {
            // What cannot be removed now is found again when the driver is opened next.
            drop(folder(&path));
        }
    };
    // Without a thread they stay until then as well.
    drop(std::thread::Builder::new().name("remove-leftovers".to_owned()).spawn(work));
}
