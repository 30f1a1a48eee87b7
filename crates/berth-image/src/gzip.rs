//! Packing with several threads, the same bytes every time.
//!
//! ```text
//! reader ──blocks──> worker 0, 1, .. (each block a gzip member) ──in the blocks' order──> one file of members
//! ```
//!
//! A block's packed form depends on its bytes alone: neither the number of threads nor their speed shows. A gzip file may
//! have any number of members (RFC 1952, 2.2), and everybody's unpacker reads them as one (the layers of eStargz are
//! made so); the price for packing blocks apart is about one byte in a hundred.

use libdeflater::{CompressionLvl, Compressor};
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Part of the format that others remember us by: changing one changes every digest.
const BLOCK_BYTES: usize = 1 << 20;
/// 200 MB of a system's files, one thread: level 1 1.0 s and 81.5 MB, 2 1.4 s and 78.1 MB, 4 1.7 s and 76.9 MB, 6 2.7 s and
/// 74.8 MB. What registries mostly have, zlib's level 6, is as large as the last and takes ten times as long as the first.
const LEVEL: i32 = 1;

/// Packs `from` into `to`.
pub fn gzip(mut from: &mut dyn Read, to: &mut (dyn Write + Send), threads: usize) -> io::Result<()> {
    std::thread::scope(|scope| {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..threads.max(1) {
            let (input, blocks) = sync_channel::<Vec<u8>>(1);
            let (packed, output) = sync_channel::<io::Result<Vec<u8>>>(1);
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
                // Also an empty file has a member.
                Ok(0) if next > 0 => break Ok(()),
                // A worker that has ended had a reason, which the writer tells.
                Ok(count) if inputs[next % inputs.len()].send(block).is_err() || count == 0 => break Ok(()),
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

fn work(blocks: &Receiver<Vec<u8>>, packed: &SyncSender<io::Result<Vec<u8>>>) {
    let mut deflate = Compressor::new(CompressionLvl::new(LEVEL).unwrap_or_default());
    while let Ok(block) = blocks.recv() {
        // A writer that is gone wants no more.
        if packed.send(pack(&mut deflate, &block)).is_err() {
            return;
        }
    }
}

fn pack(deflate: &mut Compressor, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut member = vec![0; deflate.gzip_compress_bound(block.len())];
    let length = deflate.gzip_compress(block, &mut member).map_err(io::Error::other)?;
    member.truncate(length);
    Ok(member)
}

fn write(outputs: &[Receiver<io::Result<Vec<u8>>>], to: &mut (dyn Write + Send)) -> io::Result<()> {
    for output in outputs.iter().cycle() {
        let Ok(packed) = output.recv() else { break };
        to.write_all(&packed?)?;
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
