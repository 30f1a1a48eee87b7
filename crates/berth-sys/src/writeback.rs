//! Writing to the disk before anybody waits for it.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Has the kernel begin to write `bytes` of `file` from `offset` on, 0: all to its end. Waits for nothing and promises
/// nothing: who needs it on the disk syncs later, and hears of errors there.
pub fn begin(file: BorrowedFd<'_>, offset: u64, bytes: u64) {
    let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) else { return };
    // SAFETY: a descriptor that is borrowed, and numbers.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}
