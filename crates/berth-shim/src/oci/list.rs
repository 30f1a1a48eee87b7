//! `state` and `list`: what containers there are and how they are.

use super::args::Parsed;
use super::error::CliError;
use super::state::{Folder, Record, Status};
use super::{Global, cgroup};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Asks the kernel how a container is.
pub(crate) fn status(folder: &Folder, record: &Record) -> Status {
    if !record.is_alive() {
        return Status::Stopped;
    }
    if folder.waits_for_start() {
        return Status::Created;
    }
    if cgroup::is_frozen(record) { Status::Paused } else { Status::Running }
}

pub(crate) fn state(global: &Global, id: &str) -> Result<ExitCode, CliError> {
    let folder = Folder::open(&global.root, id)?;
    let record = folder.load(id)?;
    println!("{:#}", record.oci_state(status(&folder, &record)));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let found = all(global)?;
    let text = |container: &Value, key: &str| container[key].as_str().unwrap_or_default().to_owned();
    if flags.has("quiet") {
        for container in &found {
            println!("{}", text(container, "id"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    match flags.get("format").unwrap_or("table") {
        "json" => println!("{}", json!(found)),
        "table" => {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            rows.extend(found.iter().map(|container| {
                let text = |key| text(container, key);
                [
                    text("id"),
                    container["pid"].to_string(),
                    text("status"),
                    text("bundle"),
                    text("created"),
                    text("owner"),
                ]
            }));
            print_table(&rows);
        }
        other => return Err(CliError::Config(format!("--format: \"{other}\" is neither table nor json"))),
    }
    Ok(ExitCode::SUCCESS)
}

fn all(global: &Global) -> Result<Vec<Value>, CliError> {
    let entries = match std::fs::read_dir(&global.root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(CliError::file("list", &global.root))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(CliError::file("list", &global.root))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Folders of others (compiled filters), and containers that go away meanwhile, are passed over.
        let Ok(folder) = Folder::open(&global.root, &name) else { continue };
        let Ok(record) = folder.load(&name) else { continue };
        found.push(record.oci_state(status(&folder, &record)));
    }
    found.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
    Ok(found)
}

fn print_table<const N: usize>(rows: &[[String; N]]) {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("   ").trim_end());
    }
}
