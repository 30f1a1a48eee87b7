//! Checks of this workspace: `cargo xtask tidy`, `cargo xtask ci`; tables made from the kernel's headers: `cargo xtask syscalls`.

mod ci;
mod syscalls;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy::run(&root()),
        Some("ci") => ci::run(&root()),
        Some("syscalls") => syscalls::run(&root(), std::env::args().nth(2)),
        _ => {
            eprintln!("usage: cargo xtask tidy | ci | syscalls HEADERS");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!("{} problem(s)", problems.len());
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root: the parent of this crate's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
