//! On the real kernel, in a parent of their own; skipped aloud without root.

use super::*;
use crate::{Access, CpuLimits, DeviceKind, DeviceRule, HugetlbLimit, MemoryLimits, Version, default_rules};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PARENT: &str = "/berth-cgroup-tests";

fn host() -> Option<Hierarchy> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    Hierarchy::detect().ok()
}

/// A cgroup that removes itself and its processes.
struct Own(Option<Cgroup>);

impl Own {
    fn new(host: &Hierarchy, limits: &Limits) -> Own {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = format!("{PARENT}/{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Own(Some(Cgroup::create(host, &path, limits).unwrap()))
    }

    fn get(&mut self) -> &mut Cgroup {
        self.0.as_mut().unwrap()
    }

    /// A shell inside; it is put there by its own hand as a container's first process is.
    fn run(&mut self, script: &str) -> Child {
        let mut join = String::new();
        for folder in &self.get().v1 {
            join += &format!("echo 0 >{}/tasks; ", folder.dir.display());
        }
        if let Some(dir) = &self.get().v2 {
            join += &format!("echo 0 >{}/cgroup.procs; ", dir.display());
        }
        Command::new("sh").arg("-c").arg(format!("{join}{script}")).spawn().unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0.take() {
            cgroup.kill_all(9).unwrap();
            cgroup.remove().unwrap();
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn limits_are_in_the_kernels_files() {
    let Some(host) = host() else { return };
    let limits = Limits {
        memory: MemoryLimits { limit_bytes: Some(64 << 20), swap_bytes: Some(128 << 20), ..Default::default() },
        cpu: CpuLimits {
            quota_micros: Some(50_000),
            period_micros: Some(100_000),
            shares: Some(512),
            ..Default::default()
        },
        pids_max: Some(77),
        devices: Some(default_rules()),
        ..Limits::default()
    };
    let mut own = Own::new(&host, &limits);
    let stats = own.get().stats();
    assert_eq!(stats.memory_limit_bytes, Some(64 << 20));
    assert_eq!(stats.pids_limit, Some(77));
    let cpu = own.get().folder(Controller::Cpu).unwrap().to_owned();
    match host.version() {
        Version::V2 => assert_eq!(files::read(&cpu, "cpu.max").unwrap().trim(), "50000 100000"),
        _ => assert_eq!(files::read_number(&cpu, "cpu.cfs_quota_us"), Some(50_000)),
    }
    let more = Limits {
        memory: MemoryLimits { limit_bytes: Some(256 << 20), swap_bytes: Some(512 << 20), ..Default::default() },
        pids_max: Some(-1),
        ..Limits::default()
    };
    own.get().update(&more).unwrap();
    let stats = own.get().stats();
    assert_eq!((stats.memory_limit_bytes, stats.pids_limit), (Some(256 << 20), None));
    let less = Limits {
        memory: MemoryLimits { limit_bytes: Some(32 << 20), swap_bytes: Some(32 << 20), ..Default::default() },
        ..Limits::default()
    };
    own.get().update(&less).unwrap();
    assert_eq!(own.get().stats().memory_limit_bytes, Some(32 << 20));
}

#[test]
fn a_process_enters_by_its_own_hand_and_is_found_again() {
    let Some(host) = host() else { return };
    let mut own = Own::new(&host, &Limits::default());
    let mut child = own.run("exec sleep 100");
    let path = own.get().path().to_owned();
    until("the process", || own.get().pids().unwrap() == [child.id() as i32]);
    let again = Cgroup::open(&host, &path).unwrap();
    assert_eq!(again.pids().unwrap(), [child.id() as i32]);
    until("its memory", || again.stats().memory_usage_bytes > 0);
    again.kill_all(9).unwrap();
    child.wait().unwrap();
    assert!(Cgroup::open(&host, "/berth-cgroup-tests/nobody").is_err());
}

#[test]
fn frozen_processes_stand_still_and_can_be_killed() {
    let Some(host) = host() else { return };
    let mut own = Own::new(&host, &Limits::default());
    let mut child = own.run("while :; do :; done");
    until("work", || own.get().stats().cpu_total_nanos > 0);
    own.get().freeze(Duration::from_secs(5)).unwrap();
    assert!(own.get().is_frozen().unwrap());
    let before = own.get().stats().cpu_total_nanos;
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(own.get().stats().cpu_total_nanos, before);
    own.get().thaw().unwrap();
    until("more work", || own.get().stats().cpu_total_nanos > before);
    own.get().freeze(Duration::from_secs(5)).unwrap();
    own.get().kill_all(9).unwrap();
    child.wait().unwrap();
}

#[test]
fn everybody_is_killed_also_below_and_the_tree_goes() {
    let Some(host) = host() else { return };
    let mut own = Own::new(&host, &Limits::default());
    let below = own.get().any_folder().join("below/deeper");
    std::fs::create_dir_all(&below).unwrap();
    let mut children = vec![own.run("sleep 100 & sleep 100 & wait"), own.run("exec sleep 100")];
    children.push(
        Command::new("sh")
            .arg("-c")
            .arg(format!("echo 0 >{}/cgroup.procs; exec sleep 100", below.display()))
            .spawn()
            .unwrap(),
    );
    until("all processes", || own.get().pids().unwrap().len() == 5);
    own.get().kill_all(9).unwrap();
    for child in &mut children {
        child.wait().unwrap();
    }
    let path = own.get().path().to_owned();
    own.0.take().unwrap().remove().unwrap();
    assert!(Cgroup::open(&host, &path).is_err());
}

#[test]
fn running_out_of_memory_is_told_and_counted() {
    let Some(host) = host() else { return };
    let limits = Limits {
        memory: MemoryLimits { limit_bytes: Some(8 << 20), swap_bytes: Some(8 << 20), ..Default::default() },
        ..Limits::default()
    };
    let mut own = Own::new(&host, &limits);
    let events = own.get().oom_events().unwrap().unwrap();
    let mut child = own.run("exec tail /dev/zero");
    child.wait().unwrap();
    until("the count", || own.get().oom_kills() > 0);
    let ready = rustix::event::poll(
        &mut [rustix::event::PollFd::new(&events, rustix::event::PollFlags::IN)],
        Some(&rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 }),
    );
    assert_eq!(ready, Ok(1));
    events.clear().unwrap();
    let facts = own.get().exit_facts();
    assert_eq!(facts.memory_limit_bytes, Some(8 << 20));
    assert!(facts.oom_kills > 0 && facts.memory_peak_bytes.is_none_or(|peak| peak > 1 << 20), "{facts:?}");
}

#[test]
fn devices_are_refused_and_rules_change_while_it_runs() {
    let Some(host) = host() else { return };
    let mut rules = default_rules();
    let limits = Limits { devices: Some(rules.clone()), ..Limits::default() };
    let mut own = Own::new(&host, &limits);
    // kmsg: always there, not among the defaults.
    let try_open = "exec 3</dev/null && if (exec 3</dev/kmsg) 2>/dev/null; then exit 7; else exit 8; fi";
    let run = |own: &mut Own| own.run(try_open).wait().unwrap().code();
    assert_eq!(run(&mut own), Some(8));
    rules.push(DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(11),
        access: Access::parse("r"),
    });
    own.get().update(&Limits { devices: Some(rules), ..Limits::default() }).unwrap();
    assert_eq!(run(&mut own), Some(7));
    own.get().update(&Limits { devices: Some(default_rules()), ..Limits::default() }).unwrap();
    assert_eq!(run(&mut own), Some(8));
}

#[test]
fn processors_can_be_chosen_while_it_runs() {
    let Some(host) = host() else { return };
    if !host.has(Controller::Cpuset) {
        println!("skipped: this host has no cpuset");
        return;
    }
    let mut own = Own::new(&host, &Limits::default());
    let mut child = own.run("exec sleep 100");
    until("the process", || own.get().pids().unwrap().len() == 1);
    let only = Limits { cpu: CpuLimits { cpus: Some("0".into()), ..Default::default() }, ..Limits::default() };
    own.get().update(&only).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.lines().any(|line| line == "Cpus_allowed_list:\t0"), "{status}");
    let dir = own.get().folder(Controller::Cpuset).unwrap().to_owned();
    assert_eq!(files::read(&dir, "cpuset.cpus").unwrap().trim(), "0");
    let wrong = Limits { cpu: CpuLimits { cpus: Some("999".into()), ..Default::default() }, ..Limits::default() };
    let error = own.get().update(&wrong).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_limit_that_the_host_does_not_know_is_a_warning() {
    let Some(host) = host() else { return };
    if host.has(Controller::Hugetlb) {
        println!("skipped: this host has hugetlb");
        return;
    }
    let limits =
        Limits { hugetlb: vec![HugetlbLimit { page_size: "2MB".into(), limit_bytes: 0 }], ..Limits::default() };
    let mut own = Own::new(&host, &limits);
    assert_eq!(own.get().warnings().len(), 1, "{:?}", own.get().warnings());
}

#[test]
fn what_was_made_is_taken_back_when_a_limit_is_refused() {
    let Some(host) = host() else { return };
    let limits = Limits {
        cpu: CpuLimits { cpus: Some("999".into()), ..Default::default() },
        pids_max: Some(5),
        ..Limits::default()
    };
    let path = format!("{PARENT}/refused-{}", std::process::id());
    assert!(Cgroup::create(&host, &path, &limits).is_err());
    assert!(Cgroup::open(&host, &path).is_err());
}

#[test]
fn paths_stay_inside() {
    for path in ["", "/", "relative", "/a/../b", "/a//b", "/a/.", "/a\n"] {
        assert!(check_path(path).is_err(), "{path:?}");
    }
    assert!(check_path("/berth/0123abc").is_ok());
}

#[test]
#[ignore = "a measurement, not a claim"]
fn cost() {
    let Some(host) = host() else { return };
    const ROUNDS: u32 = 300;
    let limits = Limits { devices: Some(default_rules()), ..Limits::default() };
    let mut spent = [Duration::ZERO; 4];
    for round in 0..ROUNDS {
        let at = Instant::now();
        let cgroup = Cgroup::create(&host, &format!("{PARENT}/cost-{round}"), &limits).unwrap();
        spent[0] += at.elapsed();
        let at = Instant::now();
        let entry = cgroup.entry().unwrap();
        spent[1] += at.elapsed();
        let at = Instant::now();
        drop(entry);
        let _events = cgroup.oom_events().unwrap();
        spent[2] += at.elapsed();
        let at = Instant::now();
        cgroup.remove().unwrap();
        spent[3] += at.elapsed();
    }
    for (name, spent) in ["create", "entry", "oom events", "remove"].iter().zip(spent) {
        println!("{name}: {:?}", spent / ROUNDS);
    }
    for (mount, on) in &host.v1 {
        let dir = mount.join("berth-cgroup-tests/one");
        let at = Instant::now();
        for _ in 0..ROUNDS {
            std::fs::create_dir(&dir).unwrap();
            std::fs::remove_dir(&dir).unwrap();
        }
        println!("{on:?}: mkdir + rmdir {:?}", at.elapsed() / ROUNDS);
    }
}
