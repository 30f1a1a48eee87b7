//! Files of this host as a tar stream.

use crate::client::body::ChannelWriter;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// Packs `source` on a thread of its own, its root called `root` (empty: only the content of a folder).
/// Gives the bytes of file content.
pub(super) fn start(writer: ChannelWriter, source: PathBuf, root: String) -> JoinHandle<io::Result<u64>> {
    std::thread::spawn(move || {
        let mut packer = Packer { builder: tar::Builder::new(writer), bytes: 0 };
        let result = packer.add(&source, Path::new(&root)).and_then(|()| packer.builder.finish());
        let bytes = packer.bytes;
        let writer = packer.builder.into_inner()?;
        match result {
            Ok(()) => writer.finish().map(|()| bytes),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                writer.fail(error);
                Err(copy)
            }
        }
    })
}

struct Packer<W: Write> {
    builder: tar::Builder<W>,
    bytes: u64,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let with_path = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let meta = fs::symlink_metadata(path).map_err(with_path)?;
        let mut header = header_of(&meta);
        let kind = meta.file_type();
        if kind.is_dir() {
            if !name.as_os_str().is_empty() {
                header.set_entry_type(tar::EntryType::Directory);
                self.builder.append_data(&mut header, name, io::empty())?;
            }
            let mut entries: Vec<_> =
                fs::read_dir(path).map_err(with_path)?.collect::<io::Result<_>>().map_err(with_path)?;
            entries.sort_by_key(|e| e.file_name());
            for entry in entries {
                self.add(&entry.path(), &name.join(entry.file_name()))?;
            }
            return Ok(());
        }
        if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = fs::read_link(path).map_err(with_path)?;
            return self.builder.append_link(&mut header, name, target);
        }
        if kind.is_file() {
            let file = File::open(path).map_err(with_path)?;
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(meta.len());
            self.bytes += meta.len();
            // A file that shrinks meanwhile must not break the stream's framing.
            let exact = io::Read::chain(file, io::repeat(0));
            return self.builder.append_data(&mut header, name, io::Read::take(exact, meta.len()));
        }
        if kind.is_fifo() {
            header.set_entry_type(tar::EntryType::Fifo);
            return self.builder.append_data(&mut header, name, io::empty());
        }
        if kind.is_char_device() || kind.is_block_device() {
            header.set_entry_type(if kind.is_block_device() { tar::EntryType::Block } else { tar::EntryType::Char });
            let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
            return self.builder.append_data(&mut header, name, io::empty());
        }
        // Sockets are not files that could be copied.
        Ok(())
    }
}

fn header_of(meta: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(u64::from(meta.uid()));
    header.set_gid(u64::from(meta.gid()));
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}
