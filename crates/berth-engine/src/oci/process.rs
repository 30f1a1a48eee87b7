//! Processes: the container's own, those of `exec`, and health probes.

use crate::containers::ExecSpec;
use berth_types::spec::ContainerSpec;
use berth_types::{Error, Result};
use oci_spec::runtime::Process;

/// The process that `exec` asks for, in a container of this merged specification.
pub fn exec_process(_spec: &ContainerSpec, _exec: &ExecSpec) -> Result<Process> {
    Err(Error::not_implemented("exec"))
}

/// The process of a health probe; `None` where there is no probe (`NONE`, or none asked for).
pub fn health_process(_spec: &ContainerSpec) -> Result<Option<Process>> {
    Ok(None)
}
