//! Scene 1 as the README plays it: the script, called as `make demo` calls it, with Debian's own databases.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The build folder as `make` names it: relative to the repository.
fn relative(programs: &Path) -> &Path {
    programs.strip_prefix(repository()).unwrap_or(programs)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the tests lie in the repository")
}

fn installed(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).exists())
}

struct Scene {
    root: PathBuf,
    ports: [u16; 2],
}

impl Scene {
    fn run(&self, argument: &str) -> (bool, String) {
        let output = Command::new("examples/two-databases/run.sh")
            .arg(argument)
            .current_dir(repository())
            .env("BERTH_DEMO_ROOT", &self.root)
            .env("BERTH_DEMO_PORT_15", self.ports[0].to_string())
            .env("BERTH_DEMO_PORT_17", self.ports[1].to_string())
            .output()
            .expect("the scene's script starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }
}

impl Drop for Scene {
    /// A scene that failed half-way leaves its engine and databases otherwise.
    fn drop(&mut self) {
        if self.root.join("programs").exists() {
            self.run("--stop");
        }
    }
}

#[test]
fn two_versions_of_a_database_stand_side_by_side() {
    if let Some(reason) = berth_testkit::missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    if let Some(program) = ["mmdebstrap", "psql"].into_iter().find(|program| !installed(program)) {
        eprintln!("skipped: needs {program}");
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").expect("a scratch folder");
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let scene = Scene { root: folder.path().join("demo"), ports: [free().port(), free().port()] };
    let programs = berth_testkit::programs();

    let (done, told) = scene.run(relative(&programs).to_str().expect("a plain path"));
    assert!(done, "{told}");
    for (version, port) in [15, 17].into_iter().zip(scene.ports) {
        let answer = format!("port {port} answers: PostgreSQL {version}.");
        assert!(told.contains(&answer), "no {answer:?} in:\n{told}");
        assert!(told.contains(&format!("port {port} still has 1 visit(s)")), "{told}");
    }
    assert_eq!(told.matches("listening on 5432 inside").count(), 2, "{told}");

    let (done, told) = scene.run("--stop");
    assert!(done && told.contains("nothing is left"), "{told}");
    assert!(!scene.root.exists(), "{} is left", scene.root.display());
}
