//! How far a transfer is, as somebody at a terminal sees it, and that a log has nothing of it.

use crate::common::{forget_packed, make_image};
use berth_testkit::{Client, Engine, Link, Registry};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

/// Parts of a line that is drawn while bytes move.
const FIGURES: [&str; 3] = ["B/s", "s left", "%"];

fn signal(engine: &Engine, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(engine.pid()).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it runs");
}

#[test]
fn a_pull_and_a_push_are_one_line_each() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("terminal-registry") else { return };
    let link = Link::slow(registry.address(), 2);
    let name = format!("{}/seen:1", link.address());
    make_image(&engine, &name, 4, 21);
    let client = engine.berth_on_terminal(["push", &name]);
    for words in FIGURES.iter().chain(&["layers 0/1"]) {
        client.wait_for(words);
    }
    let output = client.wait();
    assert!(output.code == 0 && output.stdout.contains("1: digest: sha256:"), "{output:?}");
    assert!(!output.stdout.contains("unpacked"), "{output:?}");
    engine.docker(["rmi", &name]).success();
    let client = engine.berth_on_terminal(["pull", &name]);
    for words in FIGURES.iter().chain(&["unpacked ", "layers 0/1"]) {
        client.wait_for(words);
    }
    let output = client.wait();
    assert!(output.code == 0 && output.stdout.contains("Status: Downloaded newer image"), "{output:?}");

    engine.docker(["rmi", &name]).success();
    let piped = engine.berth(["pull", &name]);
    assert!(!piped.stdout.contains(" left") && piped.stderr.is_empty(), "{piped:?}");
    assert!(piped.success().contains("Pull complete"));
}

/// The sizes behind the slash of each line that was drawn.
fn totals(drawn: &str) -> Vec<String> {
    let sizes = drawn.split(" / ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    let mut sizes: Vec<String> = sizes.map(str::to_owned).collect();
    sizes.dedup();
    sizes
}

#[test]
fn how_much_is_left_counts_the_layers_that_wait_for_their_turn() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start_with("terminal-turns", &["--max-concurrent-downloads", "1"]) else { return };
    let link = Link::slow(registry.address(), 4);
    let (base, name) = ("base:1", format!("{}/seen:2", link.address()));
    make_image(&engine, base, 4, 24);
    engine
        .docker(["run", "--name", "more", base, "sh", "-c", "busybox head -c 3000000 /dev/urandom > /more"])
        .success();
    engine.docker(["commit", "more", &name]).success();
    engine.docker(["rm", "more"]).success();
    engine.docker(["push", "-q", &name]).success();
    engine.docker(["rmi", &name, base]).success();
    forget_packed(&engine);
    let output = engine.berth_on_terminal(["pull", &name]).wait();
    assert!(output.code == 0 && output.stdout.contains("layers 0/2"), "{output:?}");
    assert_eq!(totals(&output.stdout).len(), 1, "{output:?}");
}

#[test]
fn a_load_is_one_line() {
    let Some(engine) = Engine::start("terminal-load") else { return };
    make_image(&engine, "seen:1", 8, 22);
    let archive = engine.root().join("seen.tar");
    engine.berth(["save", "-o", archive.to_str().expect("our own path"), "seen:1"]).success();
    // An engine that does not read is slow enough to be seen.
    signal(&engine, rustix::process::Signal::STOP);
    let client = engine.berth_on_terminal(["load", "-i", archive.to_str().expect("our own path")]);
    for words in FIGURES {
        client.wait_for(words);
    }
    signal(&engine, rustix::process::Signal::CONT);
    let output = client.wait();
    assert!(output.code == 0 && output.stdout.contains("Loaded image: seen:1"), "{output:?}");

    // How much is unpacked, of an archive whose end is not known.
    engine.docker(["rmi", "seen:1"]).success();
    let pipe = engine.root().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    let client = engine.berth_on_terminal(["load", "-i", pipe.to_str().expect("our own path")]);
    let bytes = std::fs::read(&archive).expect("it was saved");
    let mut writer = std::fs::File::options().write(true).open(&pipe).expect("somebody reads");
    writer.write_all(&bytes[..7 << 20]).expect("somebody reads");
    client.wait_for("unpacked 4.");
    writer.write_all(&bytes[7 << 20..]).expect("somebody reads");
    drop(writer);
    let output = client.wait();
    assert!(output.code == 0 && output.stdout.contains("Loaded image: seen:1"), "{output:?}");
    let piped = engine.berth(["load", "-i", archive.to_str().expect("our own path")]);
    assert!(piped.stderr.is_empty(), "{piped:?}");
    assert_eq!(piped.success(), "Loaded image: seen:1");
}

#[test]
fn what_goes_to_another_host_is_one_line() {
    let Some(here) = Engine::start("terminal-here") else { return };
    let Some(there) = Engine::start("terminal-there") else { return };
    make_image(&here, "seen:1", 4, 23);
    let (ssh, go) = (here.root().join("ssh"), here.root().join("go"));
    let text = format!(
        "#!/bin/sh\nshift 2\nexport BERTH_HOST=unix://{} HOME={}\nread line\nn=0\n\
         (echo \"$line\"; head -c 2000000; until [ -e {} ] || [ $((n += 1)) -gt 2400 ]; do sleep 0.05; done; cat) | {} \"$@\"\n",
        there.socket().display(),
        there.root().display(),
        go.display(),
        berth_testkit::programs().join("berth").display()
    );
    std::fs::write(&ssh, text).expect("scratch folder");
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).expect("scratch folder");
    let mut command = here.command(&berth_testkit::programs().join("berth"));
    command.args(["image", "send", "seen:1", "other"]).env("BERTH_SSH", &ssh);
    let client = Client::start_with_terminal(command, 30, 100);
    for words in FIGURES.iter().chain(&["seen:1 to other  "]) {
        client.wait_for(words);
    }
    std::fs::write(&go, "").expect("scratch folder");
    let output = client.wait();
    assert!(output.code == 0 && output.stdout.contains("Sent seen:1 to other: 1 of 1 layer"), "{output:?}");
    assert_eq!(there.docker(["run", "--rm", "seen:1", "sh", "-c", "busybox wc -c < /noise"]).success(), "4194304");
}
