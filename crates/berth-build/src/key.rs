//! Keys: digests over parts, each with its length, so that no two lists of parts look alike.

use crate::types::Layer;
use berth_types::Digest;
use sha2::{Digest as _, Sha256};

pub(crate) struct Key(Sha256);

impl Key {
    pub(crate) fn new(kind: &str) -> Key {
        // The number grows when steps of old keys would come to something else.
        Key(Sha256::new()).text("berth-build/1").text(kind)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Key {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Key {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn number(self, number: i64) -> Key {
        self.bytes(&number.to_le_bytes())
    }

    pub(crate) fn list<'a>(self, list: impl IntoIterator<Item = &'a String>) -> Key {
        let (mut key, mut count) = (self, 0);
        for text in list {
            key = key.text(text);
            count += 1;
        }
        key.number(count)
    }

    pub(crate) fn digest(self, digest: &Digest) -> Key {
        self.bytes(digest.as_bytes())
    }

    pub(crate) fn end(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}

/// What a state contains.
pub(crate) fn chain(layers: &[Layer]) -> Digest {
    layers.iter().fold(Key::new("state"), |key, layer| key.digest(&layer.diff_id)).end()
}
