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
use crate::tasks::Task;
use berth_engine::Engine;
use berth_engine::containers::ListOptions;
use berth_engine::events::{EventKind, EventQuery};
use serde::Serialize;
use std::collections::BTreeSet;
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
    /// Read everything anew.
    Resync,
}

pub(crate) struct Hub {
    sender: broadcast::Sender<Arc<str>>,
}

impl Hub {
    pub(crate) fn new() -> Hub {
        Hub { sender: broadcast::channel(BEHIND_MAX).0 }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.sender.subscribe()
    }

    pub(crate) fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(crate) fn send(&self, message: &Message) {
        if !self.is_heard() {
            return;
        }
        match serde_json::to_string(message) {
            // An error only says that the last listener has just gone.
            Ok(text) => drop(self.sender.send(text.into())),
            Err(cause) => tracing::error!(%cause, "cannot write a message to the pages"),
        }
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
                hub.send(&Message::Event {
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
            tell(&engine, &hub, changed).await;
        }
    }
}

async fn tell(engine: &Engine, hub: &Hub, changed: BTreeSet<String>) {
    let options = ListOptions { all: true, ..ListOptions::default() };
    let all = match engine.containers().list(&options).await {
        Ok(all) => all,
        Err(error) => return tracing::warn!(%error, "cannot list containers for the pages"),
    };
    let rows: Vec<Instance> = all.iter().filter(|summary| changed.contains(summary.id.as_str())).map(row).collect();
    let there: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let removed = changed.iter().filter(|id| !there.contains(id.as_str())).cloned().collect();
    hub.send(&Message::Instances { rows, removed });
}
