//! Messages between engine and shim.
//!
//! One Unix stream socket per conversation; each message is a frame:
//!
//! ```text
//! u32 little-endian length | JSON of Request, Reply or Notice     at most FRAME_BYTES_MAX
//! ```
//!
//! A shim started by the engine gets one end of a socket pair as descriptor 3; later engines (after a
//! restart) dial `<dir>/shim.sock`. Both speak the same: requests carry a sequence number, replies repeat
//! it, notices come unasked on every connection that sent [`Body::Subscribe`]. A connection
//! whose first request is [`Body::Attach`] leaves this framing after the reply: see [`stream`].
//!
//! ```text
//! engine                          shim
//!   Hello                  ->            versions agree, or an error naming both
//!   Create                 ->            namespaces, mounts, process up to its last step before exec
//!   Start                  ->            exec; the reply says that exec succeeded (or why not)
//!   Subscribe              ->            from now on: Exited, ExecExited, OutOfMemory, Health
//!                          <- Exited     after exit.json is durable
//!   Forget                 ->            shim removes its socket and ends (only after the exit)
//! ```
//!
//! The shim's folder `<dir>` (on a file system that a reboot clears):
//!
//! ```text
//! config.json    the OCI configuration, written by the engine
//! create.json    the Create message, written by the shim: what a new engine learns from it
//! state.json     pid, start time of the process, phase; rewritten (temp, rename) on each change
//! exit.json      ExitRecord, temp + fsync + rename, before anything is announced
//! shim.sock      mode 0600
//! shim.pid       the shim's own pid and start time
//! ```
//!
//! Several connections at once are normal. This crate knows the words and how to read and write frames
//! without blocking surprises; it starts no process and knows no runtime.

pub mod frame;
pub mod message;
pub mod stream;

pub use message::*;

/// Grows when a message changes incompatibly. A shim outlives several engines: an engine must go on
/// speaking every version since [`OLDEST_VERSION`].
pub const VERSION: u32 = 1;
pub const OLDEST_VERSION: u32 = 1;

/// Larger frames are refused before anything is allocated. The largest honest one is a Create with
/// 300 layer paths.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
