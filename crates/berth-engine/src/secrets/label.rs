//! The label that gives a container secrets where its client has no word for it: Compose refuses external secrets
//! outside a swarm, and Docker's API knows them for services only.

use berth_types::spec::{MountKind, MountSpec};

/// `name[=target],...`; the target is `/run/secrets/<name>` where it is not given.
pub const LABEL: &str = "berth.secrets";

/// The mounts that the label's text asks for.
pub(crate) fn mounts_of_label(text: &str) -> Vec<MountSpec> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let mount = |entry: &str| {
        let (name, target) = entry.split_once('=').map_or((entry, ""), |(name, target)| (name.trim(), target.trim()));
        MountSpec::file(MountKind::Secret, name, target)
    };
    entries.map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_names_secrets_and_where_they_are_seen() {
        let mounts = mounts_of_label(" db-password, key = /etc/tls/key ,,");
        let seen: Vec<_> = mounts.iter().map(|mount| (mount.source.as_str(), mount.target.as_str())).collect();
        assert_eq!(seen, [("db-password", ""), ("key", "/etc/tls/key")]);
    }
}
