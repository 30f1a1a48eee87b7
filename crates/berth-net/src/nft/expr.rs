//! Expressions of rules: each is one step of the kernel's small machine.
//!
//! Registers: 0 holds the verdict, 8 to 23 are 32 bits wide each; longer values take several in a row.

use crate::netlink::Attributes;

/// The first 32-bit register (NFT_REG32_00); `REG + n` is the n-th.
pub const REG: u32 = 8;
const REG_VERDICT: u32 = 0;

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// `meta KEY` into a register.
    Meta {
        key: MetaKey,
        register: u32,
    },
    /// Bytes of the packet into a register.
    Payload {
        base: Base,
        offset: u32,
        bytes: u32,
        register: u32,
    },
    /// `ct state` or `ct status` into a register.
    Conntrack {
        key: ConntrackKey,
        register: u32,
    },
    /// What the destination is to this host's routing (RTN_LOCAL, ...) into a register.
    DestinationType {
        register: u32,
    },
    Compare {
        register: u32,
        equal: bool,
        value: Vec<u8>,
    },
    /// `register & mask` into the same register.
    Mask {
        register: u32,
        mask: Vec<u8>,
    },
    /// Goes on when the key is in the set (or is not, for `negate`).
    InSet {
        set: String,
        register: u32,
        negate: bool,
    },
    /// The map's value into `target`; goes on when there is one.
    InMap {
        map: String,
        register: u32,
        target: u32,
    },
    /// The verdict that the map holds for the key.
    VerdictMap {
        map: String,
        register: u32,
    },
    /// Changes the destination to the address and port in the registers; without one the port stays.
    DestinationNat {
        ipv6: bool,
        address: u32,
        port: Option<u32>,
    },
    /// Changes the source to the address in the register.
    SourceNat {
        ipv6: bool,
        address: u32,
    },
    Masquerade,
    /// A constant into a register.
    Immediate {
        register: u32,
        value: Vec<u8>,
    },
    /// A register's bytes into the transport header, its checksum at `checksum` corrected.
    SetTransport {
        register: u32,
        offset: u32,
        bytes: u32,
        checksum: u32,
    },
    Verdict(Verdict),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// What the link layer says is inside: 0x0800, 0x0806, ...
    LinkProtocol = 1,
    InputInterface = 6,
    OutputInterface = 7,
    Family = 15,
    Protocol = 16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConntrackKey {
    State = 0,
    Status = 2,
}

impl Verdict {
    pub(crate) fn write(&self, a: &mut Attributes<'_>) {
        let (code, chain) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        a.nest(2, |a| {
            a.be32(1, code as u32);
            if let Some(chain) = chain {
                a.text(2, chain);
            }
        });
    }
}

impl Expression {
    pub(crate) fn write(&self, a: &mut Attributes<'_>) {
        use Expression::*;
        match self {
            Meta { key, register } => named(a, "meta", |a| {
                a.be32(1, *register);
                a.be32(2, *key as u32);
            }),
            Payload { base, offset, bytes, register } => named(a, "payload", |a| {
                a.be32(1, *register);
                a.be32(2, *base as u32);
                a.be32(3, *offset);
                a.be32(4, *bytes);
            }),
            Conntrack { key, register } => named(a, "ct", |a| {
                a.be32(1, *register);
                a.be32(2, *key as u32);
            }),
            DestinationType { register } => named(a, "fib", |a| {
                a.be32(1, *register);
                a.be32(2, 3); // NFT_FIB_RESULT_ADDRTYPE
                a.be32(3, 2); // NFTA_FIB_F_DADDR
            }),
            Compare { register, equal, value } => named(a, "cmp", |a| {
                a.be32(1, *register);
                a.be32(2, u32::from(!equal));
                a.nest(3, |a| a.bytes(1, value));
            }),
            Mask { register, mask } => named(a, "bitwise", |a| {
                a.be32(1, *register);
                a.be32(2, *register);
                a.be32(3, mask.len() as u32);
                a.nest(4, |a| a.bytes(1, mask));
                a.nest(5, |a| a.bytes(1, &vec![0; mask.len()]));
            }),
            InSet { set, register, negate } => named(a, "lookup", |a| {
                a.text(1, set);
                a.be32(2, *register);
                if *negate {
                    a.be32(5, 1);
                }
            }),
            InMap { map, register, target } => named(a, "lookup", |a| {
                a.text(1, map);
                a.be32(2, *register);
                a.be32(3, *target);
            }),
            VerdictMap { map, register } => named(a, "lookup", |a| {
                a.text(1, map);
                a.be32(2, *register);
                a.be32(3, REG_VERDICT);
            }),
            DestinationNat { ipv6, address, port } => named(a, "nat", |a| {
                a.be32(1, 1); // NFT_NAT_DNAT
                a.be32(2, if *ipv6 { 10 } else { 2 });
                a.be32(3, *address);
                if let Some(port) = port {
                    a.be32(5, *port);
                }
            }),
            SourceNat { ipv6, address } => named(a, "nat", |a| {
                a.be32(1, 0); // NFT_NAT_SNAT
                a.be32(2, if *ipv6 { 10 } else { 2 });
                a.be32(3, *address);
            }),
            Masquerade => named(a, "masq", |_| ()),
            Immediate { register, value } => named(a, "immediate", |a| {
                a.be32(1, *register);
                a.nest(2, |a| a.bytes(1, value));
            }),
            SetTransport { register, offset, bytes, checksum } => named(a, "payload", |a| {
                a.be32(5, *register);
                a.be32(2, Base::Transport as u32);
                a.be32(3, *offset);
                a.be32(4, *bytes);
                a.be32(6, 1); // NFT_PAYLOAD_CSUM_INET
                a.be32(7, *checksum);
            }),
            Verdict(verdict) => named(a, "immediate", |a| {
                a.be32(1, REG_VERDICT);
                a.nest(2, |a| verdict.write(a));
            }),
        }
    }
}

fn named(a: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    a.text(1, name);
    a.nest(2, data);
}

// Steps as a person reads them.

/// `iifname NAME` or `oifname NAME`.
pub fn interface_is(key: MetaKey, name: &str) -> [Expression; 2] {
    [
        Expression::Meta { key, register: REG },
        Expression::Compare { register: REG, equal: true, value: interface_key(name) },
    ]
}

/// An interface name as registers and set keys hold it.
pub fn interface_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// `meta nfproto ipv4` or `ipv6`.
pub fn family_is(ipv6: bool) -> [Expression; 2] {
    [
        Expression::Meta { key: MetaKey::Family, register: REG },
        Expression::Compare { register: REG, equal: true, value: vec![if ipv6 { 10 } else { 2 }] },
    ]
}

/// `ct state` / `ct status` with any of `mask`'s bits.
pub fn conntrack(key: ConntrackKey, mask: u32) -> [Expression; 3] {
    [
        Expression::Conntrack { key, register: REG },
        Expression::Mask { register: REG, mask: mask.to_ne_bytes().to_vec() },
        Expression::Compare { register: REG, equal: false, value: vec![0; 4] },
    ]
}

/// `ether type` as the link layer has it.
pub fn link_protocol_is(number: u16) -> [Expression; 2] {
    [
        Expression::Meta { key: MetaKey::LinkProtocol, register: REG },
        Expression::Compare { register: REG, equal: true, value: number.to_be_bytes().to_vec() },
    ]
}

/// `meta l4proto NUMBER`.
pub fn protocol_is(number: u8) -> [Expression; 2] {
    [
        Expression::Meta { key: MetaKey::Protocol, register: REG },
        Expression::Compare { register: REG, equal: true, value: vec![number] },
    ]
}

/// Bytes of a header have this value.
pub fn payload_is(base: Base, offset: u32, value: &[u8]) -> [Expression; 2] {
    [
        Expression::Payload { base, offset, bytes: value.len() as u32, register: REG },
        Expression::Compare { register: REG, equal: true, value: value.to_vec() },
    ]
}

/// `fib daddr type local`.
pub fn local_destination() -> [Expression; 2] {
    const RTN_LOCAL: u32 = 2;
    [
        Expression::DestinationType { register: REG },
        Expression::Compare { register: REG, equal: true, value: RTN_LOCAL.to_ne_bytes().to_vec() },
    ]
}
