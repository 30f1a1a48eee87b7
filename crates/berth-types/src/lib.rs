//! Words of the house: ids, digests, image names, specs, phases, error kinds.
//!
//! Plain data that every layer shares. No IO, no async, no unsafe. What two parts of the
//! engine exchange is data from here: a snapshot driver returns [`mount::Rootfs`], the
//! runtime takes it; the engine hands a [`spec::ContainerSpec`] down, doors build it.

pub mod caller;
pub mod digest;
pub mod error;
pub mod id;
pub mod mount;
pub mod phase;
pub mod port_runs;
pub mod reference;
pub mod spec;

pub use caller::Caller;
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result};
pub use id::{ContainerId, ExecId, NetworkId};
pub use phase::{ExitStatus, Phase};
pub use reference::ImageName;
