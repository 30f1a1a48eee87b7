//! `--wait`: until the agent of a machine's guest answers. One that does not come so far says what its console said last.

use super::path_of;
use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use hyper::Method;
use std::time::{Duration, Instant};

const AGAIN: Duration = Duration::from_millis(100);
/// Also where every instruction is emulated on a busy host.
const SECONDS_DEFAULT: i64 = 300;
const LINES: &str = "12";
const LINE_CHARS_MAX: usize = 200;

/// How long to wait, where that is asked for.
pub(super) fn asked(args: &Args) -> Result<Option<Duration>> {
    if !args.on("wait") {
        return match args.changed("wait-timeout") {
            true => Err(CliError::failed("--wait-timeout belongs to --wait")),
            false => Ok(None),
        };
    }
    let seconds = if args.changed("wait-timeout") { args.int("wait-timeout")? } else { SECONDS_DEFAULT };
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(CliError::failed(format!("--wait-timeout {seconds}: at least one second"))),
    }
}

pub(super) async fn until_it_answers(app: &App, name: &str, time: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let machine = app.client.get_value(&with_query(&path_of(name), &[("guest", "true")])).await?;
        if machine.get("guest").text("source") == "agent" {
            return Ok(());
        }
        let why = match machine.text("state") {
            "running" | "paused" if begun.elapsed() < time => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            "running" | "paused" => format!("no agent of its guest has answered within {} seconds", time.as_secs()),
            state => format!("it is {state} before an agent of its guest has answered"),
        };
        let told = match last_lines(app, machine.text("id")).await {
            Ok(lines) if !lines.is_empty() => format!("; its console ended with:\n{lines}"),
            Ok(_) => "; its console said nothing".to_owned(),
            Err(error) => format!("; what its console said cannot be read: {error}"),
        };
        return Err(CliError::failed(format!("machine {name}: {why}{told}")));
    }
}

/// What is a guest's own word: without what would steer a terminal.
async fn last_lines(app: &App, id: &str) -> Result<String> {
    let query = [("stdout", "1"), ("stderr", "1"), ("tail", LINES)];
    let path = with_query(&format!("/containers/{}/logs", encode(id)), &query);
    let answer = app.client.send(Method::GET, &path, &[], Body::empty()).await?;
    // A serial line is a terminal: one stream, as it came.
    Ok(plain(&String::from_utf8_lossy(&answer.bytes().await?)))
}

fn plain(text: &str) -> String {
    let line = |line: &str| -> String { line.chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect() };
    let lines: Vec<String> = text.lines().map(line).filter(|line| !line.trim().is_empty()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_guest_does_not_steer_our_terminal() {
        let text = format!("\u{1b}[2Jone\r\n\r\n{}\n", "x".repeat(1000));
        let lines = super::plain(&text);
        assert_eq!(lines, format!("[2Jone\n{}", "x".repeat(super::LINE_CHARS_MAX)));
    }
}
