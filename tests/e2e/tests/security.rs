//! Flaws that other engines had, tried through the engine's doors, each by its number. (Those of the runtime alone
//! are in `crates/berth-shim/tests/runtime/security.rs`.)

use berth_testkit::{Engine, parent_of, programs, wait_until};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// An archive made by a shell in a folder of the engine's.
fn archive(engine: &Engine, script: &str) -> Vec<u8> {
    let folder = engine.root().join("pack");
    std::fs::create_dir_all(&folder).expect("a folder to pack");
    let output = Command::new("sh").args(["-c", script]).current_dir(&folder).output().expect("a shell starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    output.stdout
}

#[test]
fn cve_2019_14271_copying_reads_nothing_of_the_container_but_what_is_copied() {
    let Some(engine) = Engine::start("cve-14271") else { return };
    // Whoever looks names up in here waits for ever, or loads a library that tells.
    let plant = "cd /etc; rm passwd group; mkfifo passwd group nsswitch.conf; mkdir -p /lib; mkfifo /lib/libnss_files.so.2; \
                 echo content >/file; exec sleep 1000";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", plant]).success();
    wait_until("it is planted", || engine.docker(["exec", "-u", "0", "box", "test", "-e", "/file"]).code == 0);
    let begun = Instant::now();
    for client in ["docker", "berth"] {
        let to = engine.root().join(client);
        let copy = |arguments: &[&str]| match client {
            "docker" => engine.docker(arguments),
            _ => engine.berth(arguments),
        };
        copy(&["cp", "-a", "box:/file", to.to_str().unwrap()]).success();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "content\n");
        copy(&["cp", "-a", to.to_str().unwrap(), "box:/back"]).success();
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "copying waited for a pipe of the container's");
}

#[test]
fn ghsa_x86f_5xw2_fm2r_no_program_of_the_container_unpacks_an_archive() {
    let Some(engine) = Engine::start("ghsa-x86f") else { return };
    let plant = "for name in xz unxz xzcat gzip gunzip unpigz pigz bzip2 zstd tar; do rm -f /bin/$name; \
                 printf '#!/bin/sh\\ntouch /ran\\n' >/bin/$name; chmod +x /bin/$name; done; echo ready; exec sleep 1000";
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", plant]).success();
    wait_until("it is planted", || engine.docker(["logs", "box"]).stdout.contains("ready"));
    let put = |body: &[u8]| {
        let headers = [("Content-Type", "application/x-tar")];
        engine.exchange("PUT", "/containers/box/archive?path=/tmp", &headers, body).finish().expect("an answer")
    };
    let gzip = put(&archive(&engine, "echo x >file && tar c file | gzip"));
    assert_eq!(gzip.status, 200, "{}", gzip.text());
    let xz = archive(&engine, "echo x >other && tar c other | xz 2>/dev/null || printf '\\375\\067zXZ\\000nonsense'");
    let xz = put(&xz);
    assert!(xz.status == 200 || (xz.status == 400 && xz.message().contains("xz")), "{} {}", xz.status, xz.text());
    let listed = engine.docker(["exec", "box", "ls", "/", "/tmp"]).success();
    assert!(listed.contains("file") && !listed.contains("ran"), "{listed}");
    assert!(!std::path::Path::new("/ran").exists(), "a program of the container ran on the host");
}

#[test]
fn ghsa_vp62_88p7_qqf5_a_mount_behind_an_absolute_link_is_found_inside() {
    let Some(engine) = Engine::start("ghsa-vp62") else { return };
    let host = engine.root().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("secret"), "host").unwrap();
    // The image's /var/run is a link, as in Debian, and /out points at a folder of the host.
    let plant = format!("ln -s /run /var/run; mkdir -p /run; ln -s {} /out", host.display());
    engine.docker(["run", "--name", "maker", "tiny", "sh", "-c", &plant]).success();
    engine.docker(["commit", "maker", "linked"]).success();
    let file = engine.root().join("file");
    std::fs::write(&file, "copied").unwrap();
    let volume = engine.root().join("data/volumes/data/_data");
    for (name, command) in [("running", "sleep 1000"), ("stopped", "true")] {
        let mounts = ["-v", "data:/var/run/data", "-v", "outer:/out/inner"];
        let all: Vec<&str> = ["run", "-d", "--name", name]
            .iter()
            .chain(&mounts)
            .chain(&["linked", "sh", "-c", command])
            .copied()
            .collect();
        engine.docker(&all).success();
        if name == "stopped" {
            engine.docker(["wait", name]).success();
        }
        engine.docker(["cp", file.to_str().unwrap(), &format!("{name}:/var/run/data/{name}")]).success();
        assert_eq!(std::fs::read_to_string(volume.join(name)).unwrap(), "copied", "{name}");
        let back = engine.root().join("back");
        engine.docker(["cp", &format!("{name}:/run/data/{name}"), back.to_str().unwrap()]).success();
        assert_eq!(std::fs::read_to_string(&back).unwrap(), "copied", "{name}");
        engine.docker(["cp", file.to_str().unwrap(), &format!("{name}:/out/inner/{name}")]).success();
    }
    // Neither the mount's target nor the copies came out of the container.
    let left: Vec<_> = std::fs::read_dir(&host).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["secret"]);
}

#[test]
fn cve_2019_5736_the_program_beside_a_container_cannot_be_written() {
    let Some(engine) = Engine::start("cve-5736") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    let first: i32 = engine.docker(["inspect", "-f", "{{.State.Pid}}", "box"]).success().parse().unwrap();
    // As a file it is everybody's; what a container could get at is this one's link to it.
    let program = format!("/proc/{}/exe", parent_of(first));
    let inode = |path: &std::path::Path| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(program.as_ref()), inode(&programs().join("berth-shim")), "{program}");
    let flags = rustix::fs::statvfs(&program).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{flags:?}");
}

#[test]
fn cve_2024_21626_no_working_directory_leads_to_the_host() {
    let Some(engine) = Engine::start("cve-21626") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sh", "-c", "ln -s /proc/self/fd /fds; sleep 1000"]).success();
    let own = engine.docker(["exec", "box", "stat", "-c", "%d:%i", "/"]).success();
    for number in [3, 6, 7, 8, 9, 10] {
        for path in
            [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../../.."), format!("/fds/{number}")]
        {
            let look = "stat -c %d:%i /proc/self/cwd; cd ..; cd ..; cd ..; cd ..; stat -c %d:%i .; ls /proc/self/cwd/etc/hostname";
            let run = engine.docker(["run", "--rm", "-w", &path, "tiny", "sh", "-c", look]);
            assert!(run.code != 0 || !run.stdout.contains("/etc/shadow"), "{path}: {run:?}");
            let exec = engine.docker(["exec", "-w", &path, "box", "sh", "-c", "cd ../../../..; stat -c %d:%i ."]);
            assert!(exec.code != 0 || exec.stdout.trim() == own, "{path}: {exec:?}");
        }
    }
    // And none is open for a program to look for.
    let open = engine
        .docker(["run", "--rm", "tiny", "sh", "-c", "for f in /proc/self/fd/*; do readlink $f; done; true"])
        .success();
    assert!(!open.lines().any(|line| line.starts_with('/') && !line.starts_with("/dev/")), "{open}");
}

#[test]
fn ghsa_6fw5_f8r9_fgfm_and_jq35_85cj_fj4p_side_channels_are_masked() {
    let Some(engine) = Engine::start("ghsa-6fw5") else { return };
    let look = "cat /proc/interrupts /proc/timer_list /proc/keys /proc/latency_stats 2>/dev/null | wc -c; \
                ls -A /proc/acpi /sys/firmware /sys/devices/virtual/powercap /proc/scsi 2>/dev/null | grep -v : | grep -c .; \
                ls -Ad /sys/devices/system/cpu/cpu*/thermal_throttle/* 2>/dev/null | wc -l";
    let text = engine.docker(["run", "--rm", "tiny", "sh", "-c", look]).success();
    assert_eq!(text, "0\n0\n0");
    let seen = engine.docker(["run", "--rm", "--privileged", "tiny", "sh", "-c", "wc -c </proc/interrupts"]).success();
    assert_ne!(seen, "0", "a privileged container is shown what is so: the test can fail");
    // What is masked stays so for exec, and cannot be taken off with the rights that a container has.
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    assert_eq!(
        engine
            .docker(["exec", "box", "sh", "-c", "umount /proc/interrupts 2>/dev/null; wc -c </proc/interrupts"])
            .success(),
        "0"
    );
}

#[test]
fn cve_2025_9074_no_container_reaches_the_engines_door() {
    let Some(engine) = Engine::start("cve-9074") else { return };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    // The engine listens on its socket and on nothing else.
    let sockets = std::fs::read_dir(format!("/proc/{}/fd", engine.pid())).unwrap().flatten();
    let inodes: Vec<String> = sockets
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap();
        // State 0A: listening.
        let listening = text.lines().skip(1).filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        let own = listening.filter(|line| inodes.iter().any(|inode| line.split_whitespace().nth(9) == Some(inode)));
        assert_eq!(own.count(), 0, "{table}:\n{text}");
    }
    // Nor is the socket inside, or any descriptor that leads to it.
    let look = "find / -xdev -type s 2>/dev/null; cat /proc/net/unix | grep -c berth.sock";
    let text = engine.docker(["exec", "box", "sh", "-c", look]).stdout;
    assert_eq!(text.trim(), "0", "{text}");
}

#[test]
fn only_root_and_the_sockets_group_get_in() {
    const GROUP: &str = "54321";
    let folder = tempfile::Builder::new().prefix("berth-door-").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let socket = folder.path().join("engine.sock");
    let host = format!("unix://{}", socket.display());
    let Some(_engine) = Engine::start_with("security-door", &["--group", GROUP, "-H", &host]) else { return };
    let ask = |user: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(user).args(["curl", "-sS", "--unix-socket"]).arg(&socket).arg("http://e/_ping");
        berth_testkit::Output::of(&mut command)
    };
    let nobody = ["--reuid", "65534", "--regid", "65534"];
    let refused = ask(&[&nobody[..], &["--clear-groups"]].concat());
    assert!(refused.code != 0 && refused.stdout.is_empty(), "{} {}", refused.stdout, refused.stderr);
    assert_eq!(ask(&[&nobody[..], &["--groups", GROUP]].concat()).success(), "OK");
    assert_eq!(ask(&["--reuid", "0", "--regid", "0", "--clear-groups"]).success(), "OK");
}
