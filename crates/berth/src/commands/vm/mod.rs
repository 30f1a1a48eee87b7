//! `vm`: virtual machines, by our own API.

pub(crate) mod console;
pub(crate) mod kernel;
mod limits;
pub(crate) mod stats;
pub(crate) mod vnc;
mod wait;

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use crate::opts;
use crate::table::{Listing, align};
use crate::tty;
use crate::units;
use crate::value::Value;
use serde_json::json;
use std::path::Path;

pub(crate) fn path_of(machine: &str) -> String {
    format!("/api/v1/machines/{}", encode(machine))
}

/// Paths are the engine's host's; a relative one is meant from here. `upload:<id>` is what a browser has sent.
fn absolute(text: &str) -> Result<String> {
    if text.starts_with("upload:") {
        return Ok(text.to_owned());
    }
    match std::path::absolute(Path::new(text)) {
        Ok(path) => Ok(path.to_string_lossy().into_owned()),
        Err(cause) => Err(CliError::io(format!("cannot make {text:?} an absolute path"), cause)),
    }
}

/// `FILE[,format=raw|qcow2|vmdk|vdi|vhdx|ova][,size=BYTES][,read-bps=BYTES][,...]`
fn disk(text: &str) -> Result<serde_json::Value> {
    let mut disk = json!({});
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("format", format)) => disk["format"] = json!(format),
            Some(("size", size)) => {
                let bytes = units::parse_bytes(size);
                disk["size_bytes"] = json!(bytes.map_err(|why| CliError::failed(format!("--disk {text}: {why}")))?);
            }
            Some((key, number)) if limits::DISK.iter().any(|(name, _)| *name == key) => {
                let limited = limits::add(&mut disk["limits"], key, number);
                limited.map_err(|why| CliError::failed(format!("--disk {text}: {why}")))?;
            }
            _ if disk.get("source").is_none() => disk["source"] = json!(absolute(part)?),
            _ => {
                return Err(CliError::failed(format!("--disk {text}: {part:?} is neither format=, size= nor a limit"))
                    .with_hint("write it as FILE,format=qcow2,size=20G,read-bps=100m"));
            }
        }
    }
    Ok(disk)
}

pub(crate) async fn create(app: &'static App, args: Args) -> Result<u8> {
    let labels: serde_json::Map<String, serde_json::Value> =
        args.list("label").into_iter().map(opts::key_value).map(|(key, value)| (key, json!(value))).collect();
    let disks = args.list("disk").into_iter().map(disk).collect::<Result<Vec<_>>>()?;
    let cdroms = args.list("cdrom").into_iter().map(absolute).collect::<Result<Vec<_>>>()?;
    let mut body = json!({
        "name": args.words[0],
        "uefi": args.on("uefi"),
        "disks": disks,
        "cdroms": cdroms,
        "display": args.text("display"),
        "network": args.text("network"),
        "publish": args.list("publish"),
        "restart": args.text("restart"),
        "labels": labels,
        "start": args.on("start"),
    });
    if args.on("cloud-init") || args.changed("user-data") || args.changed("ssh-key") {
        let read =
            |file: &str| std::fs::read_to_string(file).map_err(|e| CliError::io(format!("cannot read {file}"), e));
        let user_data = match args.text("user-data") {
            "" => String::new(),
            file => read(file)?,
        };
        let mut keys = Vec::new();
        for key in args.list("ssh-key") {
            let text = if key.contains(' ') { key.to_owned() } else { read(key)? };
            keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        body["cloud_init"] = json!({"user_data": user_data, "ssh_keys": keys});
    }
    // What is not said an appliance may say.
    if args.changed("cpus") {
        body["cpus"] = json!(args.int("cpus")?);
    }
    if args.changed("memory") {
        body["memory_bytes"] = json!(args.bytes("memory")?);
    }
    if args.changed("memory-max") {
        body["memory_max_bytes"] = json!(args.bytes("memory-max")?);
    }
    if args.changed("bandwidth") {
        body["bandwidth"] = limits::bandwidth(args.text("bandwidth"))?;
    }
    if args.changed("from-image") {
        let (image, size) = match args.text("from-image").split_once(",size=") {
            Some((image, size)) => {
                (image, units::parse_bytes(size).map_err(|why| CliError::failed(format!("--from-image: {why}")))?)
            }
            None => (args.text("from-image"), 0),
        };
        body["from_image"] = json!(image);
        body["from_image_bytes"] = json!(size);
    }
    match args.text("kernel") {
        "" if args.changed("initrd") || args.changed("append") => {
            return Err(CliError::failed("--initrd and --append belong to --kernel"));
        }
        "" => {}
        kernel => {
            body["kernel"] = json!({"image": absolute(kernel)?, "arguments": args.text("append")});
            if args.changed("initrd") {
                body["kernel"]["initrd"] = json!(absolute(args.text("initrd"))?);
            }
        }
    }
    let wait = wait::asked(&args)?;
    if wait.is_some() && !args.on("start") {
        return Err(CliError::failed("--wait belongs to --start"));
    }
    let answer = app.client.post_json("/api/v1/machines", &body).await?;
    for warning in answer.get("warnings").list() {
        app.note(&format!("WARNING: {}", warning.str()));
    }
    if let Some(time) = wait {
        wait::until_it_answers(app, &args.words[0], time).await?;
    }
    app.line(&args.words[0])?;
    Ok(0)
}

pub(crate) async fn list(app: &'static App, args: Args) -> Result<u8> {
    let format = args.text("format");
    if !format.is_empty() || args.on("quiet") {
        let listing = Listing::new(format, "{{.name}}", args.on("quiet").then_some("{{.name}}"), &[])?;
        let asks = if listing.mentions("guest") { "true" } else { "" };
        let machines = app.client.get_value(&with_query("/api/v1/machines", &[("guest", asks)])).await?;
        app.print(&listing.render(machines.list())?)?;
        return Ok(0);
    }
    let machines = app.client.get_value("/api/v1/machines?guest=true").await?;
    let mut text = "NAME\tSTATUS\tCPUS\tMEMORY\tDISKS\tADDRESS\tPORTS\n".to_owned();
    for machine in machines.list() {
        let disks: Vec<String> =
            machine.get("disks").list().iter().map(|disk| units::bytes_size(disk.get("size_bytes").float())).collect();
        let addresses: Vec<&str> = machine
            .get("networks")
            .map()
            .iter()
            .map(|(_, at)| at.text("ipv4"))
            .filter(|text| !text.is_empty())
            .collect();
        let ports: Vec<&str> = machine.get("ports").list().iter().map(Value::str).collect();
        let row = [
            machine.text("name").to_owned(),
            match machine.get("template").bool() {
                true => "Template".to_owned(),
                false => machine.text("status").to_owned(),
            },
            machine.get("cpus").int().to_string(),
            memory(machine),
            disks.join(","),
            addresses.join(","),
            ports.join(", "),
        ];
        text.push_str(&row.join("\t"));
        text.push('\n');
    }
    app.print(&align(&text))?;
    Ok(0)
}

/// What its guest uses of it, where the guest says so.
fn memory(machine: &Value) -> String {
    let total = units::bytes_size(machine.get("memory_bytes").float());
    let guest = machine.get("guest");
    match guest.text("source") {
        "" => total,
        _ => format!("{} / {total}", units::bytes_size(guest.get("memory_used_bytes").float())),
    }
}

pub(crate) async fn inspect(app: &'static App, args: Args) -> Result<u8> {
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.words {
        match app.client.get(&with_query(&path_of(name), &[("guest", "true")])).await {
            Ok(bytes) => found.push(bytes),
            Err(error) => {
                crate::report(app, &error).await;
                code = 1;
            }
        }
    }
    match args.text("format") {
        "" | "json" => {
            let all = found
                .iter()
                .map(|bytes| serde_json::from_slice(bytes))
                .collect::<std::result::Result<Vec<serde_json::Value>, _>>()?;
            let text = match args.text("format") {
                "json" => serde_json::to_string(&all)?,
                _ => serde_json::to_string_pretty(&all)?,
            };
            app.line(&text)?;
        }
        format => {
            let template = crate::template::Template::parse(format)?;
            for bytes in &found {
                app.line(&template.execute(&Value::parse(bytes)?)?)?;
            }
        }
    }
    Ok(code)
}

/// `POST /machines/{name}/<verb>` for every name; prints each name that it worked for.
async fn post_each(app: &App, names: &[String], verb: &str, query: &[(&str, &str)]) -> Result<u8> {
    app.together(names, async |name: String| {
        app.client.post(&with_query(&format!("{}/{verb}", path_of(&name)), query)).await?;
        Ok(Some(name))
    })
    .await
}

async fn with_timeout(app: &App, args: &Args, verb: &str) -> Result<u8> {
    let timeout = if args.changed("timeout") { args.int("timeout")?.to_string() } else { String::new() };
    post_each(app, &args.words, verb, &[("timeout", &timeout)]).await
}

pub(crate) async fn start(app: &'static App, args: Args) -> Result<u8> {
    let wait = wait::asked(&args)?;
    app.together(&args.words, async |name: String| {
        app.client.post(&format!("{}/start", path_of(&name))).await?;
        if let Some(time) = wait {
            wait::until_it_answers(app, &name, time).await?;
        }
        Ok(Some(name))
    })
    .await
}

pub(crate) async fn stop(app: &'static App, args: Args) -> Result<u8> {
    with_timeout(app, &args, "stop").await
}

pub(crate) async fn restart(app: &'static App, args: Args) -> Result<u8> {
    with_timeout(app, &args, "restart").await
}

pub(crate) async fn kill(app: &'static App, args: Args) -> Result<u8> {
    post_each(app, &args.words, "kill", &[]).await
}

pub(crate) async fn reset(app: &'static App, args: Args) -> Result<u8> {
    post_each(app, &args.words, "reset", &[]).await
}

pub(crate) async fn pause(app: &'static App, args: Args) -> Result<u8> {
    post_each(app, &args.words, "pause", &[]).await
}

pub(crate) async fn resume(app: &'static App, args: Args) -> Result<u8> {
    post_each(app, &args.words, "resume", &[]).await
}

pub(crate) async fn rename(app: &'static App, args: Args) -> Result<u8> {
    let body = json!({"name": args.words[1]});
    app.client.post_json(&format!("{}/rename", path_of(&args.words[0])), &body).await?;
    Ok(0)
}

pub(crate) async fn remove(app: &'static App, args: Args) -> Result<u8> {
    let force = if args.on("force") { "true" } else { "" };
    app.together(&args.words, async |name: String| {
        app.client.delete(&with_query(&path_of(&name), &[("force", force)])).await?;
        Ok(Some(name))
    })
    .await
}

pub(crate) async fn update(app: &'static App, args: Args) -> Result<u8> {
    let mut body = json!({});
    if args.changed("cpus") {
        body["cpus"] = json!(args.int("cpus")?);
    }
    if args.changed("memory") {
        body["memory_bytes"] = json!(args.bytes("memory")?);
    }
    if args.changed("memory-max") {
        body["memory_max_bytes"] = json!(args.bytes("memory-max")?);
    }
    for text in args.list("disk") {
        let bad = |why: &str| CliError::failed(format!("--disk {text}: {why}")).with_hint("write it as disk0=40G");
        let (name, size) = text.split_once('=').ok_or_else(|| bad("no size"))?;
        let bytes = units::parse_bytes(size).map_err(|why| bad(&why))?;
        body["disks"][name] = json!(bytes);
    }
    if args.changed("bandwidth") {
        body["bandwidth"] = limits::bandwidth(args.text("bandwidth"))?;
    }
    for text in args.list("disk-limit") {
        let (name, limits) = limits::of_disk(text)?;
        body["disk_limits"][name] = limits;
    }
    body["add_disks"] = json!(args.list("add-disk").into_iter().map(disk).collect::<Result<Vec<_>>>()?);
    body["remove_disks"] = json!(args.list("remove-disk"));
    let path = path_of(&args.words[0]);
    let answer = app.client.send(hyper::Method::PATCH, &path, &[], Body::json(&body)).await?.bytes().await?;
    let answer = Value::parse(&answer)?;
    for note in answer.get("now").list().iter().chain(answer.get("warnings").list()) {
        app.note(note.str());
    }
    app.line(&args.words[0])?;
    Ok(0)
}

pub(crate) async fn template(app: &'static App, args: Args) -> Result<u8> {
    let running = if args.on("running") { "true" } else { "" };
    post_each(app, &args.words, "template", &[("running", running)]).await
}

/// `NAME` for one, `NAME-1`, `NAME-2`, ... for several.
fn fork_names(given: &[String], count: i64) -> Result<Vec<String>> {
    match (given, count) {
        (_, ..=0) => Err(CliError::failed("--count must be at least 1")),
        ([], count) => Ok((0..count).map(|_| String::new()).collect()),
        ([name], 2..) => Ok((1..=count).map(|number| format!("{name}-{number}")).collect()),
        (names, 1) => Ok(names.to_vec()),
        _ => Err(CliError::failed("several names and --count: give one of them")),
    }
}

pub(crate) async fn fork(app: &'static App, args: Args) -> Result<u8> {
    let count = if args.changed("count") { args.int("count")? } else { 1 };
    let names = fork_names(&args.words[1..], count)?;
    let path = format!("{}/fork", path_of(&args.words[0]));
    let made = app.client.post_json(&path, &json!({"names": names})).await?;
    for (name, id) in names.iter().zip(made.get("ids").list()) {
        app.line(if name.is_empty() { id.str() } else { name })?;
    }
    Ok(0)
}

pub(crate) async fn clone(app: &'static App, args: Args) -> Result<u8> {
    let source = path_of(&args.words[0]);
    let (start, full, snapshot) = (args.on("start"), args.on("full"), args.text("snapshot"));
    app.together(&args.words[1..], async |name: String| {
        let body = json!({"name": name, "start": start, "full": full, "snapshot": snapshot});
        app.client.post_json(&format!("{source}/clone"), &body).await?;
        Ok(Some(name))
    })
    .await
}

pub(crate) async fn flatten(app: &'static App, args: Args) -> Result<u8> {
    post_each(app, &args.words, "flatten", &[]).await
}

pub(crate) async fn export(app: &'static App, args: Args) -> Result<u8> {
    crate::commands::archive::check_output(args.text("output"), "vm export")?;
    let query = [("format", args.text("format")), ("disk", args.text("disk"))];
    let path = with_query(&format!("{}/export", path_of(&args.words[0])), &query);
    let answer = app.client.send(hyper::Method::GET, &path, &[], Body::empty()).await?;
    crate::commands::archive::write_out(answer, args.text("output")).await
}

pub(crate) async fn snapshot(app: &'static App, args: Args) -> Result<u8> {
    let path = format!("{}/snapshots", path_of(&args.words[0]));
    app.client.post_json(&path, &json!({"name": args.words[1], "memory": args.on("memory")})).await?;
    app.line(&args.words[1])?;
    Ok(0)
}

pub(crate) async fn snapshots(app: &'static App, args: Args) -> Result<u8> {
    let all = app.client.get_value(&format!("{}/snapshots", path_of(&args.words[0]))).await?;
    let now = jiff::Timestamp::now().as_millisecond();
    let mut text = "SNAPSHOT\tAFTER\tHOLDS\tCREATED\n".to_owned();
    for one in all.list() {
        let mark = if one.get("current").bool() { " *" } else { "" };
        let age = units::human_duration((now - one.get("created_unix_millis").int()) / 1000);
        let holds = if one.get("memory").bool() { "disks, memory" } else { "disks" };
        text.push_str(&format!("{}{mark}\t{}\t{holds}\t{age} ago\n", one.text("name"), one.text("parent")));
    }
    app.print(&align(&text))?;
    Ok(0)
}

fn snapshot_path(args: &Args, name: &str) -> String {
    format!("{}/snapshots/{}", path_of(&args.words[0]), encode(name))
}

pub(crate) async fn revert(app: &'static App, args: Args) -> Result<u8> {
    let disks_only = if args.on("disks-only") { "true" } else { "" };
    let path = format!("{}/revert", snapshot_path(&args, &args.words[1]));
    app.client.post(&with_query(&path, &[("disks_only", disks_only)])).await?;
    app.line(&args.words[1])?;
    Ok(0)
}

pub(crate) async fn forget(app: &'static App, args: Args) -> Result<u8> {
    app.each(&args.words[1..], async |name: String| {
        app.client.delete(&snapshot_path(&args, &name)).await?;
        app.line(&name)
    })
    .await
}

pub(crate) async fn screenshot(app: &'static App, args: Args) -> Result<u8> {
    let output = args.text("output");
    if output.is_empty() && tty::stdout_is_terminal() {
        return Err(CliError::failed("a picture does not belong on a terminal").with_hint("write it to a file with -o"));
    }
    let bytes = app.client.get(&format!("{}/screenshot", path_of(&args.words[0]))).await?;
    match output {
        "" => crate::session::write_fd(crate::client::demux::Channel::Stdout, &bytes)
            .map_err(|e| CliError::io("cannot write the picture", e))?,
        file => std::fs::write(file, bytes).map_err(|e| CliError::io(format!("cannot write {file}"), e))?,
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_file_or_a_size() {
        assert_eq!(disk("/a/b.img,size=1k").unwrap(), json!({"source": "/a/b.img", "size_bytes": 1024}));
        assert_eq!(disk("size=1G").unwrap(), json!({"size_bytes": 1 << 30}));
        assert_eq!(disk("/a,format=raw").unwrap(), json!({"source": "/a", "format": "raw"}));
        assert!(disk("/a,/b").is_err() && disk("size=x").is_err());
    }

    #[test]
    fn forks_have_the_names_that_they_are_given() {
        let given =
            |names: &[&str], count| fork_names(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), count);
        assert_eq!(given(&["a", "b"], 1).unwrap(), ["a", "b"]);
        assert_eq!(given(&["a"], 2).unwrap(), ["a-1", "a-2"]);
        assert_eq!(given(&[], 2).unwrap(), ["", ""]);
        assert!(given(&["a", "b"], 2).is_err() && given(&[], 0).is_err());
    }
}
