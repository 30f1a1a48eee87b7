//! The syscalls that a container may make by default: Docker's policy, as a function of its capabilities.
//!
//! What is not named is refused with EPERM. A capability that is granted brings the calls that it is about;
//! without it they would fail anyway, and the filter keeps their code out of reach. Docker documents what
//! it refuses and why: docs.docker.com/engine/security/seccomp.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};
use std::collections::HashSet;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// `CLONE_NEW*` of all namespaces but time, <linux/sched.h>.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Calls that every container may make, by subject.
const ALWAYS: &[&str] = &[
    // files and folders
    "open openat openat2 creat close close_range read readv pread64 preadv preadv2 write writev pwrite64 pwritev \
     pwritev2 lseek _llseek sendfile sendfile64 copy_file_range splice tee vmsplice fallocate truncate truncate64 \
     ftruncate ftruncate64 readahead fadvise64 fadvise64_64 sync syncfs fsync fdatasync sync_file_range \
     dup dup2 dup3 fcntl fcntl64 flock ioctl pipe pipe2",
    "access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 \
     fstatfs fstatfs64 getdents getdents64 getcwd chdir fchdir readlink readlinkat link linkat symlink symlinkat \
     unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir mknod mknodat umask chmod fchmod fchmodat \
     fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 utime utimes utimensat utimensat_time64 \
     futimesat name_to_handle_at",
    "getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr \
     listxattrat removexattr lremovexattr fremovexattr removexattrat",
    "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark",
    // memory
    "brk mmap mmap2 munmap mremap mprotect madvise mincore mlock mlock2 mlockall munlock munlockall msync \
     remap_file_pages membarrier memfd_create memfd_secret pkey_alloc pkey_free pkey_mprotect map_shadow_stack mseal \
     cachestat",
    // processes, identities, limits
    "fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid getpgid getpgrp getsid \
     setpgid setsid kill tkill tgkill pause restart_syscall rseq set_tid_address set_robust_list get_robust_list \
     get_thread_area set_thread_area prctl seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self \
     pidfd_open pidfd_send_signal process_mrelease",
    "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32 \
     getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid \
     setresuid32 setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset",
    "getrlimit ugetrlimit setrlimit prlimit64 getrusage times getpriority setpriority ioprio_get ioprio_set \
     sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler \
     sched_setscheduler sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min \
     sched_rr_get_interval sched_rr_get_interval_time64 getcpu sysinfo uname",
    // signals, waiting, time
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_sigtimedwait_time64 sigaltstack sigprocmask sigreturn \
     signalfd signalfd4 uretprobe",
    "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1 epoll_ctl \
     epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 futex futex_time64 futex_waitv \
     futex_wait futex_wake futex_requeue",
    "time gettimeofday nanosleep clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep \
     clock_nanosleep_time64 clock_adjtime clock_adjtime64 adjtimex alarm getitimer setitimer timer_create timer_delete \
     timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
     timerfd_gettime64 timerfd_settime timerfd_settime64",
    // sockets
    "socketcall socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt \
     send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64",
    // System V and POSIX queues, asynchronous input and output
    "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget \
     mq_open mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
     io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64",
    "getrandom listmount statmount",
    // safe since 4.8: a tracer cannot get round its own filter any more
    "ptrace process_vm_readv process_vm_writev",
];

/// Calls that only exist on these processors.
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &str = "arch_prctl modify_ldt";
#[cfg(target_arch = "aarch64")]
const ALWAYS_HERE: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// Calls that come with a capability.
const WITH: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Personalities that change no protection: PER_LINUX, PER_LINUX32, each with UNAME26; and the question.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The policy for a container with these capabilities in its bounding set.
pub fn builtin(capabilities: &HashSet<Capability>) -> LinuxSeccomp {
    let names = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut rules = Vec::new();
    let mut allowed: Vec<String> = ALWAYS.iter().flat_map(|subject| names(subject)).collect();
    allowed.extend(names(ALWAYS_HERE));
    for (capability, text) in WITH {
        if capabilities.contains(capability) {
            allowed.extend(names(text));
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    rules.push(rule(allowed, LinuxSeccompAction::ScmpActAllow));

    // Virtual machine sockets reach the hypervisor round every network namespace; the kernel's cipher sockets
    // are attack surface that next to nothing needs. Tests of one argument are alternatives.
    let others = [
        test(LinuxSeccompOperator::ScmpCmpLt, AF_ALG, None),
        test(LinuxSeccompOperator::ScmpCmpEq, AF_ALG + 1, None),
        test(LinuxSeccompOperator::ScmpCmpGt, AF_VSOCK, None),
    ];
    let mut socket = rule(names("socket"), LinuxSeccompAction::ScmpActAllow);
    socket.set_args(Some(others.to_vec()));
    rules.push(socket);
    for value in PERSONALITIES {
        let mut personality = rule(names("personality"), LinuxSeccompAction::ScmpActAllow);
        personality.set_args(Some(vec![test(LinuxSeccompOperator::ScmpCmpEq, value, None)]));
        rules.push(personality);
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        // Threads and processes, but no namespaces; clone3 hides its flags from filters: libraries fall back.
        let mut clone = rule(names("clone"), LinuxSeccompAction::ScmpActAllow);
        clone.set_args(Some(vec![test(LinuxSeccompOperator::ScmpCmpMaskedEq, NEW_NAMESPACES, Some(0))]));
        rules.push(clone);
        let mut clone3 = rule(names("clone3"), LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(ENOSYS));
        rules.push(clone3);
    }

    let architectures = if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    };
    let mut policy = LinuxSeccomp::default();
    policy
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(architectures))
        .set_syscalls(Some(rules));
    policy
}

fn rule(names: Vec<String>, action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names).set_action(action);
    rule
}

/// A test of the first argument.
fn test(operator: LinuxSeccompOperator, value: u64, second: Option<u64>) -> LinuxSeccompArg {
    let mut builder = LinuxSeccompArgBuilder::default().index(0usize).value(value).op(operator);
    if let Some(second) = second {
        builder = builder.value_two(second);
    }
    builder.build().expect("index, value and operator are all that it needs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(capabilities: &[Capability]) -> HashSet<String> {
        let policy = builtin(&capabilities.iter().copied().collect());
        let rules = policy.syscalls().clone().unwrap();
        let open = rules.iter().filter(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow && rule.args().as_ref().is_none_or(Vec::is_empty)
        });
        open.flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn what_docker_documents_as_refused_is_refused() {
        let open = allowed(&[]);
        for refused in [
            "acct",
            "add_key",
            "bpf",
            "clock_settime",
            "clone",
            "create_module",
            "delete_module",
            "finit_module",
            "get_kernel_syms",
            "init_module",
            "io_uring_setup",
            "ioperm",
            "iopl",
            "kcmp",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "lookup_dcookie",
            "mount",
            "move_pages",
            "nfsservctl",
            "open_by_handle_at",
            "perf_event_open",
            "personality",
            "pivot_root",
            "quotactl",
            "reboot",
            "request_key",
            "setns",
            "settimeofday",
            "socket",
            "stime",
            "swapon",
            "swapoff",
            "sysfs",
            "_sysctl",
            "umount",
            "umount2",
            "unshare",
            "uselib",
            "userfaultfd",
            "ustat",
        ] {
            assert!(!open.contains(refused), "{refused}");
        }
    }

    #[test]
    fn a_capability_brings_its_calls_and_no_others() {
        let (none, admin) = (allowed(&[]), allowed(&[Capability::SysAdmin]));
        let mut brought: Vec<_> = admin.difference(&none).map(String::as_str).collect();
        brought.sort_unstable();
        assert!(
            brought.contains(&"mount") && brought.contains(&"clone3") && !brought.contains(&"reboot"),
            "{brought:?}"
        );
        assert!(allowed(&[Capability::SysTime]).contains("settimeofday"));
        // keyrings are not namespaced: no capability brings them
        assert!(!admin.contains("keyctl"));
    }
}
