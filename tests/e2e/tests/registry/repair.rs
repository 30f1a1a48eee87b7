//! `berth system check --repair`: what is damaged is fetched again, nothing else, and containers run on.

use crate::common::{forget_packed, make_image, names_in, noise};
use berth_testkit::{Engine, Link, Registry};
use std::path::PathBuf;

const MEGABYTES: usize = 4;

/// Folder of the layer `number` of an image.
fn layer(engine: &Engine, image: &str, number: usize) -> PathBuf {
    let format = format!("{{{{index .RootFS.Layers {number}}}}}");
    let layer = engine.docker(["image", "inspect", "-f", &format, image]).success();
    engine.root().join("data/layers").join(layer.trim_start_matches("sha256:"))
}

/// Turns one byte of the file `noise`, in whichever form the layer lies.
fn flip(layer: &std::path::Path, seed: u64) {
    let file = [layer.join("fs/noise"), layer.join("image.erofs")].into_iter().find(|file| file.exists());
    let file = file.expect("the layer has one of the two forms");
    let mut bytes = std::fs::read(&file).expect("root reads it");
    let wanted = noise(64, seed);
    let at = bytes.windows(64).position(|part| part == wanted).expect("the noise is in there");
    bytes[at + 100_000] ^= 1;
    std::fs::write(&file, bytes).expect("root writes it");
}

#[test]
fn what_is_damaged_is_fetched_again_and_containers_run_on() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("repair") else { return };
    let link = Link::start(registry.address(), 0, u64::MAX);
    let name = format!("{}/app:1", link.address());
    make_image(&engine, "base:1", MEGABYTES, 3);
    engine
        .docker(["run", "--name", "more", "base:1", "sh", "-c", "busybox head -c 3000000 /dev/urandom > /more"])
        .success();
    engine.docker(["commit", "more", &name]).success();
    engine.docker(["rm", "more"]).success();
    engine.docker(["push", "-q", &name]).success();
    engine.docker(["rmi", &name, "base:1"]).success();
    forget_packed(&engine);
    engine.docker(["pull", "-q", &name]).success();
    let sum = |container: &str| engine.docker(["exec", container, "busybox", "sha256sum", "/noise"]).success();
    engine.docker(["run", "-d", "--name", "runs", &name, "busybox", "sleep", "1000"]).success();
    let (right, pid) = (sum("runs"), engine.pid_of("runs"));

    flip(&layer(&engine, &name, 0), 3);
    let found = engine.berth(["system", "check"]);
    assert_ne!(found.code, 0);
    assert!(found.stdout.contains("is damaged") && found.stderr.contains("--repair"), "{found:?}");
    let before = link.bytes_down();
    let said = engine.berth(["system", "check", "--repair"]).success();
    assert!(said.contains("is repaired") && said.contains("1 repaired"), "{said}");
    let fetched = link.bytes_down() - before;
    // With the shell that is in it too; the other layer is 3 MB.
    assert!(fetched < (MEGABYTES << 20) as u64 + 2_000_000, "{fetched} bytes for one layer of {MEGABYTES} MiB");
    assert_eq!((sum("runs"), engine.pid_of("runs")), (right.clone(), pid), "it runs on");
    engine.docker(["run", "-d", "--name", "new", &name, "busybox", "sleep", "1000"]).success();
    assert_eq!(sum("new"), right);
    assert!(names_in(&engine, "content/partial").is_empty());

    // A layer that is missing, and one whose record is cut short; one container runs on, another starts again.
    let (first, second) = (layer(&engine, &name, 0), layer(&engine, &name, 1));
    std::fs::rename(&first, engine.root().join("taken")).expect("root renames it");
    let record = std::fs::read(second.join("record")).expect("root reads it");
    std::fs::write(second.join("record"), &record[..record.len() / 2]).expect("root writes it");
    let said = engine.berth(["system", "check", "--repair"]).success();
    assert!(said.contains("2 repaired"), "{said}");
    assert_eq!(engine.pid_of("runs"), pid);
    engine.docker(["restart", "-t", "0", "new"]).success();
    assert_eq!(sum("new"), right);
    assert!(engine.berth(["system", "check"]).success().contains("3 layers"));

    // A packed layer that is kept for pushes.
    let kept = engine.root().join("data/content/blobs/sha256").join("ab".repeat(32));
    std::fs::write(&kept, "rotten").expect("scratch folder");
    assert!(engine.berth(["system", "check"]).stdout.contains("blob abababababab is damaged"));
    engine.berth(["system", "check", "--repair"]).success();
    assert!(!kept.exists());

    // Where the registry is gone, that is said, and what stands on the layer is left alone.
    drop(registry);
    flip(&layer(&engine, &name, 0), 3);
    let stays = engine.berth(["system", "check", "--repair"]);
    assert_ne!(stays.code, 0);
    assert!(
        stays.stdout.contains("containers stand on it") && stays.stdout.contains("cannot fetch layer"),
        "{stays:?}"
    );
    assert_eq!(engine.pid_of("runs"), pid);
    engine.docker(["rm", "-f", "runs", "new"]).success();
    engine.berth(["system", "check", "--repair"]).success();
}

#[test]
fn what_only_its_users_may_read_is_repaired_with_their_login() {
    let Some(registry) = Registry::secured() else { return };
    let Some(engine) = Engine::start("repair-login") else { return };
    let name = format!("{}/own:1", registry.address());
    make_image(&engine, &name, 1, 5);
    engine.docker(["login", "-u", Registry::USER, "-p", Registry::PASSWORD, registry.address()]).success();
    engine.docker(["push", "-q", &name]).success();
    forget_packed(&engine);
    flip(&layer(&engine, &name, 0), 5);
    engine.docker(["create", "--name", "stands", &name]).success();
    // Another user of the engine, without a login.
    let stranger = engine.api("POST", "/api/v1/system/check?repair=1", "").expect(200).text();
    assert!(stranger.contains("no basic auth") || stranger.contains("unauthorized"), "{stranger}");
    let said = engine.berth(["system", "check", "--repair"]).success();
    assert!(said.contains("is repaired") && said.contains("1 repaired"), "{said}");
    engine.berth(["system", "check"]).success();
}
