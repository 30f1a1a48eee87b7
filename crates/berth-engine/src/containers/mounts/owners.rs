//! `-v source:target:idmap`: files of one owner on the disk are seen as another's in the container, and what the container
//! writes belongs to the first. An id-mapped mount (mount_setattr(2)) of the source; nothing is changed on the disk.
//!
//! ```text
//! idmap                                  the source's owner is seen as the container's user
//! idmap=uids=1000-999-1;gids=1000-999-1  ids on the disk from 1000, seen from 999 on, one of them; several by `#`
//! ```
//!
//! The words are podman's. An id that no line names is seen as nobody's (65534).

use berth_types::{Error, Result};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The kernel takes 340 lines (user_namespaces(7)).
const LINES_MAX: usize = 340;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owners {
    /// As the source's owner is when the container starts.
    Source,
    Given {
        uids: Vec<Line>,
        gids: Vec<Line>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    disk: u32,
    seen: u32,
    count: u32,
}

/// What follows `idmap`, which may be nothing. `None`: not to be understood.
pub(super) fn parse(text: &str) -> Option<Owners> {
    if text.is_empty() {
        return Some(Owners::Source);
    }
    let (mut uids, mut gids) = (Vec::new(), Vec::new());
    for part in text.strip_prefix('=')?.split(';') {
        let (kind, lines) = part.split_once('=')?;
        let into = match kind {
            "uids" => &mut uids,
            "gids" => &mut gids,
            _ => return None,
        };
        if !into.is_empty() {
            return None;
        }
        for line in lines.split('#') {
            let numbers: Vec<u32> = line.split('-').map(str::parse).collect::<Result<_, _>>().ok()?;
            let [disk, seen, count] = numbers[..] else { return None };
            let fits = count > 0 && disk.checked_add(count).is_some() && seen.checked_add(count).is_some();
            fits.then(|| into.push(Line { disk, seen, count }))?;
        }
    }
    let apart = |lines: &[Line]| {
        let clash = |a: u32, b: u32, one: &Line, other: &Line| a < b + other.count && b < a + one.count;
        !lines.iter().enumerate().any(|(at, one)| {
            lines[at + 1..]
                .iter()
                .any(|other| clash(one.disk, other.disk, one, other) || clash(one.seen, other.seen, one, other))
        })
    };
    let good = |lines: &[Line]| lines.len() <= LINES_MAX && apart(lines);
    (!(uids.is_empty() && gids.is_empty()) && good(&uids) && good(&gids)).then_some(Owners::Given { uids, gids })
}

/// The user and group that a container's `User` names by number.
fn numbers(user: &str) -> Result<(u32, u32)> {
    let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
    let number = |text: &str| if text.is_empty() { Some(0) } else { text.parse().ok() };
    match (number(uid), number(gid)) {
        (Some(uid), Some(gid)) => Ok((uid, gid)),
        _ => Err(Error::invalid(format!("idmap cannot tell which id the user {user:?} has in the image"))
            .with_hint("give the user by number (--user 999:999), or the ids: idmap=uids=1000-999-1;gids=1000-999-1")),
    }
}

/// Refuses what cannot be mapped for this user.
pub(super) fn check(owners: &Owners, user: &str) -> Result<()> {
    match owners {
        Owners::Source => numbers(user).map(drop),
        Owners::Given { .. } => Ok(()),
    }
}

/// The maps of users and of groups in OCI's words: `containerID` on the disk, `hostID` as seen.
pub(super) fn maps(owners: &Owners, source: &Path, user: &str) -> Result<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)> {
    let all = [Line { disk: 0, seen: 0, count: u32::MAX }];
    let (uids, gids) = match owners {
        Owners::Given { uids, gids } => (uids.clone(), gids.clone()),
        Owners::Source => {
            let found = std::fs::metadata(source).map_err(|cause| {
                let what = format!("cannot tell the owner of {}", source.display());
                Error::because(berth_types::ErrorKind::Internal, what, &cause)
            })?;
            let (uid, gid) = numbers(user)?;
            let line = |disk, seen| vec![Line { disk, seen, count: 1 }];
            (line(found.uid(), uid), line(found.gid(), gid))
        }
    };
    let told = |lines: &[Line]| {
        let lines = if lines.is_empty() { &all } else { lines };
        let line = |line: &Line| {
            let map = LinuxIdMappingBuilder::default().container_id(line.disk).host_id(line.seen).size(line.count);
            map.build()
                .map_err(|cause| Error::because(berth_types::ErrorKind::Internal, "cannot write an id map", &cause))
        };
        lines.iter().map(line).collect::<Result<Vec<_>>>()
    };
    Ok((told(&uids)?, told(&gids)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podmans_words_are_read_and_what_overlaps_or_overflows_is_not() {
        assert_eq!(parse(""), Some(Owners::Source));
        let line = |disk, seen, count| Line { disk, seen, count };
        let given = Owners::Given { uids: vec![line(0, 1, 10), line(10, 11, 10)], gids: vec![line(0, 100, 10)] };
        assert_eq!(parse("=uids=0-1-10#10-11-10;gids=0-100-10"), Some(given));
        assert!(parse("=gids=5-6-1").is_some());
        #[rustfmt::skip]
        let bad = ["=", "uids=0-0-1", "=uids", "=uids=", "=uids=1-2", "=uids=1-2-0", "=uids=1-2-3-4", "=uids=a-2-1", "=pids=1-1-1",
            "=uids=1-1-1;uids=2-2-1", "=uids=4294967295-0-1", "=uids=0-0-10#5-50-10", "=uids=0-0-10#50-5-10", "=uids=-1-0-1"];
        for text in bad {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_user_without_a_number_needs_the_ids() {
        assert_eq!((numbers("").unwrap(), numbers("7").unwrap(), numbers("7:8").unwrap()), ((0, 0), (7, 0), (7, 8)));
        assert!(numbers("postgres").unwrap_err().to_string().contains("postgres"));
        assert!(check(&parse("=uids=1-2-3").unwrap(), "postgres").is_ok());
    }
}
