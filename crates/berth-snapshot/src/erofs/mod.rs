//! Layers as EROFS images: one file per layer, written while its archive arrives.
//!
//! ```text
//! block 0          1024: superblock, 1152: inode of the top folder (its number has 16 bits only)
//! pack, run, ...   in the order of the archive: packs of 64 blocks with inodes, links' targets and the ends of
//!                  files; between them runs of whole blocks, the rest of larger files
//! at the end       folders: inodes in packs of their own, and what of their names does not fit behind them
//! ```
//!
//! A file's content goes to its place as it arrives; in memory stay the tree's names and the pack that is being
//! filled. The same entries make the same bytes. A long run of zeros takes no disk and, in a large file, is a hole
//! for who reads it (a chunk without an address).
//!
//! The format: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of the kernel. Uncompressed, blocks of
//! 4096 bytes, 64-byte inodes, no feature that a kernel since 5.15 lacks; mounting the file without a loop device
//! needs 6.12.

mod directory;
mod format;
mod output;
mod read;
mod tree;
mod write;

pub(crate) use read::Image;
pub(crate) use write::Writer;

/// What the image is called in its layer's folder.
pub(crate) const IMAGE: &str = "image.erofs";
/// Numbers of inodes that lost their names to a later entry, one a line; there only if there are any.
pub(crate) const DISPLACED: &str = "displaced.nids";
