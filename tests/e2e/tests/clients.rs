//! Docker's client libraries and tools against this engine, one script each in `clients/`.
//!
//! `clients/setup.sh` installs them into `target/clients` (or where `BERTH_CLIENTS` says); without it each test is
//! skipped, aloud.

use berth_testkit::Engine;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Runs `program` of the installed clients; its last line must be `done`, or, of Ansible, a recap without failures.
fn play(name: &str, program: &str, arguments: &[&str]) {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients");
    let installed = std::env::var_os("BERTH_CLIENTS").map_or(default, PathBuf::from);
    let Ok(installed) = installed.canonicalize() else { return say(program) };
    let program = if program.contains('/') { installed.join(program) } else { PathBuf::from(program) };
    if !installed.join("node_modules").exists() || (program.is_absolute() && !program.exists()) {
        return say(&program.display().to_string());
    }
    let arguments = arguments.iter().map(|argument| match argument.strip_prefix("installed:") {
        Some(path) => installed.join(path).into_os_string(),
        None => argument.into(),
    });
    let Some(engine) = Engine::start(&format!("client-{name}")) else { return };
    let mut command: Command = engine.command(&program);
    command
        .current_dir(scripts())
        .args(arguments)
        .env("NODE_PATH", installed.join("node_modules"))
        .env("SCRATCH", engine.root())
        .env("SUBNET", format!("10.214.{}", std::process::id() % 256))
        .env("ANSIBLE_HOME", engine.root().join("ansible"))
        .env("TESTCONTAINERS_RYUK_DISABLED", "true")
        .stdin(Stdio::null());
    let output = command.output().expect("the client starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.trim_end().ends_with("done") || text.contains("failed=0"), "it did not come to its end: {text}");
}

#[expect(clippy::print_stderr, reason = "a test says that it is skipped")]
fn say(what: &str) {
    eprintln!("skipped: needs {what}: tests/e2e/clients/setup.sh");
}

#[test]
fn dockerode() {
    play("dockerode", "node", &["dockerode.cjs"]);
}

#[test]
fn testcontainers_for_python() {
    play("testcontainers", "venv/bin/python", &["testcontainers_python.py"]);
}

#[test]
fn ansibles_docker_modules() {
    play("ansible", "venv/bin/ansible-playbook", &["-i", "localhost,", "ansible.yaml"]);
}

#[test]
fn bollard() {
    play("bollard", "rust/debug/bollard", &[]);
}

#[test]
fn testcontainers_for_rust() {
    play("testcontainers-rust", "rust/debug/testcontainers", &[]);
}

#[test]
fn the_devcontainers_command_line() {
    play("devcontainers", "bash", &["devcontainers.sh", "installed:node_modules/.bin/devcontainer"]);
}
