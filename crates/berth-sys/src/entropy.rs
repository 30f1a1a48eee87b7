//! Random numbers of a kernel that was copied (random(4)): two that go on from one state draw the same.

use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

const DEVICE: &str = "/dev/urandom";
/// More than the kernel's pool holds helps nothing.
const BYTES_MAX: usize = 512;
/// _IO('R', 0x07): the generator draws its key anew from the pool; since Linux 4.14.
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
/// _IOW('R', 0x03, int[2])
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203_u32 as libc::Ioctl;

/// Mixes `bytes` into the kernel's pool, counts them as random, and makes it draw from there at once.
///
/// Needs CAP_SYS_ADMIN.
pub fn mix_in(bytes: &[u8]) -> Result<(), Errno> {
    let bytes = &bytes[..bytes.len().min(BYTES_MAX)];
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // struct rand_pool_info: bits of entropy, size in bytes, then the bytes.
    let mut info = vec![0_u32; 2 + BYTES_MAX / 4];
    info[0] = u32::try_from(bytes.len() * 8).map_err(|_| Errno::INVAL)?;
    info[1] = u32::try_from(bytes.len()).map_err(|_| Errno::INVAL)?;
    for (word, part) in info[2..].iter_mut().zip(bytes.chunks(4)) {
        let mut four = [0; 4];
        four[..part.len()].copy_from_slice(part);
        *word = u32::from_ne_bytes(four);
    }
    // SAFETY: the kernel reads the two numbers and as many bytes as the second says, at most BYTES_MAX, which the
    // vector has behind them; it lives until the call returns.
    let added = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), RNDADDENTROPY, info.as_ptr()) };
    check(added)?;
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), RNDRESEEDCRNG) })
}

fn check(ret: libc::c_int) -> Result<(), Errno> {
    match ret {
        0.. => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}
