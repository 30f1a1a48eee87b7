//! A power cut at every step of a pull, a load and a removal: whatever the disk had then, the next engine starts
//! clean on it, and the same again works.
//!
//! `strace` stops the engine behind each call that changes names or waits for the disk; its data root is copied
//! then, twice: as a killed engine leaves it, and as a power cut may: names are there (the file systems we stand on
//! journal them in order), but of a file's content only what was synced last. Not every copy is tried, so that the
//! test stays quick; `BERTH_TEST_EVERY_PREFIX=1` tries all.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program; clippy knows only #[test] functions as tests"
)]

use berth_testkit::{Engine, Registry, wait_until};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Calls that change names, sizes or what is on the disk for good.
const CALLS: &str = "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,ftruncate,fsync,fdatasync,syncfs";
/// Copies of one kind tried in one flow, if not all are.
const TRIED: usize = 5;

/// Everything below a folder, by path: a file's number and content, or nothing for what is no file.
type Tree = HashMap<PathBuf, Option<(u64, Vec<u8>)>>;

fn tree(top: &Path) -> Tree {
    let mut all = Tree::new();
    let mut todo = vec![top.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let path = entry.path();
            if meta.is_dir() {
                todo.push(path.clone());
            }
            let content = meta.is_file().then(|| std::fs::read(&path).map(|bytes| (meta.ino(), bytes)).ok()).flatten();
            all.insert(path, content);
        }
    }
    all
}

/// What the disk had at one moment.
struct Moment {
    /// The call that had just been made.
    call: String,
    killed: PathBuf,
    power_cut: PathBuf,
}

/// Follows an engine's calls and copies its data root behind each.
struct Recorder<'a> {
    engine: &'a Engine,
    strace: Child,
    log: PathBuf,
    read: usize,
    /// Content that is on the disk, by the file's number.
    synced: HashMap<u64, Vec<u8>>,
    moments: Vec<Moment>,
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

impl<'a> Recorder<'a> {
    fn start(engine: &'a Engine) -> Option<Recorder<'a>> {
        let log = engine.root().join("strace.log");
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-y", "-s", "0", "-e", &format!("trace={CALLS}")])
            .args(["-e", &format!("inject={CALLS}:signal=SIGSTOP"), "-p", &engine.pid().to_string(), "-o"])
            .arg(&log)
            .stderr(Stdio::null())
            .spawn();
        let Ok(strace) = strace else {
            eprintln!("skipped: needs strace");
            return None;
        };
        let files = tree(&engine.root().join("data")).into_values().flatten();
        let recorder = Recorder { engine, strace, log, read: 0, synced: files.collect(), moments: Vec::new() };
        let traced = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
            status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
        };
        wait_until("strace follows the engine", traced);
        Some(recorder)
    }

    /// Every thread stands still.
    fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.engine.pid())).unwrap();
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['t', 'T']))
        })
    }

    /// Copies after each call until `ended`.
    fn follow(&mut self, mut ended: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut still = 0;
        loop {
            still = if self.is_stopped() { still + 1 } else { 0 };
            // Between two calls a thread that is followed stands still for a moment too.
            if still >= 3 {
                self.moment();
                still = 0;
                let pid = rustix::process::Pid::from_raw(i32::try_from(self.engine.pid()).unwrap()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
            } else if ended() {
                return;
            }
            assert!(Instant::now() < deadline, "the engine never came to an end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn moment(&mut self) {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let end = log.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let lines = String::from_utf8_lossy(&log[self.read.min(end)..end]).into_owned();
        self.read = end;
        let calls: Vec<&str> = lines.lines().filter(|line| line.contains('(') || line.contains("resumed")).collect();
        if calls.is_empty() {
            return;
        }
        let data = self.engine.root().join("data");
        let now = tree(&data);
        for line in &calls {
            if line.contains("syncfs(") {
                self.synced.extend(now.values().flatten().cloned());
            } else if line.contains("sync(") {
                // fsync(7</path>)
                let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path);
                if let Some(Some((number, content))) = path.and_then(|path| now.get(Path::new(path))) {
                    self.synced.insert(*number, content.clone());
                }
            }
        }
        let folder = self.engine.root().join("moments").join(self.moments.len().to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let moment =
            Moment { call: calls.join("; "), killed: folder.join("killed"), power_cut: folder.join("power-cut") };
        copy(&data, &moment.killed);
        copy(&data, &moment.power_cut);
        for (path, file) in &now {
            let Some((number, content)) = file else { continue };
            let on_disk = self.synced.get(number).map_or(&[][..], Vec::as_slice);
            if content != on_disk {
                std::fs::write(moment.power_cut.join(path.strip_prefix(&data).unwrap()), on_disk).unwrap();
            }
        }
        self.moments.push(moment);
    }

    fn finish(mut self) -> Vec<Moment> {
        let strace = rustix::process::Pid::from_raw(i32::try_from(self.strace.id()).unwrap()).unwrap();
        rustix::process::kill_process(strace, rustix::process::Signal::TERM).unwrap();
        // What is still stopped on the way is let go.
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.strace.try_wait().unwrap().is_none() && Instant::now() < deadline {
            let engine = rustix::process::Pid::from_raw(i32::try_from(self.engine.pid()).unwrap()).unwrap();
            rustix::process::kill_process(engine, rustix::process::Signal::CONT).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        std::mem::take(&mut self.moments)
    }
}

/// A few of many, the first and the last among them, or all.
fn chosen(moments: &[Moment]) -> Vec<&Moment> {
    if std::env::var_os("BERTH_TEST_EVERY_PREFIX").is_some() || moments.len() <= TRIED {
        return moments.iter().collect();
    }
    // Others each time, so that all are tried in the long run.
    let shift = std::process::id() as usize;
    let part = moments.len() / TRIED;
    (0..TRIED).map(|number| &moments[number * part + shift % part]).collect()
}

fn unfinished(engine: &Engine) -> Vec<String> {
    let folders = ["layers", "snapshots"].map(|name| engine.root().join("data").join(name));
    let names = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("new-") || name.starts_with("gone-")).collect()
}

/// Starts an engine on each moment's disk: nothing half visible, all whole, and `again` makes the image run.
fn replay(engine: &mut Engine, moments: &[Moment], image: &str, again: &dyn Fn(&Engine)) {
    assert!(moments.len() >= 4, "only {} moments were seen", moments.len());
    eprintln!("{image}: {} moments", moments.len());
    let data = engine.root().join("data");
    for moment in chosen(moments) {
        for disk in [&moment.killed, &moment.power_cut] {
            let what = format!("{} after {}", disk.display(), moment.call);
            engine.kill();
            std::fs::remove_dir_all(&data).unwrap();
            copy(disk, &data);
            engine.launch();
            let checked = engine.berth(["system", "check"]);
            assert_eq!(checked.code, 0, "{what}: {checked:?}");
            if !engine.docker(["images", "-q", image]).success().is_empty() {
                let ran = engine.docker(["run", "--rm", image, "cat", "/word"]);
                assert_eq!(ran.stdout, "right", "{what}: {ran:?}");
                engine.docker(["rmi", image]).success();
            }
            wait_until("what was half done is gone", || unfinished(engine).is_empty());
            again(engine);
            let ran = engine.docker(["run", "--rm", image, "cat", "/word"]);
            assert_eq!(ran.stdout, "right", "{what}: {ran:?}");
        }
    }
}

/// Makes image `name` of the tiny one and a layer of its own.
fn make(engine: &Engine, name: &str) {
    let build = format!(
        "FROM tiny\nRUN mkdir -p /d/e && printf right >/word && head -c 300000 /dev/urandom >/d/e/{}",
        name.len()
    );
    engine.docker_with_input(["build", "-q", "-t", name, "-"], build.as_bytes()).success();
}

/// Records what `arguments` make the engine do.
fn record(engine: &Engine, arguments: &[&str]) -> Option<Vec<Moment>> {
    std::fs::remove_dir_all(engine.root().join("moments")).ok();
    let mut recorder = Recorder::start(engine)?;
    let mut client = engine.docker_running(arguments);
    recorder.follow(|| !client.runs());
    let moments = recorder.finish();
    client.wait().success();
    Some(moments)
}

#[test]
fn a_load_and_a_removal_survive_a_power_cut_at_every_step() {
    let Some(mut engine) = Engine::start("power-load") else { return };
    make(&engine, "one:1");
    let archive = engine.root().join("one.tar");
    let file = archive.to_str().unwrap().to_owned();
    engine.docker(["save", "-o", &file, "one:1"]).success();
    engine.docker(["image", "prune", "-af"]).success();
    engine.docker(["builder", "prune", "-af"]).success();
    let again = |engine: &Engine| drop(engine.docker(["load", "-i", &file]).success());
    let Some(moments) = record(&engine, &["load", "-i", &file]) else { return };
    replay(&mut engine, &moments, "one:1", &again);
    let Some(moments) = record(&engine, &["rmi", "one:1"]) else { return };
    replay(&mut engine, &moments, "one:1", &again);
}

#[test]
fn a_pull_survives_a_power_cut_at_every_step() {
    let Some(registry) = Registry::plain() else { return };
    let Some(mut engine) = Engine::start("power-pull") else { return };
    let name = format!("{}/pulled:1", registry.address());
    make(&engine, &name);
    engine.docker(["push", &name]).success();
    engine.docker(["image", "prune", "-af"]).success();
    engine.docker(["builder", "prune", "-af"]).success();
    let Some(moments) = record(&engine, &["pull", "-q", &name]) else { return };
    let again = |engine: &Engine| drop(engine.docker(["pull", "-q", &name]).success());
    replay(&mut engine, &moments, &name, &again);
}
