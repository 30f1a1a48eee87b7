//! Containers' questions: those about containers answered, the rest passed on.

use super::{Server, Source};
use crate::message::{self, CLASS_IN, Query, RCODE_FAILURE, TYPE_PTR, Unreadable};
use crate::tcp::Stream;
use crate::upstream::{Asker, Waiter};
use rustix::event::epoll::EventFlags;
use std::net::SocketAddr;
use std::time::Instant;

/// Datagrams of one container before the others have their turn.
const TURN: usize = 32;
/// A question is a name of 255 bytes and a few options.
const QUERY_BYTES_MAX: usize = 4096;
/// TCP connections of one container, and of all.
const CONNECTIONS_MAX: usize = 32;
const CONNECTIONS_MAX_TOTAL: usize = 1024;

/// What a question leads to.
enum Outcome {
    Answer(Vec<u8>),
    Nothing,
    Forward(Query),
}

impl Server {
    pub(super) fn hear_datagrams(&mut self, token: u64) {
        for _ in 0..TURN {
            let mut buffer = std::mem::take(&mut self.buffer);
            let Some(Source::Udp { client, socket }) = self.sources.get(&token) else { break };
            let received = socket.recv_from(&mut buffer);
            let client = client.clone();
            if let Ok((length, peer)) = received {
                self.asked_over_udp(&client, peer, buffer.get(..length).unwrap_or_default());
            }
            self.buffer = buffer;
            if received.is_err() {
                return;
            }
        }
    }

    fn asked_over_udp(&mut self, client: &str, peer: SocketAddr, bytes: &[u8]) {
        match self.consider(client, bytes, None) {
            Outcome::Answer(answer) => self.send_datagram(client, peer, &answer),
            Outcome::Forward(query) => {
                let to = Asker::Udp { client: client.to_owned(), peer };
                self.forward(client, bytes, Waiter { to, query }, false);
            }
            Outcome::Nothing => {}
        }
    }

    pub(super) fn send_datagram(&self, client: &str, peer: SocketAddr, answer: &[u8]) {
        let Some(client) = self.clients.get(client) else { return };
        if let Some(Source::Udp { socket, .. }) = self.sources.get(&client.udp) {
            // Whoever asked asks again when an answer is lost: so it is with UDP.
            socket.send_to(answer, peer).ok();
        }
    }

    pub(super) fn accept_client(&mut self, token: u64) {
        let Some(Source::Accept { client, listener }) = self.sources.get(&token) else { return };
        let Ok((socket, _)) = listener.accept() else { return };
        let name = client.clone();
        let total: usize = self.clients.values().map(|client| client.connections).sum();
        let Some(client) = self.clients.get_mut(&name) else { return };
        if client.connections >= CONNECTIONS_MAX
            || total >= CONNECTIONS_MAX_TOTAL
            || socket.set_nonblocking(true).is_err()
        {
            return;
        }
        client.connections += 1;
        let source = Source::Connection { client: name.clone(), stream: Stream::new(socket), last: Instant::now() };
        if self.watch(source, EventFlags::IN).is_err()
            && let Some(client) = self.clients.get_mut(&name)
        {
            client.connections -= 1;
        }
    }

    pub(super) fn hear_connection(&mut self, token: u64) {
        let Some(Source::Connection { client, stream, last }) = self.sources.get_mut(&token) else { return };
        *last = Instant::now();
        let client = client.clone();
        let read = stream.flush().and_then(|()| stream.read(QUERY_BYTES_MAX));
        let Ok(questions) = read else { return self.end_connection(token) };
        for bytes in questions {
            match self.consider(&client, &bytes, Some(())) {
                Outcome::Answer(answer) => self.send_over_connection(token, &answer),
                Outcome::Forward(query) => {
                    self.forward(&client, &bytes, Waiter { to: Asker::Tcp { token }, query }, true);
                }
                Outcome::Nothing => {}
            }
        }
        self.watch_writing(token);
    }

    pub(super) fn send_over_connection(&mut self, token: u64, answer: &[u8]) {
        let Some(Source::Connection { stream, .. }) = self.sources.get_mut(&token) else { return };
        if stream.push(answer).and_then(|()| stream.flush()).is_err() {
            return self.end_connection(token);
        }
        self.watch_writing(token);
    }

    fn watch_writing(&mut self, token: u64) {
        if let Some(source @ Source::Connection { stream, .. }) = self.sources.get(&token) {
            self.rewatch(token, source, stream.wants_to_write());
        }
    }

    pub(super) fn end_connection(&mut self, token: u64) {
        if let Some(Source::Connection { client, .. }) = self.close(token)
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.connections = client.connections.saturating_sub(1);
        }
    }

    /// What `bytes` ask, and the answer as far as it is ours to give.
    fn consider(&mut self, client: &str, bytes: &[u8], stream: Option<()>) -> Outcome {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Unreadable::Ignore) => return Outcome::Nothing,
            Err(Unreadable::Refuse(code)) => {
                return message::bare_refusal(bytes, code).map_or(Outcome::Nothing, Outcome::Answer);
            }
        };
        let limit = limit(&query, stream.is_some());
        let Some(served) = self.clients.get(client) else { return Outcome::Nothing };
        let networks = &served.view.networks;
        if query.class == CLASS_IN
            && let Some(name) = &query.name
        {
            let target = served.view.links.get(name).unwrap_or(name);
            if let Some(addresses) = self.zones.addresses(networks, target, query.kind) {
                return Outcome::Answer(query.addresses(&addresses, limit));
            }
            if query.kind == TYPE_PTR
                && let Some(address) = message::reverse_address(name)
                && let Some(found) = self.zones.name(networks, address)
            {
                return Outcome::Answer(query.names(&[found], limit));
            }
        }
        if !served.view.forward {
            return Outcome::Answer(query.failure(RCODE_FAILURE));
        }
        Outcome::Forward(query)
    }
}

/// How large an answer may be.
pub(super) fn limit(query: &Query, stream: bool) -> usize {
    if stream { usize::from(u16::MAX) } else { query.udp_bytes }
}
