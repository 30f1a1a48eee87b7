//! As a service manager runs it: a socket that is handed over, and news of its state.

use berth_testkit::{DEADLINE, Engine, Exchange, programs};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};

#[test]
fn a_socket_is_taken_over_and_the_manager_hears_of_begin_and_end() {
    let Some(mut engine) = Engine::start("systemd") else { return };
    engine.stop();
    let at = |name: &str| engine.root().join(name);
    let listener = UnixListener::bind(at("handed.sock")).unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let manager = UnixDatagram::bind(at("notify.sock")).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = |wanted: &str| {
        let mut words = String::new();
        while !words.contains(wanted) {
            let mut part = [0; 512];
            let count = manager.recv(&mut part).unwrap_or_else(|error| panic!("{wanted} was not told: {error}"));
            words.push_str(&String::from_utf8_lossy(&part[..count]));
            words.push('\n');
        }
    };
    // The client asks first: the socket holds the question until an engine is there.
    let socket = at("handed.sock");
    let asking = std::thread::spawn(move || {
        let begun = Exchange::begin(&socket, "GET", "/_ping", &[], b"", DEADLINE);
        begun.and_then(Exchange::finish).map(|answer| answer.status)
    });
    let log = std::fs::File::create(at("handed.log")).unwrap();
    let script = format!("exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"", listener.as_raw_fd());
    let mut handed = Command::new("sh")
        .args(["-c", &script])
        .arg(programs().join("berthd"))
        .args(["-H", "fd://", "--bridge-name", engine.bridge(), "--cgroup-parent", engine.cgroup_parent()])
        .arg("--data-root")
        .arg(at("data"))
        .arg("--exec-root")
        .arg(at("run"))
        .env("NOTIFY_SOCKET", at("notify.sock"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    hear("READY=1");
    assert_eq!(asking.join().unwrap(), Some(200));
    let pid = rustix::process::Pid::from_child(&handed);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    hear("STOPPING=1");
    assert!(handed.wait().unwrap().success());
    // It is the manager's: the next engine takes the same.
    assert!(at("handed.sock").exists());
    engine.launch();
}

#[test]
fn the_units_are_what_systemd_takes() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: needs systemd-analyze");
        return;
    }
    let units = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd");
    let checked = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([units.join("berth.service"), units.join("berth.socket")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    // Where the program is not installed, that is said too, and is no fault of the units.
    let faults: Vec<&str> =
        said.lines().filter(|line| line.contains("berth") && !line.contains("is not executable")).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}
