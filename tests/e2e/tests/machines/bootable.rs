//! A whole Debian, from its packages to a shell in the machine. Minutes, and Debian's archive: `make nightly`.

use crate::agent::said;
use crate::{clear, start};
use std::time::{Duration, Instant};

/// Emulated, and beside others' work.
const PATIENCE: Duration = Duration::from_secs(900);

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
#[ignore = "takes minutes and Debian's archive: scripts/nightly.sh bootable"]
fn a_bootable_debian_is_made_boots_and_obeys() {
    let Some(engine) = start("vm-bootable") else { return };
    if !std::path::Path::new("/usr/bin/mmdebstrap").exists() {
        return;
    }
    engine.berth(["image", "bootstrap", "debian:bookworm", "--bootable", "--name", "base:1"]).success();
    engine.docker(["network", "create", "back"]).success();
    engine.docker(["run", "-d", "--name", "peer", "--network", "back", "tiny", "sleep", "10000"]).success();
    let words =
        ["vm", "create", "--from-image", "base:1,size=4G", "-m", "768m", "--network", "back", "--start", "--wait"];
    engine.berth([&words[..], &["--wait-timeout", "1500", "box"]].concat()).success();
    assert_eq!(said(&engine, "box", "hostname; . /etc/os-release; echo $ID $VERSION_ID"), "box\ndebian 12");
    eventually("its system is up", || {
        let state = engine.berth(["vm", "exec", "box", "systemctl", "is-system-running"]).stdout;
        ["running", "degraded"].contains(&state.trim())
    });
    let failed = said(&engine, "box", "systemctl --failed --no-legend --plain");
    assert_eq!(failed, "", "units that failed");
    eventually("it has its network", || engine.berth(["vm", "exec", "box", "getent", "ahostsv4", "peer"]).code == 0);
    said(&engine, "box", "echo kept > /root/kept");
    engine.berth(["vm", "stop", "-t", "300", "box"]).success();
    let log = engine.berth(["vm", "logs", "box"]).success();
    assert!(log.contains("reboot: Power down"), "{log}");
    engine.berth(["vm", "start", "--wait", "--wait-timeout", "1500", "box"]).success();
    assert_eq!(said(&engine, "box", "cat /root/kept"), "kept");
    engine.docker(["rm", "-f", "peer"]).success();
    clear(&engine);
}
