//! More bridges for a network that one bridge cannot hold.
//!
//! ```text
//!  br-<id>  ── trunk ── bs<id>x1 ── trunk ── bs<id>x2 ── ...
//!  gateway, containers  containers  containers
//! ```
//!
//! A Linux bridge has 1,023 ports. A network that needs more gets further bridges, each joined to the one before by a veth
//! pair: one network to everybody on it, with one gateway, broadcasts and all. A chain rather than a star: a broadcast
//! is a packet for each port at once, and a kernel queues a thousand at most (`netdev_max_backlog`); in a chain
//! one bridge's worth has gone before the next one's comes.

use super::setup::{mark, write_sysctl};
use super::state::{Shard, Shared, State, host_error};
use super::types::Network;
use berth_net::netlink::{Batch, NetlinkError};
use berth_net::route::{self, Link, Route};
use berth_types::{Error, NetworkId, Result};

/// Containers on one bridge: two bridges' worth of broadcasts fit into the kernel's queue.
pub(super) const PORTS_MAX: usize = 400;
/// Bridges of one network. A broadcast in one of 25,600 containers is that many packets.
const SHARDS_MAX: usize = 64;
/// Neighbours that the host's kernel remembers once a network is this large; its default is 1,024 for all networks
/// together.
const NEIGHBOURS: u32 = 65_536;

/// A shard's bridge and the two ends of its trunk, by its number.
fn names(network: &Network, number: usize) -> [String; 3] {
    let id = network.id.short().get(..8).unwrap_or_default();
    ["bs", "bt", "bu"].map(|start| format!("{start}{id}x{number}"))
}

impl Shared {
    /// A port on one of the network's bridges; answers which.
    pub(super) fn take_port(&self, state: &mut State, id: &NetworkId) -> Result<usize> {
        let live = state.networks.get_mut(id).ok_or_else(|| Error::not_found(format!("network {id} not found")))?;
        if !live.network.driver.has_bridge() {
            return Ok(0);
        }
        if let Some(at) = live.shards.iter().position(|shard| shard.ports < PORTS_MAX) {
            live.shards[at].ports += 1;
            return Ok(at);
        }
        let number = live.shards.len();
        if number >= SHARDS_MAX {
            return Err(Error::internal(format!(
                "network {} has {} containers and takes no more",
                live.network.name,
                SHARDS_MAX * PORTS_MAX
            )));
        }
        let last = live.shards.last().map_or(0, |shard| shard.index);
        let shard = self.add_shard(&live.network, last, live.zone().inter_container, live.mtu(), number)?;
        let (first, name) = (live.network.bridge.clone(), shard.name.clone());
        live.shards.push(Shard { ports: 1, ..shard });
        if let Some(ready) = &mut state.ready {
            ready
                .firewall
                .add_bridge(&first, &name)
                .map_err(|error| host_error(format!("cannot use bridge {name}"), &error))?;
        }
        Ok(number)
    }

    fn add_shard(&self, network: &Network, last: u32, talk: bool, mtu: u32, number: usize) -> Result<Shard> {
        let [bridge, near, far] = names(network, number);
        let failed = |error: NetlinkError| host_error(format!("cannot set up bridge {bridge}"), &error);
        let mut route = Route::open().map_err(failed)?;
        let mac = super::state::random_mac()?;
        let mut batch = Batch::default();
        route::add_bridge(&mut batch, &bridge, mac, mtu, &self.shard_mark(network, number));
        route.run(batch).map_err(failed)?;
        // It is nobody's address.
        write_sysctl(&format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6"), "1").ok();
        let link = route.link(&bridge).map_err(failed)?;
        let index = link.ok_or_else(|| Error::internal(format!("bridge {bridge} vanished")))?.index;
        let mut batch = Batch::default();
        route::set_up(&mut batch, index);
        route::add_trunk(&mut batch, [&near, &far], [last, index], mtu, !talk);
        if let Err(error) = route.run(batch) {
            let mut batch = Batch::default();
            route::delete_link(&mut batch, &bridge);
            // The reason worth telling is the first one.
            route.run(batch).ok();
            return Err(failed(error));
        }
        for end in [&near, &far] {
            write_sysctl(&format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1").ok();
        }
        remember_more_neighbours();
        tracing::info!(network = network.name, bridge, "a bridge more for a large network");
        Ok(Shard { name: bridge, index, ports: 0 })
    }

    fn shard_mark(&self, network: &Network, number: usize) -> String {
        format!("{} {} {number}", mark(&self.bridge_name), network.bridge)
    }

    /// Further bridges that an earlier engine made.
    pub(super) fn find_shards(&self, links: &[Link], network: &Network) -> Vec<Shard> {
        let find = |number| {
            let mark = self.shard_mark(network, number);
            links.iter().find(|link| link.kind == "bridge" && link.alias == mark)
        };
        let shard = |link: &Link| Shard { name: link.name.clone(), index: link.index, ports: 0 };
        (1..SHARDS_MAX).map_while(find).map(shard).collect()
    }

    pub(super) fn remove_shards(&self, route: &mut Route, network: &Network, count: usize) -> Result<(), NetlinkError> {
        for number in 1..count {
            let [bridge, near, _] = names(network, number);
            for name in [near, bridge] {
                let mut batch = Batch::default();
                route::delete_link(&mut batch, &name);
                match route.run(batch) {
                    Err(error) if error.errno() != Some(berth_net::Errno::NODEV) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Raises the kernel's limits where they are lower. Only the host's own network has them.
fn remember_more_neighbours() {
    // A question to all neighbours is as many packets at once; past this the kernel drops them.
    raise_limit("/proc/sys/net/core/netdev_max_backlog", NEIGHBOURS / 4);
    for family in ["ipv4", "ipv6"] {
        for (name, wanted) in [("gc_thresh3", NEIGHBOURS), ("gc_thresh2", NEIGHBOURS / 2)] {
            raise_limit(&format!("/proc/sys/net/{family}/neigh/default/{name}"), wanted);
        }
    }
}

fn raise_limit(path: &str, wanted: u32) {
    let Ok(text) = std::fs::read_to_string(path) else { return };
    if text.trim_end().parse().is_ok_and(|now: u32| now < wanted)
        && let Err(error) = write_sysctl(path, &wanted.to_string())
    {
        tracing::warn!(%error, "packets of large networks may be lost");
    }
}
