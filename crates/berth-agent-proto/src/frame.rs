//! Frames: one byte of kind, the stream, the length, the payload; numbers are little-endian. A zero is padding.
//!
//! A guest's frames have a mark behind the payload, which the length's highest bit announces: where an agent was ended in
//! the middle of one, the padding of the next agent fills it up, and nobody may take that for what the first one said.

/// The longest is a container's configuration with its filter.
pub const PAYLOAD_BYTES_MAX: usize = 512 << 10;
const HEADER_BYTES: usize = 9;
const MARKED: u32 = 1 << 31;
const MARK: u8 = 0xa5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// 16 bytes that [`Kind::Hello`] repeats.
    Reset = 1,
    /// [`crate::Hello`]
    Hello = 2,
    /// [`crate::Request`]
    Request = 3,
    /// `Result<Answer, Failure>`
    Answer = 4,
    /// A channel's number, then bytes.
    Data = 5,
    /// A channel's number.
    Eof = 6,
    /// A channel's number, then how many bytes more may come.
    Window = 7,
    /// A signal's number, 32 bits.
    Signal = 8,
    /// Rows and columns, 16 bits each.
    Resize = 9,
    /// [`crate::Ended`]
    End = 10,
    Cancel = 11,
    /// A DNS message; the first byte says whether it came by TCP.
    Query = 12,
    /// The answer to one; empty: there is none.
    Reply = 13,
    /// [`crate::Event`], on stream 0.
    Event = 14,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::{
            Answer, Cancel, Data, End, Eof, Event, Hello, Query, Reply, Request, Reset, Resize, Signal, Window,
        };
        let all = [Reset, Hello, Request, Answer, Data, Eof, Window, Signal, Resize, End, Cancel, Query, Reply, Event];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub stream: u32,
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of an unknown kind ({0})")]
    Kind(u8),
    #[error("a frame of {0} bytes; at most {PAYLOAD_BYTES_MAX} are possible")]
    Long(usize),
}

/// Appends a frame. A payload that is too long is a mistake of the caller's, who bounds what it sends.
pub fn encode(kind: Kind, stream: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    append(kind, stream, payload, 0, out)
}

/// The same with a mark: what a guest sends.
pub fn encode_marked(kind: Kind, stream: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    append(kind, stream, payload, MARKED, out)?;
    out.push(MARK);
    Ok(())
}

fn append(kind: Kind, stream: u32, payload: &[u8], flags: u32, out: &mut Vec<u8>) -> Result<(), FrameError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(FrameError::Long(payload.len()));
    }
    let length = u32::try_from(payload.len()).map_err(|_| FrameError::Long(payload.len()))?;
    out.reserve(HEADER_BYTES + payload.len() + 1);
    out.push(kind as u8);
    out.extend(stream.to_le_bytes());
    out.extend((length | flags).to_le_bytes());
    out.extend(payload);
    Ok(())
}

/// Ends whatever frame the other side was in the middle of.
pub fn padding() -> Vec<u8> {
    vec![0; PAYLOAD_BYTES_MAX + HEADER_BYTES + 1]
}

/// Bytes in, frames out. Holds at most one frame and what was pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
    /// The other side marks its frames: one without a mark was cut off in its head.
    marks: bool,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame. After an error nothing that follows can be believed, until a [`Decoder::skip`] finds
    /// the next frame of a kind.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let rest = &self.buffer[self.taken..];
            self.taken += rest.iter().take_while(|byte| **byte == 0).count();
            let rest = &self.buffer[self.taken..];
            let Some((&first, _)) = rest.split_first() else { return Ok(None) };
            let kind = Kind::of(first).ok_or(FrameError::Kind(first))?;
            let number = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?));
            let (Some(stream), Some(length)) = (number(1), number(5)) else { return Ok(None) };
            let marked = length & MARKED != 0;
            let length = usize::try_from(length & !MARKED).unwrap_or(usize::MAX);
            if length > PAYLOAD_BYTES_MAX {
                return Err(FrameError::Long(length));
            }
            let whole = HEADER_BYTES + length + usize::from(marked);
            let Some(bytes) = rest.get(HEADER_BYTES..whole) else { return Ok(None) };
            let cut_off = match marked {
                true => bytes.last() != Some(&MARK),
                // An agent of an earlier version may take another's place.
                false => self.marks && kind != Kind::Hello,
            };
            let frame = Frame { kind, stream, payload: bytes[..length].to_vec() };
            self.taken += whole;
            if !cut_off {
                self.marks = marked;
                return Ok(Some(frame));
            }
        }
    }

    /// Lets one byte go: for who looks for the other side's first frame behind what an earlier one left.
    pub fn skip(&mut self) {
        self.taken = (self.taken + 1).min(self.buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], step: usize) -> Vec<Frame> {
        let (mut decoder, mut found) = (Decoder::default(), Vec::new());
        for part in bytes.chunks(step.max(1)) {
            decoder.push(part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                found.push(frame);
            }
        }
        found
    }

    #[test]
    fn a_frame_that_padding_filled_up_is_none() {
        let mut before = Vec::new();
        encode_marked(Kind::Hello, 0, b"first", &mut before).unwrap();
        let begun = before.len();
        encode_marked(Kind::Data, 5, b"\x01some bytes\0\0", &mut before).unwrap();
        let mut after = padding();
        encode_marked(Kind::Hello, 0, b"second", &mut after).unwrap();
        for cut in begun..=before.len() {
            let frames = all(&[&before[..cut], &after].concat(), 4096);
            let whole = cut == before.len();
            assert_eq!(frames.len(), if whole { 3 } else { 2 }, "{cut}: {frames:?}");
            assert_eq!(frames.last().unwrap().payload, b"second", "{cut}");
        }
    }

    #[test]
    fn an_agent_that_marks_nothing_is_understood() {
        let mut bytes = Vec::new();
        encode_marked(Kind::Hello, 0, b"new", &mut bytes).unwrap();
        encode(Kind::Hello, 0, b"old", &mut bytes).unwrap();
        encode(Kind::Data, 5, b"\x01bytes", &mut bytes).unwrap();
        assert_eq!(all(&bytes, 7).len(), 3);
    }

    #[test]
    fn frames_come_back_whatever_the_pieces() {
        let mut bytes = vec![0, 0, 0];
        encode(Kind::Request, 7, b"{}", &mut bytes).unwrap();
        bytes.extend([0; 5]);
        encode(Kind::Data, 0x8000_0001, &[STDOUT_BYTE, 0, 0, 9], &mut bytes).unwrap();
        encode(Kind::Cancel, 7, b"", &mut bytes).unwrap();
        for step in [1, 2, 3, 8, 1000] {
            let frames = all(&bytes, step);
            assert_eq!(frames.len(), 3, "{step}");
            assert_eq!(frames[1].payload, [STDOUT_BYTE, 0, 0, 9]);
            assert_eq!((frames[2].kind, frames[2].stream), (Kind::Cancel, 7));
        }
    }

    const STDOUT_BYTE: u8 = crate::STDOUT;

    #[test]
    fn padding_ends_any_frame_that_was_cut_off() {
        let mut whole = Vec::new();
        encode(Kind::Data, 3, &vec![1; PAYLOAD_BYTES_MAX], &mut whole).unwrap();
        for cut in [1, 5, 8, 9, 10, whole.len() - 1] {
            let mut bytes = whole[..cut].to_vec();
            bytes.extend(padding());
            encode(Kind::Reset, 0, &[5; 16], &mut bytes).unwrap();
            let last = all(&bytes, 4096).pop().unwrap();
            assert_eq!((last.kind, last.payload.as_slice()), (Kind::Reset, [5; 16].as_slice()), "{cut}");
        }
    }

    #[test]
    fn a_long_frame_is_refused_before_it_is_held() {
        let mut decoder = Decoder::default();
        decoder.push(&[Kind::Data as u8, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::Long(_))));
        assert!(encode(Kind::Data, 0, &vec![0; PAYLOAD_BYTES_MAX + 1], &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            let mut frames = 0;
            while let Ok(Some(frame)) = decoder.next_frame() {
                prop_assert!(frame.payload.len() <= bytes.len());
                frames += 1;
                prop_assert!(frames <= bytes.len());
            }
        }

    }

    proptest! {
        // Each case reads half a megabyte of padding.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn behind_any_bytes_the_first_frame_is_found(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut all = bytes;
            all.extend(padding());
            encode(Kind::Hello, 0, b"me", &mut all).unwrap();
            let mut decoder = Decoder::default();
            decoder.push(&all);
            let mut last = None;
            for _ in 0..all.len() {
                match decoder.next_frame() {
                    Ok(Some(frame)) => last = Some(frame),
                    Ok(None) => break,
                    Err(_) => decoder.skip(),
                }
            }
            let last = last.unwrap();
            prop_assert_eq!((last.kind, last.payload.as_slice()), (Kind::Hello, b"me".as_slice()));
        }
    }
}
