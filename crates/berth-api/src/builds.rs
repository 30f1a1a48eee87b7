//! Builds that were asked for here: each step with its state and the end of what it said.
//!
//! Kept in memory like tasks: the newest [`KEPT_MAX`]. A build's task has its progress and can be cancelled; its steps
//! are here, because a task's log is too short for them.

use crate::schema::answers;
use berth_engine::builds::build::{Event, StepInfo};
use berth_types::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

const KEPT_MAX: usize = 30;
const STEPS_MAX: usize = 500;
/// The end of a step's output that is kept.
const OUTPUT_BYTES_MAX: usize = 32 << 10;

answers! {
    /// A build, without what its steps said.
    BuildRow {
        /// Its task's.
        id: u64,
        /// What the image is called; empty: nothing.
        name: String,
        who: String,
        steps: u64,
        /// Steps whose result was there already.
        cached: u64,
        image: Option<String>,
    }
    BuildDetail {
        id: u64,
        name: String,
        who: String,
        /// Of the Dockerfile.
        warnings: Vec<String>,
        steps: Vec<BuildStep>,
        image: Option<String>,
        /// The Dockerfile around the place that failed.
        snippet: String,
    }
    BuildStep {
        /// `[build 2/5] RUN make`
        name: String,
        /// waiting, running, cached, done or failed.
        state: String,
        started_unix_millis: Option<i64>,
        ended_unix_millis: Option<i64>,
        /// The end of what it said.
        output: String,
    }
}

#[derive(Default)]
pub(crate) struct Builds(Mutex<VecDeque<Arc<Build>>>);

/// One that runs or has ended.
pub(crate) struct Build(Mutex<State>);

struct State {
    id: u64,
    name: String,
    who: String,
    warnings: Vec<String>,
    steps: Vec<Step>,
    image: Option<String>,
    snippet: String,
}

struct Step {
    id: usize,
    name: String,
    state: &'static str,
    started: Option<i64>,
    ended: Option<i64>,
    output: Vec<u8>,
}

fn now_millis() -> i64 {
    berth_engine::events::now_unix_nanos() / 1_000_000
}

impl Builds {
    pub(crate) fn add(&self, name: &str, who: &str) -> Arc<Build> {
        let state = State {
            id: 0,
            name: name.to_owned(),
            who: who.to_owned(),
            warnings: Vec::new(),
            steps: Vec::new(),
            image: None,
            snippet: String::new(),
        };
        let build = Arc::new(Build(Mutex::new(state)));
        let mut all = self.0.lock().expect("no holder of this lock panics");
        if all.len() == KEPT_MAX {
            all.pop_front();
        }
        all.push_back(build.clone());
        build
    }

    /// All that somebody may see, newest first.
    pub(crate) fn list(&self, sees: impl Fn(&str) -> bool) -> Vec<BuildRow> {
        let all = self.0.lock().expect("no holder of this lock panics");
        all.iter().rev().map(|build| build.row()).filter(|row| sees(&row.who)).collect()
    }

    pub(crate) fn get(&self, id: u64, sees: impl Fn(&str) -> bool) -> Result<BuildDetail> {
        let all = self.0.lock().expect("no holder of this lock panics");
        let found = all.iter().find(|build| {
            let state = build.lock();
            state.id == id && sees(&state.who)
        });
        found.map(|build| build.detail()).ok_or_else(|| Error::not_found(format!("there is no build {id}")))
    }
}

impl Build {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// The task that does it.
    pub(crate) fn is_task(&self, id: u64) {
        self.lock().id = id;
    }

    pub(crate) fn made(&self, image: String) {
        self.lock().image = Some(image);
    }

    pub(crate) fn failed_at(&self, snippet: &str) {
        self.lock().snippet = snippet.to_owned();
    }

    /// Takes an event in; answers a line for the task's log where it has one, and how many steps have ended of how many.
    pub(crate) fn event(&self, event: Event) -> (Option<String>, usize, usize) {
        let mut state = self.lock();
        let line = state.event(event);
        let ended = state.steps.iter().filter(|step| step.ended.is_some()).count();
        (line, ended, state.steps.len())
    }

    fn row(&self) -> BuildRow {
        let state = self.lock();
        BuildRow {
            id: state.id,
            name: state.name.clone(),
            who: state.who.clone(),
            steps: state.steps.len() as u64,
            cached: state.steps.iter().filter(|step| step.state == "cached").count() as u64,
            image: state.image.clone(),
        }
    }

    fn detail(&self) -> BuildDetail {
        let state = self.lock();
        let step = |step: &Step| BuildStep {
            name: step.name.clone(),
            state: step.state.to_owned(),
            started_unix_millis: step.started,
            ended_unix_millis: step.ended,
            output: String::from_utf8_lossy(&step.output).into_owned(),
        };
        BuildDetail {
            id: state.id,
            name: state.name.clone(),
            who: state.who.clone(),
            warnings: state.warnings.clone(),
            steps: state.steps.iter().map(step).collect(),
            image: state.image.clone(),
            snippet: state.snippet.clone(),
        }
    }
}

impl State {
    fn event(&mut self, event: Event) -> Option<String> {
        match event {
            Event::Planned { steps, warnings } => {
                self.warnings = warnings.iter().map(|warning| warning.message.clone()).collect();
                let shown = steps.into_iter().filter(|step| !step.metadata).take(STEPS_MAX);
                self.steps = shown.map(Step::new).collect();
                None
            }
            Event::Started(id) => {
                let step = self.step(id)?;
                (step.state, step.started) = ("running", Some(now_millis()));
                Some(step.name.clone())
            }
            Event::Output(id, _, bytes) => {
                self.step(id)?.say(&bytes);
                None
            }
            Event::Cached(id) => self.ended(id, "cached").map(|name| format!("{name} (cached)")),
            Event::Done(id) => self.ended(id, "done").map(|_| None)?,
            Event::Failed(id, _) => self.ended(id, "failed").map(|name| format!("{name} failed")),
        }
    }

    fn step(&mut self, id: usize) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.id == id)
    }

    fn ended(&mut self, id: usize, how: &'static str) -> Option<String> {
        let step = self.step(id)?;
        (step.state, step.ended) = (how, Some(now_millis()));
        Some(step.name.clone())
    }
}

impl Step {
    fn new(info: StepInfo) -> Step {
        Step { id: info.id, name: info.name, state: "waiting", started: None, ended: None, output: Vec::new() }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        if self.output.len() > OUTPUT_BYTES_MAX {
            // Half at once: not every line moves all that is kept.
            self.output.drain(..self.output.len() - OUTPUT_BYTES_MAX / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_engine::builds::build::Stream;

    fn info(id: usize, name: &str) -> StepInfo {
        StepInfo {
            id,
            metadata: false,
            name: name.to_owned(),
            instruction: String::new(),
            stage: String::new(),
            lines: None,
        }
    }

    #[test]
    fn steps_follow_their_events_and_keep_the_end_of_what_they_said() {
        let builds = Builds::default();
        let build = builds.add("web", "ada");
        build.is_task(7);
        let steps = vec![info(1, "FROM a"), info(2, "RUN x"), StepInfo { metadata: true, ..info(3, "CMD y") }];
        assert_eq!(build.event(Event::Planned { steps, warnings: Vec::new() }), (None, 0, 2));
        assert_eq!(build.event(Event::Cached(1)), (Some("FROM a (cached)".to_owned()), 1, 2));
        assert_eq!(build.event(Event::Started(2)).0.as_deref(), Some("RUN x"));
        for _ in 0..100 {
            build.event(Event::Output(2, Stream::Stdout, vec![b'x'; 1000]));
        }
        build.event(Event::Output(2, Stream::Stdout, b"the end".to_vec()));
        build.event(Event::Output(3, Stream::Stdout, b"of a step that is not shown".to_vec()));
        assert_eq!(build.event(Event::Failed(2, String::new())).1, 2);
        let seen = builds.get(7, |_| true).unwrap();
        assert_eq!((seen.steps[0].state.as_str(), seen.steps[1].state.as_str()), ("cached", "failed"));
        assert!(seen.steps[1].output.ends_with("the end") && seen.steps[1].output.len() <= OUTPUT_BYTES_MAX);
        assert!(builds.get(7, |who| who == "eve").is_err() && builds.list(|who| who == "eve").is_empty());
        assert_eq!(builds.list(|_| true)[0].cached, 1);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let builds = Builds::default();
        for id in 0..KEPT_MAX as u64 + 5 {
            builds.add("x", "ada").is_task(id);
        }
        let rows = builds.list(|_| true);
        assert_eq!((rows.len(), rows[0].id), (KEPT_MAX, KEPT_MAX as u64 + 4));
    }
}
