//! Images of which a newer one waits at their registry.
//!
//! ```text
//! console.redb
//!   updates/<name of an image>   the digest that it means at its registry, or why that is not known; when it was asked
//!   updates-plan/plan            how often it is asked, and when it was the last time
//! ```
//!
//! Asked are the registries of images that came from one and that an instance was made from, by the name that the instance
//! was made with: a name with a digest means one image for ever, and what was built here has no registry. One question
//! is one HEAD request. Only the engine that serves a console asks; an administrator says how often, or never.

use crate::Api;
use crate::hub::Message;
use crate::schedules::now_millis;
use crate::tasks::{Progress, Task};
use berth_engine::containers::ListOptions;
use berth_store::{Batch, Store, StoreError};
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::Notify;

pub(crate) const ACT: &str = "images.ask";
const TABLE: &str = "updates";
const PLAN: &str = "updates-plan";
const HOUR_MILLIS: i64 = 3_600_000;
const EVERY_HOURS: u32 = 24;
pub(crate) const EVERY_HOURS_MAX: u32 = 366 * 24;
/// An engine that has just started has other things to do.
const FIRST_AFTER: Duration = Duration::from_secs(600);
/// The clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Names that are asked for at one time; others wait for the next one.
const NAMES_MAX: usize = 1000;
const ASK_SECONDS_MAX: u64 = 30;

/// What a registry said of a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) digest: Option<Digest>,
    /// Why it is not known.
    pub(crate) error: Option<String>,
    pub(crate) asked_unix_millis: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// 0: only when somebody asks for it.
    pub(crate) every_hours: u32,
    /// 0: never yet.
    pub(crate) last_unix_millis: i64,
}

impl Plan {
    fn is_due(self, now: i64) -> bool {
        self.every_hours > 0 && now - self.last_unix_millis >= i64::from(self.every_hours) * HOUR_MILLIS
    }
}

/// An instance and what it was made from.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) image: ImageName,
    pub(crate) image_id: Digest,
    /// The image came from a registry by a name of this repository.
    pub(crate) from_registry: bool,
}

pub(crate) struct Updates {
    store: Store,
    changed: Notify,
}

fn failed(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, "cannot use the records of updates", cause)
}

impl Updates {
    pub(crate) fn new(store: Store) -> Updates {
        Updates { store, changed: Notify::new() }
    }

    pub(crate) fn said(&self) -> Result<HashMap<String, Said>> {
        let all = self.store.list::<Said>(TABLE).map_err(|cause| failed(&cause))?;
        // One that does not read is asked for again.
        Ok(all.into_iter().filter_map(|(name, said)| Some((name, said.ok()?))).collect())
    }

    pub(crate) fn plan(&self) -> Result<Plan> {
        let kept = self.store.get::<Plan>(PLAN, "plan").map_err(|cause| failed(&cause))?;
        Ok(kept.unwrap_or(Plan { every_hours: EVERY_HOURS, last_unix_millis: 0 }))
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(|cause| failed(&cause))
    }

    pub(crate) async fn put_plan(&self, every_hours: u32) -> Result<()> {
        if every_hours > EVERY_HOURS_MAX {
            return Err(Error::invalid(format!(
                "every {every_hours} hours: 0 (never) to {EVERY_HOURS_MAX} are possible"
            )));
        }
        let mut batch = Batch::new();
        let plan = Plan { every_hours, ..self.plan()? };
        batch.put(PLAN, "plan", &plan).map_err(|cause| failed(&cause))?;
        self.commit(batch).await?;
        self.changed.notify_one();
        Ok(())
    }

    /// All that is known from now on; of names that nobody uses any more nothing is.
    async fn keep(&self, all: &BTreeMap<String, Said>) -> Result<()> {
        let mut batch = Batch::new();
        for name in self.said()?.into_keys().filter(|name| !all.contains_key(name)) {
            batch.delete(TABLE, &name);
        }
        for (name, said) in all {
            batch.put(TABLE, name, said).map_err(|cause| failed(&cause))?;
        }
        let plan = Plan { last_unix_millis: now_millis(), ..self.plan()? };
        batch.put(PLAN, "plan", &plan).map_err(|cause| failed(&cause))?;
        self.commit(batch).await
    }
}

/// All instances whose image has a name that may mean another one tomorrow.
pub(crate) async fn made(api: &Api) -> Result<Vec<Made>> {
    let containers = api.engine.containers();
    let mut repositories: HashMap<Digest, Vec<String>> = HashMap::new();
    let mut all = Vec::new();
    for one in containers.list(&ListOptions { all: true, ..ListOptions::default() }).await? {
        let Some(image_id) = one.image_id else { continue };
        // In a list it is an id once its name means another image.
        let asked = match one.image.starts_with("sha256:") || image_id.to_string().contains(&one.image) {
            true => match containers.inspect(one.id.as_str(), false).await {
                Ok(found) => found.spec.config.image,
                // It has gone meanwhile.
                Err(_) => continue,
            },
            false => one.image,
        };
        let Ok(image) = crate::doors::images::image_name(&asked) else { continue };
        if image.digest().is_some() {
            continue;
        }
        if let std::collections::hash_map::Entry::Vacant(entry) = repositories.entry(image_id) {
            let digests = api.engine.images().inspect(&image_id.to_string()).await.map(|image| image.repo_digests);
            let digests = digests.unwrap_or_default().into_iter();
            entry.insert(digests.filter_map(|name| Some(name.rsplit_once('@')?.0.to_owned())).collect());
        }
        let repository = image.familiar_repository();
        let from_registry = repositories.get(&image_id).is_some_and(|all| all.contains(&repository));
        all.push(Made { id: one.id.to_string(), name: one.name, labels: one.labels, image, image_id, from_registry });
    }
    Ok(all)
}

/// Whether another image than the one that `one` was made from is to be had now, and where.
pub(crate) fn newer(api: &Api, one: &Made, said: Option<&Said>) -> Option<Where> {
    let images = api.engine.images();
    let id = |reference: String| images.resolve(&reference).ok().map(|found| found.id);
    if let Some(digest) = said.and_then(|said| said.digest).filter(|_| one.from_registry) {
        return match id(one.image.clone().pinned(digest).familiar()) {
            Some(there) if there == one.image_id => None,
            Some(_) => Some(Where::Here),
            None => Some(Where::Registry),
        };
    }
    // Its name means another one here: somebody has pulled or built it since.
    id(one.image.clone().familiar()).filter(|there| *there != one.image_id).map(|_| Where::Here)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// It lies here already.
    Here,
    Registry,
}

/// Asks all registries, as a task; the one that runs already, if there is one.
pub(crate) fn ask(api: &Api, who: &str) -> Result<Task> {
    let running = api.tasks.list().into_iter().find(|task| task.act == ACT && task.state == "running");
    if let Some(task) = running {
        return Ok(task);
    }
    let doing = api.clone();
    api.tasks.start(who, ACT, "", move |progress| async move { work(&doing, &progress).await })
}

async fn work(api: &Api, progress: &Progress) -> Result<()> {
    let mut names: BTreeMap<String, ImageName> = BTreeMap::new();
    for one in made(api).await?.into_iter().filter(|one| one.from_registry) {
        names.insert(one.image.clone().familiar(), one.image);
    }
    let count = names.len().min(NAMES_MAX) as u64;
    let mut all = BTreeMap::new();
    for (n, (name, image)) in names.into_iter().take(NAMES_MAX).enumerate() {
        let (images, limit) = (api.engine.images(), Duration::from_secs(ASK_SECONDS_MAX));
        let answer = tokio::time::timeout(limit, images.digest_now(&image)).await;
        let (digest, error) = match answer {
            Ok(Ok(digest)) => (Some(digest), None),
            Ok(Err(error)) => (None, Some(error.to_string())),
            Err(_) => (None, Some(format!("its registry did not answer within {ASK_SECONDS_MAX} s"))),
        };
        if let Some(error) = &error {
            progress.line(&format!("{name}: {error}"));
        }
        all.insert(name, Said { digest, error, asked_unix_millis: now_millis() });
        progress.part(n as u64 + 1, count);
    }
    api.updates.keep(&all).await?;
    progress.line(&format!("{count} names asked for"));
    tell(api);
    Ok(())
}

/// Pages that show what waits look again.
pub(crate) fn tell(api: &Api) {
    api.hub.send(Message::Event {
        kind: "image",
        action: "asked".to_owned(),
        id: String::new(),
        name: String::new(),
        unix_millis: now_millis(),
    });
}

/// Asks when it is time to, for ever.
pub(crate) async fn run(api: Api) {
    tokio::time::sleep(FIRST_AFTER).await;
    loop {
        match api.updates.plan() {
            Ok(plan) if plan.is_due(now_millis()) => match ask(&api, "schedule") {
                // It is written down when it ends; until then it is not begun again.
                Ok(task) => tracing::debug!(task = task.id, "registries are asked for newer images"),
                Err(error) => tracing::warn!(%error, "registries cannot be asked for newer images now"),
            },
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "it is not known when to ask for newer images"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = api.updates.changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_said_is_kept_and_what_nobody_uses_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let updates = Updates::new(Store::open(&folder.path().join("a.redb"), |_, _, record| record).unwrap());
        assert_eq!(updates.plan().unwrap(), Plan { every_hours: EVERY_HOURS, last_unix_millis: 0 });
        let said = Said { digest: None, error: Some("away".to_owned()), asked_unix_millis: 1 };
        let names =
            |all: &[&str]| all.iter().map(|name| ((*name).to_owned(), said.clone())).collect::<BTreeMap<_, _>>();
        updates.keep(&names(&["host:5000/a/b:1", "c"])).await.unwrap();
        assert_eq!(updates.said().unwrap().len(), 2);
        updates.keep(&names(&["c"])).await.unwrap();
        assert_eq!(updates.said().unwrap().into_keys().collect::<Vec<_>>(), ["c"]);
        updates.put_plan(0).await.unwrap();
        let plan = updates.plan().unwrap();
        assert!(plan.every_hours == 0 && plan.last_unix_millis > 0 && !plan.is_due(i64::MAX / 2));
        assert!(updates.put_plan(EVERY_HOURS_MAX + 1).await.is_err());
    }

    #[test]
    fn it_is_time_once_the_hours_are_over() {
        let plan = Plan { every_hours: 2, last_unix_millis: 1000 };
        assert!(!plan.is_due(1000 + 2 * HOUR_MILLIS - 1) && plan.is_due(1000 + 2 * HOUR_MILLIS));
    }
}
