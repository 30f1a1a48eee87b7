//! Asking again: how often, and after how long.

use crate::RegistryError;
use crate::config::Config;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// The longest wait between two tries, also where a registry asks for more.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Tries of one thing.
pub(crate) struct Tries {
    left: u32,
    wait: Duration,
    first_wait: Duration,
    all: u32,
}

impl Tries {
    pub(crate) fn new(config: &Config) -> Tries {
        let all = config.attempts_max.max(1);
        Tries { left: all - 1, wait: config.backoff, first_wait: config.backoff, all }
    }

    /// One try and no more.
    pub(crate) fn once(config: &Config) -> Tries {
        Tries { left: 0, all: 1, ..Tries::new(config) }
    }

    /// Waits before the next try; gives `error` back where another cannot help or there were enough.
    pub(crate) async fn again(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if self.left == 0 || !error.is_transient() {
            return Err(error);
        }
        self.left -= 1;
        let asked = error.retry_after_seconds().map(Duration::from_secs).unwrap_or_default();
        let wait = self.wait.max(asked).min(WAIT_MAX);
        tracing::debug!(%error, ?wait, "a registry is asked again");
        tokio::time::sleep(jitter(wait)).await;
        self.wait = (self.wait * 2).min(WAIT_MAX);
        Ok(())
    }

    /// There was progress: count anew.
    pub(crate) fn refill(&mut self) {
        (self.left, self.wait) = (self.all - 1, self.first_wait);
    }
}

/// Between `wait` and a quarter more, so that many clients do not come back at once.
fn jitter(wait: Duration) -> Duration {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    wait + wait / 4 * u32::try_from(random % 100).unwrap_or(0) / 100
}
