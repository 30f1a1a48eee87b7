//! A network namespace with its interface, made ahead of time.
//!
//! ```text
//!  engine's namespace                      slot's namespace
//!  bridge ── bv<11 digits>  ~~~ veth ~~~   eth0  address, default route, up
//!                                          lo    up
//!                                          sysctls: ports from 0 and ping for everybody
//! ```
//!
//! **Namespaces are kept by descriptor, not by a bind mount.** [`Namespace::path`] is
//! `/proc/<engine>/fd/<n>`, which a runtime opens like any other namespace file. Reasons: a mount per container would be
//! copied into the mount namespace of every later container, so the 200th would start slower than the
//! first; it would need the engine and its shims to share a mount namespace (systemd's `PrivateMounts=`
//! breaks that); and it would outlive a killed engine. With descriptors the kernel itself
//! takes back every namespace that no process of a container entered, with its veth pair. What it
//! costs: the path is good only while this engine runs. A running container's namespace is found again
//! through `/proc/<its pid>/ns/net`.
//!
//! A thread that has moved into a namespace ends with its work; nothing ever moves back.

use crate::netlink::{Batch, NetlinkError};
use crate::route::{self, Route, Veth};
use crate::sysctl;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The threads here call a few functions deep and keep no buffers on the stack.
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// Longest wait for the kernel to make a raised interface ready; it takes well under a millisecond on a host that is not busy.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// A step of making or entering a network namespace that failed.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    #[error("cannot start a thread for a network namespace")]
    Thread(#[source] std::io::Error),
    #[error("cannot make a network namespace")]
    Unshare(#[source] Errno),
    #[error("cannot open network namespace {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        errno: Errno,
    },
    #[error("cannot enter a network namespace")]
    Enter(#[source] Errno),
    #[error("cannot set {path}")]
    Sysctl {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot set up interface {name}")]
    Interface {
        name: String,
        #[source]
        source: NetlinkError,
    },
    #[error("cannot make a machine's network card")]
    Tap(#[source] Errno),
    #[error("interface {0} is not where it was put")]
    Lost(String),
    #[error("cannot open the name server's sockets in a container's network")]
    Names {
        #[source]
        source: std::io::Error,
    },
}

impl From<std::io::Error> for SlotError {
    fn from(error: std::io::Error) -> SlotError {
        SlotError::Thread(error)
    }
}

/// A network namespace, there as long as this or a process in it lives.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

/// What an interface in a namespace hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uplink {
    /// A veth pair whose other end is a port of the bridge with this index. `gateway` is the bridge that has the
    /// host's addresses there.
    Bridge { index: u32, gateway: u32 },
    /// A macvlan of the interface with this index.
    Macvlan { parent: u32, mode: u32 },
}

/// An interface in a namespace, as it is to be.
#[derive(Debug, Clone)]
pub struct Interface<'a> {
    /// The end on the host, where there is one.
    pub host_name: &'a str,
    pub uplink: Uplink,
    /// 0: the parent's.
    pub mtu: u32,
    /// Other isolated ports of the bridge are out of reach.
    pub isolated: bool,
    /// The end in the namespace: `eth0`.
    pub name: &'a str,
    pub mac: [u8; 6],
    pub addresses: &'a [(IpAddr, u8)],
    /// Link-local ones; nobody on the host looks for them.
    pub local_addresses: &'a [(IpAddr, u8)],
    /// Default routes to set.
    pub gateways: &'a [IpAddr],
    /// Path below `/proc/sys`, with `IFNAME` for the interface's name, and value.
    pub sysctls: &'a [(String, String)],
}

impl Namespace {
    /// A fresh namespace: loopback up, sysctls as Docker sets them.
    pub fn create() -> Result<Namespace, SlotError> {
        in_thread(|| {
            berth_sys::netns::unshare_network().map_err(SlotError::Unshare)?;
            let namespace = Namespace::open(Path::new("/proc/thread-self/ns/net"))?;
            // Everybody in a container may listen on port 80 and ping, without capabilities.
            set_sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
            // Refused where the user namespace maps fewer groups; then ping needs CAP_NET_RAW as ever.
            set_sysctl("net/ipv4/ping_group_range", "0 2147483647").ok();
            // Interfaces get IPv6 when their network has it. Absent on hosts without IPv6.
            interfaces_have_ipv6(false)?;
            set_sysctl("net/ipv6/conf/default/accept_ra", "0").ok();
            let mut batch = Batch::default();
            route::set_up(&mut batch, 1);
            let run = Route::open().and_then(|mut route| route.run(batch));
            run.map_err(|source| SlotError::Interface { name: "lo".to_owned(), source })?;
            Ok(namespace)
        })
    }

    /// The namespace behind a file: `/proc/<pid>/ns/net`, for example.
    pub fn open(path: &Path) -> Result<Namespace, SlotError> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| SlotError::Open { path: path.to_owned(), errno })?;
        Ok(Namespace { fd })
    }

    pub(crate) fn try_clone(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
    }

    /// Where others open it while this process lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()))
    }

    /// Runs `work` on a thread inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T, SlotError> + Send) -> Result<T, SlotError> {
        let fd = self.fd.as_fd();
        in_thread(move || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(fd, Some(kind)).map_err(SlotError::Enter)?;
            work()
        })
    }

    /// Puts an interface into it: made, up, addresses and routes set. `host` is a route socket of the namespace
    /// that has the bridge or parent. After a failure nothing is left of it. Packets may be lost until
    /// [`wait_operational`] returns.
    pub fn add_interface(&self, host: &mut Route, interface: &Interface<'_>) -> Result<(), SlotError> {
        let failed = |source| SlotError::Interface { name: interface.host_name.to_owned(), source };
        let mut batch = Batch::default();
        match interface.uplink {
            Uplink::Bridge { index, gateway } => {
                route::add_veth(&mut batch, veth(interface, index, self.fd.as_fd()));
                route::raise_port(&mut batch, interface.host_name, sysctl::has_ipv6(), interface.isolated);
                // The host asks nobody: a question to thousands of neighbours costs thousands of packets, and a
                // neighbour that answers for another would be believed.
                for &(address, _) in interface.addresses {
                    route::set_neighbour(&mut batch, gateway, address, interface.mac);
                }
            }
            Uplink::Macvlan { parent, mode } => {
                let (name, mac) = (interface.name, interface.mac);
                route::add_macvlan(&mut batch, name, parent, mode, mac, interface.mtu, self.fd.as_fd());
            }
        }
        // What a new interface gets, and not its own switch afterwards: writing that one is tried again and again by
        // the kernel, at full speed, while anybody holds the lock of all networks (`addrconf_disable_ipv6`).
        let ipv6 = interface.addresses.iter().chain(interface.local_addresses).any(|(address, _)| address.is_ipv6());
        // The socket stays one of the host's namespace, whoever uses it.
        let configured = self.enter(|| {
            interfaces_have_ipv6(ipv6)?;
            host.run(batch).map_err(failed)?;
            configure(interface)
        });
        if configured.is_err() {
            let mut batch = Batch::default();
            // The reason worth telling is the first one.
            match interface.uplink {
                Uplink::Bridge { .. } => {
                    route::delete_link(&mut batch, interface.host_name);
                    host.run(batch).ok();
                }
                Uplink::Macvlan { .. } => {
                    route::delete_link(&mut batch, interface.name);
                    self.enter(|| Route::open().and_then(|mut route| route.run(batch)).map_err(failed)).ok();
                }
            }
        }
        configured
    }

    /// Its default routes, through one of its interfaces; earlier ones go. An interface that was handed over to a machine
    /// ([`Namespace::hand_over`]) has neither addresses nor routes here: its guest is told of them.
    pub fn set_default_routes(&self, interface: &str, gateways: &[IpAddr]) -> Result<(), SlotError> {
        self.enter(|| {
            let failed = |source| SlotError::Interface { name: interface.to_owned(), source };
            let mut route = Route::open().map_err(failed)?;
            let link = route.link(interface).map_err(failed)?;
            let link = link.ok_or_else(|| SlotError::Lost(interface.to_owned()))?;
            if link.master != 0 {
                return Ok(());
            }
            let index = link.index;
            for ipv6 in [false, true] {
                // One at a time until there is none: the kernel says ESRCH then.
                for _ in 0..8 {
                    let mut batch = Batch::default();
                    route::delete_default_route(&mut batch, ipv6);
                    if route.run(batch).is_err() {
                        break;
                    }
                }
            }
            let mut batch = Batch::default();
            for &gateway in gateways {
                route::set_default_route(&mut batch, gateway, index);
            }
            route.run(batch).map_err(failed)
        })
    }

    /// Interface names in it.
    pub fn links(&self) -> Result<Vec<route::Link>, SlotError> {
        self.enter(|| {
            let links = Route::open().and_then(|mut route| route.links());
            links.map_err(|source| SlotError::Interface { name: "list".to_owned(), source })
        })
    }
}

/// Waits until an interface made by [`Namespace::add_interface`] carries packets. Its end in the namespace does at once; the
/// host's was raised first, so it is the one that the kernel makes ready in its own time.
pub fn wait_operational(host: &mut Route, host_name: &str, uplink: Uplink) -> Result<(), SlotError> {
    match uplink {
        Uplink::Bridge { index, .. } => host
            .wait_operational(host_name, index, READY_WITHIN)
            .map_err(|source| SlotError::Interface { name: host_name.to_owned(), source }),
        Uplink::Macvlan { .. } => Ok(()),
    }
}

fn veth<'a>(interface: &Interface<'a>, bridge: u32, netns: BorrowedFd<'a>) -> Veth<'a> {
    Veth {
        name: interface.host_name,
        master: bridge,
        mtu: interface.mtu,
        peer_name: interface.name,
        peer_mac: interface.mac,
        peer_netns: netns,
    }
}

/// Whether interfaces made from now on in the calling thread's namespace have IPv6; ::1 is there anyway.
fn interfaces_have_ipv6(wanted: bool) -> Result<(), SlotError> {
    match set_sysctl("net/ipv6/conf/default/disable_ipv6", if wanted { "0" } else { "1" }) {
        // Absent on hosts without IPv6.
        Err(_) if !wanted => Ok(()),
        other => other,
    }
}

/// Addresses and routes of an interface, on a thread inside its namespace.
fn configure(interface: &Interface<'_>) -> Result<(), SlotError> {
    let failed = |source| SlotError::Interface { name: interface.name.to_owned(), source };
    let mut route = Route::open().map_err(failed)?;
    let link = route.link(interface.name).map_err(failed)?;
    let index = link.ok_or_else(|| SlotError::Lost(interface.name.to_owned()))?.index;
    let mut batch = Batch::default();
    route::set_up(&mut batch, index);
    for &(address, prefix_len) in interface.addresses.iter().chain(interface.local_addresses) {
        route::add_address(&mut batch, index, address, prefix_len);
    }
    for &gateway in interface.gateways {
        route::set_default_route(&mut batch, gateway, index);
    }
    route.run(batch).map_err(failed)?;
    for (name, value) in interface.sysctls {
        set_sysctl(&name.replace("IFNAME", interface.name), value)?;
    }
    Ok(())
}

fn set_sysctl(path: &str, value: &str) -> Result<(), SlotError> {
    sysctl::write(path, value).map_err(|source| SlotError::Sysctl { path: format!("/proc/sys/{path}"), source })
}

fn in_thread<T: Send>(work: impl FnOnce() -> Result<T, SlotError> + Send) -> Result<T, SlotError> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("netns".to_owned()).stack_size(THREAD_STACK_BYTES);
        let thread = builder.spawn_scoped(scope, work)?;
        thread.join().expect("the thread returns errors and does not panic")
    })
}
