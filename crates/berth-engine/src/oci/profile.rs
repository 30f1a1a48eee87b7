//! A seccomp profile in Docker's JSON becomes OCI's.
//!
//! Docker's format has conditions that OCI's lacks: a rule may count only with or without a capability, on
//! some architectures, or from some kernel on. They are decided here.

use berth_types::{Error, Result};
use oci_spec::runtime::{Capability, LinuxSeccomp};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Larger texts are no profiles; Docker's own has 20 KiB.
const BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    arch_map: Option<Vec<ArchMap>>,
    architectures: Option<Vec<String>>,
    syscalls: Option<Vec<Syscall>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Syscall {
    name: String,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Value>>,
    includes: Condition,
    excludes: Condition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

fn read(text: &str) -> Result<Profile> {
    if text.len() > BYTES_MAX {
        return Err(Error::invalid(format!("seccomp profile is larger than {BYTES_MAX} bytes")));
    }
    let profile: Profile = serde_json::from_str(text).map_err(|cause| {
        Error::because(berth_types::ErrorKind::InvalidArgument, "decoding seccomp profile failed", &cause)
    })?;
    if profile.arch_map.as_ref().is_some_and(|map| !map.is_empty())
        && profile.architectures.as_ref().is_some_and(|list| !list.is_empty())
    {
        return Err(Error::invalid(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'",
        ));
    }
    Ok(profile)
}

/// Refuses a text that is no profile.
pub(super) fn check(text: &str) -> Result<()> {
    convert(text, &HashSet::new()).map(drop)
}

/// The profile as it applies to a container with these capabilities on this host.
pub(super) fn convert(text: &str, caps: &HashSet<Capability>) -> Result<LinuxSeccomp> {
    let profile = read(text)?;
    let (arch, native) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
        "riscv64" => ("riscv64", "SCMP_ARCH_RISCV64"),
        "powerpc64" => ("ppc64le", "SCMP_ARCH_PPC64LE"),
        "s390x" => ("s390x", "SCMP_ARCH_S390X"),
        _ => ("amd64", "SCMP_ARCH_X86_64"),
    };
    let architectures = match (profile.architectures, profile.arch_map) {
        (Some(list), _) if !list.is_empty() => Some(list),
        (_, Some(map)) => map.into_iter().find(|entry| entry.architecture == native).map(|entry| {
            let mut list = vec![entry.architecture];
            list.extend(entry.sub_architectures.unwrap_or_default());
            list
        }),
        _ => None,
    };
    let kernel = berth_sys::kernel::release();
    let names: HashSet<String> = caps.iter().map(|cap| format!("CAP_{cap}")).collect();
    let mut syscalls = Vec::new();
    for call in profile.syscalls.unwrap_or_default() {
        let new_enough =
            |min: &Option<String>| min.as_deref().is_none_or(|min| kernel >= berth_sys::kernel::version(min));
        let listed =
            |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| list.iter().any(|name| name == arch));
        let excluded = listed(&call.excludes.arches)
            || call.excludes.caps.iter().flatten().any(|cap| names.contains(cap))
            || call.excludes.min_kernel.is_some() && new_enough(&call.excludes.min_kernel);
        let wanted =
            call.includes.arches.as_ref().is_none_or(|list| list.is_empty() || list.iter().any(|name| name == arch))
                && call.includes.caps.iter().flatten().all(|cap| names.contains(cap))
                && new_enough(&call.includes.min_kernel);
        if excluded || !wanted {
            continue;
        }
        let mut names = call.names.unwrap_or_default();
        if !call.name.is_empty() {
            if !names.is_empty() {
                return Err(Error::invalid(
                    "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'",
                ));
            }
            names.push(call.name);
        }
        let mut entry = json!({"names": names, "action": call.action});
        if let Some(errno) = call.errno_ret {
            entry["errnoRet"] = json!(errno);
        }
        if let Some(args) = call.args.filter(|args| !args.is_empty()) {
            entry["args"] = json!(args);
        }
        syscalls.push(entry);
    }
    let mut value = json!({"defaultAction": profile.default_action, "syscalls": syscalls});
    if let Some(errno) = profile.default_errno_ret {
        value["defaultErrnoRet"] = json!(errno);
    }
    for (key, list) in [("architectures", architectures), ("flags", profile.flags)] {
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            value[key] = json!(list);
        }
    }
    for (key, text) in [("listenerPath", profile.listener_path), ("listenerMetadata", profile.listener_metadata)] {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            value[key] = json!(text);
        }
    }
    serde_json::from_value(value)
        .map_err(|cause| Error::because(berth_types::ErrorKind::InvalidArgument, "invalid seccomp profile", &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
        "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
                   {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
        "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},
          {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
          {"names":["old"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}},
          {"name":"clone","action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]},
           "args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;

    fn names(caps: &[Capability]) -> Vec<String> {
        let seccomp = convert(TEXT, &caps.iter().copied().collect()).unwrap();
        seccomp.syscalls().as_ref().unwrap().iter().flat_map(|call| call.names().clone()).collect()
    }

    #[test]
    fn rules_depend_on_capabilities_and_kernel() {
        assert_eq!(names(&[]), ["read", "clone"]);
        assert_eq!(names(&[Capability::SysAdmin]), ["read", "mount"]);
    }

    #[test]
    fn a_text_that_is_no_profile_is_refused() {
        for bad in ["", "{", "[]", r#"{"defaultAction":"EXPLODE"}"#] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
