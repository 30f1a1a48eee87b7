//! Docker's `Config`, `HostConfig` and `NetworkingConfig`: read into [`ContainerSpec`] and written back.
//!
//! Every key that the API knows is mapped, or refused where it says something that this engine cannot do.

mod parse;
mod render;
mod resources;
mod versions;

pub(crate) use parse::{
    config as config_body, console_size, create_body, endpoint, healthcheck, log_config, port_bindings,
};
pub(crate) use render::{config, host_config};
pub(crate) use resources::{disk_limits, resources, restart_policy};

use berth_types::Error;

/// Refuses a field that has a value.
pub(crate) fn refuse_if(set: bool, field: &str) -> Result<(), Error> {
    match set {
        true => Err(Error::invalid(format!("{field} is not supported by this engine"))),
        false => Ok(()),
    }
}
