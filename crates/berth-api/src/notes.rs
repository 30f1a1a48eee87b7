//! Notes: what people want to know about an instance, in their own words.
//!
//! ```text
//! console.redb
//!   notes/<id of the instance>    the text, who wrote it when; the instance's name and project
//! ```
//!
//! A note goes with its instance, and on to the one that replaces it ([`crate::follow`]).

use crate::follow::Owner;
use berth_store::{Batch, Store, StoreError};
use berth_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

pub(crate) const TEXT_BYTES_MAX: usize = 8 << 10;
const NOTES_MAX: usize = 20_000;
const TABLE: &str = "notes";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) text: String,
    pub(crate) who: String,
    pub(crate) changed_unix_millis: i64,
    pub(crate) owner: Owner,
}

pub(crate) struct Notes {
    store: Store,
    /// Held from the reading of a record to its writing.
    changing: tokio::sync::Mutex<()>,
}

fn failed(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, "cannot use the records of notes", cause)
}

impl Notes {
    pub(crate) fn new(store: Store) -> Notes {
        Notes { store, changing: tokio::sync::Mutex::default() }
    }

    pub(crate) fn get(&self, id: &str) -> Result<Option<Note>> {
        self.store.get::<Note>(TABLE, id).map_err(|cause| failed(&cause))
    }

    /// Ids of the instances that have one, with what it takes to find who comes after them.
    pub(crate) fn owners(&self) -> Result<Vec<(String, Owner)>> {
        let all = self.store.list::<Note>(TABLE).map_err(|cause| failed(&cause))?;
        let mut owners = Vec::with_capacity(all.len());
        for (id, note) in all {
            match note {
                Ok(note) => owners.push((id, note.owner)),
                Err(cause) => tracing::error!(id, %cause, "a note does not read"),
            }
        }
        Ok(owners)
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(|cause| failed(&cause))
    }

    /// Keeps it; one without a text is none.
    pub(crate) async fn put(&self, id: &str, note: &Note) -> Result<()> {
        if note.text.len() > TEXT_BYTES_MAX {
            return Err(Error::invalid(format!("a note has at most {TEXT_BYTES_MAX} bytes")));
        }
        let _changing = self.changing.lock().await;
        let mut batch = Batch::new();
        match note.text.trim() {
            "" => batch.delete(TABLE, id),
            _ => {
                if self.get(id)?.is_none() && self.owners()?.len() >= NOTES_MAX {
                    return Err(Error::conflict(format!("there are {NOTES_MAX} notes already")));
                }
                batch.put(TABLE, id, note).map_err(|cause| failed(&cause))?;
            }
        }
        self.commit(batch).await
    }

    /// The instance has another name now.
    pub(crate) async fn renamed(&self, id: &str, name: &str) -> Result<()> {
        let _changing = self.changing.lock().await;
        let Some(mut note) = self.get(id)? else { return Ok(()) };
        name.clone_into(&mut note.owner.name);
        let mut batch = Batch::new();
        batch.put(TABLE, id, &note).map_err(|cause| failed(&cause))?;
        self.commit(batch).await
    }

    /// The instance goes: its note is `heir`'s, where that has none of its own.
    pub(crate) async fn pass(&self, id: &str, heir: Option<&str>) -> Result<()> {
        let _changing = self.changing.lock().await;
        let Some(note) = self.get(id)? else { return Ok(()) };
        let mut batch = Batch::new();
        batch.delete(TABLE, id);
        if let Some(heir) = heir
            && self.get(heir)?.is_none()
        {
            batch.put(TABLE, heir, &note).map_err(|cause| failed(&cause))?;
        }
        self.commit(batch).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Note {
        let owner = Owner { name: "web".to_owned(), project: None };
        Note { text: text.to_owned(), who: "ada".to_owned(), changed_unix_millis: 1, owner }
    }

    #[tokio::test]
    async fn a_note_goes_on_to_its_heir_and_replaces_none() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::new(Store::open(&folder.path().join("a.redb"), |_, _, record| record).unwrap());
        notes.put("old", &note("call Bob")).await.unwrap();
        notes.renamed("old", "shop").await.unwrap();
        notes.pass("old", Some("new")).await.unwrap();
        assert!(notes.get("old").unwrap().is_none());
        let passed = notes.get("new").unwrap().unwrap();
        assert_eq!((passed.text.as_str(), passed.owner.name.as_str()), ("call Bob", "shop"));
        notes.put("other", &note("mine")).await.unwrap();
        notes.pass("new", Some("other")).await.unwrap();
        assert_eq!(notes.get("other").unwrap().unwrap().text, "mine");
        notes.pass("other", None).await.unwrap();
        assert!(notes.owners().unwrap().is_empty());
        notes.pass("other", Some("new")).await.unwrap();
    }

    #[tokio::test]
    async fn an_empty_note_is_none_and_a_long_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::new(Store::open(&folder.path().join("a.redb"), |_, _, record| record).unwrap());
        notes.put("a", &note("x")).await.unwrap();
        notes.put("a", &note(" \n")).await.unwrap();
        assert!(notes.get("a").unwrap().is_none());
        assert!(notes.put("a", &note(&"x".repeat(TEXT_BYTES_MAX + 1))).await.is_err());
    }
}
