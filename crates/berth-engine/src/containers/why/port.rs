//! Who has a port of the host: another container, or a process.

use crate::containers::Table;
use crate::containers::record::Container;
use std::path::Path;

/// The port that an error of publishing names: `Bind for 0.0.0.0:80 failed: ...`.
pub(super) fn named(error: &str) -> Option<u16> {
    let (_, rest) = error.split_once("Bind for ")?;
    let address = rest.split(' ').next()?;
    address.rsplit(':').next()?.parse().ok()
}

/// In words, where anybody can be found. `own`: the container that wanted it.
pub(super) fn holder(table: &Table, own: &str, port: u16) -> Option<String> {
    let publishes = |container: &Container| {
        let live = container.live();
        let running = live.run.phase.pid().is_some();
        running && live.run.attachment.ports.values().flatten().any(|&(_, host)| host == port)
    };
    let all = table.all();
    let other = all.iter().find(|container| container.id.as_str() != own && publishes(container));
    if let Some(other) = other {
        return Some(format!("container {} publishes port {port}", other.name()));
    }
    let (pid, program) = listener(Path::new("/proc"), port)?;
    Some(format!("process {pid} ({program}) of the host listens on port {port}"))
}

/// A process with a listening socket on `port`.
fn listener(proc: &Path, port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(proc.join("net").join(table)).ok())
        .flat_map(|text| text.lines().filter_map(|line| socket(line, port)).collect::<Vec<_>>())
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = std::fs::read_dir(proc).ok()?.flatten();
    let numbered = processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    // This engine keeps the ports of its own containers.
    numbered.filter(|(pid, _)| *pid != std::process::id()).find_map(|(pid, folder)| {
        let open = std::fs::read_dir(folder.join("fd")).ok()?.flatten();
        let mut targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let has = targets.any(|target| target.to_str().is_some_and(|target| inodes.iter().any(|one| one == target)));
        let program = || std::fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned();
        has.then(|| (pid, program()))
    })
}

/// The inode of a line of /proc/net/tcp or udp (proc(5)) whose socket is open for anybody on `port`.
fn socket(line: &str, port: u16) -> Option<String> {
    /// TCP_LISTEN; an unconnected UDP socket is 07 (include/net/tcp_states.h).
    const OPEN: [&str; 2] = ["0A", "07"];
    let words: Vec<&str> = line.split_whitespace().collect();
    let local = words.get(1)?.rsplit(':').next()?;
    let same = u16::from_str_radix(local, 16).ok()? == port && OPEN.contains(words.get(3)?);
    same.then(|| words.get(9).map(|inode| (*inode).to_owned())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_dockers_words() {
        let error = "driver failed programming external connectivity on endpoint web (0f): Bind for 0.0.0.0:8080 failed: port is already allocated";
        assert_eq!(named(error), Some(8080));
        assert_eq!(named("Bind for [::1]:53 failed: address already in use"), Some(53));
        assert_eq!(named("something else"), None);
    }

    #[test]
    fn only_open_sockets_of_that_port_count() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0";
        assert_eq!(socket(line, 8080).as_deref(), Some("12345"));
        assert_eq!(socket(line, 8081), None);
        assert_eq!(socket(&line.replace(" 0A ", " 01 "), 8080), None);
        assert_eq!(socket("  sl  local_address rem_address   st", 8080), None);
    }
}
