//! The names of a folder in blocks: descriptions first, names behind them, sorted through all blocks.

use super::format::{BLOCK, Kind, damaged};
use std::io;

/// Of one name's description: number, place of the name, kind, nothing.
const ENTRY_BYTES: usize = 12;

/// One name and what it leads to.
pub(super) struct Named<'a> {
    pub name: &'a [u8],
    pub nid: u64,
    pub kind: Kind,
}

/// Where blocks begin: how many names each has. `lengths` of the sorted names.
fn cut(lengths: impl Iterator<Item = usize>) -> (Vec<usize>, usize) {
    let (mut blocks, mut used) = (Vec::new(), 0);
    for length in lengths {
        let needed = ENTRY_BYTES + length;
        match blocks.last_mut() {
            Some(count) if used + needed <= BLOCK => (*count, used) = (*count + 1, used + needed),
            _ => {
                blocks.push(1);
                used = needed;
            }
        }
    }
    (blocks, used)
}

/// Bytes of a folder with such names.
pub(super) fn size(lengths: impl Iterator<Item = usize>) -> u64 {
    let (blocks, last) = cut(lengths);
    (blocks.len().saturating_sub(1) * BLOCK + last) as u64
}

/// The folder's content; names are sorted.
pub(super) fn encode(names: &[Named<'_>]) -> Vec<u8> {
    let (blocks, _) = cut(names.iter().map(|named| named.name.len()));
    let mut content: Vec<u8> = Vec::new();
    let mut rest = names;
    for count in blocks {
        content.resize(content.len().next_multiple_of(BLOCK), 0);
        let (these, others) = rest.split_at(count);
        let mut place = ENTRY_BYTES * count;
        for named in these {
            content.extend(named.nid.to_le_bytes());
            content.extend(u16::try_from(place).unwrap_or(u16::MAX).to_le_bytes());
            content.extend([named.kind as u8, 0]);
            place += named.name.len();
        }
        these.iter().for_each(|named| content.extend(named.name));
        rest = others;
    }
    content
}

/// The names of one block, read back.
pub(super) struct Block<'a>(&'a [u8], usize);

impl<'a> Block<'a> {
    pub(super) fn read(block: &'a [u8]) -> io::Result<Block<'a>> {
        let first = place(block, 0).ok_or_else(|| damaged("a folder's block is empty"))?;
        match first % ENTRY_BYTES == 0 && first >= ENTRY_BYTES && first <= block.len() {
            true => Ok(Block(block, first / ENTRY_BYTES)),
            false => Err(damaged("a folder's block begins wrongly")),
        }
    }

    fn name(&self, number: usize) -> io::Result<&'a [u8]> {
        let from = place(self.0, number);
        let to = if number + 1 < self.1 { place(self.0, number + 1) } else { Some(self.0.len()) };
        let name = from.zip(to).and_then(|(from, to)| self.0.get(from..to));
        let name = name.ok_or_else(|| damaged("a folder's name is not where it should be"))?;
        // The last name of a block ends with the block, or where it is filled up.
        Ok(name.split(|&byte| byte == 0).next().unwrap_or(name))
    }

    pub(super) fn first(&self) -> io::Result<&'a [u8]> {
        self.name(0)
    }

    pub(super) fn names(&self) -> io::Result<Vec<&'a [u8]>> {
        (0..self.1).map(|number| self.name(number)).collect()
    }

    /// What `wanted` leads to.
    pub(super) fn find(&self, wanted: &[u8]) -> io::Result<Option<u64>> {
        let (mut low, mut high) = (0, self.1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle)?.cmp(wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let nid = self.0.get(middle * ENTRY_BYTES..).and_then(|entry| entry.first_chunk());
                    return Ok(nid.map(|nid| u64::from_le_bytes(*nid)));
                }
            }
        }
        Ok(None)
    }
}

fn place(block: &[u8], number: usize) -> Option<usize> {
    let bytes = block.get(number * ENTRY_BYTES + 8..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_again_and_no_other() {
        let names: Vec<Vec<u8>> =
            (0..2000u32).map(|n| format!("{n:05}{}", "x".repeat(n as usize % 200)).into_bytes()).collect();
        let named: Vec<Named<'_>> =
            names.iter().zip(1u64..).map(|(name, nid)| Named { name, nid, kind: Kind::File }).collect();
        let content = encode(&named);
        assert_eq!(content.len() as u64, size(names.iter().map(Vec::len)));
        let find = |wanted: &[u8]| {
            let blocks = content.chunks(BLOCK).map(|block| Block::read(block).unwrap());
            blocks.filter_map(|block| block.find(wanted).unwrap()).collect::<Vec<_>>()
        };
        for (name, nid) in names.iter().zip(1u64..).step_by(37) {
            assert_eq!(find(name), [nid]);
        }
        assert!(find(b"00000y").is_empty() && find(b"").is_empty() && find(b"zzz").is_empty());
    }

    #[test]
    fn damaged_blocks_are_errors() {
        let content = encode(&[Named { name: b"name", nid: 5, kind: Kind::File }]);
        for at in 8..10 {
            let mut broken = content.clone();
            broken[at] ^= 0xff;
            assert!(Block::read(&broken).and_then(|block| block.find(b"name")).is_err());
        }
        assert!(Block::read(&content[..6]).is_err() && Block::read(&[]).is_err());
    }
}
