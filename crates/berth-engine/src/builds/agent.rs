//! A socket for one step, behind which the caller's agent answers.
//!
//! The step never sees the agent's own socket: this one has the owner and rights that the mount asks for, and is gone
//! with the step.

use super::{Caller, Conversation};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// Conversations at the same time.
const CONVERSATIONS_MAX: usize = 64;

/// Where the agent is.
#[derive(Clone)]
pub(crate) enum Dial {
    /// On this host.
    Socket(PathBuf),
    /// With the build's caller, by this name.
    Caller(Arc<dyn Caller>, String),
}

impl Dial {
    async fn begin(&self) -> io::Result<Box<dyn Conversation>> {
        match self {
            Dial::Socket(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Dial::Caller(caller, id) => caller.agent(id).await,
        }
    }
}

/// Ends all conversations with its value.
pub(crate) struct Agent(JoinHandle<()>);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens at `socket`, whose folder is there, for `agent`.
pub(crate) fn listen(socket: &Path, agent: Dial, owner: (u32, u32), mode: u32) -> io::Result<Agent> {
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // However long the path is: a socket's address has room for 107 bytes only.
    let folder = std::fs::File::open(folder)?;
    let listener = UnixListener::bind(PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))?;
    std::os::unix::fs::chown(socket, Some(owner.0), Some(owner.1))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))?;
    Ok(Agent(tokio::spawn(serve(listener, agent))))
}

async fn serve(listener: UnixListener, agent: Dial) {
    let mut conversations = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        while conversations.len() >= CONVERSATIONS_MAX {
            conversations.join_next().await;
        }
        let agent = agent.clone();
        conversations.spawn(async move {
            // Either side may leave at any time: the other one sees its end.
            if let Ok(mut agent) = agent.begin().await {
                tokio::io::copy_bidirectional(&mut client, &mut agent).await.ok();
            }
        });
    }
}
