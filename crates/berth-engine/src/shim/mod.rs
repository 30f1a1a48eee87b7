//! Shims as the engine sees them: started ahead of time, spoken to, found again.
//!
//! ```text
//!  Pool::take          an idle shim, greeted and subscribed already; another is started behind
//!      | Create, Start
//!  Shim                requests by sequence number, any number at once
//!  Incoming            replies find their request; notices come out one by one; the end is the shim's end
//!  Shim::hold          a connection of its own that keeps a container still
//!  Shim::dial          the same through <dir>/shim.sock, after the engine was started again
//!  stream::attach      a connection of its own that becomes a container's standard streams
//! ```
//!
//! One connection per container, on which the engine hears of everything. When it ends without an exit,
//! the shim was killed.

mod client;
mod pool;
mod stream;

pub(crate) use client::{Hold, Incoming, Shim};
pub(crate) use pool::{Pool, Spawned, forget_process, spawned};
pub(crate) use stream::{Left, Streams, attach, parse_detach_keys};

/// What an engine says first on a connection of its own.
pub(crate) fn greeting() -> Vec<berth_shim_proto::Body> {
    vec![berth_shim_proto::Body::Hello { version: berth_shim_proto::VERSION }, berth_shim_proto::Body::Subscribe]
}
