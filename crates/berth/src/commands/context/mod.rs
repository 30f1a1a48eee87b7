//! `context ls`, `show`, `use`, and the two changes that `login` and `logout` make to `config.json`; the rest of
//! `context` in `manage`, its files in `store`.
//!
//! The files are Docker's own, so contexts made with its client work here and the other way round. They
//! are rewritten by rename: a reader never sees half a file.

pub(crate) mod manage;
pub(crate) mod store;

use crate::app::App;
use crate::cli::Args;
use crate::client::endpoint::DEFAULT_SOCKET;
use crate::error::{CliError, Result};
use crate::table::Listing;
use crate::value::Value;
use base64::Engine as _;
use serde_json::{Value as Json, json};
use std::os::unix::fs::OpenOptionsExt;

pub(crate) const DEFAULT_DESCRIPTION: &str = "Current DOCKER_HOST based configuration";

/// Where the default context leads.
pub(crate) fn docker_endpoint() -> String {
    let env = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    env("BERTH_HOST").or_else(|| env("DOCKER_HOST")).unwrap_or_else(|| format!("unix://{DEFAULT_SOCKET}"))
}

fn current(app: &App) -> String {
    let env = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    if env("BERTH_HOST").or_else(|| env("DOCKER_HOST")).is_some() {
        return "default".to_owned();
    }
    env("DOCKER_CONTEXT").or_else(|| app.config.current_context()).unwrap_or_else(|| "default".to_owned())
}

pub(crate) async fn show(app: &'static App, _args: Args) -> Result<u8> {
    app.line(&current(app))?;
    Ok(0)
}

pub(crate) async fn list(app: &'static App, args: Args) -> Result<u8> {
    let now = current(app);
    let row = |name: &str, description: &str, host: &str| {
        let is_current = name == now;
        let shown = if is_current && args.text("format") != "json" { format!("{name} *") } else { name.to_owned() };
        Value::Map(vec![
            (
                "Name".into(),
                if args.text("format").is_empty() && !args.on("quiet") { shown } else { name.to_owned() }.into(),
            ),
            ("Description".into(), description.into()),
            ("DockerEndpoint".into(), host.into()),
            ("Current".into(), is_current.into()),
            ("Error".into(), "".into()),
        ])
    };
    let mut rows = vec![row("default", DEFAULT_DESCRIPTION, &docker_endpoint())];
    for context in app.config.contexts() {
        let description = context.at(&["Metadata", "Description"]).str().to_owned();
        rows.push(row(context.text("Name"), &description, context.at(&["Endpoints", "docker"]).text("Host")));
    }
    let headers =
        [("Name", "NAME"), ("Description", "DESCRIPTION"), ("DockerEndpoint", "DOCKER ENDPOINT"), ("Error", "ERROR")];
    let quiet = args.on("quiet").then_some("{{.Name}}");
    let table = "{{.Name}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}";
    rows.sort_by(|a, b| a.text("Name").trim_end_matches(" *").cmp(b.text("Name").trim_end_matches(" *")));
    app.print(&Listing::new(args.text("format"), table, quiet, &headers)?.render(&rows)?)?;
    Ok(0)
}

pub(crate) async fn choose(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    app.config.context_endpoint(name)?;
    change(app, |config| {
        if name == "default" {
            config.remove("currentContext");
        } else {
            config.insert("currentContext".into(), json!(name));
        }
    })?;
    app.line(name)?;
    app.note(&format!("Current context is now \"{name}\""));
    Ok(0)
}

pub(crate) fn store_login(app: &App, server: &str, user: &str, password: &str, token: &str) -> Result<()> {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    change(app, |config| {
        let auths = config.entry("auths").or_insert_with(|| json!({}));
        auths[server] =
            if token.is_empty() { json!({"auth": auth}) } else { json!({"auth": auth, "identitytoken": token}) };
    })
}

/// Notes that a credential helper has a login for `server`.
pub(crate) fn note_login(app: &App, server: &str) -> Result<()> {
    change(app, |config| {
        config.entry("auths").or_insert_with(|| json!({}))[server] = json!({});
    })
}

/// Whether there was a login to forget.
pub(crate) fn forget_login(app: &App, server: &str) -> Result<bool> {
    let mut removed = false;
    change(app, |config| {
        if let Some(auths) = config.get_mut("auths").and_then(Json::as_object_mut) {
            removed = auths.remove(server).is_some();
        }
    })?;
    Ok(removed)
}

fn change(app: &App, edit: impl FnOnce(&mut serde_json::Map<String, Json>)) -> Result<()> {
    let folder = app.config.folder();
    let path = folder.join("config.json");
    let failed = |e| CliError::io(format!("cannot write {}", path.display()), e);
    let mut config = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Json>(&bytes)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => json!({}),
        Err(e) => return Err(failed(e)),
    };
    let Some(map) = config.as_object_mut() else {
        return Err(CliError::failed(format!("{} is not a JSON object", path.display())));
    };
    edit(map);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let partial = folder.join(format!(".config.json.{}", std::process::id()));
    // Passwords stand in it.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(failed)?;
    let text = serde_json::to_string_pretty(&config)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    std::fs::rename(&partial, &path).map_err(failed)
}
