//! Syscall filters: an OCI seccomp profile becomes a classic BPF program.
//!
//! ```text
//!  LinuxSeccomp --rules--> per architecture: syscall -> leaf --program--> ranges, binary search --> [SockFilter]
//!                                                                                 cache: <dir>/<sha of the profile>
//! ```
//!
//! - A syscall costs eight comparisons on its way through Docker's policy, not three hundred: neighbouring
//!   numbers with the same answer are one range, and ranges are searched by halves.
//! - What a profile does not name gets its default action; what is *newer than the newest syscall that it
//!   names* gets ENOSYS instead, so that C libraries fall back instead of failing (as runc does).
//! - A process of an architecture that the profile does not list is killed.
//! - Names that no table knows are skipped: profiles name syscalls of other architectures and kernels.
//!
//! Sources: seccomp(2), the kernel's Documentation/userspace-api/seccomp_filter.rst, the OCI runtime
//! specification (config-linux.md, "Seccomp"), <linux/audit.h>.

mod arch;
mod cache;
mod program;
mod rules;
#[rustfmt::skip]
mod tables;
#[cfg(test)]
mod tests;

pub use cache::{load_or_compile, load_or_compile_text};

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

/// One classic BPF instruction (`struct sock_filter`, <linux/filter.h>).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SockFilter {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A filter that is ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub instructions: Vec<SockFilter>,
    /// `SECCOMP_FILTER_FLAG_*` for seccomp(2), without NEW_LISTENER.
    pub flags: u32,
    /// Some action notifies: the filter must be loaded with a listener.
    pub notify: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp: architecture {0} is not supported")]
    Architecture(String),
    #[error("seccomp: syscall {syscall}: argument {index} does not exist; there are six, from 0")]
    ArgumentIndex { syscall: String, index: usize },
    #[error("seccomp: the profile cannot be read: {0}")]
    Text(String),
    #[error("seccomp: errno {0} is too large; at most 4095")]
    Errno(u32),
    #[error("seccomp: the filter has {0} instructions; the kernel takes at most 4096")]
    TooLong(usize),
}

/// <linux/bpf_common.h>, BPF_MAXINSNS
const INSTRUCTIONS_MAX: usize = 4096;

/// `SECCOMP_FILTER_FLAG_*`, <linux/seccomp.h>. TSYNC is left out: a container's first process has one thread.
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Turns a profile into a program.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let machines = arch::machines(profile.architectures().as_deref())?;
    let mut notify = false;
    let mut sections = Vec::with_capacity(machines.len());
    for machine in machines {
        let ranges = rules::ranges(profile, &machine, &mut notify)?;
        sections.push((machine.audit, program::section(&ranges)));
    }
    let instructions = program::whole(&sections);
    if instructions.len() > INSTRUCTIONS_MAX {
        return Err(SeccompError::TooLong(instructions.len()));
    }
    Ok(Filter { instructions, flags: flags(profile), notify })
}

fn flags(profile: &LinuxSeccomp) -> u32 {
    let Some(flags) = profile.flags() else {
        // As runc: a container is not slowed by the mitigation that filters once switched on.
        return FLAG_SPEC_ALLOW;
    };
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => FLAG_WAIT_KILLABLE_RECV,
    };
    flags.iter().fold(0, |all, flag| all | bit(flag))
}
