//! `--security-opt`: what each word means, and the labels that follow from it.

use super::HostFacts;
use berth_types::spec::{HostConfig, IpcMode, NamespaceMode};
use berth_types::{ContainerId, Error, ErrorKind, Result};

/// The profile that Docker's packages load, used where the host has it.
const APPARMOR_DEFAULT: &str = "docker-default";

/// All of a container's `--security-opt`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Security {
    pub no_new_privileges: bool,
    pub apparmor: Option<String>,
    pub seccomp: Seccomp,
    pub labels: Vec<String>,
    pub label_disabled: bool,
    pub unconfined_paths: bool,
    pub writable_cgroups: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Seccomp {
    #[default]
    Builtin,
    Unconfined,
    /// A profile's text, as the client read it from a file.
    Profile(String),
}

/// Reads the options; Docker's words for what cannot be understood.
pub(super) fn parse(host: &HostConfig) -> Result<Security> {
    let mut security = Security::default();
    for opt in &host.security_opt {
        match opt.as_str() {
            "no-new-privileges" => security.no_new_privileges = true,
            "writable-cgroups" => security.writable_cgroups = Some(true),
            "disable" => security.label_disabled = true,
            _ => {
                let split = opt.split_once('=').or_else(|| opt.split_once(':'));
                let Some((key, value)) = split else {
                    return Err(Error::invalid(format!("invalid --security-opt 1: {opt:?}")));
                };
                let invalid = || Error::invalid(format!("invalid --security-opt 2: {opt:?}"));
                match key {
                    "no-new-privileges" => security.no_new_privileges = boolean(value).ok_or_else(invalid)?,
                    "writable-cgroups" => security.writable_cgroups = Some(boolean(value).ok_or_else(invalid)?),
                    "apparmor" => security.apparmor = Some(value.to_owned()),
                    "seccomp" => {
                        security.seccomp = match value {
                            "unconfined" => Seccomp::Unconfined,
                            "" | "builtin" | "default" => Seccomp::Builtin,
                            text => Seccomp::Profile(text.to_owned()),
                        }
                    }
                    "label" if value == "disable" => security.label_disabled = true,
                    "label" => {
                        let known = ["user:", "role:", "type:", "level:", "filetype:", "nested"];
                        if !known.iter().any(|word| value.starts_with(word)) {
                            return Err(Error::invalid(format!(
                                "bad label option {value:?}, valid options 'disable' or \n'user, role, level, type, filetype' followed by ':' and a value"
                            )));
                        }
                        security.labels.push(value.to_owned());
                    }
                    "systempaths" if value == "unconfined" => security.unconfined_paths = true,
                    _ => return Err(invalid()),
                }
            }
        }
    }
    let shares = host.privileged || host.pid_mode == NamespaceMode::Host || host.ipc_mode == IpcMode::Host;
    security.label_disabled |= shares && security.labels.is_empty();
    Ok(security)
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Refuses what this host has no means for; answers warnings for what has no effect here.
pub(super) fn check(security: &Security, facts: &HostFacts) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    match security.apparmor.as_deref() {
        None | Some("" | "unconfined" | APPARMOR_DEFAULT) => {}
        Some(profile) if !facts.apparmor => {
            return Err(Error::invalid(format!(
                "AppArmor is not enabled on this host: cannot apply profile {profile:?}"
            ))
            .with_hint("leave out --security-opt apparmor=..., or enable AppArmor in the kernel"));
        }
        Some(_) => {}
    }
    if !facts.selinux && !security.labels.is_empty() {
        warnings
            .push(format!("SELinux is not enabled on this host: label={} has no effect.", security.labels.join(",")));
    }
    match &security.seccomp {
        Seccomp::Profile(text) => {
            super::profile::check(text)?;
            if !facts.seccomp {
                let words = "seccomp is not enabled in your kernel, cannot run a custom seccomp profile";
                return Err(Error::new(ErrorKind::InvalidArgument, words));
            }
        }
        Seccomp::Builtin | Seccomp::Unconfined => {}
    }
    Ok(warnings)
}

/// The AppArmor profile to run under; `None` where the host has no AppArmor, or no profile of that name
/// that would be the default.
pub(super) fn apparmor(security: &Security, privileged: bool, facts: &HostFacts) -> Option<String> {
    if !facts.apparmor {
        return None;
    }
    match security.apparmor.as_deref() {
        Some(profile) if !profile.is_empty() => Some(profile.to_owned()),
        _ if privileged => Some("unconfined".to_owned()),
        _ => {
            let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
            let there = loaded.lines().any(|line| line.split(' ').next() == Some(APPARMOR_DEFAULT));
            there.then(|| APPARMOR_DEFAULT.to_owned())
        }
    }
}

/// SELinux labels of the processes and of the files, `None` where there is no SELinux or it is disabled.
pub(super) fn labels(security: &Security, id: &ContainerId, facts: &HostFacts) -> Option<(String, String)> {
    if !facts.selinux || security.label_disabled {
        return None;
    }
    let part = |word: &str, default: &str| {
        let found = security.labels.iter().rev().find_map(|label| label.strip_prefix(word)?.strip_prefix(':'));
        found.unwrap_or(default).to_owned()
    };
    let level = part("level", &level(id));
    let (user, role) = (part("user", "system_u"), part("role", "system_r"));
    let process = format!("{user}:{role}:{}:{level}", part("type", "container_t"));
    Some((process, format!("{user}:object_r:{}:{level}", part("filetype", "container_file_t"))))
}

/// Two of the 1,024 categories, of the id: the same container keeps them over restarts.
fn level(id: &ContainerId) -> String {
    let number = |range: std::ops::Range<usize>| u32::from_str_radix(&id.as_str()[range], 16).unwrap_or(0) % 1024;
    let (first, second) = (number(0..6), number(6..12));
    match first.cmp(&second) {
        std::cmp::Ordering::Less => format!("s0:c{first},c{second}"),
        std::cmp::Ordering::Greater => format!("s0:c{second},c{first}"),
        std::cmp::Ordering::Equal => format!("s0:c{first},c{}", (first + 1) % 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(opts: &[&str]) -> Result<Security> {
        let security_opt = opts.iter().map(|&opt| opt.to_owned()).collect();
        parse(&HostConfig { security_opt, ..HostConfig::default() })
    }

    #[test]
    fn each_word_is_understood_or_refused() {
        let all = of(&["no-new-privileges:true", "seccomp=unconfined", "apparmor=x", "label=disable"]).unwrap();
        assert!(all.no_new_privileges && all.label_disabled);
        assert_eq!((all.seccomp, all.apparmor.as_deref()), (Seccomp::Unconfined, Some("x")));
        assert_eq!(of(&["nonsense"]).unwrap_err().message, "invalid --security-opt 1: \"nonsense\"");
        assert_eq!(of(&["a=b"]).unwrap_err().message, "invalid --security-opt 2: \"a=b\"");
        assert!(of(&["no-new-privileges=maybe"]).is_err() && of(&["label=colour:red"]).is_err());
    }

    #[test]
    fn a_profile_that_cannot_be_applied_is_refused_not_ignored() {
        let facts = HostFacts { seccomp: true, ..HostFacts::default() };
        assert!(check(&of(&["apparmor=strict"]).unwrap(), &facts).is_err());
        check(&of(&["apparmor=unconfined"]).unwrap(), &facts).unwrap();
        assert!(check(&of(&["seccomp={"]).unwrap(), &facts).is_err());
        assert_eq!(check(&of(&["label=type:x_t"]).unwrap(), &facts).unwrap().len(), 1);
    }

    #[test]
    fn labels_belong_to_the_container() {
        let facts = HostFacts { selinux: true, ..HostFacts::default() };
        let id = ContainerId::from_bytes([7; 32]);
        let (process, file) = labels(&of(&["label=type:db_t"]).unwrap(), &id, &facts).unwrap();
        assert!(process.starts_with("system_u:system_r:db_t:s0:c"), "{process}");
        assert!(file.contains(":object_r:container_file_t:"), "{file}");
        assert_eq!(labels(&of(&["label=disable"]).unwrap(), &id, &facts), None);
    }
}
