//! The byte stream that an attached connection becomes.
//!
//! ```text
//! u8 kind | u32 little-endian length | bytes        at most CHUNK_BYTES_MAX
//! ```
//!
//! Engine to shim: `STDIN` data; `STDIN_EOF` (length 0) closes standard input. Shim to engine: `STDOUT`,
//! `STDERR`; `END` (length 0) after the last byte of both. With a terminal everything is `STDOUT`. When
//! the client reads slowly the shim stops reading the container's output: nothing is lost, the container waits.

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const STDIN_EOF: u8 = 3;
pub const END: u8 = 4;

pub const HEADER_BYTES: usize = 5;
pub const CHUNK_BYTES_MAX: usize = 64 << 10;

/// The header of a chunk of `length` bytes.
pub fn header(kind: u8, length: usize) -> [u8; HEADER_BYTES] {
    debug_assert!(length <= CHUNK_BYTES_MAX);
    let mut header = [kind, 0, 0, 0, 0];
    header[1..].copy_from_slice(&(length as u32).to_le_bytes());
    header
}

/// Kind and length from a header; `None` for a kind or length that no peer of ours sends.
pub fn parse_header(header: [u8; HEADER_BYTES]) -> Option<(u8, usize)> {
    let [kind, length @ ..] = header;
    let length = u32::from_le_bytes(length) as usize;
    (kind <= END && length <= CHUNK_BYTES_MAX).then_some((kind, length))
}
