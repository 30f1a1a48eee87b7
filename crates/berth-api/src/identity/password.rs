//! Passwords as Argon2id hashes, with the cost beside each so that it can grow.

use argon2::{Algorithm, Argon2, Params, Version};
use berth_types::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub(crate) const PASSWORD_CHARS_MIN: usize = 10;
/// Longer ones would only burn time.
const PASSWORD_BYTES_MAX: usize = 1024;

/// OWASP's first recommendation for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// Each hash holds its memory while it runs: so many at once.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hash {
    salt: [u8; 16],
    memory_kib: u32,
    passes: u32,
    hash: [u8; 32],
}

impl Hash {
    /// Hashes a new password, refusing one that is too short.
    pub(crate) async fn of(password: String) -> Result<Hash> {
        if password.chars().count() < PASSWORD_CHARS_MIN {
            return Err(Error::invalid(format!("the password has fewer than {PASSWORD_CHARS_MIN} characters")));
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Error::invalid(format!("the password has more than {PASSWORD_BYTES_MAX} bytes")));
        }
        let mut salt = [0; 16];
        salt.copy_from_slice(&super::random::<16>()?);
        let hash = derive(password, salt, MEMORY_KIB, PASSES).await?;
        Ok(Hash { salt, memory_kib: MEMORY_KIB, passes: PASSES, hash })
    }

    pub(crate) async fn matches(&self, password: String) -> Result<bool> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(false);
        }
        let hash = derive(password, self.salt, self.memory_kib, self.passes).await?;
        Ok(same(&hash, &self.hash))
    }
}

/// As much work as a real comparison: an unknown name must not answer sooner than a wrong password.
pub(crate) async fn pretend(password: String) -> Result<()> {
    if password.len() <= PASSWORD_BYTES_MAX {
        derive(password, [0; 16], MEMORY_KIB, PASSES).await?;
    }
    Ok(())
}

/// Compares without telling by its time where they differ.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

async fn derive(password: String, salt: [u8; 16], memory_kib: u32, passes: u32) -> Result<[u8; 32]> {
    let _turn = AT_ONCE.acquire().await.map_err(|_| Error::internal("passwords are not checked any more"))?;
    let work = move || {
        let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(|cause| cause.to_string())?;
        let mut hash = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), &salt, &mut hash)
            .map_err(|cause| cause.to_string())?;
        Ok::<_, String>(hash)
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|cause| Error::internal(cause.to_string()))?;
    done.map_err(|cause| Error::internal(format!("cannot hash the password: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_knows_its_password_and_no_other() {
        let hash = Hash::of("correct horse".to_owned()).await.unwrap();
        assert!(hash.matches("correct horse".to_owned()).await.unwrap());
        assert!(!hash.matches("correct house".to_owned()).await.unwrap());
        assert!(!hash.matches("x".repeat(2000)).await.unwrap());
        assert!(Hash::of("short".to_owned()).await.is_err());
    }
}
