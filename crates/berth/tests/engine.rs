//! The program against a real engine, ours or Docker's: set `BERTH_TEST_HOST` to its socket.
//!
//! Needs a static `/bin/busybox`, from which the tests make their image. Pointed at dockerd the same tests
//! prove themselves; pointed at berthd they prove the engine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An engine with the image `berth-test:1`; none when no engine was named.
struct Engine {
    host: String,
}

impl Engine {
    fn named() -> Option<Engine> {
        let Ok(host) = std::env::var("BERTH_TEST_HOST") else {
            println!("skipped: set BERTH_TEST_HOST=unix:///... to an engine for tests");
            return None;
        };
        let engine = Engine { host };
        let made = engine.fed(&["import", "-", "berth-test:1"], &busybox());
        assert!(made.status.success(), "{}", text(&made.stderr));
        Some(engine)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(["-H", &self.host]).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("berth runs")
    }

    fn fed(&self, words: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("berth runs");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("berth ends");
        // A container that does not read its input breaks the pipe, which some tests want.
        drop(writer.join());
        output
    }
}

/// A container that goes away with its test.
struct Running<'e>(&'e Engine, String);

impl<'e> Running<'e> {
    fn new(engine: &'e Engine, name: &str) -> Running<'e> {
        drop(engine.run(&["rm", "-f", name]));
        let out = engine.run(&["run", "-d", "--name", name, "berth-test:1", "sleep", "1000"]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        Running(engine, name.to_owned())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        drop(self.0.run(&["rm", "-f", &self.1]));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn busybox() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name("/bin/busybox", "bin/busybox").expect("a static /bin/busybox");
    for applet in ["sh", "cat", "echo", "sleep", "wc", "ls", "true", "md5sum", "mkdir", "ln"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("memory takes it");
    }
    tar.into_inner().expect("memory takes it")
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("berth-engine-{}-{name}", std::process::id()));
    drop(std::fs::remove_dir_all(&path));
    std::fs::create_dir_all(&path).expect("a scratch folder");
    path
}

#[test]
fn exit_codes_are_the_programs_own_or_say_who_failed() {
    let Some(engine) = Engine::named() else { return };
    for (words, code) in [
        (&["sh", "-c", "exit 42"][..], 42),
        (&["true"], 0),
        (&["no-such-program"], 127),
        (&["/bin"], 126),
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
    ] {
        let mut all = vec!["run", "--rm", "berth-test:1"];
        all.extend(words);
        assert_eq!(engine.run(&all).status.code(), Some(code), "{words:?}");
    }
    assert_eq!(engine.run(&["run", "--rm", "--memory", "x", "berth-test:1"]).status.code(), Some(125));
}

#[test]
fn both_streams_arrive_apart_and_nothing_of_a_large_input_is_lost() {
    let Some(engine) = Engine::named() else { return };
    let out = engine.run(&["run", "--rm", "berth-test:1", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((text(&out.stdout), text(&out.stderr)), ("out\n".into(), "err\n".into()));
    let big: Vec<u8> = (0..32_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(engine.fed(&["run", "--rm", "-i", "berth-test:1", "cat"], &big).stdout == big, "run -i cat");
    let container = Running::new(&engine, "berth-test-pipe");
    assert!(engine.fed(&["exec", "-i", &container.1, "cat"], &big).stdout == big, "exec -i cat");
}

#[test]
fn exec_has_its_own_exit_code_and_names_are_guessed() {
    let Some(engine) = Engine::named() else { return };
    let container = Running::new(&engine, "berth-test-exec");
    assert_eq!(engine.run(&["exec", &container.1, "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(engine.run(&["exec", &container.1, "no-such-program"]).status.code(), Some(127));
    let missed = engine.run(&["inspect", "--type", "container", "berth-test-exce"]);
    assert_eq!(missed.status.code(), Some(1));
    assert!(text(&missed.stderr).contains("hint: did you mean berth-test-exec?"), "{}", text(&missed.stderr));
    let state = engine.run(&["inspect", "-f", "{{.State.Status}} {{.Name}}", &container.1]);
    assert_eq!(text(&state.stdout), "running /berth-test-exec\n");
}

#[test]
fn cp_keeps_trees_both_ways_and_lands_where_docker_says() {
    let Some(engine) = Engine::named() else { return };
    let container = Running::new(&engine, "berth-test-cp");
    let dir = scratch("cp");
    std::fs::create_dir_all(dir.join("src/sub")).expect("made");
    std::fs::write(dir.join("src/a"), "a").expect("written");
    std::fs::write(dir.join("src/sub/b"), "b").expect("written");
    std::os::unix::fs::symlink("a", dir.join("src/l")).expect("linked");
    let here = |p: &str| dir.join(p).to_string_lossy().into_owned();
    let there = |p: &str| format!("{}:{p}", container.1);
    let cp = |from: &str, to: &str| {
        let out = engine.run(&["cp", from, to]);
        assert!(out.status.success(), "cp {from} {to}: {}", text(&out.stderr));
    };
    cp(&here("src"), &there("/new"));
    cp(&here("src"), &there("/new"));
    cp(&here("src/a"), &there("/new/renamed"));
    let listing = engine.run(&["exec", &container.1, "ls", "/new", "/new/src"]);
    assert_eq!(text(&listing.stdout), "/new:\na\nl\nrenamed\nsrc\nsub\n\n/new/src:\na\nl\nsub\n");
    cp(&there("/new"), &here("out"));
    cp(&there("/new/."), &here("out/again"));
    assert_eq!(std::fs::read(dir.join("out/again/sub/b")).expect("copied"), b"b");
    assert_eq!(std::fs::read_link(dir.join("out/l")).expect("a link"), Path::new("a"));
    assert!(!engine.run(&["cp", &there("/none"), &here("x")]).status.success());
    assert!(!engine.run(&["cp", &here("src/a"), &there("/nodir/")]).status.success());
}

#[test]
fn images_survive_save_and_load_and_commit_adds_to_them() {
    let Some(engine) = Engine::named() else { return };
    let container = Running::new(&engine, "berth-test-image");
    assert!(engine.run(&["exec", &container.1, "mkdir", "/added"]).status.success());
    assert_eq!(text(&engine.run(&["diff", &container.1]).stdout), "A /added\n");
    assert!(engine.run(&["commit", &container.1, "berth-test:committed"]).status.success());
    let file = scratch("save").join("image.tar");
    let file = file.to_string_lossy();
    assert!(engine.run(&["save", "-o", &file, "berth-test:committed"]).status.success());
    assert!(engine.run(&["rmi", "berth-test:committed"]).status.success());
    let loaded = engine.run(&["load", "-i", &file]);
    assert_eq!(text(&loaded.stdout), "Loaded image: berth-test:committed\n");
    assert!(engine.run(&["run", "--rm", "berth-test:committed", "ls", "/added"]).status.success());
    assert!(engine.run(&["rmi", "berth-test:committed"]).status.success());
}
