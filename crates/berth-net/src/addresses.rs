//! Subnets and the addresses in them.
//!
//! Pure: what is taken comes in, what is free goes out. [`Addresses`] hands out each address once round the
//! subnet before it comes back to a freed one, so that an address that just left is not met again at once.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A block of addresses; `address` is its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    pub address: IpAddr,
    pub prefix_len: u8,
}

/// A text that is not `address/prefix`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct InvalidSubnet(pub String);

impl Subnet {
    /// The block of this length that holds `address`.
    pub fn around(address: IpAddr, prefix_len: u8) -> Option<Subnet> {
        let subnet = Subnet { address, prefix_len };
        (prefix_len <= subnet.bits()).then(|| subnet.at(subnet.number_of(address) & !subnet.host_mask(), prefix_len))
    }

    fn at(self, number: u128, prefix_len: u8) -> Subnet {
        Subnet { address: self.address_of(number), prefix_len }
    }

    fn bits(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn host_mask(self) -> u128 {
        let host_bits = u32::from(self.bits() - self.prefix_len);
        if host_bits == 128 { u128::MAX } else { (1_u128 << host_bits) - 1 }
    }

    fn number_of(self, address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        }
    }

    fn address_of(self, number: u128) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    pub fn mask(self) -> IpAddr {
        let all = if self.bits() == 32 { u128::from(u32::MAX) } else { u128::MAX };
        self.address_of(all & !self.host_mask())
    }

    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && self.number_of(address) & !self.host_mask() == self.number_of(self.address)
    }

    pub fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The last address of the block.
    pub fn last(self) -> IpAddr {
        self.address_of(self.number_of(self.address) | self.host_mask())
    }

    /// The first address behind the block; `None` at the end of all addresses.
    pub fn after(self) -> Option<IpAddr> {
        let all = if self.bits() == 32 { u128::from(u32::MAX) } else { u128::MAX };
        let last = self.number_of(self.last());
        (last < all).then(|| self.address_of(last + 1))
    }

    /// The `n`-th address of the block, 0 being the block's own.
    pub fn nth(self, n: u128) -> Option<IpAddr> {
        (n <= self.host_mask()).then(|| self.address_of(self.number_of(self.address) + n))
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    /// `10.1.2.3/16` means the block `10.1.0.0/16`.
    fn from_str(text: &str) -> Result<Subnet, InvalidSubnet> {
        let invalid = || InvalidSubnet(text.to_owned());
        let (address, prefix_len) = text.split_once('/').ok_or_else(invalid)?;
        let address = address.parse().map_err(|_| invalid())?;
        Subnet::around(address, prefix_len.parse().map_err(|_| invalid())?).ok_or_else(invalid)
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidSubnet;
    fn try_from(text: String) -> Result<Subnet, InvalidSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// The first block of `prefix_len` in `pools` that overlaps nothing in `taken`.
pub fn free_subnet(pools: &[Subnet], prefix_len: u8, taken: &[Subnet]) -> Option<Subnet> {
    let mut taken = taken.to_vec();
    taken.sort();
    'pools: for pool in pools.iter().filter(|pool| pool.prefix_len <= prefix_len) {
        let mut candidate = Subnet { address: pool.address, prefix_len };
        // In order of their first addresses: what was passed once is never met again. A block that is
        // nested in another sorts behind it and lies before the candidate by then.
        for busy in taken.iter().filter(|busy| busy.overlaps(*pool)) {
            if busy.overlaps(candidate) {
                let wider = if busy.prefix_len < prefix_len { *busy } else { candidate };
                let Some(after) = wider.after() else { continue 'pools };
                candidate.address = after;
            }
        }
        if pool.contains(candidate.address) {
            return Some(candidate);
        }
    }
    None
}

/// Why an address cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("no available IPv4 addresses on this network's address pools: {0}")]
    Exhausted(Subnet),
    #[error("Address already in use")]
    Taken(IpAddr),
    #[error("no configured subnet contains IP address {0}")]
    Outside(IpAddr),
}

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Addresses {
    subnet: Subnet,
    /// Addresses are chosen from here; explicit ones may be anywhere in the subnet.
    range: Subnet,
    taken: BTreeSet<IpAddr>,
    next: u128,
}

impl Addresses {
    /// `reserved` (the gateway, auxiliary addresses) are never handed out, nor are the subnet's first and
    /// last address in IPv4.
    pub fn new(subnet: Subnet, range: Option<Subnet>, reserved: &[IpAddr]) -> Addresses {
        let mut taken: BTreeSet<IpAddr> = reserved.iter().copied().collect();
        taken.insert(subnet.address);
        if subnet.address.is_ipv4() && subnet.prefix_len < 31 {
            taken.insert(subnet.last());
        }
        Addresses { subnet, range: range.unwrap_or(subnet), taken, next: 0 }
    }

    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    pub fn take_any(&mut self) -> Result<IpAddr, AddressError> {
        let size = self.range.host_mask().saturating_add(1);
        // With every taken address skipped once, one step more must find a free one.
        let tries = (self.taken.len() as u128 + 1).min(size);
        for _ in 0..tries {
            let address = self.range.nth(self.next % size).ok_or(AddressError::Exhausted(self.range))?;
            self.next = (self.next + 1) % size;
            if self.taken.insert(address) {
                return Ok(address);
            }
        }
        Err(AddressError::Exhausted(self.range))
    }

    pub fn take(&mut self, address: IpAddr) -> Result<(), AddressError> {
        if !self.subnet.contains(address) {
            return Err(AddressError::Outside(address));
        }
        if !self.taken.insert(address) {
            return Err(AddressError::Taken(address));
        }
        Ok(())
    }

    pub fn give_back(&mut self, address: IpAddr) {
        self.taken.remove(&address);
    }

    /// How many are handed out or never can be, and how many of the range are left.
    pub fn usage(&self) -> (u64, u64) {
        let narrow = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
        let in_range = self.taken.iter().filter(|address| self.range.contains(**address)).count() as u128;
        let size = self.range.host_mask().saturating_add(1);
        (narrow(self.taken.len() as u128), narrow(size.saturating_sub(in_range)))
    }
}

/// The hardware address that belongs to an IPv4 address, as Docker derives it: neighbours need not
/// learn a new one when a container comes back under the same address.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// `02:42:ac:11:00:02`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Six hexadecimal bytes between colons or dashes; not a group address.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_written_by_its_first_address() {
        assert_eq!(subnet("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert_eq!(subnet("fd00::5/64").to_string(), "fd00::/64");
        assert_eq!(subnet("0.0.0.0/0").last().to_string(), "255.255.255.255");
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_chosen_subnet_meets_nothing_that_is_taken() {
        let pools = [subnet("172.16.0.0/12"), subnet("192.168.0.0/16")];
        let taken = [subnet("172.16.0.0/14"), subnet("172.20.5.0/24"), subnet("0.0.0.0/32")];
        assert_eq!(free_subnet(&pools, 16, &taken), Some(subnet("172.21.0.0/16")));
        assert_eq!(free_subnet(&pools, 26, &taken), Some(subnet("172.20.0.0/26")));
        assert_eq!(free_subnet(&pools, 26, &[subnet("172.0.0.0/8")]), Some(subnet("192.168.0.0/26")));
        assert_eq!(free_subnet(&pools, 26, &[subnet("128.0.0.0/1")]), None);
    }

    #[test]
    fn a_thousand_networks_fit_into_one_pool() {
        let pools = [subnet("172.29.0.0/16")];
        let mut taken = Vec::new();
        for _ in 0..1000 {
            taken.push(free_subnet(&pools, 26, &taken).unwrap());
        }
    }

    #[test]
    fn every_address_is_handed_out_once_and_a_freed_one_comes_last() {
        let gateway: IpAddr = "10.0.0.1".parse().unwrap();
        let mut addresses = Addresses::new(subnet("10.0.0.0/29"), None, &[gateway]);
        let first = addresses.take_any().unwrap();
        assert_eq!(first.to_string(), "10.0.0.2");
        addresses.give_back(first);
        let rest: Vec<String> = (0..5).map(|_| addresses.take_any().unwrap().to_string()).collect();
        assert_eq!(rest, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
        assert!(matches!(addresses.take_any(), Err(AddressError::Exhausted(_))));
    }

    #[test]
    fn usage_counts_the_reserved_and_only_the_range() {
        let gateway: IpAddr = "10.0.0.1".parse().unwrap();
        let mut whole = Addresses::new(subnet("10.0.0.0/24"), None, &[gateway]);
        assert_eq!(whole.usage(), (3, 253));
        whole.take_any().unwrap();
        assert_eq!(whole.usage(), (4, 252));
        let part = Addresses::new(subnet("10.0.0.0/24"), Some(subnet("10.0.0.128/25")), &[gateway]);
        assert_eq!(part.usage(), (3, 127));
        assert_eq!(Addresses::new(subnet("fd00::/64"), None, &[]).usage(), (1, u64::MAX));
    }

    #[test]
    fn an_address_asked_for_must_be_free_and_inside() {
        let mut addresses = Addresses::new(subnet("10.0.0.0/24"), Some(subnet("10.0.0.128/25")), &[]);
        assert_eq!(addresses.take_any().unwrap().to_string(), "10.0.0.128");
        addresses.take("10.0.0.5".parse().unwrap()).unwrap();
        assert!(matches!(addresses.take("10.0.0.5".parse().unwrap()), Err(AddressError::Taken(_))));
        assert!(matches!(addresses.take("10.0.1.5".parse().unwrap()), Err(AddressError::Outside(_))));
    }

    #[test]
    fn hardware_addresses_are_read_strictly() {
        assert_eq!(parse_mac("02:42:ac:11:00:02"), Some(mac_of("172.17.0.2".parse().unwrap())));
        for bad in
            ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "01:42:ac:11:00:02", "2:42:ac:11:00:02", "+2:42:ac:11:00:02"]
        {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
