//! Flows that the kernel remembers.
//!
//! A UDP flow has no end: a client that keeps sending keeps its entry, and with it the translation that was
//! right when it began. After a port is published or withdrawn such entries would send packets to a
//! container that is gone, or past one that has just come, for as long as the client goes on. [`forget`]
//! removes them. TCP needs none of it: a new connection is a new flow.

use crate::netlink::{ACK, Batch, DUMP, NetlinkError, Socket, attributes};
use berth_types::spec::Protocol;
use rustix::io::Errno;
use std::collections::BTreeSet;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const UDP: u8 = 17;

/// Removes all UDP flows that began towards one of the host's `ports`.
pub(crate) fn forget(socket: &mut Socket, ports: &BTreeSet<u16>) -> Result<(), NetlinkError> {
    if ports.is_empty() {
        return Ok(());
    }
    for family in [2, 10] {
        let mut dump = Batch::default();
        dump.message(SUBSYSTEM | GET, DUMP, &[family, 0, 0, 0], |_| ());
        let replies = socket.query(dump)?;
        for reply in &replies {
            let tail = reply.payload.get(4..).unwrap_or_default();
            let Some((_, tuple)) = attributes(tail).find(|a| a.0 == TUPLE_ORIGINAL) else { continue };
            if !destination(tuple).is_some_and(|(protocol, port)| protocol == UDP && ports.contains(&port)) {
                continue;
            }
            let mut delete = Batch::default();
            delete.message(SUBSYSTEM | DELETE, ACK, &[family, 0, 0, 0], |a| a.nest(TUPLE_ORIGINAL, |a| a.raw(tuple)));
            match socket.run(delete) {
                // It ended by itself meanwhile.
                Err(error) if error.errno() == Some(Errno::NOENT) => (),
                other => other?,
            }
        }
    }
    Ok(())
}

/// Protocol and destination port of a flow's tuple.
fn destination(tuple: &[u8]) -> Option<(u8, u16)> {
    let (_, flow) = attributes(tuple).find(|a| a.0 == 2)?;
    let find = |wanted| attributes(flow).find(|a| a.0 == wanted).map(|a| a.1);
    Some((*find(1)?.first()?, u16::from_be_bytes(find(3)?.try_into().ok()?)))
}

/// The host ports of `publications` that need it.
pub(crate) fn ports(publications: &[crate::firewall::Publication]) -> BTreeSet<u16> {
    let udp = publications.iter().filter(|p| p.protocol == Protocol::Udp);
    udp.flat_map(crate::firewall::Publication::host_ports).collect()
}
