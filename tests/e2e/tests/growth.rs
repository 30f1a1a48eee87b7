//! An engine that has lived long is no bigger than one that has not.

use berth_testkit::{Engine, wait_until};
use serde_json::json;
use std::time::Duration;

const CYCLES: usize = 500;
/// Until everything is there that stays: threads, caches, idle shims, pages of allocators.
const WARM_UP: usize = 150;
const WORKERS: usize = 4;
/// Per container some 8 KB: what one leaked record, task or buffer would be many times over in a year.
const RSS_GROWTH_KB_MAX: u64 = 4 << 10;

#[derive(Debug, Clone, Copy)]
struct Size {
    descriptors: usize,
    threads: usize,
    processes: usize,
    rss_kb: u64,
}

fn size(engine: &Engine) -> Size {
    let folder = std::path::PathBuf::from(format!("/proc/{}", engine.pid()));
    let status = std::fs::read_to_string(folder.join("status")).expect("the engine runs");
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
        line.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).expect("a number")
    };
    Size {
        descriptors: std::fs::read_dir(folder.join("fd")).expect("the engine runs").count(),
        threads: usize::try_from(number("Threads:")).expect("a small number"),
        processes: engine.processes(),
        rss_kb: number("VmRSS:"),
    }
}

/// Create, wait for the end, start, exec, logs, end, remove.
fn cycle(engine: &Engine, number: usize) {
    let name = format!("c{number}");
    let script = "echo begun; while [ ! -e /go ]; do sleep 0.01; done; exit 3";
    let mut body = json!({"Image": "tiny", "Cmd": ["sh", "-c", script], "HostConfig": {}});
    if number.is_multiple_of(3) {
        body["HostConfig"]["PortBindings"] = json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]});
        body["Volumes"] = json!({"/data": {}});
    }
    engine.api("POST", &format!("/containers/create?name={name}"), &body.to_string()).expect(201);
    engine.api("POST", &format!("/containers/{name}/start"), "").expect(204);
    let exec = json!({"Cmd": ["touch", "/go"], "AttachStdout": true, "AttachStderr": true}).to_string();
    let exec = engine.api("POST", &format!("/containers/{name}/exec"), &exec).expect(201).json();
    let exec = exec["Id"].as_str().expect("an id");
    engine.api("POST", &format!("/exec/{exec}/start"), r#"{"Detach": false}"#).expect(200);
    let waited = engine.api("POST", &format!("/containers/{name}/wait"), "").expect(200);
    assert_eq!(waited.json()["StatusCode"], 3);
    let log = engine.api("GET", &format!("/containers/{name}/logs?stdout=1&follow=1"), "").expect(200);
    assert!(log.text().contains("begun"));
    engine.api("DELETE", &format!("/containers/{name}?v=1"), "").expect(204);
}

fn cycles(engine: &Engine, first: usize, count: usize) {
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                (first + worker..first + count).step_by(WORKERS).for_each(|number| cycle(engine, number))
            });
        }
    });
}

/// The engine at rest, with everything of its containers gone and `threads_max` threads: those that have had no work
/// for ten seconds end.
fn at_rest(engine: &Engine, threads_max: usize) -> Size {
    engine.clear();
    wait_until("threads without work have ended", || size(engine).threads <= threads_max);
    // Idle shims are started behind.
    std::thread::sleep(Duration::from_millis(200));
    size(engine)
}

#[test]
fn five_hundred_lives_leave_the_engine_as_it_was() {
    let Some(engine) = Engine::start("growth") else { return };
    cycles(&engine, 0, WARM_UP);
    let before = at_rest(&engine, usize::MAX);
    cycles(&engine, WARM_UP, CYCLES);
    let after = at_rest(&engine, before.threads + 1);
    println!("{CYCLES} cycles: {before:?} then {after:?}");
    assert!(after.descriptors <= before.descriptors + 4, "descriptors: {before:?} then {after:?}");
    assert!(after.processes <= before.processes + 1, "processes: {before:?} then {after:?}");
    assert!(after.rss_kb <= before.rss_kb + RSS_GROWTH_KB_MAX, "memory: {before:?} then {after:?}");
}
