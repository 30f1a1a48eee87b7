//! `berth`, the command line.
//!
//! ```text
//! argv -> cli (tables, flags) -> commands/<verb> -> client -> the engine's socket
//!                                     |
//!                                     +-> template, table, units -> stdout
//! ```
//!
//! One thread and one small async runtime; nothing is read, resolved or connected before a command needs it.

mod app;
mod cli;
mod client;
mod commands;
mod credentials;
mod error;
mod names;
mod opts;
mod plugin;
mod progress;
mod session;
mod start_engine;
mod suggest;
mod table;
mod template;
mod transfer;
mod tty;
mod units;
mod value;

use app::App;
use cli::Global;
use error::CliError;
use std::io::Write;

fn main() {
    let code = run(std::env::args().skip(1).collect());
    tty::restore();
    // Threads may still sit in a read of stdin; leaving main would not wait for them either.
    std::process::exit(i32::from(code));
}

fn run(argv: Vec<String>) -> u8 {
    match cli::parse_global(argv) {
        Ok((global, words)) => dispatch(&global, words),
        Err(error) => say(&error.with_text(|text| {
            format!("{text}\n\nUsage:  berth [OPTIONS] COMMAND [ARG...]\n\nRun 'berth --help' for more information")
        })),
    }
}

fn dispatch(global: &Global, words: Vec<String>) -> u8 {
    if global.version {
        // Scripts read the number behind "Docker version" to know which flags they may use.
        return show(concat!("Docker version 28.2.2, build berth-", env!("CARGO_PKG_VERSION"), "\n"));
    }
    let Some(first) = words.first() else { return show(&cli::help::top()) };
    if global.help {
        return show(&cli::help::top());
    }
    if first == "help" {
        return match cli::find(&words[1..]) {
            Some(called) => show(&cli::help::command(called)),
            None if cli::GROUPS.iter().any(|(g, _)| words.get(1).is_some_and(|w| w == g)) => {
                show(&cli::help::group(&words[1]))
            }
            None => show(&cli::help::top()),
        };
    }
    let Some(called) = cli::find(&words) else {
        return match plugin(global, &words) {
            Some(code) => code,
            None => unknown(&words),
        };
    };
    let args = match cli::parse_command(called, words[called.words()..].to_vec()) {
        Ok(Some(args)) => args,
        Ok(None) => return show(&cli::help::command(called)),
        Err(error) => return say(&error.with_usage(called)),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return say(&CliError::io("cannot start", e)),
    };
    // Tasks of one thread share the client without locks.
    tokio::task::LocalSet::new().block_on(&runtime, async {
        // Lives as long as the process: commands may hand it to tasks of their own.
        let app: &'static App = match App::new(global) {
            Ok(app) => Box::leak(Box::new(app)),
            Err(error) => return say(&error),
        };
        match (called.command.run)(app, args).await {
            Ok(code) => code,
            Err(error) if error.is_broken_pipe() => 141,
            Err(error) => {
                tty::restore();
                let error = error.with_usage(called);
                report(app, &error).await;
                error.exit_code()
            }
        }
    })
}

/// Runs a plugin of that name; none when there is none.
fn plugin(global: &Global, words: &[String]) -> Option<u8> {
    let app = App::new(global).ok()?;
    let program = plugin::find(&app, &words[0])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    Some(say(&runtime.block_on(plugin::run(&app, program, words))))
}

fn unknown(words: &[String]) -> u8 {
    let first = words[0].as_str();
    if let Some((group, _)) = cli::GROUPS.iter().find(|(g, _)| *g == first) {
        let Some(verb) = words.get(1) else {
            // Nothing was asked for: the help goes where it does not look like an answer.
            drop(std::io::stderr().write_all(cli::help::group(group).as_bytes()));
            return 0;
        };
        if matches!(verb.as_str(), "--help" | "-h") {
            return show(&cli::help::group(group));
        }
        if verb.starts_with('-') {
            return say(&CliError::usage(format!(
                "unknown flag: {verb}\n\nUsage:  berth {group} COMMAND\n\nRun 'berth {group} --help' for more information"
            )));
        }
        let verbs = cli::all().flat_map(|c| c.paths).filter_map(|p| p.strip_prefix(group)?.strip_prefix(' '));
        // Docker names only this group with its placeholder.
        let usage = if *group == "volume" { " COMMAND" } else { "" };
        let mut error = CliError::failed(format!(
            "berth: unknown command: berth {group} {verb}\n\nUsage:  berth {group}{usage}\n\nRun 'berth {group} --help' for more information"
        ));
        if let Some(near) = suggest::nearest(verb, verbs) {
            error = error.with_hint(format!("did you mean berth {group} {near}?"));
        }
        return say(&error);
    }
    if let Some((_, why)) = cli::ABSENT.iter().find(|(name, _)| *name == first) {
        return say(&CliError::failed(format!("berth: {first}: {why}")));
    }
    let known = cli::all().flat_map(|c| c.paths.iter().copied()).filter(|p| !p.contains(' ') && !p.starts_with("__"));
    let groups = cli::GROUPS.iter().map(|(g, _)| *g);
    let mut error =
        CliError::failed(format!("berth: unknown command: berth {first}\n\nRun 'berth --help' for more information"));
    if let Some(near) = suggest::nearest(first, known.chain(groups)) {
        error = error.with_hint(format!("did you mean berth {near}?"));
    }
    say(&error)
}

/// Prints an error; for an unknown name it looks whether one like it exists.
pub(crate) async fn report(app: &App, error: &CliError) {
    if error.is_silent() {
        return;
    }
    let guess = if error.hint().is_none() { names::guess(app, error).await } else { None };
    write_error(error, guess.as_deref());
}

fn say(error: &CliError) -> u8 {
    if !error.is_silent() {
        write_error(error, None);
    }
    error.exit_code()
}

fn write_error(error: &CliError, guess: Option<&str>) {
    let mut text = format!("{error}\n");
    if let Some(hint) = error.hint().or(guess) {
        for line in hint.lines() {
            text.push_str(&format!("hint: {line}\n"));
        }
    }
    // Nobody is left to be told when stderr is closed.
    drop(std::io::stderr().write_all(text.as_bytes()));
}

fn show(text: &str) -> u8 {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(_) => 141,
    }
}
