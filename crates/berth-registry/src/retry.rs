//! Asking again: how often, and after how long.

use crate::config::Config;
use crate::notice::in_words;
use crate::{Notice, Notify, RegistryError};
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// The longest wait between two tries that we choose.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// And that a registry may ask for. Where it asks for more, that is its answer, and nobody is kept waiting.
const ASKED_MAX: Duration = Duration::from_secs(120);
/// Shorter waits are nobody's concern.
const TELL_FROM: Duration = Duration::from_secs(1);

/// Tries of one thing.
pub(crate) struct Tries {
    left: u32,
    wait: Duration,
    first_wait: Duration,
    all: u32,
    notify: Option<Notify>,
}

impl Tries {
    pub(crate) fn new(config: &Config) -> Tries {
        let all = config.attempts_max.max(1);
        Tries { left: all - 1, wait: config.backoff, first_wait: config.backoff, all, notify: None }
    }

    /// Has waits told.
    #[must_use]
    pub(crate) fn telling(self, notify: Option<&Notify>) -> Tries {
        Tries { notify: notify.cloned(), ..self }
    }

    /// One try and no more.
    pub(crate) fn once(config: &Config) -> Tries {
        Tries { left: 0, all: 1, ..Tries::new(config) }
    }

    /// Waits before the next try; gives `error` back where another cannot help or there were enough.
    pub(crate) async fn again(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let Some(wait) = self.wait_after(&error) else { return Err(error) };
        tracing::debug!(%error, ?wait, "a registry is asked again");
        if let Some(notify) = self.notify.as_ref().filter(|_| wait >= TELL_FROM) {
            notify(Notice::Waits { why: in_words(&error), wait });
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// How long until the next try, if there is one.
    fn wait_after(&mut self, error: &RegistryError) -> Option<Duration> {
        let asked = error.retry_after_seconds().map(Duration::from_secs).unwrap_or_default();
        if self.left == 0 || !error.is_transient() || asked > ASKED_MAX {
            return None;
        }
        self.left -= 1;
        let wait = jitter(self.wait.max(asked));
        self.wait = (self.wait * 2).min(WAIT_MAX);
        Some(wait)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn busy(retry_after_seconds: Option<u64>) -> RegistryError {
        RegistryError::Refused { host: "r".into(), status: 429, reasons: Vec::new(), retry_after_seconds }
    }

    #[test]
    fn a_registry_is_given_the_time_that_it_asks_for_within_reason() {
        let mut tries = Tries::new(&Config::default());
        let mut wait = |asked| tries.wait_after(&busy(asked)).map(|wait| wait.as_secs_f64());
        assert!(wait(None).is_some_and(|wait| (0.5..0.7).contains(&wait)));
        assert!(wait(Some(60)).is_some_and(|wait| (60.0..75.1).contains(&wait)));
        assert!(wait(None).is_some_and(|wait| (2.0..2.6).contains(&wait)));
        assert_eq!(wait(Some(3600)), None, "nobody waits for an hour");
        assert!(wait(None).is_some());
        assert_eq!(wait(None), None, "enough is enough");
    }

    #[tokio::test]
    async fn longer_waits_are_told_before_they_begin() {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let to = told.clone();
        let notify: Notify = Arc::new(move |notice| to.lock().unwrap().push(notice.to_string()));
        let config = Config { backoff: Duration::from_millis(5), ..Config::default() };
        let mut tries = Tries::new(&config).telling(Some(&notify));
        tries.again(busy(None)).await.unwrap();
        assert!(told.lock().unwrap().is_empty(), "milliseconds are not worth a word");
        assert!(tokio::time::timeout(Duration::from_millis(50), tries.again(busy(Some(60)))).await.is_err());
        let said = told.lock().unwrap().remove(0);
        assert!(said.starts_with("r answered HTTP 429: asking again in ") && said.ends_with(" seconds"), "{said}");
    }
}
