//! EROFS on the disk: superblock, inodes, attributes. All numbers are little-endian.

use crate::Result;
use crate::layer::{Meta, is_private, refused};
use std::io;

pub(super) const BLOCK_BITS: u32 = 12;
pub(super) const BLOCK: usize = 1 << BLOCK_BITS;
pub(super) const BLOCK_BYTES: u64 = BLOCK as u64;
const SUPER_AT: usize = 1024;
const SUPER_BYTES: usize = 128;
const MAGIC: u32 = 0xE0F5_E1E2;
/// Times are those of the content's change.
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
/// Where the top folder's inode lies, and so its number.
pub(super) const ROOT_AT: usize = SUPER_AT + SUPER_BYTES;
pub(super) const ROOT_NID: u64 = ROOT_AT as u64 / SLOT_BYTES;
/// Inodes are numbered by these.
pub(super) const SLOT_BYTES: u64 = 32;
pub(super) const INODE_BYTES: usize = 64;
/// Where the count of names is in an inode.
pub(super) const LINKS_AT: u64 = 44;
/// A chunk that is not there.
pub(super) const HOLE: u32 = u32::MAX;
/// All attributes of one inode.
const XATTR_BYTES_MAX: usize = 64 << 10;
const XATTR_HEADER_BYTES: usize = 12;

/// What an inode is, as folders name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File = 1,
    Folder = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

impl Kind {
    fn mode_bits(self) -> u16 {
        match self {
            Kind::File => 0o100_000,
            Kind::Folder => 0o040_000,
            Kind::CharDevice => 0o020_000,
            Kind::BlockDevice => 0o060_000,
            Kind::Fifo => 0o010_000,
            Kind::Symlink => 0o120_000,
        }
    }

    fn of_mode(mode: u16) -> Option<Kind> {
        let all = [Kind::File, Kind::Folder, Kind::CharDevice, Kind::BlockDevice, Kind::Fifo, Kind::Symlink];
        all.into_iter().find(|kind| kind.mode_bits() == mode & 0o170_000)
    }
}

/// Where an inode's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Blocks one after another from the first.
    Plain { first: u32 },
    /// The same, but what follows the last whole block is behind the inode.
    Inline { first: u32 },
    /// Chunks of `1 << bits` blocks; their addresses are behind the inode.
    Chunks { bits: u16 },
    /// No content; which device.
    Device { number: u32 },
}

impl Layout {
    fn code(self) -> u16 {
        match self {
            Layout::Plain { .. } | Layout::Device { .. } => 0,
            Layout::Inline { .. } => 2,
            Layout::Chunks { .. } => 4,
        }
    }

    fn word(self) -> u32 {
        match self {
            Layout::Plain { first } | Layout::Inline { first } => first,
            Layout::Chunks { bits } => bits.into(),
            Layout::Device { number } => number,
        }
    }
}

/// As `new_encode_dev` of the kernel has it.
pub(super) fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(super) struct Inode<'a> {
    pub kind: Kind,
    pub layout: Layout,
    pub size: u64,
    pub serial: u32,
    pub links: u32,
    pub meta: &'a Meta,
}

impl Inode<'_> {
    /// The inode; its attributes, as [`attributes`] made them, come behind it.
    pub(super) fn encode(&self, attributes: &[u8]) -> [u8; INODE_BYTES] {
        let mut inode = [0; INODE_BYTES];
        let mut put = |at: usize, bytes: &[u8]| inode[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(1 | (self.layout.code() << 1)).to_le_bytes());
        put(2, &attribute_count(attributes.len()).to_le_bytes());
        let mode = self.kind.mode_bits() | u16::try_from(self.meta.mode & 0o7777).unwrap_or(0);
        put(4, &mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.layout.word().to_le_bytes());
        put(20, &self.serial.to_le_bytes());
        put(24, &self.meta.uid.to_le_bytes());
        put(28, &self.meta.gid.to_le_bytes());
        put(32, &self.meta.mtime_seconds.to_le_bytes());
        put(40, &self.meta.mtime_nanos.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        inode
    }
}

/// How the inode says how long its attributes are.
fn attribute_count(bytes: usize) -> u16 {
    match bytes {
        0 => 0,
        bytes => u16::try_from((bytes - XATTR_HEADER_BYTES) / 4 + 1).unwrap_or(u16::MAX),
    }
}

/// The number of a name's prefix, and the rest; `None` for what EROFS does not keep.
fn short_name(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    let prefixes: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    prefixes.into_iter().find_map(|(number, prefix)| {
        let rest = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
        Some((number, rest))
    })
}

/// The attributes of an inode as they lie behind it; empty where there are none. `own`: the driver's.
pub(super) fn attributes(path: &[u8], meta: &Meta, own: &[(&[u8], &[u8])]) -> Result<Vec<u8>> {
    let mut encoded = Vec::new();
    let theirs = meta.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).filter(|(name, _)| !is_private(name));
    let all: std::collections::BTreeMap<&[u8], &[u8]> = theirs.chain(own.iter().copied()).collect();
    for (name, value) in all {
        // What this file system cannot keep the file has not, as with a folder on one that cannot.
        let Some((prefix, rest)) = short_name(name) else { continue };
        let (Ok(length), Ok(size)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            return Err(refused(path, "an extended attribute is too long"));
        };
        if encoded.is_empty() {
            encoded.resize(XATTR_HEADER_BYTES, 0);
        }
        encoded.extend([length, prefix]);
        encoded.extend(size.to_le_bytes());
        encoded.extend(rest);
        encoded.extend(value);
        encoded.resize(encoded.len().next_multiple_of(4), 0);
        if encoded.len() > XATTR_BYTES_MAX {
            return Err(refused(path, "it has more than 64 KiB of extended attributes"));
        }
    }
    Ok(encoded)
}

/// The superblock, of an image of so many inodes and blocks.
pub(super) fn superblock(inodes: u64, blocks: u32, uuid: [u8; 16]) -> [u8; SUPER_BYTES] {
    let mut block = [0; SUPER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(8, &COMPAT_MTIME.to_le_bytes());
    put(12, &[BLOCK_BITS as u8]);
    put(14, &(ROOT_NID as u16).to_le_bytes());
    put(16, &inodes.to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(48, &uuid);
    put(80, &INCOMPAT_CHUNKED_FILE.to_le_bytes());
    block
}

pub(super) const SUPERBLOCK_AT: u64 = SUPER_AT as u64;

/// An inode, read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    pub kind: Kind,
    pub layout: Layout,
    pub size: u64,
    /// What is behind inode and attributes, counted from the inode.
    pub behind: u64,
}

/// Owner, rights and time of an inode.
pub(super) fn meta(inode: &[u8; INODE_BYTES]) -> Meta {
    let four = |at: usize| u32::from_le_bytes([inode[at], inode[at + 1], inode[at + 2], inode[at + 3]]);
    Meta {
        mode: u32::from(u16::from_le_bytes([inode[4], inode[5]])) & 0o7777,
        uid: four(24),
        gid: four(28),
        mtime_seconds: i64::from(four(32)) | (i64::from(four(36)) << 32),
        mtime_nanos: four(40),
        xattrs: Vec::new(),
    }
}

/// The other way round than [`device_number`].
pub(super) fn device_of(number: u32) -> (u32, u32) {
    ((number & 0xf_ff00) >> 8, (number & 0xff) | ((number >> 12) & 0xf_ff00))
}

pub(super) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) fn decode(inode: &[u8; INODE_BYTES]) -> io::Result<Read> {
    let two = |at: usize| u16::from_le_bytes([inode[at], inode[at + 1]]);
    let four = |at: usize| u32::from(two(at)) | (u32::from(two(at + 2)) << 16);
    let word = four(16);
    let kind = Kind::of_mode(two(4)).ok_or_else(|| damaged("an inode is of no kind"))?;
    let layout = match (two(0), kind) {
        (1, Kind::CharDevice | Kind::BlockDevice | Kind::Fifo) => Layout::Device { number: word },
        (1, _) => Layout::Plain { first: word },
        (5, _) => Layout::Inline { first: word },
        (9, Kind::File) if word < 32 => Layout::Chunks { bits: two(16) },
        _ => return Err(damaged("an inode has a layout that is not ours")),
    };
    let attributes = match u64::from(two(2)) {
        0 => 0,
        count => XATTR_HEADER_BYTES as u64 + 4 * (count - 1),
    };
    let size = u64::from(four(8)) | (u64::from(four(12)) << 32);
    Ok(Read { kind, layout, size, behind: INODE_BYTES as u64 + attributes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_comes_back_as_it_was_written() {
        let meta = Meta { mode: 0o4755, uid: 70_000, gid: 9, mtime_seconds: -5, mtime_nanos: 7, xattrs: vec![] };
        for (kind, layout) in [
            (Kind::File, Layout::Chunks { bits: 9 }),
            (Kind::Folder, Layout::Inline { first: 77 }),
            (Kind::Symlink, Layout::Plain { first: 0x0102_0304 }),
            (Kind::CharDevice, Layout::Device { number: device_number(1, 0x12345) }),
        ] {
            let inode = Inode { kind, layout, size: 1 << 40, serial: 3, links: 2, meta: &meta };
            let attributes =
                attributes(b"x", &Meta { xattrs: vec![(b"user.a".to_vec(), b"value".to_vec())], ..meta.clone() }, &[])
                    .unwrap();
            assert_eq!(attributes.len(), 12 + 12);
            let read = decode(&inode.encode(&attributes)).unwrap();
            assert_eq!(read, Read { kind, layout, size: 1 << 40, behind: 64 + 24 });
            assert_eq!(super::meta(&inode.encode(&attributes)), meta);
        }
        for device in [(0, 0), (1, 0x12345), (0xfff, 0xf_ffff)] {
            assert_eq!(device_of(device_number(device.0, device.1)), device);
        }
    }

    #[test]
    fn attributes_that_the_driver_or_the_host_owns_are_left_out() {
        let named = |name: &str| Meta { xattrs: vec![(name.as_bytes().to_vec(), vec![1])], ..Meta::default() };
        for name in ["trusted.overlay.opaque", "user.overlay.x", "security.selinux", "system.nfs4_acl", "user."] {
            assert!(attributes(b"x", &named(name), &[]).unwrap().is_empty(), "{name}");
        }
        let many = Meta {
            xattrs: (0..3u8).map(|n| (vec![b'u', b's', b'e', b'r', b'.', b'a' + n], vec![0; 60_000])).collect(),
            ..Meta::default()
        };
        assert!(attributes(b"x", &many, &[]).is_err_and(|error| error.is_refusal()));
    }
}
