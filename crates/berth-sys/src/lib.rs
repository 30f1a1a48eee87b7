//! Every system call and ioctl we make, safe to call; the only crate with unsafe

pub mod bpf;
pub mod clone;
pub mod handed_over;
pub mod images;
pub mod memory;
pub mod mounts;
pub mod netns;
pub mod privileges;
pub mod signals;
pub mod spawn;
pub mod tap;
pub mod writeback;
