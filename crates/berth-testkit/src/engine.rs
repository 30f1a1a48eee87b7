//! An engine of a test's own.

use crate::api::{Exchange, Remote, Response};
use crate::leftovers::{self, Marks};
use crate::{Client, Output, deadline, missing, programs};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A running `berthd` on scratch folders, with an image `tiny` (a static busybox) loaded.
pub struct Engine {
    root: tempfile::TempDir,
    child: Option<Child>,
    options: Vec<String>,
    variables: Vec<(String, std::ffi::OsString)>,
    bridge: String,
    cgroup_parent: String,
}

impl Engine {
    /// Starts one; `None` after saying why where containers cannot be made here.
    pub fn start(name: &str) -> Option<Engine> {
        Engine::start_with(name, &[])
    }

    /// The same with more options for `berthd`. `BERTH_TEST_STORAGE_DRIVER`, where it is set, is one for all engines.
    pub fn start_with(name: &str, options: &[&str]) -> Option<Engine> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if let Some(why) = missing() {
            eprintln!("skipped: {why}");
            return None;
        }
        let root =
            tempfile::Builder::new().prefix(&format!("berth-{name}-")).tempdir_in("/var/tmp").expect("scratch folder");
        // Unique on the host: an interface's name has at most 15 bytes.
        let mark = format!("bt{:x}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let variables = Vec::new();
        let cgroup_parent = format!("/{mark}");
        let mut engine = Engine { root, child: None, options, variables, cgroup_parent, bridge: mark };
        engine.launch();
        engine.load_tiny();
        if crate::in_machines() && !crate::guests::ready(&engine) {
            return None;
        }
        Some(engine)
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.root().join("berth.sock")
    }

    /// A folder that a test shares with its containers, at `/shared`: it reaches them while no engine is there, and in
    /// whatever they run. Its path, and the value of `-v`.
    pub fn shared(&self) -> (PathBuf, String) {
        let folder = self.root().join("shared");
        std::fs::create_dir_all(&folder).expect("scratch folder");
        let volume = format!("{}:/shared", folder.display());
        (folder, volume)
    }

    /// Interface of the default bridge.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// Below each hierarchy's mount, with a slash.
    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root().join("berthd.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the engine runs").id()
    }

    fn marks(&self) -> Marks<'_> {
        Marks { root: self.root(), bridge: &self.bridge, cgroup_parent: &self.cgroup_parent }
    }

    /// Starts `berthd` and waits for its first answer.
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.root().join("berthd.log")).expect("log file");
        let child = Command::new(programs().join("berthd"))
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--data-root")
            .arg(self.root().join("data"))
            .arg("--exec-root")
            .arg(self.root().join("run"))
            .args(["--bridge-name", &self.bridge, "--cgroup-parent", &self.cgroup_parent])
            .args(crate::in_machines().then_some("--default-runtime=vm"))
            .args(&self.options)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .args(std::env::var("BERTH_TEST_STORAGE_DRIVER").map(|driver| format!("--storage-driver={driver}")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file"))
            .stderr(log)
            .spawn()
            .expect("berthd starts");
        self.child = Some(child);
        let end = Instant::now() + deadline();
        while self.try_api("GET", "/_ping", b"").is_none_or(|response| response.status != 200) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok()).flatten();
            assert!(ended.is_none(), "berthd ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < end, "no answer from berthd\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Starts it again with a variable in its environment.
    pub fn restart_with_variable(&mut self, name: &str, value: impl Into<std::ffi::OsString>) {
        self.stop();
        self.variables.push((name.to_owned(), value.into()));
        self.launch();
    }

    /// Starts it again as another one would be: with other options for `berthd`.
    pub fn restart_with(&mut self, options: &[&str]) {
        self.stop();
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self.launch();
    }

    /// `kill -9` of the engine, at whatever it is doing.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the engine runs");
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
    }

    pub fn restart_after_kill(&mut self) {
        self.kill();
        self.launch();
    }

    /// Asks the engine to stop, and waits until it has; containers run on.
    pub fn stop(&mut self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        let signalled = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let ended = self.child.take().expect("the engine runs").wait();
        let good = ended.as_ref().is_ok_and(std::process::ExitStatus::success);
        assert!(signalled.is_ok() && good, "the engine ended badly: {ended:?}\n{}", self.log());
    }

    /// What a reboot does: every process and everything below the exec root is gone, the data root stays.
    pub fn reboot(&mut self) {
        self.kill();
        for mount in ["pids", "memory", "unified", "."] {
            let parent = Path::new("/sys/fs/cgroup").join(mount).join(self.cgroup_parent.trim_start_matches('/'));
            kill_below(&parent);
        }
        for pid in leftovers::processes(self.root()).keys() {
            kill(*pid);
        }
        crate::wait_until("every process has gone", || leftovers::processes(self.root()).is_empty());
        std::fs::remove_dir_all(self.root().join("run")).expect("the exec root can be removed");
    }

    /// The installed `docker` client against this engine.
    pub fn docker<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Output {
        self.client(Path::new("docker"), arguments, &[])
    }

    /// The same with bytes on standard input.
    pub fn docker_with_input<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>, input: &[u8]) -> Output {
        self.client(Path::new("docker"), arguments, input)
    }

    /// Our own command line against this engine.
    pub fn berth<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Output {
        self.client(&programs().join("berth"), arguments, &[])
    }

    /// The same with bytes on standard input.
    pub fn berth_with_input<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>, input: &[u8]) -> Output {
        self.client(&programs().join("berth"), arguments, input)
    }

    /// Starts `docker` and goes on.
    pub fn docker_running<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Client {
        let mut command = self.command(Path::new("docker"));
        command.args(arguments);
        Client::start(command)
    }

    /// Starts `berth` and goes on.
    pub fn berth_running<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Client {
        let mut command = self.command(&programs().join("berth"));
        command.args(arguments);
        Client::start(command)
    }

    /// Starts `docker` on a terminal of 30 rows and 100 columns.
    pub fn docker_on_terminal<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Client {
        let mut command = self.command(Path::new("docker"));
        command.args(arguments);
        Client::start_with_terminal(command, 30, 100)
    }

    /// Starts `berth` on a terminal of 30 rows and 100 columns.
    pub fn berth_on_terminal<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Client {
        let mut command = self.command(&programs().join("berth"));
        command.args(arguments);
        Client::start_with_terminal(command, 30, 100)
    }

    fn client<I: AsRef<OsStr>>(&self, program: &Path, arguments: impl IntoIterator<Item = I>, input: &[u8]) -> Output {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        // A client that ends early closes the pipe; what it did not want is not our failure.
        let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
        let output = child.wait_with_output().expect("the client ends");
        writer.join().expect("the writer does not panic");
        Output::said(shown, &output)
    }

    /// A client's command with the environment that points it here and nowhere else.
    pub fn command(&self, program: &Path) -> Command {
        let host = format!("unix://{}", self.socket().display());
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", &host)
            .env("BERTH_HOST", &host)
            .env("DOCKER_CONFIG", self.root().join("client"))
            .env("HOME", self.root());
        command
    }

    /// Its socket, for threads of their own.
    pub fn remote(&self) -> Remote {
        Remote { socket: self.socket() }
    }

    /// Processes that name its folders: the engine itself, its shims and name servers.
    pub fn processes(&self) -> usize {
        leftovers::processes(self.root()).len()
    }

    /// One request to the API; `None` where the engine is not there, or goes before it has answered.
    pub fn try_api(&self, method: &str, path: &str, body: &[u8]) -> Option<Response> {
        let headers: &[(&str, &str)] = if body.is_empty() { &[] } else { &[("Content-Type", "application/json")] };
        Exchange::begin(&self.socket(), method, path, headers, body, deadline())?.finish()
    }

    /// The same of an engine that must answer; an empty `body` is none.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: &str) -> Response {
        let response = self.try_api(method, path, body.as_bytes());
        response.unwrap_or_else(|| panic!("{method} {path}: no answer\n{}", self.log()))
    }

    /// A request whose answer is read by the caller.
    #[track_caller]
    pub fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Exchange {
        let begun = Exchange::begin(&self.socket(), method, path, headers, body, deadline());
        begun.unwrap_or_else(|| panic!("{method} {path}: no answer\n{}", self.log()))
    }

    /// `docker inspect` of a container, as JSON.
    #[track_caller]
    pub fn inspect(&self, container: &str) -> serde_json::Value {
        self.api("GET", &format!("/containers/{container}/json"), "").expect(200).json()
    }

    /// The first process of a running container, in the host's numbering; 0 where it does not run.
    #[track_caller]
    pub fn pid_of(&self, container: &str) -> i32 {
        i32::try_from(self.inspect(container)["State"]["Pid"].as_i64().expect("inspect shows a pid")).expect("a pid")
    }

    /// Waits until a container's first process has a handler for `signal`: the kernel keeps signals without one from it.
    #[track_caller]
    pub fn wait_for_handler(&self, container: &str, signal: rustix::process::Signal) {
        let file = format!("/proc/{}/status", self.pid_of(container));
        let bit = 1 << (signal.as_raw() - 1);
        crate::wait_until(&format!("{container} has a handler for {signal:?}"), || {
            // In a machine the guest's kernel knows.
            let text = match crate::in_machines() {
                true => self.docker(["exec", container, "cat", "/proc/1/status"]).stdout,
                false => std::fs::read_to_string(&file).unwrap_or_default(),
            };
            let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & bit != 0))
        });
    }

    /// `running`, `exited`, ...
    #[track_caller]
    pub fn status_of(&self, container: &str) -> String {
        self.inspect(container)["State"]["Status"].as_str().unwrap_or_default().to_owned()
    }

    /// What a file of a container's cgroup says: `controller/file` on v1, `file` on v2. `None` where this host's kind
    /// of cgroup has none ("-").
    ///
    /// In a machine memory and processes are its guest's to limit, which has v2; processors and disks are limited around it.
    pub fn cgroup(&self, container: &str, v1: &str, v2: &str) -> Option<String> {
        if crate::in_machines() && ["memory.", "pids."].iter().any(|kind| v2.starts_with(kind)) {
            let path = format!("/sys/fs/cgroup/{v2}");
            return Some(self.docker(["exec", "-u", "0", container, "cat", &path]).stdout);
        }
        let of = std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid_of(container))).unwrap_or_default();
        let group = |controller: &str| {
            of.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers.split(',').any(|one| one == controller).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let (controller, file) = v1.split_once('/').expect("controller/file");
        let path = match group(controller) {
            Some(path) => Path::new("/sys/fs/cgroup").join(controller).join(path).join(file),
            None if v2 == "-" => return None,
            None => Path::new("/sys/fs/cgroup").join(group("")?).join(v2),
        };
        Some(std::fs::read_to_string(&path).unwrap_or_else(|error| format!("{}: {error}", path.display())))
    }

    fn load_tiny(&self) {
        let path = "/images/create?fromSrc=-&repo=tiny&changes=CMD%20%5B%22%2Fbin%2Fsh%22%5D";
        let headers = [("Content-Type", "application/x-tar")];
        let answer = self.exchange("POST", path, &headers, tiny_archive()).finish().expect("an answer to the import");
        assert!(answer.status == 200 && !answer.text().contains("\"error\""), "import: {}", answer.text());
    }

    pub fn containers(&self) -> Vec<String> {
        let all = self.api("GET", "/containers/json?all=1", "").expect(200).json();
        let id = |container: &serde_json::Value| Some(container["Id"].as_str()?.to_owned());
        all.as_array().into_iter().flatten().filter_map(id).collect()
    }

    /// Removes every container and network, and waits until nothing of them is left.
    pub fn clear(&self) {
        for id in self.containers() {
            let path = format!("/containers/{id}?force=1&v=1");
            // One that is on its way out already is as good.
            self.try_api("DELETE", &path, b"");
        }
        self.api("POST", "/networks/prune", "").expect(200);
        let end = Instant::now() + deadline();
        loop {
            let left = leftovers::of_containers(&self.marks());
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left behind: {left:#?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// `kill -9`.
pub fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may have ended just now.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
}

/// Whose child a process is: of a container's first process it is the shim.
pub fn parent_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("the kernel tells it");
    parent.trim().parse().expect("a pid")
}

fn kill_below(cgroup: &Path) {
    let mut folders = vec![cgroup.to_owned()];
    while let Some(folder) = folders.pop() {
        let processes = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        processes.lines().filter_map(|line| line.parse().ok()).for_each(kill);
        let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
}

/// A root filesystem of one static program as a tar file; made once per test program.
pub fn tiny_archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("berth-tiny-").tempdir_in("/var/tmp").expect("scratch folder");
        let rootfs = folder.path();
        for name in ["bin", "etc", "tmp", "root", "var"] {
            std::fs::create_dir_all(rootfs.join(name)).expect("scratch folder");
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox is readable");
        let applets = Command::new("/bin/busybox").arg("--list").output().expect("busybox runs").stdout;
        for applet in String::from_utf8_lossy(&applets).lines().filter(|name| *name != "busybox") {
            symlink("busybox", rootfs.join("bin").join(applet)).expect("scratch folder");
        }
        std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
            .expect("scratch folder");
        std::fs::write(rootfs.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").expect("scratch folder");
        let archive = Command::new("tar").arg("-C").arg(rootfs).args(["-cf", "-", "."]).output().expect("tar runs");
        assert!(archive.status.success(), "tar: {}", String::from_utf8_lossy(&archive.stderr));
        archive.stdout
    })
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("engine log:\n{}", self.log());
            self.abandon();
            if std::env::var_os("BERTH_KEEP").is_some() {
                self.root.disable_cleanup(true);
                eprintln!("kept: {}", self.root().display());
            }
            return;
        }
        if self.child.is_none() {
            self.launch();
        }
        self.clear();
        self.stop();
        // Interfaces and shims that were made ahead go with the engine, a moment later.
        let end = Instant::now() + deadline();
        loop {
            let left = leftovers::of_engine(&self.marks());
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "left behind: {left:#?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        leftovers::take_away(&self.marks()).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Engine {
    /// Of a test that has failed: as much as can be had, without a further word.
    fn abandon(&mut self) {
        if self.child.is_some() {
            for id in self.try_containers() {
                self.try_api("DELETE", &format!("/containers/{id}?force=1&v=1"), b"");
            }
        }
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        for mount in ["pids", "memory", "unified", "."] {
            kill_below(&Path::new("/sys/fs/cgroup").join(mount).join(self.cgroup_parent.trim_start_matches('/')));
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while leftovers::take_away(&self.marks()).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_containers(&self) -> Vec<String> {
        let all = self.try_api("GET", "/containers/json?all=1", b"").map(|answer| answer.json()).unwrap_or_default();
        let id = |container: &serde_json::Value| Some(container["Id"].as_str()?.to_owned());
        all.as_array().into_iter().flatten().filter_map(id).collect()
    }
}
