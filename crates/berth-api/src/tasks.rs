//! Long actions: each has progress, a log, an end, and can be cancelled.
//!
//! Kept in memory: the newest [`KEPT_MAX`] that ended, and all that run. An engine that stops ends its tasks;
//! what they were doing is finished or undone by the engine's own rules, not by this list.

use crate::audit::Audit;
use crate::hub::{Hub, Message};
use crate::schema::answers;
use berth_types::{Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const KEPT_MAX: usize = 100;
const RUNNING_MAX: usize = 64;
const LINES_MAX: usize = 200;
const LINE_BYTES_MAX: usize = 400;

answers! {
    /// A long action.
    Task {
        id: u64,
        /// image.bootstrap, instance.stop, prune, ...
        act: String,
        /// On what.
        target: String,
        who: String,
        /// running, done, failed or cancelled.
        state: String,
        /// 0 to 1, where it can be told.
        progress: Option<f64>,
        /// The newest lines of its log.
        lines: Vec<String>,
        /// Why it failed.
        error: Option<crate::error::Failure>,
        started_unix_millis: i64,
        ended_unix_millis: Option<i64>,
    }
}

pub(crate) struct Tasks {
    all: Mutex<VecDeque<Arc<Running>>>,
    next: AtomicU64,
    hub: Arc<Hub>,
    /// How each ended stands there, as who began it does.
    audit: Option<Arc<Audit>>,
}

struct Running {
    task: Mutex<Task>,
    cancel: Notify,
}

impl Running {
    fn now(&self) -> Task {
        self.task.lock().expect("no holder of this lock panics").clone()
    }
}

/// A task's own hand on its entry.
#[derive(Clone)]
pub(crate) struct Progress {
    running: Arc<Running>,
    hub: Arc<Hub>,
}

fn now_millis() -> i64 {
    berth_engine::events::now_unix_nanos() / 1_000_000
}

impl Progress {
    fn change(&self, change: impl FnOnce(&mut Task)) {
        let task = {
            let mut task = self.running.task.lock().expect("no holder of this lock panics");
            change(&mut task);
            task.clone()
        };
        self.hub.send(Message::Task { task: Box::new(task) });
    }

    /// Adds a line to its log.
    pub(crate) fn line(&self, text: &str) {
        let mut end = text.len().min(LINE_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.change(|task| {
            if task.lines.len() == LINES_MAX {
                task.lines.remove(0);
            }
            task.lines.push(text[..end].to_owned());
        });
    }

    pub(crate) fn part(&self, done: u64, all: u64) {
        self.change(|task| task.progress = (all > 0).then(|| (done as f64 / all as f64).clamp(0.0, 1.0)));
    }
}

impl Tasks {
    pub(crate) fn new(hub: Arc<Hub>, audit: Option<Arc<Audit>>) -> Tasks {
        Tasks { all: Mutex::default(), next: AtomicU64::new(1), hub, audit }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Running>>> {
        self.all.lock().expect("no holder of this lock panics")
    }

    /// Starts `work`; answers the task as it is now. Cancelling drops the work.
    pub(crate) fn start<F>(&self, who: &str, act: &str, target: &str, work: impl FnOnce(Progress) -> F) -> Result<Task>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let task = Task {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            act: act.to_owned(),
            target: target.to_owned(),
            who: who.to_owned(),
            state: "running".to_owned(),
            progress: None,
            lines: Vec::new(),
            error: None,
            started_unix_millis: now_millis(),
            ended_unix_millis: None,
        };
        let running = Arc::new(Running { task: Mutex::new(task.clone()), cancel: Notify::new() });
        {
            let mut all = self.lock();
            let runs = |one: &Arc<Running>| one.task.lock().expect("no holder panics").ended_unix_millis.is_none();
            if all.iter().filter(|one| runs(one)).count() >= RUNNING_MAX {
                return Err(Error::new(ErrorKind::Unavailable, format!("{RUNNING_MAX} tasks are running already"))
                    .with_hint("wait for one to end, or cancel one"));
            }
            if all.len() >= KEPT_MAX
                && let Some(oldest) = all.iter().position(|one| !runs(one))
            {
                all.remove(oldest);
            }
            all.push_back(running.clone());
        }
        let progress = Progress { running: running.clone(), hub: self.hub.clone() };
        let work = work(progress.clone());
        progress.change(|_| ());
        let audit = self.audit.clone();
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = work => Some(ended),
                () = running.cancel.notified() => None,
            };
            progress.change(|task| {
                task.ended_unix_millis = Some(now_millis());
                let state = match ended {
                    Some(Ok(())) => "done",
                    Some(Err(error)) => {
                        task.error = Some(crate::error::failure(&error));
                        "failed"
                    }
                    None => "cancelled",
                };
                task.state = state.to_owned();
            });
            if let Some(audit) = audit {
                let Task { id, act, target, who, state, error, .. } = running.now();
                let outcome = error.map_or(state, |error| format!("failed: {}", error.message));
                if let Err(error) = audit.note(&who, &format!("task {id}"), &act, &target, &outcome).await {
                    tracing::error!(%error, act, who, "the audit log is not complete");
                }
            }
        });
        Ok(task)
    }

    /// All, newest first.
    pub(crate) fn list(&self) -> Vec<Task> {
        self.lock().iter().rev().map(|one| one.now()).collect()
    }

    fn find(&self, id: u64) -> Result<Arc<Running>> {
        let all = self.lock();
        let found = all.iter().find(|one| one.task.lock().expect("no holder panics").id == id).cloned();
        found.ok_or_else(|| Error::not_found(format!("there is no task {id}")))
    }

    pub(crate) fn get(&self, id: u64) -> Result<Task> {
        Ok(self.find(id)?.now())
    }

    pub(crate) fn cancel(&self, id: u64) -> Result<()> {
        let found = self.find(id)?;
        if found.task.lock().expect("no holder panics").ended_unix_millis.is_some() {
            return Err(Error::conflict(format!("task {id} has ended already")));
        }
        found.cancel.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ended(tasks: &Tasks, id: u64) -> Task {
        for _ in 0..10_000 {
            let task = tasks.get(id).unwrap();
            if task.ended_unix_millis.is_some() {
                return task;
            }
            tokio::task::yield_now().await;
        }
        panic!("task {id} does not end");
    }

    #[tokio::test]
    async fn tasks_end_fail_and_are_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let store = berth_store::Store::open(&folder.path().join("a.redb"), |_, _, record| record).unwrap();
        let audit = Arc::new(Audit::open(store).unwrap());
        let tasks = Tasks::new(Arc::new(Hub::new()), Some(audit.clone()));
        let done = tasks.start("ada", "a", "x", |progress| async move {
            progress.line("half way");
            progress.part(1, 2);
            Ok(())
        });
        let done = ended(&tasks, done.unwrap().id).await;
        assert_eq!((done.state.as_str(), done.progress, done.lines.len()), ("done", Some(0.5), 1));
        let failed = tasks.start("ada", "b", "x", |_| async { Err(Error::conflict("no")) }).unwrap();
        assert_eq!(ended(&tasks, failed.id).await.error.unwrap().message, "no");
        let endless = tasks.start("ada", "c", "x", |_| std::future::pending()).unwrap();
        tasks.cancel(endless.id).unwrap();
        assert_eq!(ended(&tasks, endless.id).await.state, "cancelled");
        assert!(tasks.cancel(endless.id).is_err());
        let noted = || audit.list(None, "task", 10).unwrap();
        while noted().len() < 3 {
            tokio::task::yield_now().await;
        }
        let outcomes: Vec<String> = noted().into_iter().rev().map(|entry| entry.outcome).collect();
        assert_eq!(outcomes, ["done", "failed: no", "cancelled"]);
        assert_eq!(tasks.list()[0].id, endless.id);
    }
}
