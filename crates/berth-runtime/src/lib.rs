//! A bundle becomes a process: namespaces, mounts, capabilities, seccomp

pub mod seccomp;
