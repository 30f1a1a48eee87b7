//! The scenes as the README plays them: their scripts, called as a user calls them, with Debian's own packages.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A scene that hangs is ended by then; making images of Debian's packages is most of it.
const SECONDS_MAX: &str = "900";

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
    script: &'static str,
    root: PathBuf,
    /// Variables that say which ports it publishes.
    ports: Vec<(&'static str, u16)>,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// `None`, said aloud, where something that it needs is missing.
    #[expect(clippy::print_stderr, reason = "a test says that it is skipped")]
    fn prepare(script: &'static str, needs: &[&str], ports: &[&'static str]) -> Option<Scene> {
        if let Some(reason) = berth_testkit::missing() {
            eprintln!("skipped: {reason}");
            return None;
        }
        if let Some(program) = needs.iter().find(|program| !installed(program)) {
            eprintln!("skipped: needs {program}");
            return None;
        }
        let folder = tempfile::tempdir_in("/var/tmp").expect("a scratch folder");
        // Kept until all are known: the same one is not given out twice.
        let listeners: Vec<TcpListener> =
            ports.iter().map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let number = |listener: &TcpListener| listener.local_addr().expect("its address").port();
        let ports = ports.iter().copied().zip(listeners.iter().map(number)).collect();
        Some(Scene { script, root: folder.path().join("demo"), ports, _folder: folder })
    }

    fn run(&self, argument: &str) -> (bool, String) {
        let output = Command::new("timeout")
            .args([SECONDS_MAX, self.script, argument])
            .current_dir(repository())
            .env("BERTH_DEMO_ROOT", &self.root)
            .envs(self.ports.iter().map(|(name, port)| (name, port.to_string())))
            .output()
            .expect("the scene's script starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Plays it; all that it said.
    fn play(&self) -> String {
        let programs = berth_testkit::programs();
        let (done, told) = self.run(relative(&programs).to_str().expect("a plain path"));
        assert!(done, "{told}");
        told
    }

    fn stop(&self) {
        let (done, told) = self.run("--stop");
        assert!(done && told.contains("nothing is left"), "{told}");
        assert!(!self.root.exists(), "{} is left", self.root.display());
    }
}

impl Drop for Scene {
    /// A scene that failed half-way leaves its engines and containers otherwise.
    fn drop(&mut self) {
        if self.root.join("programs").exists() {
            self.run("--stop");
        }
    }
}

#[test]
fn two_versions_of_a_database_stand_side_by_side() {
    let ports = ["BERTH_DEMO_PORT_15", "BERTH_DEMO_PORT_17"];
    let Some(scene) = Scene::prepare("examples/two-databases/run.sh", &["mmdebstrap", "psql"], &ports) else { return };
    let told = scene.play();
    for (version, (_, port)) in [15, 17].into_iter().zip(&scene.ports) {
        let answer = format!("port {port} answers: PostgreSQL {version}.");
        assert!(told.contains(&answer), "no {answer:?} in:\n{told}");
        assert!(told.contains(&format!("port {port} still has 1 visit(s)")), "{told}");
    }
    assert_eq!(told.matches("listening on 5432 inside").count(), 2, "{told}");
    scene.stop();
}

#[test]
fn what_was_built_is_run_in_test_and_in_production_byte_for_byte() {
    let ports = ["BERTH_DEMO_REGISTRY_PORT", "BERTH_DEMO_TEST_PORT", "BERTH_DEMO_PRODUCTION_PORT"];
    let Some(scene) = Scene::prepare("examples/guestbook/run.sh", &["mmdebstrap", "curl"], &ports) else { return };
    let told = scene.play();
    let (_, same) = told.split_once("The same bytes everywhere").expect("the scene's last part");
    let id = |engine: &str| {
        let line = same.lines().find(|line| line.starts_with(engine)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    assert!(id("dev").starts_with("sha256:") && id("dev") == id("test") && id("dev") == id("production"), "{told}");
    // Each has its own entries, from its own database, and says which stage it is.
    for (words, stage) in [("tested and found well", "test"), ("hello from outside", "production")] {
        let line = told.lines().position(|line| line.contains(words)).unwrap_or_else(|| panic!("no {words:?}: {told}"));
        let footer = told.lines().skip(line).find(|line| line.contains("version 1")).unwrap_or_default();
        assert!(footer.contains(stage), "{words:?} is not followed by {stage}'s footer: {told}");
    }
    assert_eq!(told.matches("tested and found well").count(), 1, "{told}");
    scene.stop();
}
