//! Who is at the other end of a connection to the engine.

use std::fmt;
use std::net::SocketAddr;

/// As far as the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A process of this host, by a Unix socket, and its user.
    Local {
        uid: u32,
    },
    Network(SocketAddr),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Local { uid: 0 } => f.write_str("the engine's socket"),
            Caller::Local { uid } => write!(f, "the engine's socket, user {uid}"),
            Caller::Network(address) => write!(f, "{}", address.ip().to_canonical()),
        }
    }
}
