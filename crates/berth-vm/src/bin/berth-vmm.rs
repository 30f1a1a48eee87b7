//! `berth-vmm MACHINE.json`: a machine's supervisor; started by the engine in the machine's jail.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(path) => ExitCode::from(berth_vm::supervise::run(Path::new(&path))),
        None => ExitCode::from(2),
    }
}
