//! Files out of an image, without mounting it. The image may be damaged: everything is looked at before it is used.

use super::directory::Block;
use super::format::{self, BLOCK, BLOCK_BYTES, HOLE, INODE_BYTES, Kind, Layout, ROOT_NID, SLOT_BYTES, damaged};
use crate::layer::{Content, Found, Look, names};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A folder of two million long names has less.
const FOLDER_BYTES_MAX: u64 = 1 << 30;

pub(crate) struct Image {
    file: Arc<File>,
}

/// An inode and where it is.
#[derive(Debug, Clone, Copy)]
struct Inode {
    at: u64,
    read: format::Read,
}

impl Image {
    pub(crate) fn new(file: File) -> Image {
        Image { file: Arc::new(file) }
    }

    /// The inode at `path`, from the top or from the inode `from`. No link is followed.
    fn at(&self, from: Option<u64>, path: &[u8]) -> io::Result<Inode> {
        let mut inode = inode(&self.file, from.unwrap_or(ROOT_NID))?;
        for name in names(path) {
            if inode.read.kind != Kind::Folder {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            let found = find(&self.file, &inode, name)?;
            inode = self::inode(&self.file, found.ok_or(io::ErrorKind::NotFound)?)?;
        }
        Ok(inode)
    }

    /// What is at `path`.
    pub(crate) fn look(&self, path: &[u8]) -> io::Result<Found> {
        let inode = self.at(None, path)?;
        let mut bytes = [0; INODE_BYTES];
        self.file.read_exact_at(&mut bytes, inode.at)?;
        let device = match inode.read.layout {
            Layout::Device { number } => format::device_of(number),
            _ => (0, 0),
        };
        let look = match inode.read.kind {
            Kind::Folder => Look::Directory,
            Kind::File => Look::File { size: inode.read.size },
            Kind::Symlink => {
                let mut target = vec![0; usize::try_from(inode.read.size.min(BLOCK_BYTES)).unwrap_or(BLOCK)];
                let count = read_at(&self.file, &inode, &mut target, 0)?;
                target.truncate(count);
                Look::Symlink { target }
            }
            Kind::CharDevice => Look::CharDevice { major: device.0, minor: device.1 },
            Kind::BlockDevice => Look::BlockDevice { major: device.0, minor: device.1 },
            Kind::Fifo => Look::Fifo,
        };
        Ok(Found { look, meta: format::meta(&bytes) })
    }

    /// The names in the folder at `path`.
    pub(crate) fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let folder = self.at(None, path)?;
        if folder.read.kind != Kind::Folder || folder.read.size > FOLDER_BYTES_MAX {
            return Err(damaged("a folder is none, or too large"));
        }
        let mut all = Vec::new();
        let mut buffer = [0; BLOCK];
        for number in 0..folder.read.size.div_ceil(BLOCK_BYTES) {
            let count = read_at(&self.file, &folder, &mut buffer, number * BLOCK_BYTES)?;
            let names = Block::read(&buffer[..count])?.names()?;
            all.extend(names.into_iter().filter(|name| *name != b"." && *name != b"..").map(<[u8]>::to_vec));
        }
        Ok(all)
    }

    /// The file at `path`, from the top or from the inode `from`.
    pub(crate) fn open(&self, from: Option<u64>, path: &[u8]) -> io::Result<impl Content + use<>> {
        let inode = self.at(from, path)?;
        match inode.read.kind {
            Kind::File => Ok(Opened { file: self.file.clone(), inode }),
            _ => Err(damaged("a file's name leads to something else")),
        }
    }
}

fn inode(file: &File, nid: u64) -> io::Result<Inode> {
    let at = nid.checked_mul(SLOT_BYTES).ok_or_else(|| damaged("a name leads nowhere"))?;
    let mut bytes = [0; INODE_BYTES];
    file.read_exact_at(&mut bytes, at)?;
    Ok(Inode { at, read: format::decode(&bytes)? })
}

/// Sorted names: the block that may have `name` is searched for first.
fn find(file: &File, folder: &Inode, name: &[u8]) -> io::Result<Option<u64>> {
    let size = folder.read.size;
    if size > FOLDER_BYTES_MAX {
        return Err(damaged("a folder is too large"));
    }
    let mut buffer = [0; BLOCK];
    let mut block = |number: u64| -> io::Result<Vec<u8>> {
        let count = read_at(file, folder, &mut buffer, number * BLOCK_BYTES)?;
        Ok(buffer[..count].to_vec())
    };
    let (mut low, mut high) = (0, size.div_ceil(BLOCK_BYTES));
    while low < high {
        let middle = low + (high - low) / 2;
        let bytes = block(middle)?;
        let names = Block::read(&bytes)?;
        if let Some(nid) = names.find(name)? {
            return Ok(Some(nid));
        }
        match names.first()? < name {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    Ok(None)
}

fn read_at(file: &File, inode: &Inode, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let format::Read { layout, size, behind, .. } = inode.read;
    let left = size.saturating_sub(offset);
    let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    if most == 0 {
        return Ok(0);
    }
    let blocks = |first: u32| u64::from(first) * BLOCK_BYTES;
    let wrong = || damaged("content lies beyond all bounds");
    // From where, and how far that goes on.
    let (at, length) = match layout {
        Layout::Plain { first } => (blocks(first).checked_add(offset).ok_or_else(wrong)?, left),
        Layout::Inline { first } => {
            let whole = size / BLOCK_BYTES * BLOCK_BYTES;
            match offset < whole {
                true => (blocks(first).checked_add(offset).ok_or_else(wrong)?, whole - offset),
                false => (inode.at + behind + (offset - whole), left),
            }
        }
        Layout::Chunks { bits } => {
            let chunk = BLOCK_BYTES << bits;
            let mut address = [0; 4];
            let place = (offset / chunk).checked_mul(4).and_then(|place| place.checked_add(inode.at + behind));
            file.read_exact_at(&mut address, place.ok_or_else(wrong)?)?;
            let length = left.min(chunk - offset % chunk);
            match u32::from_le_bytes(address) {
                HOLE => {
                    let count = most.min(usize::try_from(length).unwrap_or(usize::MAX));
                    buffer[..count].fill(0);
                    return Ok(count);
                }
                first => (blocks(first).checked_add(offset % chunk).ok_or_else(wrong)?, length),
            }
        }
        Layout::Device { .. } => return Err(damaged("a device has no content")),
    };
    let count = most.min(usize::try_from(length).unwrap_or(usize::MAX));
    FileExt::read_at(file, &mut buffer[..count], at)
}

struct Opened {
    file: Arc<File>,
    inode: Inode,
}

impl Content for Opened {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(&self.file, &self.inode, buffer, offset)
    }
}
