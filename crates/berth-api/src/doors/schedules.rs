//! Schedules of backups and of snapshots.

use super::Done;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::follow::Owner;
use crate::guard::Target;
use crate::identity::Who;
use crate::schedules::{self, INSTANCE, Schedule, now_millis};
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_types::Error;
use std::collections::BTreeMap;

answers! {
    /// When a volume is backed up, or a snapshot of an instance taken, by itself.
    ScheduleRow {
        /// Empty: it is an instance's.
        volume: String,
        /// The instance's id; empty: it is a volume's.
        instance: String,
        /// The volume's or the instance's.
        name: String,
        begin_unix_millis: i64,
        every_hours: u32,
        /// So many of its own stay.
        keep: u32,
        hold: bool,
        /// Of a machine: with its memory.
        memory: bool,
        who: String,
        next_unix_millis: i64,
        /// It is being made now.
        runs: bool,
        /// 0: never yet.
        last_unix_millis: i64,
        /// Why there is none of the last time; empty: there is.
        last_error: String,
        labels: BTreeMap<String, String>,
    }
}

requests! {
    NewSchedule {
        /// The first time, in milliseconds since 1970; 0: now. Later ones follow from it.
        begin_unix_millis: i64,
        /// 1 to 8784.
        every_hours: u32,
        /// 1 to 1000: older ones of its own are removed.
        keep: u32,
        /// Of a volume: hold what runs with it still meanwhile. An instance is always held still.
        hold: bool,
        /// Of a machine that runs: with its memory, so that it goes on from there.
        memory: bool,
    }
}

fn row(api: &Api, key: String, one: Schedule) -> ScheduleRow {
    let runs = api.schedules.runs(&key);
    let (volume, instance, name) = match key.strip_prefix(INSTANCE) {
        Some(id) => (String::new(), id.to_owned(), one.owner.name),
        None => (key.clone(), String::new(), key),
    };
    ScheduleRow {
        runs,
        volume,
        instance,
        name,
        begin_unix_millis: one.begin_unix_millis,
        every_hours: one.every_hours,
        keep: one.keep,
        hold: one.hold,
        memory: one.memory,
        who: one.who,
        next_unix_millis: one.next_unix_millis,
        last_unix_millis: one.last.as_ref().map_or(0, |last| last.ended_unix_millis),
        last_error: one.last.and_then(|last| last.error).unwrap_or_default(),
        labels: one.labels,
    }
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<ScheduleRow>>> {
    let seen = api.schedules.list()?.into_iter().filter(|(_, one)| who.sees(&one.labels));
    Ok(axum::Json(seen.map(|(key, one)| row(&api, key, one)).collect()))
}

fn wish(body: &NewSchedule, who: &Who, labels: BTreeMap<String, String>, owner: Owner, now: i64) -> Schedule {
    Schedule {
        begin_unix_millis: if body.begin_unix_millis == 0 { now } else { body.begin_unix_millis },
        every_hours: body.every_hours,
        keep: body.keep,
        hold: body.hold,
        memory: body.memory,
        labels,
        who: who.user.clone(),
        next_unix_millis: 0,
        last: None,
        owner,
        made: Vec::new(),
    }
}

fn done(body: &NewSchedule) -> Response {
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(format!("every {} hours, {} kept", body.every_hours, body.keep)));
    response
}

pub(crate) async fn put(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Json(body): Json<NewSchedule>,
) -> ApiResult<Response> {
    let volume = api.engine.volumes().inspect(&name).await?;
    let now = now_millis();
    let schedule = wish(&body, &who, volume.labels, Owner::default(), now);
    api.schedules.put(&name, schedule, now).await?;
    Ok(done(&body))
}

pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> ApiResult<axum::Json<Done>> {
    match api.schedules.forget(&name).await? {
        true => Ok(Done::plainly()),
        false => Err(Error::not_found(format!("volume {name} has no schedule")).into()),
    }
}

pub(crate) async fn of_instance(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Option<ScheduleRow>>> {
    let key = schedules::of_instance(api.engine.containers().resolve(&id).await?.as_str());
    Ok(axum::Json(api.schedules.get(&key)?.map(|one| row(&api, key, one))))
}

pub(crate) async fn put_of_instance(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Json(body): Json<NewSchedule>,
) -> ApiResult<Response> {
    let found = api.engine.containers().inspect(&id, false).await?;
    if super::create::isolation(&found.spec.host) == "vm" {
        return Err(Error::invalid(format!("the files of {} are on the disk of its machine", found.name))
            .with_hint("keep what matters in a volume, and back that up by a schedule")
            .into());
    }
    let now = now_millis();
    let owner = Owner::new(&found.name, &found.spec.config.labels);
    let schedule = wish(&body, &who, found.spec.config.labels, owner, now);
    api.schedules.put(&schedules::of_instance(found.id.as_str()), schedule, now).await?;
    Ok(done(&body))
}

pub(crate) async fn remove_of_instance(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<Done>> {
    let (name, id) = api.engine.containers().called(&id)?;
    match api.schedules.forget(&schedules::of_instance(id.as_str())).await? {
        true => Ok(Done::plainly()),
        false => Err(Error::not_found(format!("{name} has no schedule")).into()),
    }
}
