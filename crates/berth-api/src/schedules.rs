//! Backups of volumes and snapshots of instances by a schedule.
//!
//! ```text
//! console.redb
//!   schedules/<volume>           from when on, how often, how many are kept; the next run and how the last one ended
//!   schedules/instance:<id>      the same of an instance or machine ([`snapshots`]); no volume has such a name
//! ```
//!
//! The next run is written down anew only when a run has ended. So one that the engine was not there for, or that its end
//! cut off, is made once when it is back, and never twice for one time. A run is a task like every other; it removes the
//! oldest of a schedule's own beyond what is kept, and none that somebody made by hand. Schedules are made in
//! the console, and run in an engine that serves none too ([`crate::Unattended`]).

pub(crate) mod snapshots;

use crate::Api;
use crate::follow::Owner;
use crate::identity::projects::of;
use crate::quota::{backup_room, known};
use crate::tasks::Progress;
use berth_engine::volumes::BackupWish;
use berth_store::{Batch, Store, StoreError};
use berth_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// What the keys of instances begin with.
pub(crate) const INSTANCE: &str = "instance:";
const SCHEDULES_MAX: usize = 1000;
const HOUR_MILLIS: i64 = 3_600_000;
/// The end of the year 9999: no sum of times leaves its number.
const BEGIN_MILLIS_MAX: i64 = 253_402_300_799_999;
const EVERY_HOURS_MAX: u32 = 366 * 24;
pub(crate) const KEEP_MAX: u32 = 1000;
/// The clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often it is looked for snapshots whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// Where a run cannot begin now.
const TRY_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) begin_unix_millis: i64,
    pub(crate) every_hours: u32,
    /// Of its own backups or snapshots.
    pub(crate) keep: u32,
    pub(crate) hold: bool,
    /// Of a machine: with its memory.
    #[serde(default)]
    pub(crate) memory: bool,
    /// The volume's or the instance's, when the schedule was made.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) who: String,
    pub(crate) next_unix_millis: i64,
    #[serde(default)]
    pub(crate) last: Option<Last>,
    /// Of an instance's.
    #[serde(default)]
    pub(crate) owner: Owner,
    /// Of a machine's: the snapshots that it has made, oldest first.
    #[serde(default)]
    pub(crate) made: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) ended_unix_millis: i64,
    /// Why there is no backup of it.
    pub(crate) error: Option<String>,
}

impl Schedule {
    pub(crate) fn check(&self) -> Result<()> {
        if !(0..=BEGIN_MILLIS_MAX).contains(&self.begin_unix_millis) {
            return Err(Error::invalid("a schedule begins between 1970 and 9999"));
        }
        if !(1..=EVERY_HOURS_MAX).contains(&self.every_hours) {
            return Err(Error::invalid(format!(
                "every {} hours: 1 to {EVERY_HOURS_MAX} are possible",
                self.every_hours
            )));
        }
        match (1..=KEEP_MAX).contains(&self.keep) {
            true => Ok(()),
            false => Err(Error::invalid(format!("{} to keep: 1 to {KEEP_MAX} are possible", self.keep))),
        }
    }

    /// The first of its times that is not before `from`.
    fn first(&self, from: i64) -> i64 {
        let every = i64::from(self.every_hours) * HOUR_MILLIS;
        let missed = from.saturating_sub(self.begin_unix_millis).max(0);
        let times = missed / every + i64::from(missed % every != 0);
        self.begin_unix_millis.saturating_add(times.saturating_mul(every))
    }
}

pub(crate) struct Schedules {
    store: Store,
    /// Held from the reading of a record to its writing.
    changing: tokio::sync::Mutex<()>,
    running: Mutex<BTreeSet<String>>,
    changed: Notify,
}

/// The key of an instance's schedule.
pub(crate) fn of_instance(id: &str) -> String {
    format!("{INSTANCE}{id}")
}

pub(crate) fn now_millis() -> i64 {
    berth_engine::events::now_unix_nanos() / 1_000_000
}

fn failed(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, "cannot use the records of schedules", cause)
}

impl Schedules {
    pub(crate) fn new(store: Store) -> Schedules {
        Schedules { store, changing: tokio::sync::Mutex::default(), running: Mutex::default(), changed: Notify::new() }
    }

    fn running(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.running.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn runs(&self, volume: &str) -> bool {
        self.running().contains(volume)
    }

    pub(crate) fn list(&self) -> Result<Vec<(String, Schedule)>> {
        let all = self.store.list::<Schedule>("schedules").map_err(|cause| failed(&cause))?;
        let mut schedules = Vec::with_capacity(all.len());
        for (volume, schedule) in all {
            match schedule {
                Ok(schedule) => schedules.push((volume, schedule)),
                Err(cause) => tracing::error!(volume, %cause, "a schedule's record does not read"),
            }
        }
        Ok(schedules)
    }

    pub(crate) fn get(&self, volume: &str) -> Result<Option<Schedule>> {
        self.store.get::<Schedule>("schedules", volume).map_err(|cause| failed(&cause))
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(|cause| failed(&cause))?;
        self.changed.notify_one();
        Ok(())
    }

    async fn write(&self, volume: &str, schedule: &Schedule) -> Result<()> {
        let mut batch = Batch::new();
        batch.put("schedules", volume, schedule).map_err(|cause| failed(&cause))?;
        self.commit(batch).await
    }

    /// A new or changed one: its next run is its first from `now` on.
    pub(crate) async fn put(&self, volume: &str, mut schedule: Schedule, now: i64) -> Result<()> {
        schedule.check()?;
        let _changing = self.changing.lock().await;
        let before = self.get(volume)?;
        if before.is_none() && self.list()?.len() >= SCHEDULES_MAX {
            return Err(Error::conflict(format!("there are {SCHEDULES_MAX} schedules already")));
        }
        schedule.next_unix_millis = schedule.first(now);
        if let Some(before) = before {
            (schedule.last, schedule.made) = (before.last, before.made);
        }
        self.write(volume, &schedule).await
    }

    pub(crate) async fn forget(&self, volume: &str) -> Result<bool> {
        let _changing = self.changing.lock().await;
        let there = self.get(volume)?.is_some();
        if there {
            let mut batch = Batch::new();
            batch.delete("schedules", volume);
            self.commit(batch).await?;
        }
        Ok(there)
    }

    /// The instance `id` has another name now.
    pub(crate) async fn renamed(&self, id: &str, name: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        let key = of_instance(id);
        let Some(mut schedule) = self.get(&key)? else { return Ok(()) };
        name.clone_into(&mut schedule.owner.name);
        self.write(&key, &schedule).await
    }

    /// The instance `id` goes: its schedule is `heir`'s, where that has none of its own. A run of it that ends meanwhile is
    /// not written down: the heir makes one more.
    pub(crate) async fn pass(&self, id: &str, heir: Option<&str>) -> Result<()> {
        let _changing = self.changing.lock().await;
        let key = of_instance(id);
        let Some(schedule) = self.get(&key)? else { return Ok(()) };
        let mut batch = Batch::new();
        batch.delete("schedules", &key);
        if let Some(heir) = heir.map(of_instance)
            && self.get(&heir)?.is_none()
        {
            batch.put("schedules", &heir, &schedule).map_err(|cause| failed(&cause))?;
        }
        self.commit(batch).await
    }

    /// The snapshots of a machine's schedule are these.
    async fn note_made(&self, key: &str, made: Vec<String>) -> Result<()> {
        let _changing = self.changing.lock().await;
        let Some(mut schedule) = self.get(key)? else { return Ok(()) };
        schedule.made = made;
        self.write(key, &schedule).await
    }

    /// Those whose time has come; from now on they run.
    fn due(&self, now: i64) -> Result<Vec<(String, Schedule)>> {
        let mut due = self.list()?;
        let mut running = self.running();
        due.retain(|(volume, schedule)| schedule.next_unix_millis <= now && running.insert(volume.clone()));
        Ok(due)
    }

    /// A run has ended, at `now`; `error`: why there is no backup of it.
    async fn ended(&self, volume: &str, now: i64, error: Option<String>) -> Result<()> {
        let changing = self.changing.lock().await;
        let written = match self.get(volume) {
            // It may have been changed meanwhile.
            Ok(Some(mut schedule)) => {
                schedule.next_unix_millis = schedule.first(now + 1);
                schedule.last = Some(Last { ended_unix_millis: now, error });
                self.write(volume, &schedule).await
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        drop(changing);
        self.running().remove(volume);
        written
    }

    /// Until the next one is due, or something has changed.
    async fn wait(&self, now: i64) {
        let next = {
            let all = self.list().unwrap_or_default();
            let running = self.running();
            all.iter().filter(|(volume, _)| !running.contains(volume)).map(|(_, one)| one.next_unix_millis).min()
        };
        let until = next.map(|next| Duration::from_millis(next.saturating_sub(now).max(0).unsigned_abs()));
        // One that is due already could not begin.
        let until = until.map(|until| if until.is_zero() { TRY_AGAIN } else { until });
        tokio::select! {
            () = tokio::time::sleep(until.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)) => {}
            () = self.changed.notified() => {}
        }
    }
}

/// Tells how a run ended, also where its task was cancelled.
struct Run {
    schedules: Arc<Schedules>,
    volume: String,
    error: Option<String>,
}

impl Drop for Run {
    fn drop(&mut self) {
        let (schedules, volume, error) = (self.schedules.clone(), self.volume.clone(), self.error.take());
        tokio::spawn(async move {
            if let Err(error) = schedules.ended(&volume, now_millis(), error).await {
                tracing::error!(volume, %error, "the end of what a schedule made is not written down");
            }
        });
    }
}

/// Begins what is due, for ever.
pub(crate) async fn run(api: Api) {
    let mut sweeps = tokio::time::interval(SWEEP_EVERY);
    loop {
        // An interval ticks at once: what ended while the engine was down goes now.
        if futures_util::FutureExt::now_or_never(sweeps.tick()).is_some() {
            snapshots::sweep(&api, now_millis()).await;
        }
        match api.schedules.due(now_millis()) {
            Ok(due) => due.into_iter().for_each(|(volume, schedule)| begin(&api, volume, schedule)),
            Err(error) => tracing::error!(%error, "schedules cannot be read"),
        }
        api.schedules.wait(now_millis()).await;
    }
}

fn begin(api: &Api, volume: String, schedule: Schedule) {
    let who = format!("schedule of {}", schedule.who);
    let run = Run {
        schedules: api.schedules.clone(),
        volume: volume.clone(),
        error: Some("it was cancelled, or too much else ran".to_owned()),
    };
    let (doing, key) = (api.clone(), volume.clone());
    let (act, target) = match volume.starts_with(INSTANCE) {
        true => ("instance.snapshot", schedule.owner.name.clone()),
        false => ("volume.backup", volume.clone()),
    };
    let begun = api.tasks.start(&who, act, &target, move |progress| async move {
        // All of it, so that it is dropped with the task.
        let mut run = run;
        let made = match key.strip_prefix(INSTANCE) {
            Some(id) => snapshots::make(&doing, id, &schedule, &progress).await,
            None => make(&doing, &key, &schedule, &progress).await,
        };
        run.error = made.as_ref().err().map(ToString::to_string);
        drop(run);
        made
    });
    if let Err(error) = begun {
        // Too many tasks run: its `Run` was dropped with the work, and its next time is another one.
        tracing::warn!(volume, %error, "what a schedule asks for cannot begin");
    }
}

async fn make(api: &Api, name: &str, schedule: &Schedule, progress: &Progress) -> Result<()> {
    let volumes = api.engine.volumes();
    let volume = volumes.inspect(name).await?;
    if of(&volume.labels) != of(&schedule.labels) {
        return Err(Error::conflict(format!("volume {name} is in another project than when its schedule was made"))
            .with_hint("make the schedule anew, or remove it"));
    }
    let (_turn, bytes_max) = backup_room(api, known(api, &volume.labels)).await?;
    let wish = BackupWish { hold: schedule.hold, scheduled: true, bytes_max };
    let backup = volumes.backup(name, wish, |done, all| progress.part(done, all)).await?;
    progress.line(&format!("{} bytes of {name}", backup.bytes));
    let own = volumes.backups().await?.into_iter().filter(|one| one.volume == name && one.scheduled);
    for old in own.skip(schedule.keep as usize) {
        volumes.remove_backup(name, &old.id).await?;
        progress.line(&format!("backup {} is removed: {} are kept", old.id, schedule.keep));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: i64 = 1_000 * HOUR_MILLIS;

    fn daily() -> Schedule {
        Schedule {
            begin_unix_millis: BEGIN,
            every_hours: 24,
            keep: 3,
            hold: false,
            labels: BTreeMap::new(),
            who: "ada".to_owned(),
            next_unix_millis: BEGIN,
            last: None,
            memory: false,
            owner: Owner::default(),
            made: Vec::new(),
        }
    }

    fn open(folder: &std::path::Path) -> Schedules {
        Schedules::new(Store::open(&folder.join("a.redb"), |_, _, record| record).unwrap())
    }

    #[test]
    fn times_are_counted_from_the_first() {
        let (one, day) = (daily(), 24 * HOUR_MILLIS);
        assert_eq!(one.first(BEGIN - 1), BEGIN);
        assert_eq!(one.first(BEGIN), BEGIN);
        assert_eq!(one.first(BEGIN + 1), BEGIN + day);
        assert_eq!(one.first(BEGIN + 5 * day), BEGIN + 5 * day);
        assert_eq!(Schedule { begin_unix_millis: BEGIN_MILLIS_MAX, ..daily() }.first(0), BEGIN_MILLIS_MAX);
        for bad in [
            Schedule { begin_unix_millis: -1, ..daily() },
            Schedule { begin_unix_millis: BEGIN_MILLIS_MAX + 1, ..daily() },
            Schedule { every_hours: 0, ..daily() },
            Schedule { keep: 0, ..daily() },
            Schedule { keep: KEEP_MAX + 1, ..daily() },
        ] {
            assert!(bad.check().is_err());
        }
    }

    #[tokio::test]
    async fn what_was_missed_while_the_engine_was_down_runs_once() {
        let folder = tempfile::tempdir().unwrap();
        let before = open(folder.path());
        before.write("data", &daily()).await.unwrap();
        assert_eq!(before.due(BEGIN - 1).unwrap(), []);
        drop(before);
        // Five days later.
        let later = BEGIN + 5 * 24 * HOUR_MILLIS + 7;
        let after = open(folder.path());
        assert_eq!(after.due(later).unwrap().len(), 1);
        assert_eq!(after.due(later + 1).unwrap(), [], "it runs already");
        after.ended("data", later + 2, None).await.unwrap();
        assert_eq!(after.due(later + 3).unwrap(), [], "once, not five times");
        let next = after.get("data").unwrap().unwrap();
        assert_eq!(next.next_unix_millis, BEGIN + 6 * 24 * HOUR_MILLIS);
        assert_eq!(next.last, Some(Last { ended_unix_millis: later + 2, error: None }));
    }

    #[tokio::test]
    async fn a_run_that_the_engines_end_cut_off_is_made_again_and_one_that_failed_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let before = open(folder.path());
        before.write("data", &daily()).await.unwrap();
        assert_eq!(before.due(BEGIN).unwrap().len(), 1);
        drop(before);
        let after = open(folder.path());
        assert_eq!(after.due(BEGIN + 1).unwrap().len(), 1);
        after.ended("data", BEGIN + 2, Some("no room".to_owned())).await.unwrap();
        assert_eq!(after.due(BEGIN + 3).unwrap(), []);
        assert_eq!(after.get("data").unwrap().unwrap().last.unwrap().error.as_deref(), Some("no room"));
        // Forgotten while it ran: its end brings it not back.
        assert_eq!(after.due(BEGIN + 24 * HOUR_MILLIS).unwrap().len(), 1);
        assert!(after.forget("data").await.unwrap() && !after.forget("data").await.unwrap());
        after.ended("data", BEGIN + 25 * HOUR_MILLIS, None).await.unwrap();
        assert!(after.get("data").unwrap().is_none());
    }

    #[tokio::test]
    async fn a_schedule_goes_on_to_the_instance_that_replaces_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let all = open(folder.path());
        let owner = Owner { name: "web".to_owned(), project: None };
        all.write(&of_instance("old"), &Schedule { owner, ..daily() }).await.unwrap();
        all.renamed("old", "shop").await.unwrap();
        all.pass("old", Some("new")).await.unwrap();
        assert!(all.get(&of_instance("old")).unwrap().is_none());
        assert_eq!(all.get(&of_instance("new")).unwrap().unwrap().owner.name, "shop");
        all.pass("new", None).await.unwrap();
        assert_eq!(all.list().unwrap(), []);
    }

    #[tokio::test]
    async fn a_run_that_ends_while_its_schedule_is_forgotten_does_not_bring_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let all = open(folder.path());
        for _ in 0..20 {
            all.write("data", &daily()).await.unwrap();
            assert_eq!(all.due(BEGIN).unwrap().len(), 1);
            let (forgotten, ended) = tokio::join!(all.forget("data"), all.ended("data", BEGIN + 1, None));
            assert!(forgotten.unwrap() && ended.is_ok());
            assert!(all.get("data").unwrap().is_none());
        }
    }
}
