//! A bundle becomes a process: namespaces, mounts, capabilities, seccomp
