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
//!  write_config        what a shim reads before it makes its container
//! ```
//!
//! One connection per container, on which the engine hears of everything. When it ends without an exit,
//! the shim was killed.

mod client;
mod config;
mod pool;
mod stream;

use berth_shim_proto::{Body, Notice};

pub(crate) use client::{Hold, Incoming, Shim};
pub(crate) use config::{collect_profiles, write_config};
pub(crate) use pool::{Pool, Spawned, ended, forget_process, spawned};
pub(crate) use stream::{Left, Streams, attach, parse_detach_keys};

/// What an engine says first to a shim that it started.
pub(crate) fn greeting() -> Vec<Body> {
    vec![Body::Hello { version: berth_shim_proto::VERSION }, Body::Subscribe]
}

/// Kills everything of the shim's container where that is `running`, hears its end, and lets the shim go. False: it did
/// not say that it goes, perhaps because it has gone.
pub(crate) async fn end(shim: &Shim, incoming: &mut Incoming, running: bool) -> bool {
    // What was only made goes with its shim.
    if running {
        let replies = shim.send(vec![Body::SignalAll { signal: 9 }]).await.unwrap_or_default();
        for reply in replies {
            // It may have ended just now, and its end come before the answer: that is kept.
            if let Err(error) = incoming.answer(reply).await {
                tracing::debug!(%error, "a shim's container ended before it was killed");
            }
        }
        while !matches!(incoming.next().await, Some(Notice::Exited(_)) | None) {}
    }
    forget(shim, incoming).await
}

/// Lets a shim go whose container has ended; its answer comes only while somebody reads it. False as for [`end`].
pub(crate) async fn forget(shim: &Shim, incoming: &mut Incoming) -> bool {
    let Some(reply) = shim.send(vec![Body::Forget]).await.ok().and_then(|mut replies| replies.pop()) else {
        return false;
    };
    let answer = incoming.answer(reply).await;
    answer.inspect_err(|error| tracing::debug!(%error, "a shim was not let go")).is_ok()
}
