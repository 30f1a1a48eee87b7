//! Whose socket has a port of the host: best effort, for messages.
//!
//! The kernel's tables of sockets (proc_net(5)) tell the inode, and the descriptors of all processes whose it is. Sockets
//! that were bound and neither listen nor are connected stand in no table.

use berth_types::spec::Protocol;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// A process with a socket that is open for anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// Its program's name, as the kernel shortens it.
    pub program: String,
    /// The id of the container that it runs in, by its cgroup; of this engine or of another.
    pub container: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (pid {})", self.program, self.pid)
    }
}

/// Who keeps others from `port` on `address`; `None`: on any address.
pub fn find(protocol: Protocol, address: Option<IpAddr>, port: u16) -> Option<Holder> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"],
        Protocol::Udp => ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"],
        Protocol::Sctp => return None,
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|path| inodes(&read(path), address, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse::<u32>().ok()?;
        let open = std::fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let mut targets = open.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
        let has = targets.any(|target| target.to_str().is_some_and(|target| inodes.iter().any(|one| one == target)));
        has.then(|| of(pid, &process.path()))
    })
}

fn of(pid: u32, folder: &Path) -> Holder {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let container = container_in(&read("cgroup")).map(str::to_owned);
    Holder { pid, program: read("comm").trim_end().to_owned(), container }
}

/// The 64 hexadecimal digits that engines name a container's cgroup by, in the text of cgroups(7)'s `/proc/<pid>/cgroup`.
pub fn container_in(cgroups: &str) -> Option<&str> {
    const ID_DIGITS: usize = 64;
    cgroups.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == ID_DIGITS)
}

/// Sockets of a table of proc_net(5) that are open for anybody at `port` and meet `address`.
fn inodes(table: &str, address: Option<IpAddr>, port: u16) -> Vec<u64> {
    /// TCP_LISTEN; an unconnected UDP socket is TCP_CLOSE (include/net/tcp_states.h).
    const OPEN: [&str; 2] = ["0A", "07"];
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, number) = fields.get(1)?.rsplit_once(':')?;
        let here = u16::from_str_radix(number, 16).ok()? == port && OPEN.contains(fields.get(3)?);
        let meets = address.is_none_or(|wanted| meet(wanted, parse(local)));
        fields.get(9)?.parse().ok().filter(|&inode| inode != 0 && here && meets)
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// Words of 32 bits in the processor's order, as the kernel prints them.
fn parse(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => word(0).map(|bytes| Ipv4Addr::from(bytes).into()),
        32 => {
            let bytes: Vec<u8> = (0..4).map(|n| word(n * 8)).collect::<Option<Vec<_>>>()?.concat();
            Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical())
        }
        _ => None,
    }
}

/// A socket of every IPv6 address mostly takes IPv4 too.
fn meet(wanted: IpAddr, local: Option<IpAddr>) -> bool {
    let Some(local) = local else { return true };
    let every = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let same_family = wanted.is_ipv4() == local.is_ipv4();
    local == every || same_family && (wanted == local || wanted.is_unspecified() || local.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0\n\
        \x20  1: 0200007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1 0\n\
        \x20  2: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 103 1 0\n\
        \x20  3: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 104 1 0\n";
    const TCP6: &str = "  sl  local_address rem_address st\n\
        \x20  0: 00000000000000000000000000000000:1F90 0:0 0A 0:0 0:0 0     0        0 201 1 0\n\
        \x20  1: 0000000000000000FFFF00000100007F:1F92 0:0 0A 0:0 0:0 0     0        0 202 1 0\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn only_open_sockets_that_meet_the_address_count() {
        let found = |table, address: Option<&str>, port| inodes(table, address.map(|a| a.parse().unwrap()), port);
        assert_eq!(found(TCP, Some("127.0.0.1"), 8080), [101]);
        assert_eq!(found(TCP, Some("127.0.0.2"), 8080), [102]);
        assert_eq!(found(TCP, Some("0.0.0.0"), 8080), [101, 102]);
        assert_eq!(found(TCP, None, 8080), [101, 102]);
        assert_eq!(found(TCP, Some("::1"), 8080), [] as [u64; 0]);
        assert_eq!(found(TCP, Some("192.0.2.1"), 8081), [104]);
        assert_eq!(found(TCP, None, 8082), [] as [u64; 0]);
        assert_eq!(found(TCP6, Some("127.0.0.1"), 8080), [201]);
        assert_eq!(found(TCP6, Some("::1"), 8080), [201]);
        assert_eq!(found(TCP6, Some("127.0.0.1"), 8082), [202]);
    }

    #[test]
    fn a_container_is_known_by_its_cgroup() {
        let id = "ab".repeat(32);
        for cgroup in
            [format!("4:memory:/berth/{id}\n0::/berth/{id}\n"), format!("0::/system.slice/docker-{id}.scope\n")]
        {
            assert_eq!(container_in(&cgroup), Some(id.as_str()), "{cgroup}");
        }
        assert_eq!(container_in("0::/user.slice/session-1.scope\n"), None);
        assert_eq!(container_in(&format!("0::/{id}{id}\n")), None);
    }
}
