//! Files in and out of containers: cp, diff, export.

use berth_testkit::{Engine, not_in_a_machine};

const STOPPED: &str = "files of a container that does not run: they are in its machine's disk";

/// A running and a stopped container of the same content; of machines the running one alone.
fn both(engine: &Engine) -> &'static [&'static str] {
    let all: &[&str] = if not_in_a_machine(STOPPED) { &["running"] } else { &["running", "stopped"] };
    let make = "mkdir -p /a/b && echo one > /a/f && ln -s f /a/link && ln -s /etc/passwd /a/out";
    for &name in all {
        let wait = format!("{make}; exec sleep 1000");
        let command = if name == "running" { wait.as_str() } else { make };
        engine
            .docker(["run", "-d", "--name", name, "-v", &format!("{name}:/v"), "tiny", "sh", "-c", command])
            .success();
    }
    if all.len() > 1 {
        engine.docker(["wait", "stopped"]).success();
    }
    berth_testkit::wait_until("the running one made its files", || {
        engine.docker(["exec", "running", "test", "-h", "/a/out"]).code == 0
    });
    all
}

#[test]
fn what_is_copied_in_is_copied_out_the_same() {
    let Some(engine) = Engine::start("cp") else { return };
    let (here, back) = (engine.root().join("here"), engine.root().join("back"));
    std::fs::create_dir_all(here.join("sub")).unwrap();
    std::fs::write(here.join("sub/file"), "content").unwrap();
    for &name in both(&engine) {
        for to in ["/tmp", "/v"] {
            engine.docker(["cp", here.to_str().unwrap(), &format!("{name}:{to}/")]).success();
            engine.docker(["cp", &format!("{name}:{to}/here"), back.to_str().unwrap()]).success();
            assert_eq!(std::fs::read_to_string(back.join("sub/file")).unwrap(), "content", "{name}:{to}");
            std::fs::remove_dir_all(&back).unwrap();
        }
        // A volume's file is in the volume, also where the container is stopped.
        let volume = engine.root().join(format!("data/volumes/{name}/_data/here/sub/file"));
        assert!(volume.exists(), "{}", volume.display());
        assert_eq!(engine.berth(["cp", &format!("{name}:/a/f"), "-"]).code, 0);
    }
}

#[test]
fn links_of_a_container_lead_nowhere_on_the_host() {
    let Some(engine) = Engine::start("cp-links") else { return };
    let secret = engine.root().join("secret");
    std::fs::write(&secret, "host").unwrap();
    let plant = format!("ln -s {0} /x; ln -s {1} /dir", secret.display(), engine.root().display());
    for &name in both(&engine) {
        if name == "running" {
            engine.docker(["exec", name, "sh", "-c", &plant]).success();
        } else {
            engine.docker(["start", name]).success();
            engine.docker(["wait", name]).success();
            let archive = engine.root().join("x.tar");
            let script = format!(
                "cd {} && ln -sf {} x && tar cf {} x",
                engine.root().display(),
                secret.display(),
                archive.display()
            );
            assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
            engine.docker_with_input(["cp", "-", &format!("{name}:/")], &std::fs::read(&archive).unwrap()).success();
            std::fs::remove_file(engine.root().join("x")).unwrap();
        }
        let out = engine.root().join("out");
        // Followed, it would be the host's file: inside, there is nothing of that name.
        let output = engine.docker(["cp", "-L", &format!("{name}:/x"), out.to_str().unwrap()]);
        assert_ne!(output.code, 0, "{}", output.stdout);
        let evil = engine.root().join("evil");
        std::fs::write(&evil, "evil").unwrap();
        engine.docker(["cp", evil.to_str().unwrap(), &format!("{name}:/x")]);
        engine.docker(["cp", evil.to_str().unwrap(), &format!("{name}:/dir/secret")]);
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "host");
    }
}

#[test]
fn a_link_swapped_in_during_a_copy_changes_nothing_on_the_host() {
    let Some(engine) = Engine::start("cp-race") else { return };
    let victim = engine.root().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("file"), "host").unwrap();
    let swap = format!("while true; do mkdir -p /d; mv /d /e; ln -s {} /d; rm /d; rm -rf /e; done", victim.display());
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", &swap]).success();
    let file = engine.root().join("file");
    std::fs::write(&file, "evil").unwrap();
    for _ in 0..if berth_testkit::in_machines() { 10 } else { 50 } {
        engine.docker(["cp", file.to_str().unwrap(), "box:/d/file"]);
    }
    assert_eq!(std::fs::read_to_string(victim.join("file")).unwrap(), "host");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1);
    engine.docker(["rm", "-f", "box"]).success();
}

#[test]
fn refusals_are_dockers() {
    let Some(engine) = Engine::start("cp-bad") else { return };
    let run = ["run", "-d", "--name", "box", "--read-only", "-v", "data:/v:ro", "tiny", "sleep", "1000"];
    engine.docker(run).success();
    let file = engine.root().join("file");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    let missing = engine.docker(["cp", "box:/nope", "-"]).failure(1);
    assert!(missing.contains("Could not find the file /nope in container box"), "{missing}");
    let rootfs = engine.docker(["cp", file, "box:/tmp/"]).failure(1);
    assert!(rootfs.contains("container rootfs is marked read-only"), "{rootfs}");
    let volume = engine.docker(["cp", file, "box:/v/"]).failure(1);
    assert!(volume.contains("mounted volume is marked read-only"), "{volume}");
}

#[test]
fn diff_shows_what_changed_and_nothing_of_ours() {
    let Some(engine) = Engine::start("diff") else { return };
    // Of a machine that does not run nobody reads the disk.
    let keep = if berth_testkit::in_machines() { "sleep 1000" } else { "true" };
    let changes = |name: &str, script: &str| -> Vec<String> {
        let script = format!("{script}; echo done; {keep}");
        engine.docker(["run", "-d", "--name", name, "tiny", "sh", "-c", &script]).success();
        berth_testkit::wait_until("it is done", || engine.docker(["logs", name]).stdout.contains("done"));
        engine.docker(["diff", name]).success().lines().map(str::to_owned).collect()
    };
    assert!(changes("idle", "true").is_empty());
    let mut lines = changes("busy", "echo x > /etc/group; echo y > /etc/new; rm /etc/passwd; mkdir /made");
    lines.sort();
    assert_eq!(lines, ["A /etc/new", "A /made", "C /etc", "C /etc/group", "D /etc/passwd"]);
}

#[test]
fn an_export_is_the_whole_file_system_without_mounts() {
    let Some(engine) = Engine::start("export") else { return };
    for &name in both(&engine) {
        let tar = engine.root().join("export.tar");
        engine.docker(["export", "-o", tar.to_str().unwrap(), name]).success();
        let list = std::process::Command::new("tar").arg("tf").arg(&tar).output().unwrap().stdout;
        let list = String::from_utf8_lossy(&list).into_owned();
        for wanted in ["a/f", "bin/busybox", "proc/"] {
            assert!(list.lines().any(|line| line == wanted), "{name}: {wanted} in {list}");
        }
        assert!(!list.lines().any(|line| line.starts_with("proc/1")), "{name}: {list}");
    }
}

#[test]
fn a_containers_size_is_that_of_its_files_and_its_room_that_on_the_disk() {
    let Some(engine) = Engine::start("sizes") else { return };
    let write = "mkdir -p /new/folder && printf 0123456789 > /new/file && ln /new/file /new/again; exec sleep 1000";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", write]).success();
    berth_testkit::wait_until("it has written", || {
        engine.docker(["exec", "box", "test", "-e", "/new/again"]).code == 0
    });
    let shown = engine.api("GET", "/v1.51/containers/box/json?size=1", "").expect(200).json();
    assert_eq!(shown["SizeRw"], 10, "{shown}");
    let listed = engine.api("GET", "/v1.51/containers/json?size=1", "").expect(200).json();
    assert_eq!((&listed[0]["SizeRw"], &listed[0]["SizeRootFs"]), (&shown["SizeRw"], &shown["SizeRootFs"]));
    // What a removal would free: blocks, and those of the folders too.
    let room = engine.api("GET", "/v1.51/system/df?type=container", "").expect(200).json();
    assert!(room["Containers"][0]["SizeRw"].as_u64().unwrap() >= 8192, "{room}");
}
