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
//! seccomp.json   the profile of its filter, where that is not in config.json: a name of a file that containers share
//! made           empty, by the shim: it began to make the container, whose end is told or to be explained
//! exit.json      ExitRecord, temp + fsync + rename, before anything is announced
//! shim.sock      mode 0600
//! ```
//!
//! A file here is memory that each idle container costs: none is kept that nobody reads.
//!
//! Several connections at once are normal. This crate knows the words and how to read and write frames
//! without blocking surprises; it starts no process and knows no runtime.

pub mod frame;
pub mod message;
pub mod stream;

pub use message::*;

/// Grows when a message changes incompatibly. A shim outlives several engines: an engine must go on
/// speaking every version since [`OLDEST_VERSION`].
///
/// 2: a profile that is not in the configuration ([`Create::seccomp_profile`]).
pub const VERSION: u32 = 2;
pub const OLDEST_VERSION: u32 = 1;

/// What a shim leaves in its folder before it makes the container. Without it, and without a shim, there was none.
pub const MADE: &str = "made";

/// Larger frames are refused before anything is allocated. The largest honest one is a Create with
/// 300 layer paths.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
