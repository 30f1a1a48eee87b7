//! `run` and `create`.
//!
//! ```text
//! create ── attach ── wait (its head) ── start ── streams ... end ── exit status
//! ```
//!
//! Attach and wait stand before start, so that no output and no exit can fall between them.

use super::attach::{Session, Stream};
use crate::app::App;
use crate::cli::Args;
use crate::client::with_query;
use crate::error::{CliError, Result};
use crate::opts::create::{self, Create};
use crate::value::Value;
use std::io::Write;

pub(crate) async fn create(app: &'static App, args: Args) -> Result<u8> {
    pull_policy(&args).map_err(|e| e.with_help("create"))?;
    let request = create::create(&args, false).map_err(|e| e.with_help("create"))?;
    let id = make(app, &args, &request).await?;
    app.line(&id)?;
    Ok(0)
}

pub(crate) async fn run(app: &'static App, args: Args) -> Result<u8> {
    let detach = args.on("detach");
    let help = |error: CliError| error.with_help("run").with_code(125);
    pull_policy(&args).map_err(help)?;
    if detach && args.changed("attach") {
        return Err(CliError::failed("conflicting options: cannot specify both --attach and --detach"));
    }
    let request = create::create(&args, detach).map_err(help)?;
    if request.tty && request.attach_stdin && !crate::tty::stdin_is_terminal() {
        return Err(
            CliError::failed("the input device is not a TTY").with_hint("leave out -t, or give a terminal as stdin")
        );
    }
    let id = make(app, &args, &request).await.map_err(|e| match e {
        CliError::Silent(_) => e,
        e => help(e),
    })?;
    if detach {
        start(app, &id).await.map_err(|e| start_failure(e).with_help("run"))?;
        app.line(&id)?;
        return Ok(0);
    }
    let stream = Stream {
        stdin: request.attach_stdin,
        stdout: request.attach_stdout,
        stderr: request.attach_stderr,
        tty: request.tty,
        logs: false,
        detach_keys: args.text("detach-keys").to_owned(),
        proxy_signals: args.on("sig-proxy") && !request.tty,
    };
    let condition = if request.auto_remove { "removed" } else { "next-exit" };
    let session = Session::open(app, &id, &stream, condition).await.map_err(help)?;
    if let Err(error) = start(app, &id).await {
        return Err(start_failure(error).with_help("run"));
    }
    session.run().await
}

async fn start(app: &App, id: &str) -> Result<()> {
    app.client.post(&format!("/containers/{id}/start")).await.map(drop)
}

/// 127 when the program is not there, 126 when it cannot be run, else 125: what `env` and shells use.
pub(crate) fn start_failure(error: CliError) -> CliError {
    let text = error.to_string();
    let has = |needles: &[&str]| needles.iter().any(|n| text.contains(n));
    let code = match () {
        () if has(&["executable file not found", "no such file or directory", "not found in $PATH"]) => 127,
        () if has(&["permission denied", "Permission denied", "is a directory", "exec format error"]) => 126,
        () => 125,
    };
    error.with_code(code)
}

/// Creates the container, pulling its image when the policy says so; its id.
async fn make(app: &App, args: &Args, request: &Create) -> Result<String> {
    let cid_file = args.text("cidfile");
    if !cid_file.is_empty() && std::fs::symlink_metadata(cid_file).is_ok() {
        return Err(CliError::failed(format!(
            "container ID file found, make sure the other container isn't running or delete {cid_file}"
        )));
    }
    let policy = pull_policy(args)?;
    crate::opts::platform(args.text("platform"))?;
    let path = with_query("/containers/create", &[("name", args.text("name")), ("platform", args.text("platform"))]);
    if policy == "always" {
        pull(app, args, &request.image).await?;
    }
    let answer = match app.client.post_json(&path, &request.body).await {
        Err(error) if error.status() == Some(404) && policy == "missing" && is_missing_image(&error) => {
            if !args.on("quiet") {
                app.note(&format!("Unable to find image '{}' locally", with_tag(&request.image)));
            }
            if let Err(pull_error) = pull(app, args, &request.image).await {
                // The guess names an image that is there, which a failed pull cannot.
                let guess = crate::names::guess(app, &error).await;
                return Err(match guess {
                    Some(guess) if pull_error.hint().is_none() => pull_error.with_hint(guess),
                    _ => pull_error,
                });
            }
            app.client.post_json(&path, &request.body).await?
        }
        other => other?,
    };
    for warning in answer.get("Warnings").list() {
        app.note(&format!("WARNING: {}", warning.str()));
    }
    let id = answer.text("Id").to_owned();
    if !cid_file.is_empty() {
        let write = std::fs::OpenOptions::new().write(true).create_new(true).open(cid_file);
        write
            .and_then(|mut f| f.write_all(id.as_bytes()))
            .map_err(|e| CliError::io(format!("failed to create the container ID file {cid_file}"), e))?;
    }
    Ok(id)
}

fn pull_policy(args: &Args) -> Result<&str> {
    match args.text("pull") {
        "" => Ok("missing"),
        policy @ ("always" | "missing" | "never") => Ok(policy),
        other => Err(CliError::failed(format!(
            "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
        ))
        .with_code(125)),
    }
}

fn is_missing_image(error: &CliError) -> bool {
    error.to_string().to_lowercase().contains("no such image")
}

fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

async fn pull(app: &App, args: &Args, image: &str) -> Result<()> {
    let image = with_tag(image);
    let path = with_query("/images/create", &[("fromImage", &image), ("platform", args.text("platform"))]);
    super::registry::transfer(app, &path, &image, args.on("quiet"), true).await
}

/// The status of a wait's answer; an error of the wait itself is an engine error.
pub(crate) fn exit_status(answer: &Value) -> Result<u8> {
    let error = answer.at(&["Error", "Message"]).str();
    if !error.is_empty() {
        return Err(CliError::Engine { status: 500, message: error.to_owned(), hint: None }.with_code(125));
    }
    Ok((answer.get("StatusCode").int() & 0xff) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_say_who_failed() {
        let engine =
            |m: &str| start_failure(CliError::Engine { status: 400, message: m.into(), hint: None }).exit_code();
        assert_eq!(engine("exec: \"nope\": executable file not found in $PATH"), 127);
        assert_eq!(engine("exec /etc/passwd: permission denied"), 126);
        assert_eq!(engine("port is already allocated"), 125);
    }

    #[test]
    fn a_name_without_a_tag_means_latest() {
        assert_eq!(with_tag("a"), "a:latest");
        assert_eq!(with_tag("h:5000/a"), "h:5000/a:latest");
        assert_eq!(with_tag("h:5000/a:1"), "h:5000/a:1");
        assert_eq!(with_tag("a@sha256:0"), "a@sha256:0");
    }
}
