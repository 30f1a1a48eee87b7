//! `pull`, `push`, `login`, `logout`, `search`, `manifest inspect`: the engine does the work or says why it cannot.

use super::archive::{image_path, stream_error};
use super::commit::split_reference;
use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::with_query;
use crate::credentials::{self, Login};
use crate::error::{CliError, Result};
use crate::transfer::Transfer;
use crate::value::Value;
use hyper::Method;
use serde_json::json;
use std::io::{BufRead, Read, Write};

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

/// Names as the engine's own messages write them: the registry and `library/` filled in.
fn canonical(name: &str) -> String {
    match name.parse::<berth_types::ImageName>() {
        Ok(name) => name.to_string(),
        Err(_) => name.to_owned(),
    }
}

/// Refuses what is no name, before anything is said about it.
fn is_name(text: &str) -> Result<()> {
    text.parse::<berth_types::ImageName>().map(drop).map_err(|cause| CliError::failed(cause.to_string()))
}

pub(crate) async fn pull(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    let all = args.on("all-tags");
    is_name(name)?;
    let (repository, tag) = if name.contains('@') { (name, "") } else { split_reference(name) };
    if all && (!tag.is_empty() || name.contains('@')) {
        return Err(CliError::failed("tag can't be used with --all-tags/-a"));
    }
    let tag = match (tag, all || name.contains('@')) {
        ("", false) => {
            if !args.on("quiet") {
                app.line("Using default tag: latest")?;
            }
            "latest"
        }
        (tag, _) => tag,
    };
    let (repository, tag) = repository.split_once('@').unwrap_or((repository, tag));
    let path =
        with_query("/images/create", &[("fromImage", repository), ("tag", tag), ("platform", args.text("platform"))]);
    transfer(app, &path, name, args.on("quiet"), false).await?;
    let shown = if tag.is_empty() || name.contains('@') { name.to_owned() } else { format!("{repository}:{tag}") };
    app.line(&canonical(&shown))?;
    Ok(0)
}

pub(crate) async fn push(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    is_name(name)?;
    let (repository, tag) = split_reference(name);
    if args.on("all-tags") && !tag.is_empty() {
        return Err(CliError::failed("tag can't be used with --all-tags/-a"));
    }
    let tag = if tag.is_empty() && !args.on("all-tags") {
        if !args.on("quiet") {
            app.line("Using default tag: latest")?;
        }
        "latest"
    } else {
        tag
    };
    let path = with_query(&image_path(repository, "/push"), &[("tag", tag), ("platform", args.text("platform"))]);
    transfer(app, &path, name, args.on("quiet"), false).await?;
    if args.on("quiet") {
        let shown = if tag.is_empty() { repository.to_owned() } else { format!("{repository}:{tag}") };
        app.line(&canonical(&shown))?;
    }
    Ok(0)
}

/// Sends a request that moves `image`, with who we are to its registry, and shows how far it is.
pub(crate) async fn transfer(app: &App, path: &str, image: &str, quiet: bool, to_stderr: bool) -> Result<()> {
    let auth = credentials::header_for(app, image)?;
    let mut shown = Transfer::new(app, image, quiet, to_stderr);
    let path = format!("{path}{}extended=1", if path.contains('?') { '&' } else { '?' });
    let mut answer = app.client.send(Method::POST, &path, &[("X-Registry-Auth", &auth)], Body::empty()).await?;
    let mut buffer = Vec::new();
    while let Some(message) = answer.json(&mut buffer).await? {
        shown.show(&message)?;
    }
    Ok(())
}

/// Longer than any token.
const PASSWORD_BYTES_MAX: u64 = 1 << 20;

/// A line that the user types, without its end.
fn ask(app: &App, prompt: &str, hidden: bool) -> Result<String> {
    drop(write!(std::io::stderr(), "{prompt}"));
    let quiet = if hidden {
        crate::tty::without_echo().map_err(|e| CliError::io("cannot hide what is typed", e))?
    } else {
        None
    };
    let mut text = String::new();
    let read = std::io::stdin().lock().take(PASSWORD_BYTES_MAX).read_line(&mut text);
    if quiet.is_some() {
        app.note("");
    }
    read.map_err(|e| CliError::io("cannot read what was typed", e))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

pub(crate) async fn login(app: &'static App, args: Args) -> Result<u8> {
    let server = credentials::server_key(args.words.first().map_or("", String::as_str));
    let mut user = args.text("username").to_owned();
    let mut password = args.text("password").to_owned();
    if !password.is_empty() {
        app.note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    if args.on("password-stdin") {
        if !password.is_empty() {
            return Err(CliError::failed("--password and --password-stdin are mutually exclusive"));
        }
        if user.is_empty() {
            return Err(CliError::failed("the --password-stdin option requires --username to be set"));
        }
        std::io::stdin()
            .take(PASSWORD_BYTES_MAX)
            .read_to_string(&mut password)
            .map_err(|e| CliError::io("cannot read the password from stdin", e))?;
        password.truncate(password.trim_end_matches(['\r', '\n']).len());
    }
    let mut known = Login::default();
    if user.is_empty() && password.is_empty() {
        known = credentials::find(app, &server)?;
        if !known.is_empty() {
            app.note("Authenticating with existing credentials...");
        }
    }
    if known.is_empty() {
        if (user.is_empty() || password.is_empty()) && !crate::tty::stdin_is_terminal() {
            return Err(CliError::failed("a user name and a password are needed")
                .with_hint(format!("berth login -u NAME --password-stdin {server} < FILE")));
        }
        if user.is_empty() {
            user = ask(app, "Username: ", false)?;
        }
        if password.is_empty() {
            password = ask(app, "Password: ", true)?;
        }
        known = Login { username: user, password, identity_token: String::new() };
    }
    let body = json!({
        "username": known.username, "password": known.password, "identitytoken": known.identity_token,
        "serveraddress": server,
    });
    let answer = app.client.post_json("/auth", &body).await?;
    let token = answer.text("IdentityToken");
    if !token.is_empty() {
        known = Login { username: known.username, password: String::new(), identity_token: token.to_owned() };
    }
    if credentials::store(app, &server, &known)? {
        let file = app.config.folder().join("config.json");
        app.note(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this \
             warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            file.display()
        ));
    }
    app.line(answer.text("Status"))?;
    Ok(0)
}

pub(crate) async fn logout(app: &'static App, args: Args) -> Result<u8> {
    let server = credentials::server_key(args.words.first().map_or("", String::as_str));
    if credentials::forget(app, &server)? {
        app.line(&format!("Removing login credentials for {server}"))?;
    } else {
        app.line(&format!("Not logged in to {server}"))?;
    }
    Ok(0)
}

/// `manifest inspect`: what a registry has under a name, as it is there.
pub(crate) async fn manifest(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    let auth = credentials::header_for(app, name)?;
    let path = format!("/api/v1/registry/manifests/{}", crate::client::encode_name(name));
    let answer = app.client.send(Method::GET, &path, &[("X-Registry-Auth", &auth)], Body::empty()).await?;
    let digest = answer.header("docker-content-digest").unwrap_or_default().to_owned();
    let kind = answer.header("content-type").unwrap_or_default().to_owned();
    let bytes = answer.bytes().await?;
    let manifest: serde_json::Value = serde_json::from_slice(&bytes)?;
    let shown = match args.on("verbose") {
        true => {
            let descriptor = json!({"mediaType": kind, "digest": digest, "size": bytes.len()});
            json!({"Ref": canonical(name), "Descriptor": descriptor, "Manifest": manifest})
        }
        false => manifest,
    };
    let mut text = Vec::new();
    let mut writer =
        serde_json::Serializer::with_formatter(&mut text, serde_json::ser::PrettyFormatter::with_indent(b"\t"));
    serde::Serialize::serialize(&shown, &mut writer)?;
    app.line(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

pub(crate) async fn search(app: &'static App, args: Args) -> Result<u8> {
    let filters = crate::opts::filter_flag(&args)?;
    let path =
        with_query("/images/search", &[("term", &args.words[0]), ("limit", args.text("limit")), ("filters", &filters)]);
    let auth = credentials::header_for(app, &args.words[0])?;
    let answer = app.client.send(Method::GET, &path, &[("X-Registry-Auth", &auth)], Body::empty()).await?;
    let found = Value::parse(&answer.bytes().await?)?;
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
