//! Everything that CI runs, in the order that fails fastest.

use std::path::Path;
use std::process::Command;

const STEPS: &[&[&str]] = &[
    &["cargo", "fmt", "--all", "--check"],
    &["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["cargo", "build", "--workspace", "--bins"],
    &["cargo", "test", "--workspace", "--no-fail-fast"],
];

pub(crate) fn run(root: &Path) -> Result<(), Vec<String>> {
    crate::tidy::run(root)?;
    for step in STEPS {
        println!("==> {}", step.join(" "));
        let status = Command::new(step[0]).args(&step[1..]).current_dir(root).status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(vec![format!("{}: {status}", step.join(" "))]),
            Err(error) => return Err(vec![format!("cannot start {}: {error}", step[0])]),
        }
    }
    Ok(())
}
