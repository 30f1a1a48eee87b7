//! What the two programs of this crate share: the monitor `berth-shim` and the OCI runtime `berth-runtime`.
//!
//! Both end in the same `berth-runtime` and `berth-cgroup`; here is what joins those two ([`limits`]) and the
//! OCI command line ([`oci`]). The monitor's own modules are in its `main.rs`.

pub mod limits;
pub mod oci;
pub mod own_program;
