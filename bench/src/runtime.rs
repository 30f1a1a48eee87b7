//! OCI runtimes side by side: what create + start + wait + delete of `true` takes.
//!
//! ```text
//! bench-runtime --config config.json --rootfs DIR --work DIR [--runs N] [--only WORD] NAME=PROGRAM...
//! ```
//!
//! Each round does every candidate once, in an order that rotates, so that a noisy minute hits all alike.
//! Beside wall time it takes the CPU time of *all* processes from the counter of a cgroup that the programs
//! and their containers run in (cpuacct, or cpu.stat on v2): a runtime that leaves its work to the container's
//! process or a helper gains nothing. `PROGRAM` beginning with `floor` is the C program beside this folder
//! with its own arguments and loads the configuration's filter; all others speak the OCI command line. A command that
//! does not end within ten seconds is killed and counts as failed. Two ways are measured:
//!
//! - `run`: one command,
//! - `steps`: `create`, `start`, waiting for the process, `delete`, as containerd's shim and podman do.

use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open};
use serde_json::{Value, json};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Options {
    config: PathBuf,
    rootfs: PathBuf,
    work: PathBuf,
    runs: usize,
    /// The configuration's filter, compiled, for the floor.
    filter: PathBuf,
    only: Option<String>,
    candidates: Vec<(String, String)>,
}

struct Sample {
    wall: Duration,
    cpu: Duration,
}

fn main() -> Outcome<()> {
    let mut options = options()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let group = Group::enter()?;
    let bundle = options.work.join("bundle");
    std::fs::create_dir_all(&bundle)?;
    write_config(&options, &group, &bundle)?;
    options.filter = options.work.join("filter");
    write_filter(&options)?;
    println!("| way | what | wall ms median | min-max | cpu ms, all processes | failed |");
    println!("|---|---|---|---|---|---|");
    for way in ["run", "steps"] {
        if options.only.as_deref().is_some_and(|only| only != way) {
            continue;
        }
        let candidates: Vec<_> =
            options.candidates.iter().filter(|(_, program)| way == "run" || !is_floor(program)).collect();
        let mut samples: Vec<Vec<Sample>> = candidates.iter().map(|_| Vec::new()).collect();
        let mut failed = vec![0; candidates.len()];
        // One round warms caches (pages, compiled filters) and is thrown away.
        for round in 0..=options.runs {
            for step in 0..candidates.len() {
                let index = (round + step) % candidates.len();
                let (name, program) = candidates[index];
                match measure(&options, &group, way, name, program, &bundle, round) {
                    Ok(sample) if round > 0 => samples[index].push(sample),
                    Ok(_) => {}
                    Err(error) => {
                        failed[index] += 1;
                        if failed[index] == 1 {
                            eprintln!("{name}: {error}");
                        }
                    }
                }
            }
        }
        print_table(way, &candidates, &mut samples, &failed);
    }
    Ok(())
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        config: "config.json".into(),
        rootfs: "rootfs".into(),
        work: "/tmp/berth-bench".into(),
        runs: 25,
        filter: PathBuf::new(),
        only: None,
        candidates: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--config" => options.config = value()?.into(),
            "--rootfs" => options.rootfs = value()?.into(),
            "--work" => options.work = value()?.into(),
            "--runs" => options.runs = value()?.parse()?,
            "--only" => options.only = Some(value()?),
            _ => {
                let (name, program) = word.split_once('=').ok_or(format!("{word}: not NAME=PROGRAM"))?;
                options.candidates.push((name.to_owned(), program.to_owned()));
            }
        }
    }
    Ok(options)
}

fn is_floor(program: &str) -> bool {
    program.split_whitespace().next().is_some_and(|first| first.ends_with("floor"))
}

/// The configuration with the bundle's root and our cgroup put in.
fn write_config(options: &Options, group: &Group, bundle: &Path) -> Outcome<()> {
    let mut config: Value = serde_json::from_slice(&std::fs::read(&options.config)?)?;
    config["root"] = json!({ "path": options.rootfs });
    config["linux"]["cgroupsPath"] = json!(format!("{}/box", group.path));
    std::fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
    Ok(())
}

/// As the floor reads it: `struct sock_filter` after `struct sock_filter`.
fn write_filter(options: &Options) -> Outcome<()> {
    let config = Spec::load(&options.config)?;
    let profile = config.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = berth_runtime::seccomp::compile(profile.ok_or("the configuration has no filter")?)?;
    let mut bytes = Vec::new();
    for instruction in &filter.instructions {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    Ok(std::fs::write(&options.filter, bytes)?)
}

fn measure(
    options: &Options,
    group: &Group,
    way: &str,
    name: &str,
    program: &str,
    bundle: &Path,
    round: usize,
) -> Outcome<Sample> {
    let id = format!("bench-{way}-{name}-{round}");
    let state = options.work.join(format!("state-{name}"));
    let pid_file = options.work.join("pid");
    let runtime = |words: &[&str]| {
        let mut parts = program.split_whitespace();
        let mut command = Command::new(parts.next().unwrap_or_default());
        command.args(parts).arg("--root").arg(&state).args(words);
        command
    };
    let (bundle, pid_file) = (bundle.to_string_lossy(), pid_file.to_string_lossy());
    let (cpu_before, started) = (group.cpu()?, Instant::now());
    if is_floor(program) {
        let mut parts = program.split_whitespace();
        let mut command = Command::new(parts.next().unwrap_or_default());
        command.args(parts).args(["-g", &group.path]);
        succeed(command.arg("-s").arg(&options.filter).arg(&options.rootfs).arg("/bin/true"))?;
    } else if way == "run" {
        succeed(&mut runtime(&["run", "--bundle", &bundle, &id]))?;
    } else {
        succeed(&mut runtime(&["create", "--bundle", &bundle, "--pid-file", &pid_file, &id]))?;
        let pid: i32 = std::fs::read_to_string(&*pid_file)?.trim().parse()?;
        succeed(&mut runtime(&["start", &id]))?;
        let pid = Pid::from_raw(pid).ok_or("no pid")?;
        rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
        succeed(&mut runtime(&["delete", &id]))?;
    }
    let wall = started.elapsed();
    Ok(Sample { wall, cpu: group.cpu()?.saturating_sub(cpu_before) })
}

fn succeed(command: &mut Command) -> Outcome<()> {
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn()?;
    let end = pidfd_open(Pid::from_child(&process), PidfdFlags::empty())?;
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&patience))? == 0 {
        process.kill()?;
        process.wait()?;
        return Err(format!("{command:?}: has not ended after {} s", patience.tv_sec).into());
    }
    let status = process.wait()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

fn print_table(way: &str, candidates: &[&(String, String)], samples: &mut [Vec<Sample>], failed: &[usize]) {
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mut medians = Vec::new();
    for (((name, _), samples), failed) in candidates.iter().zip(samples).zip(failed) {
        samples.sort_by_key(|sample| sample.wall);
        let mut cpu: Vec<Duration> = samples.iter().map(|sample| sample.cpu).collect();
        cpu.sort();
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
            println!("| {way} | {name} | - | - | - | {failed} |");
            continue;
        };
        let (wall, cpu) = (milliseconds(samples[samples.len() / 2].wall), milliseconds(cpu[cpu.len() / 2]));
        let (least, most) = (milliseconds(first.wall), milliseconds(last.wall));
        println!("| {way} | {name} | {wall:.1} | {least:.1}-{most:.1} | {cpu:.1} | {failed} |");
        medians.push((name.as_str(), wall, cpu));
    }
    let Some(ours) = medians.iter().find(|(name, ..)| *name == "berth") else { return };
    for peer in medians.iter().filter(|(name, ..)| *name != "berth") {
        let (wall_most, cpu_most) = targets(peer.0);
        println!(
            "{way}: berth / {}: wall {}, cpu {}",
            peer.0,
            verdict(ours.1 / peer.1, wall_most),
            verdict(ours.2 / peer.2, cpu_most)
        );
    }
}

/// What the project has set itself: our wall time and CPU time at most this part of a peer's.
fn targets(peer: &str) -> (Option<f64>, Option<f64>) {
    match peer {
        "crun" => (Some(0.5), Some(0.65)),
        "floor" => (Some(1.5), None),
        _ => (None, None),
    }
}

fn verdict(ratio: f64, most: Option<f64>) -> String {
    match most {
        Some(most) => format!("{ratio:.2} (target {most:.2}: {})", if ratio <= most { "met" } else { "MISSED" }),
        None => format!("{ratio:.2}"),
    }
}

/// The cgroup that everything measured runs below.
struct Group {
    path: String,
    counter: PathBuf,
    version_2: bool,
    directories: Vec<PathBuf>,
    homes: Vec<PathBuf>,
}

impl Group {
    /// Makes the group in every hierarchy and moves this process into it where CPU time is counted.
    fn enter() -> Outcome<Group> {
        let top = Path::new("/sys/fs/cgroup");
        let path = format!("/berth-bench-{}", std::process::id());
        let name = &path[1..];
        let version_2 = top.join("cgroup.controllers").exists();
        let mut group = Group {
            path: path.clone(),
            counter: PathBuf::new(),
            version_2,
            directories: Vec::new(),
            homes: Vec::new(),
        };
        let own = std::process::id().to_string();
        if version_2 {
            // No process may sit in an inner group that has controllers: containers go beside us.
            let directory = top.join(name);
            std::fs::create_dir_all(directory.join("self"))?;
            std::fs::write(directory.join("self/cgroup.procs"), &own)?;
            group.counter = directory.join("cpu.stat");
            group.directories.extend([directory.join("self"), directory]);
            group.homes.push(top.to_owned());
            return Ok(group);
        }
        for controller in ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"] {
            let (parent, directory) = (top.join(controller), top.join(controller).join(name));
            std::fs::create_dir_all(&directory)?;
            if controller == "cpuset" {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    std::fs::write(directory.join(file), std::fs::read(parent.join(file))?)?;
                }
            }
            if controller == "cpu" {
                // Other work on the machine, a compiler perhaps, is not what is measured.
                std::fs::write(directory.join("cpu.shares"), "262144")?;
            }
            if controller == "cpuacct" {
                group.counter = directory.join("cpuacct.usage");
            }
            if matches!(controller, "cpu" | "cpuacct") {
                std::fs::write(directory.join("cgroup.procs"), &own)?;
                group.homes.push(parent);
            }
            group.directories.push(directory);
        }
        Ok(group)
    }

    fn cpu(&self) -> Outcome<Duration> {
        let text = std::fs::read_to_string(&self.counter)?;
        if !self.version_2 {
            return Ok(Duration::from_nanos(text.trim().parse()?));
        }
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).ok_or("no usage_usec")?;
        Ok(Duration::from_micros(usage.parse()?))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let own = std::process::id().to_string();
        for home in &self.homes {
            if let Err(error) = std::fs::write(home.join("cgroup.procs"), &own) {
                eprintln!("cannot leave the cgroup: {error}");
            }
        }
        for directory in &self.directories {
            if let Err(error) = std::fs::remove_dir(directory) {
                eprintln!("cannot remove {}: {error}", directory.display());
            }
        }
    }
}
