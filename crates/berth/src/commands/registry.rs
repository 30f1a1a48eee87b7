//! `pull`, `push`, `login`, `logout`, `search`: the engine does the work or says why it cannot.

use super::archive::{image_path, stream_error};
use super::commit::split_reference;
use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::with_query;
use crate::error::{CliError, Result};
use crate::value::Value;
use base64::Engine as _;
use hyper::Method;
use serde_json::json;
use std::io::Read;

/// One message of a progress stream. Bars of single layers are drawn as lines when a step ends; on a pipe
/// only what a log wants to keep is printed.
pub(crate) fn show_message(app: &App, message: &Value, quiet: bool, to_stderr: bool) -> Result<()> {
    if let Some(error) = stream_error(message) {
        return Err(error);
    }
    let stream = message.text("stream");
    if !stream.is_empty() {
        if to_stderr {
            app.note(stream.trim_end());
            return Ok(());
        }
        return app.print(stream);
    }
    let (id, status) = (message.text("id"), message.text("status"));
    if quiet
        || status.is_empty()
        || !message.text("progress").is_empty()
        || !message.at(&["progressDetail", "current"]).is_null()
    {
        return Ok(());
    }
    let line = if id.is_empty() { status.to_owned() } else { format!("{id}: {status}") };
    if to_stderr {
        app.note(&line);
        Ok(())
    } else {
        app.line(&line)
    }
}

/// What the configuration file knows about the registry that a name points to.
fn auth(app: &App, image: &str) -> String {
    let first = image.split('/').next().unwrap_or_default();
    let server = if image.contains('/') && (first.contains(['.', ':']) || first == "localhost") {
        first
    } else {
        "https://index.docker.io/v1/"
    };
    let entry = app.config.file().get("auths").get(server);
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry.text("auth")).unwrap_or_default();
    let decoded = String::from_utf8(decoded).unwrap_or_default();
    let (user, password) = decoded.split_once(':').unwrap_or(("", ""));
    let token = entry.text("identitytoken");
    let value = match (user, token) {
        ("", "") => json!({}),
        (_, "") => json!({"username": user, "password": password, "serveraddress": server}),
        _ => json!({"username": user, "identitytoken": token, "serveraddress": server}),
    };
    base64::engine::general_purpose::URL_SAFE.encode(value.to_string())
}

pub(crate) async fn pull(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    let (repository, tag) = if name.contains('@') { (name, "") } else { split_reference(name) };
    let tag = match (tag, args.on("all-tags") || name.contains('@')) {
        ("", false) => {
            if !args.on("quiet") {
                app.line("Using default tag: latest")?;
            }
            "latest"
        }
        (tag, _) => tag,
    };
    let path =
        with_query("/images/create", &[("fromImage", repository), ("tag", tag), ("platform", args.text("platform"))]);
    stream(app, &path, &auth(app, name), args.on("quiet")).await?;
    let shown = if tag.is_empty() { name.to_owned() } else { format!("{repository}:{tag}") };
    app.line(&shown)?;
    Ok(0)
}

pub(crate) async fn push(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    let (repository, tag) = split_reference(name);
    let tag = if tag.is_empty() && !args.on("all-tags") { "latest" } else { tag };
    let path = with_query(&image_path(repository, "/push"), &[("tag", tag), ("platform", args.text("platform"))]);
    stream(app, &path, &auth(app, name), args.on("quiet")).await?;
    Ok(0)
}

async fn stream(app: &App, path: &str, auth: &str, quiet: bool) -> Result<()> {
    let mut answer = app.client.send(Method::POST, path, &[("X-Registry-Auth", auth)], Body::empty()).await?;
    let mut buffer = Vec::new();
    while let Some(message) = answer.json(&mut buffer).await? {
        show_message(app, &message, quiet, false)?;
    }
    Ok(())
}

/// Longer than any token.
const PASSWORD_BYTES_MAX: u64 = 1 << 20;

pub(crate) async fn login(app: &'static App, args: Args) -> Result<u8> {
    let server = args.words.first().map_or("https://index.docker.io/v1/", String::as_str);
    let user = args.text("username");
    let mut password = args.text("password").to_owned();
    if args.on("password-stdin") {
        if !password.is_empty() {
            return Err(CliError::failed("--password and --password-stdin are mutually exclusive"));
        }
        std::io::stdin()
            .take(PASSWORD_BYTES_MAX)
            .read_to_string(&mut password)
            .map_err(|e| CliError::io("cannot read the password from stdin", e))?;
        password.truncate(password.trim_end_matches(['\r', '\n']).len());
    }
    if user.is_empty() || password.is_empty() {
        return Err(CliError::failed("a user name and a password are needed")
            .with_hint(format!("berth login -u NAME --password-stdin {server} < FILE")));
    }
    let body = json!({"username": user, "password": password, "serveraddress": server});
    let answer = app.client.post_json("/auth", &body).await?;
    super::context::store_login(app, server, user, &password, answer.text("IdentityToken"))?;
    app.line(answer.text("Status"))?;
    Ok(0)
}

pub(crate) async fn logout(app: &'static App, args: Args) -> Result<u8> {
    let server = args.words.first().map_or("https://index.docker.io/v1/", String::as_str);
    if super::context::forget_login(app, server)? {
        app.line(&format!("Removing login credentials for {server}"))?;
    } else {
        app.line(&format!("Not logged in to {server}"))?;
    }
    Ok(0)
}

pub(crate) async fn search(app: &'static App, args: Args) -> Result<u8> {
    let filters = crate::opts::filter_flag(&args)?;
    let path =
        with_query("/images/search", &[("term", &args.words[0]), ("limit", args.text("limit")), ("filters", &filters)]);
    let found = app.client.get_value(&path).await?;
    let headers =
        [("Name", "NAME"), ("Description", "DESCRIPTION"), ("StarCount", "STARS"), ("IsOfficial", "OFFICIAL")];
    let table = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
    let listing = crate::table::Listing::new(args.text("format"), table, None, &headers)?;
    let rows: Vec<Value> = found
        .list()
        .iter()
        .map(|r| {
            let description = if args.on("no-trunc") {
                r.text("description").to_owned()
            } else {
                crate::table::ellipsis(r.text("description"), 45)
            };
            Value::Map(vec![
                ("Name".into(), r.text("name").into()),
                ("Description".into(), description.into()),
                ("StarCount".into(), r.get("star_count").int().to_string().into()),
                ("IsOfficial".into(), if r.get("is_official").bool() { "[OK]".into() } else { "".into() }),
            ])
        })
        .collect();
    app.print(&listing.render(&rows)?)?;
    Ok(0)
}
