//! Sockets on one network interface (SO_BINDTODEVICE, socket(7)).

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;

/// From now on the socket hears and speaks on interface `name` alone. Needs no capability where it is bound to none yet
/// (since Linux 5.7). A name has at most 15 bytes (`EINVAL`).
pub fn bind_to_device(socket: impl AsFd, name: &str) -> Result<(), Errno> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(Errno::INVAL);
    }
    let length = name.len() as libc::socklen_t;
    // SAFETY: setsockopt reads `length` bytes of `name`, which live until it returns; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_interface_is_refused() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(bind_to_device(&socket, ""), Err(Errno::INVAL));
        assert_eq!(bind_to_device(&socket, "a-name-of-sixteen"), Err(Errno::INVAL));
        assert!(bind_to_device(&socket, "no-such-link").is_err());
    }
}
