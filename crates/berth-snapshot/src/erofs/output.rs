//! Where things go in the image: whole blocks one after another, small things packed.

use super::format::{BLOCK, BLOCK_BYTES, SLOT_BYTES};
use crate::layer::refused;
use crate::{Result, step};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Blocks of one pack: enough that what does not fit into one block fits into another.
const PACK_BLOCKS: usize = 64;
/// Blocks are numbered with 32 bits, and no file system of a host takes files of more than 16 TiB.
const BLOCKS_MAX: u64 = 1 << 31;
/// So much at a time goes to the disk while the rest is written: the sync at the end finds little left.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// Blocks that are being filled, and where the first of them is.
struct Pack {
    at: u64,
    bytes: Box<[u8]>,
    used: [usize; PACK_BLOCKS],
}

pub(super) struct Output {
    path: PathBuf,
    file: File,
    /// The next block that nobody has.
    next: u64,
    pack: Option<Pack>,
}

impl Output {
    /// The first block is the superblock's.
    pub(super) fn create(path: &Path) -> Result<Output> {
        let file = File::create_new(path).map_err(step("create", path))?;
        Ok(Output { path: path.to_owned(), file, next: 1, pack: None })
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(step("write", &self.path))?;
        let (first, last) = (at / WRITEBACK_BYTES, (at + bytes.len() as u64) / WRITEBACK_BYTES);
        if first < last {
            let (from, to) = (first * WRITEBACK_BYTES, last * WRITEBACK_BYTES);
            berth_sys::writeback::begin(self.file.as_fd(), from, to - from);
        }
        Ok(())
    }

    /// Blocks one after another; the number of the first.
    pub(super) fn blocks(&mut self, count: u64) -> Result<u32> {
        let first = self.next;
        let end = first.checked_add(count).filter(|end| *end <= BLOCKS_MAX);
        self.next = end.ok_or_else(|| refused(b"", "the layer's files have more than eight terabytes"))?;
        Ok(u32::try_from(first).unwrap_or(u32::MAX))
    }

    /// Room for so many bytes where an inode may begin. What fits into a block does not cross one.
    pub(super) fn room(&mut self, bytes: usize) -> Result<u64> {
        if bytes > BLOCK {
            return Ok(u64::from(self.blocks((bytes as u64).div_ceil(BLOCK_BYTES))?) * BLOCK_BYTES);
        }
        if let Some(at) = self.pack.as_mut().and_then(|pack| pack.room(bytes)) {
            return Ok(at);
        }
        self.flush()?;
        let at = u64::from(self.blocks(PACK_BLOCKS as u64)?) * BLOCK_BYTES;
        let bytes_of_pack = vec![0; PACK_BLOCKS * BLOCK].into_boxed_slice();
        let mut pack = Pack { at, bytes: bytes_of_pack, used: [0; PACK_BLOCKS] };
        // An empty block has room for everything that is no larger.
        let at = pack.room(bytes).unwrap_or(at);
        self.pack = Some(pack);
        Ok(at)
    }

    /// Writes what has room; within the pack that is being filled that is a copy.
    pub(super) fn put(&mut self, bytes: &[u8], at: u64) -> Result<()> {
        if let Some(place) = self.pack.as_mut().and_then(|pack| pack.place(at, bytes.len())) {
            place.copy_from_slice(bytes);
            return Ok(());
        }
        self.write(bytes, at)
    }

    /// Writes the pack. Its last blocks, where nothing is in them, are given back if they are the image's last.
    pub(super) fn flush(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let filled = pack.used.iter().rposition(|used| *used > 0).map_or(0, |last| last + 1);
        self.write(&pack.bytes[..filled * BLOCK], pack.at)?;
        if self.next == pack.at / BLOCK_BYTES + PACK_BLOCKS as u64 {
            self.next = pack.at / BLOCK_BYTES + filled as u64;
        }
        Ok(())
    }

    /// Everything is written; how many blocks the image has.
    pub(super) fn end(&mut self) -> Result<u32> {
        self.flush()?;
        self.file.set_len(self.next * BLOCK_BYTES).map_err(step("write", &self.path))?;
        Ok(u32::try_from(self.next).unwrap_or(u32::MAX))
    }
}

impl Pack {
    fn room(&mut self, bytes: usize) -> Option<u64> {
        let number = self.used.iter().position(|used| used + bytes <= BLOCK)?;
        let at = self.at + (number * BLOCK + self.used[number]) as u64;
        self.used[number] = (self.used[number] + bytes).next_multiple_of(SLOT_BYTES as usize);
        Some(at)
    }

    fn place(&mut self, at: u64, bytes: usize) -> Option<&mut [u8]> {
        let from = usize::try_from(at.checked_sub(self.at)?).ok()?;
        self.bytes.get_mut(from..from.checked_add(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_things_fill_blocks_and_cross_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Output::create(&folder.path().join("image")).unwrap();
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for n in 0..3000usize {
            let bytes = 64 + (n * 977) % 3000;
            let at = output.room(bytes).unwrap();
            assert_eq!(at % SLOT_BYTES, 0);
            assert_eq!(at / BLOCK_BYTES, (at + bytes as u64 - 1) / BLOCK_BYTES);
            output.put(&vec![1; bytes], at).unwrap();
            taken.push((at, at + bytes as u64));
        }
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        let used: u64 = taken.iter().map(|(from, to)| to - from).sum();
        let blocks = output.end().unwrap();
        assert!(u64::from(blocks) * BLOCK_BYTES < used + used / 8, "{blocks} blocks for {used} bytes");
        let bytes = std::fs::read(folder.path().join("image")).unwrap();
        assert!(taken.iter().all(|&(from, to)| bytes[from as usize..to as usize].iter().all(|byte| *byte == 1)));
    }

    #[test]
    fn an_image_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Output::create(&folder.path().join("image")).unwrap();
        assert!(output.blocks(BLOCKS_MAX).is_err_and(|error| error.is_refusal()));
        assert!(output.blocks(u64::MAX).is_err());
        assert_eq!(output.blocks(1).unwrap(), 1);
    }
}
