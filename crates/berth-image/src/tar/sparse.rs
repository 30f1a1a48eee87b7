//! Files with holes.

use super::TarError;
use super::header::number;

/// Parts of one file. GNU tar writes one for each run of data.
pub(super) const EXTENTS_MAX: usize = 100_000;

/// Data at an offset of the file; what is between is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub offset: u64,
    pub length: u64,
}

/// Checks a map of offsets and lengths, alternating.
pub(super) fn extents_of(numbers: &[u64], size: u64) -> Result<Vec<Extent>, TarError> {
    let damaged = TarError::Damaged("the map of a sparse file is wrong");
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > EXTENTS_MAX {
        return Err(damaged);
    }
    let mut end = 0;
    let mut extents = Vec::new();
    for &[offset, length] in pairs {
        let after = offset.checked_add(length).filter(|&after| offset >= end && after <= size);
        end = after.ok_or(TarError::Damaged("the map of a sparse file is wrong"))?;
        if length > 0 {
            extents.push(Extent { offset, length });
        }
    }
    Ok(extents)
}

/// Offsets and lengths in an old GNU header: `count` of them from `at` on; an empty one ends the list.
pub(super) fn old_gnu(block: &[u8], at: usize, count: usize, numbers: &mut Vec<u64>) -> Result<(), TarError> {
    for pair in block[at..at + count * 24].chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        for field in [&pair[..12], &pair[12..]] {
            let value = u64::try_from(number(field)?);
            numbers.push(value.map_err(|_| TarError::Damaged("the map of a sparse file is wrong"))?);
        }
    }
    match numbers.len() > 2 * EXTENTS_MAX {
        true => Err(TarError::Damaged("the map of a sparse file is too long")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_overlap_or_go_beyond_the_file_are_refused() {
        assert_eq!(extents_of(&[0, 5, 10, 0, 20, 5], 25).unwrap().len(), 2);
        for (numbers, size) in [(&[0, 5, 4, 1][..], 9), (&[0, 10], 9), (&[0], 9), (&[u64::MAX, 2], 9)] {
            assert!(extents_of(numbers, size).is_err(), "{numbers:?}");
        }
    }
}
