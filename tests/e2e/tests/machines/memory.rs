//! Where a machine stands: snapshots with memory, templates that run, forks.

use crate::{clear, console, guests, start, state, view, wait_for_text};
use berth_testkit::{Client, Engine, kill, wait_until};
use serde_json::Value;

/// Types one byte and waits for the guest's answer to it: the letter that it has in its memory.
#[track_caller]
fn type_at(engine: &Engine, machine: &str, line: &mut Client, byte: &str, answer: &str) {
    let before = engine.berth(["vm", "logs", machine]).success().matches('=').count();
    line.send(byte);
    wait_for_text(engine, machine, "=", before + 1);
    let log = engine.berth(["vm", "logs", machine]).success();
    let last = log.rsplit('=').next().unwrap().trim().to_owned();
    assert_eq!(last, answer, "{machine} after {byte:?}:\n{log}");
}

/// A console that is connected: what is typed reaches the guest, which answers with its letter.
fn line(engine: &Engine, machine: &str) -> Client {
    let mut line = console(engine, machine);
    let before = engine.berth(["vm", "logs", machine]).success().matches('=').count();
    // Until it is connected the terminal itself shows what is typed; `?` only asks.
    wait_until("the guest answers", || {
        line.send("?");
        std::thread::sleep(std::time::Duration::from_millis(200));
        engine.berth(["vm", "logs", machine]).success().matches('=').count() > before
    });
    // Every question that was typed has been answered.
    let mut seen = 0;
    wait_until("the guest is quiet", || {
        let now = engine.berth(["vm", "logs", machine]).success().matches('=').count();
        std::thread::sleep(std::time::Duration::from_millis(300));
        std::mem::replace(&mut seen, now) == now
    });
    line
}

fn make(engine: &Engine, name: &str) {
    let disk = guests::memo(engine);
    let path = disk.to_str().unwrap();
    engine.berth(["vm", "create", "--disk", path, "-m", "64m", "--display", "vnc", "--start", name]).success();
    wait_for_text(engine, name, "MA", 1);
}

#[test]
fn a_snapshot_with_memory_goes_on_where_it_was_made() {
    let Some(mut engine) = start("vm-memory") else { return };
    make(&engine, "one");
    {
        let mut line = line(&engine, "one");
        type_at(&engine, "one", &mut line, "n", "B");
        type_at(&engine, "one", &mut line, "w", "B");
        engine.berth(["vm", "snapshot", "--memory", "one", "at-b"]).success();
        // It has not noticed.
        type_at(&engine, "one", &mut line, "n", "C");
        type_at(&engine, "one", &mut line, "w", "C");
        type_at(&engine, "one", &mut line, "n", "D");
        engine.berth(["vm", "snapshot", "one", "disks"]).success();
    }
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    let refused = engine.berth(["vm", "snapshot", "--memory", "one", "dead"]).failure(1);
    assert!(refused.contains("does not run"), "{refused}");
    engine.berth(["vm", "revert", "one", "at-b"]).success();
    assert_eq!(view(&engine, "one")["resumes"].as_bool(), Some(true));
    // Whoever starts it another way would start it wrongly, and is told.
    let refused = engine.docker(["start", "one"]).failure(1);
    assert!(refused.contains("berth vm start one"), "{refused}");
    engine.berth(["vm", "start", "one"]).success();
    {
        let mut line = line(&engine, "one");
        type_at(&engine, "one", &mut line, "?", "B");
        type_at(&engine, "one", &mut line, "n", "C");
        // Its disk is of the same moment.
        type_at(&engine, "one", &mut line, "r", "B");
        type_at(&engine, "one", &mut line, "n", "C");
        // It can be saved again, now that it stands on another's memory.
        type_at(&engine, "one", &mut line, "n", "D");
        engine.berth(["vm", "snapshot", "--memory", "one", "at-d"]).success();
        type_at(&engine, "one", &mut line, "n", "E");
    }
    let boots = engine.berth(["vm", "logs", "one"]).success().matches('M').count();
    assert_eq!(boots, 1, "it has booted once in its life");
    let all = engine.api("GET", "/api/v1/machines/one/snapshots", "").expect(200).json();
    let held: Vec<_> = all.as_array().unwrap().iter().map(|one| one["memory"].as_bool().unwrap()).collect();
    assert_eq!(held, [true, false, true]);

    engine.berth(["vm", "kill", "one"]).success();
    wait_until("its end", || state(&engine, "one") == "exited");
    // In the middle, and the engine's end in between.
    engine.berth(["vm", "forget", "one", "disks"]).success();
    engine.restart_after_kill();
    engine.berth(["vm", "revert", "one", "at-d"]).success();
    engine.restart_after_kill();
    engine.berth(["vm", "start", "one"]).success();
    {
        let mut line = line(&engine, "one");
        type_at(&engine, "one", &mut line, "?", "D");
    }
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    // The moment was for one start: the next one boots.
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "MA", 2);
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "revert", "--disks-only", "one", "at-b"]).success();
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "MA", 3);
    {
        let mut line = line(&engine, "one");
        type_at(&engine, "one", &mut line, "r", "B");
    }
    clear(&engine);
}

fn names(engine: &Engine, of: &str, field: &str) -> Value {
    view(engine, of)[field].clone()
}

#[test]
fn forks_go_on_from_a_running_machine_and_share_nothing_that_they_write() {
    let Some(mut engine) = start("vm-fork") else { return };
    make(&engine, "one");
    let mut origin = line(&engine, "one");
    type_at(&engine, "one", &mut origin, "n", "B");
    type_at(&engine, "one", &mut origin, "w", "B");
    engine.berth(["vm", "fork", "one", "left", "right"]).success();
    type_at(&engine, "one", &mut origin, "n", "C");
    type_at(&engine, "one", &mut origin, "w", "C");
    {
        let (mut left, mut right) = (line(&engine, "left"), line(&engine, "right"));
        type_at(&engine, "left", &mut left, "?", "B");
        type_at(&engine, "left", &mut left, "n", "C");
        type_at(&engine, "left", &mut left, "n", "D");
        type_at(&engine, "left", &mut left, "w", "D");
        type_at(&engine, "right", &mut right, "?", "B");
        type_at(&engine, "right", &mut right, "r", "B");
        type_at(&engine, "left", &mut left, "r", "D");
        type_at(&engine, "one", &mut origin, "r", "C");
    }
    for field in ["id", "networks"] {
        let of = |name| names(&engine, name, field);
        assert!(of("left") != of("right") && of("left") != of("one"), "{field}");
    }
    // Forks outlive their origin, the engine, and can be forked and saved.
    engine.berth(["vm", "rm", "-f", "one"]).success();
    drop(origin);
    engine.restart_after_kill();
    engine.berth(["vm", "fork", "left", "third"]).success();
    let mut third = line(&engine, "third");
    type_at(&engine, "third", &mut third, "?", "D");
    engine.berth(["vm", "snapshot", "--memory", "right", "here"]).success();
    engine.berth(["vm", "restart", "-t", "0", "right"]).success();
    wait_for_text(&engine, "right", "MA", 1);
    engine.berth(["vm", "stop", "-t", "0", "right"]).success();
    let refused = engine.berth(["vm", "fork", "right"]).failure(1);
    assert!(refused.contains("does not run"), "{refused}");
    engine.berth(["vm", "revert", "right", "here"]).success();
    engine.berth(["vm", "start", "right"]).success();
    let mut right = line(&engine, "right");
    type_at(&engine, "right", &mut right, "?", "B");
    clear(&engine);
}

#[test]
fn a_template_that_ran_is_forked_as_often_as_wanted() {
    let Some(mut engine) = start("vm-warm") else { return };
    make(&engine, "warm");
    {
        let mut line = line(&engine, "warm");
        type_at(&engine, "warm", &mut line, "n", "B");
    }
    engine.berth(["vm", "template", "--running", "warm"]).success();
    assert_eq!((state(&engine, "warm").as_str(), view(&engine, "warm")["template"].as_bool()), ("exited", Some(true)));
    let refused = engine.berth(["vm", "start", "warm"]).failure(1);
    assert!(refused.contains("berth vm fork warm"), "{refused}");
    engine.restart_after_kill();
    let made = engine.berth(["vm", "fork", "warm", "web", "-n", "3"]).success();
    assert_eq!(made.lines().collect::<Vec<_>>(), ["web-1", "web-2", "web-3"]);
    engine.berth(["vm", "rm", "warm"]).success();
    for name in ["web-1", "web-2", "web-3"] {
        let mut line = line(&engine, name);
        type_at(&engine, name, &mut line, "?", "B");
    }
    // QEMU killed: an end like any other, and a boot like any other afterwards.
    let pid = engine.pid_of("web-1");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    kill(children.trim().parse().unwrap());
    wait_until("its end", || state(&engine, "web-1") == "exited");
    engine.berth(["vm", "start", "web-1"]).success();
    wait_for_text(&engine, "web-1", "MA", 1);
    clear(&engine);
}
