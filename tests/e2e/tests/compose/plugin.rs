//! Docker's Compose plugin on a folder.
//!
//! It is looked for where `BERTH_COMPOSE` says, then in Docker's plugin folders.

use berth_testkit::{Engine, Output};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub(crate) struct Compose<'a> {
    pub(crate) engine: &'a Engine,
    plugin: PathBuf,
    pub(crate) folder: PathBuf,
    environment: Vec<(String, String)>,
}

fn plugin() -> Option<PathBuf> {
    berth_testkit::docker_plugin("docker-compose", "BERTH_COMPOSE")
}

/// Whether there is one; says so where there is none.
#[expect(clippy::print_stderr, reason = "a test says that it is skipped")]
pub(crate) fn found() -> bool {
    let found = plugin().is_some();
    if !found {
        eprintln!("skipped: needs the compose plugin (docker-compose, or BERTH_COMPOSE)");
    }
    found
}

impl Compose<'_> {
    /// For the project in `folder`.
    pub(crate) fn new(engine: &Engine, folder: PathBuf) -> Compose<'_> {
        let plugin = plugin().expect("the caller has asked");
        Compose { engine, plugin, folder, environment: Vec::new() }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.engine.command(&self.plugin);
        command.current_dir(&self.folder).args(["--progress", "quiet"]).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Output::of(&mut self.command(arguments))
    }

    /// Runs it to its end, which must be a good one; its standard output.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).success()
    }

    /// `exec` without a terminal.
    #[track_caller]
    pub(crate) fn exec(&self, service: &str, script: &str) -> String {
        self.ok(&["exec", "-T", service, "sh", "-c", script])
    }

    /// Starts it and goes on; its output goes to `file` in the project's folder.
    pub(crate) fn start(&self, arguments: &[&str], file: &str) -> Running {
        let out = std::fs::File::create(self.folder.join(file)).expect("scratch folder");
        let mut command = self.command(arguments);
        command.stdout(out.try_clone().expect("a descriptor")).stderr(out);
        Running { child: command.spawn().expect("the plugin starts"), file: self.folder.join(file) }
    }

    /// Names of containers as `ps` shows them, sorted.
    pub(crate) fn containers(&self, arguments: &[&str]) -> Vec<String> {
        let mut all = vec!["ps", "--format", "{{.Name}}"];
        all.extend_from_slice(arguments);
        let mut names: Vec<String> = self.ok(&all).lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

/// A command that goes on; ended when dropped.
pub(crate) struct Running {
    child: Child,
    file: PathBuf,
}

impl Running {
    /// Of both streams, so far.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) {
        berth_testkit::wait_until(&format!("{words:?} in {}", self.file.display()), || self.output().contains(words));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
