//! `update`: new limits for a container that exists.
//!
//! The limits come as the JSON of `linux.resources`, or by flags. Only what is named changes.

use super::args::{ArgsError, Parsed};
use super::error::CliError;
use super::state::{Folder, Status};
use super::{Global, list};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};
use std::io::Read;
use std::process::ExitCode;

/// More is no description of limits.
const RESOURCES_BYTES_MAX: u64 = 4 << 20;

pub(crate) fn update(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let id = flags.only_id("update")?;
    let folder = Folder::open(&global.root, id)?;
    let record = folder.load(id)?;
    let status = list::status(&folder, &record);
    if status == Status::Stopped {
        return Err(CliError::NotRunning);
    }
    let resources = resources(flags)?;
    super::cgroup::open(&record)?.update(&resources)?;
    Ok(ExitCode::SUCCESS)
}

fn resources(flags: &Parsed) -> Result<LinuxResources, CliError> {
    let mut resources = match flags.get("resources") {
        None => json!({}),
        Some(file) => {
            let mut text = Vec::new();
            let read = if file == "-" {
                std::io::stdin().take(RESOURCES_BYTES_MAX).read_to_end(&mut text)
            } else {
                std::fs::File::open(file).and_then(|open| open.take(RESOURCES_BYTES_MAX).read_to_end(&mut text))
            };
            read.map_err(CliError::file("read", file))?;
            serde_json::from_slice(&text).map_err(CliError::json(file))?
        }
    };
    for (flag, part, field) in [
        ("memory", "memory", "limit"),
        ("memory-swap", "memory", "swap"),
        ("memory-reservation", "memory", "reservation"),
        ("cpu-share", "cpu", "shares"),
        ("cpu-shares", "cpu", "shares"),
        ("cpu-period", "cpu", "period"),
        ("cpu-quota", "cpu", "quota"),
        ("cpu-burst", "cpu", "burst"),
        ("cpu-idle", "cpu", "idle"),
        ("pids-limit", "pids", "limit"),
        ("blkio-weight", "blockIO", "weight"),
    ] {
        if let Some(text) = flags.get(flag) {
            let wrong = || ArgsError::BadValue {
                flag,
                value: text.to_owned(),
                wanted: "a number (bytes may end in k, m, g or t)",
            };
            let number = if part == "memory" { bytes(text) } else { text.parse().ok() }.ok_or_else(wrong)?;
            put(&mut resources, part, field, json!(number));
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(list) = flags.get(flag) {
            put(&mut resources, "cpu", field, json!(list));
        }
    }
    serde_json::from_value(resources).map_err(CliError::json("resources"))
}

fn put(resources: &mut Value, part: &str, field: &str, value: Value) {
    if !resources[part].is_object() {
        resources[part] = json!({});
    }
    resources[part][field] = value;
}

/// `512m` and the like, as runc's units package reads it: powers of 1024.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let text = lower.strip_suffix('b').unwrap_or(&lower);
    let text = text.strip_suffix('i').unwrap_or(text);
    let (digits, power) = match text.strip_suffix(['k', 'm', 'g', 't']) {
        Some(digits) => (digits, "kmgt".find(text.chars().last()?)? as u32 + 1),
        None => (text, 0),
    };
    digits.parse::<i64>().ok()?.checked_mul(1024_i64.pow(power))
}

#[cfg(test)]
mod tests {
    use super::super::args::parse;
    use super::*;

    fn given(words: &[&str]) -> Result<LinuxResources, CliError> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        resources(&parse(&words, super::super::UPDATE, false).unwrap())
    }

    #[test]
    fn flags_become_resources() {
        let resources =
            given(&["--memory", "64m", "--memory-swap", "-1", "--pids-limit=20", "--cpuset-cpus", "0-1", "x"]).unwrap();
        let memory = resources.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap(), memory.reservation()), (Some(64 << 20), Some(-1), None));
        assert_eq!(resources.pids().unwrap().limit(), 20);
        assert_eq!(resources.cpu().as_ref().unwrap().cpus().as_deref(), Some("0-1"));
        assert!(resources.block_io().is_none());
    }

    #[test]
    fn flags_that_are_no_numbers_are_refused() {
        assert!(given(&["--memory", "lots", "x"]).is_err());
        assert!(given(&["--cpu-shares", "-", "x"]).is_err());
        assert_eq!(
            (bytes("2g"), bytes("1KiB"), bytes("7"), bytes("9999999999999t")),
            (Some(2 << 30), Some(1024), Some(7), None)
        );
    }
}
