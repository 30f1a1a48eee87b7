//! What the program says when no engine is asked: help, wrong words, exit codes.

use std::process::{Command, Output};

fn berth(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(words)
        .env("DOCKER_HOST", "unix:///nonexistent/berth.sock")
        .env_remove("BERTH_HOST")
        .output()
        .expect("the program was built for this test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_is_there_for_everything_and_costs_no_engine() {
    for words in
        [&["--help"][..], &["run", "--help"], &["container", "ls", "--help"], &["volume", "--help"], &["help", "exec"]]
    {
        let out = berth(words);
        assert!(out.status.success(), "{words:?}");
        assert!(text(&out.stdout).contains("Usage:  berth"), "{words:?}");
    }
}

#[test]
fn wrong_words_exit_as_dockers_and_name_what_was_meant() {
    for (words, code, hint) in [
        (&["rnu"][..], 1, "did you mean berth run?"),
        (&["container", "lss"], 1, "did you mean berth container ls?"),
        (&["run", "--memroy", "1g", "x"], 125, "did you mean --memory?"),
        (&["run"], 1, "requires at least 1 argument"),
        (&["run", "-p", "x:80", "img"], 125, "invalid hostPort: x"),
        (&["run", "--rm", "--restart", "always", "img"], 125, "conflicting options"),
        (&["build", "."], 1, "cannot find a Dockerfile"),
    ] {
        let out = berth(words);
        assert_eq!(out.status.code(), Some(code), "{words:?}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(hint), "{words:?}: {}", text(&out.stderr));
        assert!(out.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn an_engine_that_was_named_is_never_started_only_missed() {
    let out = berth(&["ps"]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(said.starts_with("Cannot connect to the Docker daemon at unix:///nonexistent/berth.sock."), "{said}");
    assert_eq!(berth(&["run", "img"]).status.code(), Some(125), "as docker run");
}

#[test]
fn completion_of_words_needs_no_engine() {
    let out = berth(&["__complete", "--", "container", "pr"]);
    assert_eq!(text(&out.stdout), "prune\n");
    assert!(text(&berth(&["completion", "bash"]).stdout).contains("complete -F _berth berth"));
}

#[test]
fn doctor_looks_without_an_engine_and_speaks_json() {
    let out = berth(&["doctor", "--format", "json", "--data-root", "/tmp"]);
    assert!(text(&out.stdout).starts_with("[{"), "{}", text(&out.stdout));
}
