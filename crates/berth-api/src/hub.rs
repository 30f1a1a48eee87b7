//! One stream of changes for every open page.
//!
//! ```text
//! engine's events --+-- rows of what changed (rendered once, together) --+
//! meters -----------+                                                    +--> every page's WebSocket
//! tasks ------------+----------------------------------------------------+
//! ```
//!
//! A page that falls behind is told to read everything anew (`resync`); nobody waits for it.

use crate::doors::instances::{Instance, row};
use crate::identity::Who;
use crate::tasks::Task;
use berth_engine::Engine;
use berth_engine::events::{EventKind, EventQuery};
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

const BEHIND_MAX: usize = 256;
/// Changes within this time are told together.
const TOGETHER: Duration = Duration::from_millis(40);
const TOGETHER_MAX: usize = 500;

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Message {
    /// Instances as they are now, and those that are gone.
    Instances {
        rows: Vec<Instance>,
        removed: Vec<String>,
    },
    /// One reading of all running instances and of the host.
    Meters {
        meters: Vec<crate::history::Reading>,
        host: crate::history::HostReading,
    },
    Task {
        task: Box<Task>,
    },
    /// Something happened to an image, volume, network or instance.
    Event {
        kind: &'static str,
        action: String,
        id: String,
        name: String,
        unix_millis: i64,
    },
    /// Other hosts, as they were last heard.
    Hosts {
        hosts: Vec<crate::hosts::HostRow>,
    },
    /// Read everything anew.
    Resync,
}

/// A message, written once for those who see everything.
#[derive(Debug)]
pub(crate) struct Telling {
    pub(crate) text: String,
    message: Message,
}

pub(crate) struct Hub {
    sender: broadcast::Sender<Arc<Telling>>,
}

impl Hub {
    pub(crate) fn new() -> Hub {
        Hub { sender: broadcast::channel(BEHIND_MAX).0 }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Telling>> {
        self.sender.subscribe()
    }

    pub(crate) fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(crate) fn send(&self, message: Message) {
        if !self.is_heard() {
            return;
        }
        match serde_json::to_string(&message) {
            // An error only says that the last listener has just gone.
            Ok(text) => drop(self.sender.send(Arc::new(Telling { text, message }))),
            Err(cause) => tracing::error!(%cause, "cannot write a message to the pages"),
        }
    }
}

/// What of the stream somebody sees.
pub(crate) struct Sight {
    who: Who,
    /// Instances of their projects that they were told of.
    seen: HashSet<String>,
}

impl Sight {
    /// `seen`: what they see at the beginning.
    pub(crate) fn new(who: Who, seen: HashSet<String>) -> Sight {
        Sight { who, seen }
    }

    /// The message as they may have it; `None`: it is nothing of theirs.
    pub(crate) fn of(&mut self, telling: &Telling) -> Option<String> {
        if self.who.sees_all() {
            return Some(telling.text.clone());
        }
        let theirs = match &telling.message {
            Message::Instances { rows, removed } => {
                let rows: Vec<Instance> = rows.iter().filter(|row| self.who.sees(&row.labels)).cloned().collect();
                self.seen.extend(rows.iter().map(|row| row.id.clone()));
                let removed: Vec<String> = removed.iter().filter(|id| self.seen.remove(*id)).cloned().collect();
                if rows.is_empty() && removed.is_empty() {
                    return None;
                }
                Message::Instances { rows, removed }
            }
            Message::Meters { meters, host } => {
                let meters = meters.iter().filter(|one| self.seen.contains(&one.id)).cloned().collect();
                Message::Meters { meters, host: host.clone() }
            }
            Message::Task { task } if task.who == self.who.user => return Some(telling.text.clone()),
            Message::Event { kind: "container", id, .. } if self.seen.contains(id) => {
                return Some(telling.text.clone());
            }
            // Says only that something changed: their pages read anew what they may see.
            Message::Event { kind, action, unix_millis, .. } if *kind != "container" => Message::Event {
                kind,
                action: action.clone(),
                id: String::new(),
                name: String::new(),
                unix_millis: *unix_millis,
            },
            Message::Task { .. } | Message::Event { .. } | Message::Hosts { .. } => return None,
            Message::Resync => Message::Resync,
        };
        serde_json::to_string(&theirs).ok()
    }
}

/// Follows the engine's events for as long as it lives.
pub(crate) async fn follow(engine: Engine, hub: Arc<Hub>) {
    let Ok(mut events) = engine.events().subscribe(EventQuery::default()) else { return };
    let mut changed = BTreeSet::new();
    loop {
        let Some(event) = events.next().await else { return };
        let mut next = Some(event);
        let until = tokio::time::Instant::now() + TOGETHER;
        while let Some(event) = next.take() {
            if event.kind == EventKind::Container {
                changed.insert(event.actor_id.clone());
            }
            // Health probes come every few seconds for each instance and change nothing that is shown.
            let noise = event.action.starts_with("exec_");
            if !noise {
                hub.send(Message::Event {
                    kind: event.kind.as_str(),
                    action: event.action.clone(),
                    id: event.actor_id.clone(),
                    name: event.attributes.get("name").cloned().unwrap_or_default(),
                    unix_millis: event.time_unix_nanos / 1_000_000,
                });
            }
            if changed.len() < TOGETHER_MAX {
                next = tokio::time::timeout_at(until, events.next()).await.ok().flatten();
            }
        }
        let changed = std::mem::take(&mut changed);
        if hub.is_heard() && !changed.is_empty() {
            tell(&engine, &hub, &changed);
        }
    }
}

fn tell(engine: &Engine, hub: &Hub, changed: &BTreeSet<String>) {
    let rows: Vec<Instance> = engine.containers().some(changed).iter().map(row).collect();
    let there: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let removed = changed.iter().filter(|id| !there.contains(id.as_str())).cloned().collect();
    hub.send(Message::Instances { rows, removed });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Role;

    #[test]
    fn a_member_is_told_of_their_projects_only() {
        let hub = Hub::new();
        let mut messages = hub.subscribe();
        let mut tell = |message: Message, sight: &mut Sight| {
            hub.send(message);
            sight.of(&messages.try_recv().unwrap())
        };
        let mut member = Who::local();
        member.role = Role::Member;
        member.user = "bob".to_owned();
        let mut sight = Sight::new(member, HashSet::from(["mine".to_owned()]));
        let event = |kind: &'static str, id: &str| Message::Event {
            kind,
            action: "start".to_owned(),
            id: id.to_owned(),
            name: "secret-name".to_owned(),
            unix_millis: 0,
        };
        assert!(tell(event("container", "other"), &mut sight).is_none());
        assert!(tell(event("container", "mine"), &mut sight).unwrap().contains("secret-name"));
        assert!(!tell(event("volume", "v"), &mut sight).unwrap().contains("secret-name"));
        let removed = |id: &str| Message::Instances { rows: Vec::new(), removed: vec![id.to_owned()] };
        assert!(tell(removed("other"), &mut sight).is_none());
        assert!(tell(removed("mine"), &mut sight).unwrap().contains("mine"));
        let mut all = Sight::new(Who::local(), HashSet::new());
        assert!(tell(event("container", "other"), &mut all).unwrap().contains("secret-name"));
    }
}
