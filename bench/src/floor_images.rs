//! What cannot be spared of a layer's way from its packed bytes to the disk: hash, unpack, hash, write, sync. Each step
//! alone on one thread, by the libraries that the engine uses.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

const PIECE: usize = 1 << 20;

/// Milliseconds of reading all of `from`, giving each piece to `take`.
fn timed(mut from: impl Read, mut take: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<(u128, u64)> {
    let begun = Instant::now();
    let (mut buffer, mut total) = (vec![0; PIECE], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((begun.elapsed().as_millis(), total)),
            count => {
                take(&buffer[..count])?;
                total += count as u64;
            }
        }
    }
}

fn hash(bytes: &[u8]) -> std::io::Result<u128> {
    let mut hash = Sha256::new();
    let (millis, _) = timed(bytes, |piece| {
        hash.update(piece);
        Ok(())
    })?;
    std::hint::black_box(hash.finalize());
    Ok(millis)
}

fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(file), Some(folder)) = (words.next(), words.next()) else {
        eprintln!("usage: bench-floor FILE[.gz|.zst] FOLDER");
        std::process::exit(2);
    };
    let packed = std::fs::read(&file)?;
    let kind = Path::new(&file).extension().and_then(|end| end.to_str()).unwrap_or("plain");
    let mut plain = Vec::new();
    let keep = |piece: &[u8]| {
        plain.extend_from_slice(piece);
        Ok(())
    };
    match kind {
        "gz" => timed(flate2::bufread::MultiGzDecoder::new(&packed[..]), keep)?,
        "zst" => timed(zstd::Decoder::with_buffer(&packed[..])?, keep)?,
        _ => timed(&packed[..], keep)?,
    };
    let unpack = match kind {
        "gz" => timed(flate2::bufread::MultiGzDecoder::new(&packed[..]), |_| Ok(()))?.0,
        "zst" => timed(zstd::Decoder::with_buffer(&packed[..])?, |_| Ok(()))?.0,
        _ => 0,
    };
    let (first, second) = (if unpack > 0 { hash(&packed)? } else { 0 }, hash(&plain)?);
    let path = Path::new(&folder).join("floor");
    let mut out = File::create(&path)?;
    let write = timed(&plain[..], |piece| out.write_all(piece))?.0;
    let begun = Instant::now();
    out.sync_all()?;
    let sync = begun.elapsed().as_millis();
    std::fs::remove_file(&path)?;
    let work = first + unpack + second + write;
    // Two processors share the work; one stream is unpacked by one of them.
    let floor = unpack.max(work / 2) + sync;
    println!(
        "{}: hash packed {first} ms, unpack {unpack}, hash plain {second}, write {write}, sync {sync}: on two processors at least {floor} ms",
        Path::new(&file).file_name().unwrap_or_default().display()
    );
    Ok(())
}
