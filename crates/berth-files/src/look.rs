//! What is at a path, as `cp` asks before it copies.

use crate::{Found, Root, clean};
use rustix::fs::FileType;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What `archive` says about a path, for the `X-Docker-Container-Path-Stat` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub name: String,
    pub size: u64,
    /// `st_mode`, type bits included; doors translate to Go's bits.
    pub mode: u32,
    pub mtime_unix_nanos: i64,
    pub link_target: String,
}

/// The last name that the caller wrote; `/` for the root.
pub fn last_name(path: &str) -> OsString {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        Some("") | None => "/".into(),
        Some(name) => name.into(),
    }
}

/// Of what was found at `path`, as the caller wrote it.
pub fn look(root: &Root, found: &Found, path: &str) -> Look {
    let link_target = match found.kind() {
        // Where it leads within the container, as Docker resolves it.
        FileType::Symlink => match (root.find(Path::new(path)), found.link_target()) {
            (Ok(target), _) => target.path,
            (Err(_), Ok(text)) => {
                let folder = found.path.parent().unwrap_or(Path::new("/"));
                clean(&folder.join(text))
            }
            (Err(_), Err(_)) => PathBuf::new(),
        },
        _ => PathBuf::new(),
    };
    let nanos = found.stat.st_mtime.saturating_mul(1_000_000_000);
    Look {
        name: if path.ends_with("/.") { ".".to_owned() } else { last_name(path).to_string_lossy().into_owned() },
        size: found.stat.st_size.unsigned_abs(),
        mode: found.stat.st_mode,
        mtime_unix_nanos: nanos.saturating_add(i64::try_from(found.stat.st_mtime_nsec).unwrap_or(0)),
        link_target: link_target.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_named_after_what_the_caller_wrote() {
        assert_eq!(last_name("/etc/passwd"), "passwd");
        assert_eq!(last_name("/etc/"), "etc");
        assert_eq!(last_name("/"), "/");
    }
}
