//! A build's progress as BuildKit tells it: vertexes that start and end, what they print, warnings.
//!
//! Everything said is kept until the build is forgotten, so that whoever asks late hears all of it. A reader gets
//! what has come together in one message, a few times in a second.

use berth_buildkit::grpc::Status;
use berth_buildkit::proto::Timestamp;
use berth_buildkit::proto::control::{
    Position, Range, SourceInfo, StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use berth_engine::builds::build::{Event, StepInfo, Stream};
use berth_engine::events::now_unix_nanos;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Between two messages to one reader.
const PAUSE: Duration = Duration::from_millis(50);
/// Logs of one message.
const LOG_BYTES_MAX: usize = 1 << 20;
/// Where BuildKit's checks are explained.
const RULES: &str = "https://docs.docker.com/go/dockerfile/rule/";

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A vertex's name on the wire: no two builds of this engine share one.
fn fresh() -> String {
    format!("sha256:{:064x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn now() -> Option<Timestamp> {
    Some(Timestamp::from_unix_nanos(now_unix_nanos()))
}

#[derive(Default)]
pub(super) struct Progress {
    said: Mutex<Said>,
    more: Notify,
}

#[derive(Default)]
struct Said {
    all: Vec<Arc<StatusResponse>>,
    ended: bool,
    /// The builder's steps by their place in its graph.
    steps: BTreeMap<usize, Vertex>,
    /// The vertex that warnings belong to, and the file that they are about.
    definition: Option<(String, SourceInfo)>,
}

impl Progress {
    fn with(&self, change: impl FnOnce(&mut Said) -> StatusResponse) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let message = change(&mut said);
        said.all.push(Arc::new(message));
        drop(said);
        self.more.notify_waiters();
    }

    /// A step of the door's own.
    pub(super) fn begin(self: &Arc<Self>, name: impl Into<String>) -> Step {
        let vertex = Vertex { digest: fresh(), name: name.into(), started: now(), ..Vertex::default() };
        let first = vertex.clone();
        self.with(|_| StatusResponse { vertexes: vec![first], ..StatusResponse::default() });
        Step { progress: self.clone(), vertex, open: true }
    }

    /// Which file warnings and errors are about.
    pub(super) fn defined_by(&self, step: &Step, info: SourceInfo) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.definition = Some((step.vertex.digest.clone(), info));
    }

    pub(super) fn definition(&self) -> Option<SourceInfo> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.definition.as_ref().map(|(_, info)| info.clone())
    }

    pub(super) fn digest_of(&self, step: usize) -> Option<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.steps.get(&step).map(|vertex| vertex.digest.clone())
    }

    /// What the builder says.
    pub(super) fn event(&self, event: Event) {
        self.with(|said| match event {
            Event::Planned { steps, warnings } => {
                said.plan(&steps);
                let (vertex, info) = said.definition.clone().unzip();
                StatusResponse {
                    vertexes: said.steps.values().cloned().collect(),
                    warnings: warnings
                        .iter()
                        .map(|warning| {
                            let rule = format!("{:?}", warning.rule);
                            VertexWarning {
                                vertex: vertex.clone().unwrap_or_default(),
                                level: 1,
                                short: format!("{rule}: {} (line {})", warning.message, warning.lines.first)
                                    .into_bytes(),
                                detail: Vec::new(),
                                url: rule_url(&rule),
                                info: info.clone(),
                                ranges: vec![range(warning.lines.first, warning.lines.last)],
                            }
                        })
                        .collect(),
                    ..StatusResponse::default()
                }
            }
            Event::Started(id) => said.change(id, |vertex| vertex.started = now()),
            Event::Done(id) => said.change(id, |vertex| vertex.completed = now()),
            Event::Cached(id) => said.change(id, |vertex| {
                vertex.cached = true;
                vertex.started = vertex.started.or_else(now);
                vertex.completed = now();
            }),
            Event::Failed(id, text) => said.change(id, |vertex| {
                vertex.started = vertex.started.or_else(now);
                vertex.completed = now();
                // Its output was shown already.
                vertex.error = text.split(": last output:\n").next().unwrap_or_default().to_owned();
            }),
            Event::Output(id, stream, msg) => {
                let vertex = said.steps.get(&id).map(|vertex| vertex.digest.clone()).unwrap_or_default();
                let stream = if stream == Stream::Stdout { 1 } else { 2 };
                let logs = vec![VertexLog { vertex, timestamp: now(), stream, msg }];
                StatusResponse { logs, ..StatusResponse::default() }
            }
        });
    }

    /// No more will be said.
    pub(super) fn end(&self) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.more.notify_waiters();
    }

    /// Tells all of it, from the beginning to the end; fails where nobody listens any more.
    pub(super) async fn tell<F, S>(&self, send: F) -> Result<(), Status>
    where
        F: Fn(StatusResponse) -> S,
        S: Future<Output = Result<(), Status>>,
    {
        let mut told = 0;
        loop {
            let more = self.more.notified();
            let (message, count, last) = {
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                let (message, count) = together(&said.all[told..]);
                (message, count, said.ended && told + count == said.all.len())
            };
            told += count;
            if count > 0 {
                send(message).await?;
            }
            if last {
                return Ok(());
            }
            match count {
                0 => more.await,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// As many as fit into one message, in their order.
fn together(said: &[Arc<StatusResponse>]) -> (StatusResponse, usize) {
    let mut message = StatusResponse::default();
    let mut bytes = 0;
    for (count, one) in said.iter().enumerate() {
        bytes += one.logs.iter().map(|log| log.msg.len()).sum::<usize>();
        if count > 0 && bytes > LOG_BYTES_MAX {
            return (message, count);
        }
        message.vertexes.extend(one.vertexes.iter().cloned());
        message.statuses.extend(one.statuses.iter().cloned());
        message.logs.extend(one.logs.iter().cloned());
        message.warnings.extend(one.warnings.iter().cloned());
    }
    (message, said.len())
}

impl Said {
    fn plan(&mut self, steps: &[StepInfo]) {
        for step in steps.iter().filter(|step| !step.metadata) {
            let vertex = Vertex { digest: fresh(), name: step.name.clone(), ..Vertex::default() };
            self.steps.entry(step.id).or_insert(vertex);
        }
    }

    fn change(&mut self, id: usize, change: impl FnOnce(&mut Vertex)) -> StatusResponse {
        let vertexes = self.steps.get_mut(&id).map(|vertex| {
            change(vertex);
            vertex.clone()
        });
        StatusResponse { vertexes: vertexes.into_iter().collect(), ..StatusResponse::default() }
    }
}

/// Lines as BuildKit counts them.
pub(super) fn range(first: usize, last: usize) -> Range {
    let at = |line: usize| Some(Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
    Range { start: at(first), end: at(last) }
}

/// Where one of BuildKit's checks is explained.
pub(super) fn rule_url(rule: &str) -> String {
    format!("{RULES}{}/", kebab(rule))
}

/// `JSONArgsRecommended` as `json-args-recommended`.
fn kebab(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, c) in chars.iter().enumerate() {
        let begins = c.is_uppercase()
            && at > 0
            && (chars[at - 1].is_lowercase() || chars.get(at + 1).is_some_and(|next| next.is_lowercase()));
        if begins {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// A step of the door's own; dropped before its end, it was cancelled.
pub(super) struct Step {
    progress: Arc<Progress>,
    vertex: Vertex,
    open: bool,
}

impl Step {
    /// A part of it, which has ended with this many bytes.
    pub(super) fn part(&self, name: &str, bytes: u64) {
        let current = i64::try_from(bytes).unwrap_or(i64::MAX);
        let status = VertexStatus {
            id: name.to_owned(),
            vertex: self.vertex.digest.clone(),
            name: String::new(),
            current,
            total: 0,
            timestamp: now(),
            // What is told after the end took no time of its own.
            started: if self.open { self.vertex.started } else { now() },
            completed: now(),
        };
        self.progress.with(|_| StatusResponse { statuses: vec![status], ..StatusResponse::default() });
    }

    pub(super) fn done(mut self) {
        self.end();
    }

    /// It has ended; parts of it may be told still.
    pub(super) fn end(&mut self) {
        self.close(String::new());
    }

    pub(super) fn failed(mut self, why: &str) {
        self.close(why.to_owned());
    }

    fn close(&mut self, error: String) {
        self.open = false;
        let mut vertex = self.vertex.clone();
        vertex.completed = now();
        vertex.error = error;
        self.progress.with(|_| StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() });
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.open {
            self.close("context canceled".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_named_as_in_their_addresses() {
        for (rule, name) in [
            ("JSONArgsRecommended", "json-args-recommended"),
            ("FromAsCasing", "from-as-casing"),
            ("UndefinedVar", "undefined-var"),
        ] {
            assert_eq!(kebab(rule), name);
        }
    }

    #[test]
    fn a_step_is_told_from_its_plan_to_its_end_and_long_logs_come_in_parts() {
        let progress = Progress::default();
        let step = StepInfo {
            id: 3,
            metadata: false,
            name: "[1/1] RUN a".to_owned(),
            instruction: "RUN a".to_owned(),
            stage: String::new(),
            lines: None,
        };
        progress
            .event(Event::Planned { steps: vec![step.clone(), StepInfo { metadata: true, ..step }], warnings: vec![] });
        progress.event(Event::Started(3));
        for _ in 0..3 {
            progress.event(Event::Output(3, Stream::Stderr, vec![b'x'; LOG_BYTES_MAX / 2]));
        }
        progress.event(Event::Failed(3, "no: last output:\nxxx".to_owned()));
        let said = progress.said.lock().unwrap();
        let (first, count) = together(&said.all);
        assert_eq!((first.vertexes.len(), first.logs.len(), count), (2, 2, 4));
        assert!(first.vertexes[0].started.is_none() && first.vertexes[1].started.is_some());
        let (rest, count) = together(&said.all[count..]);
        assert_eq!((rest.logs.len(), count), (1, 2));
        assert_eq!(rest.vertexes[0].error, "no");
    }
}
