//! Stacks: several instances that belong together, described by a compose file.
//!
//! ```text
//! console.redb    stacks/<name>                      its text, its project, who changed it when; where it comes from
//! <data-root>/console/stacks/<name>/compose.json     what the text means: the model that was last put up
//! ```
//!
//! The compose plugin does the work, against this engine: it is what users have, and what it makes is found by
//! `docker compose` on the host too. An engine of our own for compose files would be a second reading of a large
//! language. The plugin reads a text twice. First as `nobody`, without environment and without the engine's socket,
//! which gives the plain model ([`model`]): an `include`, an `env_file` or a secret in it opens no file of root's. The
//! model is checked, gets its project's labels, and only that is put up.

pub(crate) mod git;
pub(crate) mod model;
mod roll;
mod run;

pub(crate) use roll::roll;
pub(crate) use run::Compose;

use berth_store::{Batch, Store, StoreError};
use berth_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Labels that the plugin gives to what it makes.
pub(crate) const PROJECT: &str = "com.docker.compose.project";
pub(crate) const SERVICE: &str = "com.docker.compose.service";
const NAME_BYTES_MAX: usize = 63;
pub(crate) const TEXT_BYTES_MAX: usize = 512 << 10;
const STACKS_MAX: usize = 1000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stack {
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) project: Option<String>,
    pub(crate) who: String,
    pub(crate) changed_unix_millis: i64,
    /// Where its text comes from, if not from whoever put it up.
    #[serde(default)]
    pub(crate) git: Option<git::Source>,
}

pub(crate) struct Stacks {
    store: Store,
    folder: PathBuf,
}

/// As compose has it; it is a folder's name here.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    // Paths of the API and of the page.
    let reserved = ["ready", "check", "git", "new"].contains(&name);
    match begins && !reserved && name.len() <= NAME_BYTES_MAX && name.chars().all(plain) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{name:?} is no stack's name: a stack's name has 1 to {NAME_BYTES_MAX} lower-case letters, digits, dashes or underscores, and begins with a letter or digit"
        ))),
    }
}

fn failed(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, "cannot use the records of stacks", cause)
}

impl Stacks {
    pub(crate) fn new(store: Store, data_root: &Path) -> Stacks {
        Stacks { store, folder: data_root.join("console/stacks") }
    }

    pub(crate) fn list(&self) -> Result<Vec<(String, Stack)>> {
        let all = self.store.list::<Stack>("stacks").map_err(|cause| failed(&cause))?;
        let mut stacks = Vec::with_capacity(all.len());
        for (name, stack) in all {
            match stack {
                Ok(stack) => stacks.push((name, stack)),
                Err(cause) => tracing::error!(name, %cause, "a stack's record does not read"),
            }
        }
        Ok(stacks)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Option<Stack>> {
        self.store.get::<Stack>("stacks", name).map_err(|cause| failed(&cause))
    }

    pub(crate) async fn put(&self, name: &str, stack: &Stack) -> Result<()> {
        if self.get(name)?.is_none() && self.list()?.len() >= STACKS_MAX {
            return Err(Error::conflict(format!("there are {STACKS_MAX} stacks already")));
        }
        let mut batch = Batch::new();
        batch.put("stacks", name, stack).map_err(|cause| failed(&cause))?;
        self.commit(batch).await
    }

    pub(crate) async fn forget(&self, name: &str) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete("stacks", name);
        self.commit(batch).await?;
        match std::fs::remove_dir_all(self.folder.join(name)) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(failed(&cause)),
            _ => Ok(()),
        }
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(|cause| failed(&cause))
    }

    /// Where the folder of a stack's relative paths is.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The model that was last put up.
    pub(crate) fn model_file(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("compose.json")
    }

    /// Writes the model beside the present one, whose place it takes once it is up ([`keep`](Self::keep)).
    pub(crate) fn write_next(&self, name: &str, model: &Value) -> Result<PathBuf> {
        let folder = self.folder(name);
        let written = (|| {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let path = folder.join("next.json");
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(model.to_string().as_bytes())?;
            file.sync_all()?;
            Ok(path)
        })();
        written.map_err(|cause: std::io::Error| {
            Error::because(ErrorKind::Unavailable, format!("cannot write to {}", folder.display()), &cause)
        })
    }

    pub(crate) fn keep(&self, name: &str, next: &Path) -> Result<()> {
        std::fs::rename(next, self.model_file(name)).map_err(|cause| failed(&cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stack_is_kept_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(&folder.path().join("a.redb"), |_, _, record| record).unwrap();
        let stacks = Stacks::new(open(), folder.path());
        let stack =
            Stack { text: "services: {}".into(), project: None, who: "ada".into(), changed_unix_millis: 1, git: None };
        stacks.put("web", &stack).await.unwrap();
        let next = stacks.write_next("web", &serde_json::json!({"services": {}})).unwrap();
        stacks.keep("web", &next).unwrap();
        assert!(stacks.model_file("web").exists());
        drop(stacks);
        let stacks = Stacks::new(open(), folder.path());
        assert_eq!(stacks.get("web").unwrap().unwrap().text, "services: {}");
        stacks.forget("web").await.unwrap();
        assert!(stacks.get("web").unwrap().is_none() && !stacks.folder("web").exists());
        stacks.forget("web").await.unwrap();
    }

    #[test]
    fn names_are_folders_names() {
        for bad in ["", ".", "..", "a/b", "A", "-a", "_a", "a b", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name("shop_2-a").is_ok());
    }
}
