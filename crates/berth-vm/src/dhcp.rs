//! DHCP (RFC 2131) for one machine: its card asks, and is told the address that it has anyway.
//!
//! There is nothing to lease: address and card belong together for a start of the machine, so every answer is the same,
//! for ever, and nothing is remembered. Questions of other cards are others' to answer: on a network of many machines
//! each has its own responder. Pure: bytes to bytes.

use crate::spec::Lease;
use std::net::Ipv4Addr;

/// Larger questions are none.
pub const PACKET_BYTES_MAX: usize = 1500;
const HEADER_BYTES: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Some clients drop what is smaller than BOOTP's answer.
const ANSWER_BYTES_MIN: usize = 300;
const FOR_EVER: [u8; 4] = [0xff; 4];

const OPTION_MASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_NAME_SERVERS: u8 = 6;
const OPTION_HOST_NAME: u8 = 12;
const OPTION_MTU: u8 = 26;
const OPTION_REQUESTED: u8 = 50;
const OPTION_LEASE_SECONDS: u8 = 51;
const OPTION_KIND: u8 = 53;
const OPTION_SERVER: u8 = 54;
/// Classless routes (RFC 3442): who knows them ignores the router's option.
const OPTION_ROUTES: u8 = 121;
const OPTION_END: u8 = 255;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// What a client is told beside its address.
#[derive(Debug, Clone)]
pub struct Around<'a> {
    /// Who answers; also reached as a name server, on the link.
    pub server: Ipv4Addr,
    pub name_servers: &'a [Ipv4Addr],
    pub host_name: &'a str,
}

fn option(options: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = options;
    loop {
        let (kind, after) = rest.split_first()?;
        match *kind {
            0 => rest = after,
            OPTION_END => return None,
            kind => {
                let (length, after) = after.split_first()?;
                let value = after.get(..usize::from(*length))?;
                if kind == wanted {
                    return Some(value);
                }
                rest = &after[usize::from(*length)..];
            }
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

/// The answer to a question of the card `mac`; `None` where none is due.
pub fn answer(question: &[u8], mac: [u8; 6], lease: &Lease, around: &Around<'_>) -> Option<Vec<u8>> {
    let header = question.get(..HEADER_BYTES)?;
    // A request from Ethernet, from this card.
    if header[0] != 1 || header[1] != 1 || header[2] != 6 || header[28..34] != mac {
        return None;
    }
    let options = question.get(HEADER_BYTES..)?.strip_prefix(&COOKIE)?;
    let current = address(&header[12..16])?;
    let kind = match *option(options, OPTION_KIND)?.first()? {
        DISCOVER => OFFER,
        INFORM => ACK,
        REQUEST => {
            if option(options, OPTION_SERVER).is_some_and(|server| address(server) != Some(around.server)) {
                return None;
            }
            let wanted = option(options, OPTION_REQUESTED).and_then(address).unwrap_or(current);
            if wanted == lease.address { ACK } else { NAK }
        }
        _ => return None,
    };
    let mut out = vec![0_u8; HEADER_BYTES];
    (out[0], out[1], out[2]) = (2, 1, 6);
    out[4..8].copy_from_slice(&header[4..8]);
    // Seconds since the beginning are the client's own; its flags and card are repeated.
    out[10..12].copy_from_slice(&header[10..12]);
    out[28..44].copy_from_slice(&header[28..44]);
    out.extend(COOKIE);
    let mut put = |kind: u8, value: &[u8]| {
        out.extend([kind, value.len().min(255) as u8]);
        out.extend(&value[..value.len().min(255)]);
    };
    put(OPTION_KIND, &[kind]);
    put(OPTION_SERVER, &around.server.octets());
    if kind != NAK {
        let informed = option(options, OPTION_KIND)? == [INFORM];
        if !informed {
            put(OPTION_LEASE_SECONDS, &FOR_EVER);
        }
        let mask = u32::MAX.checked_shl(u32::from(32 - lease.prefix_len.min(32))).unwrap_or(0);
        put(OPTION_MASK, &mask.to_be_bytes());
        if let Some(gateway) = lease.gateway {
            put(OPTION_ROUTER, &gateway.octets());
        }
        let servers: Vec<u8> = around.name_servers.iter().flat_map(Ipv4Addr::octets).collect();
        if !servers.is_empty() {
            put(OPTION_NAME_SERVERS, &servers);
        }
        if !around.host_name.is_empty() {
            put(OPTION_HOST_NAME, around.host_name.as_bytes());
        }
        if lease.mtu != 0 {
            put(OPTION_MTU, &lease.mtu.to_be_bytes());
        }
        if around.name_servers.contains(&around.server) {
            let mut routes = vec![32];
            routes.extend(around.server.octets().into_iter().chain([0; 4]));
            if let Some(gateway) = lease.gateway {
                routes.push(0);
                routes.extend(gateway.octets());
            }
            put(OPTION_ROUTES, &routes);
        }
        if !informed {
            out[16..20].copy_from_slice(&lease.address.octets());
        }
    }
    out.push(OPTION_END);
    out.resize(out.len().max(ANSWER_BYTES_MIN), 0);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0x42, 172, 17, 0, 5];
    const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 53);

    fn lease() -> Lease {
        Lease {
            bridge: "br0".to_owned(),
            address: Ipv4Addr::new(172, 17, 0, 5),
            prefix_len: 26,
            gateway: Some(Ipv4Addr::new(172, 17, 0, 1)),
            mtu: 1450,
        }
    }

    fn question(kind: u8, more: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        (packet[0], packet[1], packet[2]) = (1, 1, 6);
        packet[4..8].copy_from_slice(b"xid!");
        packet[28..34].copy_from_slice(&MAC);
        packet.extend(COOKIE);
        packet.extend([OPTION_KIND, 1, kind]);
        packet.extend(more);
        packet.push(OPTION_END);
        packet
    }

    fn ask(packet: &[u8]) -> Option<Vec<u8>> {
        let around = Around { server: SERVER, name_servers: &[SERVER], host_name: "web" };
        answer(packet, MAC, &lease(), &around)
    }

    fn told(packet: &[u8], kind: u8) -> Option<&[u8]> {
        option(&packet[HEADER_BYTES + 4..], kind)
    }

    #[test]
    fn a_card_is_offered_and_given_its_address() {
        let offer = ask(&question(DISCOVER, &[])).unwrap();
        assert_eq!((told(&offer, OPTION_KIND), &offer[16..20]), (Some(&[OFFER][..]), &[172, 17, 0, 5][..]));
        assert_eq!(&offer[4..8], b"xid!");
        assert_eq!(told(&offer, OPTION_MASK), Some(&[255, 255, 255, 192][..]));
        assert_eq!(told(&offer, OPTION_ROUTER), Some(&[172, 17, 0, 1][..]));
        assert_eq!(told(&offer, OPTION_NAME_SERVERS), Some(&SERVER.octets()[..]));
        assert_eq!(told(&offer, OPTION_MTU), Some(&[5, 170][..]));
        let routes = [32, 169, 254, 0, 53, 0, 0, 0, 0, 0, 172, 17, 0, 1];
        assert_eq!(told(&offer, OPTION_ROUTES), Some(&routes[..]));
        let wanted = [OPTION_REQUESTED, 4, 172, 17, 0, 5, OPTION_SERVER, 4, 169, 254, 0, 53];
        let given = ask(&question(REQUEST, &wanted)).unwrap();
        assert_eq!(told(&given, OPTION_KIND), Some(&[ACK][..]));
        assert!(given.len() >= ANSWER_BYTES_MIN);
    }

    #[test]
    fn another_address_is_refused_and_another_servers_offer_left_alone() {
        let other = ask(&question(REQUEST, &[OPTION_REQUESTED, 4, 10, 0, 0, 9])).unwrap();
        assert_eq!(told(&other, OPTION_KIND), Some(&[NAK][..]));
        assert_eq!(other[16..20], [0; 4]);
        assert!(ask(&question(REQUEST, &[OPTION_SERVER, 4, 10, 0, 0, 9])).is_none());
        let mut foreign = question(DISCOVER, &[]);
        foreign[33] = 6;
        assert!(ask(&foreign).is_none(), "another card's");
        assert!(ask(&question(7, &[])).is_none(), "nothing is given back");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered_or_not(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), kind: u8) {
            ask(&bytes);
            ask(&question(kind, &bytes));
        }
    }
}
