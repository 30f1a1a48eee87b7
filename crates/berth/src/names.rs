//! Names of the engine's objects: to guess what somebody meant, and to complete what they type.

use crate::app::App;
use crate::error::CliError;
use crate::suggest;
use crate::value::Value;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Container,
    Running,
    Image,
    Volume,
    Network,
    Secret,
    Config,
    Context,
}

/// `did you mean web?` for an error about a name that does not exist.
pub(crate) async fn guess(app: &App, error: &CliError) -> Option<String> {
    let text = error.to_string();
    if error.status().is_some_and(|s| s != 404) {
        return None;
    }
    let kinds = [
        ("No such container: ", Kind::Container),
        ("No such image: ", Kind::Image),
        ("no such volume", Kind::Volume),
        ("No such volume: ", Kind::Volume),
        ("no such network", Kind::Network),
        ("No such network: ", Kind::Network),
        ("No such object: ", Kind::Container),
        (" not found", Kind::Network),
    ];
    if !kinds.iter().take(7).any(|(m, _)| text.contains(m)) && !text.contains(": network ") {
        return None;
    }
    let (name, kind) = kinds.iter().find_map(|(marker, kind)| {
        let at = text.find(marker)?;
        let behind = text[at + marker.len()..].split_whitespace().next().unwrap_or_default();
        // "get x: no such volume" names it in front.
        let name = match marker.ends_with(": ") {
            true => behind,
            false => text[..at].trim_end_matches([' ', ':']).rsplit(' ').next().unwrap_or_default(),
        };
        Some((name.trim_matches(['"', '\'']).to_owned(), *kind))
    })?;
    if name.is_empty() {
        return None;
    }
    let known = list(app, kind).await;
    let bare = name.trim_end_matches(":latest");
    suggest::nearest(bare, known.iter().map(String::as_str))
        .filter(|n| *n != name)
        .map(|n| format!("did you mean {n}?"))
}

/// All names of a kind; none when the engine does not answer.
pub(crate) async fn list(app: &App, kind: Kind) -> Vec<String> {
    let path = match kind {
        Kind::Context => return app.config.contexts().iter().map(|c| c.text("Name").to_owned()).collect(),
        Kind::Container => "/containers/json?all=1",
        Kind::Running => "/containers/json",
        Kind::Image => "/images/json",
        Kind::Volume => "/volumes",
        Kind::Network => "/networks",
        Kind::Secret => "/secrets",
        Kind::Config => "/configs",
    };
    let Ok(answer) = app.client.get_value(path).await else { return Vec::new() };
    let names = |v: &Value| -> Vec<String> {
        match kind {
            Kind::Container | Kind::Running => {
                v.get("Names").list().iter().map(|n| n.str().trim_start_matches('/').to_owned()).collect()
            }
            Kind::Image => {
                let tags = v.get("RepoTags").list().iter().map(Value::str).filter(|t| *t != "<none>:<none>");
                tags.flat_map(|t| [t.to_owned(), t.strip_suffix(":latest").unwrap_or_default().to_owned()])
                    .filter(|t| !t.is_empty())
                    .collect()
            }
            Kind::Secret | Kind::Config => vec![v.get("Spec").text("Name").to_owned()],
            Kind::Volume | Kind::Network | Kind::Context => vec![v.text("Name").to_owned()],
        }
    };
    let items = if kind == Kind::Volume { answer.get("Volumes").list() } else { answer.list() };
    items.iter().flat_map(names).collect()
}
