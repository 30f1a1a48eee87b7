//! What a cloud image is told at its first start: a small disk for cloud-init (its NoCloud source).
//!
//! Written anew before each start, because a machine's name and addresses may be others by then. A clone has another
//! instance id: to cloud-init it is a new machine, which gets keys and a host name of its own. All of it is JSON, which
//! the reader takes for YAML.

use super::start::cannot_write;
use crate::networks::Attachment;
use berth_types::{Error, Result};
use berth_vm::fat;
use berth_vm::spec::Nic;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

pub(super) const SEED: &str = "seed.img";
/// The label by which cloud-init finds it.
const LABEL: &str = "CIDATA";
const USER_DATA_BYTES_MAX: usize = 512 << 10;
const KEYS_MAX: usize = 64;
const KEY_BYTES_MAX: usize = 16 << 10;

/// Of a machine that is made from a cloud image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// As cloud-init reads it: `#cloud-config`, a script, ... Empty: nothing of it.
    pub user_data: String,
    /// Keys that may sign in as the image's user: lines of `authorized_keys`.
    pub ssh_keys: Vec<String>,
}

impl Seed {
    pub(super) fn check(&self) -> Result<()> {
        if self.user_data.len() > USER_DATA_BYTES_MAX {
            return Err(Error::invalid(format!("user data of more than {} KiB", USER_DATA_BYTES_MAX >> 10)));
        }
        if self.ssh_keys.len() > KEYS_MAX {
            return Err(Error::invalid(format!("more than {KEYS_MAX} keys")));
        }
        let known = ["ssh-", "ecdsa-", "sk-"];
        let good = |key: &String| known.iter().any(|kind| key.starts_with(kind)) && !key.contains(['\n', '\r']);
        match self.ssh_keys.iter().find(|key| !good(key) || key.len() > KEY_BYTES_MAX) {
            None => Ok(()),
            Some(key) => {
                let begin: String = key.chars().take(20).collect();
                Err(Error::invalid(format!("{begin:?}... is no public key"))
                    .with_hint("give lines as in ~/.ssh/id_ed25519.pub"))
            }
        }
    }
}

/// The files, by their names on the disk.
fn files(seed: &Seed, instance: &str, name: &str, network: &Value) -> [(&'static str, String); 3] {
    let meta = json!({"instance-id": instance, "local-hostname": name, "public-keys": seed.ssh_keys});
    let user_data = if seed.user_data.is_empty() { "#cloud-config\n{}\n" } else { &seed.user_data };
    [("meta-data", meta.to_string()), ("user-data", user_data.to_owned()), ("network-config", network.to_string())]
}

/// Each card by its hardware address: the old address by DHCP, the new one written down.
fn network(nics: &[Nic], attachment: &Attachment) -> Value {
    let mut ethernets = serde_json::Map::new();
    for (index, nic) in nics.iter().enumerate() {
        let endpoint = attachment.endpoints.values().find(|endpoint| endpoint.mac_address == nic.mac);
        let mut card = json!({"match": {"macaddress": nic.mac}, "dhcp4": nic.lease.is_some(), "dhcp6": false});
        if let Some((address, prefix_len)) = endpoint.and_then(|endpoint| endpoint.ipv6) {
            card["addresses"] = json!([format!("{address}/{prefix_len}")]);
        }
        let way_out = endpoint.filter(|endpoint| endpoint.default_route).and_then(|endpoint| endpoint.ipv6_gateway);
        if let Some(gateway) = way_out {
            card["routes"] = json!([{"to": "::/0", "via": gateway.to_string()}]);
        }
        ethernets.insert(format!("card{index}"), card);
    }
    json!({"version": 2, "ethernets": ethernets})
}

/// Writes the disk into the machine's folder.
pub(super) fn write(
    folder: &Path,
    seed: &Seed,
    instance: &str,
    name: &str,
    nics: &[Nic],
    attachment: &Attachment,
) -> Result<()> {
    let files = files(seed, instance, name, &network(nics, attachment));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    let image = fat::image(LABEL, &files)
        .map_err(|cause| Error::because(berth_types::ErrorKind::Internal, "cannot write the seed", &cause))?;
    let path = folder.join(SEED);
    super::start::replace(&path, &image).map_err(|cause| cannot_write(&path, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_user_data_are_bounded() {
        let key = |text: &str| Seed { ssh_keys: vec![text.to_owned()], ..Seed::default() }.check();
        assert!(key("ssh-ed25519 AAAA me").is_ok());
        assert!(key("AAAA").unwrap_err().hint.is_some());
        assert!(key("ssh-ed25519 AAAA\nssh-rsa BBBB").is_err());
        assert!(Seed { user_data: "x".repeat(USER_DATA_BYTES_MAX + 1), ..Seed::default() }.check().is_err());
    }

    #[test]
    fn what_is_not_said_is_empty_and_a_name_is_text() {
        let seed = Seed { ssh_keys: vec!["ssh-ed25519 AAAA \"me\"".to_owned()], ..Seed::default() };
        let all = files(&seed, "one", "we\"b", &network(&[], &Attachment::default()));
        let meta: Value = serde_json::from_str(&all[0].1).unwrap();
        assert_eq!((meta["instance-id"].as_str(), meta["local-hostname"].as_str()), (Some("one"), Some("we\"b")));
        assert!(all[1].1.starts_with("#cloud-config\n"));
        assert_eq!(serde_json::from_str::<Value>(&all[2].1).unwrap()["version"], 2);
    }
}
