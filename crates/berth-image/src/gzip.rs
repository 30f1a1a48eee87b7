//! Packing with several threads, the same bytes every time.
//!
//! ```text
//! reader ──blocks──> worker 0, 1, .. (each block a gzip member) ──in the blocks' order──> one file of members
//! ```
//!
//! A block's packed form depends on its bytes alone: neither the number of threads nor their speed shows. A gzip file may
//! have any number of members (RFC 1952, 2.2), and everybody's unpacker reads them as one (the layers of eStargz are
//! made so); the price for packing blocks apart is about one byte in a hundred.

use crate::deflate::Deflater;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Part of the format that others remember us by: changing one changes every digest.
const BLOCK_BYTES: usize = 1 << 20;
/// A member's head: deflate, no name, no time, the fastest way, of no system in particular (RFC 1952, 2.3).
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];

/// A block on its way. Its memory goes round: no page is faulted in twice.
struct Block {
    bytes: Vec<u8>,
    length: usize,
    member: Vec<u8>,
}

impl Block {
    /// The next bytes of `from`; how many there were.
    fn fill(&mut self, from: &mut dyn Read) -> io::Result<usize> {
        self.bytes.resize(BLOCK_BYTES, 0);
        self.length = 0;
        while self.length < BLOCK_BYTES {
            match from.read(&mut self.bytes[self.length..]) {
                Ok(0) => break,
                Ok(count) => self.length += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(self.length)
    }

    fn pack(&mut self, deflater: &mut Deflater) {
        let block = &self.bytes[..self.length];
        self.member.clear();
        self.member.extend_from_slice(&HEAD);
        deflater.deflate(block, &mut self.member);
        let mut check = flate2::Crc::new();
        check.update(block);
        self.member.extend_from_slice(&check.sum().to_le_bytes());
        self.member.extend_from_slice(&check.amount().to_le_bytes());
    }
}

/// Packs `from` into `to`.
pub fn gzip(from: &mut dyn Read, to: &mut (dyn Write + Send), threads: usize) -> io::Result<()> {
    let threads = threads.max(1);
    std::thread::scope(|scope| {
        // One for each worker and as many waiting for it, one being read and one being written.
        let (free, empty) = channel::<Block>();
        for _ in 0..2 * threads + 2 {
            let block = Block { bytes: Vec::new(), length: 0, member: Vec::new() };
            free.send(block).map_err(io::Error::other)?;
        }
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (input, blocks) = sync_channel::<Block>(2);
            let (packed, output) = sync_channel::<Block>(2);
            std::thread::Builder::new()
                .name("pack-layer".to_owned())
                .spawn_scoped(scope, move || work(&blocks, &packed))?;
            inputs.push(input);
            outputs.push(output);
        }
        let writer = std::thread::Builder::new()
            .name("write-layer".to_owned())
            .spawn_scoped(scope, move || write(&outputs, to, &free))?;
        let mut next = 0;
        let read = loop {
            // A writer or worker that has ended had a reason, which the writer tells.
            let Ok(mut block) = empty.recv() else { break Ok(()) };
            match block.fill(from) {
                // Also an empty file has a member.
                Ok(0) if next > 0 => break Ok(()),
                Ok(count) if inputs[next % threads].send(block).is_err() || count == 0 => break Ok(()),
                Ok(_) => next += 1,
                Err(cause) => break Err(cause),
            }
        };
        let failed = read.is_err();
        drop(inputs);
        let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("packing ended early")));
        if failed { read } else { written }
    })
}

fn work(blocks: &Receiver<Block>, packed: &SyncSender<Block>) {
    let mut deflater = Deflater::new();
    while let Ok(mut block) = blocks.recv() {
        block.pack(&mut deflater);
        // A writer that is gone wants no more.
        if packed.send(block).is_err() {
            return;
        }
    }
}

fn write(outputs: &[Receiver<Block>], to: &mut (dyn Write + Send), free: &Sender<Block>) -> io::Result<()> {
    for output in outputs.iter().cycle() {
        let Ok(block) = output.recv() else { break };
        to.write_all(&block.member)?;
        // A reader that is at its end wants no more.
        drop(free.send(block));
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8], threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        gzip(&mut &bytes[..], &mut out, threads).unwrap();
        out
    }

    #[test]
    fn what_is_packed_unpacks_and_does_not_depend_on_threads() {
        let mut noise = 1u64;
        let mut mixed = Vec::new();
        while mixed.len() < 3 * BLOCK_BYTES + 17 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            mixed.extend_from_slice(&noise.to_le_bytes());
            mixed.extend_from_slice(b"the same words again and again, ");
        }
        for bytes in [&b""[..], b"x", &mixed[..BLOCK_BYTES], &mixed[..BLOCK_BYTES + 1], &mixed] {
            let one = packed(bytes, 1);
            assert_eq!(one, packed(bytes, 3));
            let mut back = Vec::new();
            flate2::read::MultiGzDecoder::new(&one[..]).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{} bytes", bytes.len());
        }
        assert!(packed(&mixed, 2).len() < mixed.len());
    }

    #[test]
    fn failures_of_either_side_are_told() {
        struct Bad;
        impl Read for Bad {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("no more"))
            }
        }
        impl Write for Bad {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(gzip(&mut Bad, &mut Vec::new(), 2).unwrap_err().to_string(), "no more");
        let error = gzip(&mut &vec![7; 4 * BLOCK_BYTES][..], &mut Bad, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
