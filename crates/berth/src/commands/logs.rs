//! `logs`.

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::demux::{Channel, Demux};
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use crate::session::write_fd;
use crate::units::timestamp_argument;
use hyper::Method;

pub(crate) async fn logs(app: &'static App, args: Args) -> Result<u8> {
    let id = app.container(&args.words[0]).await?;
    let flag = |name: &str| if args.on(name) { "1" } else { "" };
    let time = |name: &str| {
        timestamp_argument(args.text(name)).map_err(|e| CliError::failed(format!("invalid value for {name:?}: {e}")))
    };
    let tail = if args.changed("tail") { args.text("tail") } else { "all" };
    let (since, until) = (time("since")?, time("until")?);
    let path = with_query(
        &format!("/containers/{}/logs", encode(&id)),
        &[
            ("stdout", "1"),
            ("stderr", "1"),
            ("follow", flag("follow")),
            ("since", &since),
            ("until", &until),
            ("timestamps", flag("timestamps")),
            ("details", flag("details")),
            ("tail", tail),
        ],
    );
    let mut answer = app.client.send(Method::GET, &path, &[], Body::empty()).await?;
    // A terminal's output is one raw stream; the engine says which it sends.
    let raw = match answer.header("content-type") {
        Some("application/vnd.docker.multiplexed-stream") => false,
        Some("application/vnd.docker.raw-stream") => {
            let info = app.client.get_value(&format!("/containers/{}/json", encode(&id))).await?;
            info.at(&["Config", "Tty"]).bool()
        }
        _ => app.client.get_value(&format!("/containers/{}/json", encode(&id))).await?.at(&["Config", "Tty"]).bool(),
    };
    let mut demux = Demux::default();
    while let Some(chunk) = answer.chunk().await? {
        let written = if raw { write_fd(Channel::Stdout, &chunk) } else { demux.feed(&chunk, write_fd) };
        written.map_err(|e| CliError::io("cannot write the log", e))?;
    }
    Ok(0)
}
