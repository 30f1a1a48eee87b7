//! How often somebody may fail to sign in: free tries first, then a wait that doubles.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const FREE_TRIES: u32 = 5;
const WAIT_SECONDS_MAX: u64 = 900;
/// After so long without a failure all is forgotten.
const FORGET: Duration = Duration::from_secs(3600);
/// Names and addresses remembered; a flood of new ones drops the oldest.
const KEYS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Limiter(Mutex<HashMap<String, Failures>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait_seconds(&self) -> u64 {
        match self.count.checked_sub(FREE_TRIES) {
            None => 0,
            Some(over) => (1_u64 << over.min(10)).saturating_mul(2).min(WAIT_SECONDS_MAX),
        }
    }
}

impl Limiter {
    /// Seconds to wait before a try under any of `keys` counts; `None`: now.
    pub(crate) fn wait(&self, keys: &[&str], now: Instant) -> Option<u64> {
        let known = self.0.lock().expect("no holder of this lock panics");
        let left = |failures: &Failures| {
            let since = now.saturating_duration_since(failures.last).as_secs();
            failures.wait_seconds().saturating_sub(since)
        };
        keys.iter().filter_map(|key| known.get(*key)).map(left).max().filter(|&seconds| seconds > 0)
    }

    pub(crate) fn failed(&self, keys: &[&str], now: Instant) {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        known.retain(|_, failures| now.saturating_duration_since(failures.last) < FORGET);
        for key in keys {
            if known.len() >= KEYS_MAX
                && !known.contains_key(*key)
                && let Some(oldest) = known.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone())
            {
                known.remove(&oldest);
            }
            let failures = known.entry((*key).to_owned()).or_insert(Failures { count: 0, last: now });
            *failures = Failures { count: failures.count.saturating_add(1), last: now };
        }
    }

    pub(crate) fn succeeded(&self, keys: &[&str]) {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        for key in keys {
            known.remove(*key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_after_the_free_tries_and_success_ends_it() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for _ in 0..FREE_TRIES {
            assert_eq!(limiter.wait(&["ada"], now), None);
            limiter.failed(&["ada", "10.0.0.1"], now);
        }
        assert_eq!(limiter.wait(&["ada"], now), Some(2));
        assert_eq!(limiter.wait(&["other", "10.0.0.1"], now), Some(2), "the address counts too");
        limiter.failed(&["ada"], now);
        assert_eq!(limiter.wait(&["ada"], now), Some(4));
        assert_eq!(limiter.wait(&["ada"], now + Duration::from_secs(5)), None);
        limiter.succeeded(&["ada"]);
        assert_eq!(limiter.wait(&["ada"], now), None);
    }

    #[test]
    fn a_flood_of_names_is_bounded() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for n in 0..KEYS_MAX + 50 {
            limiter.failed(&[&n.to_string()], now + Duration::from_millis(n as u64));
        }
        assert_eq!(limiter.0.lock().unwrap().len(), KEYS_MAX);
    }
}
