//! Headers of archives that we write: ustar, with pax records for what does not fit.

use super::header::BLOCK;
use berth_snapshot::Meta;

/// What becomes one header.
pub(crate) struct Head<'a> {
    pub path: &'a [u8],
    pub kind: u8,
    pub link: &'a [u8],
    pub size: u64,
    pub device: (u32, u32),
    pub meta: &'a Meta,
}

/// Largest numbers of the octal fields of 8 and 12 bytes.
const SMALL_MAX: u64 = 0o7_777_777;
const LARGE_MAX: u64 = 0o77_777_777_777;

/// Zeros up to the next block.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over == 0 { &[] } else { &ZEROS[over..] }
}

/// The archive's end.
pub(crate) fn trailer() -> [u8; 2 * BLOCK] {
    [0; 2 * BLOCK]
}

fn record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        to.extend_from_slice(part);
    }
}

fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    let digits = digits.as_bytes();
    let start = digits.len() - (field.len() - 1);
    field[..digits.len() - start].copy_from_slice(&digits[start..]);
}

fn block(path: &[u8], kind: u8, link: &[u8], size: u64, device: (u32, u32), meta: &Meta) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let put = |block: &mut [u8; BLOCK], at: usize, most: usize, bytes: &[u8]| {
        let count = bytes.len().min(most);
        block[at..at + count].copy_from_slice(&bytes[..count]);
    };
    put(&mut block, 0, 100, path);
    octal(&mut block[100..108], u64::from(meta.mode & 0o7777));
    octal(&mut block[108..116], u64::from(meta.uid).min(SMALL_MAX));
    octal(&mut block[116..124], u64::from(meta.gid).min(SMALL_MAX));
    octal(&mut block[124..136], size.min(LARGE_MAX));
    octal(&mut block[136..148], u64::try_from(meta.mtime_seconds).unwrap_or(0).min(LARGE_MAX));
    block[148..156].copy_from_slice(b"        ");
    block[156] = kind;
    put(&mut block, 157, 100, link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(device.0).min(SMALL_MAX));
    octal(&mut block[337..345], u64::from(device.1).min(SMALL_MAX));
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut block[148..155], sum);
    block[155] = b' ';
    block
}

impl Head<'_> {
    /// The header with what it needs before it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let meta = self.meta;
        let mut records = Vec::new();
        let is_plain = |text: &[u8]| text.len() <= 100 && text.is_ascii();
        if !is_plain(self.path) {
            record(&mut records, b"path", self.path);
        }
        if !is_plain(self.link) {
            record(&mut records, b"linkpath", self.link);
        }
        for (key, value, most) in [
            (&b"size"[..], self.size, LARGE_MAX),
            (b"uid", u64::from(meta.uid), SMALL_MAX),
            (b"gid", u64::from(meta.gid), SMALL_MAX),
        ] {
            if value > most {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        if meta.mtime_seconds < 0 || meta.mtime_seconds.unsigned_abs() > LARGE_MAX {
            record(&mut records, b"mtime", meta.mtime_seconds.to_string().as_bytes());
        }
        for (name, value) in &meta.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let name = [b"PaxHeaders.0/", self.path.rsplit(|&byte| byte == b'/').next().unwrap_or(b"")].concat();
            let size = records.len() as u64;
            let plain = Meta { mode: 0o644, ..Meta::default() };
            bytes.extend_from_slice(&block(&name, b'x', b"", size, (0, 0), &plain));
            bytes.extend_from_slice(&records);
            bytes.extend_from_slice(padding(size));
        }
        bytes.extend_from_slice(&block(self.path, self.kind, self.link, self.size, self.device, meta));
        bytes
    }
}
