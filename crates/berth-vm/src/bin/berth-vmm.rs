//! `berth-vmm MACHINE.json`: a machine's supervisor; started by the engine in the machine's jail.
//! `berth-vmm exec PROCESS`: one process in the guest of that jail.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [word, wish] if word == "exec" => match wish.to_str() {
            Some(wish) => ExitCode::from(berth_vm::execute::run(wish)),
            None => ExitCode::from(2),
        },
        [path] => ExitCode::from(berth_vm::supervise::run(Path::new(path))),
        _ => ExitCode::from(2),
    }
}
