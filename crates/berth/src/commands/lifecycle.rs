//! Commands that ask one thing of each container named: stop, restart, kill, pause, unpause, wait, rm,
//! rename.

use crate::app::App;
use crate::cli::Args;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use crate::value::Value;

/// `POST /containers/{id}/<verb>` for every name; prints each name that it worked for.
async fn post_each(app: &App, names: &[String], verb: &str, query: &[(&str, &str)]) -> Result<u8> {
    app.together(names, async |name: String| {
        let id = app.container(&name).await?;
        app.client.post(&with_query(&format!("/containers/{}/{verb}", encode(&id)), query)).await?;
        Ok(Some(name))
    })
    .await
}

async fn with_timeout(app: &App, args: &Args, verb: &str) -> Result<u8> {
    let timeout = if args.changed("timeout") { args.int("timeout")?.to_string() } else { String::new() };
    post_each(app, &args.words, verb, &[("signal", args.text("signal")), ("t", &timeout)]).await
}

pub(crate) async fn stop(app: &'static App, args: Args) -> Result<u8> {
    with_timeout(app, &args, "stop").await
}

pub(crate) async fn restart(app: &'static App, args: Args) -> Result<u8> {
    with_timeout(app, &args, "restart").await
}

pub(crate) async fn kill(app: &'static App, args: Args) -> Result<u8> {
    post_each(app, &args.words, "kill", &[("signal", args.text("signal"))]).await
}

pub(crate) async fn pause(app: &'static App, args: Args) -> Result<u8> {
    post_each(app, &args.words, "pause", &[]).await
}

pub(crate) async fn unpause(app: &'static App, args: Args) -> Result<u8> {
    post_each(app, &args.words, "unpause", &[]).await
}

pub(crate) async fn wait(app: &'static App, args: Args) -> Result<u8> {
    app.each(&args.words, async |name: String| {
        let id = app.container(&name).await?;
        let answer = Value::parse(&app.client.post(&format!("/containers/{}/wait", encode(&id))).await?)?;
        let error = answer.at(&["Error", "Message"]).str();
        if !error.is_empty() {
            return Err(CliError::Engine { status: 500, message: error.to_owned(), hint: None });
        }
        app.line(&answer.get("StatusCode").int().to_string())
    })
    .await
}

pub(crate) async fn remove(app: &'static App, args: Args) -> Result<u8> {
    let on = |flag: &str| if args.on(flag) { "1" } else { "" };
    let query = [("v", on("volumes")), ("link", on("link")), ("force", on("force"))];
    let force = args.on("force");
    app.together(&args.words, async |name: String| {
        let id = app.container(&name).await?;
        if id.is_empty() {
            return Err(CliError::failed("container name cannot be empty"));
        }
        match app.client.delete(&with_query(&format!("/containers/{}", encode(&id)), &query)).await {
            // With --force a container that is not there is what was asked for; it is said all the same.
            Err(error) if force && error.status() == Some(404) => {
                app.note(&error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(Some(name)),
        }
    })
    .await
}

pub(crate) async fn rename(app: &'static App, args: Args) -> Result<u8> {
    let id = app.container(&args.words[0]).await?;
    let new = args.words[1].trim();
    if new.is_empty() {
        return Err(CliError::failed("Error: Neither old nor new names may be empty"));
    }
    let path = with_query(&format!("/containers/{}/rename", encode(&id)), &[("name", new)]);
    if let Err(error) = app.client.post(&path).await {
        crate::report(app, &error).await;
        app.note(&format!("Error: failed to rename container named {}", args.words[0]));
        return Ok(1);
    }
    Ok(0)
}
