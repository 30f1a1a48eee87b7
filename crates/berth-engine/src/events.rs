//! Events: what happened, to whom, when.
//!
//! The newest [`KEPT_MAX`] are kept in memory for `since`; every subscriber hears each later one once, in
//! order. A subscriber that falls more than [`BEHIND_MAX`] behind loses the oldest, never blocks anybody.

use crate::Filters;
use berth_types::{Error, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};

/// More would cost the idle engine memory; `since` reaches back this far at most.
const KEPT_MAX: usize = 1024;
const BEHIND_MAX: usize = 2048;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    Container,
    Image,
    Volume,
    Network,
    Daemon,
    Builder,
    Secret,
    Config,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Container => "container",
            EventKind::Image => "image",
            EventKind::Volume => "volume",
            EventKind::Network => "network",
            EventKind::Daemon => "daemon",
            EventKind::Builder => "builder",
            EventKind::Secret => "secret",
            EventKind::Config => "config",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// Docker's word: `create`, `start`, `die`, `exec_create: ls`, `health_status: healthy`, ...
    pub action: String,
    pub actor_id: String,
    pub attributes: BTreeMap<String, String>,
    pub time_unix_nanos: i64,
}

/// What a subscriber wants to hear.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    pub since_unix_nanos: Option<i64>,
    /// The stream ends when this moment has passed.
    pub until_unix_nanos: Option<i64>,
    /// Keys: container, daemon, event, image, label, network, scope, type, volume.
    pub filters: Filters,
}

#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

struct Shared {
    kept: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
    /// For the one who waits in [`Events::quiet`].
    happened: Notify,
}

/// Events as they happen; ends at `until`.
pub struct EventStream {
    replay: VecDeque<Arc<Event>>,
    receiver: broadcast::Receiver<Arc<Event>>,
    query: EventQuery,
}

/// Nanoseconds since 1970.
pub fn now_unix_nanos() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Events {
    pub(crate) fn new() -> Events {
        let (sender, _) = broadcast::channel(BEHIND_MAX);
        Events { shared: Arc::new(Shared { kept: Mutex::new(VecDeque::new()), sender, happened: Notify::new() }) }
    }

    /// Tells everybody, stamped with the present moment.
    pub fn publish(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        actor_id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let mut kept = self.shared.kept.lock().expect("no holder of this lock panics");
        let event = Arc::new(Event {
            kind,
            action: action.into(),
            actor_id: actor_id.into(),
            attributes,
            time_unix_nanos: now_unix_nanos(),
        });
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Sent under the lock: a subscriber sees each event either in the replay or live, never twice.
        // An error only says that nobody listens.
        self.shared.sender.send(event).ok();
        self.shared.happened.notify_one();
    }

    /// Returns when something has happened, and after it nothing more for as long as `pause`. For one caller at a time.
    pub(crate) async fn quiet(&self, pause: Duration) {
        self.shared.happened.notified().await;
        while tokio::time::timeout(pause, self.shared.happened.notified()).await.is_ok() {}
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.shared.sender.receiver_count()
    }

    pub fn subscribe(&self, query: EventQuery) -> Result<EventStream> {
        const KNOWN: &[&str] = &[
            "config",
            "container",
            "daemon",
            "event",
            "image",
            "label",
            "network",
            "node",
            "plugin",
            "scope",
            "secret",
            "service",
            "type",
            "volume",
            "builder",
        ];
        query.filters.only(KNOWN)?;
        if let (Some(since), Some(until)) = (query.since_unix_nanos, query.until_unix_nanos)
            && since > until
        {
            let seconds = |nanos: i64| nanos / 1_000_000_000;
            return Err(Error::invalid(format!(
                "`since` time ({}) cannot be after `until` time ({})",
                seconds(since),
                seconds(until)
            )));
        }
        let kept = self.shared.kept.lock().expect("no holder of this lock panics");
        let receiver = self.shared.sender.subscribe();
        let wants_past = query.since_unix_nanos.is_some() || query.until_unix_nanos.is_some();
        let since = query.since_unix_nanos.unwrap_or(0);
        let replay = match wants_past {
            true => kept.iter().filter(|event| event.time_unix_nanos >= since).cloned().collect(),
            false => VecDeque::new(),
        };
        Ok(EventStream { replay, receiver, query })
    }
}

impl EventStream {
    /// The next event that passes the filters; `None` once `until` has passed.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = match self.replay.pop_front() {
                Some(event) => event,
                None => self.live().await?,
            };
            if self.query.until_unix_nanos.is_some_and(|until| event.time_unix_nanos > until) {
                return None;
            }
            if passes(&self.query.filters, &event) {
                return Some(event);
            }
        }
    }

    async fn live(&mut self) -> Option<Arc<Event>> {
        loop {
            let received = match self.query.until_unix_nanos {
                None => self.receiver.recv().await,
                Some(until) => {
                    let left = u64::try_from(until.saturating_sub(now_unix_nanos())).unwrap_or(0);
                    let left = std::time::Duration::from_nanos(left);
                    tokio::time::timeout(left, self.receiver.recv()).await.ok()?
                }
            };
            match received {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Whether `event` passes, as Docker's daemon decides it.
fn passes(filters: &Filters, event: &Event) -> bool {
    let name = event.attributes.get("name").map_or("", String::as_str);
    let about = |key: &str, kind: EventKind| {
        !filters.contains(key)
            || (event.kind == kind
                && filters.get(key).iter().any(|wanted| {
                    event.actor_id.starts_with(wanted.as_str()) || name == wanted.trim_start_matches('/')
                }))
    };
    let image = || {
        !filters.contains("image")
            || match event.kind {
                EventKind::Image => {
                    filters.get("image").iter().any(|w| event.actor_id == *w || name == w || strip_tag(name) == w)
                }
                _ => event
                    .attributes
                    .get("image")
                    .is_some_and(|have| filters.get("image").iter().any(|w| have == w || strip_tag(have) == w)),
            }
    };
    let action = || {
        !filters.contains("event")
            || filters.get("event").iter().any(|wanted| {
                event.action == *wanted || event.action.split_once(':').is_some_and(|(word, _)| word == wanted)
            })
    };
    filters.exact("type", event.kind.as_str())
        && filters.exact("scope", "local")
        && action()
        && about("container", EventKind::Container)
        && about("volume", EventKind::Volume)
        && about("network", EventKind::Network)
        && about("daemon", EventKind::Daemon)
        && image()
        && filters.labels(&event.attributes)
}

/// `debian` of `debian:bookworm`; a port's colon is followed by a slash.
fn strip_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(events: &Events, action: &str, id: &str) {
        events.publish(EventKind::Container, action, id, BTreeMap::from([("name".into(), format!("n-{id}"))]));
    }

    #[tokio::test]
    async fn replay_and_live_events_come_once_and_in_order() {
        let events = Events::new();
        publish(&events, "create", "a");
        let mut stream = events.subscribe(EventQuery { since_unix_nanos: Some(0), ..EventQuery::default() }).unwrap();
        publish(&events, "start", "a");
        assert_eq!(stream.next().await.unwrap().action, "create");
        assert_eq!(stream.next().await.unwrap().action, "start");
    }

    #[tokio::test]
    async fn a_stream_with_a_past_end_ends() {
        let events = Events::new();
        publish(&events, "create", "a");
        let query = EventQuery {
            until_unix_nanos: Some(now_unix_nanos()),
            filters: Filters::default().with("container", "n-a").with("event", "create"),
            ..EventQuery::default()
        };
        let mut stream = events.subscribe(query).unwrap();
        assert_eq!(stream.next().await.unwrap().actor_id, "a");
        assert!(stream.next().await.is_none());
    }

    #[test]
    fn a_word_with_details_matches_its_bare_word() {
        let event = Event {
            kind: EventKind::Container,
            action: "exec_create: ls -l".into(),
            actor_id: "x".into(),
            attributes: BTreeMap::new(),
            time_unix_nanos: 0,
        };
        assert!(passes(&Filters::default().with("event", "exec_create"), &event));
        assert!(!passes(&Filters::default().with("event", "exec_start"), &event));
    }
}
