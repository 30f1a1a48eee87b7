//! Kernel parameters that belong to a namespace.
//!
//! A parameter outside of the container's own namespaces would change the host: it is refused.

use berth_types::spec::{ContainerSpec, IpcMode, NamespaceMode, NetworkMode};
use berth_types::{Error, Result};

const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses parameters that are the host's, for this container's choice of namespaces.
pub(super) fn check(spec: &ContainerSpec) -> Result<()> {
    let host = &spec.host;
    for name in host.sysctls.keys() {
        let dotted = dotted(name);
        if dotted.split('.').any(|part| part.is_empty() || part.contains('/')) || dotted.contains("..") {
            return Err(Error::invalid(format!("invalid sysctl '{name}'")));
        }
        let refuse = |why: String| Err(Error::invalid(why));
        if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            if host.ipc_mode == IpcMode::Host {
                return refuse(format!("sysctl '{name}' is not allowed in the host ipc namespace"));
            }
        } else if dotted.starts_with("net.") {
            if host.network_mode == NetworkMode::Host {
                return refuse(format!("sysctl '{name}' is not allowed in the host network namespace"));
            }
        } else if matches!(dotted.as_str(), "kernel.domainname" | "kernel.hostname") {
            let flag = if dotted == "kernel.hostname" { "--hostname" } else { "--domainname" };
            if host.uts_mode == NamespaceMode::Host {
                return refuse(format!("sysctl '{name}' is not allowed in the host uts namespace"));
            }
            if dotted == "kernel.hostname" {
                return refuse(format!(
                    "sysctl '{name}' is not allowed as it conflicts with the OCI hostname; use {flag}"
                ));
            }
        } else {
            return refuse(format!("sysctl '{name}' is not in a separate kernel namespace"));
        }
    }
    Ok(())
}

/// sysctl(8) takes `net/ipv4/ip_forward` too.
pub(super) fn dotted(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { name.replace('/', ".") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, change: impl FnOnce(&mut ContainerSpec)) -> Result<()> {
        let mut spec = ContainerSpec::default();
        spec.host.sysctls.insert(name.to_owned(), "1".to_owned());
        change(&mut spec);
        check(&spec)
    }

    #[test]
    fn only_what_belongs_to_a_namespace_of_its_own_may_be_set() {
        for good in ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max", "net/ipv4/ip_forward"] {
            with(good, |_| {}).unwrap();
        }
        for bad in ["vm.swappiness", "kernel.core_pattern", "fs.file-max", "net..x", "", "../../x", "kernel.hostname"] {
            assert!(with(bad, |_| {}).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hosts_namespace_is_not_changed() {
        assert!(with("net.ipv4.ip_forward", |spec| spec.host.network_mode = NetworkMode::Host).is_err());
        assert!(with("kernel.shmmax", |spec| spec.host.ipc_mode = IpcMode::Host).is_err());
    }
}
