//! Disk images: which foreign ones are safe to open, and overlays over them.
//!
//! A disk image is a program's input that its author chose. The known attacks are not in the data but in what a
//! header may name: a backing file, an external data file, an extent in another file, each of them any file of
//! the host. So nothing is probed by QEMU: [`identify`] looks at the first bytes itself, [`check_qcow2`]
//! refuses a header that names anything, and sizes are bounded before something is allocated from them.
//!
//! Overlays are written here and not by `qemu-img`: it is a header of four clusters, and starting a program takes
//! longer than a clone may.

use crate::spec::Format;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Larger disks are refused: nobody has them, and a lying header costs memory.
pub const DISK_BYTES_MAX: u64 = 64 << 40;
pub const DISK_BYTES_MIN: u64 = 512;
const SECTOR_BYTES: u64 = 512;

const QCOW2_MAGIC: &[u8; 4] = b"QFI\xfb";
/// Clusters of what we write ourselves.
const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
/// Incompatible features that harm nobody: dirty refcounts, corrupt mark, compression type, extended L2 entries.
const HARMLESS_FEATURES: u64 = 0b1_1011;
const EXTERNAL_DATA: u64 = 0b100;
const HEADER_BYTES: usize = 104;
/// Header extensions lie in the first cluster; the largest that is read of them.
const FIRST_BYTES_MAX: u64 = 2 << 20;
const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot {action} the disk image")]
    Io {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the image names a backing file of its own ({0:?}), which could be any file of this host")]
    BackingFile(String),
    #[error("the image keeps its data in another file, which could be any file of this host")]
    ExternalData,
    #[error("the image is encrypted")]
    Encrypted,
    #[error("the image is damaged: {0}")]
    Damaged(&'static str),
    #[error("a disk of {0} bytes: from {DISK_BYTES_MIN} to {DISK_BYTES_MAX} are possible")]
    Size(u64),
    #[error("the image is {found}, not {wanted}")]
    OtherFormat { found: &'static str, wanted: &'static str },
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> DiskError {
    move |source| DiskError::Io { action, source }
}

/// What a file is by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Qcow2,
    Vmdk,
    Vdi,
    Vhdx,
    /// An OVA is a tar archive.
    Ova,
    /// None of the others: raw, as everything else can be.
    Raw,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Qcow2 => "qcow2",
            Kind::Vmdk => "vmdk",
            Kind::Vdi => "vdi",
            Kind::Vhdx => "vhdx",
            Kind::Ova => "ova",
            Kind::Raw => "raw",
        }
    }
}

/// Looks at the beginning of a file. Decides nothing for a caller who was told the format: a guest can write
/// any magic at the beginning of its own raw disk.
pub fn identify(file: &mut File) -> Result<Kind, DiskError> {
    let mut first = [0_u8; 512];
    file.seek(SeekFrom::Start(0)).map_err(failed("read"))?;
    let mut count = 0;
    while count < first.len() {
        match file.read(&mut first[count..]).map_err(failed("read"))? {
            0 => break,
            more => count += more,
        }
    }
    let first = &first[..count];
    let at = |offset: usize, magic: &[u8]| first.get(offset..offset + magic.len()) == Some(magic);
    Ok(if at(0, QCOW2_MAGIC) {
        Kind::Qcow2
    } else if at(0, b"KDMV") || at(0, b"COWD") || at(0, b"# Disk DescriptorFile") {
        Kind::Vmdk
    } else if at(0x40, &[0x7f, 0x10, 0xda, 0xbe]) {
        Kind::Vdi
    } else if at(0, b"vhdxfile") {
        Kind::Vhdx
    } else if at(257, b"ustar") {
        Kind::Ova
    } else {
        Kind::Raw
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads a qcow2 header; the disk's size in bytes where it names no other file and lies about nothing that
/// would cost the reader.
pub fn check_qcow2(file: &mut File) -> Result<u64, DiskError> {
    let mut first = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(failed("read"))?;
    file.take(FIRST_BYTES_MAX).read_to_end(&mut first).map_err(failed("read"))?;
    check_header(&first)
}

fn check_header(first: &[u8]) -> Result<u64, DiskError> {
    let short = || DiskError::Damaged("its header is cut off");
    if first.get(..4) != Some(QCOW2_MAGIC) {
        return Err(DiskError::Damaged("it is no qcow2"));
    }
    let word = |at: usize| u32_at(first, at).ok_or_else(short);
    let long = |at: usize| u64_at(first, at).ok_or_else(short);
    let version = word(4)?;
    if !(2..=3).contains(&version) {
        return Err(DiskError::Damaged("its version is neither 2 nor 3"));
    }
    if long(8)? != 0 {
        return Err(DiskError::BackingFile(backing_name(first)));
    }
    let cluster_bits = word(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(DiskError::Damaged("its clusters have an impossible size"));
    }
    let size = long(24)?;
    check_size(size)?;
    if word(32)? != 0 {
        return Err(DiskError::Encrypted);
    }
    // Entries of the first table: what a reader allocates.
    let covered = (1_u64 << cluster_bits) * (1_u64 << (cluster_bits - 3));
    if u64::from(word(36)?) > 4 * (size / covered + 1) {
        return Err(DiskError::Damaged("its table is larger than its size allows"));
    }
    if version == 2 {
        return extensions(first, 72, 1 << cluster_bits).map(|()| size);
    }
    let incompatible = long(72)?;
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(DiskError::ExternalData);
    }
    if incompatible & !HARMLESS_FEATURES != 0 {
        return Err(DiskError::Damaged("it has features that nobody knows"));
    }
    let header = word(100)? as usize;
    if !(HEADER_BYTES..=1024).contains(&header) {
        return Err(DiskError::Damaged("its header has an impossible length"));
    }
    extensions(first, header, 1 << cluster_bits).map(|()| size)
}

/// Walks the header's extensions within the first cluster; one of them could name a data file.
fn extensions(first: &[u8], mut at: usize, cluster_bytes: usize) -> Result<(), DiskError> {
    let end = cluster_bytes.min(first.len());
    while at + 8 <= end {
        let (kind, length) = (u32_at(first, at).unwrap_or(0), u32_at(first, at + 4).unwrap_or(0) as usize);
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_DATA_FILE => return Err(DiskError::ExternalData),
            _ => {}
        }
        if length > end {
            return Err(DiskError::Damaged("a header extension is longer than its cluster"));
        }
        at += 8 + length.next_multiple_of(8);
    }
    Ok(())
}

fn backing_name(first: &[u8]) -> String {
    let offset = u64_at(first, 8).and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX);
    let length = u32_at(first, 16).unwrap_or(0).min(255) as usize;
    let name = first.get(offset..offset.saturating_add(length)).unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// Whether a disk may be this large.
pub fn check_size(bytes: u64) -> Result<(), DiskError> {
    match (DISK_BYTES_MIN..=DISK_BYTES_MAX).contains(&bytes) {
        true => Ok(()),
        false => Err(DiskError::Size(bytes)),
    }
}

/// The size that the guest sees of a file that is `format`.
pub fn virtual_size(file: &mut File, format: Format) -> Result<u64, DiskError> {
    match format {
        Format::Qcow2 => check_qcow2(file),
        Format::Raw => {
            let bytes = file.seek(SeekFrom::End(0)).map_err(failed("measure"))?.next_multiple_of(SECTOR_BYTES);
            check_size(bytes).map(|()| bytes)
        }
    }
}

/// Writes an empty qcow2 of `size` bytes at `path`, which must not exist. `backing` is the name and format that
/// the header shows to whoever asks the file; what is opened is decided by the caller's own block nodes.
pub fn create_qcow2(path: &Path, size: u64, backing: Option<(&str, Format)>) -> Result<File, DiskError> {
    use std::os::unix::fs::OpenOptionsExt;
    check_size(size)?;
    let mut options = File::options();
    let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed("make"))?;
    let image = empty_qcow2(size, backing);
    file.write_all(&image).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    Ok(file)
}

/// Header, refcount table, refcount block, first-level table: docs/interop/qcow2.txt of QEMU.
fn empty_qcow2(size: u64, backing: Option<(&str, Format)>) -> Vec<u8> {
    let covered_by_entry = CLUSTER_BYTES * (CLUSTER_BYTES / 8);
    let entries = size.div_ceil(covered_by_entry);
    let table_clusters = (entries * 8).div_ceil(CLUSTER_BYTES).max(1);
    let clusters = 3 + table_clusters;
    let mut image = vec![0_u8; (clusters * CLUSTER_BYTES) as usize];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, QCOW2_MAGIC);
    put(4, &3_u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &(entries as u32).to_be_bytes());
    put(40, &(3 * CLUSTER_BYTES).to_be_bytes());
    put(48, &CLUSTER_BYTES.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    // Refcounts of 16 bits: order 4.
    put(96, &4_u32.to_be_bytes());
    put(100, &(HEADER_BYTES as u32).to_be_bytes());
    let mut at = HEADER_BYTES;
    if let Some((name, format)) = backing {
        const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
        let word = format.as_str().as_bytes();
        put(at, &EXTENSION_BACKING_FORMAT.to_be_bytes());
        put(at + 4, &(word.len() as u32).to_be_bytes());
        put(at + 8, word);
        // The end's eight bytes are zero already.
        at += 8 + word.len().next_multiple_of(8) + 8;
        put(8, &(at as u64).to_be_bytes());
        put(16, &(name.len() as u32).to_be_bytes());
        put(at, name.as_bytes());
    }
    put(CLUSTER_BYTES as usize, &(2 * CLUSTER_BYTES).to_be_bytes());
    for cluster in 0..clusters as usize {
        put(2 * CLUSTER_BYTES as usize + 2 * cluster, &1_u16.to_be_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn qemu_img(arguments: &[&str]) -> Option<(bool, String)> {
        let Ok(output) = Command::new("qemu-img").args(arguments).output() else {
            eprintln!("skipped: needs qemu-img (qemu-utils)");
            return None;
        };
        let text = [output.stdout, output.stderr].concat();
        Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    #[test]
    fn what_we_write_is_what_qemu_reads() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base.raw");
        File::create(&base).unwrap().set_len(3 << 30).unwrap();
        for (name, size, backing) in [
            ("empty", 1 << 30, None),
            ("overlay", 3 << 30, Some((base.to_str().unwrap(), Format::Raw))),
            ("huge", 20 << 40, None),
        ] {
            let path = folder.path().join(name);
            let mut file = create_qcow2(&path, size, backing).unwrap();
            let checked = check_qcow2(&mut file);
            assert_eq!(checked.is_ok(), backing.is_none(), "{name}: {checked:?}");
            let path = path.to_str().unwrap();
            let Some((good, text)) = qemu_img(&["check", "-f", "qcow2", path]) else { return };
            assert!(good, "{name}: {text}");
            let (_, text) = qemu_img(&["info", "-f", "qcow2", "--output=json", path]).unwrap();
            assert!(text.contains(&format!("\"virtual-size\": {size}")), "{name}: {text}");
            assert_eq!(text.contains("\"backing-filename-format\": \"raw\""), backing.is_some(), "{text}");
        }
    }

    #[test]
    fn images_that_name_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("secret"), vec![1; 1 << 16]).unwrap();
        let made = |arguments: &[&str]| qemu_img(arguments).is_some_and(|(good, text)| good || panic!("{text}"));
        if !made(&["create", "-q", "-f", "qcow2", "-b", &path("secret"), "-F", "raw", &path("backed")]) {
            return;
        }
        made(&["create", "-q", "-f", "qcow2", "-o", &format!("data_file={}", path("data")), &path("split"), "1M"]);
        made(&["create", "-q", "-f", "qcow2", &path("plain"), "1M"]);
        made(&["create", "-q", "-f", "qcow2", "-o", "compat=0.10", &path("old"), "1M"]);
        let check = |name: &str| check_qcow2(&mut File::open(path(name)).unwrap());
        assert!(matches!(check("backed"), Err(DiskError::BackingFile(name)) if name == path("secret")));
        assert!(matches!(check("split"), Err(DiskError::ExternalData)));
        assert_eq!(check("plain").unwrap(), 1 << 20);
        assert_eq!(check("old").unwrap(), 1 << 20);
    }

    #[test]
    fn a_header_that_lies_about_sizes_is_refused() {
        let good = empty_qcow2(1 << 30, None);
        assert_eq!(check_header(&good).unwrap(), 1 << 30);
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            check_header(&bad)
        };
        assert!(matches!(with(24, &u64::MAX.to_be_bytes()), Err(DiskError::Size(_))));
        assert!(matches!(with(24, &0_u64.to_be_bytes()), Err(DiskError::Size(0))));
        assert!(matches!(with(20, &40_u32.to_be_bytes()), Err(DiskError::Damaged(_))));
        assert!(matches!(with(36, &u32::MAX.to_be_bytes()), Err(DiskError::Damaged(_))));
        assert!(matches!(with(32, &1_u32.to_be_bytes()), Err(DiskError::Encrypted)));
        assert!(matches!(with(72, &(1_u64 << 40).to_be_bytes()), Err(DiskError::Damaged(_))));
        assert!(check_header(&good[..50]).is_err());
    }

    #[test]
    fn formats_are_told_apart_by_their_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let kind = |bytes: &[u8]| {
            let path = folder.path().join("x");
            std::fs::write(&path, bytes).unwrap();
            identify(&mut File::open(path).unwrap()).unwrap()
        };
        assert_eq!(kind(b""), Kind::Raw);
        assert_eq!(kind(b"QFI\xfb"), Kind::Qcow2);
        assert_eq!(kind(b"KDMV..."), Kind::Vmdk);
        assert_eq!(kind(b"# Disk DescriptorFile\nversion=1"), Kind::Vmdk);
        assert_eq!(kind(b"vhdxfile"), Kind::Vhdx);
        assert_eq!(kind(&[&[0; 0x40][..], &[0x7f, 0x10, 0xda, 0xbe]].concat()), Kind::Vdi);
        assert_eq!(kind(&[&[0; 257][..], b"ustar"].concat()), Kind::Ova);
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), magic: bool) {
            let mut bytes = bytes;
            if magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(b"QFI\xfb\x00\x00\x00\x03");
            }
            if let Ok(size) = check_header(&bytes) {
                assert!(check_size(size).is_ok());
            }
        }
    }
}
