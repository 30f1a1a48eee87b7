//! In which packed forms a layer has been seen, and where: what a push need not send again.

use super::shared::Shared;
use berth_registry::Descriptor;
use berth_store::{Batch, StoreError};
use berth_types::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Table of the store: hexadecimal diff id -> [`KnownBlob`]s.
const TABLE: &str = "layer-blob";
/// Forms of one layer, and places of one form; the newest stay.
const BLOBS_MAX: usize = 4;
const PLACES_MAX: usize = 16;

/// A layer as a registry stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownBlob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    /// Repositories that have it: domain and path.
    pub places: Vec<(String, String)>,
}

fn failed(cause: &StoreError) -> Error {
    Error::because(ErrorKind::Internal, "cannot keep the records of layers", cause)
}

/// Adds what was seen, newest first.
fn merge(known: &mut Vec<KnownBlob>, seen: &Descriptor, place: Option<(&str, &str)>) {
    let mut blob = match known.iter().position(|blob| blob.digest == seen.digest) {
        Some(at) => known.remove(at),
        None => {
            KnownBlob { digest: seen.digest, size: seen.size, media_type: seen.media_type.clone(), places: Vec::new() }
        }
    };
    if let Some((domain, path)) = place {
        let place = (domain.to_owned(), path.to_owned());
        blob.places.retain(|other| *other != place);
        blob.places.insert(0, place);
        blob.places.truncate(PLACES_MAX);
    }
    known.insert(0, blob);
    known.truncate(BLOBS_MAX);
}

impl Shared {
    /// The forms of layer `diff_id`, newest first.
    pub(super) fn known_blobs(&self, diff_id: &Digest) -> Result<Vec<KnownBlob>> {
        let known: Option<Vec<KnownBlob>> = self.store.get(TABLE, &diff_id.hex()).map_err(|cause| failed(&cause))?;
        Ok(known.unwrap_or_default())
    }

    /// Remembers that a repository has these layers in these forms.
    pub(super) fn remember_blobs(&self, layers: &[(Digest, Descriptor)], domain: &str, path: &str) -> Result<()> {
        self.remember(layers, Some((domain, path)))
    }

    /// Remembers a form that a layer has here, whether or not a repository has it.
    pub(super) fn remember_packed(&self, diff_id: Digest, form: Descriptor) -> Result<()> {
        self.remember(&[(diff_id, form)], None)
    }

    fn remember(&self, layers: &[(Digest, Descriptor)], place: Option<(&str, &str)>) -> Result<()> {
        let mut batch = Batch::new();
        for (diff_id, descriptor) in layers {
            let before = self.known_blobs(diff_id)?;
            let mut known = before.clone();
            merge(&mut known, descriptor, place);
            if known != before {
                batch.put(TABLE, &diff_id.hex(), &known).map_err(|cause| failed(&cause))?;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.store.commit(batch).map_err(|cause| failed(&cause)) }
    }

    /// The forms of these layers.
    pub(super) fn forms_of(&self, layers: impl Iterator<Item = Digest>) -> Result<BTreeSet<Digest>> {
        let mut forms = BTreeSet::new();
        for layer in layers {
            forms.extend(self.known_blobs(&layer)?.iter().map(|blob| blob.digest));
        }
        Ok(forms)
    }

    /// Forgets layers that no image has any more.
    pub(super) fn forget_blobs(&self, needed: &BTreeSet<Digest>) -> Result<()> {
        let mut batch = Batch::new();
        for (key, _) in self.store.list::<serde_json::Value>(TABLE).map_err(|cause| failed(&cause))? {
            if Digest::from_hex(&key).is_ok_and(|diff_id| !needed.contains(&diff_id)) {
                batch.delete(TABLE, &key);
            }
        }
        if batch.is_empty() { Ok(()) } else { self.store.commit(batch).map_err(|cause| failed(&cause)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_forms_and_places_stay() {
        let mut known = Vec::new();
        for n in 0..6u8 {
            merge(&mut known, &Descriptor::new("x", Digest::from_bytes([n; 32]), 1), Some(("h", "a")));
        }
        assert_eq!(known.len(), BLOBS_MAX);
        for n in 0..20 {
            merge(&mut known, &Descriptor::new("x", Digest::from_bytes([2; 32]), 1), Some(("h", &format!("r{n}"))));
        }
        assert_eq!(known[0].digest, Digest::from_bytes([2; 32]));
        assert_eq!((known[0].places.len(), known[0].places[0].1.as_str()), (PLACES_MAX, "r19"));
        merge(&mut known, &Descriptor::new("x", Digest::from_bytes([2; 32]), 1), Some(("h", "r19")));
        assert_eq!(known[0].places.len(), PLACES_MAX);
        // What is only here takes no place away.
        merge(&mut known, &Descriptor::new("x", Digest::from_bytes([2; 32]), 1), None);
        assert_eq!((known[0].places.len(), known[0].places[0].1.as_str()), (PLACES_MAX, "r19"));
    }
}
