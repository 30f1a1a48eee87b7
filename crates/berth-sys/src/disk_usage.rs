//! How much of the disk a tree takes, and how much is in it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a tree has below and at its path; a file with several names counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Allocated on the disk, as `du` counts: a hole takes nothing, a file of one byte a block.
    pub disk_bytes: u64,
    /// Lengths of everything that is no folder.
    pub content_bytes: u64,
}

/// Bytes allocated below and at `path`. What cannot be read counts nothing; other file systems mounted below are left
/// out.
pub fn disk_bytes(path: &Path) -> u64 {
    tree_usage(path).disk_bytes
}

/// [`disk_bytes`], and the length of what is there, in one walk.
pub fn tree_usage(path: &Path) -> TreeUsage {
    let mut usage = TreeUsage::default();
    let Ok(meta) = std::fs::symlink_metadata(path) else { return usage };
    let device = meta.dev();
    let mut count = |meta: &std::fs::Metadata| {
        usage.disk_bytes += meta.blocks() * 512;
        usage.content_bytes += if meta.is_dir() { 0 } else { meta.len() };
    };
    count(&meta);
    let mut seen = HashSet::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device || (!meta.is_dir() && meta.nlink() > 1 && !seen.insert(meta.ino())) {
                continue;
            }
            count(&meta);
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), vec![1; 1 << 20]).unwrap();
        let once = tree_usage(folder.path());
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert!(once.disk_bytes >= 1 << 20);
        assert_eq!(tree_usage(folder.path()), once);
    }

    #[test]
    fn content_is_as_long_as_it_is_and_folders_are_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/one"), b"x").unwrap();
        std::fs::File::create(folder.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        let usage = tree_usage(folder.path());
        assert_eq!(usage.content_bytes, (1 << 30) + 1);
        assert!(usage.disk_bytes < 1 << 20, "{usage:?}");
    }
}
