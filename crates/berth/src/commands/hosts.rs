//! `host add`, `ls`, `rm`: other engines that this one knows. `berth --host NAME` then goes through it.

use crate::app::App;
use crate::cli::Args;
use crate::client::encode_name;
use crate::error::{CliError, Result};
use crate::table::{Listing, align};
use crate::units;
use serde_json::json;
use std::io::{IsTerminal, Read};

const TOKEN_BYTES_MAX: u64 = 4096;

/// The routes are the console's.
fn explained(error: CliError) -> CliError {
    match error.to_string().contains("page not found") {
        true => CliError::failed("this engine serves no console, which other hosts are known by")
            .with_hint("start it with: berthd --console 127.0.0.1:9443"),
        false => error,
    }
}

fn token(app: &App, args: &Args) -> Result<String> {
    if args.changed("token") {
        return Ok(args.text("token").to_owned());
    }
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        app.note("API token of that engine (made there under Access), then Ctrl-D:");
    }
    std::io::stdin()
        .take(TOKEN_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| CliError::io("cannot read the token from stdin", error))?;
    Ok(text.trim().to_owned())
}

pub(crate) async fn add(app: &'static App, args: Args) -> Result<u8> {
    let (name, address) = (&args.words[0], &args.words[1]);
    // ssh asks for no token of ours.
    let token = if address.starts_with("https://") { token(app, &args)? } else { String::new() };
    let body = json!({"name": name, "address": address, "fingerprint": args.text("fingerprint"), "token": token});
    let answer = app.client.post_json("/api/v1/hosts", &body).await.map_err(explained)?;
    for warning in answer.get("warnings").list() {
        app.note(&format!("WARNING: {}", warning.str()));
    }
    app.line(name)?;
    Ok(0)
}

pub(crate) async fn list(app: &'static App, args: Args) -> Result<u8> {
    let hosts = app.client.get_value("/api/v1/hosts").await.map_err(explained)?;
    let format = args.text("format");
    if !format.is_empty() || args.on("quiet") {
        let listing = Listing::new(format, "{{.name}}", args.on("quiet").then_some("{{.name}}"), &[])?;
        app.print(&listing.render(hosts.list())?)?;
        return Ok(0);
    }
    let mut text = "NAME\tSTATE\tINSTANCES\tFREE MEMORY\tVERSION\tADDRESS\n".to_owned();
    for host in hosts.list() {
        let about = host.get("about");
        let reading = about.get("reading");
        // What a limit promises is not free, even where it is not in use yet.
        let taken = reading.get("memory_bytes").float().max(about.get("promised_bytes").float());
        let free = (reading.get("memory_total_bytes").float() - taken).max(0.0);
        let state = match host.text("error") {
            "" => host.text("state").to_owned(),
            error => format!("{}: {error}", host.text("state")),
        };
        let row = [
            host.text("name").to_owned(),
            state,
            format!("{}/{}", about.get("running").int(), about.get("instances").int()),
            units::bytes_size(free),
            about.text("version").to_owned(),
            host.text("address").to_owned(),
        ];
        text.push_str(&row.join("\t"));
        text.push('\n');
    }
    app.print(&align(&text))?;
    Ok(0)
}

pub(crate) async fn remove(app: &'static App, args: Args) -> Result<u8> {
    let names = args.words;
    app.each(&names, |name| async move {
        app.client.delete(&format!("/api/v1/hosts/{}", encode_name(&name))).await.map_err(explained)?;
        app.line(&name)
    })
    .await
}
