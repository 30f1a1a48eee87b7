//! Help, from the tables.

use super::{Called, Flag, GROUPS, all, parse::GLOBAL_FLAGS};
use std::fmt::Write as _;

fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .map_or(80, |w| if w.ws_col == 0 { 80 } else { usize::from(w.ws_col).max(50) })
}

pub(crate) fn command(called: Called) -> String {
    let command = called.command;
    let mut out = format!("Usage:  {}\n\n{}\n", called.usage(), command.about);
    if command.paths.len() > 1 {
        let mut names: Vec<String> = command.paths.iter().map(|p| format!("berth {p}")).collect();
        // The grouped form comes first, as Docker prints them.
        names.sort_by_key(|name| name.split(' ').count() == 2);
        write_to(&mut out, format_args!("\nAliases:\n  {}\n", names.join(", ")));
    }
    let flags = command.parsed_flags();
    if !flags.is_empty() {
        write_to(&mut out, format_args!("\nOptions:\n{}", options(&flags)));
    }
    out.push_str("\nExamples:\n");
    for line in command.examples.lines() {
        write_to(&mut out, format_args!("  {line}\n"));
    }
    out
}

fn options(flags: &[Flag]) -> String {
    let left: Vec<String> = flags
        .iter()
        .map(|f| {
            let short = f.short.map_or("    ".to_owned(), |c| format!("-{c}, "));
            format!("  {short}--{} {}", f.long, f.word).trim_end().to_owned()
        })
        .collect();
    let column = left.iter().map(String::len).max().unwrap_or(0) + 3;
    let room = width().saturating_sub(column).max(24);
    let mut out = String::new();
    for (left, flag) in left.iter().zip(flags) {
        for (i, line) in wrap(flag.help, room).iter().enumerate() {
            let lead = if i == 0 { left.as_str() } else { "" };
            write_to(&mut out, format_args!("{lead:column$}{line}\n"));
        }
    }
    out
}

fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("starts with one line");
        if !line.is_empty() && line.len() + 1 + word.len() > room {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

const COMMON: &[&str] =
    &["run", "exec", "ps", "logs", "stop", "images", "pull", "push", "login", "logout", "version", "info"];
const OURS: &[&str] = &[
    "why",
    "doctor",
    "vm create",
    "image bootstrap",
    "image send",
    "system check",
    "console token",
    "host add",
    "completion",
];

pub(crate) fn top() -> String {
    let mut out = String::from(
        "Usage:  berth [OPTIONS] COMMAND\n\nPackage software once, run it anywhere: as a container or as a machine\n",
    );
    let mut section = |title: &str, rows: Vec<(&str, &str)>| {
        write_to(&mut out, format_args!("\n{title}:\n"));
        for (name, about) in rows {
            write_to(&mut out, format_args!("  {name:<15} {}\n", first_line(about)));
        }
    };
    let by_name = |name: &&str| all().find(|c| c.name() == *name).map(|c| (c.name(), c.about));
    section("Common Commands", COMMON.iter().filter_map(by_name).collect());
    section("What docker has not", OURS.iter().filter_map(by_name).collect());
    section("Management Commands", GROUPS.to_vec());
    let mut others: Vec<(&str, &str)> = all()
        .map(|c| (c.name(), c.about))
        .filter(|(name, _)| {
            !name.contains(' ') && !name.starts_with("__") && !COMMON.contains(name) && !OURS.contains(name)
        })
        .collect();
    others.sort_unstable();
    section("Commands", others);
    let flags: Vec<Flag> = GLOBAL_FLAGS.lines().filter_map(Flag::from_line).collect();
    write_to(&mut out, format_args!("\nGlobal Options:\n{}", options(&flags)));
    out.push_str(
        "\n@last names the newest container: berth logs @last\n\nRun 'berth COMMAND --help' for more information on a command.\n",
    );
    out
}

pub(crate) fn group(name: &str) -> String {
    let about = GROUPS.iter().find(|(n, _)| *n == name).map_or("", |(_, about)| about);
    let mut out = format!("Usage:  berth {name} COMMAND\n\n{about}\n\nCommands:\n");
    let mut rows: Vec<(&str, &str)> = all()
        .filter_map(|c| {
            c.paths.iter().find_map(|p| p.strip_prefix(name)?.strip_prefix(' ')).map(|verb| (verb, c.about))
        })
        .collect();
    rows.sort_unstable();
    for (verb, about) in rows {
        // Docker hides it outside a swarm, and one sentence is enough in a list.
        if matches!((name, verb), ("volume", "update") | ("system", "dial-stdio")) {
            continue;
        }
        let about = first_line(about);
        let about = about.split_once(". You").map_or(about, |(first, _)| first);
        write_to(&mut out, format_args!("  {verb:<11} {about}\n"));
    }
    write_to(&mut out, format_args!("\nRun 'berth {name} COMMAND --help' for more information on a command.\n"));
    out
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn write_to(out: &mut String, args: std::fmt::Arguments<'_>) {
    out.write_fmt(args).expect("writing to a String cannot fail");
}
