//! Shims started ahead of time, so that a container's start does not wait for a program to load.
//!
//! An idle shim has nothing but its end of the socket pair: it ends when the engine does. Only the note
//! [`SPAWNED`] in a container's folder ties it to a container.

use super::client::{Incoming, Shim};
use crate::EngineConfig;
use berth_sys::spawn::Spawner;
use berth_types::{Error, ErrorKind, Result};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixStream;

/// The number under which a shim finds its connection.
const CONNECTION: i32 = 3;
/// By then a container that took an idle shim runs.
const AFTER_START: Duration = Duration::from_millis(15);
/// A shim that was let go has ended by then, or is killed.
const END_SECONDS_MAX: u64 = 3;

/// In a container's shim folder before anything is asked of the shim: pid and start time, so that whoever
/// looks at a stuck container knows whose shim it is. A link that leads nowhere: its text needs no page of memory.
const SPAWNED: &str = "spawned";

pub(crate) struct Pool {
    program: PathBuf,
    log: PathBuf,
    exec_root: PathBuf,
    size: usize,
    idle: Mutex<Vec<Idle>>,
    /// `None` on kernels where a thread cannot take the process's descriptors (before 5.9).
    spawner: Option<Spawner>,
    /// A refill is on its way.
    due: AtomicBool,
}

/// A child that is waited for when nobody wants it any more.
struct Child(i32);

impl Child {
    /// Somebody else waits for it from now on.
    fn claimed(self) -> i32 {
        let pid = self.0;
        std::mem::forget(self);
        pid
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // At the engine's end its children go to the system's first process.
        if tokio::runtime::Handle::try_current().is_ok() {
            forget_process(self.0);
        }
    }
}

struct Idle {
    child: Child,
    start_ticks: u64,
    stream: std::os::unix::net::UnixStream,
}

impl Idle {
    /// An idle shim says nothing: what can be read is its end.
    fn has_ended(&self) -> bool {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let mut byte = [0_u8; 1];
        !matches!(rustix::net::recv(&self.stream, &mut byte[..], flags), Err(rustix::io::Errno::AGAIN))
    }
}

/// A shim of one's own.
pub(crate) struct Taken {
    pub(crate) shim: Arc<Shim>,
    pub(crate) incoming: Incoming,
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

impl Pool {
    pub(crate) fn new(config: &EngineConfig) -> Arc<Pool> {
        Arc::new(Pool {
            program: config.shim_program.clone(),
            log: config.exec_root.join("shims.log"),
            exec_root: config.exec_root.clone(),
            size: config.idle_shims,
            idle: Mutex::new(Vec::new()),
            spawner: Spawner::start().inspect_err(|error| tracing::info!(%error, "shims are started directly")).ok(),
            due: AtomicBool::new(false),
        })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An idle shim, or a new one where all are taken. Another is started behind.
    pub(crate) async fn take(self: &Arc<Pool>) -> Result<Taken> {
        let idle = loop {
            match self.idle().pop() {
                // Somebody killed it while it waited.
                Some(idle) if idle.has_ended() => drop(idle),
                other => break other,
            }
        };
        let idle = match idle {
            Some(idle) => idle,
            None => {
                let pool = self.clone();
                let started = tokio::task::spawn_blocking(move || pool.start()).await;
                started.unwrap_or_else(|error| Err(Error::internal(format!("starting a shim ended early: {error}"))))?
            }
        };
        self.refill_soon();
        let failed = |cause: std::io::Error| Error::because(ErrorKind::Internal, "cannot speak to a shim", &cause);
        let stream = UnixStream::from_std(idle.stream).map_err(failed)?;
        let (shim, incoming) = Shim::over(stream);
        Ok(Taken { shim, incoming, pid: idle.child.claimed(), start_ticks: idle.start_ticks })
    }

    /// Starts what is missing once the container whose shim was taken has had its time: at once it would only take
    /// the processor from it.
    fn refill_soon(self: &Arc<Pool>) {
        if self.due.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(AFTER_START).await;
            pool.due.store(false, Ordering::Release);
            pool.refill();
        });
    }

    /// Starts what is missing, behind.
    pub(crate) fn refill(self: &Arc<Pool>) {
        if self.idle().len() >= self.size {
            return;
        }
        let pool = self.clone();
        drop(tokio::task::spawn_blocking(move || {
            while pool.idle().len() < pool.size {
                match pool.start() {
                    Ok(idle) => pool.idle().push(idle),
                    // The next start tries again, and tells its caller.
                    Err(error) => return tracing::warn!(%error, "no idle shim"),
                }
            }
        }));
    }

    fn start(&self) -> Result<Idle> {
        let failed = |cause: std::io::Error| {
            Error::because(ErrorKind::Unavailable, format!("cannot start {}", self.program.display()), &cause)
        };
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|cause| failed(cause.into()));
        let program = text(self.program.as_os_str().as_bytes())?;
        let arguments = [text(b"berth-shim")?, text(self.exec_root.as_os_str().as_bytes())?];
        // The C library keeps a few freed blocks of each size for the next who asks, all over the heap: a shim that
        // has started its container and waits would hold 30 KB for them.
        let environment = [
            text(b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")?,
            text(b"GLIBC_TUNABLES=glibc.malloc.tcache_count=0")?,
        ];
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
        // What a shim says when it dies; nothing in ordinary days.
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).map_err(failed)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let descriptors = [(null.as_fd(), 0), (null.as_fd(), 1), (log.as_fd(), 2), (theirs.as_fd(), CONNECTION)];
        let started = match &self.spawner {
            Some(spawner) => spawner.spawn(&program, &arguments, &environment, &descriptors),
            None => berth_sys::spawn::spawn(&program, &arguments, &environment, &descriptors),
        };
        let pid = started.map_err(|errno| failed(errno.into()))?;
        Ok(Idle { child: Child(pid), start_ticks: start_ticks(pid).unwrap_or(0), stream: ours })
    }
}

impl Taken {
    /// Leaves the note that ties it to the container of folder `dir`. `boot`: the kernel's name for this boot,
    /// after which pids and times mean something else.
    pub(crate) fn note(&self, dir: &Path, boot: &str) -> std::io::Result<()> {
        std::os::unix::fs::symlink(format!("{} {} {boot}", self.pid, self.start_ticks), dir.join(SPAWNED))
    }
}

/// A shim by pid and start time, as an earlier engine noted it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spawned {
    pid: i32,
    start_ticks: u64,
}

/// Who was started during this boot for the container of folder `dir`.
pub(crate) fn spawned(dir: &Path, boot: &str) -> Option<Spawned> {
    let path = dir.join(SPAWNED);
    // Engines before wrote a file.
    let text = std::fs::read_link(&path)
        .map(PathBuf::into_os_string)
        .or_else(|_| std::fs::read_to_string(&path).map(Into::into));
    let text = text.ok()?.into_string().ok()?;
    let mut words = text.split_whitespace();
    let (pid, start_ticks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (words.next() == Some(boot)).then_some(Spawned { pid, start_ticks })
}

impl Spawned {
    /// Whether the process is still the one that was noted.
    pub(crate) fn lives(self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Ends it: a shim that neither answers nor goes.
    pub(crate) fn kill(self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid).filter(|_| self.lives()) {
            // Gone meanwhile is as good.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    }
}

/// When a process began, in clock ticks since boot: field 22 of proc_pid_stat(5).
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and parentheses: the fields begin after the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A zombie has ended.
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Waits behind until a shim that this engine started has ended, so that no zombie stays. Killed if it
/// does not end by itself.
pub(crate) fn forget_process(pid: i32) {
    tokio::spawn(ended(pid));
}

/// Waits until a shim that this engine started has ended; killed if it does not end by itself.
pub(crate) async fn ended(pid: i32) {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
    let mut pause = Duration::from_millis(1);
    let begin = std::time::Instant::now();
    let mut killed = false;
    loop {
        match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG) {
            Ok(None) => {}
            // Ended, or not a child of ours.
            Ok(Some(_)) | Err(_) => return,
        }
        if !killed && begin.elapsed() > Duration::from_secs(END_SECONDS_MAX) {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), "a shim does not end: killed");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            killed = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
