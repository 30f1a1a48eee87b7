//! Starting a program from a process with threads: posix_spawn(3), which shares the memory until the exec.

use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc;

/// Frees what posix_spawn's two objects hold.
struct Prepared {
    actions: libc::posix_spawn_file_actions_t,
    attributes: libc::posix_spawnattr_t,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // SAFETY: both were initialized when this was made and are not used afterwards.
        unsafe {
            libc::posix_spawn_file_actions_destroy(&raw mut self.actions);
            libc::posix_spawnattr_destroy(&raw mut self.attributes);
        }
    }
}

fn check(result: i32) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(result)) }
}

/// Starts `program` in a session of its own, with default signals, none of them blocked.
///
/// `descriptors` say which of ours becomes which number there; everything else must be close-on-exec. The
/// caller waits for the child: it is a zombie once it has ended.
pub fn spawn(
    program: &CStr,
    arguments: &[CString],
    environment: &[CString],
    descriptors: &[(BorrowedFd<'_>, i32)],
) -> Result<i32, Errno> {
    // SAFETY: both are plain C structures that the two init calls below fill before anything reads them.
    let mut prepared: Prepared = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers are valid for the calls, which initialize what they point to.
    unsafe {
        check(libc::posix_spawn_file_actions_init(&raw mut prepared.actions))?;
        check(libc::posix_spawnattr_init(&raw mut prepared.attributes))?;
    }
    for (ours, theirs) in descriptors {
        // SAFETY: the object is initialized; the numbers are copied. Equal numbers lose their
        // close-on-exec flag (glibc 2.29 and later).
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut prepared.actions, ours.as_raw_fd(), *theirs) })?;
    }
    let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
    let flags = i16::try_from(flags | i32::from(libc::POSIX_SPAWN_SETSID)).unwrap_or(0);
    // SAFETY: the sets are plain data that sigemptyset and sigfillset fill; the setters copy them into the
    // initialized attributes.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigfillset(&raw mut all);
        check(libc::posix_spawnattr_setsigmask(&raw mut prepared.attributes, &raw const none))?;
        check(libc::posix_spawnattr_setsigdefault(&raw mut prepared.attributes, &raw const all))?;
        check(libc::posix_spawnattr_setflags(&raw mut prepared.attributes, flags))?;
    }
    let pointers = |list: &[CString]| -> Vec<*mut libc::c_char> {
        list.iter().map(|text| text.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    let mut pid = 0;
    // SAFETY: program is NUL-terminated; argv and envp are NULL-terminated arrays of such texts that live
    // across the call; posix_spawn changes none of them.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const prepared.actions,
            &raw const prepared.attributes,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    })?;
    Ok(pid)
}

/// Starts programs from a process with many open descriptors at the price of one with few.
///
/// A child begins with a copy of the descriptors of the thread that starts it, and closes them as it executes its
/// program: with four thousand of them that is most of a millisecond. So one thread has a table of its own with the
/// first three alone, and takes what a program is given out of everybody else's (pidfd_getfd(2)).
#[derive(Debug)]
pub struct Spawner {
    requests: mpsc::Sender<Request>,
}

struct Request {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    descriptors: Vec<(RawFd, i32)>,
    answer: mpsc::Sender<Result<i32, Errno>>,
}

/// The thread calls a few functions deep.
const SPAWNER_STACK_BYTES: usize = 128 * 1024;

impl Spawner {
    /// To be started while the process has few descriptors. The thread ends with this.
    pub fn start() -> std::io::Result<Spawner> {
        let (requests, received) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let builder = std::thread::Builder::new().name("spawner".to_owned()).stack_size(SPAWNER_STACK_BYTES);
        builder.spawn(move || {
            // The process's signal handlers write into its descriptors, which are not in this thread's table: a SIGTERM that
            // the kernel gives to this thread would be lost.
            let own = crate::signals::block_all().and_then(|()| own_table());
            let failed = own.as_ref().err().copied();
            // Who waits for it is there, or has no use for it.
            ready.send(failed).ok();
            if let Ok(process) = own {
                serve(&process, &received);
            }
        })?;
        match is_ready.recv() {
            Ok(None) => Ok(Spawner { requests }),
            Ok(Some(errno)) => Err(errno.into()),
            Err(mpsc::RecvError) => Err(std::io::Error::other("the spawner's thread ended")),
        }
    }

    /// As [`spawn`].
    pub fn spawn(
        &self,
        program: &CStr,
        arguments: &[CString],
        environment: &[CString],
        descriptors: &[(BorrowedFd<'_>, i32)],
    ) -> Result<i32, Errno> {
        let (answer, answered) = mpsc::channel();
        let request = Request {
            program: program.to_owned(),
            arguments: arguments.to_vec(),
            environment: environment.to_vec(),
            descriptors: descriptors.iter().map(|(ours, theirs)| (ours.as_raw_fd(), *theirs)).collect(),
            answer,
        };
        // The borrows last until the answer is there, so the numbers mean what they meant.
        match self.requests.send(request) {
            Ok(()) => answered.recv().unwrap_or(Err(Errno::SRCH)),
            Err(_) => Err(Errno::SRCH),
        }
    }
}

/// Leaves the process's table of descriptors for one with the first three; answers the process.
fn own_table() -> Result<OwnedFd, Errno> {
    const FIRST_CLOSED: u32 = 3;
    // SAFETY: the calls take integers. The calling thread is fresh and owns no descriptor: what it closes are copies in
    // a table that nobody shares, and it takes every descriptor that it uses out of the process anew.
    let ret = unsafe {
        match libc::unshare(libc::CLONE_FILES) {
            0 => libc::syscall(libc::SYS_close_range, FIRST_CLOSED, u32::MAX, 0),
            refused => i64::from(refused),
        }
    };
    if ret != 0 {
        return Err(crate::clone::last_error());
    }
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
}

fn serve(process: &OwnedFd, requests: &mpsc::Receiver<Request>) {
    while let Ok(request) = requests.recv() {
        let started = take(process, &request.descriptors).and_then(|taken| {
            let descriptors: Vec<(BorrowedFd<'_>, i32)> =
                taken.iter().map(|(fd, number)| (fd.as_fd(), *number)).collect();
            spawn(&request.program, &request.arguments, &request.environment, &descriptors)
        });
        // Whoever asked waits.
        request.answer.send(started).ok();
    }
}

/// The process's descriptors, in this thread's table.
fn take(process: &OwnedFd, descriptors: &[(RawFd, i32)]) -> Result<Vec<(OwnedFd, i32)>, Errno> {
    let get = |&(ours, theirs): &(RawFd, i32)| {
        let flags = rustix::process::PidfdGetfdFlags::empty();
        rustix::process::pidfd_getfd(process, ours, flags).map(|fd| (fd, theirs))
    };
    descriptors.iter().map(get).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_spawner_hands_over_what_it_is_given_and_nothing_else() {
        let spawner = Spawner::start().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        // Open in the process and meant for nobody: neither ends up in the program nor is closed by the spawner.
        let stranger = std::fs::File::open("/dev/null").unwrap();
        let arguments: Vec<CString> =
            ["sh", "-c", "exec >&3; ls /proc/$$/fd; :"].map(|text| CString::new(text).unwrap()).to_vec();
        let program = CString::new("/bin/sh").unwrap();
        let environment = [CString::new("PATH=/usr/bin:/bin").unwrap()];
        let pid = spawner.spawn(&program, &arguments, &environment, &[(theirs.as_fd(), 3)]).unwrap();
        drop(theirs);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert!(text.split_whitespace().eq(["0", "1", "2", "3"]), "{text}");
        rustix::fs::fstat(&stranger).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        let missing = CString::new("/nonexistent").unwrap();
        assert_eq!(spawner.spawn(&missing, &arguments, &[], &[]), Err(Errno::NOENT));
    }

    #[test]
    fn no_signal_of_the_process_is_handled_by_the_spawner() {
        let _spawner = Spawner::start().unwrap();
        let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|thread| thread.path());
        let blocked = |thread: &std::path::Path| {
            let status = std::fs::read_to_string(thread.join("status")).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
            u64::from_str_radix(&mask, 16).unwrap()
        };
        let spawners: Vec<u64> = threads
            .filter(|thread| std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name == "spawner\n"))
            .map(|thread| blocked(&thread))
            .collect();
        assert!(!spawners.is_empty());
        for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD] {
            assert!(spawners.iter().all(|mask| mask & (1 << (number - 1)) != 0), "{number}: {spawners:x?}");
        }
    }

    #[test]
    fn a_program_gets_the_descriptors_that_it_was_given() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let arguments: Vec<CString> =
            ["sh", "-c", "read line <&3; echo got $line >&3"].map(|text| CString::new(text).unwrap()).to_vec();
        let program = CString::new("/bin/sh").unwrap();
        let pid = spawn(&program, &arguments, &[], &[(theirs.as_fd(), 3)]).unwrap();
        drop(theirs);
        ours.write_all(b"it\n").unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "got it\n");
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        let missing = CString::new("/nonexistent").unwrap();
        assert_eq!(spawn(&missing, &arguments, &[], &[]), Err(Errno::NOENT));
    }
}
