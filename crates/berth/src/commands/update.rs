//! `update`: only what was given is sent, everything else stays.

use crate::app::App;
use crate::cli::Args;
use crate::client::encode;
use crate::error::{CliError, Result};
use crate::opts::{create, limits, ports};
use serde_json::{Map, json};

pub(crate) async fn update(app: &'static App, args: Args) -> Result<u8> {
    let mut body = Map::new();
    for (flag, key) in [
        ("blkio-weight", "BlkioWeight"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("cpu-shares", "CpuShares"),
        ("pids-limit", "PidsLimit"),
    ] {
        if args.changed(flag) {
            body.insert(key.into(), json!(args.int(flag)?));
        }
    }
    for (flag, key) in [("memory", "Memory"), ("memory-reservation", "MemoryReservation")] {
        if args.changed(flag) {
            body.insert(key.into(), json!(args.bytes(flag)?));
        }
    }
    if args.changed("memory-swap") {
        let text = args.text("memory-swap");
        let bytes = limits::swap(text).map_err(|e| args.because("memory-swap", text, &e))?;
        body.insert("MemorySwap".into(), json!(bytes));
    }
    if args.changed("cpus") {
        let text = args.text("cpus");
        let cpus = limits::nano_cpus(text).map_err(|e| args.because("cpus", text, &e))?;
        body.insert("NanoCpus".into(), json!(cpus));
    }
    for (flag, key) in [("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems")] {
        if args.changed(flag) {
            body.insert(key.into(), json!(args.text(flag)));
        }
    }
    if args.changed("restart") {
        let text = args.text("restart");
        let policy = limits::restart_policy(text).map_err(|e| args.because("restart", text, &e))?;
        body.insert("RestartPolicy".into(), policy);
    }
    if let Some(check) = create::health(&args)? {
        body.insert("Healthcheck".into(), check);
    }
    if args.changed("log-opt") {
        body.insert("LogConfig".into(), json!({"Config": create::log_options(&args)}));
    }
    let (add, remove) = (args.list("publish-add"), args.list("publish-rm"));
    let ports_change = !add.is_empty() || !remove.is_empty();
    if body.is_empty() && !ports_change {
        return Err(CliError::failed("you must provide one or more flags when using this command"));
    }
    let body = serde_json::Value::Object(body);
    app.each(&args.words, async |name: String| {
        let id = app.container(&name).await?;
        let mut body = body.clone();
        if ports_change {
            let now = app.client.get_value(&format!("/containers/{}/json", encode(&id))).await?;
            let bindings = ports::change(now.at(&["HostConfig", "PortBindings"]), &add, &remove);
            body["PortBindings"] = bindings.map_err(CliError::failed)?;
        }
        let answer = app.client.post_json(&format!("/containers/{}/update", encode(&id)), &body).await?;
        for warning in answer.get("Warnings").list() {
            app.note(&format!("WARNING: {}", warning.str()));
        }
        app.line(&name)
    })
    .await
}
