//! The engines: how each is started and spoken to.

use crate::group::Group;
use crate::http::Connection;
use crate::{Options, Outcome};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Docker,
    /// No daemon, and its API only wraps its command line.
    Podman,
    Berth,
}

impl Kind {
    pub(crate) fn named(name: &str) -> Outcome<Kind> {
        let all = [Kind::Docker, Kind::Podman, Kind::Berth];
        all.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("{name}: unknown engine").into())
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Docker => "docker",
            Kind::Podman => "podman",
            Kind::Berth => "berth",
        }
    }
}

pub(crate) struct Engine {
    pub(crate) kind: Kind,
    pub(crate) group: Group,
    programs: PathBuf,
    work: PathBuf,
    data: PathBuf,
    daemons: Vec<Child>,
}

impl Engine {
    pub(crate) fn new(kind: Kind, options: &Options) -> Outcome<Engine> {
        let work = options.work.join(kind.name());
        std::fs::create_dir_all(&work)?;
        let group = Group::make(kind.name())?;
        let (programs, data) = (options.programs.clone(), options.data.clone());
        Ok(Engine { kind, group, programs, work, data, daemons: Vec::new() })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.work.join("engine.sock")
    }

    /// A folder of its own.
    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// From nothing to the daemon's first answer.
    pub(crate) fn start(&mut self) -> Outcome<Duration> {
        self.start_with(&[])
    }

    /// The same with more options for berthd.
    pub(crate) fn start_with(&mut self, options: &[&str]) -> Outcome<Duration> {
        self.group.enter()?;
        let socket = format!("unix://{}", self.socket().display());
        let begin = Instant::now();
        match self.kind {
            Kind::Podman => return Ok(Duration::ZERO),
            Kind::Docker => {
                let containerd = Path::new("/run/containerd/containerd.sock");
                if self.daemons.is_empty() {
                    std::fs::remove_file(containerd).ok();
                    let daemon = self.daemon("containerd", &[])?;
                    self.daemons.push(daemon);
                    until("containerd's socket", || containerd.exists())?;
                }
                let begin = Instant::now();
                let parent = self.group.path.clone();
                let containerd = containerd.to_string_lossy();
                let words = ["--containerd", &containerd, "-H", &socket, "--cgroup-parent", &parent];
                let daemon = self.daemon("dockerd", &words)?;
                self.daemons.push(daemon);
                self.answers()?;
                return Ok(begin.elapsed());
            }
            Kind::Berth => {
                let program = self.programs.join("berthd").to_string_lossy().into_owned();
                let (parent, run) = (self.group.path.clone(), self.work.join("run").to_string_lossy().into_owned());
                let data = self.data.to_string_lossy();
                let words = ["-H", &socket, "--data-root", &data, "--exec-root", &run];
                let rest = ["--cgroup-parent", &parent, "--bip", "172.30.0.1/16"];
                let daemon = self.daemon(&program, &[&words[..], &rest[..], options].concat())?;
                self.daemons.push(daemon);
                self.answers()?;
            }
        }
        Ok(begin.elapsed())
    }

    fn daemon(&self, program: &str, words: &[&str]) -> Outcome<Child> {
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = File::options().create(true).append(true).open(self.work.join(format!("{name}.log")))?;
        let child = Command::new(program).args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(child.map_err(|error| format!("cannot start {program}: {error}"))?)
    }

    fn answers(&self) -> Outcome<()> {
        let socket = self.socket();
        until("the engine's answer", || {
            Connection::open(&socket).and_then(|mut connection| connection.call("GET", "/_ping", None)).is_ok()
        })
    }

    /// Ends the engine proper; dockerd's containerd stays. Containers that run are meant to have been stopped.
    pub(crate) fn stop_engine(&mut self) -> Outcome<()> {
        if let Some(mut daemon) = self.daemons.pop() {
            if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(daemon.id())?) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            }
            daemon.wait()?;
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Outcome<()> {
        while !self.daemons.is_empty() {
            self.stop_engine()?;
        }
        Ok(())
    }

    pub(crate) fn daemon_pids(&self) -> Vec<u32> {
        self.daemons.iter().map(Child::id).collect()
    }

    /// The engine's command line.
    pub(crate) fn client<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let socket = format!("unix://{}", self.socket().display());
        let mut command = match self.kind {
            Kind::Docker => Command::new("docker"),
            Kind::Podman => Command::new("podman"),
            Kind::Berth => Command::new(self.programs.join("berth")),
        };
        command.env("DOCKER_HOST", socket).env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// `run` with what this engine needs to keep containers in its group.
    pub(crate) fn run<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.client(["run"]);
        if self.kind == Kind::Podman {
            command.args(["--cgroup-parent", &self.group.path]);
        }
        command.args(words);
        command
    }

    /// Ends well, or says what it printed.
    pub(crate) fn succeed(&self, command: &mut Command) -> Outcome<String> {
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into())
    }

    pub(crate) fn import(&self, image: &Path) -> Outcome<()> {
        self.succeed(&mut self.client(["import", &image.to_string_lossy(), "tiny:1"])).map(drop)
    }
}

/// Asks again every half millisecond.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) -> Outcome<()> {
    let begin = Instant::now();
    while begin.elapsed() < START_MAX {
        if done() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Err(format!("{what} did not come within {START_MAX:?}").into())
}

/// A static busybox as an archive of a root filesystem.
pub(crate) fn image(work: &Path) -> Outcome<PathBuf> {
    let (root, archive) = (work.join("tiny"), work.join("tiny.tar"));
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::create_dir_all(root.join("www"))?;
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    std::fs::write(root.join("www/index.html"), "hello\n")?;
    for name in ["sh", "true", "sleep", "httpd"] {
        std::fs::remove_file(root.join("bin").join(name)).ok();
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))?;
    }
    let status = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status()?;
    if status.success() { Ok(archive) } else { Err("tar failed".into()) }
}
