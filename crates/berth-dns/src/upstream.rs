//! Questions on their way to other name servers.
//!
//! ```text
//!  0 ms     the first server that answered lately, together with those before it that did not
//!  100 ms   the next one as well, and so on
//!  1 s, 3 s all that were asked again (UDP)
//!  5 s      what was kept past its time, else SERVFAIL
//! ```
//!
//! The order of name servers keeps its meaning while they answer (a company's before a public one), and one that is dead
//! costs a tenth of a second once, not with every question. The first useful answer wins. Containers that ask the same at
//! the same time share one question.

use crate::message::Query;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a server has before the next is asked as well.
pub(crate) const STEP: Duration = Duration::from_millis(100);
/// When all are asked again.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Resolvers of containers give up after five seconds by themselves.
const PATIENCE: Duration = Duration::from_secs(5);
/// A server that did not answer is not waited for until then.
const LAME: Duration = Duration::from_secs(30);
/// Servers that are asked at all; resolv.conf(5) has three.
pub(crate) const SERVERS_MAX: usize = 8;

/// Who waits for the answer.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) to: Asker,
    pub(crate) query: Query,
}

#[derive(Debug, Clone)]
pub(crate) enum Asker {
    Udp { client: String, peer: SocketAddr },
    Tcp { token: u64 },
}

/// A question that is being asked.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) key: Vec<u8>,
    /// Who asked first: counted against it.
    pub(crate) client: String,
    /// Asked from the client's own namespace.
    pub(crate) own_namespace: bool,
    /// As it came, under an id of ours.
    pub(crate) bytes: Vec<u8>,
    pub(crate) id: u16,
    pub(crate) query: Query,
    pub(crate) tcp: bool,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) asked: Vec<Asked>,
    /// The best refusal so far.
    pub(crate) failure: Option<Vec<u8>>,
    next: usize,
    since: Instant,
    step_at: Instant,
    again: usize,
}

#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) server: SocketAddr,
    pub(crate) token: u64,
    pub(crate) since: Instant,
    /// It answered or failed.
    pub(crate) over: bool,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// These servers are to be asked.
    Ask(Vec<SocketAddr>),
    /// The same sockets send again.
    Repeat,
    GiveUp,
}

/// Which servers did not answer lately.
#[derive(Debug, Default)]
pub(crate) struct Health {
    lame: HashMap<SocketAddr, Instant>,
}

impl Health {
    pub(crate) fn failed(&mut self, server: SocketAddr, now: Instant) {
        // Not more servers than are written into files; bounded all the same.
        if self.lame.len() < 1024 || self.lame.contains_key(&server) {
            self.lame.insert(server, now + LAME);
        } else {
            self.lame.retain(|_, until| *until > now);
        }
    }

    pub(crate) fn answered(&mut self, server: SocketAddr) {
        self.lame.remove(&server);
    }

    fn is_lame(&self, server: SocketAddr, now: Instant) -> bool {
        self.lame.get(&server).is_some_and(|until| *until > now)
    }
}

impl Forward {
    #[expect(clippy::too_many_arguments, reason = "what a question consists of; there is one caller")]
    pub(crate) fn new(
        key: Vec<u8>,
        client: &str,
        own_namespace: bool,
        bytes: Vec<u8>,
        id: u16,
        query: Query,
        tcp: bool,
        servers: Vec<SocketAddr>,
        now: Instant,
    ) -> Forward {
        Forward {
            key,
            client: client.to_owned(),
            own_namespace,
            bytes,
            id,
            query,
            tcp,
            servers,
            waiters: Vec::new(),
            asked: Vec::new(),
            failure: None,
            next: 0,
            since: now,
            step_at: now,
            again: 0,
        }
    }

    /// When to look again.
    pub(crate) fn wake_at(&self) -> Instant {
        let end = self.since + PATIENCE;
        let again = AGAIN.get(self.again).filter(|_| !self.tcp).map_or(end, |after| self.since + *after);
        let step = if self.next < self.servers.len() { self.step_at } else { end };
        end.min(again).min(step)
    }

    pub(crate) fn due(&mut self, health: &Health, now: Instant) -> Due {
        if now >= self.since + PATIENCE {
            return Due::GiveUp;
        }
        if self.next < self.servers.len() && now >= self.step_at {
            self.step_at = now + STEP;
            let mut some = Vec::new();
            while let Some(&server) = self.servers.get(self.next) {
                self.next += 1;
                some.push(server);
                if !health.is_lame(server, now) {
                    break;
                }
            }
            return Due::Ask(some);
        }
        if let Some(after) = AGAIN.get(self.again)
            && !self.tcp
            && now >= self.since + *after
        {
            self.again += 1;
            return Due::Repeat;
        }
        Due::Nothing
    }

    /// `server` will not help: the next one is due at once. True: there is nobody left.
    pub(crate) fn failed(&mut self, token: u64, now: Instant) -> bool {
        for asked in self.asked.iter_mut().filter(|asked| asked.token == token) {
            asked.over = true;
        }
        self.step_at = now;
        self.next >= self.servers.len() && self.asked.iter().all(|asked| asked.over)
    }

    /// Servers that had their time and said nothing.
    pub(crate) fn silent(&self, now: Instant) -> impl Iterator<Item = SocketAddr> + '_ {
        self.asked.iter().filter(move |asked| !asked.over && now >= asked.since + STEP).map(|asked| asked.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(servers: &[&str], now: Instant) -> Forward {
        let query = Query::parse(&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1]).unwrap();
        let servers = servers.iter().map(|text| text.parse().unwrap()).collect();
        Forward::new(vec![], "c", false, vec![], 1, query, false, servers, now)
    }

    #[test]
    fn servers_are_asked_in_order_and_the_silent_ones_are_not_waited_for_again() {
        let now = Instant::now();
        let (first, second) = ("10.0.0.1:53", "10.0.0.2:53");
        let addr = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let mut health = Health::default();
        let mut one = forward(&[first, second], now);
        assert_eq!(one.due(&health, now), Due::Ask(vec![addr(first)]));
        one.asked.push(Asked { server: addr(first), token: 1, since: now, over: false });
        assert_eq!(one.due(&health, now + STEP / 2), Due::Nothing);
        let late = now + STEP;
        assert_eq!(one.wake_at(), late);
        assert_eq!(one.due(&health, late), Due::Ask(vec![addr(second)]));
        assert_eq!(one.silent(late).collect::<Vec<_>>(), [addr(first)]);
        assert_eq!(one.due(&health, now + Duration::from_secs(1)), Due::Repeat);
        assert_eq!(one.due(&health, now + PATIENCE), Due::GiveUp);

        health.failed(addr(first), now);
        let mut other = forward(&[first, second], now);
        assert_eq!(other.due(&health, now), Due::Ask(vec![addr(first), addr(second)]));
        health.answered(addr(first));
        let mut third = forward(&[first, second], now);
        assert_eq!(third.due(&health, now), Due::Ask(vec![addr(first)]));
    }

    #[test]
    fn a_refusal_lets_the_next_one_answer_at_once() {
        let now = Instant::now();
        let mut one = forward(&["10.0.0.1:53", "10.0.0.2:53"], now);
        let health = Health::default();
        one.due(&health, now);
        one.asked.push(Asked { server: "10.0.0.1:53".parse().unwrap(), token: 5, since: now, over: false });
        assert!(!one.failed(5, now), "one is left");
        assert!(matches!(one.due(&health, now), Due::Ask(_)));
        one.asked.push(Asked { server: "10.0.0.2:53".parse().unwrap(), token: 6, since: now, over: false });
        assert!(one.failed(6, now));
    }
}
