//! Snapshots of instances and machines by a schedule, and the end of those that have one.

use super::{Schedule, of_instance};
use crate::Api;
use crate::doors::saved::{self, Keep};
use crate::quota::{Need, known, room};
use crate::tasks::Progress;
use berth_engine::images::RemoveOptions;
use berth_engine::machines::MachineView;
use berth_types::{Error, ErrorKind, Phase, Result};

const DAY_SECONDS: i64 = 86_400;

pub(super) async fn make(api: &Api, id: &str, schedule: &Schedule, progress: &Progress) -> Result<()> {
    let name = name_at(super::now_millis());
    match api.engine.machines().inspect(id) {
        Ok(machine) => of_machine(api, &machine, &name, schedule, progress).await,
        Err(_) => of_container(api, id, &name, schedule, progress).await,
    }
}

/// `auto-20260102-030405`, in UTC: what was made later sorts behind.
fn name_at(unix_millis: i64) -> String {
    let seconds = unix_millis.div_euclid(1000);
    let (mut days, of_day) = (seconds.div_euclid(DAY_SECONDS), seconds.rem_euclid(DAY_SECONDS));
    let leap = |year: i64| year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let february = 28 + i64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("auto-{year}{month:02}{:02}-{hours:02}{minutes:02}{seconds:02}", days + 1)
}

async fn of_container(api: &Api, id: &str, name: &str, schedule: &Schedule, progress: &Progress) -> Result<()> {
    let found = api.engine.containers().inspect(id, false).await?;
    let keep = Keep { scheduled: true, until_unix_millis: 0 };
    saved::take(api, &found, name, keep).await.map_err(|error| error.error)?;
    progress.line(&format!("snapshot {name} of {}", found.name));
    // Newest first.
    let own = saved::of(api, &found).await?.into_iter().filter(|row| row.scheduled);
    for old in own.skip(schedule.keep as usize) {
        match remove(api, &old.image).await {
            Ok(()) => progress.line(&format!("snapshot {} is removed: {} are kept", old.name, schedule.keep)),
            // The next run tries it again.
            Err(error) => progress.line(&format!("snapshot {} stays: {error}", old.name)),
        }
    }
    Ok(())
}

async fn remove(api: &Api, image: &str) -> Result<()> {
    api.engine.images().remove(image, RemoveOptions { force: false, no_prune: false }).await.map(drop)
}

async fn of_machine(
    api: &Api,
    machine: &MachineView,
    name: &str,
    schedule: &Schedule,
    progress: &Progress,
) -> Result<()> {
    let (machines, id) = (api.engine.machines(), machine.id.as_str());
    let runs = matches!(machine.state.phase, Phase::Running { .. } | Phase::Paused { .. });
    let memory = schedule.memory && runs;
    let need = Need::disk(if memory { machine.memory_bytes } else { 1 });
    let turn = room(api, known(api, &machine.labels), &[need], &[]).await.map_err(|error| error.error)?;
    machines.snapshot(id, name, memory).await?;
    drop(turn);
    progress.line(&format!("snapshot {name} of {}", machine.name));
    // What somebody has removed meanwhile is none of its own any more.
    let there = machines.snapshots(id)?;
    let mut own: Vec<String> =
        schedule.made.iter().filter(|old| there.iter().any(|one| one.name == **old)).cloned().collect();
    own.push(name.to_owned());
    api.schedules.note_made(&of_instance(id), own.clone()).await?;
    while own.len() > schedule.keep as usize {
        let old = own.remove(0);
        machines.remove_snapshot(id, &old).await?;
        progress.line(&format!("snapshot {old} is removed: {} are kept", schedule.keep));
    }
    api.schedules.note_made(&of_instance(id), own).await
}

/// Removes the snapshots whose time is over; those that instances are made from wait for them.
pub(super) async fn sweep(api: &Api, now: i64) {
    let over = match saved::over(&api.engine, now).await {
        Ok(over) => over,
        Err(error) => return tracing::error!(%error, "snapshots cannot be looked through"),
    };
    for name in over {
        match remove(api, &name).await {
            Ok(()) => tracing::info!(name, "the time of this snapshot is over: it is removed"),
            Err(Error { kind: ErrorKind::Conflict, .. }) => tracing::debug!(name, "its time is over, and it is in use"),
            Err(error) => tracing::warn!(name, %error, "the time of this snapshot is over, and it stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_when_in_utc() {
        assert_eq!(name_at(0), "auto-19700101-000000");
        assert_eq!(name_at(1_709_251_199_999), "auto-20240229-235959");
        assert_eq!(name_at(1_709_251_200_000), "auto-20240301-000000");
        assert_eq!(name_at(1_798_761_599_000), "auto-20261231-235959");
    }
}
