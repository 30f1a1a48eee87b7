//! Pax records: `"<length> <key>=<value>\n"` (POSIX pax(1), "pax Extended Header").

use super::TarError;
use super::sparse::{EXTENTS_MAX, Extent, extents_of};

/// What records say about the next entry.
#[derive(Debug, Default, Clone)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU's three ways to write a sparse file with pax records (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Default, Clone)]
pub(super) struct Sparse {
    pub major: u64,
    pub minor: u64,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Offsets and lengths alternating.
    numbers: Vec<u64>,
    has_map: bool,
}

impl Sparse {
    /// The map, where the records have it.
    pub(super) fn map(&self) -> Result<Option<Vec<Extent>>, TarError> {
        match self.has_map {
            true => extents_of(&self.numbers, self.real_size.unwrap_or(0)).map(Some),
            false => Ok(None),
        }
    }

    /// The map stands before the content.
    pub(super) fn is_in_content(&self) -> bool {
        (self.major, self.minor) == (1, 0)
    }
}

fn decimal(value: &[u8]) -> Result<u64, TarError> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).ok_or(TarError::Damaged("a number in a pax record is none"))
}

fn signed(value: &[u8]) -> Result<i64, TarError> {
    i64::try_from(decimal(value)?).map_err(|_| TarError::Damaged("a number in a pax record is too large"))
}

/// Seconds with any number of digits behind the point.
fn time(value: &[u8]) -> Result<(i64, u32), TarError> {
    let damaged = || TarError::Damaged("a time in a pax record is none");
    let text = std::str::from_utf8(value).map_err(|_| damaged())?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| damaged())?;
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(damaged());
    }
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| damaged())?;
    match whole.starts_with('-') && nanos > 0 {
        true => Ok((seconds.saturating_sub(1), 1_000_000_000 - nanos)),
        false => Ok((seconds, nanos)),
    }
}

impl Records {
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        let damaged = TarError::Damaged("a pax record is malformed");
        while !bytes.is_empty() {
            let Some(space) = bytes.iter().take(20).position(|&byte| byte == b' ') else { return Err(damaged) };
            let length = usize::try_from(decimal(&bytes[..space])?).unwrap_or(usize::MAX);
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(damaged);
            }
            let record = &bytes[space + 1..length - 1];
            let Some(equals) = record.iter().position(|&byte| byte == b'=') else { return Err(damaged) };
            self.set(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        // An empty value takes back what an earlier record said.
        let some = |value: &[u8]| (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = some(value),
            b"linkpath" => self.link = some(value),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(signed(value)?),
            b"gid" => self.gid = Some(signed(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.major = decimal(value)?,
            b"GNU.sparse.minor" => self.sparse.minor = decimal(value)?,
            b"GNU.sparse.name" => self.sparse.name = some(value),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.has_map = true;
                self.sparse.numbers.push(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                self.sparse.has_map = true;
                self.sparse.numbers.clear();
                for number in value.split(|&byte| byte == b',').filter(|number| !number.is_empty()) {
                    self.sparse.numbers.push(decimal(number)?);
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                    && !name.is_empty()
                    && !name.contains(&0)
                {
                    self.xattrs.retain(|(have, _)| have != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        match self.sparse.numbers.len() > 2 * EXTENTS_MAX || self.xattrs.len() > 4096 {
            true => Err(TarError::Damaged("an entry has too many pax records")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_malformed_ones_refused() {
        let mut records = Records::default();
        records.read(b"12 path=abc\n24 mtime=1700000000.0625\n27 SCHILY.xattr.user.a=b=c\n").unwrap_err();
        let mut records = Records::default();
        records.read(b"12 path=abc\n25 mtime=1700000000.0625\n27 SCHILY.xattr.user.a=b=c\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"abc"[..]));
        assert_eq!(records.mtime, Some((1_700_000_000, 62_500_000)));
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), b"b=c".to_vec())]);
        for bad in [&b"x"[..], b"5 a=b", b"3 a=\n", b"99 a=b\n", b"6 abc\n", b"9 size=x\n", b"-1 a=b\n", b"0 a=b\n"] {
            assert!(Records::default().read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
    }
}
