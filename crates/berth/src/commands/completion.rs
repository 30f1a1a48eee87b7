//! `completion` and the hidden `__complete` that its scripts call.

use crate::app::App;
use crate::cli::{Args, Names, complete};
use crate::error::{CliError, Result};
use crate::names::{self, Kind};
use std::time::Duration;

/// A shell waits while somebody presses tab.
const DEADLINE: Duration = Duration::from_millis(500);

pub(crate) async fn script(app: &'static App, args: Args) -> Result<u8> {
    let text = match args.words[0].as_str() {
        "bash" => complete::BASH,
        "zsh" => complete::ZSH,
        "fish" => complete::FISH,
        other => return Err(CliError::failed(format!("no completion for {other:?}")).with_hint("bash, zsh or fish")),
    };
    app.print(text)?;
    Ok(0)
}

/// Prints one candidate a line for the last of the words.
pub(crate) async fn words(app: &'static App, args: Args) -> Result<u8> {
    let (before, current) = match args.words.split_last() {
        Some((current, before)) => (before, current.as_str()),
        None => (&[][..], ""),
    };
    let (mut found, wanted) = complete::candidates(before, current);
    // Asking must not start an engine, nor hang a prompt.
    if wanted != Names::None && app.client.endpoint.try_open().await.is_ok() {
        let names = async {
            let mut out = Vec::new();
            let kinds: &[Kind] = match wanted {
                Names::None => &[],
                Names::Containers => &[Kind::Container],
                Names::Running => &[Kind::Running],
                Names::Images => &[Kind::Image],
                Names::Volumes => &[Kind::Volume],
                Names::Networks | Names::NetworkThenContainer => &[Kind::Network],
                Names::Secrets => &[Kind::Secret],
                Names::Configs => &[Kind::Config],
                Names::Contexts => &[Kind::Context],
                Names::Any => &[Kind::Container, Kind::Image, Kind::Volume, Kind::Network],
            };
            for kind in kinds {
                out.extend(names::list(app, *kind).await);
            }
            out
        };
        found.extend(tokio::time::timeout(DEADLINE, names).await.unwrap_or_default());
    }
    found.retain(|f| f.starts_with(current));
    found.sort();
    found.dedup();
    for candidate in found {
        app.line(&candidate)?;
    }
    Ok(0)
}
