//! Whoever asked for a build, asked back while it runs: for secrets, an agent, a registry's credentials.

use crate::images::Credentials;
use berth_types::Result;
use futures_util::future::BoxFuture;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// A conversation with an agent.
pub trait Conversation: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Conversation for T {}

/// Answers what the request itself did not carry. A caller that has gone answers with errors.
pub trait Caller: Send + Sync + 'static {
    /// `None` where it has no such secret.
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>>>;
    /// Whether it has an agent of this name.
    fn has_agent<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool>>;
    /// Begins a conversation with an agent.
    fn agent<'a>(&'a self, id: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Conversation>>>;
    /// `None` where it knows none for this registry.
    fn credentials<'a>(&'a self, registry: &'a str) -> BoxFuture<'a, Result<Option<Credentials>>>;
}
