//! A rolling update: one service after the other, each with its new instances beside the old ones where two can be.
//!
//! ```text
//! for each service, after those that it waits for:
//!     what it is to be is what it is           -> left alone
//!     two can run side by side                 -> new ones start and get well, then the old ones go
//!     only one can be (a fixed port or name)   -> replaced; the one before comes back where the new one is not well
//! ```

use super::model::{can_overlap, in_order, replicas, services};
use super::run::Compose;
use super::{PROJECT, SERVICE};
use crate::tasks::Progress;
use berth_engine::Engine;
use berth_engine::containers::{ListOptions, RemoveOptions, StopOptions, Summary};
use berth_types::Result;
use serde_json::Value;
use std::path::Path;

/// Until new instances must be well.
const WAIT_SECONDS: &str = "180";
const HASH: &str = "com.docker.compose.config-hash";

struct Roll<'a> {
    engine: &'a Engine,
    compose: &'a Compose,
    stack: &'a str,
    next: &'a Path,
    /// The model that is up now, if there is one.
    before: Option<&'a Path>,
    progress: &'a Progress,
}

/// The instances of a stack, or of one of its services.
pub(super) async fn members(engine: &Engine, stack: &str, service: Option<&str>) -> Result<Vec<Summary>> {
    let all = engine.containers().list(&ListOptions { all: true, ..ListOptions::default() }).await?;
    let is = |one: &Summary, label: &str, value: &str| one.labels.get(label).is_some_and(|there| there == value);
    let mut found = all;
    found.retain(|one| is(one, PROJECT, stack) && service.is_none_or(|service| is(one, SERVICE, service)));
    Ok(found)
}

pub(crate) async fn roll(
    engine: &Engine,
    compose: &Compose,
    stack: &str,
    model: &Value,
    files: (&Path, Option<&Path>),
    progress: &Progress,
) -> Result<()> {
    let (next, before) = files;
    let roll = Roll { engine, compose, stack, next, before, progress };
    let hashes = compose.hashes(stack, next).await?;
    let order = in_order(&services(model));
    for (n, service) in order.iter().enumerate() {
        let wanted = hashes.iter().find(|(name, _)| name == service).map(|(_, hash)| hash.as_str());
        roll.service(service, &model["services"][service.as_str()], wanted).await?;
        progress.part(n as u64 + 1, order.len() as u64);
    }
    // What is in the text no more goes at the end; all else is as it is to be.
    compose.run(stack, next, &["up", "-d", "--no-recreate", "--remove-orphans"], progress).await
}

impl Roll<'_> {
    async fn service(&self, name: &str, model: &Value, wanted: Option<&str>) -> Result<()> {
        let old = members(self.engine, self.stack, Some(name)).await?;
        let count = replicas(model);
        let same = |one: &Summary| wanted.is_some() && one.labels.get(HASH).map(String::as_str) == wanted;
        if old.iter().all(same) && old.len() as u64 == count {
            self.progress.line(&format!("{name}: is what it is to be"));
            return Ok(());
        }
        let changed: Vec<&Summary> = old.iter().filter(|one| !same(one)).collect();
        if changed.is_empty() || count == 0 {
            return self.up(self.next, name, &[&format!("{name}={count}")], false).await;
        }
        match can_overlap(model) {
            true => self.beside(name, &changed, &old, count).await,
            false => self.replace(name).await,
        }
    }

    /// New ones first; the old ones stay where the new ones do not get well.
    async fn beside(&self, name: &str, changed: &[&Summary], old: &[Summary], count: u64) -> Result<()> {
        self.progress.line(&format!("{name}: {count} new beside {}", changed.len()));
        let kept = old.len() - changed.len();
        let scale = format!("{name}={}", old.len() as u64 + count.saturating_sub(kept as u64));
        if let Err(mut error) = self.up(self.next, name, &[&scale], true).await {
            let known: Vec<&str> = old.iter().map(|one| one.id.as_str()).collect();
            for one in members(self.engine, self.stack, Some(name)).await? {
                if !known.contains(&one.id.as_str())
                    && let Err(more) = self.remove(&one).await
                {
                    error.causes.push(more.to_string());
                }
            }
            return Err(error.context(format!("the new {name} is not well; the old one goes on")));
        }
        for one in changed {
            self.progress.line(&format!("{name}: {} goes", one.name));
            self.engine.containers().stop(one.id.as_str(), StopOptions::default()).await?;
            self.remove(one).await?;
        }
        Ok(())
    }

    async fn remove(&self, one: &Summary) -> Result<()> {
        let options = RemoveOptions { force: true, volumes: true };
        self.engine.containers().remove(one.id.as_str(), options).await
    }

    async fn replace(&self, name: &str) -> Result<()> {
        self.progress.line(&format!("{name}: replaced, as only one of it can run"));
        let Err(mut error) = self.up(self.next, name, &[], false).await else { return Ok(()) };
        let Some(before) = self.before.filter(|path| path.exists()) else {
            return Err(error.context(format!("the new {name} is not well")));
        };
        if let Err(more) = self.up(before, name, &[], false).await {
            error.causes.push(more.to_string());
            return Err(error.context(format!("the new {name} is not well, and the one before did not come back")));
        }
        Err(error.context(format!("the new {name} is not well; the one before is back")))
    }

    async fn up(&self, file: &Path, service: &str, scale: &[&str], keep: bool) -> Result<()> {
        let mut words = vec!["up", "-d", "--no-deps", "--wait", "--wait-timeout", WAIT_SECONDS];
        if keep {
            words.push("--no-recreate");
        }
        for one in scale {
            words.extend(["--scale", one]);
        }
        words.push(service);
        self.compose.run(self.stack, file, &words, self.progress).await
    }
}
