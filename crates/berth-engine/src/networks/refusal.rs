//! Why a port of the host cannot be published, and who has it.

use berth_net::holder::{self, Holder};
use berth_net::ports::PortError;
use berth_types::spec::Protocol;
use berth_types::{ContainerId, Error, ErrorKind};
use std::net::SocketAddr;

/// Of a range that is taken whole, the holders of that many ports are looked for: each costs a walk over all processes.
pub(super) const REFUSALS_TOLD: usize = 8;

/// One port that could not be had.
pub(super) struct Refusal {
    pub(super) protocol: Protocol,
    /// As it is told; `0.0.0.0` stands for both families.
    pub(super) told: SocketAddr,
    pub(super) everywhere: bool,
    pub(super) why: Why,
}

pub(super) enum Why {
    /// The name of one of ours.
    Container(String),
    /// The container that asks has it already.
    Itself,
    /// An engine of this host whose table leads it to a container; whether the engine runs.
    Engine { table: String, runs: bool },
    /// The kernel said no.
    Kernel(PortError),
}

impl Refusal {
    fn holder(&self) -> Option<Holder> {
        let address = (!self.everywhere).then_some(self.told.ip());
        holder::find(self.protocol, address, self.told.port())
    }

    pub(super) fn into_error(self) -> Error {
        let bind = format!("Bind for {} failed", self.told);
        let allocated = |hint: String| Error::conflict(format!("{bind}: port is already allocated")).with_hint(hint);
        match &self.why {
            Why::Container(name) => {
                allocated(format!("container {name} holds it; stop {name}, or publish another port"))
            }
            Why::Itself => allocated("this container publishes it twice".to_owned()),
            Why::Engine { table, runs: true } => allocated(format!(
                "another engine of this host publishes it (table inet {table}): stop its container there, or publish \
                 another port"
            )),
            Why::Engine { table, runs: false } => allocated(format!(
                "another engine of this host publishes it (table inet {table}); its container runs on while it is down: \
                 start that engine and stop the container, or publish another port"
            )),
            Why::Kernel(PortError::InUse) => allocated(self.in_use()),
            Why::Kernel(error @ PortError::NoSuchAddress) => Error::because(ErrorKind::InvalidArgument, bind, error)
                .with_hint(format!("no interface of the host has {}: see `ip addr`", self.told.ip())),
            Why::Kernel(error @ PortError::Failed { .. }) => Error::because(ErrorKind::Internal, bind, error),
        }
    }

    fn in_use(&self) -> String {
        let Some(holder) = self.holder() else {
            let port = self.told.port();
            return format!(
                "a program of the host has bound it: `ss -anp sport = :{port}` may show which; publish another port"
            );
        };
        if holder.pid == std::process::id() {
            return format!("this engine (pid {}) listens there itself: its API or its console", holder.pid);
        }
        match &holder.container {
            Some(id) => format!(
                "{holder} of container {id} holds it, on the host's own network; stop that container, or publish \
                 another port"
            ),
            None => format!("{holder} of the host holds it; stop it, or publish another port"),
        }
    }

    /// `8080: container web`, for one of several ports.
    pub(super) fn told_in_a_list(&self) -> Option<String> {
        let who = match &self.why {
            Why::Container(name) => format!("container {name}"),
            Why::Itself => "this container".to_owned(),
            Why::Engine { table, .. } => format!("another engine (table inet {table})"),
            Why::Kernel(PortError::InUse) => match self.holder()? {
                Holder { container: Some(id), .. } => format!("container {id}"),
                holder => holder.to_string(),
            },
            Why::Kernel(_) => return None,
        };
        Some(format!("{}: {who}", self.told.port()))
    }
}

/// Containers of hints by the name that `called` knows them by; an id that it does not know is another engine's.
///
/// They are named here and not where the hint is made, which is under the networks' lock: names are behind others.
pub(super) fn with_names(mut error: Error, called: impl Fn(&ContainerId) -> Option<String>) -> Error {
    let Some(hint) = error.hint.take() else { return error };
    let mut named = String::with_capacity(hint.len());
    let mut rest = hint.as_str();
    // Each is looked at once: a name may be somebody's id, too.
    while let Some((before, id, after)) = split_at_id(rest) {
        named.push_str(before);
        match id.parse::<ContainerId>() {
            Ok(id) => named.push_str(&called(&id).unwrap_or_else(|| format!("{} of another engine", id.short()))),
            Err(_) => named.push_str(id),
        }
        rest = after;
    }
    named.push_str(rest);
    error.hint = Some(named);
    error
}

/// What is before a container's id, the id, and what is behind it.
fn split_at_id(text: &str) -> Option<(&str, &str, &str)> {
    let id = holder::container_in(text)?;
    let at = id.as_ptr().addr() - text.as_ptr().addr();
    Some((&text[..at], id, &text[at + id.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(why: Why) -> Refusal {
        Refusal { protocol: Protocol::Tcp, told: "0.0.0.0:8080".parse().unwrap(), everywhere: true, why }
    }

    #[test]
    fn a_conflict_says_who_has_the_port_and_is_no_failure_of_ours() {
        let error = refusal(Why::Container("web".to_owned())).into_error();
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert_eq!(error.to_string(), "Bind for 0.0.0.0:8080 failed: port is already allocated");
        assert_eq!(error.hint.unwrap(), "container web holds it; stop web, or publish another port");
        for (runs, words) in [(true, "stop its container there"), (false, "start that engine and stop the container")] {
            let hint = refusal(Why::Engine { table: "berth_b1".to_owned(), runs }).into_error().hint.unwrap();
            assert!(hint.contains("table inet berth_b1") && hint.contains(words), "{hint}");
        }
        let nowhere = refusal(Why::Kernel(PortError::NoSuchAddress)).into_error();
        assert_eq!(nowhere.kind, ErrorKind::InvalidArgument);
    }

    #[test]
    fn containers_on_the_hosts_network_are_named() {
        let (ours, theirs) = ("1".repeat(64), "2".repeat(64));
        let hint = format!("8080: container {ours}, 8081: container {theirs}, 8082: container {ours}");
        let called = |id: &ContainerId| (id.as_str() == ours).then(|| "web".to_owned());
        let named = with_names(Error::conflict("taken").with_hint(hint), called);
        assert_eq!(
            named.hint.unwrap(),
            "8080: container web, 8081: container 222222222222 of another engine, 8082: container web"
        );
        // Whoever is called as somebody's id is.
        let named =
            with_names(Error::conflict("taken").with_hint(format!("container {ours}")), |id| Some(id.to_string()));
        assert_eq!(named.hint.unwrap(), format!("container {ours}"));
    }
}
