//! Every system call and ioctl we make, safe to call; the only crate with unsafe

pub mod bpf;
pub mod handed_over;
pub mod netns;
pub mod signals;
