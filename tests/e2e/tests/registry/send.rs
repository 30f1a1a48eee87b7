//! An image from host to host; ssh is a script that starts the other engine's command line, and once OpenSSH itself.

use crate::common::{id, make_image};
use berth_testkit::{Engine, Output, Sshd};
use std::os::unix::fs::PermissionsExt;

/// `berth image send` from `here` to the host called `to`, through ssh itself.
fn send_by(sshd: &Sshd, here: &Engine, image: &str, to: &str) -> Output {
    let mut command = here.command(&berth_testkit::programs().join("berth"));
    Output::of(command.args(["image", "send", image, to]).env("BERTH_SSH", sshd.client()))
}

#[test]
fn an_image_goes_through_ssh_itself() {
    let Some(here) = Engine::start("ssh-here") else { return };
    let Some(there) = Engine::start("ssh-there") else { return };
    let Some(sshd) = Sshd::start(&here.root().join("sshd"), &there) else { return };
    make_image(&here, "base:1", 8, 11);
    let sent = send_by(&sshd, &here, "base:1", "other");
    assert_eq!(sent.code, 0, "{} {} {}", sent.stdout, sent.stderr, sshd.log());
    assert!(sent.stdout.starts_with("Sent base:1 to other: 1 of 1 layer"), "{}", sent.stdout);
    assert_eq!(id(&there, "base:1"), id(&here, "base:1"));
    assert_eq!(
        there.docker(["run", "--rm", "base:1", "sh", "-c", "busybox wc -c < /noise"]).success(),
        (8 << 20).to_string()
    );
    assert!(send_by(&sshd, &here, "base:1", "other").success().contains("0 of 1 layer"));

    // The other host's words, and ssh's own, come through.
    let nobody = send_by(&sshd, &here, "base:1", "nobody.invalid").failure(1);
    assert!(nobody.contains("nobody.invalid ended early"), "{nobody}");
    drop(there);
    let dead = send_by(&sshd, &here, "base:1", "other").failure(1);
    assert!(dead.contains("other: ") && dead.contains("berth.sock") || dead.contains("engine"), "{dead}");
}

/// `berth image send` from `here`, whose ssh leads to `there`.
fn send(here: &Engine, there: &Engine, image: &str, script: &str) -> Output {
    let ssh = here.root().join("ssh");
    let berth = berth_testkit::programs().join("berth");
    let text = format!(
        "#!/bin/sh\nhost=$1; shift; shift\nexport BERTH_HOST=unix://{} HOME={}\n{script}\nexec {} \"$@\"\n",
        there.socket().display(),
        there.root().display(),
        berth.display()
    );
    std::fs::write(&ssh, text).expect("scratch folder");
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).expect("scratch folder");
    let mut command = here.command(&berth);
    Output::of(command.args(["image", "send", image, "other"]).env("BERTH_SSH", &ssh))
}

#[test]
fn only_what_is_missing_there_is_sent() {
    let Some(here) = Engine::start("send-here") else { return };
    let Some(there) = Engine::start("send-there") else { return };
    make_image(&here, "base:1", 2, 1);
    let said = send(&here, &there, "base:1", "").success();
    assert!(said.starts_with("Sent base:1 to other: 1 of 1 layer"), "{said}");
    assert_eq!(id(&there, "base:1"), id(&here, "base:1"));
    here.docker(["run", "--name", "changed", "base:1", "sh", "-c", "echo more > /more"]).success();
    here.docker(["commit", "changed", "app:2"]).success();
    let said = send(&here, &there, "app:2", "").success();
    assert!(said.starts_with("Sent app:2 to other: 1 of 2 layers"), "{said}");
    assert_eq!(there.docker(["run", "--rm", "app:2", "sh", "-c", "read x < /more; echo $x"]).success(), "more");
    assert!(send(&here, &there, "app:2", "").success().contains("0 of 2 layers"));

    let missing = send(&here, &there, "nothing:1", "").failure(1);
    assert!(missing.contains("No such image"), "{missing}");
    let dead = send(&here, &there, "app:2", "exit 255").failure(1);
    assert!(dead.contains("other ended early"), "{dead}");
    make_image(&here, "cut:1", 4, 2);
    // The line goes on at once, of what follows only a part.
    let berth = berth_testkit::programs().join("berth");
    let cuts = format!("read line; (echo \"$line\"; head -c 1000000) | {} \"$@\"; exit", berth.display());
    let cut = send(&here, &there, "cut:1", &cuts).failure(1);
    assert!(cut.contains("cut off"), "{cut}");
    assert!(there.docker(["images", "-q", "cut"]).success().is_empty());
}
