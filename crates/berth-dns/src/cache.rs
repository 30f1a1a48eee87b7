//! Answers from upstream, kept as long as they say.
//!
//! Bounded by number and bytes; the oldest go first. Past its time an answer still serves for [`STALE`] when no name
//! server can be reached (RFC 8767).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

const ENTRIES_MAX: usize = 2048;
const BYTES_MAX: usize = 1 << 20;
/// How long past its time an answer is better than none.
pub const STALE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Entry {
    answer: Vec<u8>,
    since: Instant,
    ttl: Duration,
}

#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Vec<u8>, Entry>,
    order: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Cache {
    pub fn put(&mut self, key: Vec<u8>, answer: Vec<u8>, ttl_seconds: u32, now: Instant) {
        let size = key.len() * 2 + answer.len();
        if ttl_seconds == 0 || size > BYTES_MAX / 16 {
            return;
        }
        self.remove(&key);
        while self.entries.len() >= ENTRIES_MAX || self.bytes + size > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.drop_entry(&oldest);
        }
        self.bytes += size;
        self.order.push_back(key.clone());
        let ttl = Duration::from_secs(u64::from(ttl_seconds));
        self.entries.insert(key, Entry { answer, since: now, ttl });
    }

    fn drop_entry(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= key.len() * 2 + entry.answer.len();
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if self.entries.contains_key(key) {
            self.drop_entry(key);
            self.order.retain(|other| other != key);
        }
    }

    /// An answer and its age in seconds.
    pub fn get(&self, key: &[u8], now: Instant) -> Option<(&[u8], u32)> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.since);
        (age < entry.ttl).then(|| (entry.answer.as_slice(), u32::try_from(age.as_secs()).unwrap_or(u32::MAX)))
    }

    /// The same also past its time, for when there is nothing better.
    pub fn stale(&self, key: &[u8], now: Instant) -> Option<(&[u8], u32)> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.since);
        (age < entry.ttl + STALE).then(|| (entry.answer.as_slice(), u32::try_from(age.as_secs()).unwrap_or(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_fresh_then_stale_then_gone() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(vec![1], vec![7; 20], 10, now);
        cache.put(vec![2], vec![7; 20], 0, now);
        assert_eq!(cache.get(&[1], now + Duration::from_secs(4)), Some((&[7_u8; 20][..], 4)));
        assert_eq!(cache.get(&[1], now + Duration::from_secs(10)), None);
        assert!(cache.stale(&[1], now + Duration::from_secs(60)).is_some());
        assert!(cache.stale(&[1], now + STALE + Duration::from_secs(10)).is_none());
        assert!(cache.stale(&[2], now).is_none());
    }

    #[test]
    fn it_never_grows_past_its_bounds_and_the_oldest_go_first() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..5000_u32 {
            cache.put(n.to_be_bytes().to_vec(), vec![0; 1000], 60, now);
            assert!(cache.bytes <= BYTES_MAX && cache.entries.len() <= ENTRIES_MAX);
        }
        assert!(cache.get(&4999_u32.to_be_bytes(), now).is_some());
        assert!(cache.get(&0_u32.to_be_bytes(), now).is_none());
        assert_eq!(cache.order.len(), cache.entries.len());
        cache.put(vec![9], vec![0; BYTES_MAX], 60, now);
        assert!(cache.get(&[9], now).is_none());
    }
}
