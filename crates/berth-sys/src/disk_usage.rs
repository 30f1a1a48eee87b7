//! How much of the disk a tree takes.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes allocated below and at `path`, as `du` counts them: a file with several names once. What cannot be
/// read counts nothing; other file systems mounted below are left out.
pub fn disk_bytes(path: &Path) -> u64 {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    let device = meta.dev();
    let mut total = meta.blocks() * 512;
    let mut seen = HashSet::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device || (!meta.is_dir() && meta.nlink() > 1 && !seen.insert(meta.ino())) {
                continue;
            }
            total += meta.blocks() * 512;
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), vec![1; 1 << 20]).unwrap();
        let once = disk_bytes(folder.path());
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert!(once >= 1 << 20);
        assert_eq!(disk_bytes(folder.path()), once);
    }
}
