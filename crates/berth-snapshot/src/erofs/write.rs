//! One layer while it becomes an image.

use super::directory::{self, Named};
use super::format::{
    self, BLOCK, BLOCK_BYTES, HOLE, INODE_BYTES, Inode, Kind, LINKS_AT, Layout, ROOT_AT, ROOT_NID, SLOT_BYTES,
};
use super::output::Output;
use super::tree::{Child, FileId, FolderId, TOP, Tree};
use super::{DISPLACED, IMAGE};
use crate::layer::{
    Displaced, ENTRIES_MAX, Entry, LayerWriter, Meta, OPAQUE, StagedLayer, Temporary, check_path, refused, seal, split,
};
use crate::{Result, SnapshotError, step};
use berth_types::Digest;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

/// Files from this size on may have holes, and do not end behind their inode.
const LARGE_BYTES: u64 = 128 << 10;
/// Chunks of a file with holes: their addresses fit behind its inode.
const CHUNKS_MAX: u64 = 256;
const CHUNK_BITS_MIN: u32 = 4;
/// As the kernel has it.
const TARGET_BYTES_MAX: usize = 4095;

pub(crate) struct Writer {
    output: Output,
    tree: Tree,
    current: Option<Current>,
    displaced: Vec<(Displaced, Child)>,
    entries: u64,
    serial: u32,
    /// Blocks, once everything but the superblock is written.
    settled: Option<u32>,
    folder: Temporary,
}

/// The file whose content is coming.
struct Current {
    at: FolderId,
    name: Vec<u8>,
    meta: Meta,
    attributes: Vec<u8>,
    size: u64,
    /// The first of its blocks.
    first: u32,
    /// How much of it is in blocks; the rest is kept here and goes behind the inode.
    in_blocks: u64,
    rest: Vec<u8>,
    /// Which chunks of a large file have something in them.
    chunk_bits: u32,
    filled: [u64; (CHUNKS_MAX / 64) as usize],
}

impl Writer {
    pub(crate) fn begin(path: PathBuf) -> Result<Writer> {
        crate::make_folder(&path)?;
        let folder = Temporary { path, kept: false };
        let output = Output::create(&folder.path.join(IMAGE))?;
        Ok(Writer {
            output,
            tree: Tree::new(),
            current: None,
            displaced: Vec::new(),
            entries: 0,
            serial: 0,
            settled: None,
            folder,
        })
    }

    fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// Takes the name from what has it, keeping it where the archive's content is in it. Whether that was a
    /// whiteout.
    fn displace(&mut self, folder: FolderId, name: &[u8], path: &[u8]) -> bool {
        let Some(child) = self.tree.folder_mut(folder).names.remove(name) else { return false };
        let kept = match child {
            Child::Folder(_) => true,
            Child::File(file) => self.tree.file(file).kind == Kind::File,
        };
        if kept {
            let number = u32::try_from(self.displaced.len()).unwrap_or(u32::MAX);
            self.displaced.push((Displaced { path: path.to_vec(), by: self.entries, number }, child));
        }
        matches!(child, Child::File(file) if self.tree.file(file).is_whiteout)
    }

    /// Writes an inode with what is behind it: attributes, then the content's end or addresses.
    fn inode(&mut self, inode: &Inode<'_>, attributes: &[u8], behind: &[u8]) -> Result<u64> {
        let at = self.output.room(INODE_BYTES + attributes.len() + behind.len())?;
        let whole = [&inode.encode(attributes)[..], attributes, behind].concat();
        self.output.put(&whole, at)?;
        Ok(at / SLOT_BYTES)
    }

    fn directory(&mut self, path: &[u8], meta: &Meta) -> Result<Option<Vec<u8>>> {
        if path.is_empty() {
            self.tree.describe(TOP, path, meta)?;
            return Ok(None);
        }
        let place = self.tree.place(path)?;
        let at = place.moved.as_deref().unwrap_or(path);
        let folder = match self.tree.child(place.folder, place.name) {
            Some(Child::Folder(folder)) => folder,
            _ => {
                let was_whiteout = self.displace(place.folder, place.name, at);
                let folder = self.tree.make_folder(place.folder, place.name, at)?;
                // Deleted below and then made: nothing from below may show in it.
                self.tree.folder_mut(folder).is_opaque = was_whiteout;
                folder
            }
        };
        // Too many attributes are said of the entry that has them.
        format::attributes(at, meta, &[])?;
        self.tree.describe(folder, at, meta)?;
        Ok(place.moved)
    }

    fn file(&mut self, path: &[u8], size: u64, meta: &Meta) -> Result<Option<Vec<u8>>> {
        let place = self.tree.place(path)?;
        let at = place.moved.as_deref().unwrap_or(path);
        let attributes = format::attributes(at, meta, &[])?;
        self.displace(place.folder, place.name, at);
        let end = usize::try_from(size % BLOCK_BYTES).unwrap_or(0);
        let fits = size < LARGE_BYTES && INODE_BYTES + attributes.len() + end <= BLOCK;
        let in_blocks = if fits { size - end as u64 } else { size };
        let blocks = in_blocks.div_ceil(BLOCK_BYTES);
        let chunk_bits = (CHUNK_BITS_MIN..).find(|bits| blocks.div_ceil(1 << bits) <= CHUNKS_MAX);
        self.current = Some(Current {
            at: place.folder,
            name: place.name.to_vec(),
            meta: meta.clone(),
            attributes,
            size,
            first: if blocks > 0 { self.output.blocks(blocks)? } else { 0 },
            in_blocks,
            rest: vec![0; if fits { end } else { 0 }],
            chunk_bits: chunk_bits.unwrap_or(CHUNK_BITS_MIN),
            filled: [0; (CHUNKS_MAX / 64) as usize],
        });
        Ok(place.moved)
    }

    /// The file that was written last gets its inode and its name.
    fn close(&mut self) -> Result<()> {
        let Some(file) = self.current.take() else { return Ok(()) };
        let (layout, behind) = file.layout();
        let serial = self.next_serial();
        let inode = Inode { kind: Kind::File, layout, size: file.size, serial, links: 1, meta: &file.meta };
        let nid = self.inode(&inode, &file.attributes, &behind)?;
        let id = self.tree.add_file(Kind::File, nid, false, None)?;
        self.tree.name(file.at, &file.name, Child::File(id))
    }

    fn symlink(&mut self, path: &[u8], target: &[u8], meta: &Meta) -> Result<Option<Vec<u8>>> {
        if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) {
            return Err(refused(path, "where the link leads is empty or too long"));
        }
        let place = self.tree.place(path)?;
        let at = place.moved.as_deref().unwrap_or(path);
        let attributes = format::attributes(at, meta, &[])?;
        self.displace(place.folder, place.name, at);
        let fits = INODE_BYTES + attributes.len() + target.len() <= BLOCK;
        let (layout, behind) = match fits {
            true => (Layout::Inline { first: 0 }, target),
            false => {
                let first = self.output.blocks(1)?;
                self.output.write(target, u64::from(first) * BLOCK_BYTES)?;
                (Layout::Plain { first }, &[][..])
            }
        };
        // A link's rights are always the same.
        let meta = Meta { mode: 0o777, ..meta.clone() };
        let (size, serial) = (target.len() as u64, self.next_serial());
        let inode = Inode { kind: Kind::Symlink, layout, size, serial, links: 1, meta: &meta };
        let nid = self.inode(&inode, &attributes, behind)?;
        let id = self.tree.add_file(Kind::Symlink, nid, false, Some(target))?;
        self.tree.name(place.folder, place.name, Child::File(id))?;
        Ok(place.moved)
    }

    fn node(&mut self, path: &[u8], kind: Kind, (major, minor): (u32, u32), meta: &Meta) -> Result<Option<Vec<u8>>> {
        if major > 0xfff || minor > 0xf_ffff {
            return Err(refused(path, "its device's number is too large"));
        }
        let place = self.tree.place(path)?;
        let at = place.moved.as_deref().unwrap_or(path);
        let attributes = format::attributes(at, meta, &[])?;
        self.displace(place.folder, place.name, at);
        let layout = Layout::Device { number: format::device_number(major, minor) };
        let serial = self.next_serial();
        let nid = self.inode(&Inode { kind, layout, size: 0, serial, links: 1, meta }, &attributes, &[])?;
        let is_whiteout = kind == Kind::CharDevice && (major, minor) == (0, 0);
        let id = self.tree.add_file(kind, nid, is_whiteout, None)?;
        self.tree.name(place.folder, place.name, Child::File(id))?;
        Ok(place.moved)
    }

    fn hard_link(&mut self, path: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        let place = self.tree.place(path)?;
        let at = place.moved.as_deref().unwrap_or(path);
        let (folder, first) = split(to);
        let found = self.tree.find(folder).and_then(|folder| self.tree.child(folder, first));
        let file = match found {
            Some(Child::File(file)) => file,
            Some(Child::Folder(_)) => return Err(refused(at, "it is a second name of a folder")),
            None => return Err(refused(at, "it is a second name of a file that is not in this layer")),
        };
        if self.tree.child(place.folder, place.name) != Some(Child::File(file)) {
            self.displace(place.folder, place.name, at);
            self.tree.name(place.folder, place.name, Child::File(file))?;
        }
        Ok(place.moved)
    }

    /// The names of files that can still be reached, where that is not one.
    fn count_names(&self) -> HashMap<FileId, u32> {
        let mut count: HashMap<FileId, u32> = HashMap::new();
        let mut todo = vec![TOP];
        while let Some(folder) = todo.pop() {
            for child in self.tree.folder(folder).names.values() {
                match *child {
                    Child::Folder(folder) => todo.push(folder),
                    Child::File(file) => *count.entry(file).or_default() += 1,
                }
            }
        }
        count.retain(|_, names| *names > 1);
        count
    }

    fn write_folders(&mut self) -> Result<()> {
        let mut folders = vec![TOP];
        folders.extend(self.displaced.iter().filter_map(|(_, child)| match child {
            Child::Folder(folder) => Some(*folder),
            Child::File(_) => None,
        }));
        let mut next = 0;
        while let Some(&folder) = folders.get(next) {
            next += 1;
            folders.extend(self.tree.folder(folder).names.values().filter_map(|child| match child {
                Child::Folder(folder) => Some(*folder),
                Child::File(_) => None,
            }));
        }
        // First where all of them are, then what their names lead to.
        let mut places: HashMap<FolderId, FolderPlace> = HashMap::new();
        for &folder in &folders {
            let place = self.place_folder(folder)?;
            places.insert(folder, place);
        }
        for folder in folders {
            self.write_folder(folder, &places)?;
        }
        let nids: Vec<String> = self
            .displaced
            .iter()
            .filter_map(|(_, child)| match child {
                Child::Folder(folder) => places.get(folder).map(|place| place.nid),
                Child::File(file) => Some(self.tree.file(*file).nid),
            })
            .map(|nid| format!("{nid}\n"))
            .collect();
        if nids.is_empty() {
            return Ok(());
        }
        let path = self.folder.path.join(DISPLACED);
        std::fs::write(&path, nids.concat()).map_err(step("write", &path))
    }

    fn place_folder(&mut self, id: FolderId) -> Result<FolderPlace> {
        let folder = self.tree.folder(id);
        let own: &[(&[u8], &[u8])] = if folder.is_opaque { &[(OPAQUE.as_bytes(), b"y")] } else { &[] };
        let plain = Meta { mode: 0o755, ..Meta::default() };
        let attributes = format::attributes(b"", folder.meta.as_ref().unwrap_or(&plain), own)?;
        let size = directory::size(sorted(&folder.names).iter().map(|(name, _)| name.len()));
        let end = usize::try_from(size % BLOCK_BYTES).unwrap_or(0);
        let most = if id == TOP { BLOCK - ROOT_AT } else { BLOCK };
        if id == TOP && INODE_BYTES + attributes.len() > most {
            return Err(refused(b"", "the top folder has too many extended attributes"));
        }
        let is_inline = end > 0 && INODE_BYTES + attributes.len() + end <= most;
        let blocks = if is_inline { size / BLOCK_BYTES } else { size.div_ceil(BLOCK_BYTES) };
        let first = if blocks > 0 { self.output.blocks(blocks)? } else { 0 };
        let layout = if is_inline { Layout::Inline { first } } else { Layout::Plain { first } };
        let behind = if is_inline { end } else { 0 };
        let nid = match id {
            TOP => ROOT_NID,
            _ => self.output.room(INODE_BYTES + attributes.len() + behind)? / SLOT_BYTES,
        };
        Ok(FolderPlace { nid, layout, first, size, attributes })
    }

    fn write_folder(&mut self, id: FolderId, places: &HashMap<FolderId, FolderPlace>) -> Result<()> {
        let serial = self.next_serial();
        let missing = || SnapshotError::Refused { path: PathBuf::new(), why: "a folder of the layer has no place" };
        let folder = self.tree.folder(id);
        let place = places.get(&id).ok_or_else(missing)?;
        // One that was displaced is nowhere: it is its own parent.
        let parent = folder.parent.and_then(|parent| places.get(&parent)).unwrap_or(place);
        let (mut listed, mut links) = (Vec::new(), 2);
        for (name, child) in sorted(&folder.names) {
            let (nid, kind) = match child {
                Listed::Itself => (place.nid, Kind::Folder),
                Listed::Parent => (parent.nid, Kind::Folder),
                Listed::Child(Child::File(file)) => (self.tree.file(file).nid, self.tree.file(file).kind),
                Listed::Child(Child::Folder(folder)) => {
                    links += 1;
                    (places.get(&folder).ok_or_else(missing)?.nid, Kind::Folder)
                }
            };
            listed.push(Named { name, nid, kind });
        }
        let content = directory::encode(&listed);
        let plain = Meta { mode: 0o755, ..Meta::default() };
        let meta = folder.meta.as_ref().unwrap_or(&plain);
        let inode = Inode { kind: Kind::Folder, layout: place.layout, size: place.size, serial, links, meta };
        let whole_blocks = match place.layout {
            Layout::Inline { .. } => content.len() / BLOCK * BLOCK,
            _ => content.len(),
        };
        let (in_blocks, behind) = content.split_at(whole_blocks);
        let whole = [&inode.encode(&place.attributes)[..], &place.attributes, behind].concat();
        if !in_blocks.is_empty() {
            self.output.put(in_blocks, u64::from(place.first) * BLOCK_BYTES)?;
        }
        self.output.put(&whole, place.nid * SLOT_BYTES)
    }
}

struct FolderPlace {
    nid: u64,
    layout: Layout,
    first: u32,
    size: u64,
    attributes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Listed {
    Itself,
    Parent,
    Child(Child),
}

/// A folder's names with its own two, sorted by their bytes.
fn sorted(names: &std::collections::BTreeMap<Box<[u8]>, Child>) -> Vec<(&[u8], Listed)> {
    let mut all: Vec<(&[u8], Listed)> = names.iter().map(|(name, child)| (&name[..], Listed::Child(*child))).collect();
    let own: [(&[u8], Listed); 2] = [(b".", Listed::Itself), (b"..", Listed::Parent)];
    for one in own {
        let at = all.partition_point(|(name, _)| *name < one.0);
        all.insert(at, one);
    }
    all
}

impl Current {
    /// Writes what is not zero.
    fn write(&mut self, output: &Output, offset: u64, bytes: &[u8]) -> Result<()> {
        let in_blocks = self.in_blocks.saturating_sub(offset).min(bytes.len() as u64);
        let (mut here, rest) = bytes.split_at(usize::try_from(in_blocks).unwrap_or(bytes.len()));
        let mut at = offset;
        let chunk = BLOCK_BYTES << self.chunk_bits;
        // Neighbours go in one write.
        let mut start = here;
        let (mut start_at, mut run) = (at, 0);
        while !here.is_empty() {
            let count = here.len().min(usize::try_from(chunk - at % chunk).unwrap_or(usize::MAX));
            let (part, others) = here.split_at(count);
            if crate::layer::is_zero(part) {
                self.put(output, start_at, &start[..run])?;
                (start, start_at, run) = (others, at + count as u64, 0);
            } else {
                let number = usize::try_from(at / chunk).unwrap_or(usize::MAX);
                if let Some(word) = self.filled.get_mut(number / 64) {
                    *word |= 1 << (number % 64);
                }
                run += count;
            }
            (here, at) = (others, at + count as u64);
        }
        self.put(output, start_at, &start[..run])?;
        if !rest.is_empty() {
            let from = usize::try_from((offset + in_blocks).saturating_sub(self.in_blocks)).unwrap_or(usize::MAX);
            // More than the file's size is nobody's.
            if let Some(place) = self.rest.get_mut(from..) {
                let count = place.len().min(rest.len());
                place[..count].copy_from_slice(&rest[..count]);
            }
        }
        Ok(())
    }

    fn put(&self, output: &Output, offset: u64, bytes: &[u8]) -> Result<()> {
        match bytes.is_empty() {
            true => Ok(()),
            false => output.write(bytes, u64::from(self.first) * BLOCK_BYTES + offset),
        }
    }

    /// How the file lies, and what goes behind its inode.
    fn layout(&self) -> (Layout, Vec<u8>) {
        let first = self.first;
        if self.size < LARGE_BYTES {
            let is_inline = !self.rest.is_empty();
            let layout = if is_inline { Layout::Inline { first } } else { Layout::Plain { first } };
            return (layout, self.rest.clone());
        }
        let chunks = self.size.div_ceil(BLOCK_BYTES << self.chunk_bits);
        let is_filled = |number: u64| {
            let word = usize::try_from(number / 64).ok().and_then(|place| self.filled.get(place));
            word.is_some_and(|word| word >> (number % 64) & 1 == 1)
        };
        if (0..chunks).all(is_filled) {
            return (Layout::Plain { first }, Vec::new());
        }
        let address = |number: u64| match is_filled(number) {
            true => first + u32::try_from(number << self.chunk_bits).unwrap_or(HOLE),
            false => HOLE,
        };
        let addresses = (0..chunks).flat_map(|number| address(number).to_le_bytes()).collect();
        (Layout::Chunks { bits: u16::try_from(self.chunk_bits).unwrap_or(0) }, addresses)
    }
}

impl LayerWriter for Writer {
    fn entry(&mut self, path: &[u8], entry: Entry<'_>, meta: &Meta) -> Result<Option<Vec<u8>>> {
        self.close()?;
        check_path(path, entry)?;
        if self.entries >= ENTRIES_MAX {
            return Err(refused(path, "a layer has at most eight million entries"));
        }
        let done = match entry {
            Entry::Directory => self.directory(path, meta),
            Entry::File { size } => self.file(path, size, meta),
            Entry::Symlink { target } => self.symlink(path, target, meta),
            Entry::HardLink { to } => self.hard_link(path, to),
            Entry::CharDevice { major, minor } => self.node(path, Kind::CharDevice, (major, minor), meta),
            Entry::BlockDevice { major, minor } => self.node(path, Kind::BlockDevice, (major, minor), meta),
            Entry::Fifo => self.node(path, Kind::Fifo, (0, 0), meta),
            Entry::Whiteout => self.node(path, Kind::CharDevice, (0, 0), &Meta::default()),
            Entry::Opaque => self.tree.at(path).map(|(folder, _)| {
                self.tree.folder_mut(folder).is_opaque = true;
                None
            }),
        };
        self.entries += 1;
        done
    }

    fn write(&mut self, offset: u64, bytes: Bytes) -> Result<()> {
        match &mut self.current {
            Some(file) => file.write(&self.output, offset, &bytes),
            None => Ok(()),
        }
    }

    fn record(&mut self) -> Result<File> {
        crate::layer::create_record(&self.folder)
    }

    fn settle(&mut self) -> Result<Vec<Displaced>> {
        self.close()?;
        if self.settled.is_none() {
            for (file, names) in self.count_names() {
                let at = self.tree.file(file).nid * SLOT_BYTES + LINKS_AT;
                self.output.put(&names.to_le_bytes(), at)?;
            }
            self.write_folders()?;
            self.settled = Some(self.output.end()?);
        }
        Ok(self.displaced.iter().map(|(displaced, _)| displaced.clone()).collect())
    }

    fn finish(mut self: Box<Self>, id: Digest) -> Result<StagedLayer> {
        self.settle()?;
        let blocks = self.settled.unwrap_or_default();
        let (folders, files) = self.tree.counts();
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&id.as_bytes()[..16]);
        let superblock = format::superblock((folders + files) as u64, blocks, uuid);
        self.output.write(&superblock, format::SUPERBLOCK_AT)?;
        let folder = Temporary { path: self.folder.path.clone(), kept: std::mem::replace(&mut self.folder.kept, true) };
        seal(folder, id, 0, &["", IMAGE, DISPLACED])
    }
}
