//! Files of procfs.

use std::io::Read;

/// What a kernel gives of most files at once.
const ROOM_BYTES: usize = 16 << 10;

/// Reads a file whose size nobody knows before, with few calls: [`std::fs::read`] starts with 32 bytes and doubles.
pub fn read(path: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(ROOM_BYTES);
    std::fs::File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
