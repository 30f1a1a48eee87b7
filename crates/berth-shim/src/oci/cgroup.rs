//! A container's cgroup: where it is, and making, finding and removing it.
//!
//! `linux.cgroupsPath` is taken below each hierarchy's mount, `/<id>` where it is missing. Where a host without
//! privileges allows no cgroups and none are needed (`--rootless`), the container lives without.

use super::Global;
use super::error::{CliError, render};
use super::state::Record;
use crate::limits;
use berth_cgroup::{Cgroup, CgroupError, Entry, Hierarchy, Limits};
use berth_runtime::CgroupEntry;
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::fd::AsFd;
use std::path::{Component, Path};
use std::sync::OnceLock;
use std::time::Duration;

/// A process that has not stopped by then waits in the kernel.
const FREEZE_SECONDS_MAX: u64 = 10;

/// This host's, looked up once: `run` makes a cgroup and removes it within the same process.
fn hierarchy() -> Result<&'static Hierarchy, CgroupError> {
    static FOUND: OnceLock<Hierarchy> = OnceLock::new();
    match FOUND.get() {
        Some(found) => Ok(found),
        None => Hierarchy::detect().map(|found| FOUND.get_or_init(|| found)),
    }
}

/// A new container's cgroup, if it has one.
#[derive(Debug)]
pub(crate) struct Made(Option<Cgroup>);

impl Made {
    pub(crate) fn none() -> Made {
        Made(None)
    }

    pub(crate) fn path(&self) -> Option<String> {
        self.0.as_ref().map(|cgroup| cgroup.path().to_owned())
    }

    pub(crate) fn entry(&self) -> Result<Option<Entry>, CliError> {
        self.0.as_ref().map(Cgroup::entry).transpose().map_err(CliError::part("open the cgroup"))
    }

    pub(crate) fn remove(&mut self) -> Result<(), CliError> {
        self.0.take().map_or(Ok(()), Cgroup::remove).map_err(CliError::part("remove the cgroup"))
    }
}

/// Makes the cgroup with its limits.
pub(crate) fn make(global: &Global, id: &str, spec: &Spec) -> Result<Made, CliError> {
    if global.without_cgroups {
        return Ok(Made(None));
    }
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let path = path(linux.and_then(|linux| linux.cgroups_path().as_deref()), id)?;
    let limits = limits::for_create(resources).map_err(CliError::part("set limits"))?;
    let made = hierarchy().and_then(|hierarchy| Cgroup::create(hierarchy, &path, &limits));
    match made {
        Ok(cgroup) => {
            cgroup.warnings().iter().for_each(|warning| global.log.warn(warning));
            Ok(Made(Some(cgroup)))
        }
        // Nothing was asked for beyond what everybody has: then it can be done without.
        Err(error) if global.rootless && asks_for_nothing(limits) => {
            global.log.warn(&format!("without a cgroup: {}", render(&error)));
            Ok(Made(None))
        }
        Err(error) => Err(CliError::part("make the cgroup")(error)),
    }
}

fn asks_for_nothing(mut limits: Limits) -> bool {
    limits.devices = None;
    limits == Limits::default()
}

fn path(asked: Option<&Path>, id: &str) -> Result<String, CliError> {
    let Some(asked) = asked.filter(|path| !path.as_os_str().is_empty()) else { return Ok(format!("/{id}")) };
    let Some(text) = asked.to_str() else { return Err(CliError::Config("linux.cgroupsPath is not UTF-8".to_owned())) };
    if !text.starts_with('/') && text.split(':').count() == 3 {
        return Err(CliError::NotSupported {
            what: "linux.cgroupsPath of the form slice:prefix:name",
            why: "it is for the systemd cgroup driver; use a path",
        });
    }
    let mut clean = String::new();
    for component in asked.components() {
        match component {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return Err(CliError::Config(format!("linux.cgroupsPath \"{text}\" goes up"))),
            Component::Normal(part) => {
                clean.push('/');
                clean.push_str(&part.to_string_lossy());
            }
        }
    }
    if clean.is_empty() {
        return Err(CliError::Config(format!("linux.cgroupsPath \"{text}\" is the root")));
    }
    Ok(clean)
}

/// The entry as the runtime takes it.
pub(crate) fn borrow(entry: &Option<Entry>) -> CgroupEntry<'_> {
    entry.as_ref().map_or_else(CgroupEntry::default, |entry| CgroupEntry {
        v2: entry.v2.as_ref().map(AsFd::as_fd),
        join_files: entry.join_files.iter().map(AsFd::as_fd).collect(),
        join_memory: entry.join_memory.as_ref().map(AsFd::as_fd),
    })
}

/// An existing container's cgroup.
pub(crate) struct Opened(Cgroup);

pub(crate) fn open(record: &Record) -> Result<Opened, CliError> {
    let Some(path) = &record.cgroup else {
        return Err(CliError::NotSupported { what: "this", why: "the container was made without a cgroup" });
    };
    open_path(path).map(Opened).map_err(CliError::part("open the cgroup"))
}

fn open_path(path: &str) -> Result<Cgroup, CgroupError> {
    Cgroup::open(hierarchy()?, path)
}

impl Opened {
    pub(crate) fn update(mut self, resources: &LinuxResources) -> Result<Vec<String>, CliError> {
        let limits = limits::for_update(resources).map_err(CliError::part("set limits"))?;
        self.0.update(&limits).map_err(CliError::part("set limits"))
    }

    pub(crate) fn pids(&self) -> Result<Vec<i32>, CliError> {
        self.0.pids().map_err(CliError::part("list processes"))
    }

    pub(crate) fn freeze(&self) -> Result<(), CliError> {
        self.0.freeze(Duration::from_secs(FREEZE_SECONDS_MAX)).map_err(CliError::part("pause"))
    }

    pub(crate) fn thaw(&self) -> Result<(), CliError> {
        self.0.thaw().map_err(CliError::part("resume"))
    }

    pub(crate) fn signal_all(&self, number: i32) -> Result<(), CliError> {
        self.0.kill_all(number).map_err(CliError::part("send the signal"))
    }

    pub(crate) fn stats(&self) -> berth_cgroup::Stats {
        self.0.stats()
    }

    pub(crate) fn oom_kills(&self) -> u64 {
        self.0.oom_kills()
    }
}

/// For one more process of a running container.
pub(crate) fn entry_of(record: &Record) -> Result<Option<Entry>, CliError> {
    let Some(path) = &record.cgroup else { return Ok(None) };
    let opened = open_path(path).and_then(|cgroup| cgroup.entry_beside(record.pid));
    opened.map(Some).map_err(CliError::part("open the cgroup"))
}

pub(crate) fn is_frozen(record: &Record) -> bool {
    let path = record.cgroup.as_deref();
    path.is_some_and(|path| open_path(path).and_then(|cgroup| cgroup.is_frozen()).unwrap_or(false))
}

/// Kills what is left in the cgroup of a stopped container and removes it.
pub(crate) fn remove(record: &Record) -> Result<(), CliError> {
    let Some(path) = &record.cgroup else { return Ok(()) };
    let Ok(cgroup) = open_path(path) else { return Ok(()) };
    if cgroup.pids().is_ok_and(|pids| !pids.is_empty()) {
        cgroup.kill_all(9).map_err(CliError::part("kill what is left"))?;
    }
    cgroup.remove().map_err(CliError::part("remove the cgroup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_mount() {
        let of = |text: &str| path(Some(Path::new(text)), "c1");
        assert_eq!(of("/docker/abc").unwrap(), "/docker/abc");
        assert_eq!(of("machine//x/./y").unwrap(), "/machine/x/y");
        assert_eq!(path(None, "c1").unwrap(), "/c1");
        for bad in ["/a/../../b", "/", "system.slice:docker:abc"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
