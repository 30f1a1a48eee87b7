//! The OCI configuration as a whole.

use crate::containers::MountPoint;
use berth_types::spec::ContainerSpec;
use berth_types::{ContainerId, Error, Result};
use oci_spec::runtime::Spec;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Everything that a configuration is made of.
#[derive(Debug)]
pub struct OciInput<'a> {
    pub id: &'a ContainerId,
    /// Merged with the image's defaults.
    pub spec: &'a ContainerSpec,
    /// Program and arguments ([`super::command`]).
    pub command: &'a [String],
    /// From `containers::mounts::plan`.
    pub mounts: &'a [MountPoint],
    /// Bound into the container; `None` for those that it shares with another container's or leaves alone.
    pub files: ContainerFiles<'a>,
    /// The network namespace's file; `None`: the host's.
    pub netns: Option<&'a Path>,
    /// [`cgroup_path`].
    pub cgroup: &'a str,
    /// Containers whose namespaces it joins: their init's pid.
    pub joins: Joins,
}

/// Files of the engine that a container sees under /etc.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContainerFiles<'a> {
    pub resolv_conf: Option<&'a Path>,
    pub hostname: Option<&'a Path>,
    pub hosts: Option<&'a Path>,
}

/// Host pids of the containers that `--ipc container:x` and `--pid container:x` name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Joins {
    pub ipc: Option<i32>,
    pub pid: Option<i32>,
}

/// A configuration, and open files that it names as `/proc/<engine>/fd/N`: keep them until the shim has
/// answered `Create`.
#[derive(Debug)]
pub struct Built {
    pub spec: Spec,
    pub held: Vec<OwnedFd>,
}

/// The container's cgroup relative to each controller's mount, `<parent>/<id>`.
pub fn cgroup_path(engine_parent: &str, spec: &ContainerSpec, id: &ContainerId) -> String {
    let asked = spec.host.resources.cgroup_parent.as_str();
    let parent = if asked.is_empty() { engine_parent } else { asked };
    PathBuf::from("/").join(parent).join(id.as_str()).to_string_lossy().into_owned()
}

/// Docker's configuration for this container.
pub fn build(_input: OciInput<'_>) -> Result<Built> {
    Err(Error::not_implemented("OCI configuration"))
}
