//! What a build says, on its way to whoever asked for it.
//!
//! Events are small, clipped, and wait for nobody: a step does not stand still for a slow terminal. Archives are as large
//! as the result; their parts wait until the one before was taken.

use super::Message;
use bytes::Bytes;
use std::io::{self, Write};
use tokio::sync::mpsc;

/// Parts of an archive that wait for a slow client.
const PARTS_MAX: usize = 8;

/// A running build; dropping it cancels it.
pub struct BuildStream {
    said: mpsc::UnboundedReceiver<Message>,
    parts: mpsc::Receiver<Message>,
    next: Option<Message>,
}

impl BuildStream {
    pub async fn next(&mut self) -> Option<Message> {
        if self.next.is_none() {
            tokio::select! {
                biased;
                Some(part) = self.parts.recv() => return Some(part),
                message = self.said.recv() => self.next = message,
            }
        }
        // What was said after a part was sent does not overtake it.
        match self.parts.try_recv() {
            Ok(part) => Some(part),
            Err(_) => self.next.take(),
        }
    }
}

/// The build's end of its stream.
#[derive(Clone)]
pub(super) struct Said {
    said: mpsc::UnboundedSender<Message>,
    parts: mpsc::Sender<Message>,
}

pub(super) fn channel() -> (Said, BuildStream) {
    let (said, receiver) = mpsc::unbounded_channel();
    let (parts, parts_receiver) = mpsc::channel(PARTS_MAX);
    (Said { said, parts }, BuildStream { said: receiver, parts: parts_receiver, next: None })
}

impl Said {
    /// The build ends by itself when nobody listens.
    pub(super) fn say(&self, message: Message) {
        drop(self.said.send(message));
    }

    /// Nobody listens any more.
    pub(super) async fn closed(&self) {
        self.said.closed().await;
    }

    /// A file that goes out part by part, each made a message by `wrap`. Writing blocks.
    pub(super) fn file(&self, wrap: fn(Bytes) -> Message) -> Parts {
        Parts { to: self.parts.clone(), wrap }
    }
}

pub(super) struct Parts {
    to: mpsc::Sender<Message>,
    wrap: fn(Bytes) -> Message,
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = (self.wrap)(Bytes::copy_from_slice(bytes));
        self.to.blocking_send(part).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_wait_for_a_slow_client_and_come_before_what_was_said_after_them() {
        let (said, mut stream) = channel();
        let writing = tokio::task::spawn_blocking(move || {
            let mut file = said.file(Message::Archive);
            (0..100u8).for_each(|number| file.write_all(&[number]).unwrap());
            said.say(Message::Note("after".to_owned()));
        });
        let mut got = Vec::new();
        while let Some(message) = stream.next().await {
            // However late the client is, no more than these are in memory.
            assert!(stream.parts.len() <= PARTS_MAX);
            match message {
                Message::Archive(bytes) => got.extend_from_slice(&bytes),
                Message::Note(_) => break,
                _ => panic!("nothing else was said"),
            }
        }
        writing.await.unwrap();
        assert_eq!(got, (0..100).collect::<Vec<u8>>());
    }

    #[tokio::test]
    async fn a_file_for_nobody_is_an_error() {
        let (said, stream) = channel();
        drop(stream);
        let wrote = tokio::task::spawn_blocking(move || said.file(Message::Archive).write_all(b"x"));
        assert_eq!(wrote.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
