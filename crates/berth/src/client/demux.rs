//! Stdout and stderr out of one stream.
//!
//! ```text
//! byte 0: 1 stdout, 2 stderr, 3 an error of the engine   bytes 1-3: 0   bytes 4-7: length, big endian
//! ```
//!
//! Works on any pieces the stream comes in and copies nothing but headers that are cut in two.

use std::io;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
    Engine,
}

#[derive(Debug, Default)]
pub(crate) struct Demux {
    header: [u8; 8],
    have: usize,
    left: usize,
    channel: Option<Channel>,
}

impl Demux {
    /// Calls `sink` for every run of payload in `data`.
    pub(crate) fn feed(
        &mut self,
        mut data: &[u8],
        mut sink: impl FnMut(Channel, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while !data.is_empty() {
            if self.left == 0 {
                let take = (8 - self.have).min(data.len());
                self.header[self.have..self.have + take].copy_from_slice(&data[..take]);
                self.have += take;
                data = &data[take..];
                if self.have < 8 {
                    return Ok(());
                }
                self.have = 0;
                self.channel = Some(match self.header[0] {
                    // 0 is stdin echoed, which old engines wrote to stdout.
                    0 | 1 => Channel::Stdout,
                    2 => Channel::Stderr,
                    3 => Channel::Engine,
                    other => {
                        let text = format!("unrecognized stream {other} in the engine's output");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                });
                let [_, _, _, _, a, b, c, d] = self.header;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                continue;
            }
            let take = self.left.min(data.len());
            sink(self.channel.unwrap_or(Channel::Stdout), &data[..take])?;
            self.left -= take;
            data = &data[take..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_the_stream_gives_the_same_text() {
        let mut stream = Vec::new();
        for (channel, text) in [(1u8, "hello "), (2, "oops"), (1, ""), (1, "world")] {
            stream.extend([channel, 0, 0, 0]);
            stream.extend((text.len() as u32).to_be_bytes());
            stream.extend(text.as_bytes());
        }
        for size in 1..stream.len() {
            let (mut out, mut err, mut demux) = (Vec::new(), Vec::new(), Demux::default());
            for piece in stream.chunks(size) {
                let sink = |channel, data: &[u8]| {
                    if channel == Channel::Stderr {
                        err.extend_from_slice(data)
                    } else {
                        out.extend_from_slice(data)
                    }
                    Ok(())
                };
                demux.feed(piece, sink).unwrap();
            }
            assert_eq!(
                (out.as_slice(), err.as_slice()),
                (b"hello world".as_slice(), b"oops".as_slice()),
                "cut at {size}"
            );
        }
    }

    #[test]
    fn a_stream_that_is_none_is_refused() {
        assert!(Demux::default().feed(b"plain text", |_, _| Ok(())).is_err());
    }
}
