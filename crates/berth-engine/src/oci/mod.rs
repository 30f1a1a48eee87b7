//! A container's specification becomes an OCI runtime configuration, as Docker would write it.
//!
//! ```text
//!  ImageDefaults --merge--> ContainerSpec --validate--> warnings | refusal      (create)
//!                                |
//!                                '--build--> oci_spec::runtime::Spec              (start)
//!  ExecSpec -------------------------exec_process--> oci process                 (exec, health probe)
//! ```
//!
//! Every field of the specification is honoured or refused in [`validate`], never ignored. Nothing here
//! changes the host, but for the missing sources of `-v` binds, which Docker makes at start too.

mod build;
mod caps;
mod devices;
mod facts;
mod limits;
mod merge;
mod process;
mod profile;
pub mod seccomp;
mod security;
mod sysctls;
mod validate;

pub(crate) use berth_files::clean;
pub use build::{Built, ContainerFiles, Joins, OciInput, build, cgroup_path};
pub use facts::HostFacts;
pub use limits::resources;
pub use merge::{command, merge};
pub use process::{exec_process, health_process};
pub use validate::{signal_number, size_bytes, validate, validate_update};
