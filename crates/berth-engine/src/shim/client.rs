//! One connection to a shim.

use berth_shim_proto::{Answer, Body, Notice, OLDEST_VERSION, Request, ShimMessage, frame};
use berth_types::{Error, ErrorKind, Result};
use std::collections::{HashMap, VecDeque};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

/// A shim that has not answered by then hangs. Create and Start may wait for hooks and slow disks.
const REPLY_SECONDS_MAX: u64 = 120;
const READ_BYTES: usize = 8 << 10;

/// The sending side; shared by all who ask something of a container.
pub(crate) struct Shim {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    pending: Arc<Mutex<Pending>>,
}

#[derive(Default)]
struct Pending {
    replies: HashMap<u64, oneshot::Sender<Result<Answer>>>,
    next: u64,
    closed: bool,
}

/// The receiving side; whoever holds it must go on reading, or no request is answered.
pub(crate) struct Incoming {
    reader: OwnedReadHalf,
    buffer: Vec<u8>,
    /// Notices that came while somebody waited for an answer.
    early: VecDeque<Notice>,
    pending: Arc<Mutex<Pending>>,
}

/// A pause that lasts as long as this: its connection.
pub(crate) struct Hold {
    _connection: (Arc<Shim>, Incoming),
}

/// An answer on its way.
pub(crate) type Reply = oneshot::Receiver<Result<Answer>>;

fn lock(pending: &Mutex<Pending>) -> std::sync::MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the container's shim has gone")
}

/// Connects to `<dir>/shim.sock`, however long `dir` is: a socket's address has room for 107 bytes only.
pub(crate) async fn connect(dir: &Path) -> std::io::Result<UnixStream> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let folder = rustix::fs::open(dir, flags, rustix::fs::Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd())).await
}

impl Shim {
    pub(crate) fn over(stream: UnixStream) -> (Arc<Shim>, Incoming) {
        let (reader, writer) = stream.into_split();
        let pending = Arc::new(Mutex::new(Pending::default()));
        let shim = Shim { writer: tokio::sync::Mutex::new(writer), pending: pending.clone() };
        (Arc::new(shim), Incoming { reader, buffer: Vec::new(), early: VecDeque::new(), pending })
    }

    /// Finds the shim of `dir` again. Greets and subscribes, then asks for its state.
    pub(crate) async fn dial(dir: &Path, deadline: Duration) -> Result<(Arc<Shim>, Incoming, berth_shim_proto::State)> {
        let failed = |cause: std::io::Error| Error::because(ErrorKind::Unavailable, "cannot reach a shim", &cause);
        let dial = async {
            let (shim, mut incoming) = Shim::over(connect(dir).await.map_err(failed)?);
            // Subscribed first: between the state and what is heard afterwards there must be no gap.
            // It may be of an older engine's; what is asked of a shim that has a container is as old as shims are.
            let hello = Body::Hello { version: OLDEST_VERSION };
            let replies = shim.send(vec![hello, Body::Subscribe, Body::State]).await?;
            let mut answers = Vec::new();
            for reply in replies {
                answers.push(incoming.answer(reply).await?);
            }
            match answers.into_iter().nth(2) {
                Some(Answer::State(state)) => Ok((shim, incoming, state)),
                _ => Err(Error::internal("a shim answered a question that was not asked")),
            }
        };
        match tokio::time::timeout(deadline, dial).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "a shim does not answer")),
        }
    }

    /// Holds the container of `dir` still until the answer is dropped, or this engine dies.
    pub(crate) async fn hold(dir: &Path) -> Result<Hold> {
        let failed = |cause: std::io::Error| Error::because(ErrorKind::Unavailable, "cannot reach a shim", &cause);
        let (shim, mut incoming) = Shim::over(connect(dir).await.map_err(failed)?);
        for reply in shim.send(vec![Body::Hello { version: OLDEST_VERSION }, Body::Pause]).await? {
            incoming.answer(reply).await?;
        }
        Ok(Hold { _connection: (shim, incoming) })
    }

    /// Sends all of `bodies` in one write; the answers come in their order.
    pub(crate) async fn send(&self, bodies: Vec<Body>) -> Result<Vec<Reply>> {
        let (mut bytes, mut replies) = (Vec::new(), Vec::with_capacity(bodies.len()));
        // Held until all is written: two requests must not mix.
        let mut writer = self.writer.lock().await;
        for body in bodies {
            let (sender, receiver) = oneshot::channel();
            let mut pending = lock(&self.pending);
            if pending.closed {
                return Err(gone());
            }
            pending.next += 1;
            let sequence = pending.next;
            frame::encode(&Request { sequence, body }, &mut bytes)
                .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write to a shim", &cause))?;
            pending.replies.insert(sequence, sender);
            replies.push(receiver);
        }
        writer.write_all(&bytes).await.map_err(|_| gone())?;
        Ok(replies)
    }

    pub(crate) async fn request(&self, body: Body) -> Result<Answer> {
        let mut replies = self.send(vec![body]).await?;
        match replies.pop() {
            Some(reply) => answer(reply).await,
            None => Err(gone()),
        }
    }

    /// For requests that are done when they are answered.
    pub(crate) async fn tell(&self, body: Body) -> Result<()> {
        self.request(body).await.map(drop)
    }
}

/// Waits for an answer, not without end.
async fn answer(reply: Reply) -> Result<Answer> {
    match tokio::time::timeout(Duration::from_secs(REPLY_SECONDS_MAX), reply).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(gone()),
        Err(_) => Err(Error::new(ErrorKind::Timeout, "the container's shim does not answer")),
    }
}

impl Incoming {
    /// Nothing more will come: requests that wait are answered with that.
    fn close(&mut self) {
        let mut pending = lock(&self.pending);
        pending.closed = true;
        pending.replies.clear();
    }

    /// Waits for the answer to a request while nobody else reads this connection. Notices that come meanwhile
    /// are kept: the program may have ended before its start is answered.
    pub(crate) async fn answer(&mut self, reply: Reply) -> Result<Answer> {
        let waiting = answer(reply);
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                biased;
                answer = &mut waiting => return answer,
                notice = self.read() => match notice {
                    Some(notice) => self.early.push_back(notice),
                    None => {
                        // What had arrived before the end still counts.
                        self.close();
                        return waiting.await;
                    }
                },
            }
        }
    }

    /// The next notice; replies are handed to whoever asked. `None` once the connection has ended.
    /// Nothing is lost when it is cancelled.
    pub(crate) async fn next(&mut self) -> Option<Notice> {
        match self.early.pop_front() {
            Some(notice) => Some(notice),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Option<Notice> {
        loop {
            loop {
                match frame::decode::<ShimMessage>(&mut self.buffer) {
                    Ok(Some(ShimMessage::Notice(notice))) => return Some(notice),
                    Ok(Some(ShimMessage::Reply { sequence, result })) => {
                        let waiting = lock(&self.pending).replies.remove(&sequence);
                        if let Some(waiting) = waiting {
                            // Whoever asked may have gone.
                            waiting.send(result).ok();
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "a shim said what nobody understands");
                        return None;
                    }
                }
            }
            if self.buffer.is_empty() {
                // An idle container keeps no buffer.
                self.buffer = Vec::new();
            }
            self.reader.readable().await.ok()?;
            let mut part = [0_u8; READ_BYTES];
            match self.reader.try_read(&mut part) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&part[..count]),
                Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut pending = lock(&self.pending);
        pending.closed = true;
        // Their receivers hear that nobody will answer.
        pending.replies.clear();
    }
}
