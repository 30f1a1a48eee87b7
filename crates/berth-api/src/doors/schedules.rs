//! Schedules of backups.

use super::Done;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::Who;
use crate::schedules::{Schedule, now_millis};
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_types::Error;
use std::collections::BTreeMap;

answers! {
    /// When a volume is backed up by itself.
    ScheduleRow {
        volume: String,
        begin_unix_millis: i64,
        every_hours: u32,
        /// So many of its own backups stay.
        keep: u32,
        hold: bool,
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
        /// Hold what runs with the volume still meanwhile.
        hold: bool,
    }
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<ScheduleRow>>> {
    let seen = api.schedules.list()?.into_iter().filter(|(_, one)| who.sees(&one.labels));
    let row = |(volume, one): (String, Schedule)| ScheduleRow {
        runs: api.schedules.runs(&volume),
        volume,
        begin_unix_millis: one.begin_unix_millis,
        every_hours: one.every_hours,
        keep: one.keep,
        hold: one.hold,
        who: one.who,
        next_unix_millis: one.next_unix_millis,
        last_unix_millis: one.last.as_ref().map_or(0, |last| last.ended_unix_millis),
        last_error: one.last.and_then(|last| last.error).unwrap_or_default(),
        labels: one.labels,
    };
    Ok(axum::Json(seen.map(row).collect()))
}

pub(crate) async fn put(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Json(body): Json<NewSchedule>,
) -> ApiResult<Response> {
    let volume = api.engine.volumes().inspect(&name).await?;
    let now = now_millis();
    let schedule = Schedule {
        begin_unix_millis: if body.begin_unix_millis == 0 { now } else { body.begin_unix_millis },
        every_hours: body.every_hours,
        keep: body.keep,
        hold: body.hold,
        labels: volume.labels,
        who: who.user.clone(),
        next_unix_millis: 0,
        last: None,
    };
    api.schedules.put(&name, schedule, now).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(format!("every {} hours, {} kept", body.every_hours, body.keep)));
    Ok(response)
}

pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> ApiResult<axum::Json<Done>> {
    match api.schedules.forget(&name).await? {
        true => Ok(Done::plainly()),
        false => Err(Error::not_found(format!("volume {name} has no schedule")).into()),
    }
}
