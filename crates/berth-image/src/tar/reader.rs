//! Reading an archive entry by entry.

use super::TarError;
use super::header::{BLOCK, Block, Kind};
use super::pax::Records;
use super::sparse::{Extent, extents_of, old_gnu};
use crate::stream::Pieces;
use berth_snapshot::Meta;
use bytes::Bytes;

/// Bytes of one set of pax records, or of one long name.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Digits of a sparse map that stands before the content.
const MAP_BYTES_MAX: usize = 4 << 20;

/// One entry's header and what came before it for it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Of the file, holes included.
    pub size: u64,
    pub meta: Meta,
    pub device: (u32, u32),
    /// Where the content goes: one extent for a plain file, none for an empty one.
    pub extents: Vec<Extent>,
}

/// An archive that comes in pieces.
pub(crate) struct Reader<P> {
    pieces: P,
    piece: Bytes,
    /// Of the current entry's content, and of the padding behind it.
    left: u64,
    padding: u64,
    raw: Vec<u8>,
    ended: bool,
}

impl<P: Pieces> Reader<P> {
    pub(crate) fn new(pieces: P) -> Reader<P> {
        Reader { pieces, piece: Bytes::new(), left: 0, padding: 0, raw: Vec::new(), ended: false }
    }

    /// Every byte since the last call that was no content.
    pub(crate) fn take_raw(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.raw)
    }

    /// At most `most` bytes; empty at the end of the stream.
    fn some(&mut self, most: u64) -> Result<Bytes, TarError> {
        if self.piece.is_empty() {
            self.piece = self.pieces.piece()?;
        }
        let count = self.piece.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(self.piece.split_to(count))
    }

    /// A block into the raw bytes and out; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut length = 0;
        while length < BLOCK {
            let bytes = self.some((BLOCK - length) as u64)?;
            if bytes.is_empty() {
                return if length == 0 { Ok(None) } else { Err(TarError::Cut) };
            }
            block[length..length + bytes.len()].copy_from_slice(&bytes);
            length += bytes.len();
        }
        self.raw.extend_from_slice(&block);
        Ok(Some(block))
    }

    /// `length` bytes with their padding into the raw bytes and out.
    fn extension(&mut self, length: u64) -> Result<Vec<u8>, TarError> {
        if length > EXTENSION_BYTES_MAX {
            return Err(TarError::Damaged("a name or a set of pax records is longer than a megabyte"));
        }
        let whole = length.next_multiple_of(BLOCK as u64);
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < whole {
            bytes.extend_from_slice(&self.block()?.ok_or(TarError::Cut)?);
        }
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// The next entry; what was left of the last one's content becomes raw. `None` at the archive's end, after
    /// which [`Reader::rest`] may have more.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        while let Some(bytes) = self.content()? {
            self.raw.extend_from_slice(&bytes);
        }
        self.skip_padding()?;
        if self.ended {
            return Ok(None);
        }
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(block) = self.block()? else {
                self.ended = true;
                return Ok(None);
            };
            let header = Block(&block);
            if header.is_zero() {
                // The second one may be missing, as some programs have it.
                self.ended = true;
                match self.block()? {
                    Some(second) if !Block(&second).is_zero() => {
                        return Err(TarError::Damaged("a header is expected where zeros are"));
                    }
                    _ => return Ok(None),
                }
            }
            header.check()?;
            let path = header.path();
            let name = |bytes: Vec<u8>| super::header::text(&bytes).to_vec();
            match header.kind(&path)? {
                Kind::Pax => {
                    let bytes = self.extension(header.size()?)?;
                    records.read(&bytes)?;
                }
                // Nothing that applies to a layer is ever global: Docker ignores them too.
                Kind::PaxGlobal => drop(self.extension(header.size()?)?),
                Kind::GnuLongName => long_name = Some(name(self.extension(header.size()?)?)),
                Kind::GnuLongLink => long_link = Some(name(self.extension(header.size()?)?)),
                _ => return self.member(&block, records, long_name, long_link).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        block: &[u8; BLOCK],
        records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member, TarError> {
        let header = Block(block);
        let out_of_range = |_| TarError::Damaged("an owner's number is out of range");
        let path = records.sparse.name.clone().or(records.path.clone()).or(long_name).unwrap_or_else(|| header.path());
        let mut kind = header.kind(&path)?;
        let (seconds, nanos) = match records.mtime {
            Some(time) => time,
            None => (header.mtime()?, 0),
        };
        let meta = Meta {
            mode: u32::try_from(header.mode()? & 0o7777).unwrap_or(0),
            uid: u32::try_from(records.uid.map_or_else(|| header.uid(), Ok)?).map_err(out_of_range)?,
            gid: u32::try_from(records.gid.map_or_else(|| header.gid(), Ok)?).map_err(out_of_range)?,
            mtime_seconds: seconds,
            mtime_nanos: nanos,
            xattrs: records.xattrs,
        };
        let stored = match records.size {
            Some(size) => size,
            None => header.size()?,
        };
        let mut member = Member {
            path,
            link: records.link.or(long_link).unwrap_or_else(|| header.link()),
            kind,
            size: 0,
            meta,
            device: (0, 0),
            extents: Vec::new(),
        };
        match kind {
            Kind::File | Kind::GnuSparse => {}
            Kind::CharDevice | Kind::BlockDevice => {
                member.device = header.device()?;
                return Ok(member);
            }
            // What these say about a size means nothing; no content follows.
            _ => return Ok(member),
        }
        self.left = stored;
        self.padding = (BLOCK as u64 - stored % BLOCK as u64) % BLOCK as u64;
        if kind == Kind::GnuSparse {
            kind = Kind::File;
            (member.size, member.extents) = self.old_gnu_sparse(block)?;
        } else if records.sparse.is_in_content() {
            member.size = records.sparse.real_size.unwrap_or(0);
            let numbers = self.map_before_content()?;
            member.extents = extents_of(&numbers, member.size)?;
        } else if let Some(extents) = records.sparse.map()? {
            member.size = records.sparse.real_size.unwrap_or(0);
            member.extents = extents;
        } else {
            member.size = stored;
            if stored > 0 {
                member.extents.push(Extent { offset: 0, length: stored });
            }
        }
        member.kind = kind;
        let held: u64 = member.extents.iter().map(|extent| extent.length).sum();
        match held == self.left {
            true => Ok(member),
            false => Err(TarError::Damaged("the map of a sparse file does not fit its content")),
        }
    }

    fn old_gnu_sparse(&mut self, block: &[u8; BLOCK]) -> Result<(u64, Vec<Extent>), TarError> {
        if !Block(block).is_gnu() {
            return Err(TarError::Damaged("a sparse file's header is not GNU's"));
        }
        let mut numbers = Vec::new();
        old_gnu(block, 386, 4, &mut numbers)?;
        let size = u64::try_from(super::header::number(&block[483..495])?)
            .map_err(|_| TarError::Damaged("a size is negative"))?;
        let mut more = block[482] != 0;
        while more {
            let next = self.block()?.ok_or(TarError::Cut)?;
            old_gnu(&next, 0, 21, &mut numbers)?;
            more = next[504] != 0;
        }
        Ok((size, extents_of(&numbers, size)?))
    }

    /// `"<count>\n<offset>\n<length>\n..."`, padded to blocks, counted as content.
    fn map_before_content(&mut self) -> Result<Vec<u64>, TarError> {
        let damaged = || TarError::Damaged("the map of a sparse file is wrong");
        let mut text = Vec::new();
        let mut from = 0;
        let mut numbers: Vec<u64> = Vec::new();
        loop {
            if let Some(end) = text[from..].iter().position(|&byte| byte == b'\n') {
                let digits = std::str::from_utf8(&text[from..from + end]).map_err(|_| damaged())?;
                numbers.push(digits.parse().map_err(|_| damaged())?);
                from += end + 1;
                let count = numbers[0];
                if count > super::sparse::EXTENTS_MAX as u64 {
                    return Err(damaged());
                }
                if numbers.len() as u64 == 1 + 2 * count {
                    return Ok(numbers.split_off(1));
                }
                continue;
            }
            if text.len() > MAP_BYTES_MAX || self.left < BLOCK as u64 {
                return Err(damaged());
            }
            text.extend_from_slice(&self.block()?.ok_or(TarError::Cut)?);
            self.left -= BLOCK as u64;
        }
    }

    /// The next bytes of the current entry's content; `None` when all has been read.
    pub(crate) fn content(&mut self) -> Result<Option<Bytes>, TarError> {
        if self.left == 0 {
            return Ok(None);
        }
        let bytes = self.some(self.left)?;
        if bytes.is_empty() {
            return Err(TarError::Cut);
        }
        self.left -= bytes.len() as u64;
        Ok(Some(bytes))
    }

    fn skip_padding(&mut self) -> Result<(), TarError> {
        while self.padding > 0 {
            let bytes = self.some(self.padding)?;
            if bytes.is_empty() {
                return Err(TarError::Cut);
            }
            self.raw.extend_from_slice(&bytes);
            self.padding -= bytes.len() as u64;
        }
        Ok(())
    }

    /// What follows the archive's end: padding of whoever wrote it in large blocks. Empty when the stream ends.
    pub(crate) fn rest(&mut self) -> Result<Bytes, TarError> {
        self.some(u64::MAX)
    }
}

/// The current entry's content, for decoders and small files.
impl<P: Pieces> Pieces for Reader<P> {
    fn piece(&mut self) -> std::io::Result<Bytes> {
        match self.content() {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Ok(Bytes::new()),
            Err(TarError::Read(cause)) => Err(cause),
            Err(cause) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, cause)),
        }
    }
}
