//! A project of ten services through Compose, the same client for both engines.

use crate::engines::{Engine, Kind};
use crate::{Measure, Outcome, Times, Title};
use std::fmt::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

const SERVICES: usize = 10;

pub(crate) const MEASURES: &[(&str, Title, Measure)] = &[(
    "compose",
    Title { text: "Compose: a project of ten services, up -d and down -v", target: Some(0.25) },
    up_and_down,
)];

/// Two of them have a volume, one a published port, and the later half waits for the first one's start.
fn project(port: u16) -> Outcome<String> {
    let mut text = "services:\n".to_owned();
    for number in 0..SERVICES {
        write!(text, "  s{number}:\n    image: tiny:1\n    pull_policy: never\n    command: [/bin/sleep, '100000']\n")?;
        if number < 2 {
            text.push_str("    volumes: ['kept:/kept']\n");
        }
        if number == 2 {
            writeln!(text, "    ports: ['127.0.0.1:{port}:80']")?;
        }
        if number >= SERVICES / 2 {
            text.push_str("    depends_on: [s0]\n");
        }
    }
    text.push_str("volumes:\n  kept: {}\n");
    Ok(text)
}

fn up_and_down(engine: &mut Engine, round: usize) -> Outcome<Option<Times>> {
    if engine.kind == Kind::Podman {
        return Ok(None);
    }
    let file = engine.work().join("compose.yaml");
    let port = 26_000 + u16::try_from(round)? * 3 + u16::from(engine.kind as u8);
    std::fs::write(&file, project(port)?)?;
    let file = file.to_string_lossy();
    let compose = |words: &[&str]| {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
        command.args(["compose", "--progress", "quiet", "-p", "bench", "-f", &file]).args(words).stdin(Stdio::null());
        let begin = Instant::now();
        engine.succeed(&mut command).map(|_| begin.elapsed())
    };
    let up = compose(&["up", "-d"])?;
    let down = compose(&["down", "-v", "-t", "0"])?;
    Ok(Some(vec![("all", up + down), ("up", up), ("down", down)]))
}
