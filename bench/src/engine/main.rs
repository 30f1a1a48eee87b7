//! Engines side by side: what a container's life takes of time, CPU and memory.
//!
//! ```text
//! bench-engine --programs DIR --work DIR [--data DIR] [--runs N] [--idle N] [--lives N] [--only WORD,...] [--engines NAME,...]
//!
//!  main      the order of things, medians, ratios
//!  engines   starting docker, podman and berth, each in cgroups of its own; their command lines
//!  http      the least of an HTTP client over a Unix socket
//!  group     the cgroup in which an engine's CPU time is counted
//!  cycle     one container's life: by API, by command line, exec, to the first HTTP answer, many clients
//!  projects  a project of ten services through Compose
//!  parallel  fifty clients by the API
//!  lives     ten thousand containers, one after the other: what stays behind (only with --only lives)
//!  meters    a thousand running ones: their statistics (only with --only meters)
//!  idle      many idle containers: start, memory, list, stop, remove; an engine's own size and start
//! ```
//!
//! Each round does every engine once, in an order that rotates, so that a noisy minute hits all alike. CPU time is
//! that of *all* processes - client, engine, helpers, containers - and is read once the engine has calmed down:
//! work put off behind the answer counts. Run by `bench/engine.sh` in a world made by `bench/peers.sh`.

mod cycle;
mod engines;
mod group;
mod http;
mod idle;
mod lives;
mod meters;
mod parallel;
mod projects;

use engines::{Engine, Kind};
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

pub(crate) struct Options {
    programs: PathBuf,
    work: PathBuf,
    /// What berth stores; the others have theirs where they always have.
    data: PathBuf,
    runs: usize,
    idle: usize,
    lives: usize,
    only: Vec<String>,
    engines: Vec<Kind>,
}

impl Options {
    fn wants(&self, word: &str) -> bool {
        self.only.is_empty() || self.asks(word)
    }

    /// What takes so long that it has to be named.
    fn asks(&self, word: &str) -> bool {
        self.only.iter().any(|only| only == word)
    }
}

fn main() -> Outcome<()> {
    let options = options()?;
    std::fs::create_dir_all(&options.work)?;
    let image = engines::image(&options.work)?;
    let mut engines = Vec::new();
    for kind in &options.engines {
        let mut engine = Engine::new(*kind, &options)?;
        engine.start()?;
        engine.import(&image)?;
        engines.push(engine);
    }
    for (word, title, measure) in cycle::MEASURES.iter().chain(projects::MEASURES) {
        if options.wants(word) {
            interleaved(&options, &mut engines, title, *measure)?;
        }
    }
    if options.wants("clients") {
        cycle::clients(&options, &mut engines)?;
    }
    if options.wants("parallel") {
        parallel::parallel(&options, &mut engines)?;
    }
    if options.asks("lives") {
        lives::lives(&options, &mut engines)?;
    }
    if options.asks("meters") {
        meters::meters(&mut engines)?;
    }
    if options.wants("idle") {
        idle::idle(&options, &mut engines)?;
    }
    if options.wants("engine") {
        idle::engine_itself(&options, &mut engines)?;
    }
    for engine in &mut engines {
        engine.stop()?;
    }
    Ok(())
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        programs: "target/release".into(),
        work: "/tmp/bench-engine".into(),
        data: "/var/lib/berth".into(),
        runs: 15,
        idle: 200,
        lives: 10_000,
        only: Vec::new(),
        engines: vec![Kind::Docker, Kind::Podman, Kind::Berth],
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--programs" => options.programs = value()?.into(),
            "--work" => options.work = value()?.into(),
            "--data" => options.data = value()?.into(),
            "--runs" => options.runs = value()?.parse()?,
            "--idle" => options.idle = value()?.parse()?,
            "--lives" => options.lives = value()?.parse()?,
            "--only" => options.only = value()?.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            "--engines" => options.engines = value()?.split(',').map(Kind::named).collect::<Outcome<_>>()?,
            _ => return Err(format!("{word}: unknown option").into()),
        }
    }
    Ok(options)
}

/// What one round gives: named times, the first of which is the one that is compared.
pub(crate) type Times = Vec<(&'static str, Duration)>;
pub(crate) type Measure = fn(&mut Engine, usize) -> Outcome<Option<Times>>;

/// A comparison that the project has set itself.
pub(crate) struct Title {
    pub(crate) text: &'static str,
    /// berth / docker at most.
    pub(crate) target: Option<f64>,
}

fn interleaved(options: &Options, engines: &mut [Engine], title: &Title, measure: Measure) -> Outcome<()> {
    println!("\n## {} (n={}, interleaved)\n", title.text, options.runs);
    println!("| engine | wall ms median | min-max | cpu ms, all processes | parts, ms | failed |");
    println!("|---|---|---|---|---|---|");
    let mut walls: Vec<Vec<Times>> = engines.iter().map(|_| Vec::new()).collect();
    let mut cpus: Vec<Vec<Duration>> = engines.iter().map(|_| Vec::new()).collect();
    let mut failed = vec![0; engines.len()];
    let count = engines.len();
    // The first round warms caches and is thrown away.
    for round in 0..=options.runs {
        for step in 0..count {
            let index = (round + step) % count;
            let engine = &mut engines[index];
            engine.group.calm()?;
            engine.group.enter()?;
            let before = engine.group.cpu()?;
            let times = measure(engine, round);
            engine.group.calm()?;
            let cpu = engine.group.cpu()?.saturating_sub(before);
            match times {
                Ok(Some(times)) if round > 0 => {
                    walls[index].push(times);
                    cpus[index].push(cpu);
                }
                Ok(_) => {}
                Err(error) => {
                    failed[index] += 1;
                    if failed[index] == 1 {
                        eprintln!("{}: {error}", engine.name());
                    }
                }
            }
        }
    }
    let mut medians = Vec::new();
    for (index, engine) in engines.iter().enumerate() {
        let Some(example) = walls[index].first() else { continue };
        let column = |at: usize| {
            let mut column: Vec<f64> = walls[index].iter().map(|times| ms(times[at].1)).collect();
            column.sort_by(f64::total_cmp);
            column
        };
        let parts: Vec<String> =
            (1..example.len()).map(|at| format!("{} {:.1}", example[at].0, middle(&column(at)))).collect();
        let wall = column(0);
        let mut cpu: Vec<f64> = cpus[index].iter().map(|cpu| ms(*cpu)).collect();
        cpu.sort_by(f64::total_cmp);
        println!(
            "| {} | {:.1} | {:.1}-{:.1} | {:.1} | {} | {} |",
            engine.name(),
            middle(&wall),
            wall[0],
            wall[wall.len() - 1],
            middle(&cpu),
            parts.join(", "),
            failed[index]
        );
        medians.push((engine.kind, middle(&wall), middle(&cpu)));
    }
    let ours = medians.iter().find(|(kind, ..)| *kind == Kind::Berth);
    for (kind, wall, cpu) in medians.iter().filter(|(kind, ..)| *kind != Kind::Berth) {
        if let Some((_, our_wall, our_cpu)) = ours {
            let target = title.target.filter(|_| *kind == Kind::Docker);
            verdict(&format!("berth / {} wall", kind.name()), our_wall / wall, target);
            verdict(&format!("berth / {} cpu", kind.name()), our_cpu / cpu, None);
        }
    }
    Ok(())
}

/// `target`: at most.
pub(crate) fn verdict(what: &str, value: f64, target: Option<f64>) {
    match target {
        Some(target) => {
            let word = if value <= target { "met" } else { "MISSED" };
            println!("{what}: {value:.3} (target {target:.3}: {word})");
        }
        None => println!("{what}: {value:.3}"),
    }
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Of a sorted list.
pub(crate) fn middle(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
