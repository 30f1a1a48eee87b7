//! Compiled filters on disk: compiling Docker's policy for three ABIs takes 170 us, reading it back 20.
//!
//! A file holds its whole profile beside the program and counts only for exactly that text; it is written whole
//! (temporary file, rename) and one that is not what it should be is compiled anew. The folder is the engine's
//! own, writable by root alone.

use super::{Filter, INSTRUCTIONS_MAX, SeccompError, SockFilter, compile};
use oci_spec::runtime::LinuxSeccomp;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// Grows when the compiler makes something else from the same profile.
const MAGIC: &[u8; 8] = b"berthSF1";
/// Magic, sum of everything after the header.
const HEADER: usize = 8 + 8;
/// Before the profile's text: flags, notify.
const WORDS: usize = 4 + 4;
/// Longer profiles are compiled each time.
const PROFILE_MAX: usize = 256 << 10;

/// The filter of `profile`, from `folder` where it is there; made and kept there where it is not.
pub fn load_or_compile(profile: &LinuxSeccomp, folder: Option<&Path>) -> Result<Filter, SeccompError> {
    let Some(folder) = folder else { return compile(profile) };
    match serde_json::to_vec(profile) {
        Ok(text) => kept(&text, folder, || compile(profile)),
        Err(_) => compile(profile),
    }
}

/// The same of a profile in its JSON.
pub fn load_or_compile_text(text: &[u8], folder: Option<&Path>) -> Result<Filter, SeccompError> {
    let make = || {
        let profile = serde_json::from_slice(text).map_err(|cause| SeccompError::Text(cause.to_string()))?;
        compile(&profile)
    };
    match folder {
        Some(folder) => kept(text, folder, make),
        None => make(),
    }
}

fn kept(
    text: &[u8],
    folder: &Path,
    make: impl FnOnce() -> Result<Filter, SeccompError>,
) -> Result<Filter, SeccompError> {
    if text.len() > PROFILE_MAX {
        return make();
    }
    let path = folder.join(format!("{:016x}", hash(text)));
    if let Some(filter) = read(&path, text) {
        return Ok(filter);
    }
    let filter = make()?;
    // A cache that cannot be written costs time, not the container.
    write(folder, &path, &filter, text).ok();
    Ok(filter)
}

/// FNV-1a: finds the file and its torn bytes; equality is decided by the text itself.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn read(path: &Path, text: &[u8]) -> Option<Filter> {
    let mut bytes = Vec::with_capacity(HEADER + text.len() + (8 << 10));
    let bound = (HEADER + WORDS + text.len() + INSTRUCTIONS_MAX * 8) as u64;
    File::open(path).ok()?.take(bound + 1).read_to_end(&mut bytes).ok()?;
    let (header, content) = bytes.split_at_checked(HEADER)?;
    let (words, rest) = content.split_at_checked(WORDS)?;
    let word = |at: usize| Some(u32::from_le_bytes(words.get(at..at + 4)?.try_into().ok()?));
    let sum = u64::from_le_bytes(header.get(8..16)?.try_into().ok()?);
    let code = rest.strip_prefix(text)?;
    if !header.starts_with(MAGIC) || sum != hash(content) || code.len() % 8 != 0 || code.is_empty() {
        return None;
    }
    let instructions = code.chunks_exact(8).map(|at| SockFilter {
        code: u16::from_le_bytes([at[0], at[1]]),
        jt: at[2],
        jf: at[3],
        k: u32::from_le_bytes([at[4], at[5], at[6], at[7]]),
    });
    Some(Filter { instructions: instructions.collect(), flags: word(0)?, notify: word(4)? != 0 })
}

fn write(folder: &Path, path: &Path, filter: &Filter, text: &[u8]) -> std::io::Result<()> {
    let mut content = Vec::with_capacity(WORDS + text.len() + filter.instructions.len() * 8);
    content.extend_from_slice(&filter.flags.to_le_bytes());
    content.extend_from_slice(&u32::from(filter.notify).to_le_bytes());
    content.extend_from_slice(text);
    for instruction in &filter.instructions {
        content.extend_from_slice(&instruction.code.to_le_bytes());
        content.extend_from_slice(&[instruction.jt, instruction.jf]);
        content.extend_from_slice(&instruction.k.to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&hash(&content).to_le_bytes());
    bytes.extend_from_slice(&content);
    std::fs::create_dir_all(folder)?;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let written = File::create(&temporary).and_then(|mut file| file.write_all(&bytes));
    // Not synced: a torn file after a power cut fails its sum and is made again.
    written.and_then(|()| std::fs::rename(&temporary, path)).inspect_err(|_| {
        std::fs::remove_file(&temporary).ok();
    })
}
