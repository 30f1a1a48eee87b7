//! Ten thousand containers, one life after the other: what they leave in the engine and on the host.

use crate::engines::{Engine, Kind};
use crate::http::Connection;
use crate::idle::resident;
use crate::{Options, Outcome};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
/// Until everything is there that stays: threads, caches, idle shims, pages of allocators.
const WARM_UP: usize = 500;
const STEPS: usize = 10;
/// Threads without work end, freed memory is given back.
const REST: Duration = Duration::from_secs(15);

#[derive(Clone, Copy)]
struct Left {
    resident_mb: f64,
    descriptors: usize,
    threads: usize,
    mounts: usize,
    cgroups: usize,
    links: usize,
    files: u64,
    disk_mb: f64,
}

pub(crate) fn lives(options: &Options, engines: &mut [Engine]) -> Outcome<()> {
    for engine in engines.iter_mut().filter(|engine| engine.kind != Kind::Podman) {
        println!("\n## {}: {} lives of containers, {CLIENTS} at once\n", engine.name(), options.lives);
        println!(
            "| lives | a second | resident MB | descriptors | threads | mounts | cgroups | interfaces | files | disk MB |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        engine.group.enter()?;
        let begin = Instant::now();
        live(engine, WARM_UP)?;
        let first = left(engine)?;
        row(WARM_UP, WARM_UP as f64 / begin.elapsed().as_secs_f64(), first);
        let mut last = first;
        for step in 1..=STEPS {
            let begin = Instant::now();
            live(engine, options.lives / STEPS)?;
            let rate = (options.lives / STEPS) as f64 / begin.elapsed().as_secs_f64();
            last = left(engine)?;
            row(WARM_UP + step * options.lives / STEPS, rate, last);
        }
        println!();
        let grown = |what: &str, first: f64, last: f64, free: f64| {
            let word = if last <= first + free { "met" } else { "GREW" };
            println!("{what}: {first:.1} then {last:.1} ({word})");
        };
        // Free is what one container, thread or page of records more or less makes.
        grown("resident MB", first.resident_mb, last.resident_mb, 4.0);
        grown("descriptors", first.descriptors as f64, last.descriptors as f64, 8.0);
        grown("mounts", first.mounts as f64, last.mounts as f64, 0.0);
        grown("cgroups", first.cgroups as f64, last.cgroups as f64, 0.0);
        grown("interfaces", first.links as f64, last.links as f64, 4.0);
        grown("files", first.files as f64, last.files as f64, 16.0);
        grown("disk MB", first.disk_mb, last.disk_mb, 8.0);
    }
    Ok(())
}

fn row(lives: usize, rate: f64, left: Left) {
    println!(
        "| {lives} | {rate:.0} | {:.1} | {} | {} | {} | {} | {} | {} | {:.1} |",
        left.resident_mb,
        left.descriptors,
        left.threads,
        left.mounts,
        left.cgroups,
        left.links,
        left.files,
        left.disk_mb
    );
}

/// Each is created, started, runs a command that writes and ends, and is removed; every fifth has a port and a volume.
fn live(engine: &Engine, count: usize) -> Outcome<()> {
    let next = AtomicUsize::new(0);
    let one = || -> Result<(), String> {
        let work = || -> Outcome<()> {
            let mut connection = Connection::open(&engine.socket())?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                let extra = match number % 5 {
                    0 => r#","Volumes":{"/kept":{}},"HostConfig":{"PortBindings":{"80/tcp":[{}]}}"#,
                    _ => "",
                };
                let command = r#"["/bin/sh","-c","echo said >/said; echo said"]"#;
                let id = connection.create(&format!(r#"{{"Image":"tiny:1","Cmd":{command}{extra}}}"#))?;
                connection.call("POST", &format!("/v1.41/containers/{id}/start"), None)?;
                connection.call("POST", &format!("/v1.41/containers/{id}/wait"), None)?;
                connection.call("DELETE", &format!("/v1.41/containers/{id}?v=1"), None)?;
            }
        };
        work().map_err(|error| error.to_string())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a client died".to_owned())))
    })?;
    Ok(())
}

fn left(engine: &Engine) -> Outcome<Left> {
    engine.group.calm()?;
    std::thread::sleep(REST);
    let mut sum = Left {
        resident_mb: resident(engine)?,
        descriptors: 0,
        threads: 0,
        mounts: std::fs::read_to_string("/proc/self/mountinfo")?.lines().count(),
        cgroups: cgroups(Path::new("/sys/fs/cgroup")),
        links: std::fs::read_dir("/sys/class/net")?.count(),
        files: 0,
        disk_mb: 0.0,
    };
    for pid in engine.daemon_pids() {
        sum.descriptors += std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        sum.threads += std::fs::read_dir(format!("/proc/{pid}/task"))?.count();
    }
    let data = match engine.kind {
        Kind::Berth => vec![engine.data()],
        _ => vec![Path::new("/var/lib/docker"), Path::new("/var/lib/containerd")],
    };
    let mut blocks = 0;
    data.iter().for_each(|folder| count(folder, &mut sum.files, &mut blocks));
    sum.disk_mb = blocks as f64 * 512.0 / 1e6;
    Ok(sum)
}

/// Folders that go meanwhile are no more.
fn count(folder: &Path, files: &mut u64, blocks: &mut u64) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        *files += 1;
        *blocks += meta.blocks();
        if meta.is_dir() {
            count(&entry.path(), files, blocks);
        }
    }
}

fn cgroups(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| 1 + cgroups(&entry.path()))
        .sum()
}
