//! A power cut at every step of a pull, a load, a removal and the making of a container: whatever the disk had then,
//! the next engine starts clean on it, and the same again works.
//!
//! `strace` stops the engine behind each call that changes names or waits for the disk; its data root is copied
//! then, three times: as a killed engine leaves it; as a power cut may, with all names but of a file's content only what
//! was synced last; and as one may where names get lost too: each folder as it was synced last. Copies that hold the same
//! are tried once.
//!
//! That it can fail is seen with `BERTH_TEST_WITHOUT=syncfs` or `folders`: such calls then count for nothing, as if the
//! engine did not make them, and load and pull fail. `files` forgets those of single files. Layers that are folders need
//! the first, images the last.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program; clippy knows only #[test] functions as tests"
)]

use berth_testkit::{Engine, Registry, wait_until};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Calls that change names, sizes or what is on the disk for good.
const CALLS: &str = "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,ftruncate,fsync,fdatasync,syncfs";

/// A folder's entries: number, and whether it is a folder itself.
type Names = BTreeMap<OsString, (u64, bool)>;

/// Everything below a folder.
#[derive(Default)]
struct Tree {
    top: u64,
    /// By path: number and, of a file, content.
    all: HashMap<PathBuf, (u64, Option<Vec<u8>>)>,
    folders: HashMap<u64, Names>,
}

impl Tree {
    fn of(top: &Path) -> Tree {
        let mut tree = Tree { top: std::fs::metadata(top).unwrap().ino(), ..Tree::default() };
        let mut todo = vec![(top.to_owned(), tree.top)];
        while let Some((folder, number)) = todo.pop() {
            let mut names = Names::new();
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                let path = entry.path();
                if meta.is_dir() {
                    todo.push((path.clone(), meta.ino()));
                }
                names.insert(entry.file_name(), (meta.ino(), meta.is_dir()));
                let content = meta.is_file().then(|| std::fs::read(&path).ok()).flatten();
                tree.all.insert(path, (meta.ino(), content));
            }
            tree.folders.insert(number, names);
        }
        tree
    }

    fn contents(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        self.all.values().filter_map(|(number, content)| Some((*number, content.clone()?)))
    }
}

/// What the disk had at one moment.
struct Moment {
    /// The call that had just been made.
    call: String,
    killed: PathBuf,
    power_cut: PathBuf,
    names_lost: PathBuf,
}

/// Follows an engine's calls and copies its data root behind each.
struct Recorder<'a> {
    engine: &'a Engine,
    strace: Child,
    log: PathBuf,
    read: usize,
    /// Content that is on the disk, by the file's number.
    synced: HashMap<u64, Vec<u8>>,
    /// Names that are on the disk, by the folder's number.
    named: HashMap<u64, Names>,
    moments: Vec<Moment>,
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn set_modified(path: &Path, time: Option<SystemTime>) {
    if let Some(time) = time {
        std::fs::File::open(path).unwrap().set_modified(time).unwrap();
    }
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
        let before = Tree::of(&engine.root().join("data"));
        let (synced, moments) = (before.contents().collect(), Vec::new());
        let recorder = Recorder { engine, strace, log, read: 0, synced, named: before.folders, moments };
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
        let now = Tree::of(&data);
        for line in &calls {
            if line.contains("syncfs(") && is_without("syncfs") {
                continue;
            } else if line.contains("syncfs(") {
                self.synced.extend(now.contents());
                self.named.extend(now.folders.clone());
            } else if line.contains("sync(") {
                // fsync(7</path>)
                let path = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path);
                match path.and_then(|path| now.all.get(Path::new(path))) {
                    Some((number, Some(content))) if is_store(path) || !is_without("files") => {
                        self.synced.insert(*number, content.clone());
                    }
                    Some((number, None)) if !is_without("folders") => {
                        if let Some(names) = now.folders.get(number) {
                            self.named.insert(*number, names.clone());
                        }
                    }
                    _ => {}
                }
            }
        }
        let folder = self.engine.root().join("moments").join(self.moments.len().to_string());
        std::fs::create_dir_all(&folder).unwrap();
        let place = |name: &str| folder.join(name);
        let moment = Moment {
            call: calls.join("; "),
            killed: place("killed"),
            power_cut: place("power-cut"),
            names_lost: place("names-lost"),
        };
        copy(&data, &moment.killed);
        copy(&data, &moment.power_cut);
        for (path, (number, content)) in &now.all {
            if content.is_some() {
                self.lose_content(&moment.power_cut.join(path.strip_prefix(&data).unwrap()), *number, content.as_ref());
            }
        }
        copy(&data, &moment.names_lost);
        self.lose_names(&now, &data, &moment.killed, &moment.names_lost);
        self.moments.push(moment);
    }

    /// Leaves of a file what is on the disk.
    fn lose_content(&self, path: &Path, number: u64, now: Option<&Vec<u8>>) {
        let on_disk = self.synced.get(&number).map_or(&[][..], Vec::as_slice);
        if now.is_none_or(|now| now != on_disk) {
            // A disk that loses content keeps the time.
            let before = modified(path);
            std::fs::write(path, on_disk).unwrap();
            set_modified(path, before);
        }
    }

    /// Makes the copy `to` what it is with each folder as it was synced last. Links and devices that are gone by now
    /// are not made again.
    fn lose_names(&self, now: &Tree, data: &Path, killed: &Path, to: &Path) {
        let places: HashMap<u64, &Path> =
            now.all.iter().map(|(path, (number, _))| (*number, path.strip_prefix(data).unwrap())).collect();
        let mut todo = vec![(PathBuf::new(), now.top)];
        while let Some((folder, number)) = todo.pop() {
            let empty = Names::new();
            let wanted = self.named.get(&number).unwrap_or(&empty);
            let before = modified(&to.join(&folder));
            for entry in std::fs::read_dir(to.join(&folder)).unwrap() {
                let entry = entry.unwrap();
                let known = now.all.get(&data.join(&folder).join(entry.file_name())).map(|(number, _)| *number);
                if wanted.get(&entry.file_name()).is_none_or(|(number, _)| Some(*number) != known) {
                    match entry.file_type().unwrap().is_dir() {
                        true => std::fs::remove_dir_all(entry.path()).unwrap(),
                        false => std::fs::remove_file(entry.path()).unwrap(),
                    }
                }
            }
            for (name, (number, is_folder)) in wanted {
                let path = folder.join(name);
                let target = to.join(&path);
                let is_there = std::fs::symlink_metadata(&target).is_ok();
                match places.get(number) {
                    // It has another name by now.
                    Some(place) if !is_there => copy(&killed.join(place), &target),
                    None if *is_folder => std::fs::create_dir(&target).unwrap(),
                    _ => {}
                }
                if *is_folder {
                    todo.push((path, *number));
                } else if places.get(number).is_none_or(|place| killed.join(place).is_file())
                    && !std::fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_symlink())
                    && (places.contains_key(number) || self.synced.contains_key(number))
                {
                    self.lose_content(&target, *number, None);
                }
            }
            set_modified(&to.join(&folder), before);
        }
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

fn is_without(sync: &str) -> bool {
    std::env::var("BERTH_TEST_WITHOUT").is_ok_and(|without| without == sync)
}

/// The store's own syncs are the library's.
fn is_store(path: Option<&str>) -> bool {
    path.is_some_and(|path| path.ends_with(".redb"))
}

fn unfinished(engine: &Engine) -> Vec<String> {
    let folders = ["layers", "snapshots"].map(|name| engine.root().join("data").join(name));
    let names = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("new-") || name.starts_with("gone-")).collect()
}

/// What is tried on a disk: `whole` uses what may be there, and takes it away; `again` makes it.
struct Trial<'a> {
    name: &'a str,
    whole: &'a dyn Fn(&Engine, &str),
    again: &'a dyn Fn(&Engine),
}

/// Starts an engine on each moment's disk: nothing half visible, all whole, and the same again works.
fn replay(engine: &mut Engine, moments: &[Moment], trial: &Trial<'_>) {
    assert!(moments.len() >= 4, "only {} moments were seen", moments.len());
    let data = engine.root().join("data");
    let mut tried = HashSet::new();
    for moment in moments {
        for disk in [&moment.killed, &moment.power_cut, &moment.names_lost] {
            // Many calls leave what another one had left.
            if !tried.insert(fingerprint(disk)) {
                continue;
            }
            let what = format!("{} after {}", disk.display(), moment.call);
            engine.kill();
            std::fs::remove_dir_all(&data).unwrap();
            copy(disk, &data);
            engine.launch();
            let checked = engine.berth(["system", "check"]);
            assert_eq!(checked.code, 0, "{what}: {checked:?}");
            (trial.whole)(engine, &what);
            wait_until("what was half done is gone", || unfinished(engine).is_empty());
            (trial.again)(engine);
            (trial.whole)(engine, &what);
        }
    }
    eprintln!("{}: {} moments, {} different disks tried", trial.name, moments.len(), tried.len());
}

/// Two folders with the same one hold the same.
fn fingerprint(top: &Path) -> u64 {
    let tree = Tree::of(top);
    let mut all: Vec<_> = tree.all.iter().map(|(path, (_, content))| (path, content)).collect();
    all.sort();
    let mut hash = DefaultHasher::new();
    for (path, content) in all {
        let meta = std::fs::symlink_metadata(path).unwrap();
        path.strip_prefix(top).unwrap().hash(&mut hash);
        (meta.mode(), meta.uid(), meta.gid(), meta.rdev(), std::fs::read_link(path).ok()).hash(&mut hash);
        content.hash(&mut hash);
    }
    hash.finish()
}

/// Runs image `name` where it is there, and removes it.
fn use_image(engine: &Engine, name: &str, what: &str) {
    if engine.docker(["images", "-q", name]).success().is_empty() {
        return;
    }
    let ran = engine.docker(["run", "--rm", name, "cat", "/word"]);
    assert_eq!(ran.stdout, "right", "{what}: {ran:?}");
    engine.docker(["rmi", name]).success();
}

/// Makes image `name` of the tiny one and a layer of its own.
fn make(engine: &Engine, name: &str) {
    let build = format!(
        "FROM tiny\nRUN mkdir -p /d/e && printf right >/word && head -c 300000 /dev/urandom >/d/e/{}",
        name.len()
    );
    engine.berth_with_input(["build", "-q", "-t", name, "-"], build.as_bytes()).success();
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
    engine.berth(["builder", "prune", "-af"]).success();
    let whole = |engine: &Engine, what: &str| use_image(engine, "one:1", what);
    let again = |engine: &Engine| drop(engine.docker(["load", "-i", &file]).success());
    let trial = Trial { name: "one:1", whole: &whole, again: &again };
    let Some(moments) = record(&engine, &["load", "-i", &file]) else { return };
    replay(&mut engine, &moments, &trial);
    again(&engine);
    let Some(moments) = record(&engine, &["rmi", "one:1"]) else { return };
    replay(&mut engine, &moments, &trial);
}

#[test]
fn a_pull_survives_a_power_cut_at_every_step() {
    let Some(registry) = Registry::plain() else { return };
    let Some(mut engine) = Engine::start("power-pull") else { return };
    let name = format!("{}/pulled:1", registry.address());
    make(&engine, &name);
    engine.docker(["push", &name]).success();
    engine.docker(["image", "prune", "-af"]).success();
    engine.berth(["builder", "prune", "-af"]).success();
    let Some(moments) = record(&engine, &["pull", "-q", &name]) else { return };
    let whole = |engine: &Engine, what: &str| use_image(engine, &name, what);
    let again = |engine: &Engine| drop(engine.docker(["pull", "-q", &name]).success());
    replay(&mut engine, &moments, &Trial { name: &name, whole: &whole, again: &again });
}

#[test]
fn a_container_that_is_made_survives_a_power_cut_at_every_step() {
    let Some(mut engine) = Engine::start("power-create") else { return };
    make(&engine, "one:1");
    let Some(moments) = record(&engine, &["create", "--name", "made", "one:1", "cat", "/word"]) else { return };
    let whole = |engine: &Engine, what: &str| {
        if engine.docker(["ps", "-aq"]).success().is_empty() {
            return;
        }
        let ran = engine.docker(["start", "-a", "made"]);
        assert_eq!(ran.stdout, "right", "{what}: {ran:?}");
        engine.docker(["rm", "made"]).success();
    };
    let again = |engine: &Engine| drop(engine.docker(["create", "--name", "made", "one:1", "cat", "/word"]).success());
    replay(&mut engine, &moments, &Trial { name: "made", whole: &whole, again: &again });
}
