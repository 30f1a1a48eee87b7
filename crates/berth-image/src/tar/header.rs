//! One header block.

use super::TarError;

pub(crate) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    GnuSparse,
    /// Records for the next entry, or for all that follow.
    Pax,
    PaxGlobal,
    GnuLongName,
    GnuLongLink,
}

pub(super) struct Block<'a>(pub &'a [u8; BLOCK]);

/// The bytes before the first zero.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal text, or base-256 where the first bit is set (tar(5)).
pub(super) fn number(field: &[u8]) -> Result<i64, TarError> {
    let damaged = TarError::Damaged("a number in a header is none");
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (at, &byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { byte };
            if !(i64::MIN >> 8..=i64::MAX >> 8).contains(&value) {
                return Err(damaged);
            }
            value = value << 8 | i64::from(byte);
        }
        return Ok(value);
    }
    let trimmed: &[u8] = text(field).trim_ascii();
    let mut value: i64 = 0;
    for &byte in trimmed {
        if !(b'0'..=b'7').contains(&byte) || value > i64::MAX >> 3 {
            return Err(damaged);
        }
        value = value << 3 | i64::from(byte - b'0');
    }
    Ok(value)
}

impl Block<'_> {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// The sum as unsigned bytes, or as signed ones like some old programs wrote it.
    pub(super) fn check(&self) -> Result<(), TarError> {
        let wanted = number(&self.0[148..156])?;
        let blank = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
        let bytes = || self.0.iter().enumerate().map(|(at, &byte)| blank(at, byte));
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
        match wanted == unsigned || wanted == signed {
            true => Ok(()),
            false => Err(TarError::Damaged("the checksum of a header is wrong")),
        }
    }

    pub(super) fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        match self.is_ustar() && !prefix.is_empty() {
            true => [prefix, b"/", name].concat(),
            false => name.to_vec(),
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn kind(&self, path: &[u8]) -> Result<Kind, TarError> {
        Ok(match self.0[156] {
            0 | b'0' | b'7' if path.last() == Some(&b'/') => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => Kind::GnuSparse,
            b'x' => Kind::Pax,
            b'g' => Kind::PaxGlobal,
            b'L' => Kind::GnuLongName,
            b'K' => Kind::GnuLongLink,
            other => return Err(TarError::Kind(other)),
        })
    }

    pub(super) fn mode(&self) -> Result<i64, TarError> {
        number(&self.0[100..108])
    }

    pub(super) fn uid(&self) -> Result<i64, TarError> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Result<i64, TarError> {
        number(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        u64::try_from(number(&self.0[124..136])?).map_err(|_| TarError::Damaged("a size is negative"))
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        number(&self.0[136..148])
    }

    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        let part =
            |field| u32::try_from(number(field)?).map_err(|_| TarError::Damaged("a device's number is out of range"));
        Ok((part(&self.0[329..337])?, part(&self.0[337..345])?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000755\0").unwrap(), 0o755);
        assert_eq!(number(b"  755 \0\0").unwrap(), 0o755);
        assert_eq!(number(b"\0\0\0\0").unwrap(), 0);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]).unwrap(), 256);
        assert_eq!(number(&[0xff; 12]).unwrap(), -1);
        assert!(number(&[0xbf, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]).is_err());
        assert!(number(b"9").is_err() && number(b"77777777777777777777777").is_err());
    }
}
