//! Threads that write a layer's files.
//!
//! Creating a file costs the kernel more than anything else about unpacking, so several are created at once. Work
//! on one path always goes to one thread, in the order of the archive; what touches more than one path waits until
//! all threads are idle ([`Workers::wait`]).

use crate::layer::{Displaced, Meta, is_private, is_zero, refused, split};
use crate::{Result, SnapshotError, step};
use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// More do not help: one file system, one journal.
const THREADS_MAX: usize = 2;
/// Work is handed over in batches: waking a thread for each small file costs as much as the file.
const BATCH_JOBS: usize = 48;
const BATCH_BYTES: usize = 1 << 20;
/// Batches that may wait for one thread.
const BATCHES_MAX: usize = 4;
/// Zeros from this length on become holes. Shorter ones would cut files into pieces.
const HOLE_BYTES: usize = 64 << 10;
const PAGE: usize = 4096;
/// Files from this size on go to the disk while the rest of the layer is unpacked: most of its bytes and few of its
/// files. What is left for the sync at the end is small.
const WRITEBACK_BYTES_MIN: u64 = 64 << 10;

pub(super) enum Job {
    File { parent: Arc<OwnedFd>, path: Vec<u8>, meta: Meta, size: u64, entry: u64 },
    Write { offset: u64, bytes: Bytes },
    Symlink { parent: Arc<OwnedFd>, path: Vec<u8>, target: Vec<u8>, meta: Meta, entry: u64 },
    Fence(Sender<()>),
}

/// What all of one layer's threads know.
pub(super) struct Common {
    /// For messages.
    pub fs: PathBuf,
    /// Where replaced files go; made with the first one.
    pub displaced_folder: PathBuf,
    /// What a new file gets by itself.
    pub owner: (u32, u32),
    pub umask: u32,
    /// Of 512 bytes, of everything made so far.
    pub blocks: AtomicU64,
    pub displaced: Mutex<Vec<Displaced>>,
    pub next_displaced: AtomicU32,
    has_failed: AtomicBool,
    failure: Mutex<Option<SnapshotError>>,
}

impl Common {
    pub(super) fn new(folder: PathBuf) -> Common {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let umask = status.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("Umask:")?.trim(), 8).ok());
        Common {
            fs: folder.join("fs"),
            displaced_folder: folder.join("displaced"),
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            // Not known: then the rights of every file are set once more.
            umask: umask.unwrap_or(0o777),
            blocks: AtomicU64::new(0),
            displaced: Mutex::default(),
            next_displaced: AtomicU32::new(0),
            has_failed: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    pub(super) fn failed(&self, action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> SnapshotError {
        let path = self.fs.join(crate::shown(path));
        move |errno| step(action, path)(errno.into())
    }

    fn fail(&self, error: SnapshotError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.has_failed.store(true, Ordering::Release);
    }

    /// The first error of any thread, once.
    pub(super) fn check(&self) -> Result<()> {
        if !self.has_failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let first = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(first.unwrap_or_else(|| refused(b"", "an earlier entry failed")))
    }

    /// Takes away what stands at `path`, keeping it where the archive's content is in it.
    pub(super) fn displace(&self, parent: &OwnedFd, name: &[u8], path: &[u8], entry: u64) -> Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("stat", path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {}
            _ => return rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(self.failed("replace", path)),
        }
        match std::fs::create_dir(&self.displaced_folder) {
            Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(step("make", &self.displaced_folder)(cause));
            }
            _ => {}
        }
        let number = self.next_displaced.fetch_add(1, Ordering::Relaxed);
        let to = self.displaced_folder.join(number.to_string());
        rustix::fs::renameat(parent, name, rustix::fs::CWD, &to).map_err(self.failed("replace", path))?;
        let displaced = Displaced { path: path.to_vec(), by: entry, number };
        self.displaced.lock().unwrap_or_else(PoisonError::into_inner).push(displaced);
        Ok(())
    }

    /// Owner first: changing it clears set-user-id and file capabilities. `made_with`: the rights it was made with.
    pub(super) fn apply(&self, fd: &OwnedFd, meta: &Meta, made_with: Option<u32>, path: &[u8]) -> Result<()> {
        if (meta.uid, meta.gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(self.failed("change the owner of", path))?;
        }
        if made_with.is_none_or(|made| made & !self.umask != meta.mode) {
            let mode = Mode::from_raw_mode(meta.mode);
            rustix::fs::fchmod(fd, mode).map_err(self.failed("change the rights of", path))?;
        }
        for (name, value) in &meta.xattrs {
            if !is_private(name) {
                accept(rustix::fs::fsetxattr(fd, &name[..], value, XattrFlags::empty()))
                    .map_err(self.failed("set attributes of", path))?;
            }
        }
        rustix::fs::futimens(fd, &times(meta)).map_err(self.failed("set the time of", path))
    }

    /// The same for what has no descriptor of its own: links, devices, pipes.
    pub(super) fn apply_named(&self, parent: &OwnedFd, name: &[u8], meta: &Meta, path: &[u8]) -> Result<()> {
        if (meta.uid, meta.gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(self.failed("change the owner of", path))?;
        }
        for (key, value) in &meta.xattrs {
            if !is_private(key) {
                // The last name of the path is not followed.
                let at = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name].concat();
                accept(rustix::fs::lsetxattr(&at[..], &key[..], value, XattrFlags::empty()))
                    .map_err(self.failed("set attributes of", path))?;
            }
        }
        rustix::fs::utimensat(parent, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("set the time of", path))
    }

    pub(super) fn count(&self, blocks: i64) {
        self.blocks.fetch_add(blocks.unsigned_abs(), Ordering::Relaxed);
    }
}

/// A file system without such attributes holds the file without them.
fn accept(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

fn times(meta: &Meta) -> Timestamps {
    let time = Timespec { tv_sec: meta.mtime_seconds, tv_nsec: i64::from(meta.mtime_nanos) };
    Timestamps { last_access: time, last_modification: time }
}

pub(super) struct Workers {
    pub common: Arc<Common>,
    threads: Vec<Thread>,
}

struct Thread {
    sender: Option<SyncSender<Vec<Job>>>,
    batch: Vec<Job>,
    batch_bytes: usize,
    handle: Option<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(common: Arc<Common>) -> Result<Workers> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut workers = Workers { common, threads: Vec::new() };
        for _ in 0..cores.min(THREADS_MAX) {
            let (sender, receiver) = sync_channel(BATCHES_MAX);
            let common = workers.common.clone();
            let handle = std::thread::Builder::new()
                .name("write-layer".to_owned())
                .spawn(move || work(&common, &receiver))
                .map_err(step("start a thread for", &workers.common.fs))?;
            workers.threads.push(Thread {
                sender: Some(sender),
                batch: Vec::new(),
                batch_bytes: 0,
                handle: Some(handle),
            });
        }
        Ok(workers)
    }

    /// The thread for a path.
    pub(super) fn of(&self, hash: u64) -> usize {
        usize::try_from(hash % self.threads.len() as u64).unwrap_or(0)
    }

    pub(super) fn give(&mut self, to: usize, job: Job) {
        let thread = &mut self.threads[to];
        thread.batch_bytes += match &job {
            Job::Write { bytes, .. } => bytes.len(),
            _ => 0,
        };
        thread.batch.push(job);
        if thread.batch.len() >= BATCH_JOBS || thread.batch_bytes >= BATCH_BYTES {
            thread.flush();
        }
    }

    /// Waits until all that was given is done.
    pub(super) fn wait(&mut self) -> Result<()> {
        let (sender, receiver) = channel();
        for thread in &mut self.threads {
            thread.batch.push(Job::Fence(sender.clone()));
            thread.flush();
        }
        drop(sender);
        // Ends when every thread has answered and dropped its sender.
        while receiver.recv().is_ok() {}
        self.common.check()
    }
}

impl Thread {
    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if let Some(sender) = &self.sender {
            // A thread that panicked takes nothing; joining it tells.
            drop(sender.send(batch));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            thread.sender = None;
        }
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                drop(handle.join());
            }
        }
    }
}

/// The file that a thread is writing.
struct Open {
    fd: OwnedFd,
    path: Vec<u8>,
    meta: Meta,
    made_with: u32,
    size: u64,
    /// Nothing is written at or after it.
    end: u64,
}

fn work(common: &Common, jobs: &Receiver<Vec<Job>>) {
    let mut open: Option<Open> = None;
    while let Ok(batch) = jobs.recv() {
        for job in batch {
            let failed = common.has_failed.load(Ordering::Acquire);
            let done = match job {
                Job::Write { offset, bytes } if !failed => match &mut open {
                    Some(file) => file.write(common, offset, &bytes),
                    None => Ok(()),
                },
                Job::Write { .. } => Ok(()),
                next => {
                    let closed = match open.take() {
                        Some(file) if !failed => file.close(common),
                        _ => Ok(()),
                    };
                    closed.and_then(|()| begin(common, next, failed, &mut open))
                }
            };
            if let Err(error) = done {
                common.fail(error);
            }
        }
    }
}

fn begin(common: &Common, job: Job, failed: bool, open: &mut Option<Open>) -> Result<()> {
    match job {
        Job::Fence(sender) => {
            drop(sender);
            Ok(())
        }
        _ if failed => Ok(()),
        Job::File { parent, path, meta, size, entry } => {
            *open = Some(create(common, &parent, path, meta, size, entry)?);
            Ok(())
        }
        Job::Symlink { parent, path, target, meta, entry } => {
            let name = split(&path).1;
            let mut made = rustix::fs::symlinkat(&target[..], &*parent, name);
            if matches!(made, Err(Errno::EXIST)) {
                common.displace(&parent, name, &path, entry)?;
                made = rustix::fs::symlinkat(&target[..], &*parent, name);
            }
            made.map_err(common.failed("create the link", &path))?;
            if target.len() >= 60 {
                // What does not fit into an inode takes a block.
                common.count(8);
            }
            common.apply_named(&parent, name, &meta, &path)
        }
        Job::Write { .. } => Ok(()),
    }
}

fn create(common: &Common, parent: &OwnedFd, path: Vec<u8>, meta: Meta, size: u64, entry: u64) -> Result<Open> {
    let name = split(&path).1;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made_with = meta.mode & 0o777;
    let mut made = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(made_with));
    if matches!(made, Err(Errno::EXIST)) {
        common.displace(parent, name, &path, entry)?;
        made = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(made_with));
    }
    let fd = made.map_err(common.failed("create", &path))?;
    Ok(Open { fd, path, meta, made_with, size, end: 0 })
}

/// The parts of `bytes`, which lie at `offset` of a file, that are not long runs of zeros.
fn parts(offset: u64, bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut parts: Vec<std::ops::Range<usize>> = Vec::new();
    let mut zeros = 0;
    let mut at = 0;
    while at < bytes.len() {
        let to_page = PAGE - usize::try_from((offset + at as u64) % PAGE as u64).unwrap_or(0);
        let end = bytes.len().min(at + to_page);
        let whole = to_page == PAGE || at == 0;
        if whole && is_zero(&bytes[at..end]) {
            zeros += end - at;
        } else {
            match parts.last_mut() {
                Some(last) if zeros < HOLE_BYTES => last.end = end,
                None if zeros < HOLE_BYTES => parts.push(0..end),
                _ => parts.push(at..end),
            }
            zeros = 0;
        }
        at = end;
    }
    // Zeros at the end: a hole if there are many or nothing else, else part of what was before.
    match parts.last_mut() {
        Some(last) if zeros > 0 && zeros < HOLE_BYTES => last.end = bytes.len(),
        None if zeros < PAGE && zeros > 0 => parts.push(0..bytes.len()),
        _ => {}
    }
    parts
}

impl Open {
    fn write(&mut self, common: &Common, offset: u64, bytes: &[u8]) -> Result<()> {
        for part in parts(offset, bytes) {
            let (mut at, mut rest) = (offset + part.start as u64, &bytes[part]);
            while !rest.is_empty() {
                match rustix::io::pwrite(&self.fd, rest, at) {
                    Ok(count) => (at, rest) = (at + count as u64, &rest[count..]),
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(common.failed("write", &self.path)(errno)),
                }
            }
            self.end = self.end.max(at);
        }
        Ok(())
    }

    fn close(self, common: &Common) -> Result<()> {
        if self.end < self.size {
            rustix::fs::ftruncate(&self.fd, self.size).map_err(common.failed("write", &self.path))?;
        }
        common.apply(&self.fd, &self.meta, Some(self.made_with), &self.path)?;
        let stat = rustix::fs::fstat(&self.fd).map_err(common.failed("stat", &self.path))?;
        common.count(stat.st_blocks);
        if self.end >= WRITEBACK_BYTES_MIN {
            berth_sys::writeback::begin(self.fd.as_fd(), 0, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_zeros_become_holes_and_short_ones_do_not() {
        let mut bytes = vec![1; 4096];
        bytes.extend(vec![0; 200_000]);
        bytes.extend(vec![1; 10]);
        assert_eq!(parts(0, &bytes), [0..4096, 200_704..204_106]);
        assert_eq!(parts(0, &vec![0; 1 << 20]), []);
        let mut short = vec![1; 4096];
        short.extend(vec![0; 8192]);
        short.extend(vec![1; 10]);
        assert_eq!(parts(0, &short), vec![0..short.len(); 1]);
        assert_eq!(parts(100, &[0; 50]), vec![0..50; 1]);
        assert_eq!(parts(0, &[]), []);
    }

    #[test]
    fn what_is_left_out_is_zero_wherever_a_piece_begins() {
        let mut bytes = vec![0_u8; 400_000];
        for at in [3, 90_000, 90_001, 250_000, 399_999] {
            bytes[at] = 7;
        }
        for (offset, cut) in [(0, 400_000), (1, 65_536), (4095, 70_001), (8192, 262_144)] {
            let mut written = vec![0_u8; bytes.len()];
            for (n, piece) in bytes.chunks(cut).enumerate() {
                for part in parts(offset + (n * cut) as u64, piece) {
                    written[n * cut + part.start..n * cut + part.end].copy_from_slice(&piece[part]);
                }
            }
            assert!(written == bytes, "{offset} {cut}");
        }
    }
}
