//! An instance's log: pages backwards and forwards, search, following, the whole as text.
//!
//! A cursor is a line's time in nanoseconds. A page holds [`PAGE_MAX`] lines at most, whatever the log's size; a
//! search reads the log through, a line at a time.

use crate::Api;
use crate::error::ApiResult;
use crate::extract::Query;
use crate::schema::answers;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use berth_engine::containers::{LogOptions, LogRecord, OutputStream};
use bytes::Bytes;
use serde::Deserialize;
use std::collections::VecDeque;

const PAGE_MAX: usize = 2000;
const PAGE_DEFAULT: usize = 500;
/// A line on a page is cut to this; the text has it whole.
const LINE_BYTES_MAX: usize = 16 << 10;
const FOLLOW_TAIL_MAX: usize = 2000;

answers! {
    LogPage {
        lines: Vec<LogLine>,
        /// There are older lines (or, with `after`, newer ones).
        more: bool,
    }
    LogLine {
        /// When it was written, in nanoseconds since 1970: a cursor. As text, since it exceeds JavaScript's numbers.
        cursor: String,
        /// stdout or stderr.
        stream: String,
        text: String,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LogQuery {
    tail: Option<usize>,
    before: Option<i64>,
    after: Option<i64>,
    since: Option<i64>,
    until: Option<i64>,
    search: String,
    stream: String,
}

fn line(record: &LogRecord) -> LogLine {
    let end = record.line.len().min(LINE_BYTES_MAX);
    let text = String::from_utf8_lossy(&record.line[..end]);
    LogLine {
        cursor: record.time_unix_nanos.to_string(),
        stream: match record.stream {
            OutputStream::Stdout => "stdout",
            OutputStream::Stderr => "stderr",
        }
        .to_owned(),
        text: text.trim_end_matches(['\n', '\r']).to_owned(),
    }
}

impl LogQuery {
    fn options(&self) -> LogOptions {
        let nanos = |millis: i64| millis.saturating_mul(1_000_000);
        let since = [self.since.map(nanos), self.after.map(|after| after.saturating_add(1))];
        let until = [self.until.map(nanos), self.before.map(|before| before.saturating_sub(1))];
        LogOptions {
            follow: false,
            stdout: self.stream != "stderr",
            stderr: self.stream != "stdout",
            since_unix_nanos: since.into_iter().flatten().max(),
            until_unix_nanos: until.into_iter().flatten().min(),
            // The engine counts a tail before the other conditions; ours is counted after them.
            tail: None,
        }
    }
}

pub(crate) async fn page(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> ApiResult<axum::Json<LogPage>> {
    let most = query.tail.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let mut options = query.options();
    let plain = query.search.is_empty() && options.since_unix_nanos.is_none() && options.until_unix_nanos.is_none();
    if plain && query.stream.is_empty() {
        // The newest page of all, by far the most usual, need not read the log through.
        options.tail = Some(most + 1);
    }
    let search = query.search.to_lowercase();
    let mut stream = api.engine.containers().logs(&id, options).await?;
    let (mut lines, mut more) = (VecDeque::new(), false);
    while let Some(record) = stream.next().await {
        let line = line(&record?);
        if !search.is_empty() && !line.text.to_lowercase().contains(&search) {
            continue;
        }
        lines.push_back(line);
        if lines.len() > most {
            more = true;
            if query.after.is_some() {
                lines.pop_back();
                break;
            }
            lines.pop_front();
        }
    }
    Ok(axum::Json(LogPage { lines: lines.into(), more }))
}

pub(crate) async fn download(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<Response> {
    let found = api.engine.containers().inspect(&id, false).await?;
    let options = LogOptions { stdout: true, stderr: true, ..LogOptions::default() };
    let stream = api.engine.containers().logs(&id, options).await?;
    let lines = futures_util::stream::unfold(stream, |mut stream| async move {
        let next = stream.next().await?;
        let bytes: Result<Bytes, _> = next.map(|record| record.line);
        Some((bytes, stream))
    });
    // Names of instances have only letters, digits, dots, dashes and underscores.
    let disposition = format!("attachment; filename=\"{}.log\"", found.name);
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, Body::from_stream(lines)).into_response())
}

pub(crate) async fn follow(
    State(api): State<Api>,
    who: crate::identity::Who,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
    upgrade: WebSocketUpgrade,
) -> ApiResult<Response> {
    let mut options = query.options();
    options.follow = true;
    if options.since_unix_nanos.is_none() {
        options.tail = Some(query.tail.unwrap_or(PAGE_DEFAULT).min(FOLLOW_TAIL_MAX));
    }
    let mut stream = api.engine.containers().logs(&id, options).await?;
    Ok(super::streams::upgrade(upgrade).on_upgrade(move |mut socket| async move {
        let mut checks = super::streams::checks();
        loop {
            tokio::select! {
                record = stream.next() => {
                    let Some(Ok(record)) = record else { break };
                    // Lines that are there already go together.
                    let mut lines = vec![line(&record)];
                    while lines.len() < 200
                        && let Ok(Ok(record)) = stream.records.try_recv()
                    {
                        lines.push(line(&record));
                    }
                    let Ok(text) = serde_json::to_string(&lines) else { break };
                    if socket.send(Message::Text(text.into())).await.is_err() {
                        return;
                    }
                }
                message = socket.recv() => if !matches!(message, Some(Ok(Message::Ping(_) | Message::Pong(_)))) {
                    return;
                },
                _ = checks.tick() => if !super::streams::alive(&api, &who, &mut socket).await {
                    return;
                },
            }
        }
        super::streams::end(socket, "the instance has ended").await;
    }))
}
