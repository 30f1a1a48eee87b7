//! Compressed streams, known by their first bytes as `docker load` knows them.

use crate::stream::{Again, AsRead, Pieces, Pool};
use bytes::Bytes;
use std::io::{self, BufRead, Read};

/// What a stream is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Packing {
    /// By the first bytes: six are enough for all.
    pub fn of(first: &[u8]) -> Packing {
        let skippable = |bytes: &[u8]| bytes.len() >= 4 && bytes[0] & 0xf0 == 0x50 && bytes[1..4] == [0x2a, 0x4d, 0x18];
        match first {
            [0x1f, 0x8b, 8, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Packing::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            bytes if skippable(bytes) => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// The unpacked bytes of `pieces`, and what they were packed with.
pub(crate) fn decoded<'a, P: Pieces + 'a>(mut pieces: P) -> io::Result<(Packing, Box<dyn Pieces + 'a>)> {
    let first = pieces.piece()?;
    let packing = Packing::of(&first);
    let whole = Again { first, rest: pieces };
    let pool = Pool::default();
    let decoded: Box<dyn Pieces + 'a> = match packing {
        Packing::Plain => Box::new(whole),
        Packing::Gzip => Box::new(Decoded { reader: flate2::bufread::MultiGzDecoder::new(AsRead::new(whole)), pool }),
        Packing::Zstd => Box::new(Decoded { reader: zstd_decoder(AsRead::new(whole))?, pool }),
        Packing::Bzip2 => Box::new(Decoded { reader: bzip2::bufread::MultiBzDecoder::new(AsRead::new(whole)), pool }),
        Packing::Xz => Box::new(Decoded { reader: xz_decoder(AsRead::new(whole)), pool }),
    };
    Ok((packing, decoded))
}

/// The unpacked bytes of a reader.
pub fn decode<'a>(reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = reader;
    let packing = Packing::of(reader.fill_buf()?);
    Ok(match packing {
        Packing::Plain => Box::new(reader),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Packing::Zstd => Box::new(zstd_decoder(reader)?),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
        Packing::Xz => Box::new(xz_decoder(reader)),
    })
}

/// Windows up to 128 MiB, as `zstd --long` makes them; a hostile stream cannot ask for more memory.
fn zstd_decoder<R: BufRead>(reader: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    const WINDOW_LOG_MAX: u32 = 27;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Dictionaries up to 128 MiB: `xz -9` takes 64.
fn xz_decoder<R: BufRead>(reader: R) -> lzma_rust2::XzReader<R> {
    const MEMORY_KIB_MAX: u32 = 160 << 10;
    lzma_rust2::XzReader::new_mem_limit(reader, true, MEMORY_KIB_MAX)
}

struct Decoded<R> {
    reader: R,
    pool: Pool,
}

impl<R: Read> Pieces for Decoded<R> {
    fn piece(&mut self) -> io::Result<Bytes> {
        self.pool.read(&mut self.reader)
    }
}
