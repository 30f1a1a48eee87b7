//! A full disk, or a quota that is used up: the one place where that is told from other failures.

use berth_types::{Error, ErrorKind};
use std::io;

type Cause<'a> = &'a (dyn std::error::Error + 'static);

/// What to do about it, where it is the engine's own disk.
const HINT: &str = "the disk is full: berth system prune, or an engine with its --data-root on a larger one";

fn is(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether it is what lies behind `cause`.
pub(crate) fn is_behind(cause: Cause<'_>) -> bool {
    let mut chain = std::iter::successors(Some(cause), |cause| cause.source());
    chain.any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|cause| is(cause.kind())))
}

/// The same of an error that was told already.
pub(crate) fn is_told(error: &Error) -> bool {
    error.errno.is_some_and(|errno| is(io::Error::from_raw_os_error(errno).kind()))
}

/// Something that writes has failed: of the kind `otherwise`, or because the disk that it writes to is full.
pub(crate) fn or(otherwise: ErrorKind, message: impl Into<String>, cause: Cause<'_>) -> Error {
    let kind = if is_behind(cause) { ErrorKind::Unavailable } else { otherwise };
    Error::because(kind, message, cause)
}

/// The same of what writes into the engine's own folders.
pub fn or_here(otherwise: ErrorKind, message: impl Into<String>, cause: Cause<'_>) -> Error {
    let error = or(otherwise, message, cause);
    if is_behind(cause) { error.with_hint(HINT) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FilesError;
    use rustix::io::Errno;

    #[test]
    fn a_full_disk_is_seen_through_what_was_made_of_it() {
        for (errno, full) in [(Errno::NOSPC, true), (Errno::DQUOT, true), (Errno::IO, false)] {
            let cause = FilesError::step("write", "/x", errno);
            let error = or_here(ErrorKind::DataLoss, "cannot keep it", &cause);
            assert_eq!(error.kind == ErrorKind::Unavailable, full, "{error}");
            assert_eq!((error.hint.is_some(), is_told(&error), is_behind(&cause)), (full, full, full));
            assert_eq!(or(ErrorKind::Internal, "", &cause).hint, None);
        }
        // Without a number of the kernel.
        assert!(is_behind(&io::Error::from(io::ErrorKind::StorageFull)));
    }
}
