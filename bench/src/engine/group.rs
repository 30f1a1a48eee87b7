//! The cgroup in which an engine's CPU time is counted: client, daemon, helpers, containers.
//!
//! On v1 only the cpuacct hierarchy is used; containers come below it by the engine's `--cgroup-parent`. On v2 no
//! process may sit in an inner group that has controllers: daemon and clients are in `self` beside the containers.

use crate::Outcome;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TOP: &str = "/sys/fs/cgroup";
const CALM_MAX: Duration = Duration::from_secs(3);

pub(crate) struct Group {
    /// As engines take it for their containers' parent.
    pub(crate) path: String,
    processes: PathBuf,
    counter: PathBuf,
}

impl Group {
    pub(crate) fn make(engine: &str) -> Outcome<Group> {
        let path = format!("/bench-{engine}");
        let top = Path::new(TOP);
        if top.join("cgroup.controllers").exists() {
            let directory = top.join(&path[1..]);
            std::fs::create_dir_all(directory.join("self"))?;
            return Ok(Group {
                path,
                processes: directory.join("self/cgroup.procs"),
                counter: directory.join("cpu.stat"),
            });
        }
        let directory = top.join("cpuacct").join(&path[1..]);
        std::fs::create_dir_all(&directory)?;
        Ok(Group { path, processes: directory.join("cgroup.procs"), counter: directory.join("cpuacct.usage") })
    }

    /// Moves this process: what it starts from now on is counted.
    pub(crate) fn enter(&self) -> Outcome<()> {
        Ok(std::fs::write(&self.processes, std::process::id().to_string())?)
    }

    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        let text = std::fs::read_to_string(&self.counter)?;
        if let Ok(nanos) = text.trim().parse() {
            return Ok(Duration::from_nanos(nanos));
        }
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).ok_or("no usage_usec")?;
        Ok(Duration::from_micros(usage.parse()?))
    }

    /// Waits until the engine has nothing left to do: less than 1 % of a core for 40 ms.
    pub(crate) fn calm(&self) -> Outcome<()> {
        let (begin, step) = (Instant::now(), Duration::from_millis(40));
        let mut before = self.cpu()?;
        while begin.elapsed() < CALM_MAX {
            std::thread::sleep(step);
            let now = self.cpu()?;
            if now.saturating_sub(before) < step / 100 {
                break;
            }
            before = now;
        }
        Ok(())
    }
}
