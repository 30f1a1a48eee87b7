//! `ps`: the processes of a container, as pids or through the host's ps(1).

use super::args::Parsed;
use super::error::CliError;
use super::state::Folder;
use super::{Global, cgroup};
use std::process::{Command, ExitCode};

pub(crate) fn ps(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let Some((id, options)) = flags.rest.split_first() else {
        return Err(CliError::Config("ps needs a container's ID".to_owned()));
    };
    let record = Folder::open(&global.root, id)?.load(id)?;
    let pids = cgroup::open(&record)?.pids()?;
    match flags.get("format").unwrap_or("table") {
        "json" => println!("{}", serde_json::json!(pids)),
        "table" => print!("{}", table(&pids, options)?),
        other => return Err(CliError::Config(format!("--format: \"{other}\" is neither table nor json"))),
    }
    Ok(ExitCode::SUCCESS)
}

/// The lines of ps(1) that belong to `pids`.
fn table(pids: &[i32], options: &[String]) -> Result<String, CliError> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let output = command.output().map_err(CliError::file("run", "ps"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(CliError::Config(format!("ps: {}: {}", output.status, said.trim_end())));
    }
    filter(&String::from_utf8_lossy(&output.stdout), pids)
        .ok_or_else(|| CliError::Config("ps prints no PID column with these flags".to_owned()))
}

fn filter(text: &str, pids: &[i32]) -> Option<String> {
    let head = text.lines().next()?;
    let column = head.split_whitespace().position(|word| word == "PID")?;
    let mut kept = format!("{head}\n");
    for line in text.lines().skip(1) {
        let pid: Option<i32> = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn only_the_containers_lines_are_kept() {
        let text = "UID   PID CMD\nroot  7 sleep 7\nroot  17 ps 7\n";
        assert_eq!(filter(text, &[7]).unwrap(), "UID   PID CMD\nroot  7 sleep 7\n");
        assert!(filter("A B\n", &[1]).is_none());
    }
}
