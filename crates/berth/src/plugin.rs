//! Docker's command plugins (`docker compose`): programs called `docker-NAME` in fixed folders.
//!
//! A plugin finds the engine by `DOCKER_HOST`, so it gets ours, started if need be, and replaces this process.

use crate::app::App;
use crate::error::CliError;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

const FOLDERS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// The program of plugin `name`, if one is installed.
pub(crate) fn find(app: &App, name: &str) -> Option<PathBuf> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        return None;
    }
    let own = app.config.folder().join("cli-plugins");
    std::iter::once(own)
        .chain(FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(format!("docker-{name}")))
        .find(|path| path.is_file())
}

/// Becomes the plugin; returns only when that fails.
pub(crate) async fn run(app: &App, program: PathBuf, words: &[String]) -> CliError {
    if matches!(app.client.endpoint.address, crate::client::endpoint::Address::Via(..)) {
        return CliError::failed("a plugin cannot go through another engine")
            .with_hint("give it an address: -H ssh://USER@HOST");
    }
    if let Err(error) = app.client.endpoint.open().await {
        return error;
    }
    let error = Command::new(&program)
        .args(words)
        .env("DOCKER_HOST", app.client.endpoint.to_string())
        .env_remove("DOCKER_CONTEXT")
        .env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", "docker")
        .exec();
    CliError::io(format!("cannot run {}", program.display()), error)
}
