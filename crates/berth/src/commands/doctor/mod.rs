//! `doctor`: what this host offers, and what to do about what it does not.
//!
//! ```text
//! kernel.rs    version, features of mounting, namespaces, filters
//! cgroups.rs   layout and controllers
//! host.rs      network, limits, disk, tools, security modules, virtualisation
//! ```
//!
//! Every check only looks: nothing is mounted, loaded or changed. Exit code 1 when something is missing
//! that containers cannot do without, else 0.

mod cgroups;
mod host;
mod kernel;

use crate::app::App;
use crate::cli::Args;
use crate::error::{CliError, Result};
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Grade {
    Ok,
    /// Something works less well, or not at all that not everybody needs.
    Warn,
    Fail,
}

#[derive(Debug)]
struct Check {
    name: &'static str,
    grade: Grade,
    found: String,
    fix: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, grade: Grade::Ok, found: found.into(), fix: String::new() }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { name, grade: Grade::Warn, found: found.into(), fix: fix.into() }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { name, grade: Grade::Fail, found: found.into(), fix: fix.into() }
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default()
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

pub(crate) async fn doctor(app: &'static App, args: Args) -> Result<u8> {
    let data_root = if args.changed("data-root") { args.text("data-root") } else { "/var/lib/berth" };
    let mut checks = kernel::checks();
    checks.extend(cgroups::checks());
    checks.extend(host::checks(Path::new(data_root)));
    checks.push(engine(app).await);
    let failed = checks.iter().filter(|c| c.grade == Grade::Fail).count();
    let warned = checks.iter().filter(|c| c.grade == Grade::Warn).count();
    match args.text("format") {
        "" => {
            app.print(&text(&checks))?;
            app.line(&format!("\n{} checks: {failed} failed, {warned} to look at", checks.len()))?;
        }
        "json" => app.line(&json(&checks))?,
        other => {
            return Err(
                CliError::usage(format!("unknown format {other:?}")).with_hint("leave it out, or use --format json")
            );
        }
    }
    Ok(u8::from(failed > 0))
}

async fn engine(app: &App) -> Check {
    if app.client.endpoint.try_open().await.is_err() {
        return Check::warn(
            "engine",
            format!("none at {}", app.client.endpoint),
            "it starts with the first command, or: berthd &",
        );
    }
    match app.client.ping(std::time::Duration::from_secs(2)).await {
        true => Check::ok("engine", format!("answers at {}", app.client.endpoint)),
        false => Check::fail(
            "engine",
            format!("does not answer at {}", app.client.endpoint),
            "look at its log; restart it: containers go on meanwhile",
        ),
    }
}

fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let colour = crate::tty::stdout_is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = String::new();
    for check in checks {
        let (word, code) = match check.grade {
            Grade::Ok => ("ok  ", "32"),
            Grade::Warn => ("warn", "33"),
            Grade::Fail => ("FAIL", "31"),
        };
        let word = if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() };
        out.push_str(&format!("{word}  {:width$}  {}\n", check.name, check.found));
        if !check.fix.is_empty() {
            out.push_str(&format!("      {:width$}  fix: {}\n", "", check.fix));
        }
    }
    out
}

fn json(checks: &[Check]) -> String {
    let list: Vec<serde_json::Value> = checks
        .iter()
        .map(|c| {
            let grade = match c.grade {
                Grade::Ok => "ok",
                Grade::Warn => "warn",
                Grade::Fail => "fail",
            };
            serde_json::json!({"name": c.name, "grade": grade, "found": c.found, "fix": c.fix})
        })
        .collect();
    serde_json::Value::Array(list).to_string()
}
