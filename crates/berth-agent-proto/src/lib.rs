//! The language of `berth-agent`, which is spoken over a virtio serial port. No IO.
//!
//! ```text
//!  host                                        guest
//!  zeros, Reset (nonce)          ───────────►  forgets all streams
//!                                ◄───────────  zeros, Hello (nonce, version)
//!                                ◄───────────  the same with no nonce: it has just begun, and knows nobody
//!  Request on a new stream       ───────────►
//!                                ◄───────────  Answer: done, or Failure; a process or archive goes on:
//!  Data, Eof, Window, Signal ... ◄──────────►  Data, Eof, Window
//!                                ◄───────────  End: the stream is over
//!  Cancel                        ───────────►  the stream is over for the host
//!                                ◄───────────  Query (stream 0x8000_0000 and up): a name to look up
//!  Reply                         ───────────►
//! ```
//!
//! - **Every frame is bounded** ([`frame::PAYLOAD_BYTES_MAX`]), every channel of a stream has a window
//!   ([`WINDOW_BYTES`]), streams are counted ([`STREAMS_MAX`]): whoever is at the other end, what is held for it is
//!   limited.
//! - **Either side may be gone in the middle of a frame** (a guest that was forked from a saved one). Zeros are no
//!   frame, and more of them than a frame can be long end any that was cut off: after them both are in step. What
//!   the guest had cut off is not taken for whole: its frames have a mark at their end.
//! - The guest is hostile: the host believes no length, no stream and no order that it was told.

pub mod frame;
mod message;

pub use frame::{Decoder, Frame, FrameError, Kind, encode, encode_marked, padding};
pub use message::*;

/// The port's name in the guest, under /sys/class/virtio-ports.
pub const PORT: &str = "org.berth.agent.0";
/// Grows when the two sides would misunderstand each other.
pub const VERSION: u32 = 1;
/// Bytes of one channel that may be on their way before the reader has taken some.
pub const WINDOW_BYTES: u32 = 128 << 10;
/// Bytes of one Data frame.
pub const DATA_BYTES_MAX: usize = 16 << 10;
/// Streams at once; more are refused.
pub const STREAMS_MAX: usize = 128;
/// Streams from here on are the guest's questions.
pub const QUERIES_BEGIN: u32 = 0x8000_0000;
/// Questions of the guest that are open at once.
pub const QUERIES_MAX: usize = 64;

/// File systems that a guest tells of.
pub const FILESYSTEMS_MAX: usize = 32;

/// Channels of a stream.
pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
