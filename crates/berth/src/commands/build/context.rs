//! The files of a build, for an engine that cannot read them where they are.

use crate::client::body::ChannelWriter;
use crate::error::{CliError, Result};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

pub(super) enum Source {
    Folder {
        folder: PathBuf,
        /// The ignore file's text: the engine knows its rules; here only whole folders are left out early.
        ignore: String,
    },
    /// An archive that came on standard input.
    Bytes(Vec<u8>),
}

/// `<Dockerfile>.dockerignore`, or the folder's own.
pub(super) fn ignore_file(folder: &Path, dockerfile: &Path) -> Result<String> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    for path in [PathBuf::from(own), folder.join(".dockerignore")] {
        match std::fs::read(&path) {
            Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(CliError::io(format!("cannot read {}", path.display()), error)),
        }
    }
    Ok(String::new())
}

/// Sends `head` and what follows it, on a thread of its own.
pub(super) fn send(mut writer: ChannelWriter, head: String, source: Option<Source>) -> JoinHandle<io::Result<()>> {
    std::thread::spawn(move || {
        writeln!(writer, "{head}")?;
        match source {
            None => writer.finish(),
            Some(Source::Bytes(bytes)) => {
                writer.write_all(&bytes)?;
                writer.finish()
            }
            Some(Source::Folder { folder, ignore }) => {
                let left_out = whole_folders(&ignore);
                let mut builder = tar::Builder::new(writer);
                builder.follow_symlinks(false);
                match pack(&mut builder, &folder, Path::new(""), &left_out).and_then(|()| builder.finish()) {
                    Ok(()) => builder.into_inner()?.finish(),
                    Err(error) => {
                        let copy = io::Error::new(error.kind(), error.to_string());
                        builder.into_inner()?.fail(error);
                        Err(copy)
                    }
                }
            }
        }
    })
}

/// Names of folders and files that plain patterns leave out and nothing brings back: `node_modules`, `.git`.
fn whole_folders(ignore: &str) -> Vec<PathBuf> {
    if ignore.lines().any(|line| line.trim().starts_with('!')) {
        return Vec::new();
    }
    let plain = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.contains(['*', '?', '[', '\\']);
    let clean = |line: &str| line.trim_matches('/').trim_start_matches("./").to_owned();
    ignore.lines().map(str::trim).filter(plain).map(|line| PathBuf::from(clean(line))).collect()
}

fn pack(
    builder: &mut tar::Builder<ChannelWriter>,
    folder: &Path,
    inside: &Path,
    left_out: &[PathBuf],
) -> io::Result<()> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder.join(inside))?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let path = inside.join(name);
        if left_out.contains(&path) {
            continue;
        }
        let on_disk = folder.join(&path);
        let meta = std::fs::symlink_metadata(&on_disk)?;
        if meta.is_dir() {
            builder.append_dir(&path, &on_disk)?;
            pack(builder, folder, &path, left_out)?;
        } else if meta.is_file() || meta.is_symlink() {
            builder.append_path_with_name(&on_disk, &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_patterns_leave_folders_out_early() {
        assert_eq!(whole_folders("# x\n.git\n/target/\n*.log\n"), [PathBuf::from(".git"), PathBuf::from("target")]);
        assert!(whole_folders(".git\n!.git/HEAD\n").is_empty());
    }
}
