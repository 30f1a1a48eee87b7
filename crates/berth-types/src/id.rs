//! Ids: 64 hexadecimal digits, shown as the first twelve.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Length of a full id in characters; Docker's clients rely on it.
pub const ID_LENGTH: usize = 64;
/// Length of the short form that tables show.
pub const SHORT_ID_LENGTH: usize = 12;

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid id {0:?}: expected 64 hexadecimal digits")]
pub struct InvalidId(pub String);

fn is_full_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id made of these 32 bytes; callers take them from the kernel's random source.
            pub fn from_bytes(bytes: [u8; 32]) -> $name {
                $name(crate::digest::hex(&bytes))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve digits, as tables show it.
            pub fn short(&self) -> &str {
                &self.0[..SHORT_ID_LENGTH]
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<$name, InvalidId> {
                if is_full_id(text) { Ok($name(text.to_owned())) } else { Err(InvalidId(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<$name, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }
    };
}

id_type!(
    /// Names one container for its whole life.
    ContainerId
);
id_type!(
    /// Names one process started by `exec`.
    ExecId
);
id_type!(
    /// Names one network.
    NetworkId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lower_case_hex_digits_are_an_id() {
        assert!("a".repeat(64).parse::<ContainerId>().is_ok());
        for bad in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
