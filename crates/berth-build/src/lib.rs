//! Builds: from a Dockerfile to an image's layers and configuration.
//!
//! ```text
//!  Dockerfile --plan--> Graph of operations --solve--> layers, configuration
//!                          |                   |
//!   image  scratch  run    |    key = H(operation, what its inputs contain)
//!   copy   mkdir    fetch  |    known key: the layer of then; otherwise the Worker does it
//! ```
//!
//! A state of files is its list of layers, each named by the digest of its archive. A key is made of the
//! operation and of the content that it can see, never of times: an earlier step that is done again and comes to
//! the same files leaves later ones cached. What a `COPY` can see is what it copies, so those files are hashed,
//! unless the whole state that they come from is known to be the same.
//!
//! Operations that do not need each other run side by side, each once, however many need it; what the target does
//! not need is not in the graph. This crate opens no file and starts nothing: that is the [`Worker`]'s, which the
//! engine implements. It knows no door either: progress leaves as [`Event`]s.

mod ask;
mod dispatch;
mod error;
mod events;
mod graph;
mod key;
mod mode;
mod plan;
mod remote;
mod select;
mod solve;
mod tree;
mod types;
mod worker;

pub use ask::{Checked, Need, Outline, Parameter, Target, check, outline, targets};
pub use berth_dockerfile::platform;
pub use error::{BuildError, Failure};
pub use events::{Event, Sink, StepInfo, Stream};
pub use mode::{Chmod, parse_chmod};
pub use remote::Remote;
pub use select::{Item, Shape, resolve};
pub use solve::{Outcome, build};
pub use tree::{FileKind, MemTree, Meta, Tree, walk};
pub use types::*;
pub use worker::*;

#[cfg(test)]
mod tests;
