//! Our `local` record. The length stands at both ends, so that a reader can walk backwards.
//!
//! ```text
//! u32 LE length of what is between | i64 LE unix nanoseconds | u8 flags | text | u32 LE length again
//! flags: bit 0 standard error
//! ```

use crate::{LINE_BYTES_MAX, Record, Stream};

pub(crate) const LENGTH_BYTES: usize = 4;
const HEAD_BYTES: usize = 9;
/// A line, its newline and the head.
const BODY_BYTES_MAX: usize = LINE_BYTES_MAX + 1 + HEAD_BYTES;

pub(crate) fn encode(time: i64, stream: Stream, text: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(HEAD_BYTES + text.len()).expect("a line is bounded").to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&time.to_le_bytes());
    out.push(u8::from(stream == Stream::Stderr));
    out.extend_from_slice(text);
    out.extend_from_slice(&length);
}

/// Body length from its four bytes; `None` for what no writer of ours wrote.
pub(crate) fn body_length(bytes: [u8; LENGTH_BYTES]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    (HEAD_BYTES..=BODY_BYTES_MAX).contains(&length).then_some(length)
}

pub(crate) enum Taken {
    Record(Record, usize),
    Incomplete,
    Damaged,
}

/// The record at the front of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Taken {
    let Some(&length) = bytes.first_chunk::<LENGTH_BYTES>() else { return Taken::Incomplete };
    let Some(body_bytes) = body_length(length) else { return Taken::Damaged };
    let whole = body_bytes + 2 * LENGTH_BYTES;
    let Some(record) = bytes.get(..whole) else { return Taken::Incomplete };
    if record[whole - LENGTH_BYTES..] != length {
        return Taken::Damaged;
    }
    let body = &record[LENGTH_BYTES..whole - LENGTH_BYTES];
    let time = *body.first_chunk::<8>().expect("a body has its head");
    let record = Record {
        unix_nanos: i64::from_le_bytes(time),
        stream: if body[8] & 1 == 1 { Stream::Stderr } else { Stream::Stdout },
        text: body[HEAD_BYTES..].to_vec(),
        attributes: None,
    };
    Taken::Record(record, whole)
}
