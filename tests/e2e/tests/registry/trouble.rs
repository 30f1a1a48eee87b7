//! What goes wrong on our side of a pull, and at those who are asked on the way.

use crate::common::{make_image, names_in};
use berth_testkit::{Engine, Registry, TokenServer, wait_until};
use std::process::Command;

fn mount(options: &str, at: &std::path::Path) {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
    assert!(mounted.is_ok_and(|status| status.success()), "mount -o {options}");
}

#[test]
fn a_disk_that_fills_up_in_mid_pull_is_said_so_and_gets_its_space_back() {
    let Some(registry) = Registry::plain() else { return };
    let Some(mut engine) = Engine::start("registry-full") else { return };
    let (large, name) = (format!("{}/large:1", registry.address()), format!("{}/words:1", registry.address()));
    make_image(&engine, &large, 40, 8);
    // Packed it has room, unpacked it has not.
    let text = "printf '%4000d' 1 | tr ' ' x >/page && for n in $(seq 100); do cat /page; done >/pages && \
        for n in $(seq 100); do cat /pages; done >/words";
    engine.docker(["run", "--name", "writer", "tiny", "sh", "-c", text]).success();
    engine.docker(["commit", "writer", &name]).success();
    engine.docker(["rm", "writer"]).success();
    for name in [&large, &name] {
        engine.docker(["push", name]).success();
    }
    engine.kill();
    let small = engine.root().join("data");
    mount("size=24m", &small);
    engine.launch();
    let told = engine.docker(["pull", &large]).failure(1);
    assert!(told.contains("packed, and the disk has") && told.contains("prune"), "{told}");
    for _ in 0..2 {
        let failed = engine.docker(["pull", &name]);
        assert_ne!(failed.code, 0, "{}", failed.stdout);
        assert!(failed.stderr.contains("No space left on device"), "{}", failed.stderr);
        // The other layer's work may come to its end a moment later.
        wait_until("what was unpacked is gone", || names_in(&engine, "layers").is_empty());
        assert_eq!(engine.docker(["images", "-q"]).success(), "");
        let free = rustix::fs::statvfs(&small).expect("it is mounted");
        assert!(free.f_bavail * free.f_frsize > 20 << 20, "{} bytes are free", free.f_bavail * free.f_frsize);
    }
    // With more room the same pull succeeds, in the same engine.
    mount("remount,size=200m", &small);
    engine.docker(["pull", "-q", &name]).success();
    engine.docker(["run", "--rm", &name, "true"]).success();
    engine.kill();
    assert!(Command::new("umount").arg(&small).status().is_ok_and(|status| status.success()));
    engine.launch();
}

#[test]
fn a_token_server_that_fails_is_named_with_its_own_words() {
    let tokens = TokenServer::start();
    let Some(registry) = Registry::with_tokens(&tokens) else { return };
    let Some(engine) = Engine::start("registry-tokens-out") else { return };
    let name = format!("{}/out:1", registry.address());
    make_image(&engine, &name, 0, 3);
    engine.docker(["login", "-u", Registry::USER, "-p", Registry::PASSWORD, registry.address()]).success();
    engine.docker(["push", &name]).success();
    engine.docker(["rmi", &name]).success();
    tokens.fail(1000);
    let failed = engine.docker(["pull", &name]).failure(1);
    assert!(failed.contains("tokens are out") && failed.contains(&tokens.address()), "{failed}");
    assert_eq!(engine.docker(["images", "-q", &name]).success(), "");
    // A hiccup is nobody's business.
    tokens.fail(1);
    engine.docker(["pull", "-q", &name]).success();
}
