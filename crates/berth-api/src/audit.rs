//! The audit log: who changed what, when, from where, with what outcome.
//!
//! ```text
//! audit/00000000000000000042        -> {"unix_millis", "who", "from", "act", "target", "outcome"}
//! audit.docker/00000000000000000043    the same, of Docker's door
//! ```
//!
//! One numbering for both. An entry is durable before its request is answered, but of Docker's door, where nobody
//! waits for it. The newest [`KEPT_MAX`] of each are kept.

use crate::schema::answers;
use berth_store::{Batch, Store, StoreError};
use berth_types::{Error, ErrorKind, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const KEPT_MAX: usize = 20_000;
/// A caller's text in an entry is cut to this.
const TEXT_BYTES_MAX: usize = 300;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    unix_millis: i64,
    who: String,
    from: String,
    act: String,
    target: String,
    outcome: String,
}

answers! {
    /// One entry of the audit log.
    AuditEntry {
        /// Grows with each entry.
        number: u64,
        unix_millis: i64,
        who: String,
        /// Address that the request came from.
        from: String,
        /// instance.start, user.create, ...
        act: String,
        target: String,
        /// ok, or why not.
        outcome: String,
    }
}

const TABLES: [&str; 2] = ["audit", "audit.docker"];

pub(crate) struct Audit {
    store: Store,
    next: AtomicU64,
    /// Numbers in each table, oldest first.
    kept: [Mutex<VecDeque<u64>>; 2],
}

fn key(number: u64) -> String {
    format!("{number:020}")
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl Audit {
    pub(crate) fn open(store: Store) -> Result<Audit> {
        let numbers = |table: &str| -> Result<VecDeque<u64>> {
            let all = store.list::<IgnoredAny>(table).map_err(|cause| failed(&cause))?;
            Ok(all.iter().filter_map(|(key, _)| key.parse::<u64>().ok()).collect())
        };
        let kept = [numbers(TABLES[0])?, numbers(TABLES[1])?];
        let next = kept.iter().filter_map(|numbers| numbers.back()).max().map_or(0, |last| last + 1);
        Ok(Audit { store, next: AtomicU64::new(next), kept: kept.map(Mutex::new) })
    }

    pub(crate) async fn note(&self, who: &str, from: &str, act: &str, target: &str, outcome: &str) -> Result<()> {
        self.write(0, who, from, act, target, outcome).await
    }

    /// The same of Docker's door.
    pub(crate) async fn note_apart(&self, who: &str, from: &str, act: &str, target: &str, outcome: &str) -> Result<()> {
        self.write(1, who, from, act, target, outcome).await
    }

    async fn write(&self, table: usize, who: &str, from: &str, act: &str, target: &str, outcome: &str) -> Result<()> {
        let entry = Entry {
            unix_millis: berth_engine::events::now_unix_nanos() / 1_000_000,
            who: cut(who),
            from: cut(from),
            act: act.to_owned(),
            target: cut(target),
            outcome: cut(outcome),
        };
        let (number, old) = {
            // Numbered under the lock: what is oldest is known by its place.
            let mut kept = self.kept[table].lock().expect("no holder of this lock panics");
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            kept.push_back(number);
            (number, if kept.len() > KEPT_MAX { kept.pop_front() } else { None })
        };
        let mut batch = Batch::new();
        batch.put(TABLES[table], &key(number), &entry).map_err(|cause| failed(&cause))?;
        if let Some(old) = old {
            batch.delete(TABLES[table], &key(old));
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(|cause| failed(&cause))
    }

    /// The newest `limit` that contain `search` and come before entry `before`, newest first.
    pub(crate) fn list(&self, before: Option<u64>, search: &str, limit: usize) -> Result<Vec<AuditEntry>> {
        let mut all = Vec::new();
        for table in TABLES {
            for (key, entry) in self.store.list::<Entry>(table).map_err(|cause| failed(&cause))? {
                if let (Ok(number), Ok(entry)) = (key.parse::<u64>(), entry) {
                    all.push((number, entry));
                }
            }
        }
        all.sort_unstable_by_key(|(number, _)| *number);
        let search = search.to_lowercase();
        let mut found = Vec::new();
        for (number, entry) in all.into_iter().rev() {
            if before.is_some_and(|before| number >= before) {
                continue;
            }
            let fields = [&entry.who, &entry.from, &entry.act, &entry.target, &entry.outcome];
            if !search.is_empty() && !fields.iter().any(|field| field.to_lowercase().contains(&search)) {
                continue;
            }
            let Entry { unix_millis, who, from, act, target, outcome } = entry;
            found.push(AuditEntry { number, unix_millis, who, from, act, target, outcome });
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }
}

fn failed(cause: &StoreError) -> Error {
    Error::because(ErrorKind::Internal, "cannot use the audit log", cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn entries_are_numbered_on_after_a_restart_and_found_by_their_words() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(&folder.path().join("a.redb"), |_, _, record| record).unwrap();
        let audit = Audit::open(open()).unwrap();
        audit.note("ada", "127.0.0.1", "instance.start", "web", "ok").await.unwrap();
        audit.note("bob", "127.0.0.1", "instance.kill", &"é".repeat(400), "refused").await.unwrap();
        drop(audit);
        let audit = Audit::open(open()).unwrap();
        audit.note_apart("root", "the engine's socket", "docker.container.stop", "web", "ok").await.unwrap();
        drop(audit);
        let audit = Audit::open(open()).unwrap();
        audit.note("ada", "::1", "user.create", "eve", "ok").await.unwrap();
        let all = audit.list(None, "", 10).unwrap();
        assert_eq!(all.iter().map(|entry| entry.number).collect::<Vec<_>>(), [3, 2, 1, 0]);
        assert_eq!(all[1].act, "docker.container.stop");
        assert_eq!(audit.list(None, "KILL", 10).unwrap().len(), 1);
        assert_eq!(audit.list(Some(1), "", 10).unwrap()[0].act, "instance.start");
    }
}
