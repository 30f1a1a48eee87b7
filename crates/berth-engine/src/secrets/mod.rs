//! Named secrets and configurations: small files that containers see, and that no image, command line or environment
//! holds.
//!
//! ```text
//! <data-root>/secrets/<id>/secret.json   name, labels, times; folders are 0700
//! <data-root>/secrets/<id>/data          the content, 0600
//! <data-root>/configs/...                the same for configurations
//! <data-root>/secrets/.new-*, .gone-*    half made or half removed: removed by the next engine
//! ```
//!
//! A container gets a copy in memory, made by the runtime in the container's own mount namespace
//! (`berth.memory` in `berth-runtime`'s mounts). The content of a secret is never given back by the API, that of a
//! configuration is. What a container names is not removed.

mod label;
mod shared;

pub use label::LABEL;
pub(crate) use label::mounts_of_label;
pub(crate) use shared::Shared;

use crate::containers::ListOptions;
use crate::events::EventKind;
use crate::{Engine, Filters};
use berth_types::spec::MountKind;
use berth_types::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// As Swarm has it.
const NAME_BYTES_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    Secret,
    Config,
}

impl SecretKind {
    pub fn as_str(self) -> &'static str {
        match self {
            SecretKind::Secret => "secret",
            SecretKind::Config => "config",
        }
    }

    /// What Swarm takes at most.
    fn bytes_max(self) -> usize {
        match self {
            SecretKind::Secret => 500 << 10,
            SecretKind::Config => 1000 << 10,
        }
    }

    fn event(self) -> EventKind {
        match self {
            SecretKind::Secret => EventKind::Secret,
            SecretKind::Config => EventKind::Config,
        }
    }
}

/// One of them, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// 25 letters and digits, as Swarm's.
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub created_unix_nanos: i64,
    pub updated_unix_nanos: i64,
    /// Grows with every change.
    pub version: u64,
    pub(crate) data: PathBuf,
}

/// What is to be made.
#[derive(Clone, Default)]
pub struct SecretCreate {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub data: Vec<u8>,
}

/// The engine's secrets, or its configurations.
#[derive(Clone)]
pub struct Secrets {
    engine: Engine,
    kind: SecretKind,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("work on secrets ended early: {error}"))),
    }
}

impl Secrets {
    pub(crate) fn new(engine: Engine, kind: SecretKind) -> Secrets {
        Secrets { engine, kind }
    }

    fn shared(&self) -> Arc<Shared> {
        self.engine.secret_state(self.kind).clone()
    }

    /// Answers its id; a name that is taken is a conflict.
    pub async fn create(&self, request: SecretCreate) -> Result<String> {
        check(self.kind, &request)?;
        let shared = self.shared();
        let made = blocking(move || shared.create(request)).await?;
        self.tell("create", &made);
        Ok(made.id)
    }

    /// Filters: id, label, name, names.
    pub async fn list(&self, filters: &Filters) -> Result<Vec<Secret>> {
        filters.only(&["id", "label", "label!", "name", "names"])?;
        let shared = self.shared();
        let all = blocking(move || shared.list()).await?;
        let starts = |key: &str, value: &str| {
            let wanted = filters.get(key);
            wanted.is_empty() || wanted.iter().any(|wanted| value.starts_with(wanted.as_str()))
        };
        let matches = |secret: &Secret| {
            starts("id", &secret.id)
                && starts("name", &secret.name)
                && filters.exact("names", &secret.name)
                && filters.labels(&secret.labels)
        };
        Ok(all.into_iter().filter(matches).collect())
    }

    /// By id, name, or the beginning of an id.
    pub async fn inspect(&self, reference: &str) -> Result<Secret> {
        let (shared, reference) = (self.shared(), reference.to_owned());
        blocking(move || shared.find(&reference)).await
    }

    /// A configuration's content; a secret's stays here.
    pub async fn content(&self, config: &Secret) -> Result<Vec<u8>> {
        if self.kind == SecretKind::Secret {
            return Err(Error::new(ErrorKind::Forbidden, "the content of a secret is not given back"));
        }
        let data = config.data.clone();
        blocking(move || shared::read(&data)).await
    }

    /// Sets the labels. `version` is the one that the caller has seen.
    pub async fn set_labels(&self, reference: &str, version: u64, labels: BTreeMap<String, String>) -> Result<()> {
        let (shared, reference) = (self.shared(), reference.to_owned());
        let changed = blocking(move || shared.set_labels(&reference, version, labels)).await?;
        self.tell("update", &changed);
        Ok(())
    }

    /// Refused while a container names it, whether it runs or not.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        let secret = self.inspect(reference).await?;
        let users = self.users(&secret).await?;
        if !users.is_empty() {
            let (kind, name) = (self.kind.as_str(), &secret.name);
            return Err(Error::conflict(format!("{kind} '{name}' is in use by: {}", users.join(", ")))
                .with_hint("remove these containers first"));
        }
        let (shared, id) = (self.shared(), secret.id.clone());
        blocking(move || shared.remove(&id)).await?;
        self.tell("remove", &secret);
        Ok(())
    }

    /// Names of the containers that have it.
    async fn users(&self, secret: &Secret) -> Result<Vec<String>> {
        let wanted = match self.kind {
            SecretKind::Secret => MountKind::Secret,
            SecretKind::Config => MountKind::Config,
        };
        let all = ListOptions { all: true, ..ListOptions::default() };
        let mut users = Vec::new();
        for container in self.engine.containers().list(&all).await? {
            if container.mounts.iter().any(|point| point.kind == wanted && point.driver == secret.id) {
                users.push(container.name);
            }
        }
        Ok(users)
    }

    fn tell(&self, action: &str, secret: &Secret) {
        let attributes = BTreeMap::from([("name".to_owned(), secret.name.clone())]);
        self.engine.events().publish(self.kind.event(), action, &secret.id, attributes);
    }
}

/// Swarm's rules for names and sizes.
fn check(kind: SecretKind, request: &SecretCreate) -> Result<()> {
    let name = request.name.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.len() > NAME_BYTES_MAX || !edge(name.first()) || !edge(name.last()) || !name.iter().all(inside) {
        return Err(Error::invalid(format!(
            "invalid {} name: only {NAME_BYTES_MAX} [a-zA-Z0-9-_.] characters allowed, and the start and end character \
             must be [a-zA-Z0-9]",
            kind.as_str()
        )));
    }
    if request.data.is_empty() || request.data.len() >= kind.bytes_max() {
        return Err(Error::invalid(format!(
            "{} data must be larger than 0 and less than {} bytes",
            kind.as_str(),
            kind.bytes_max()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_swarms() {
        let ok = |name: &str, bytes| {
            let request = SecretCreate { name: name.to_owned(), data: vec![0; bytes], ..SecretCreate::default() };
            check(SecretKind::Secret, &request).is_ok()
        };
        assert!(ok("db-password_1.old", 1) && ok("a", 512_000 - 1));
        assert!(!ok("", 1) && !ok("-a", 1) && !ok("a.", 1) && !ok("a/b", 1) && !ok("ü", 1) && !ok(&"a".repeat(65), 1));
        assert!(!ok("a", 0) && !ok("a", 512_000));
    }
}
