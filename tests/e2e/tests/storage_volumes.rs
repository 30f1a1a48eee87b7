//! Volumes and mounts, with the installed `docker` client.

use berth_testkit::Engine;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("an answer in JSON")
}

#[test]
fn data_outlives_the_container_that_wrote_it() {
    let Some(engine) = Engine::start("volumes") else { return };
    engine.docker(["run", "--rm", "-v", "data:/d", "tiny", "sh", "-c", "echo kept > /d/f"]).success();
    assert_eq!(engine.docker(["run", "--rm", "-v", "data:/d", "tiny", "cat", "/d/f"]).success(), "kept");
    let volume = json(&engine.docker(["volume", "inspect", "data"]).success());
    assert_eq!(volume[0]["Driver"], "local");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "data");
    engine.docker(["volume", "rm", "data"]).success();
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "");
}

#[test]
fn a_used_volume_is_not_removed_and_an_unused_anonymous_one_is_pruned() {
    let Some(engine) = Engine::start("volumes-used") else { return };
    engine.docker(["create", "--name", "box", "-v", "data:/d", "-v", "/anonymous", "tiny"]).success();
    let refusal = engine.docker(["volume", "rm", "data"]).failure(1);
    assert!(refusal.contains("volume is in use"), "{refusal}");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success().lines().count(), 2);
    engine.docker(["rm", "box"]).success();
    // Without -v the anonymous one stays until a prune, which leaves named ones alone.
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success().lines().count(), 2);
    engine.docker(["volume", "prune", "-f"]).success();
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "data");
    engine.docker(["run", "--rm", "-v", "/anonymous", "tiny", "true"]).success();
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "data");
}

#[test]
fn a_fresh_volume_starts_with_the_images_content() {
    let Some(engine) = Engine::start("volumes-copy") else { return };
    let listed = engine.docker(["run", "--rm", "-v", "etc:/etc", "tiny", "cat", "/etc/group"]).success();
    assert!(listed.contains("root:x:0:"), "{listed}");
    let empty = engine.docker(["run", "--rm", "-v", "other:/root2:nocopy", "tiny", "ls", "-A", "/root2"]).success();
    assert_eq!(empty, "");
    // A volume that has something keeps what it has.
    engine.docker(["run", "--rm", "-v", "etc:/etc", "tiny", "sh", "-c", "echo mine > /etc/group"]).success();
    assert_eq!(engine.docker(["run", "--rm", "-v", "etc:/etc", "tiny", "cat", "/etc/group"]).success(), "mine");
}

#[test]
fn read_only_means_read_only() {
    let Some(engine) = Engine::start("volumes-ro") else { return };
    let host = engine.root().join("shared");
    std::fs::create_dir(&host).unwrap();
    let bind = format!("{}:/h:ro", host.display());
    let refusal = engine.docker(["run", "--rm", "-v", &bind, "tiny", "touch", "/h/x"]).failure(1);
    assert!(refusal.contains("Read-only file system"), "{refusal}");
    engine.docker(["run", "--rm", "-v", &bind[..bind.len() - 3], "tiny", "touch", "/h/x"]).success();
    assert!(host.join("x").exists());
    engine.docker(["run", "--rm", "--read-only", "--tmpfs", "/run", "tiny", "touch", "/run/x"]).success();
    engine.docker(["run", "--rm", "--read-only", "tiny", "touch", "/x"]).failure(1);
}

#[test]
fn a_missing_source_is_made_for_v_and_refused_for_mount() {
    let Some(engine) = Engine::start("volumes-missing") else { return };
    let missing = engine.root().join("not/there");
    let mount = format!("type=bind,src={},dst=/h", missing.display());
    let refusal = engine.docker(["run", "--rm", "--mount", &mount, "tiny", "true"]).failure(125);
    assert!(refusal.contains("bind source path does not exist"), "{refusal}");
    engine.docker(["run", "--rm", "-v", &format!("{}:/h", missing.display()), "tiny", "true"]).success();
    assert!(missing.is_dir());
}

#[test]
fn a_subpath_stays_beneath_its_volume() {
    let Some(engine) = Engine::start("volumes-subpath") else { return };
    let write = "mkdir -p /d/in && echo inside > /d/in/f && ln -s /etc /d/out && ln -s ../../../../etc /d/up";
    engine.docker(["run", "--rm", "-v", "data:/d", "tiny", "sh", "-c", write]).success();
    let mount = |sub: &str| format!("type=volume,src=data,dst=/s,volume-subpath={sub}");
    assert_eq!(engine.docker(["run", "--rm", "--mount", &mount("in"), "tiny", "cat", "/s/f"]).success(), "inside");
    for bad in ["out", "up", "../x", "missing"] {
        let output = engine.docker(["run", "--rm", "--mount", &mount(bad), "tiny", "ls", "/s"]);
        assert_ne!(output.code, 0, "{bad}: {}", output.stdout);
    }
}

#[test]
fn mounts_are_taken_over_from_another_container() {
    let Some(engine) = Engine::start("volumes-from") else { return };
    engine.docker(["run", "--name", "first", "-v", "/d", "tiny", "sh", "-c", "echo hers > /d/f"]).success();
    assert_eq!(engine.docker(["run", "--rm", "--volumes-from", "first", "tiny", "cat", "/d/f"]).success(), "hers");
    let refusal = engine.docker(["run", "--rm", "--volumes-from", "first:ro", "tiny", "touch", "/d/x"]).failure(1);
    assert!(refusal.contains("Read-only file system"), "{refusal}");
}

#[test]
fn bad_mounts_are_refused_in_dockers_words() {
    let Some(engine) = Engine::start("volumes-bad") else { return };
    for (arguments, words) in [
        (&["-v", "/a:/b:fast"][..], "invalid mode: fast"),
        (&["--mount", "type=volume,src=x,dst=/b"], "volume name is too short"),
        (&["-v", "bad name:/b"], "includes invalid characters"),
        (&["-v", "/tmp:/x", "-v", "/var:/x"], "Duplicate mount point: /x"),
        (&["-v", "/tmp:/"], "destination can't be '/'"),
        (&["--volume-driver", "ceph", "-v", "data:/x"], "plugin \"ceph\" not found"),
    ] {
        let output = engine.docker([&["create"][..], arguments, &["tiny"]].concat());
        assert!(output.code != 0 && output.stderr.contains(words), "{arguments:?}: {}", output.stderr);
    }
    // Nothing half made is left.
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "");
    assert_eq!(engine.docker(["ps", "-aq"]).success(), "");
}

#[test]
fn disk_use_is_what_the_disk_says() {
    let Some(engine) = Engine::start("volumes-df") else { return };
    let write = "dd if=/dev/urandom of=/d/f bs=1M count=20 2>/dev/null";
    engine.docker(["run", "--rm", "-v", "data:/d", "tiny", "sh", "-c", write]).success();
    let usage = json(&engine.docker(["system", "df", "--format", "{{json .}}", "-v"]).success());
    let size = usage["Volumes"][0]["Size"].as_str().unwrap_or_default().to_owned();
    // 20 MiB are 20.97 MB in Docker's units.
    assert!(size.starts_with("20.9") || size.starts_with("21"), "{size}");
}

/// The folder of a developer, used by an image whose user has another number.
#[test]
fn an_id_mapped_mount_shows_the_owner_as_the_containers_user() {
    use std::os::unix::fs::{MetadataExt, chown};
    let Some(engine) = Engine::start("volume-idmap") else { return };
    let folder = tempfile::Builder::new().prefix("berth-idmap-").tempdir_in("/var/tmp").expect("a folder");
    std::fs::write(folder.path().join("old"), "x").expect("a file");
    for path in [folder.path().to_owned(), folder.path().join("old")] {
        chown(path, Some(1234), Some(2345)).expect("root");
    }
    let source = folder.path().display();
    let look = ["tiny", "sh", "-c", "ls -ln /d/old; echo y > /d/new"];
    let maps =
        [(format!("{source}:/d:idmap"), "7:8"), (format!("{source}:/d:idmap=uids=1234-7-1;gids=2345-8-1"), "7:8")];
    for (volume, user) in &maps {
        let seen = engine.docker(["run", "--rm", "--user", user, "-v", volume].iter().chain(&look)).success();
        let words: Vec<&str> = seen.split_whitespace().collect();
        assert_eq!(words[2..4], ["7", "8"], "{seen}");
        let new = std::fs::metadata(folder.path().join("new")).expect("made by the container");
        assert_eq!((new.uid(), new.gid()), (1234, 2345));
        std::fs::remove_file(folder.path().join("new")).expect("ours");
    }
    // Whoever is not in the map has no number of its own, and cannot write.
    let other = engine.docker(["run", "--rm", "--user", "9:9", "-v", &maps[1].0].iter().chain(&look)).stdout;
    assert!(other.contains("7") && !folder.path().join("new").exists(), "{other}");
    let refused = engine.docker(["create", "--user", "nobody", "-v", &maps[0].0, "tiny"]).failure(1);
    assert!(refused.contains("give the user by number"), "{refused}");
    let refused = engine.docker(["create", "-v", &format!("{source}:/d:idmap=uids=1-1"), "tiny"]).failure(1);
    assert!(refused.contains("invalid mode: idmap=uids=1-1"), "{refused}");
}
