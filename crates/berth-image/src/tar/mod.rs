//! Tar archives, read from pieces and written.
//!
//! ```text
//! header, 512 bytes      ustar (POSIX pax(1)) or GNU (tar(5)); numbers octal or base-256
//! content, padded to 512
//! ...                    before a header: pax records ('x'), GNU long names ('L', 'K')
//! two zero blocks, and whatever follows
//! ```
//!
//! [`Reader`] gives every byte of the archive either as content or as "raw" bytes between contents, so that the
//! archive can be put together again exactly. It bounds what it keeps: names, pax records, sparse maps.

mod header;
mod pax;
mod reader;
mod sparse;
mod write;

pub(crate) use header::Kind;
pub(crate) use reader::{Member, Reader};
pub(crate) use write::{Head, padding, trailer};

use std::io;

/// Why bytes are no archive that can be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    #[error("the archive is cut off")]
    Cut,
    #[error("the archive is damaged: {0}")]
    Damaged(&'static str),
    #[error("the archive has an entry of an unknown kind: unhandled tar header type {0}")]
    Kind(u8),
}

impl From<io::Error> for TarError {
    fn from(cause: io::Error) -> TarError {
        TarError::Read(cause)
    }
}

/// Whether an archive begins with these bytes: a header with the right sum, or the zeros of an empty archive.
pub(crate) fn is_header(first: &[u8]) -> bool {
    let Some(block) = first.first_chunk() else { return false };
    let block = header::Block(block);
    block.is_zero() || block.check().is_ok()
}
