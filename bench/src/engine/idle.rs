//! Many idle containers, and the engine alone.
//!
//! Memory is what the whole machine has less of, per container, by the kernel's own kinds, and beside it the
//! proportional share (PSS) of each program's processes. Other work on the machine disturbs the first; the second
//! and the unreclaimable kinds (anonymous pages, unreclaimable slab, page tables, stacks, per-cpu) are steady.

use crate::engines::{Engine, Kind};
use crate::http::Connection;
use crate::{Options, Outcome, middle, ms, verdict};
use std::collections::BTreeMap;
use std::time::Instant;

const KINDS: [&str; 8] =
    ["MemAvailable", "AnonPages", "SUnreclaim", "SReclaimable", "PageTables", "KernelStack", "Percpu", "Shmem"];
const ENDS: usize = 10;

struct Found {
    kind: Kind,
    start: f64,
    end: f64,
    rest: f64,
}

pub(crate) fn idle(options: &Options, engines: &mut [Engine]) -> Outcome<()> {
    let mut all = Vec::new();
    for engine in engines.iter_mut() {
        engine.group.enter()?;
        engine.group.calm()?;
        all.push(one(options.idle, engine)?);
    }
    let (Some(ours), Some(docker)) =
        (all.iter().find(|found| found.kind == Kind::Berth), all.iter().find(|found| found.kind == Kind::Docker))
    else {
        return Ok(());
    };
    println!();
    verdict("berth / docker: starting all", ours.start / docker.start, Some(0.1));
    verdict("berth / docker: stopping and removing all", ours.end / docker.end, Some(0.1));
    verdict("berth: last starts / first starts", ours.rest, Some(1.15));
    Ok(())
}

fn one(count: usize, engine: &mut Engine) -> Outcome<Found> {
    println!("\n## {}: {count} idle containers\n", engine.name());
    // One first: what an engine makes once is not what a container costs.
    engine.succeed(&mut engine.run(["-d", "--name", "idle-first", "tiny:1", "/bin/sleep", "100000"]))?;
    engine.group.calm()?;
    let (memory, processes) = (meminfo()?, processes()?);
    let cpu = engine.group.cpu()?;
    let mut starts = Vec::new();
    let begin = Instant::now();
    for number in 0..count {
        let name = format!("idle-{number}");
        let begin = Instant::now();
        engine.succeed(&mut engine.run(["-d", "--name", &name, "tiny:1", "/bin/sleep", "100000"]))?;
        starts.push(ms(begin.elapsed()));
    }
    let start = ms(begin.elapsed());
    engine.group.calm()?;
    let cpu = ms(engine.group.cpu()?.saturating_sub(cpu));
    let median = |part: &[f64]| {
        let mut sorted = part.to_vec();
        sorted.sort_by(f64::total_cmp);
        middle(&sorted)
    };
    let ends = ENDS.min(count / 2).max(1);
    let (first, last) = (median(&starts[..ends]), median(&starts[count - ends..]));
    println!(
        "start all {:.2} s ({:.1} ms cpu each); first {ends}: {first:.1} ms, last {ends}: {last:.1} ms",
        start / 1e3,
        cpu / count as f64
    );

    let per = 1024.0 * count as f64;
    let now = meminfo()?;
    let of = |kind: &str| {
        let delta = now.get(kind).copied().unwrap_or(0) - memory.get(kind).copied().unwrap_or(0);
        delta as f64 / per
    };
    let kinds: Vec<String> = KINDS.iter().map(|kind| format!("{kind} {:+.3}", of(kind))).collect();
    println!("MB per container: {}", kinds.join(", "));
    let kernel: f64 = KINDS[1..].iter().filter(|kind| **kind != "SReclaimable").map(|kind| of(kind)).sum();
    let whole = kernel + of("SReclaimable").max(0.0);
    let mut ours = 0.0;
    for (program, pss) in self::processes()? {
        let delta = (pss - processes.get(&program).copied().unwrap_or(0)) as f64 / per;
        if delta.abs() >= 0.002 {
            println!("PSS per container in {program}: {delta:+.3} MB");
        }
        if program.starts_with("berth") {
            ours += delta;
        }
    }
    let targets = engine.kind == Kind::Berth;
    verdict("MB per container, all kinds but page cache", whole, targets.then_some(0.85));
    verdict("MB per container, of it not reclaimable", kernel, None);
    if targets {
        verdict("MB per container in processes of ours (PSS)", ours, Some(0.15));
    }

    let mut list = Vec::new();
    for _ in 0..9 {
        let begin = Instant::now();
        engine.succeed(&mut engine.client(["ps", "-a"]))?;
        list.push(ms(begin.elapsed()));
    }
    verdict("ms for ps -a", median(&list), targets.then_some(10.0));
    if engine.kind != Kind::Podman {
        let mut list = Vec::new();
        for _ in 0..9 {
            let mut connection = Connection::open(&engine.socket())?;
            let begin = Instant::now();
            connection.call("GET", "/v1.41/containers/json?all=1", None)?;
            list.push(ms(begin.elapsed()));
        }
        verdict("ms for ps -a by API", median(&list), None);
    }

    let names: Vec<String> = (0..count).map(|number| format!("idle-{number}")).collect();
    let names = || names.iter().map(String::as_str).chain(["idle-first"]);
    let begin = Instant::now();
    engine.succeed(&mut engine.client(["stop", "-t", "0"].into_iter().chain(names())))?;
    let stopped = ms(begin.elapsed());
    engine.succeed(&mut engine.client(["rm"].into_iter().chain(names())))?;
    let end = ms(begin.elapsed());
    println!("stop -t 0 all {:.2} s, rm all {:.2} s", stopped / 1e3, (end - stopped) / 1e3);
    Ok(Found { kind: engine.kind, start, end, rest: last / first })
}

fn meminfo() -> Outcome<BTreeMap<String, i64>> {
    let mut found = BTreeMap::new();
    for line in std::fs::read_to_string("/proc/meminfo")?.lines() {
        if let Some((name, value)) = line.split_once(':') {
            let number = value.split_whitespace().next().unwrap_or("0");
            found.insert(name.to_owned(), number.parse().unwrap_or(0));
        }
    }
    Ok(found)
}

/// KB of PSS by program.
fn processes() -> Outcome<BTreeMap<String, i64>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let directory = entry?.path();
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        let rollup = read("smaps_rollup");
        let Some(line) = rollup.lines().find_map(|line| line.strip_prefix("Pss:")) else { continue };
        let pss: i64 = line.split_whitespace().next().unwrap_or("0").parse().unwrap_or(0);
        *found.entry(read("comm").trim().to_owned()).or_insert(0) += pss;
    }
    Ok(found)
}

/// Idle size; start-up with many stopped containers.
pub(crate) fn engine_itself(options: &Options, engines: &mut [Engine]) -> Outcome<()> {
    println!("\n## The engine itself: idle, and started with {} stopped containers\n", options.idle);
    println!("| engine | resident MB, idle | MB with stopped containers | start to first answer, ms, median |");
    println!("|---|---|---|---|");
    let mut verdicts = Vec::new();
    for engine in engines.iter_mut().filter(|engine| engine.kind != Kind::Podman) {
        engine.stop_engine()?;
        engine.start()?;
        engine.group.calm()?;
        let idle = resident(engine)?;
        let mut connection = Connection::open(&engine.socket())?;
        let mut ids = Vec::new();
        for _ in 0..options.idle {
            let id = connection.create(r#"{"Image":"tiny:1","Cmd":["/bin/true"]}"#)?;
            connection.call("POST", &format!("/v1.41/containers/{id}/start"), None)?;
            connection.call("POST", &format!("/v1.41/containers/{id}/wait"), None)?;
            ids.push(id);
        }
        drop(connection);
        engine.group.calm()?;
        let full = resident(engine)?;
        let mut starts = Vec::new();
        for _ in 0..5 {
            engine.stop_engine()?;
            starts.push(ms(engine.start()?));
            engine.group.calm()?;
        }
        starts.sort_by(f64::total_cmp);
        let start = middle(&starts);
        println!("| {} | {idle:.1} | {full:.1} | {start:.0} |", engine.name());
        let mut connection = Connection::open(&engine.socket())?;
        for id in ids {
            connection.call("DELETE", &format!("/v1.41/containers/{id}"), None)?;
        }
        if engine.kind == Kind::Berth {
            verdicts.push(("berth: MB resident, idle", idle, 25.0));
            verdicts.push(("berth: ms from start to the first answer", start, 100.0));
        }
    }
    println!();
    for (what, value, target) in verdicts {
        verdict(what, value, Some(target));
    }
    Ok(())
}

/// Of the daemons, in MB.
pub(crate) fn resident(engine: &Engine) -> Outcome<f64> {
    let mut sum = 0.0;
    for pid in engine.daemon_pids() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        sum += line.split_whitespace().next().unwrap_or("0").parse::<f64>()? / 1024.0;
    }
    Ok(sum)
}
