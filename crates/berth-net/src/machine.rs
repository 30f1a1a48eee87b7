//! A container's interface becomes a machine's.
//!
//! ```text
//!  bridge ── bv...  ~~~ veth ~~~  eth0 ── br0 ── tap0 ── the guest's card
//!                                 no addresses, another MAC      the endpoint's MAC and addresses
//! ```
//!
//! The guest has what a container would have: the same hardware address, the same addresses, so that ports,
//! names and the guard against foreign addresses hold for it as they are. All of it lies in the container's
//! network namespace and goes with it.

use crate::netlink::{Batch, NetlinkError};
use crate::rate::{self, Bandwidth};
use crate::route::{self, Route};
use crate::slot::{Namespace, SlotError};
use std::net::{IpAddr, Ipv4Addr};

/// Which interface goes to the guest, and whose tap it becomes.
#[derive(Debug, Clone)]
pub struct HandOver<'a> {
    /// `eth0`
    pub interface: &'a str,
    /// `tap0`; at most 15 bytes, as all names.
    pub tap: &'a str,
    pub bridge: &'a str,
    pub addresses: &'a [(IpAddr, u8)],
    /// The user who may open the tap.
    pub owner: u32,
    /// An address that only the guest reaches, for what answers its questions, and the guest's own.
    pub service: Option<(Ipv4Addr, Ipv4Addr)>,
    pub bandwidth: Bandwidth,
}

impl Namespace {
    /// Puts `tap` in the interface's place; the namespace itself can no longer be reached through it.
    pub fn hand_over(&self, hand: &HandOver<'_>) -> Result<(), SlotError> {
        self.enter(|| {
            let failed = |source| SlotError::Interface { name: hand.interface.to_owned(), source };
            let mut route = Route::open().map_err(failed)?;
            let mut find =
                |name: &str| route.link(name).map_err(failed)?.ok_or_else(|| SlotError::Lost(name.to_owned()));
            let interface = find(hand.interface)?;
            berth_sys::tap::create_persistent(hand.tap, hand.owner).map_err(SlotError::Tap)?;
            let mut batch = Batch::default();
            for &(address, prefix_len) in hand.addresses {
                route::delete_address(&mut batch, interface.index, address, prefix_len);
            }
            // Its address is the guest's from now on: two of them would take each other's packets.
            route::set_mac(&mut batch, interface.index, other_mac(interface.mac, 1));
            route::add_bridge(&mut batch, hand.bridge, other_mac(interface.mac, 2), interface.mtu, "berth machine");
            Route::open().and_then(|mut route| route.run(batch)).map_err(failed)?;
            let bridge = find(hand.bridge)?.index;
            let tap = find(hand.tap)?.index;
            let mut batch = Batch::default();
            for port in [interface.index, tap] {
                route::set_master(&mut batch, port, bridge);
                route::set_up(&mut batch, port);
            }
            // The network's bridge sends a frame back where it came from (published ports need it): the guest's own
            // broadcasts must not teach this one that the guest is outside.
            route::stop_learning(&mut batch, interface.index);
            route::set_up(&mut batch, bridge);
            if let Some((address, guest)) = hand.service {
                route::add_peer(&mut batch, bridge, address, guest);
            }
            route.run(batch).map_err(failed)?;
            match hand.bandwidth == Bandwidth::default() {
                true => Ok(()),
                false => limit(&mut route, [interface.index, tap], hand.bandwidth).map_err(failed),
            }
        })
    }

    /// The limits of a card that was handed over, from now on.
    pub fn limit(&self, interface: &str, tap: &str, bandwidth: Bandwidth) -> Result<(), SlotError> {
        self.enter(|| {
            let failed = |source| SlotError::Interface { name: interface.to_owned(), source };
            let mut route = Route::open().map_err(failed)?;
            let mut index = |name: &str| match route.link(name).map_err(failed)? {
                Some(link) => Ok(link.index),
                None => Err(SlotError::Lost(name.to_owned())),
            };
            let cards = [index(interface)?, index(tap)?];
            limit(&mut route, cards, bandwidth).map_err(failed)
        })
    }
}

impl Namespace {
    /// What [`Namespace::hand_over`] put beside the interface goes; what is gone already is done.
    pub fn take_back(&self, tap: &str, bridge: &str) -> Result<(), SlotError> {
        self.enter(|| {
            for name in [tap, bridge] {
                let failed = |source| SlotError::Interface { name: name.to_owned(), source };
                let mut route = Route::open().map_err(failed)?;
                if route.link(name).map_err(failed)?.is_some() {
                    let mut batch = Batch::default();
                    route::delete_link(&mut batch, name);
                    route.run(batch).map_err(failed)?;
                }
            }
            Ok(())
        })
    }
}

/// What the guest receives the tap sends; what it sends leaves by the interface.
fn limit(route: &mut Route, [interface, tap]: [u32; 2], bandwidth: Bandwidth) -> Result<(), NetlinkError> {
    rate::set(route, tap, bandwidth.in_bits_per_second)?;
    rate::set(route, interface, bandwidth.out_bits_per_second)
}

/// A locally administered address that differs from `mac`.
fn other_mac(mac: [u8; 6], salt: u8) -> [u8; 6] {
    [0x06, salt, mac[2], mac[3], mac[4], mac[5]]
}
