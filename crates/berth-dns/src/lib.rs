//! The name server of containers: one small process that outlives the engine.
//!
//! ```text
//!  a container's network namespace                  the host's
//!  127.0.0.11:53 ─ rewritten to ─ 127.0.0.11:<n> ── berth-dns ── the host's name servers
//!                                 (UDP and TCP)        │
//!                                                      └── or --dns, asked from the container's namespace
//!  message   queries read, answers written
//!  zone      who has which name on which network
//!  cache     answers from upstream, aged
//!  protocol  what the engine tells us
//!  upstream  questions on their way to other name servers
//!  server    the loop: one thread, one epoll
//! ```
//!
//! The engine opens the sockets inside each container's network namespace and hands them over; whoever holds a socket
//! answers on it, so one process serves all namespaces without entering them, and goes on while the engine is
//! down, restarts or is upgraded. The next engine finds it by its socket and tells it what changed. It ends by itself
//! once it serves nobody and no engine is connected.
//!
//! The codec is our own: answers from upstream are passed on byte for byte (only id, letters of the question and
//! times to live are written), local answers are addresses and names, and what containers send is hostile. A few hundred
//! bounded lines do that; a general library would decode and encode every record of strangers.

pub mod cache;
pub mod message;
pub mod protocol;
pub mod server;
mod tcp;
mod upstream;
pub mod zone;

/// The number under which the program finds its listening socket.
pub const LISTENER: i32 = 3;
/// The socket in the engine's exec root.
pub const SOCKET_NAME: &str = "dns.sock";
/// Where containers ask.
pub const ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 11);
