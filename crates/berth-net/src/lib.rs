//! Networks: namespaces, bridges, addresses, published ports, firewall.
//!
//! ```text
//!  netlink   messages to the kernel and back, batched
//!  route     bridges, veth pairs, addresses, routes         (NETLINK_ROUTE)
//!  nft       tables, chains, rules, sets, elements          (NETLINK_NETFILTER)
//!  firewall  our one table: what it holds and how it changes
//!  publication  ports that lead to containers: as elements of its maps, and in tables of other engines
//!  guard     what a container's port may not pretend, on the bridge itself
//!  loopback  published ports on ::1, where translation cannot
//!  conntrack UDP flows that outlive a change of ports
//!  watch     hears of changes to the rules by others
//!  foreign   two rules per bridge in chains of others that drop what they do not know
//!  slot      a network namespace with its interface, made ahead of time
//!  names     the sockets of a container's name server
//!  addresses which address of a subnet is free, which subnet of a pool
//!  ports     host ports kept for containers, and who holds one that is taken
//!  files     /etc/hosts and /etc/resolv.conf of a container
//! ```
//!
//! This crate changes the network namespace of the thread that opened its sockets and knows no containers:
//! what belongs to whom is `berth-engine`'s. No program is started for any of it.

pub mod addresses;
mod conntrack;
pub mod files;
pub mod firewall;
mod foreign;
mod guard;
pub mod holder;
mod loopback;
pub mod machine;
pub mod names;
pub mod netlink;
pub mod nft;
pub mod ports;
mod publication;
pub mod rate;
pub mod route;
pub mod slot;
mod sysctl;
mod watch;
mod zone;

pub use rustix::io::Errno;
