//! What only a guest knows of itself: how much of its memory it uses, how full its disks are.
//!
//! Its agent says it; where there is none, the balloon's driver, which most systems bring, knows of the memory. The guest may
//! lie, so what it says is bounded and shown, and nothing is decided by it.

use super::{Machines, guest, monitor, start};
use crate::containers::{Container, blocking};
use berth_agent_proto::{Answer, FILESYSTEMS_MAX, Request, Statistics};
use berth_types::{Phase, Result};
use berth_vm::qmp::{Client, QmpError};
use berth_vm::spec::QMP_SOCKET;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Where somebody asks for one machine.
const ONE: Duration = Duration::from_secs(5);
/// Where a list is waiting: a guest that hangs is left out of it.
const OF_MANY: Duration = Duration::from_secs(1);
/// A driver that is there tells at once when it is asked for the first time.
const FIRST: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often the balloon's driver is asked from the first question on: a guest that sleeps is woken for it.
const BALLOON_SECONDS: u64 = 5;
/// What is older says nothing about now.
const STALE_SECONDS: u64 = 60;
const BALLOON: &str = "/machine/peripheral/balloon";
const PATH_CHARS_MAX: usize = 256;

/// How a guest is, by its own word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestStatistics {
    /// `agent` or `balloon`.
    pub source: &'static str,
    pub memory_total_bytes: u64,
    /// Without what the guest's kernel would give back.
    pub memory_used_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_used_bytes: u64,
    /// Of the agent only.
    pub uptime_millis: u64,
    pub filesystems: Vec<GuestFilesystem>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFilesystem {
    pub path: String,
    pub total_bytes: u64,
    pub used_bytes: u64,
}

impl Machines {
    /// `None`: the machine does not run, or its guest has neither an agent nor a balloon's driver.
    pub async fn guest(&self, machine: &str) -> Result<Option<GuestStatistics>> {
        Ok(self.of_guest(&self.get(machine)?, ONE, FIRST).await)
    }

    /// The same of one that the caller has.
    pub(super) async fn of_guest_now(&self, container: &Arc<Container>) -> Option<GuestStatistics> {
        self.of_guest(container, ONE, FIRST).await
    }

    /// The same of many at once, by id: those that say it without being waited for.
    pub async fn guests(&self, ids: &[String]) -> Vec<(String, GuestStatistics)> {
        let mut asked = tokio::task::JoinSet::new();
        for id in ids {
            let Ok(container) = self.get(id) else { continue };
            let (machines, id) = (self.clone(), id.clone());
            asked.spawn(async move {
                let said = machines.of_guest(&container, OF_MANY, Duration::ZERO).await;
                said.map(|said| (id, said))
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    async fn of_guest(&self, container: &Arc<Container>, time: Duration, first: Duration) -> Option<GuestStatistics> {
        if !matches!(container.phase(), Phase::Running { .. }) {
            return None;
        }
        if container.record().machine.as_ref().is_some_and(|machine| machine.agent) {
            let (engine, id) = (self.engine.clone(), container.id.clone());
            let said = blocking(move || guest::agent(&engine, &id, time)?.ask(&Request::Statistics)).await;
            if let Ok(Answer::Statistics(said)) = said {
                return Some(of_agent(*said));
            }
        }
        let folder = start::run_folder(&self.engine, &container.id);
        let asked = blocking(move || {
            let mut monitor = Client::connect(&folder, QMP_SOCKET, time).map_err(|error| monitor::told(&error))?;
            balloon(&mut monitor, first).map_err(|error: QmpError| monitor::told(&error))
        });
        match asked.await {
            Ok(said) => said,
            Err(error) => {
                tracing::debug!(machine = container.name(), %error, "the balloon says nothing");
                None
            }
        }
    }
}

fn of_agent(said: Statistics) -> GuestStatistics {
    let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(PATH_CHARS_MAX).collect();
    GuestStatistics {
        source: "agent",
        memory_total_bytes: said.memory_total_bytes,
        memory_used_bytes: said.memory_total_bytes.saturating_sub(said.memory_available_bytes),
        swap_total_bytes: said.swap_total_bytes,
        swap_used_bytes: said.swap_total_bytes.saturating_sub(said.swap_free_bytes),
        uptime_millis: said.uptime_millis,
        filesystems: said
            .filesystems
            .iter()
            .take(FILESYSTEMS_MAX)
            .map(|one| GuestFilesystem {
                path: plain(&one.path),
                total_bytes: one.total_bytes,
                used_bytes: one.used_bytes.min(one.total_bytes),
            })
            .collect(),
    }
}

/// Asks for news from now on, and for the newest that are there.
fn balloon(monitor: &mut Client, first: Duration) -> std::result::Result<Option<GuestStatistics>, QmpError> {
    let poll = json!({"path": BALLOON, "property": "guest-stats-polling-interval", "value": BALLOON_SECONDS});
    monitor.ask("qom-set", poll)?;
    let begun = Instant::now();
    loop {
        let said = monitor.ask("qom-get", json!({"path": BALLOON, "property": "guest-stats"}))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let found = of_balloon(&said, now);
        if found.is_some() || begun.elapsed() >= first {
            return Ok(found);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// What the driver does not know is -1, also as an unsigned number.
fn of_balloon(said: &Value, now_unix_seconds: u64) -> Option<GuestStatistics> {
    let updated = said["last-update"].as_u64().filter(|at| *at > 0)?;
    if now_unix_seconds.saturating_sub(updated) > STALE_SECONDS {
        return None;
    }
    let known = |name: &str| said["stats"][name].as_u64().filter(|bytes| *bytes != u64::MAX);
    let total = known("stat-total-memory")?;
    // Kernels before 4.6 know of free memory only.
    let available = known("stat-available-memory").or_else(|| known("stat-free-memory"))?;
    Some(GuestStatistics {
        source: "balloon",
        memory_total_bytes: total,
        memory_used_bytes: total.saturating_sub(available),
        ..GuestStatistics::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_agent_proto::Filesystem;

    #[test]
    fn a_balloon_without_a_driver_says_nothing() {
        let unknown =
            json!({"stats": {"stat-total-memory": u64::MAX, "stat-available-memory": u64::MAX}, "last-update": 0});
        assert_eq!(of_balloon(&unknown, 100), None);
        let mut said = json!({"stats": {"stat-total-memory": 100, "stat-free-memory": 30}, "last-update": 90});
        assert_eq!(of_balloon(&said, 100).unwrap().memory_used_bytes, 70);
        said["stats"]["stat-available-memory"] = json!(60);
        assert_eq!(of_balloon(&said, 100).unwrap().memory_used_bytes, 40);
        assert_eq!(of_balloon(&said, 90 + STALE_SECONDS + 1), None, "a guest that stopped telling");
        said["stats"]["stat-total-memory"] = json!(-1);
        assert_eq!(of_balloon(&said, 100), None);
    }

    #[test]
    fn a_guest_that_lies_is_bounded() {
        let one = Filesystem { path: format!("/a\u{1b}[2J{}", "b".repeat(9999)), total_bytes: 1, used_bytes: u64::MAX };
        let said = Statistics {
            memory_total_bytes: 1,
            memory_available_bytes: u64::MAX,
            filesystems: vec![one; 1000],
            ..Statistics::default()
        };
        let seen = of_agent(said);
        assert_eq!((seen.memory_used_bytes, seen.filesystems.len()), (0, FILESYSTEMS_MAX));
        let first = &seen.filesystems[0];
        assert!(first.path.starts_with("/a[2J") && first.path.len() <= PATH_CHARS_MAX, "{}", first.path);
        assert_eq!(first.used_bytes, 1);
    }
}
