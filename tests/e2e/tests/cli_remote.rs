//! Engines elsewhere: by ssh, and by TCP with certificates on both sides.

use berth_testkit::{Engine, Output, programs, wait_until};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn output(mut command: Command) -> Output {
    Output::of(command.stdin(Stdio::null()))
}

/// `ssh` that runs its command here: what is tested is what we ask it for and how we use its streams.
fn fake_ssh(folder: &Path, socket: &Path) {
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\nexport DOCKER_HOST=unix://{} PATH={}:$PATH\nunset BERTH_HOST\nexec sh -c \"$last\"\n",
        socket.display(),
        programs().display()
    );
    std::fs::write(folder.join("ssh"), script).expect("scratch folder");
    std::os::unix::fs::chown(folder.join("ssh"), Some(0), Some(0)).expect("our own file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.join("ssh"), mode).expect("our own file");
}

#[test]
fn an_engine_is_reached_through_ssh() {
    let Some(engine) = Engine::start("ssh") else { return };
    let folder = engine.root().join("fake");
    std::fs::create_dir(&folder).expect("scratch folder");
    fake_ssh(&folder, &engine.socket());
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let berth = |arguments: &[&str]| {
        let mut command = engine.command(&programs().join("berth"));
        command.env_remove("DOCKER_HOST").env_remove("BERTH_HOST").env("PATH", &path);
        command.args(["-H", "ssh://me@far:2222"]).args(arguments);
        output(command)
    };
    assert_eq!(berth(&["run", "--rm", "tiny", "echo", "from afar"]).success(), "from afar");
    assert_eq!(berth(&["images", "--format", "{{.Repository}}"]).success(), "tiny");
    // Docker's client starts `docker system dial-stdio` there: ours answers to that name too.
    let mut docker = engine.command(&programs().join("berth"));
    docker.args(["system", "dial-stdio"]);
    assert_eq!(output(docker).success(), "", "no input, no answer, no hang");
}

struct Served {
    child: Child,
}

impl Drop for Served {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
        self.child.wait().expect("our own child");
    }
}

#[test]
fn only_who_has_a_certificate_gets_in_over_tcp() {
    if let Some(why) = berth_testkit::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::Builder::new().prefix("berth-tls-").tempdir_in("/var/tmp").expect("scratch folder");
    let root = folder.path();
    let certificates = root.join("certificates");
    let berth = |arguments: &[&str]| {
        let mut command = Command::new(programs().join("berth"));
        command.env_remove("DOCKER_HOST").env_remove("BERTH_HOST").env("HOME", root).args(arguments);
        output(command)
    };
    let dir = certificates.to_str().expect("our own path").to_owned();
    berth(&["cert", "--dir", &dir]).success();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let host = format!("tcp://127.0.0.1:{port}");
    let file = |name: &str| certificates.join(name).display().to_string();
    let log = std::fs::File::create(root.join("log")).expect("scratch folder");
    let child = Command::new(programs().join("berthd"))
        .args(["-H", &host, "--tlsverify", "--tlscacert", &file("ca.pem"), "--tlscert", &file("server-cert.pem")])
        .args(["--tlskey", &file("server-key.pem"), "--data-root"])
        .arg(root.join("data"))
        .arg("--exec-root")
        .arg(root.join("run"))
        .stderr(log.try_clone().expect("a file"))
        .stdout(log)
        .spawn()
        .expect("berthd starts");
    let _served = Served { child };
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let trusted = ["-H", &host, "--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    let ask = |more: &[&str]| berth(&[&trusted[..], more].concat());
    wait_until("the engine answers", || ask(&["version"]).code == 0);
    assert_eq!(ask(&["ps", "-aq"]).success(), "");

    // Without TLS, and with somebody else's certificate, nothing is told.
    assert_ne!(berth(&["-H", &host, "ps"]).code, 0);
    let other = root.join("other").display().to_string();
    berth(&["cert", "--dir", &other]).success();
    let stranger = |name: &str| format!("{other}/{name}");
    let (cert, key) = (stranger("cert.pem"), stranger("key.pem"));
    let refused = berth(&["-H", &host, "--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key, "ps"]);
    assert_ne!(refused.code, 0, "{}", refused.stdout);

    // A context keeps its certificates.
    let docker = format!("host={host},ca={ca},cert={},key={}", file("cert.pem"), file("key.pem"));
    berth(&["context", "create", "far", "--docker", &docker]).success();
    assert_eq!(berth(&["--context", "far", "ps", "-aq"]).success(), "");
}
