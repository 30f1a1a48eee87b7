//! Newer images at their registries, and instances brought up to them.

use super::Done;
use super::instances::may;
use super::remake;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::Who;
use crate::schema::{answers, requests};
use crate::tasks::Task;
use crate::updates::{self, Made, Where};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::containers::Inspect;
use berth_types::{Error, Result};
use std::collections::BTreeMap;

/// By it compose knows whether an instance has the image that it is to have.
const COMPOSE_IMAGE: &str = "com.docker.compose.image";

answers! {
    /// What of the images that instances are made from is out of date.
    UpdatesView {
        /// How often registries are asked; 0: only when somebody asks for it.
        every_hours: u32,
        /// 0: never yet.
        asked_unix_millis: i64,
        images: Vec<ImageUpdate>,
    }
    /// An image by the name that instances were made with.
    ImageUpdate {
        name: String,
        /// registry: a newer one waits there; here: one was pulled or built since; current; unknown: its registry was not asked,
        /// or did not say; local: it was made here, and there is no other.
        state: String,
        /// What it means at its registry.
        digest: Option<String>,
        /// 0: never yet.
        asked_unix_millis: i64,
        /// Why it is not known.
        error: String,
        /// Those that a newer one is there for.
        behind: Vec<UpdateOf>,
        instances: u64,
    }
    UpdateOf { id: String, name: String }
}

requests! {
    UpdatesPlan {
        /// 0: only when somebody asks for it; at most 8784.
        every_hours: u32,
    }
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<UpdatesView>> {
    let (plan, said) = (api.updates.plan()?, api.updates.said()?);
    let mut names: BTreeMap<String, Vec<Made>> = BTreeMap::new();
    for one in updates::made(&api).await?.into_iter().filter(|one| who.sees(&one.labels)) {
        names.entry(one.image.clone().familiar()).or_default().push(one);
    }
    let view = |(name, all): (String, Vec<Made>)| {
        let said = said.get(&name);
        let mut found = Vec::new();
        let mut behind = Vec::new();
        for one in &all {
            if let Some(place) = updates::newer(&api, one, said) {
                found.push(place);
                behind.push(UpdateOf { id: one.id.clone(), name: one.name.clone() });
            }
        }
        let state = match said {
            _ if found.contains(&Where::Registry) => "registry",
            _ if !found.is_empty() => "here",
            _ if !all.iter().any(|one| one.from_registry) => "local",
            Some(said) if said.digest.is_some() => "current",
            _ => "unknown",
        };
        ImageUpdate {
            name,
            state: state.to_owned(),
            digest: said.and_then(|said| said.digest).map(|digest| digest.to_string()),
            asked_unix_millis: said.map_or(0, |said| said.asked_unix_millis),
            error: said.and_then(|said| said.error.clone()).unwrap_or_default(),
            behind,
            instances: all.len() as u64,
        }
    };
    let images = names.into_iter().map(view).collect();
    Ok(axum::Json(UpdatesView { every_hours: plan.every_hours, asked_unix_millis: plan.last_unix_millis, images }))
}

pub(crate) async fn plan(State(api): State<Api>, Json(body): Json<UpdatesPlan>) -> ApiResult<Response> {
    api.updates.put_plan(body.every_hours).await?;
    updates::tell(&api);
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(format!("every {} hours", body.every_hours)));
    Ok(response)
}

pub(crate) async fn ask(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Task>> {
    Ok(axum::Json(updates::ask(&api, &who.user)?))
}

/// Gets the newest image of its name and replaces it by one that is made from that.
pub(crate) async fn upgrade(State(api): State<Api>, who: Who, Path(id): Path<String>) -> ApiResult<axum::Json<Task>> {
    let found = api.engine.containers().inspect(&id, false).await?;
    let made = updates::made(&api).await?.into_iter().find(|one| one.id == found.id.as_str());
    let Some(made) = made else {
        return Err(Error::invalid(format!("the image of {} has no name that may mean another one", found.name))
            .with_hint("choose another image in its settings")
            .into());
    };
    // Before anything is fetched for somebody who may not have it.
    may(&who, &found.spec, "upgrade")?;
    let target = found.name.clone();
    let doing = api.clone();
    let user = who.user.clone();
    let task = api.tasks.start(&user, "instance.upgrade", &target, move |progress| async move {
        if made.from_registry {
            super::images::fetch(&doing.engine.images(), made.image.clone(), &progress).await?;
        }
        // Its own task, so that it ends neither without the old nor without the new one.
        let work = tokio::spawn(async move { replace(&doing, &who, found, &made, &progress).await });
        work.await.unwrap_or_else(|cause| Err(Error::internal(format!("updating ended early: {cause}"))))
    })?;
    Ok(axum::Json(task))
}

async fn replace(api: &Api, who: &Who, found: Inspect, made: &Made, progress: &crate::tasks::Progress) -> Result<()> {
    let name = made.image.clone().familiar();
    let new = api.engine.images().resolve(&name)?.id;
    if found.image_id == Some(new) {
        progress.line(&format!("{} has the newest {name} already", found.name));
        return Ok(());
    }
    let (mut spec, turn) = remake::anew(api, who, &found).await.map_err(|error| error.error)?;
    if let Some(image) = spec.config.labels.get_mut(COMPOSE_IMAGE) {
        *image = new.to_string();
    }
    let replaced = remake::replace(api, found, spec, progress).await;
    drop(turn);
    updates::tell(api);
    replaced
}
