//! The container's files for the host: for each request a process of its own, this program once more.
//!
//! So an archive is as any process's output: within the windows of the other side, ended by a signal when nobody wants
//! it, and what it meets on its way (a file system of the container's that never answers) holds up nobody else.

use crate::process::{Process, streams};
use crate::workload::{IMAGE, SCRATCH};
use berth_agent_proto::{Failure, FailureKind, Request, Say, Stat, changes as words};
use berth_files::{ChangeKind, FilesError, PackError, Root, UnpackError, UnpackOptions};
use berth_runtime::Stdio;
use berth_types::mount::{Lower, Overlay, Rootfs, Upper};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first argument of such a process; the container's first process and the request follow.
pub(crate) const WORD: &str = "--files";
const SELF: &str = "/proc/self/exe";
const FAILED: i32 = 1;
const BUFFER_BYTES: usize = 64 << 10;

fn internal(what: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Internal, what.to_string())
}

/// Starts it for the container whose first process is `pid`.
pub(crate) fn start(pid: i32, request: &Request) -> Result<Process, Failure> {
    let wish = String::from_utf8(request.to_json()).map_err(internal)?;
    let takes = matches!(request, Request::Put { .. });
    let (ends, stdio) = streams(false, (0, 0), takes)?;
    let Stdio::Files { stdin, stdout, stderr } = stdio else { return Err(internal("no pipes")) };
    let mut command = Command::new(SELF);
    command.arg(WORD).arg(pid.to_string()).arg(wish).env_clear().stdin(stdin).stdout(stdout).stderr(stderr);
    let child = command.spawn().map_err(|cause| internal(format!("cannot start a process for files: {cause}")))?;
    let pid = i32::try_from(child.id()).map_err(internal)?;
    let of_child = Pid::from_raw(pid).ok_or_else(|| internal("a process without a number"))?;
    let pidfd = pidfd_open(of_child, PidfdFlags::empty())
        .map_err(|errno| internal(format!("cannot open a process for files: {errno}")))?;
    Ok(Process::own(pid, pidfd, ends))
}

/// In that process: its code.
pub(crate) fn main(mut words: impl Iterator<Item = String>) -> i32 {
    let pid = words.next().and_then(|text| text.parse().ok());
    let request = words.next().and_then(|text| serde_json::from_str(&text).ok());
    let (Some(pid), Some(request)) = (pid, request) else {
        eprintln!("berth-agent: {WORD} is for the agent itself");
        return 2;
    };
    match act(pid, request) {
        Ok(()) => 0,
        Err(failure) => {
            std::io::stderr().write_all(&failure.to_json()).ok();
            FAILED
        }
    }
}

fn act(pid: i32, request: Request) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout().lock());
    match request {
        Request::Stat { path } => stat(&running(pid)?, &path, &mut out)?,
        Request::Get { path } => {
            let root = running(pid)?;
            let found = root.find_no_follow(Path::new(&path)).map_err(|cause| of_files(&cause))?;
            let name = if path.ends_with("/.") { OsString::from(".") } else { berth_files::last_name(&path) };
            berth_files::pack(&root, &found, &name, &mut out).map_err(|cause| of_pack(&cause))?;
        }
        Request::Put { path, keep_kinds, owner } => put(&running(pid)?, &path, keep_kinds, &owner)?,
        Request::Export => {
            let root = Root::of_layers(&layers()).map_err(|cause| of_files(&cause))?;
            let top = root.find(Path::new("/")).map_err(|cause| of_files(&cause))?;
            berth_files::pack_content(&root, &top, &mut out).map_err(|cause| of_pack(&cause))?;
        }
        Request::Changes => changes(&mut out)?,
        Request::Layer { .. } => layer(&mut out)?,
        _ => return Err(Failure::new(FailureKind::Unsupported, "that is not about files")),
    }
    out.flush().map_err(|cause| internal(format!("cannot send: {cause}")))
}

fn running(pid: i32) -> Result<Root, Failure> {
    Root::running(pid).map_err(|cause| of_files(&cause))
}

fn image() -> Rootfs {
    Rootfs::Directory { path: PathBuf::from(IMAGE) }
}

fn upper() -> PathBuf {
    Path::new(SCRATCH).join("upper")
}

fn layers() -> Rootfs {
    let upper = Upper { upper: upper(), work: Path::new(SCRATCH).join("work") };
    Rootfs::Overlay(Overlay { lower: vec![Lower::Folder(IMAGE.into())], upper: Some(upper), options: Vec::new() })
}

fn stat(root: &Root, path: &str, out: &mut impl Write) -> Result<(), Failure> {
    let found = root.find_no_follow(Path::new(path)).map_err(|cause| of_files(&cause))?;
    let look = berth_files::look(root, &found, path);
    let stat = Stat {
        name: look.name,
        size: look.size,
        mode: look.mode,
        mtime_unix_nanos: look.mtime_unix_nanos,
        link_target: look.link_target,
    };
    out.write_all(&stat.to_json()).map_err(internal)
}

fn put(root: &Root, path: &str, keep_kinds: bool, owner: &str) -> Result<(), Failure> {
    let folder = root.find(Path::new(path)).map_err(|cause| of_files(&cause))?;
    if !folder.is_dir() {
        return Err(Failure::new(FailureKind::Invalid, "extraction point is not a directory"));
    }
    if !root.can_write(&folder) {
        return Err(Failure::new(FailureKind::ReadOnly, format!("{path} is read-only")));
    }
    let owner =
        berth_files::owner(root, owner).map_err(|cause| Failure::new(FailureKind::Invalid, cause.to_string()))?;
    let options = UnpackOptions { no_overwrite_dir_non_dir: keep_kinds, owner };
    berth_files::unpack(root, &folder, std::io::stdin().lock(), options).map_err(|cause| match &cause {
        UnpackError::Files(inner) => of_files(inner),
        _ => Failure::new(FailureKind::Invalid, chain(&cause)),
    })
}

fn changes(out: &mut impl Write) -> Result<(), Failure> {
    let image = Root::of_image(&image()).map_err(|cause| of_files(&cause))?;
    for change in berth_files::changes(&upper(), image).map_err(|cause| of_files(&cause))? {
        let letter = match change.kind {
            ChangeKind::Modified => words::MODIFIED,
            ChangeKind::Added => words::ADDED,
            ChangeKind::Deleted => words::DELETED,
        };
        out.write_all(&[&[letter], change.path.as_bytes(), &[0]].concat()).map_err(internal)?;
    }
    Ok(())
}

fn layer(out: &mut impl Write) -> Result<(), Failure> {
    let image = Root::of_image(&image()).map_err(|cause| of_files(&cause))?;
    let made_for_mounting = berth_files::made_for_mounting(&upper(), &image);
    let leave_out = |path: &Path| made_for_mounting.contains(&path);
    berth_image::write_changes(&upper(), &leave_out, out).map(drop).map_err(|cause| internal(chain(&cause)))
}

/// The error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text.push_str(&format!(": {cause}"));
        below = cause.source();
    }
    text
}

fn of_files(error: &FilesError) -> Failure {
    let kind = if error.is_absent() || error.is_not_folder() {
        FailureKind::NotFound
    } else if error.is_read_only() {
        FailureKind::ReadOnly
    } else if error.is_full() {
        FailureKind::Full
    } else {
        FailureKind::Internal
    };
    Failure::new(kind, chain(error))
}

fn of_pack(error: &PackError) -> Failure {
    match error {
        PackError::Files(inner) => of_files(inner),
        PackError::Write(_) => internal(chain(error)),
    }
}
