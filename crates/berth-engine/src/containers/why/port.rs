//! Who has a port of the host: another container, or a process.

use crate::containers::Table;
use crate::containers::record::Container;
use berth_net::holder;
use berth_types::spec::Protocol;

/// The port that an error of publishing names: `Bind for 0.0.0.0:80 failed: ...`.
pub(super) fn named(error: &str) -> Option<u16> {
    let (_, rest) = error.split_once("Bind for ")?;
    let address = rest.split(' ').next()?;
    address.rsplit(':').next()?.parse().ok()
}

/// In words, where anybody can be found. `own`: the container that wanted it.
pub(super) fn publisher(table: &Table, own: &str, port: u16) -> Option<String> {
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
    let listeners =
        [Protocol::Tcp, Protocol::Udp].into_iter().filter_map(|protocol| holder::find(protocol, None, port));
    // This engine keeps the ports of its own containers.
    let other = listeners.into_iter().find(|listener| listener.pid != std::process::id())?;
    let inside = other.container.as_deref().and_then(|id| table.get(id).ok());
    Some(match inside {
        Some(container) => {
            format!("{other} of container {} listens on port {port}, on the host's own network", container.name())
        }
        None => format!("{other} of the host listens on port {port}"),
    })
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
}
