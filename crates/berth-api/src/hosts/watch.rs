//! The loop that asks every host how it is.

use super::Summary;
use super::dial::Far;
use crate::Api;
use crate::hub::Message;
use axum::body::Body;
use berth_types::{Error, ErrorKind, Result};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(5);
const ASK_SECONDS_MAX: u64 = 4;
const BYTES_MAX: usize = 64 << 10;

/// Asks for as long as the engine lives; all at once, so that one that is away delays nobody.
pub(crate) async fn watch(api: Api) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        ask_all(&api).await;
    }
}

pub(crate) async fn ask_all(api: &Api) {
    ask_these(api, api.hosts.list(true)).await;
}

/// Without those that are away, which nobody is to wait for.
pub(crate) async fn ask_present(api: &Api) {
    ask_these(api, api.hosts.list(false)).await;
}

async fn ask_these(api: &Api, all: Vec<Far>) {
    if all.is_empty() {
        return;
    }
    let asking = all.iter().map(|far| async move {
        let heard = ask(far).await;
        api.hosts.heard(&far.name, heard);
    });
    futures_util::future::join_all(asking).await;
    api.hub.send(Message::Hosts { hosts: api.hosts.rows() });
}

async fn ask(far: &Far) -> Result<Summary> {
    let request = hyper::Request::get("/api/v1/summary").body(Body::empty());
    let request = request.map_err(|cause| Error::internal(cause.to_string()))?;
    let response = far.send(request, "berth", "viewer", ASK_SECONDS_MAX).await?;
    let status = response.status();
    let reading = Limited::new(response.into_body(), BYTES_MAX).collect();
    let odd = |why: String| {
        let mut error = Error::new(ErrorKind::Unavailable, format!("host {} answers strangely", far.name));
        error.causes.push(why);
        error
    };
    let body = tokio::time::timeout(Duration::from_secs(ASK_SECONDS_MAX), reading).await;
    let body = body.map_err(|_| odd("its answer does not end".to_owned()))?.map_err(|cause| odd(cause.to_string()))?;
    let value: Value = serde_json::from_slice(&body.to_bytes()).map_err(|cause| odd(cause.to_string()))?;
    if !status.is_success() {
        let message = value.get("message").and_then(Value::as_str).unwrap_or_default();
        return Err(odd(format!("{status}: {message}")));
    }
    Ok(Summary::read(&value))
}

impl Summary {
    /// Of another version of ours perhaps: what is missing is nothing.
    fn read(value: &Value) -> Summary {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().chars().take(200).collect();
        let count = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
        let reading = value.get("reading").filter(|reading| reading.is_object()).map(|reading| {
            let whole = |key: &str| reading.get(key).and_then(Value::as_u64).unwrap_or(0);
            let part = |key: &str| reading.get(key).and_then(Value::as_f64).unwrap_or(0.0);
            crate::history::HostReading {
                unix: whole("unix") as u32,
                cpu: part("cpu") as f32,
                cpus: whole("cpus") as u32,
                load: part("load"),
                memory_bytes: whole("memory_bytes"),
                memory_total_bytes: whole("memory_total_bytes"),
                disk_used_bytes: whole("disk_used_bytes"),
                disk_total_bytes: whole("disk_total_bytes"),
                received: part("received") as f32,
                sent: part("sent") as f32,
                read: part("read") as f32,
                written: part("written") as f32,
            }
        });
        Summary {
            hostname: text("hostname"),
            version: text("version"),
            instances: count("instances"),
            running: count("running"),
            machines: count("machines"),
            failing: count("failing"),
            promised_bytes: count("promised_bytes"),
            reading,
        }
    }
}
