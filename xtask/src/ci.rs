//! Everything that CI runs, in the order that fails fastest.

use std::path::Path;
use std::process::Command;

const STEPS: &[&[&str]] = &[
    &["cargo", "fmt", "--all", "--check"],
    &["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["cargo", "build", "--workspace", "--bins"],
    &["cargo", "test", "--workspace", "--no-fail-fast"],
];

/// Licences, bans and sources of what we depend on; the advisories come from a database on the network, which a build must not need.
const DENY: &[&str] = &["cargo", "deny", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];

pub(crate) fn run(root: &Path) -> Result<(), Vec<String>> {
    crate::tidy::run(root)?;
    let have_deny = Command::new("cargo-deny").arg("--version").output().is_ok();
    if !have_deny {
        println!("skipped: cargo deny (to have it: cargo install --locked cargo-deny)");
    }
    for step in have_deny.then_some(&DENY).into_iter().chain(STEPS) {
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
