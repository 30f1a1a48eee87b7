//! Packing with several threads, the same bytes every time.
//!
//! ```text
//! reader ──blocks──> worker 0, 1, .. (deflate, each block on its own) ──in the blocks' order──> one gzip member
//! ```
//!
//! A block's packed form depends on its bytes alone: neither the number of threads nor their speed shows. Any gzip reads
//! the result; the price for packing blocks apart is about one byte in a hundred.

use flate2::{Compress, Compression, Crc, FlushCompress};
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Part of the format that others remember us by: changing one changes every digest.
const BLOCK_BYTES: usize = 1 << 20;
/// 150 MB of a system's libraries, one thread: level 2 2.10 s and 52.2 MB, 3 2.56 s and 50.3 MB, 5 3.11 s and 48.8 MB;
/// gzip -6 8.17 s and 47.5 MB.
const LEVEL: u32 = 3;
/// gzip (RFC 1952), deflate, no name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block.
const LAST: [u8; 2] = [3, 0];

struct Packed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Packs `from` into `to`.
pub fn gzip(mut from: &mut dyn Read, to: &mut (dyn Write + Send), threads: usize) -> io::Result<()> {
    std::thread::scope(|scope| {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..threads.max(1) {
            let (input, blocks) = sync_channel::<Vec<u8>>(1);
            let (packed, output) = sync_channel::<io::Result<Packed>>(1);
            std::thread::Builder::new()
                .name("pack-layer".to_owned())
                .spawn_scoped(scope, move || work(&blocks, &packed))?;
            inputs.push(input);
            outputs.push(output);
        }
        let writer = std::thread::Builder::new()
            .name("write-layer".to_owned())
            .spawn_scoped(scope, move || write(&outputs, to))?;
        let mut next = 0;
        let read = loop {
            let mut block = Vec::with_capacity(BLOCK_BYTES);
            match (&mut from).take(BLOCK_BYTES as u64).read_to_end(&mut block) {
                Ok(0) => break Ok(()),
                // A worker that has ended had a reason, which the writer tells.
                Ok(_) if inputs[next % inputs.len()].send(block).is_err() => break Ok(()),
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

fn work(blocks: &Receiver<Vec<u8>>, packed: &SyncSender<io::Result<Packed>>) {
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    while let Ok(block) = blocks.recv() {
        // A writer that is gone wants no more.
        if packed.send(pack(&mut deflate, &block)).is_err() {
            return;
        }
    }
}

fn pack(deflate: &mut Compress, block: &[u8]) -> io::Result<Packed> {
    deflate.reset();
    let mut crc = Crc::new();
    crc.update(block);
    let mut bytes = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let done = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let room = bytes.capacity() - bytes.len();
        deflate.compress_vec(&block[done..], &mut bytes, FlushCompress::Sync).map_err(io::Error::other)?;
        // All of it is out when there was room left for more.
        if deflate.total_in() == block.len() as u64 && bytes.len() < bytes.capacity() && room > 0 {
            return Ok(Packed { bytes, crc });
        }
        bytes.reserve(64 << 10);
    }
}

fn write(outputs: &[Receiver<io::Result<Packed>>], to: &mut (dyn Write + Send)) -> io::Result<()> {
    let mut crc = Crc::new();
    to.write_all(&HEADER)?;
    for output in outputs.iter().cycle() {
        let Ok(packed) = output.recv() else { break };
        let packed = packed?;
        to.write_all(&packed.bytes)?;
        crc.combine(&packed.crc);
    }
    to.write_all(&LAST)?;
    to.write_all(&crc.sum().to_le_bytes())?;
    to.write_all(&crc.amount().to_le_bytes())?;
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
            flate2::read::GzDecoder::new(&one[..]).read_to_end(&mut back).unwrap();
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
