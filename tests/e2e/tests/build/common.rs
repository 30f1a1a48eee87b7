//! What the tests of builds share.

use berth_testkit::{Engine, Output};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Who is asked to build.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Door {
    Berth,
    /// `POST /build`, as docker's client and docker-py use it.
    Docker,
}

pub(crate) const DOORS: [Door; 2] = [Door::Berth, Door::Docker];

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
    let program = match door {
        Door::Berth => berth_testkit::programs().join("berth"),
        Door::Docker => PathBuf::from("docker"),
    };
    let mut command = engine.command(&program);
    command.env("DOCKER_BUILDKIT", "0").envs(environment.iter().copied());
    command.arg("build").args(arguments).arg(context.path()).stdin(Stdio::null());
    Output::of(&mut command)
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
