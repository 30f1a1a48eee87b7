//! Engines: they connect, and tell what is so.

use super::{Client, Server, Source};
use crate::protocol::{self, DESCRIPTORS_PER_CONTAINER, Op, ProtocolError, Reply, VERSION, View};
use crate::zone::Network;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::net::{TcpListener, UdpSocket};

/// Connected at once; one engine and, while it is replaced, the next.
const ENGINES_MAX: usize = 8;

impl Server {
    pub(super) fn accept_engine(&mut self, token: u64) {
        let Some(Source::Listener(listener)) = self.sources.get(&token) else { return };
        let Ok(engine) = accept_with(listener, SocketFlags::CLOEXEC) else { return };
        if self.engines < ENGINES_MAX && self.watch(Source::Engine(engine), EventFlags::IN).is_ok() {
            self.engines += 1;
            self.generation = self.generation.max(1);
        }
    }

    pub(super) fn hear_engine(&mut self, token: u64) {
        let Some(Source::Engine(engine)) = self.sources.get(&token) else { return };
        match protocol::receive::<Vec<Op>>(engine.as_fd()) {
            Ok((ops, descriptors)) => {
                let reply = self.change(ops, descriptors);
                let Some(Source::Engine(engine)) = self.sources.get(&token) else { return };
                // It hears from the closed connection that it was not understood.
                if protocol::send(engine.as_fd(), &reply, &[]).is_err() {
                    self.end_engine(token);
                }
            }
            Err(ProtocolError::Io(Errno::AGAIN)) => {}
            Err(_) => self.end_engine(token),
        }
    }

    fn end_engine(&mut self, token: u64) {
        if self.close(token).is_some() {
            self.engines -= 1;
        }
    }

    fn change(&mut self, ops: Vec<Op>, descriptors: Vec<OwnedFd>) -> Reply {
        let mut reply = Reply { version: VERSION, ..Reply::default() };
        let mut descriptors = descriptors.into_iter();
        for op in ops {
            match op {
                Op::Hello => reply.serving = self.clients.keys().cloned().collect(),
                Op::Begin => self.generation += 1,
                Op::End => {
                    self.zones.forget_before(self.generation);
                    let old = self.clients.iter().filter(|(_, client)| client.generation < self.generation);
                    let old: Vec<String> = old.map(|(id, _)| id.clone()).collect();
                    for container in old {
                        self.unserve(&container);
                    }
                }
                Op::Serve { view, sockets } => {
                    let handed: Vec<OwnedFd> = match sockets {
                        true => descriptors.by_ref().take(DESCRIPTORS_PER_CONTAINER).collect(),
                        false => Vec::new(),
                    };
                    let container = view.container.clone();
                    if let Err(error) = self.serve(view, handed) {
                        reply.error = Some(format!("cannot serve container {container}: {error}"));
                    }
                }
                Op::Unserve { container } => self.unserve(&container),
                Op::Put { network, label, one, container, names, addresses } => {
                    let network = Network { id: &network, label: &label, one };
                    self.zones.put(&network, &container, &names, &addresses, self.generation);
                }
                Op::Remove { network, container } => self.zones.remove(&network, &container),
                Op::Quit => self.quit = true,
            }
        }
        reply
    }

    fn serve(&mut self, view: View, handed: Vec<OwnedFd>) -> Result<(), Errno> {
        let generation = self.generation;
        let Ok([udp, tcp, namespace]) = <[OwnedFd; DESCRIPTORS_PER_CONTAINER]>::try_from(handed) else {
            let client = self.clients.get_mut(&view.container).ok_or(Errno::NOENT)?;
            client.view = view;
            client.generation = generation;
            return Ok(());
        };
        self.unserve(&view.container);
        for socket in [&udp, &tcp] {
            rustix::io::ioctl_fionbio(socket, true)?;
        }
        let client = view.container.clone();
        let udp = Source::Udp { client: client.clone(), socket: UdpSocket::from(udp) };
        let udp = self.watch(udp, EventFlags::IN)?;
        let accept = Source::Accept { client: client.clone(), listener: TcpListener::from(tcp) };
        let accept = match self.watch(accept, EventFlags::IN) {
            Ok(accept) => accept,
            Err(errno) => {
                self.close(udp);
                return Err(errno);
            }
        };
        let served = Client { view, udp, accept, namespace, asking: 0, connections: 0, generation };
        self.clients.insert(client, served);
        Ok(())
    }

    fn unserve(&mut self, container: &str) {
        let Some(client) = self.clients.remove(container) else { return };
        self.close(client.udp);
        self.close(client.accept);
        let connections = self.sources.iter().filter_map(|(token, source)| match source {
            Source::Connection { client, .. } if client == container => Some(*token),
            _ => None,
        });
        for token in connections.collect::<Vec<_>>() {
            self.close(token);
        }
        // Its questions end unheard; others may wait for the same answers.
    }
}
