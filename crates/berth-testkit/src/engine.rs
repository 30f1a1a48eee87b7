//! An engine of a test's own.

use crate::{Output, leftovers, missing, programs};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running `berthd` on scratch folders, with an image `tiny` (a static busybox) loaded.
pub struct Engine {
    root: tempfile::TempDir,
    child: Option<Child>,
    /// Of every launch, behind the usual ones.
    arguments: Vec<String>,
    /// Every container id ever seen, to look for their cgroups at the end.
    seen: std::cell::RefCell<Vec<String>>,
}

impl Engine {
    /// Starts one; `None` after saying why where containers cannot be made here.
    pub fn start(name: &str) -> Option<Engine> {
        Engine::start_with(name, &[])
    }

    /// The same with more arguments for `berthd`.
    pub fn start_with(name: &str, arguments: &[&str]) -> Option<Engine> {
        if let Some(why) = missing() {
            eprintln!("skipped: {why}");
            return None;
        }
        let root =
            tempfile::Builder::new().prefix(&format!("berth-{name}-")).tempdir_in("/var/tmp").expect("scratch folder");
        let mut engine = Engine {
            root,
            child: None,
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
            seen: Default::default(),
        };
        engine.launch();
        engine.load_tiny();
        Some(engine)
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.root().join("berth.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root().join("berthd.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the engine runs").id()
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
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file"))
            .stderr(log)
            .spawn()
            .expect("berthd starts");
        self.child = Some(child);
        let mut last = String::new();
        let deadline = std::time::Instant::now() + crate::DEADLINE;
        loop {
            let output = self.docker(["version", "--format", "{{.Server.Version}}"]);
            if output.code == 0 {
                return;
            }
            last.clone_from(&output.stderr);
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok()).flatten();
            assert!(ended.is_none(), "berthd ended: {ended:?}\n{}", self.log());
            assert!(std::time::Instant::now() < deadline, "no answer: {last}\n{}", self.log());
        }
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
        Output {
            command: shown,
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
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

    fn load_tiny(&self) {
        let archive = tiny_rootfs(self.root());
        let image =
            self.docker(["import", "--change", "CMD [\"/bin/sh\"]", archive.to_str().expect("our own path"), "tiny"]);
        image.success();
    }

    pub fn containers(&self) -> Vec<String> {
        let ids: Vec<String> = self.docker(["ps", "-aq", "--no-trunc"]).stdout.lines().map(str::to_owned).collect();
        let mut seen = self.seen.borrow_mut();
        for id in &ids {
            if !seen.contains(id) {
                seen.push(id.clone());
            }
        }
        ids
    }
}

/// A root filesystem of one static program, as a tar file in `folder`.
fn tiny_rootfs(folder: &Path) -> PathBuf {
    let rootfs = folder.join("tiny");
    for name in ["bin", "etc", "tmp", "root", "var"] {
        std::fs::create_dir_all(rootfs.join(name)).expect("scratch folder");
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox is readable");
    let applets = Command::new("/bin/busybox").arg("--list").output().expect("busybox runs").stdout;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("scratch folder");
    }
    std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        .expect("scratch");
    std::fs::write(rootfs.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").expect("scratch folder");
    let archive = folder.join("tiny.tar");
    let status = Command::new("tar").arg("-C").arg(&rootfs).arg("-cf").arg(&archive).arg(".").status();
    assert!(status.is_ok_and(|status| status.success()), "tar of the tiny root filesystem");
    archive
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.child.is_none() {
            self.launch();
        }
        for id in self.containers() {
            self.docker(["rm", "-f", "-v", &id]);
        }
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        // Gone already is as good as ended; the wait below tells.
        let signalled = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let mut child = self.child.take().expect("launched above");
        let ended = child.wait();
        if std::thread::panicking() {
            eprintln!("engine log:\n{}", self.log());
            return;
        }
        assert!(signalled.is_ok() && ended.is_ok(), "the engine ended on its own: {ended:?}\n{}", self.log());
        let (root, seen) = (self.root().to_owned(), self.seen.borrow().clone());
        // Teardown goes on behind the answers; it must be over soon.
        let deadline = std::time::Instant::now() + crate::DEADLINE;
        loop {
            let left = leftovers::find(&root, &seen);
            if left.is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "left behind: {left:#?}\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
