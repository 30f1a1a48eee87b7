//! What can be typed: every command, its flags, its help.
//!
//! ```text
//! tables (container.rs, image.rs, ...)  one `Command` each; flags as the lines that --help prints
//! parse.rs                              argv -> Args, with the rules of the flag library Docker uses
//! help.rs                               the same tables -> text
//! complete.rs                           the same tables -> shell completion
//! ```
//!
//! Why no clap: Docker's rules (`--rm=false`, `-it`, `-d -d`, options end at the image name, Go durations
//! and exit code 125 for a wrong flag) are those of Go's pflag, and `alias docker=berth` has to hold in
//! other people's scripts. The tables are static text that only the command in use is parsed from, so
//! ninety commands cost nothing at start.

mod build;
pub(crate) mod complete;
mod container;
pub(crate) mod help;
mod image;
mod network;
mod parse;
mod secret;
mod system;
mod vm;
mod volume;

use crate::app::App;
use crate::error::Result;
pub(crate) use parse::{Args, Flag, Global, parse_command, parse_global};
use std::future::Future;
use std::pin::Pin;

pub(crate) type Running = Pin<Box<dyn Future<Output = Result<u8>>>>;

/// What a command's words name, for completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Names {
    None,
    /// All containers.
    Containers,
    Running,
    Images,
    Volumes,
    Networks,
    Secrets,
    Configs,
    Contexts,
    /// The first word names a network, the second a container.
    NetworkThenContainer,
    Any,
}

pub(crate) struct Command {
    /// `["ps", "container ls", ...]`; the first is the one that help and errors show.
    pub(crate) paths: &'static [&'static str],
    /// Behind the name in the usage line; several lines for several forms.
    pub(crate) usage: &'static str,
    pub(crate) about: &'static str,
    /// One flag a line: `-m, --memory bytes  Memory limit`.
    pub(crate) flags: &'static str,
    pub(crate) examples: &'static str,
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// Flags end at the first word that is none: the rest belongs to the container's program.
    pub(crate) tail: bool,
    pub(crate) names: Names,
    pub(crate) run: fn(&'static App, Args) -> Running,
}

impl Command {
    pub(crate) fn name(&self) -> &'static str {
        self.paths[0]
    }

    pub(crate) fn parsed_flags(&self) -> Vec<Flag> {
        self.flags.lines().filter_map(Flag::from_line).collect()
    }
}

/// Builds the function that a table names.
macro_rules! go {
    ($path:path) => {
        |app, args| Box::pin($path(app, args))
    };
}
pub(crate) use go;

/// Docker's words for `--format` of commands that print one object.
pub(crate) const INSPECT_FORMAT: &str = "-f, --format string  Print 'json' or a Go template";

/// Of `logs` and `vm logs`.
const LOGS_FLAGS: &str = r#"    --details  Show extra details provided to logs
-f, --follow  Follow log output
    --since string  Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
-n, --tail string  Number of lines to show from the end of the logs (default "all")
-t, --timestamps  Show timestamps
    --until string  Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)"#;

pub(crate) const MANY: usize = usize::MAX;

pub(crate) fn all() -> impl Iterator<Item = &'static Command> {
    [
        build::COMMANDS,
        container::COMMANDS,
        image::COMMANDS,
        volume::COMMANDS,
        secret::COMMANDS,
        network::COMMANDS,
        system::COMMANDS,
        vm::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// A command and the words that it was called by: `container ls` and `ps` are one command.
#[derive(Clone, Copy)]
pub(crate) struct Called {
    pub(crate) command: &'static Command,
    pub(crate) path: &'static str,
}

impl Called {
    /// How many words the path has.
    pub(crate) fn words(self) -> usize {
        self.path.split(' ').count()
    }

    /// `berth container ls [OPTIONS]`; a second form is always shown by the command's own name.
    pub(crate) fn usage(self) -> String {
        let lines = self.command.usage.lines().enumerate();
        let lines: Vec<String> = lines
            .map(|(i, usage)| {
                let path = if i == 0 { self.path } else { self.command.name() };
                format!("berth {path} {usage}").trim_end().to_owned()
            })
            .collect();
        if lines.is_empty() { format!("berth {}", self.path) } else { lines.join("\n\t") }
    }
}

/// Of a command: `vm kernel install`.
const WORDS_MAX: usize = 3;

/// The command that `words` begin with.
pub(crate) fn find(words: &[String]) -> Option<Called> {
    let by = |path: &str| {
        let mut called =
            all().filter_map(|command| Some(Called { command, path: command.paths.iter().find(|p| **p == path)? }));
        called.next()
    };
    (1..=WORDS_MAX.min(words.len())).rev().find_map(|count| by(&words[..count].join(" ")))
}

/// `container`, `image`, ...: words that only group commands.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("builder", "Manage builds"),
    ("config", "Manage configurations"),
    ("console", "Manage the web console"),
    ("container", "Manage containers"),
    ("context", "Manage contexts"),
    ("host", "Manage other engines"),
    ("image", "Manage images"),
    ("manifest", "Look at manifests in registries"),
    ("network", "Manage networks"),
    ("secret", "Manage secrets"),
    ("system", "Manage berth"),
    ("vm", "Manage virtual machines"),
    ("volume", "Manage volumes"),
];

/// Docker's commands for parts that this engine does not have; refused by name instead of "unknown".
pub(crate) const ABSENT: &[(&str, &str)] = &[
    ("swarm", "this engine has no swarm mode"),
    ("service", "this engine has no swarm mode"),
    ("stack", "this engine has no swarm mode"),
    ("node", "this engine has no swarm mode"),
    ("plugin", "this engine has no plugins"),
    ("trust", "image signatures are not checked by this command line"),
    ("checkpoint", "checkpoints are not supported by this engine yet"),
    ("compose", "the compose plugin is not installed (docker-compose in a cli-plugins folder)"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_line_of_every_command_can_be_read() {
        for command in all() {
            for line in command.flags.lines().filter(|l| !l.trim().is_empty()) {
                let flag = Flag::from_line(line).unwrap_or_else(|| panic!("{}: {line:?}", command.name()));
                assert!(!flag.help.is_empty(), "{}: {line:?}", command.name());
            }
            assert!(!command.about.is_empty());
            assert!(!command.examples.is_empty(), "{} has no example", command.name());
        }
    }

    #[test]
    fn no_two_commands_share_a_path_and_no_two_flags_a_name() {
        let mut paths: Vec<&str> = all().flat_map(|c| c.paths.iter().copied()).collect();
        let count = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(count, paths.len());
        for command in all() {
            let flags = command.parsed_flags();
            for (i, flag) in flags.iter().enumerate() {
                for other in &flags[i + 1..] {
                    assert_ne!(flag.long, other.long, "{}", command.name());
                    assert!(flag.short.is_none() || flag.short != other.short, "{} -{:?}", command.name(), flag.short);
                }
            }
        }
    }
}
