//! Starting a program from a process with threads: posix_spawn(3), which shares the memory until the exec.

use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

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
