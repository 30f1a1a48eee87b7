//! Clients that stay while their builds run, and what they answer.

use axum::http::{HeaderMap, HeaderValue};
use berth_buildkit::grpc::{Answers, Call, Channel, Code, Reply, Status, stream};
use berth_buildkit::proto::session::{
    BytesMessage, CHECK_AGENT, CREDENTIALS, CheckAgentRequest, CredentialsRequest, CredentialsResponse, FORWARD_AGENT,
    GetSecretRequest, GetSecretResponse, SECRET,
};
use berth_engine::builds::{Caller, Conversation};
use berth_engine::images::Credentials;
use berth_types::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};

/// Clients at the same time; each is a connection.
const SESSIONS_MAX: usize = 4096;
const ID_BYTES_MAX: usize = 256;
/// A build may be asked for before its session's connection is there.
const ARRIVAL: Duration = Duration::from_secs(20);
/// What an agent's conversation holds on its way.
const AGENT_BYTES: usize = 32 << 10;
/// What a session inside of a call holds on its way.
const TUNNEL_BYTES: usize = 64 << 10;

/// What a client says of itself when it comes.
pub(super) struct Announced {
    id: String,
    /// What its folders are known by, over sessions.
    shared_key: String,
    methods: BTreeSet<String>,
}

impl Announced {
    pub(super) fn read(headers: &HeaderMap) -> Result<Announced> {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let id = headers.get("x-docker-expose-session-uuid").map(text).unwrap_or_default();
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(Error::invalid("a session needs an id (X-Docker-Expose-Session-Uuid)"));
        }
        let methods = headers.get_all("x-docker-expose-session-grpc-method").iter();
        let shared_key = headers.get("x-docker-expose-session-sharedkey").map(text).unwrap_or_default();
        let shared_key = if shared_key.len() > ID_BYTES_MAX { String::new() } else { shared_key };
        Ok(Announced { id, shared_key, methods: methods.map(|value| text(value).to_lowercase()).collect() })
    }
}

#[derive(Default)]
pub(super) struct Sessions(Arc<All>);

#[derive(Default)]
struct All {
    /// `None`: its connection is on its way.
    by_id: Mutex<BTreeMap<String, Option<Arc<Session>>>>,
    came: Notify,
}

impl All {
    fn by_id(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<Session>>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Takes the id before the client is told that it may go on.
    pub(super) fn reserve(&self, announced: Announced) -> Result<Place> {
        let mut by_id = self.0.by_id();
        if by_id.contains_key(&announced.id) {
            return Err(Error::conflict(format!("session {} already exists", announced.id)));
        }
        if by_id.len() >= SESSIONS_MAX {
            let text = format!("{SESSIONS_MAX} build sessions are open already");
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        by_id.insert(announced.id.clone(), None);
        drop(by_id);
        Ok(Place { all: self.0.clone(), announced })
    }

    /// The session with this id, once it is there.
    pub(super) async fn get(&self, id: &str) -> Result<Arc<Session>, Status> {
        let waiting = async {
            loop {
                let came = self.0.came.notified();
                let found = self.0.by_id().get(id).cloned().flatten();
                match found {
                    Some(session) => return session,
                    None => came.await,
                }
            }
        };
        let missing = |_| Status::new(Code::NotFound, format!("no active session for {id}: context deadline exceeded"));
        tokio::time::timeout(ARRIVAL, waiting).await.map_err(missing)
    }
}

/// A session's id while it lives; gone with the value.
pub(super) struct Place {
    all: Arc<All>,
    announced: Announced,
}

impl Place {
    pub(super) async fn run<IO>(self, connection: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (channel, ended) = match Channel::open(connection).await {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(%error, "a build session did not begin"),
        };
        // Both ends live here: the sender's drop says that the client has gone.
        let (_here, gone) = watch::channel(());
        let Announced { shared_key, methods, .. } = &self.announced;
        let session = Session { channel, shared_key: shared_key.clone(), methods: methods.clone(), gone };
        self.all.by_id().insert(self.announced.id.clone(), Some(Arc::new(session)));
        self.all.came.notify_waiters();
        ended.await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.by_id().remove(&self.announced.id);
    }
}

/// `Control/Session`: the same as `POST /session`, its connection carried by a call's messages.
pub(super) fn tunnel(sessions: &Sessions, mut call: Call) -> Result<Reply> {
    let place = sessions.reserve(Announced::read(call.headers())?)?;
    let (ours, theirs) = tokio::io::duplex(TUNNEL_BYTES);
    tokio::spawn(place.run(theirs));
    Ok(stream(|answers: Answers<BytesMessage>| async move {
        let (mut read, mut write) = tokio::io::split(ours);
        let down = async {
            while let Some(message) = call.next::<BytesMessage>().await? {
                if write.write_all(&message.data).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let up = async {
            let mut buffer = BytesMut::with_capacity(TUNNEL_BYTES);
            while matches!(read.read_buf(&mut buffer).await, Ok(count) if count > 0) {
                answers.send(BytesMessage { data: buffer.split().freeze() }).await?;
                buffer.reserve(TUNNEL_BYTES);
            }
            Ok(())
        };
        // Either end is the session's.
        tokio::select! {
            outcome = down => outcome,
            outcome = up => outcome,
        }
    }))
}

/// A client that answers.
pub(super) struct Session {
    channel: Channel,
    shared_key: String,
    methods: BTreeSet<String>,
    gone: watch::Receiver<()>,
}

impl Session {
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// A name for one of its folders that its next session has too; empty where it gives none.
    pub(super) fn folder_key(&self, folder: &str) -> String {
        if self.shared_key.is_empty() { String::new() } else { format!("{} {folder}", self.shared_key) }
    }

    pub(super) fn supports(&self, method: &str) -> bool {
        self.methods.contains(&method.to_lowercase())
    }

    /// Returns when the client has gone.
    pub(super) async fn gone(&self) {
        // Nothing is ever sent: the only change is its end.
        while self.gone.clone().changed().await.is_ok() {}
    }

    async fn ask<Q, A>(&self, method: &str, message: &Q) -> Result<Option<A>, Status>
    where
        Q: berth_buildkit::Message,
        A: berth_buildkit::Message + Default,
    {
        if !self.supports(method) {
            return Ok(None);
        }
        match self.channel.call(method, HeaderMap::new(), message).await {
            Ok(answer) => Ok(Some(answer)),
            Err(status) if matches!(status.code, Code::NotFound | Code::Unimplemented) => Ok(None),
            Err(status) => Err(status),
        }
    }
}

fn failed(what: &str) -> impl FnOnce(Status) -> Error + use<'_> {
    move |status| Error::because(ErrorKind::Unavailable, what, &status)
}

impl Caller for Session {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            let request = GetSecretRequest { id: id.to_owned(), annotations: BTreeMap::new() };
            let answer: Option<GetSecretResponse> =
                self.ask(SECRET, &request).await.map_err(failed(&format!("cannot get secret {id}")))?;
            Ok(answer.map(|answer| answer.data))
        })
    }

    fn has_agent<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            if !self.supports(CHECK_AGENT) {
                return Ok(false);
            }
            let request = CheckAgentRequest { id: id.to_owned() };
            let checked = self.channel.call::<_, berth_buildkit::proto::Empty>(CHECK_AGENT, HeaderMap::new(), &request);
            match checked.await {
                Ok(_) => Ok(true),
                // An unknown name has no code of its own.
                Err(status) if status.code != Code::Unavailable => Ok(false),
                Err(status) => Err(failed(&format!("cannot ask for ssh agent {id}"))(status)),
            }
        })
    }

    fn agent<'a>(&'a self, id: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Conversation>>> {
        Box::pin(async move {
            let mut metadata = HeaderMap::new();
            metadata.insert("buildkit.ssh.id", HeaderValue::from_str(id).map_err(io::Error::other)?);
            let (sending, mut replies) = self.channel.converse(FORWARD_AGENT, metadata);
            let (ours, theirs) = tokio::io::duplex(AGENT_BYTES);
            let (mut read, mut write) = tokio::io::split(ours);
            tokio::spawn(async move {
                let up = async {
                    let mut buffer = BytesMut::with_capacity(AGENT_BYTES);
                    while matches!(read.read_buf(&mut buffer).await, Ok(count) if count > 0) {
                        let data: Bytes = buffer.split().freeze();
                        if sending.send(&BytesMessage { data }).await.is_err() {
                            return;
                        }
                        buffer.reserve(AGENT_BYTES);
                    }
                    drop(sending);
                };
                let down = async {
                    while let Ok(Some(message)) = replies.next::<BytesMessage>().await {
                        if write.write_all(&message.data).await.is_err() {
                            return;
                        }
                    }
                    // Whoever reads sees the end; there is nobody else to tell.
                    write.shutdown().await.ok();
                };
                tokio::join!(up, down);
            });
            Ok(Box::new(theirs) as Box<dyn Conversation>)
        })
    }

    fn credentials<'a>(&'a self, registry: &'a str) -> BoxFuture<'a, Result<Option<Credentials>>> {
        Box::pin(async move {
            let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
            let request = CredentialsRequest { host: host.to_owned() };
            let what = format!("cannot get the login for {registry}");
            let answer: Option<CredentialsResponse> = self.ask(CREDENTIALS, &request).await.map_err(failed(&what))?;
            Ok(answer.and_then(|answer| match (answer.username, answer.secret) {
                (_, secret) if secret.is_empty() => None,
                (username, token) if username.is_empty() => Some(Credentials::Identity { username, token }),
                (username, password) => Some(Credentials::Basic { username, password }),
            }))
        })
    }
}
