//! What the tests of builds share.

use berth_testkit::{Engine, Output, Reply, Server};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Who is asked to build.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Door {
    Berth,
    /// `POST /build`, as docker's client and docker-py use it.
    Docker,
    /// BuildKit's gRPC, as the buildx plugin uses it.
    Buildx,
}

/// All that can be asked here; says so where the plugin is missing.
#[expect(clippy::print_stderr, reason = "a test says what it leaves out")]
pub(crate) fn doors() -> Vec<Door> {
    let mut doors = vec![Door::Berth, Door::Docker];
    match buildx() {
        Some(_) => doors.push(Door::Buildx),
        None => eprintln!("skipped: one door needs the buildx plugin (docker-buildx, or BERTH_BUILDX)"),
    }
    doors
}

/// Docker's buildx plugin: where `BERTH_BUILDX` says, or in Docker's plugin folders.
pub(crate) fn buildx() -> Option<PathBuf> {
    berth_testkit::docker_plugin("docker-buildx", "BERTH_BUILDX")
}

/// A build's folder, gone with the value.
pub(crate) struct Context(tempfile::TempDir);

impl Context {
    /// A `Dockerfile`, and other files by name.
    pub(crate) fn new(dockerfile: &str, files: &[(&str, &str)]) -> Context {
        let context = Context(tempfile::Builder::new().prefix("berth-context-").tempdir_in("/var/tmp").unwrap());
        context.write("Dockerfile", dockerfile);
        files.iter().for_each(|(name, text)| context.write(name, text));
        context
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// Builds `context` with these arguments before its path.
pub(crate) fn build(engine: &Engine, door: Door, context: &Context, arguments: &[&str]) -> Output {
    build_with(engine, door, context, arguments, &[])
}

/// The same with variables in the client's environment.
pub(crate) fn build_with(
    engine: &Engine,
    door: Door,
    context: &Context,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Output {
    let mut command = client(engine, door);
    command.envs(environment.iter().copied());
    command.arg("build").args(arguments).arg(context.path()).stdin(Stdio::null());
    Output::of(&mut command)
}

/// The program that asks at this door, before its verb.
pub(crate) fn client(engine: &Engine, door: Door) -> Command {
    let program = match door {
        Door::Berth => berth_testkit::programs().join("berth"),
        Door::Docker => PathBuf::from("docker"),
        Door::Buildx => buildx().expect("the caller has asked"),
    };
    let mut command = engine.command(&program);
    command.env("DOCKER_BUILDKIT", "0");
    command
}

/// All that a build said.
pub(crate) fn said(output: Output) -> String {
    assert_eq!(output.code, 0, "{}\nstdout: {}\nstderr: {}", output.command, output.stdout, output.stderr);
    output.stdout + &output.stderr
}

/// Runs a shell command in the image.
pub(crate) fn sh(engine: &Engine, image: &str, command: &str) -> String {
    engine.docker(["run", "--rm", "--entrypoint", "/bin/sh", image, "-c", command]).success()
}

pub(crate) fn id(engine: &Engine, image: &str) -> String {
    engine.docker(["image", "inspect", "-f", "{{.Id}}", image]).success()
}

/// The image's configuration, as `inspect` shows it.
pub(crate) fn config(engine: &Engine, image: &str) -> serde_json::Value {
    engine.api("GET", &format!("/images/{image}/json"), "").expect(200).json()["Config"].clone()
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository that a plain web server gives out: `file` says "first" at the tag v1 and "second" now.
pub(crate) struct Repository {
    server: Server,
    pub(crate) first: String,
    _root: tempfile::TempDir,
}

impl Repository {
    /// With these files too.
    pub(crate) fn new(files: &[(&str, &str)]) -> Repository {
        let root = tempfile::Builder::new().prefix("berth-git-").tempdir_in("/var/tmp").unwrap();
        let repository = root.path().join("repo.git");
        std::fs::create_dir(&repository).unwrap();
        git(&repository, &["init", "-q"]);
        for (name, text) in [&[("file", "first")], files].concat() {
            std::fs::create_dir_all(repository.join(name).parent().unwrap()).unwrap();
            std::fs::write(repository.join(name), text).unwrap();
        }
        git(&repository, &["add", "."]);
        git(&repository, &["commit", "-qm", "one"]);
        let first = git(&repository, &["rev-parse", "HEAD"]);
        git(&repository, &["tag", "v1"]);
        std::fs::write(repository.join("file"), "second").unwrap();
        git(&repository, &["commit", "-qam", "two"]);
        git(&repository, &["update-server-info"]);
        let served = root.path().to_owned();
        let server = Server::start(move |request| {
            let path = request.target.split('?').next().unwrap_or_default().trim_start_matches('/');
            let path = path.replacen("repo.git/", "repo.git/.git/", 1);
            match std::fs::read(served.join(path)) {
                Ok(bytes) => Reply::new(200, bytes),
                Err(_) => Reply::new(404, ""),
            }
        });
        Repository { server, first, _root: root }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/repo.git", self.server.address())
    }
}
