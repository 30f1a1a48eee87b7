//! Snapshots of instances: images of what their files were.
//!
//! An image belongs to nobody and every member of a project can see all of them; a snapshot holds what an instance
//! wrote, so it is seen and used by those only who see that instance ([`is_open_to`]).

use super::Done;
use super::images::image_name;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::{Who, projects};
use crate::quota::{Need, known, room};
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::Engine;
use berth_engine::containers::Inspect;
use berth_engine::images::{CommitOptions, ListOptions};
use berth_types::{Error, Result};
use std::collections::BTreeMap;

/// On a snapshot: the instance's name when it was made.
pub(crate) const OF: &str = "berth.snapshot.of";
/// On a snapshot: a schedule made it, and removes it in time.
pub(crate) const SCHEDULED: &str = "berth.snapshot.scheduled";
/// On a snapshot: it goes after this moment, in milliseconds since 1970; 0: it stays.
pub(crate) const UNTIL: &str = "berth.snapshot.until";
/// Where snapshots are among the images: `snapshot/<instance>:<name>`.
const REPOSITORY: &str = "snapshot";

answers! {
    /// What an instance's files were at a moment, as an image.
    SavedRow {
        name: String,
        /// The image's: new instances are made from it, and its own can go back to it.
        image: String,
        id: String,
        created_unix_millis: i64,
        /// On the disk beside what other images have too.
        own_bytes: u64,
        /// What the instance runs now began as this one.
        current: bool,
        /// Made by a schedule, which removes it in time.
        scheduled: bool,
        /// It goes after this moment; 0: it stays.
        until_unix_millis: i64,
    }
}

requests! {
    NewSaved {
        /// Letters, digits, dots, dashes.
        name: String,
        /// It goes by itself after this moment; 0: it stays.
        until_unix_millis: i64,
    }
}

/// Whether they may see an image, and make something from it.
pub(crate) fn is_open_to(who: &Who, labels: &BTreeMap<String, String>) -> bool {
    !labels.contains_key(OF) || who.sees(labels)
}

/// To whoever may not use it, it is not there.
pub(crate) fn check(api: &Api, who: &Who, image: &str) -> Result<()> {
    match api.engine.images().resolve(image) {
        Ok(found) if !is_open_to(who, &found.defaults.config.labels) => {
            Err(Error::not_found(format!("No such image: {image}")))
        }
        // What is not there is refused by whoever wants to use it.
        _ => Ok(()),
    }
}

/// Names of images are in small letters.
fn repository(instance: &str) -> String {
    format!("{REPOSITORY}/{}", instance.to_ascii_lowercase())
}

/// Labels of all snapshots, and what each takes beside what other images have too.
pub(crate) async fn sizes(engine: &Engine) -> Result<Vec<(BTreeMap<String, String>, u64)>> {
    let images = engine.images().list(&ListOptions { shared_size: true, ..ListOptions::default() }).await?;
    let own = images.into_iter().filter(|image| image.labels.contains_key(OF));
    Ok(own
        .map(|image| {
            let bytes = image.size_bytes.saturating_sub(image.shared_size_bytes.unwrap_or(0));
            (image.labels, bytes)
        })
        .collect())
}

pub(crate) fn until(labels: &BTreeMap<String, String>) -> i64 {
    labels.get(UNTIL).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Names of snapshots whose time is over at `now`. Whatever was built from one carries its labels, but no such name.
pub(crate) async fn over(engine: &Engine, now: i64) -> Result<Vec<String>> {
    let images = engine.images().list(&ListOptions::default()).await?;
    let over = images.into_iter().filter(|image| (1..=now).contains(&until(&image.labels)));
    Ok(over.flat_map(|image| image.repo_tags).filter(|name| name.starts_with(&format!("{REPOSITORY}/"))).collect())
}

pub(crate) async fn of(api: &Api, found: &Inspect) -> Result<Vec<SavedRow>> {
    let images = api.engine.images().list(&ListOptions { shared_size: true, ..ListOptions::default() }).await?;
    let prefix = format!("{}:", repository(&found.name));
    let project = projects::of(&found.spec.config.labels);
    // The label and the project: an instance of another project may have had the same name.
    let own = images.into_iter().filter(|image| {
        image.labels.get(OF).is_some_and(|name| *name == found.name) && projects::of(&image.labels) == project
    });
    let rows = own.filter_map(|image| {
        let name = image.repo_tags.iter().find(|tag| tag.starts_with(&prefix))?.clone();
        Some(SavedRow {
            name: name[prefix.len()..].to_owned(),
            image: name,
            current: found.image_id.as_ref() == Some(&image.id),
            id: image.id.to_string(),
            created_unix_millis: image.created_unix_nanos / 1_000_000,
            scheduled: image.labels.get(SCHEDULED).is_some_and(|word| word == "true"),
            until_unix_millis: until(&image.labels),
            own_bytes: image.size_bytes.saturating_sub(image.shared_size_bytes.unwrap_or(0)),
        })
    });
    let mut rows: Vec<SavedRow> = rows.collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.created_unix_millis));
    Ok(rows)
}

pub(crate) async fn list(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Vec<SavedRow>>> {
    let found = api.engine.containers().inspect(&id, false).await?;
    Ok(axum::Json(of(&api, &found).await?))
}

pub(crate) async fn create(
    State(api): State<Api>,
    Path(id): Path<String>,
    Json(body): Json<NewSaved>,
) -> ApiResult<Response> {
    let found = api.engine.containers().inspect(&id, false).await?;
    let until = body.until_unix_millis;
    if until != 0 && until <= crate::schedules::now_millis() {
        return Err(Error::invalid("the time of this snapshot would be over already").into());
    }
    let name = body.name.trim();
    take(&api, &found, name, Keep { scheduled: false, until_unix_millis: until }).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(name.to_owned()));
    Ok(response)
}

/// For how long a snapshot stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) scheduled: bool,
    /// 0: for ever.
    pub(crate) until_unix_millis: i64,
}

/// Makes the snapshot `name` of an instance.
pub(crate) async fn take(api: &Api, found: &Inspect, name: &str, keep: Keep) -> ApiResult<()> {
    let project = projects::of(&found.spec.config.labels);
    if name.is_empty() || name.contains([':', '/', '@']) {
        return Err(Error::invalid(format!("{name:?} is no name of a snapshot"))
            .with_hint("letters, digits, dots and dashes")
            .into());
    }
    if of(api, found).await?.iter().any(|row| row.name == name) {
        return Err(Error::conflict(format!("{} has a snapshot {name} already", found.name)).into());
    }
    let _turn = room(api, known(api, &found.spec.config.labels), &[Need::disk(1)], &[]).await?;
    // All of them always: an instance that was made from a snapshot has that one's.
    let mut changes = vec![
        format!("LABEL {OF}={}", found.name),
        format!("LABEL {SCHEDULED}={}", keep.scheduled),
        format!("LABEL {UNTIL}={}", keep.until_unix_millis),
    ];
    changes.extend(project.map(|project| format!("LABEL {}={project}", projects::LABEL)));
    let options = CommitOptions {
        container: found.id.to_string(),
        name: Some(image_name(&format!("{}:{name}", repository(&found.name)))?),
        message: format!("snapshot {name} of {}", found.name),
        pause: true,
        changes,
        ..CommitOptions::default()
    };
    api.engine.images().commit(options).await?;
    Ok(())
}
