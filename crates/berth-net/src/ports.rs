//! Host ports kept for containers.
//!
//! A published port is translated before any socket is looked for, so a container's port and a host
//! program's would silently shadow each other. A [`Reservation`] is a bound socket that nobody listens on:
//! host programs and other engines get `address already in use`, and so do we when they were first.
//!
//! Where a plain bind is refused, connections that linger for a minute after their listener went may be all
//! there is. Then the socket asks for `SO_REUSEADDR`, and listens for a moment, because only a listener
//! conflicts with other listeners that asked for the same; afterwards it neither listens nor allows
//! reuse (socket(7), ip(7)).

use berth_types::spec::Protocol;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, ipproto, listen, shutdown, socket_with, sockopt,
};
use std::net::{IpAddr, SocketAddr};

/// A host port that is ours until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    protocol: Protocol,
    /// `None`: every address of both families.
    address: Option<IpAddr>,
    port: u16,
    /// `None` where the host has no sockets of that protocol (SCTP without its module): then nobody else can
    /// have one either.
    _socket: Option<OwnedFd>,
}

impl Reservation {
    /// Whether it keeps `port` on `address`.
    pub fn keeps(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        let here = self.address.map_or(address.is_unspecified(), |own| own == address);
        here && (self.protocol, self.port) == (protocol, port)
    }
}

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Whose socket it is says [`crate::holder::find`].
    #[error("port is already allocated")]
    InUse,
    #[error("cannot assign requested address")]
    NoSuchAddress,
    #[error("cannot keep port {port}/{protocol} on {address}")]
    Failed {
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        #[source]
        errno: Errno,
    },
}

/// Keeps `port` on `address`.
pub fn reserve(protocol: Protocol, address: IpAddr, port: u16) -> Result<Reservation, PortError> {
    outcome(protocol, Some(address), port, try_reserve(protocol, address, port, true))
}

/// Keeps `port` on every address of both families, with one socket.
pub fn reserve_everywhere(protocol: Protocol, port: u16) -> Result<Reservation, PortError> {
    let any = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
    outcome(protocol, None, port, try_reserve(protocol, any, port, false))
}

fn outcome(
    protocol: Protocol,
    address: Option<IpAddr>,
    port: u16,
    made: Result<OwnedFd, Errno>,
) -> Result<Reservation, PortError> {
    match made {
        Ok(socket) => Ok(Reservation { protocol, address, port, _socket: Some(socket) }),
        Err(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::SOCKTNOSUPPORT) if protocol == Protocol::Sctp => {
            Ok(Reservation { protocol, address, port, _socket: None })
        }
        Err(Errno::ADDRINUSE) => Err(PortError::InUse),
        Err(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) => Err(PortError::NoSuchAddress),
        Err(errno) => {
            let address = address.unwrap_or(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED));
            Err(PortError::Failed { address, port, protocol, errno })
        }
    }
}

fn try_reserve(protocol: Protocol, address: IpAddr, port: u16, one_family: bool) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(number))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, one_family)?;
    }
    match bind(&socket, &SocketAddr::new(address, port)) {
        Err(Errno::ADDRINUSE) if protocol != Protocol::Udp => (),
        other => return other.map(|()| socket),
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::new(address, port))?;
    listen(&socket, 1)?;
    if protocol == Protocol::Tcp {
        shutdown(&socket, Shutdown::Read)?;
        sockopt::set_socket_reuseaddr(&socket, false)?;
    }
    Ok(socket)
}

/// The ports to choose from when the caller leaves the choice to us: the host's own ephemeral range.
pub fn ephemeral_range() -> (u16, u16) {
    const DEFAULT: (u16, u16) = (32768, 60999);
    let Ok(text) = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") else { return DEFAULT };
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first <= last => (first, last),
        _ => DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_reserved_port_is_refused_to_listeners_and_to_other_engines_and_free_afterwards() {
        let port = TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port();
        let kept = reserve(Protocol::Tcp, LOCAL, port).unwrap();
        assert_eq!(TcpListener::bind((LOCAL, port)).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        assert!(matches!(reserve(Protocol::Tcp, LOCAL, port), Err(PortError::InUse)));
        // It does not listen: a client hears so at once.
        assert!(std::net::TcpStream::connect((LOCAL, port)).is_err());
        drop(kept);
        TcpListener::bind((LOCAL, port)).unwrap();
    }

    #[test]
    fn a_port_kept_everywhere_is_refused_in_both_families() {
        let port = TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port();
        let kept = reserve_everywhere(Protocol::Tcp, port).unwrap();
        for address in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
            assert!(TcpListener::bind((address, port)).is_err(), "{address}");
        }
        drop(kept);
        let one = TcpListener::bind((LOCAL, port)).unwrap();
        assert!(matches!(reserve_everywhere(Protocol::Tcp, port), Err(PortError::InUse)));
        drop(one);
    }

    #[test]
    fn a_port_that_a_program_listens_on_names_the_program() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(matches!(reserve(Protocol::Tcp, LOCAL, port), Err(PortError::InUse)));
        let named = |protocol, address, port| crate::holder::find(protocol, address, port).map(|holder| holder.pid);
        assert_eq!(named(Protocol::Tcp, Some(LOCAL), port), Some(std::process::id()));
        assert_eq!(named(Protocol::Tcp, Some("127.0.0.9".parse().unwrap()), port), None);
        let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(matches!(reserve(Protocol::Udp, LOCAL, port), Err(PortError::InUse)));
        assert_eq!(named(Protocol::Udp, None, port), Some(std::process::id()));
    }

    #[test]
    fn an_address_of_another_host_cannot_be_published() {
        let address = "203.0.113.77".parse().unwrap();
        assert!(matches!(reserve(Protocol::Tcp, address, 8080), Err(PortError::NoSuchAddress)));
    }
}
