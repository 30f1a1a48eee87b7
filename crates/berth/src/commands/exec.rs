//! `exec`.

use super::attach::{Ended, Guards, Target, detach_keys, enter_raw};
use crate::app::App;
use crate::cli::Args;
use crate::client::encode;
use crate::error::{CliError, Result};
use crate::opts::env;
use crate::session::{Plan, pump};
use serde_json::json;

pub(crate) async fn exec(app: &'static App, args: Args) -> Result<u8> {
    let name = app.container(&args.words[0]).await?;
    let command = &args.words[1..];
    let (tty, detach) = (args.on("tty"), args.on("detach"));
    let stdin = args.on("interactive") && !detach;
    if tty && stdin && !crate::tty::stdin_is_terminal() {
        return Err(
            CliError::failed("the input device is not a TTY").with_hint("leave out -t, or give a terminal as stdin")
        );
    }
    let keys = detach_keys(app, args.text("detach-keys"))?;
    let environment = env::environment(&args.list("env-file"), &args.list("env")).map_err(CliError::usage)?;
    let mut body = json!({
        "User": args.text("user"),
        "Privileged": args.on("privileged"),
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": !detach,
        "AttachStderr": !detach,
        "DetachKeys": args.text("detach-keys"),
        "Env": if environment.is_empty() { serde_json::Value::Null } else { json!(environment) },
        "WorkingDir": args.text("workdir"),
        "Cmd": command,
    });
    let size = if tty { crate::tty::size() } else { None };
    if let Some((rows, columns)) = size {
        body["ConsoleSize"] = json!([rows, columns]);
    }
    let path = format!("/containers/{}/exec", encode(&name));
    let created = app.client.post_json(&path, &body).await?;
    let id = created.text("Id").to_owned();
    let mut start = json!({"Detach": detach, "Tty": tty});
    if let Some((rows, columns)) = size {
        start["ConsoleSize"] = json!([rows, columns]);
    }
    let path = format!("/exec/{id}/start");
    if detach {
        app.client.post_json(&path, &start).await.map_err(super::run::start_failure)?;
        return Ok(0);
    }
    let hijacked = app.client.hijack(&path, Some(&start)).await.map_err(super::run::start_failure)?;
    let raw_mode = if tty && stdin { enter_raw()? } else { None };
    let guards = Guards::new(app, Target::Exec(id.clone()), tty, false)?;
    let plan = Plan { stdin, tty, stdout: true, stderr: true, detach_keys: keys };
    let events = pump(hijacked, plan).map_err(|e| CliError::io("cannot attach", e))?;
    let ended = guards.until_ended(events).await;
    drop(raw_mode);
    if ended? == Ended::Detached {
        return Ok(0);
    }
    let state = app.client.get_value(&format!("/exec/{id}/json")).await?;
    Ok((state.get("ExitCode").int() & 0xff) as u8)
}
