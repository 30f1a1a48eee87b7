//! The two sockets of a container's name server, inside its network namespace.
//!
//! ```text
//!  program ── 127.0.0.11:53 ──▶ (output, -150) port := ours ──▶ 127.0.0.11:<n>  our socket
//!  program ◀─ 127.0.0.11:53 ─── (output, -300) port := 53  ◀── 127.0.0.11:<n>
//! ```
//!
//! Port 53 itself stays free: a container may be a name server and listen on all its addresses. The ports are
//! rewritten without connection tracking, which would cost every packet of the container; the two places lie on both
//! sides of it, so that where the container tracks connections itself both directions show port 53.

use crate::netlink::{NetlinkError, Socket};
use crate::nft::expr::{Base, Expression, REG, Verdict, payload_is, protocol_is};
use crate::nft::{FAMILY_IPV4, Hook, Transaction};
use crate::slot::{Namespace, SlotError};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Where programs ask.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
const TABLE: &str = "berth_names";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Whoever holds these answers the container's questions.
#[derive(Debug)]
pub struct NameSockets {
    pub udp: OwnedFd,
    pub tcp: OwnedFd,
    pub namespace: OwnedFd,
}

impl Namespace {
    /// Opens them and leads port 53 there; earlier ones are not asked any more.
    pub fn open_name_sockets(&self) -> Result<NameSockets, SlotError> {
        let failed = |source: std::io::Error| SlotError::Names { source };
        let (udp, tcp) = self.enter(|| {
            let udp = UdpSocket::bind((ADDRESS, 0)).map_err(failed)?;
            let tcp = TcpListener::bind((ADDRESS, 0)).map_err(failed)?;
            let ports = [(UDP, 6, udp.local_addr()), (TCP, 16, tcp.local_addr())];
            let mut change = Transaction::in_family(FAMILY_IPV4, TABLE);
            change.table();
            change.delete_table();
            change.table();
            change.chain("answers", Some(Hook { kind: "filter", number: 3, priority: -300 }));
            change.chain("questions", Some(Hook { kind: "filter", number: 3, priority: -150 }));
            for (protocol, checksum, address) in ports {
                let port = address.map_err(failed)?.port();
                change.rule("questions", &rewrite(protocol, (16, 2), (PORT, port), checksum));
                change.rule("answers", &rewrite(protocol, (12, 0), (port, PORT), checksum));
            }
            let lead = |source: NetlinkError| SlotError::Interface { name: "lo".to_owned(), source };
            Socket::netfilter().and_then(|mut socket| change.commit(&mut socket)).map_err(lead)?;
            Ok((udp, tcp))
        })?;
        let namespace = self.try_clone().map_err(|errno: Errno| failed(errno.into()))?;
        Ok(NameSockets { udp: udp.into(), tcp: tcp.into(), namespace })
    }
}

/// The address and port at these offsets are the name server's: another port instead.
fn rewrite(protocol: u8, (address_at, port_at): (u32, u32), (from, to): (u16, u16), checksum: u32) -> Vec<Expression> {
    let mut steps = payload_is(Base::Network, address_at, &ADDRESS.octets()).to_vec();
    steps.extend(protocol_is(protocol));
    steps.extend(payload_is(Base::Transport, port_at, &from.to_be_bytes()));
    steps.push(Expression::Immediate { register: REG, value: to.to_be_bytes().to_vec() });
    steps.push(Expression::SetTransport { register: REG, offset: port_at, bytes: 2, checksum });
    steps.push(Expression::Verdict(Verdict::Accept));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Duration;

    #[test]
    fn port_53_leads_to_our_sockets_and_stays_free_for_others() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let namespace = Namespace::create().unwrap();
        drop(namespace.open_name_sockets().unwrap());
        let sockets = namespace.open_name_sockets().unwrap();
        let udp = UdpSocket::from(sockets.udp);
        let tcp = TcpListener::from(sockets.tcp);
        let server = std::thread::spawn(move || {
            let mut buffer = [0; 100];
            udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let (length, peer) = udp.recv_from(&mut buffer).unwrap();
            udp.send_to(&buffer[..length], peer).unwrap();
            let (mut stream, _) = tcp.accept().unwrap();
            stream.read_exact(&mut buffer[..2]).unwrap();
            stream.write_all(&buffer[..2]).unwrap();
        });
        namespace
            .enter(|| {
                let own = UdpSocket::bind("0.0.0.0:53").unwrap();
                let client = UdpSocket::bind("0.0.0.0:0").unwrap();
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                // Connected: only an answer from exactly there is heard.
                client.connect((ADDRESS, 53)).unwrap();
                client.send(b"hello").unwrap();
                let mut buffer = [0; 100];
                assert_eq!(client.recv(&mut buffer).unwrap(), 5);
                let mut stream = std::net::TcpStream::connect((ADDRESS, 53)).unwrap();
                stream.write_all(b"hi").unwrap();
                stream.read_exact(&mut buffer[..2]).unwrap();
                assert_eq!(&buffer[..2], b"hi");
                // The container's own name server is asked under its other addresses.
                client.connect("127.0.0.1:53").unwrap();
                client.send(b"own").unwrap();
                assert_eq!(own.recv(&mut buffer).unwrap(), 3);
                Ok(())
            })
            .unwrap();
        server.join().unwrap();
    }
}
