//! Capabilities by name: defaults, additions, removals.

use berth_types::spec::HostConfig;
use berth_types::{Error, Result};
use oci_spec::runtime::{Capability, LinuxCapabilities};
use std::collections::HashSet;
use std::str::FromStr;
use std::sync::OnceLock;

/// What Docker leaves to root inside a container.
const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// All that capabilities(7) knows, by number.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Those that this engine may give away: its own bounding set.
fn available() -> &'static HashSet<Capability> {
    static AVAILABLE: OnceLock<HashSet<Capability>> = OnceLock::new();
    AVAILABLE.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let bits = bits.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX);
        ALL.into_iter().enumerate().filter(|(number, _)| bits >> number & 1 == 1).map(|(_, cap)| cap).collect()
    })
}

enum Named {
    All,
    One(Capability),
}

fn named(text: &str) -> Result<Named> {
    let upper = text.to_uppercase();
    if upper == "ALL" {
        return Ok(Named::All);
    }
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let cap = Capability::from_str(bare).map_err(|_| Error::invalid(format!("unknown capability: \"CAP_{bare}\"")))?;
    if !available().contains(&cap) {
        return Err(Error::invalid(format!(
            "capability not supported by your kernel or not available in the current environment: \"CAP_{bare}\""
        )));
    }
    Ok(Named::One(cap))
}

fn set(names: &[String]) -> Result<(bool, HashSet<Capability>)> {
    let (mut all, mut set) = (false, HashSet::new());
    for name in names {
        match named(name)? {
            Named::All => all = true,
            Named::One(cap) => drop(set.insert(cap)),
        }
    }
    Ok((all, set))
}

/// Refuses names that mean nothing here.
pub(super) fn check(host: &HostConfig) -> Result<()> {
    set(&host.cap_add).map_err(|error| error.context("invalid CapAdd"))?;
    set(&host.cap_drop).map_err(|error| error.context("invalid CapDrop"))?;
    Ok(())
}

/// What the container's root may do.
pub(super) fn of(host: &HostConfig) -> Result<HashSet<Capability>> {
    if host.privileged {
        return Ok(available().clone());
    }
    let (add_all, add) = set(&host.cap_add)?;
    let (drop_all, drop) = set(&host.cap_drop)?;
    if add_all {
        return Ok(available().difference(&drop).copied().collect());
    }
    if drop_all {
        return Ok(add);
    }
    let kept = DEFAULT.into_iter().filter(|cap| available().contains(cap) && !drop.contains(cap));
    Ok(kept.chain(add.iter().copied()).collect())
}

pub(super) fn all() -> HashSet<Capability> {
    available().clone()
}

/// Docker fills three of the five sets: inheritable and ambient stay empty (CVE-2022-24769).
pub(super) fn sets(caps: &HashSet<Capability>) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(caps.clone()))
        .set_permitted(Some(caps.clone()))
        .set_effective(Some(caps.clone()))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(add: &[&str], drop: &[&str]) -> HostConfig {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        HostConfig { cap_add: list(add), cap_drop: list(drop), ..HostConfig::default() }
    }

    #[test]
    fn names_are_read_in_any_case_with_and_without_prefix() {
        for name in ["NET_ADMIN", "cap_net_admin", "Net_Admin"] {
            assert!(of(&host(&[name], &[])).unwrap().contains(&Capability::NetAdmin), "{name}");
        }
        assert_eq!(of(&host(&[], &[])).unwrap().len(), 14);
    }

    #[test]
    fn dropping_all_leaves_what_is_added() {
        let caps = of(&host(&["CHOWN"], &["ALL"])).unwrap();
        assert_eq!(caps, HashSet::from([Capability::Chown]));
        let caps = of(&host(&["ALL"], &["CHOWN"])).unwrap();
        assert!(!caps.contains(&Capability::Chown) && caps.contains(&Capability::SysAdmin));
    }

    #[test]
    fn an_unknown_name_is_refused_in_dockers_words() {
        let error = check(&host(&["FLY"], &[])).unwrap_err();
        assert_eq!(error.to_string(), "invalid CapAdd: unknown capability: \"CAP_FLY\"");
    }

    #[test]
    fn every_capability_has_its_number() {
        assert_eq!(ALL.len(), ALL.iter().collect::<HashSet<_>>().len());
        assert_eq!(ALL[21], Capability::SysAdmin);
        assert_eq!(ALL[40], Capability::CheckpointRestore);
    }
}
