//! Mount options as the configuration has them: flags for the mount, words for the file system.

use crate::error::LaunchError;
use berth_sys::mounts::{MountChange, attributes as attr, propagation as prop};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) bind: bool,
    /// With everything mounted below.
    pub(crate) recursive: bool,
    pub(crate) change: MountChange,
    /// For all mounts below too (`rro`, `rnosuid`, ...).
    pub(crate) recursive_change: MountChange,
    pub(crate) recursive_propagation: bool,
    pub(crate) idmap: Option<IdMap>,
    pub(crate) copy_up: bool,
    /// See [`super::source`].
    pub(crate) beneath: Option<std::path::PathBuf>,
    pub(crate) process: Option<u32>,
    /// The source is a file, and a copy of it in memory is mounted: whose, and its permission bits.
    pub(crate) memory: Option<super::memory::Owner>,
    /// Only this part of what is mounted is wanted; links do not lead out of it.
    pub(crate) subpath: Option<String>,
    /// `key` or `key=value` for fsconfig(2).
    pub(crate) data: Vec<(String, Option<String>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdMap {
    pub(crate) recursive: bool,
}

pub(crate) fn parse(words: &[String]) -> Result<Options, LaunchError> {
    let mut options = Options::default();
    for word in words {
        let (plain, recursive) = match word.strip_prefix('r') {
            Some(rest) if flag(rest).is_some() && flag(word).is_none() => (rest, true),
            _ => (word.as_str(), false),
        };
        if let Some((set, clear)) = flag(plain) {
            let change = if recursive { &mut options.recursive_change } else { &mut options.change };
            change.set = (change.set & !clear) | set;
            change.clear = (change.clear & !set) | clear;
            continue;
        }
        let (name, recursive) = match word.strip_prefix('r') {
            Some(rest @ ("private" | "shared" | "slave" | "unbindable")) => (rest, true),
            _ => (word.as_str(), false),
        };
        let propagation = match name {
            "private" => Some(prop::PRIVATE),
            "shared" => Some(prop::SHARED),
            "slave" => Some(prop::SLAVE),
            "unbindable" => Some(prop::UNBINDABLE),
            _ => None,
        };
        if let Some(propagation) = propagation {
            options.change.propagation = propagation;
            options.recursive_propagation = recursive;
            continue;
        }
        match word.as_str() {
            "bind" => options.bind = true,
            "rbind" => (options.bind, options.recursive) = (true, true),
            "idmap" => options.idmap = Some(IdMap { recursive: false }),
            "ridmap" => options.idmap = Some(IdMap { recursive: true }),
            "tmpcopyup" => options.copy_up = true,
            word if word.starts_with("berth.") => match word.split_once('=') {
                Some(("berth.beneath", folder)) => options.beneath = Some(folder.into()),
                Some(("berth.subpath", path)) => options.subpath = Some(path.to_owned()),
                Some(("berth.memory", owner)) => options.memory = Some(super::memory::Owner::parse(owner)?),
                Some(("berth.process", pid)) if pid.parse::<u32>().is_ok() => options.process = pid.parse().ok(),
                _ => return Err(LaunchError::configuration(format!("mount option {word} is not known"))),
            },
            "" | "defaults" | "async" | "sync" | "dirsync" | "remount" | "mand" | "nomand" | "iversion"
            | "noiversion" | "loud" | "silent" | "_netdev" | "nofail" | "user" | "nouser" => {}
            _ => {
                let (key, value) = match word.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (word.as_str(), None),
                };
                if key.len() > 250 || value.as_ref().is_some_and(|value| value.len() > 250) {
                    return Err(LaunchError::configuration(format!(
                        "mount option {key} is too long (at most 250 bytes)"
                    )));
                }
                options.data.push((key.to_owned(), value));
            }
        }
    }
    Ok(options)
}

/// Bits to set and to clear. Access time modes share a field, which is cleared whole.
fn flag(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "noatime" => (attr::NOATIME, attr::ATIME_MASK),
        "strictatime" => (attr::STRICTATIME, attr::ATIME_MASK),
        "relatime" | "norelatime" | "atime" | "nostrictatime" => (attr::RELATIME, attr::ATIME_MASK),
        _ => return None,
    })
}

impl Options {
    /// mount_setattr(2) wants the field of access time modes cleared when one is set.
    pub(crate) fn normalized(change: MountChange) -> MountChange {
        MountChange {
            clear: (change.clear & !change.set)
                | if change.set & attr::ATIME_MASK != 0 { attr::ATIME_MASK } else { change.clear & attr::ATIME_MASK },
            ..change
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Options {
        parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn flags_words_and_propagation_are_told_apart() {
        let options = of("rbind,rprivate,ro,nosuid,rnoexec");
        assert!(options.bind && options.recursive && options.recursive_propagation);
        assert_eq!(options.change.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(options.recursive_change.set, attr::NOEXEC);
        assert_eq!(options.change.propagation, prop::PRIVATE);
        let options = of("nosuid,strictatime,mode=755,size=65536k");
        assert_eq!(options.change.set, attr::NOSUID | attr::STRICTATIME);
        assert_eq!(options.data.len(), 2);
        // `relatime` and `ro` begin with the r of recursion and are not it.
        assert_eq!(of("relatime").recursive_change, MountChange::default());
        assert_eq!(of("rro").recursive_change.set, attr::RDONLY);
        assert_eq!(of("ro,berth.subpath=a/b").subpath.as_deref(), Some("a/b"));
        assert_eq!(of("bind,berth.process=7").process, Some(7));
        assert!(parse(&["berth.process=x".to_owned()]).is_err());
        assert_eq!(of("ro,rw").change.set, 0);
    }
}
