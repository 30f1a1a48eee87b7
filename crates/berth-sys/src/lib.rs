//! Every system call and ioctl we make, safe to call; the only crate with unsafe

pub mod bpf;
pub mod clone;
pub mod device;
pub mod disk_usage;
pub mod entropy;
pub mod freeze;
pub mod handed_over;
pub mod images;
pub mod kernel;
pub mod memory;
pub mod mounts;
pub mod netns;
pub mod overlay;
pub mod own_file;
pub mod privileges;
pub mod procfs;
pub mod signals;
pub mod sockets;
pub mod spawn;
pub mod tap;
pub mod writeback;
