//! `start`.

use super::attach::{Session, Stream};
use crate::app::App;
use crate::cli::Args;
use crate::client::encode;
use crate::error::{CliError, Result};

pub(crate) async fn start(app: &'static App, args: Args) -> Result<u8> {
    if args.changed("checkpoint") || args.changed("checkpoint-dir") {
        return Err(CliError::failed(
            "\"--checkpoint\" is only supported on a Docker daemon with experimental features enabled",
        ));
    }
    if args.on("attach") || args.on("interactive") {
        if args.words.len() > 1 {
            return Err(CliError::failed("you cannot start and attach multiple containers at once"));
        }
        return attached(app, &args).await;
    }
    let failed = std::cell::RefCell::new(Vec::new());
    let code = app
        .each(&args.words, async |name: String| {
            let id = app.container(&name).await?;
            if let Err(error) = app.client.post(&format!("/containers/{}/start", encode(&id))).await {
                failed.borrow_mut().push(name);
                return Err(error);
            }
            app.line(&name)
        })
        .await?;
    if code != 0 {
        app.note(&format!("Error: failed to start containers: {}", failed.into_inner().join(", ")));
    }
    Ok(code)
}

async fn attached(app: &'static App, args: &Args) -> Result<u8> {
    let name = app.container(&args.words[0]).await?;
    let info = app.client.get_value(&format!("/containers/{}/json", encode(&name))).await?;
    let tty = info.at(&["Config", "Tty"]).bool();
    let stream = Stream {
        stdin: args.on("interactive") && info.at(&["Config", "OpenStdin"]).bool(),
        stdout: true,
        stderr: true,
        tty,
        logs: false,
        detach_keys: args.text("detach-keys").to_owned(),
        proxy_signals: !tty,
    };
    let removed = info.at(&["HostConfig", "AutoRemove"]).bool();
    let session = Session::open(app, info.text("Id"), &stream, if removed { "removed" } else { "next-exit" }).await?;
    app.client.post(&format!("/containers/{}/start", encode(&name))).await.map_err(super::run::start_failure)?;
    session.run().await
}
