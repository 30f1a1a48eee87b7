//! The guest's network and its files under /etc.

use berth_agent_proto::{Configure, EtcFile, Failure, FailureKind, Interface};
use berth_net::netlink::{Batch, NetlinkError};
use berth_net::route::{self, Link, Route};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the container's files under /etc are bound from.
pub(crate) const ETC: &str = "/run/berth/etc";
/// A card that the machine has is there within that.
const CARD_SECONDS_MAX: u64 = 60;
const FILES: [&str; 3] = ["hosts", "resolv.conf", "hostname"];

/// As in every container with a network of its own: anybody pings and takes low ports.
const OPEN_TO_ALL: [(&str, &str); 2] =
    [("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"), ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")];

fn failed(what: &str) -> impl Fn(NetlinkError) -> Failure + '_ {
    move |cause| Failure::new(FailureKind::Internal, format!("cannot {what}: {cause}"))
}

fn mac_of(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

pub(crate) fn configure(wanted: &Configure) -> Result<(), Failure> {
    let kernel =
        |errno: rustix::io::Errno| Failure::new(FailureKind::Internal, format!("cannot set the host name: {errno}"));
    if !wanted.hostname.is_empty() {
        rustix::system::sethostname(wanted.hostname.as_bytes()).map_err(kernel)?;
    }
    if wanted.clock_unix_nanos != 0 {
        crate::identity::set_clock(wanted.clock_unix_nanos)?;
    }
    for (path, value) in OPEN_TO_ALL {
        // A kernel without one of them lacks what it would open.
        std::fs::write(path, value).ok();
    }
    interfaces(&wanted.interfaces)?;
    wanted.files.iter().try_for_each(write)
}

/// In place: a container has it mounted.
fn write(file: &EtcFile) -> Result<(), Failure> {
    if !FILES.contains(&file.name.as_str()) {
        return Err(Failure::new(FailureKind::Invalid, format!("{:?} is no file of the engine's", file.name)));
    }
    let path = Path::new(ETC).join(&file.name);
    std::fs::write(&path, &file.text)
        .map_err(|cause| Failure::new(FailureKind::Internal, format!("cannot write {}: {cause}", path.display())))
}

/// All cards as they should be, and the loopback. One without a name keeps its own.
pub(crate) fn interfaces(wanted: &[Interface]) -> Result<(), Failure> {
    let mut route = Route::open().map_err(failed("ask for the network cards"))?;
    let deadline = Instant::now() + Duration::from_secs(CARD_SECONDS_MAX);
    let found = loop {
        let links = route.links().map_err(failed("ask for the network cards"))?;
        let find = |interface: &Interface| {
            let mac = mac_of(&interface.mac)?;
            links.iter().find(|link| link.mac == mac).cloned()
        };
        let found: Vec<Option<Link>> = wanted.iter().map(find).collect();
        if found.iter().all(Option::is_some) {
            break found;
        }
        if Instant::now() > deadline {
            let missing = wanted.iter().zip(&found).find(|(_, link)| link.is_none()).map(|(one, _)| one.mac.as_str());
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("the machine has no network card {}", missing.unwrap_or_default()),
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut batch = Batch::default();
    if let Some(loopback) = route.link("lo").map_err(failed("find the loopback"))? {
        route::set_up(&mut batch, loopback.index);
    }
    for (interface, link) in wanted.iter().zip(found.into_iter().flatten()) {
        if !link.up && !interface.name.is_empty() && link.name != interface.name {
            route::set_name(&mut batch, link.index, &interface.name);
        }
        if interface.mtu > 0 && link.mtu != interface.mtu {
            route::set_mtu(&mut batch, link.index, interface.mtu);
        }
        for &(address, prefix) in &interface.addresses {
            route::add_address(&mut batch, link.index, address, prefix);
        }
        route::set_up(&mut batch, link.index);
        for &gateway in &interface.gateways {
            route::set_default_route(&mut batch, gateway, link.index);
        }
    }
    route.run(batch).map_err(failed("give the network cards their addresses"))?;
    wanted.iter().try_for_each(parameters)
}

/// Kernel parameters of that card and no other's. What a card is called where nobody said is the guest's own affair.
fn parameters(interface: &Interface) -> Result<(), Failure> {
    for (name, value) in interface.sysctls.iter().filter(|_| !interface.name.is_empty()) {
        let path = format!("/proc/sys/{}", name.replace("IFNAME", &interface.name));
        std::fs::write(&path, value)
            .map_err(|cause| Failure::new(FailureKind::Invalid, format!("cannot write {path}: {cause}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_six_bytes() {
        assert_eq!(mac_of("02:42:ac:11:00:02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        for wrong in ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "02:42:ac:11:00:xx"] {
            assert_eq!(mac_of(wrong), None, "{wrong}");
        }
    }
}
