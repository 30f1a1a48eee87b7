//! Processors and memory that come and go while the guest runs.
//!
//! What is plugged in is there, and not in use: somebody in the guest has to want it. Many distributions have no rule for
//! that, so the agent does it.

use berth_agent_proto::{Failure, FailureKind};
use std::path::Path;

const CPUS: &str = "/sys/devices/system/cpu";
const CPUS_MAX: u16 = 512;
const MEMORY: &str = "/sys/devices/system/memory";
/// Only what can be moved elsewhere: so it can be taken away again.
const MOVABLE: &str = "online_movable";

/// The first so many processors take part, the others do not; memory that is there is used. Answers what could not be
/// changed.
pub(crate) fn online(cpus: u16) -> Result<Vec<String>, Failure> {
    if cpus == 0 {
        return Err(Failure::new(FailureKind::Invalid, "a machine has at least one processor"));
    }
    let mut notes = Vec::new();
    for number in 1..CPUS_MAX {
        let path = format!("{CPUS}/cpu{number}/online");
        let Ok(now) = std::fs::read_to_string(&path) else { continue };
        let wanted = if number < cpus { "1" } else { "0" };
        if now.trim() != wanted
            && let Err(cause) = std::fs::write(&path, wanted)
        {
            notes.push(format!("processor {number} stays as it is: {cause}"));
        }
    }
    take_memory();
    Ok(notes)
}

/// Memory that is there and not used, and what comes later. A policy that somebody has chosen stays.
pub(crate) fn take_memory() {
    let policy = format!("{MEMORY}/auto_online_blocks");
    if std::fs::read_to_string(&policy).is_ok_and(|now| now.trim() == "offline") {
        // Kernels before 5.8 know "online" only; without either it is done block by block, as it is asked for.
        if std::fs::write(&policy, MOVABLE).is_err() {
            std::fs::write(&policy, "online").ok();
        }
    }
    for entry in std::fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        let state = entry.path().join("state");
        if std::fs::read_to_string(&state).is_ok_and(|now| now.trim() == "offline") {
            std::fs::write(&state, MOVABLE).ok();
        }
    }
}

pub(crate) fn cpus_online() -> u16 {
    count(&std::fs::read_to_string(Path::new(CPUS).join("online")).unwrap_or_default())
}

/// Of a list like `0-3,5`; 0 where it cannot be read.
fn count(list: &str) -> u16 {
    let of = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').map(of).try_fold(0_u16, |sum, one| sum.checked_add(one?)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        assert_eq!((count("0\n"), count("0-3\n"), count("0-1,3,5-6\n")), (1, 4, 5));
        assert_eq!((count(""), count("3-1"), count("0-x"), count("0-65535")), (0, 0, 0, 0));
        assert!(cpus_online() > 0);
    }
}
