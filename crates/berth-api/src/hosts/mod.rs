//! Other engines, seen and driven from here.
//!
//! ```text
//! console.redb    hosts/<name>    address, the certificate's fingerprint, the token that we show there
//!
//! page or CLI --> this engine --https, token--> that engine's console      (https://ADDRESS:PORT)
//!                            --ssh, dial-stdio--> that engine's own socket  (ssh://USER@HOST)
//! ```
//!
//! What somebody may do there is at most what they may do here, and at most what our token may there: the other engine
//! lowers its answer to the role that we name ([`crate::guard`]). Each call has a deadline for its beginning; one loop
//! asks every host how it is, and once that gets no answer twice, whoever waits for the host is told that it is away.
//!
//! Room is memory that is neither in use nor promised by a limit: a machine that has only just been made uses little of
//! what it is going to.

mod call;
mod dial;
mod ssh;
mod watch;

pub(crate) use dial::{Far, Pipe, check_address, copy, shown, unix};
pub(crate) use watch::{ask_all, ask_present, watch};

use crate::history::HostReading;
use crate::schema::answers;
use berth_store::{Batch, Store, StoreError};
use berth_types::{Error, ErrorKind, Result};
use call::Link;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

const HOSTS_MAX: usize = 100;
/// Without an answer so often in a row, it is given up.
const MISSED_MAX: u32 = 2;
/// Stands for the host with most room.
pub(crate) const ROOMIEST: &str = "most-room";
/// This engine itself, where hosts are chosen from.
pub(crate) const HERE: &str = "here";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) fingerprint: String,
    #[serde(default)]
    pub(crate) token: String,
    pub(crate) added_unix: i64,
}

answers! {
    /// An engine, this one or another.
    HostRow {
        name: String,
        /// Empty: this one.
        address: String,
        /// up, away or unknown (not asked yet).
        state: String,
        /// Why it is away.
        error: String,
        /// When it last answered.
        seen_unix_millis: i64,
        about: Option<Summary>,
    }
    /// How an engine is.
    Summary {
        hostname: String,
        version: String,
        instances: u64,
        running: u64,
        machines: u64,
        failing: u64,
        /// Memory that those which have not ended may use, as far as it is limited.
        promised_bytes: u64,
        reading: Option<HostReading>,
    }
}

/// What the loop last heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    up: Option<bool>,
    /// How often in a row it did not answer.
    missed: u32,
    error: String,
    seen_unix_millis: i64,
    about: Option<Summary>,
}

struct Known {
    host: Host,
    state: State,
    link: Arc<Link>,
}

impl Known {
    fn new(host: Host) -> Known {
        Known { host, state: State::default(), link: Arc::default() }
    }
}

pub(crate) struct Hosts {
    store: Store,
    all: RwLock<BTreeMap<String, Known>>,
}

fn failed(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, "cannot use the records of hosts", cause)
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let reserved = [ROOMIEST, HERE, "place"].contains(&name);
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    match begins && !reserved && name.len() <= 63 && name.chars().all(plain) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{name:?} is no host's name: 1 to 63 letters, digits, dots, dashes, underscores; not {ROOMIEST} or {HERE}"
        ))),
    }
}

impl Hosts {
    pub(crate) fn open(store: Store) -> Result<Hosts> {
        let mut all = BTreeMap::new();
        for (name, host) in store.list::<Host>("hosts").map_err(|cause| failed(&cause))? {
            match host {
                Ok(host) => drop(all.insert(name, Known::new(host))),
                Err(cause) => tracing::error!(name, %cause, "a host's record does not read"),
            }
        }
        Ok(Hosts { store, all: RwLock::new(all) })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Known>> {
        self.all.read().expect("no holder of this lock panics")
    }

    pub(crate) fn get(&self, name: &str) -> Result<Far> {
        let all = self.read();
        let found = all.get(name).map(|known| far(name, known));
        found.ok_or_else(|| Error::not_found(format!("there is no host {name}")).with_hint("berth host ls lists them"))
    }

    fn list(&self, even_away: bool) -> Vec<Far> {
        let all = self.read();
        let asked = all.iter().filter(|(_, known)| even_away || known.state.up != Some(false));
        asked.map(|(name, known)| far(name, known)).collect()
    }

    pub(crate) fn rows(&self) -> Vec<HostRow> {
        let row = |(name, Known { host, state, .. }): (&String, &Known)| HostRow {
            name: name.clone(),
            address: host.address.clone(),
            state: match state.up {
                None => "unknown",
                Some(true) => "up",
                Some(false) => "away",
            }
            .to_owned(),
            error: state.error.clone(),
            seen_unix_millis: state.seen_unix_millis,
            about: state.about.clone(),
        };
        self.read().iter().map(row).collect()
    }

    /// The other one with most room among those that are up, and how much that is.
    pub(crate) fn roomiest(&self) -> Option<(String, u64)> {
        let all = self.read();
        let up = all.iter().filter(|(_, known)| known.state.up == Some(true));
        let room = up.filter_map(|(name, known)| Some((name.clone(), known.state.about.as_ref()?.room())));
        room.max_by_key(|(_, room)| *room)
    }

    pub(crate) async fn add(&self, name: &str, host: Host) -> Result<()> {
        check_name(name)?;
        if self.read().contains_key(name) {
            return Err(Error::conflict(format!("there is a host {name} already")));
        }
        if self.read().len() >= HOSTS_MAX {
            return Err(Error::conflict(format!("there are {HOSTS_MAX} hosts already")));
        }
        let mut batch = Batch::new();
        batch.put("hosts", name, &host).map_err(|cause| failed(&cause))?;
        self.commit(batch).await?;
        self.all.write().expect("no holder of this lock panics").insert(name.to_owned(), Known::new(host));
        Ok(())
    }

    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        self.get(name)?;
        let mut batch = Batch::new();
        batch.delete("hosts", name);
        self.commit(batch).await?;
        if let Some(known) = self.all.write().expect("no holder of this lock panics").remove(name) {
            known.link.give_up();
        }
        Ok(())
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(|cause| failed(&cause))
    }

    /// What was heard of it.
    fn heard(&self, name: &str, heard: Result<Summary>) {
        let mut all = self.all.write().expect("no holder of this lock panics");
        let Some(Known { state, link, .. }) = all.get_mut(name) else { return };
        match heard {
            Ok(about) => {
                let seen_unix_millis = berth_engine::events::now_unix_nanos() / 1_000_000;
                *state =
                    State { up: Some(true), missed: 0, error: String::new(), seen_unix_millis, about: Some(about) };
            }
            // What it last said stays, with the time when it said so.
            Err(error) => {
                state.up = Some(false);
                state.error = error.to_string();
                state.missed = state.missed.saturating_add(1);
                // Once may be a busy moment.
                if state.missed == MISSED_MAX {
                    link.give_up();
                }
            }
        }
    }
}

fn far(name: &str, known: &Known) -> Far {
    Far { name: name.to_owned(), host: known.host.clone(), link: known.link.clone() }
}

impl Summary {
    /// Memory that something new can count on.
    pub(crate) fn room(&self) -> u64 {
        let of = |reading: &HostReading| {
            reading.memory_total_bytes.saturating_sub(reading.memory_bytes.max(self.promised_bytes))
        };
        self.reading.as_ref().map_or(0, of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(total: u64, used: u64) -> Summary {
        let reading = HostReading {
            unix: 0,
            cpu: 0.0,
            cpus: 1,
            load: 0.0,
            memory_bytes: used,
            memory_total_bytes: total,
            disk_used_bytes: 0,
            disk_total_bytes: 0,
            received: 0.0,
            sent: 0.0,
            read: 0.0,
            written: 0.0,
        };
        Summary {
            hostname: "x".into(),
            version: String::new(),
            instances: 0,
            running: 0,
            machines: 0,
            failing: 0,
            promised_bytes: 0,
            reading: Some(reading),
        }
    }

    #[tokio::test]
    async fn the_roomiest_host_is_one_that_is_up() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = Hosts::open(Store::open(&folder.path().join("a.redb"), |_, _, record| record).unwrap()).unwrap();
        let host = Host { address: "ssh://x".into(), fingerprint: String::new(), token: String::new(), added_unix: 0 };
        for name in ["a", "b", "c"] {
            hosts.add(name, host.clone()).await.unwrap();
        }
        assert!(hosts.add("a", host.clone()).await.is_err() && hosts.roomiest().is_none());
        hosts.heard("a", Ok(summary(100, 40)));
        hosts.heard("b", Ok(summary(100, 20)));
        hosts.heard("c", Ok(summary(100, 0)));
        hosts.heard("c", Err(Error::conflict("gone")));
        assert_eq!(hosts.roomiest(), Some(("b".to_owned(), 80)));
        let promising = Summary { promised_bytes: 50, ..summary(100, 20) };
        hosts.heard("b", Ok(promising));
        assert_eq!(hosts.roomiest(), Some(("a".to_owned(), 60)), "what is promised is not free");
        let rows = hosts.rows();
        assert_eq!((rows[2].state.as_str(), rows[2].error.as_str()), ("away", "gone"));
        assert!(rows[2].about.is_some(), "what it last said is kept");
        for bad in ["", "a/b", "-x", "most-room", "here", "a b"] {
            assert!(hosts.add(bad, host.clone()).await.is_err(), "{bad:?}");
        }
        hosts.remove("a").await.unwrap();
        assert!(hosts.get("a").is_err());
    }
}
