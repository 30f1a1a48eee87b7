//! Images as archives: save, load, import, export, commit, and what they leave.
#![allow(clippy::unwrap_used, reason = "a test program; clippy knows only #[test] functions as tests")]

use berth_testkit::{Engine, Reply, Server, du};
use sha2::Digest as _;
use std::path::Path;
use std::process::Command;

/// A tar file of names and contents.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An archive of one image of these layers.
fn image(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let config = serde_json::json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": ids } })
    .to_string();
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": names }]).to_string();
    let mut files: Vec<(&str, &[u8])> =
        names.iter().map(String::as_str).zip(layers.iter().map(|layer| &layer[..])).collect();
    files.extend([("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())]);
    tar(&files)
}

/// The layer of the image `tiny`, as it was imported.
fn tiny() -> Vec<u8> {
    berth_testkit::tiny_archive().to_vec()
}

fn layers(engine: &Engine) -> Vec<String> {
    let entries = std::fs::read_dir(engine.root().join("data/layers")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What a container says about all that an image can hold.
const LOOK: &str = "cd /w && stat -c '%n %F %a %u:%g %s %h' f g link null pipe hole sub sub/new . && cat g sub/new && \
    ls -A sub /w/opaque && ls /etc/passwd /etc/gone 2>&1; test -e /lower/deleted || echo deleted";

#[test]
fn what_a_container_made_survives_commit_save_and_load_into_another_engine() {
    let (Some(here), Some(there)) = (Engine::start("save"), Engine::start("load")) else { return };
    let base = "mkdir -p /w/sub /w/opaque /lower && echo old >/w/opaque/below && echo x >/lower/deleted && \
        echo y >/lower/kept && echo z >/etc/gone";
    here.docker(["run", "--name", "base", "tiny", "sh", "-c", base]).success();
    here.docker(["commit", "base", "base:1"]).success();
    let make = "rm /lower/deleted /etc/gone && rm -r /w/opaque && mkdir /w/opaque && echo new >/w/opaque/only && cd /w && \
        echo text >f && ln f g && ln -s f link && mknod null c 1 3 && mkfifo pipe && truncate -s 5M hole && \
        echo n >sub/new && chown 33:44 sub/new && chmod 4751 f && chmod 2770 sub";
    here.docker(["run", "--name", "made", "base:1", "sh", "-c", make]).success();
    here.docker(["commit", "-m", "words", "-c", "ENV A=b", "made", "made:1"]).success();
    let expected = here.docker(["run", "--rm", "made:1", "sh", "-c", LOOK]).success();
    assert!(expected.contains("deleted") && expected.contains("only") && !expected.contains("below"), "{expected}");
    here.docker(["tag", "made:1", "made:again"]).success();

    let archive = here.root().join("images.tar");
    here.docker(["save", "-o", archive.to_str().unwrap(), "made", "base:1"]).success();
    let said = there.docker(["load", "-i", archive.to_str().unwrap()]).success();
    for name in ["made:1", "made:again", "base:1"] {
        assert!(said.contains(&format!("Loaded image: {name}")), "{said}");
        let id = |engine: &Engine| engine.docker(["image", "inspect", "-f", "{{.Id}}", name]).success();
        assert_eq!(id(&here), id(&there), "{name}");
    }
    assert_eq!(there.docker(["run", "--rm", "made:1", "sh", "-c", LOOK]).success(), expected);
    // The same images give the same archive, also from the engine that loaded them.
    let again = there.root().join("again.tar");
    there.docker(["save", "-o", again.to_str().unwrap(), "made", "base:1"]).success();
    assert!(std::fs::read(&archive).unwrap() == std::fs::read(&again).unwrap());
    let history = there.docker(["history", "--format", "{{.Comment}}", "made:1"]).success();
    assert!(history.starts_with("words"), "{history}");
    assert_eq!(there.docker(["image", "inspect", "-f", "{{.Config.Env}}", "made:1"]).success(), "[A=b]");
}

#[test]
fn an_image_of_three_hundred_layers_runs() {
    let Some(engine) = Engine::start("layers") else { return };
    let mut all = vec![tiny()];
    for number in 1..300 {
        // Each adds one file and deletes one of the layer before.
        let gone = format!("many/.wh.{}", number - 2);
        let name = format!("many/{number}");
        let mut files: Vec<(&str, &[u8])> = vec![(&name, b"x")];
        if number % 2 == 0 && number > 2 {
            files.push((&gone, b""));
        }
        all.push(tar(&files));
    }
    let archive = image("many:1", &all);
    engine.docker_with_input(["load"], &archive).success();
    let count = engine.docker(["run", "--rm", "many:1", "sh", "-c", "ls /many | wc -l; echo w >/many/new"]).success();
    // 299 files, without 2, 4, ... 296.
    assert_eq!(count, (299 - 148).to_string());
    assert_eq!(engine.docker(["image", "inspect", "-f", "{{len .RootFS.Layers}}", "many:1"]).success(), "300");
}

#[test]
fn an_engine_killed_while_it_loads_shows_nothing_half_done() {
    let Some(mut engine) = Engine::start("killed") else { return };
    let noise = |seed: usize| (0..30_000).map(|n| ((n * 31 + seed * 17) % 251) as u8).collect::<Vec<u8>>();
    let contents: Vec<(String, Vec<u8>)> = (0..300).map(|n| (format!("d{}/f{n}", n % 20), noise(n))).collect();
    let files: Vec<(&str, &[u8])> = contents.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let archive = engine.root().join("big.tar");
    let bytes = image("big:1", &[tiny(), tar(&files), tar(&files[..100])]);
    std::fs::write(&archive, bytes).unwrap();
    let before = layers(&engine);
    for round in 0..4 {
        let load = engine.command(Path::new("docker")).args(["load", "-i"]).arg(&archive).spawn();
        let mut load = load.unwrap();
        // Later each time: before the first layer, within one, near the end.
        let wanted = round * 3;
        berth_testkit::wait_until("the load is that far", || {
            let unpacked: usize = std::fs::read_dir(engine.root().join("data/layers"))
                .unwrap()
                .filter_map(|entry| std::fs::read_dir(entry.ok()?.path().join("fs")).ok())
                .map(Iterator::count)
                .sum();
            unpacked >= 20 + wanted * 4 || load.try_wait().unwrap().is_some()
        });
        engine.kill();
        load.wait().unwrap();
        engine.launch();
        let listed = engine.docker(["images", "-q", "big"]).success();
        if !listed.is_empty() {
            // The kill came after the record: then all of it is there.
            engine.docker(["run", "--rm", "big:1", "sh", "-c", "cat /d[0-9]*/f* | wc -c"]).success();
            engine.docker(["rmi", "big:1"]).success();
        }
        berth_testkit::wait_until("what was half done is gone", || layers(&engine) == before);
    }
    engine.docker(["load", "-q", "-i", archive.to_str().unwrap()]).success();
    let count = engine.docker(["run", "--rm", "big:1", "sh", "-c", "cat /d[0-9]*/f* | wc -c"]).success();
    assert_eq!(count, (300 * 30_000).to_string());
}

#[test]
fn a_full_disk_is_said_so_and_leaves_nothing() {
    let Some(mut engine) = Engine::start("full") else { return };
    let (archive, tiny) = (engine.root().join("big.tar"), engine.root().join("tiny.tar"));
    // Not zeros: those would take no space.
    let noise: Vec<u8> = (0..40_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    std::fs::write(&archive, image("big:1", &[tar(&[("noise", &noise)])])).unwrap();
    std::fs::write(&tiny, berth_testkit::tiny_archive()).unwrap();
    engine.kill();
    let small = engine.root().join("data");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&small).status().unwrap();
    assert!(mounted.success());
    engine.launch();
    engine.docker(["import", tiny.to_str().unwrap(), "tiny"]).success();
    let before = (layers(&engine), du(&small));
    for _ in 0..2 {
        let failed = engine.docker(["load", "-i", archive.to_str().unwrap()]);
        assert_ne!(failed.code, 0, "{}", failed.stdout);
        assert!(failed.stderr.contains("No space left on device"), "{}", failed.stderr);
        assert_eq!(layers(&engine), before.0);
        assert!(du(&small) < before.1 + (1 << 20), "{} then {}", before.1, du(&small));
    }
    // The engine goes on.
    engine.docker(["run", "--rm", "tiny", "true"]).success();
    assert_eq!(engine.docker(["images", "-q", "big"]).success(), "");
    engine.kill();
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    engine.launch();
}

#[test]
fn system_df_equals_the_disk() {
    let Some(engine) = Engine::start("df") else { return };
    let base = tiny();
    let one = tar(&[("a", &vec![7; 3_000_000]), ("b/c", b"x"), ("b/d", &[9; 5000])]);
    engine.docker_with_input(["load"], &image("one:1", &[base.clone(), one.clone()])).success();
    engine.docker_with_input(["load"], &image("two:1", &[base, one, tar(&[("e", &vec![5; 1_000_000])])])).success();
    let write = "head -c 2500000 /dev/zero | tr '\\0' x >/w; mkdir /d; for i in $(seq 50); do echo $i >/d/$i; done; \
        head -c 7000000 /dev/zero | tr '\\0' y >/v/f";
    engine.docker(["run", "--name", "con", "-v", "vol:/v", "one:1", "sh", "-c", write]).success();
    engine.check_df();
    let data = engine.root().join("data");
    // What two images share counts once, and goes with the last of them.
    let size =
        |name: &str| -> u64 { engine.docker(["image", "inspect", "-f", "{{.Size}}", name]).success().parse().unwrap() };
    assert!(size("two:1") > size("one:1"));
    let total = du(&data.join("layers"));
    engine.docker(["rmi", "two:1"]).success();
    let freed = total - du(&data.join("layers"));
    assert!((1_000_000..1_200_000).contains(&freed), "{freed}");
    engine.docker(["rm", "-v", "con"]).success();
    engine.docker(["image", "prune", "-af"]).success();
    assert_eq!(layers(&engine), Vec::<String>::new());
}

#[test]
fn an_export_is_imported_the_same() {
    let Some(engine) = Engine::start("export") else { return };
    let make = "mkdir /w && cd /w && echo text >f && ln f g && ln -s f link && mknod null c 1 3 && truncate -s 2M hole && \
        chown 5:6 f && chmod 4750 f && rm /etc/group";
    engine.docker(["run", "--name", "made", "tiny", "sh", "-c", make]).success();
    let archive = engine.root().join("export.tar");
    engine.docker(["export", "-o", archive.to_str().unwrap(), "made"]).success();
    let import = ["import", "-c", "CMD [\"sh\"]", "-m", "words", archive.to_str().unwrap(), "again:1"];
    engine.docker(import).success();
    let look = "cd /w && stat -c '%n %F %a %u:%g %s %h %t,%T' f g link null hole; ls /etc";
    let says = |image: &str| engine.docker(["run", "--rm", image, "sh", "-c", look]).success();
    engine.docker(["commit", "made", "committed:1"]).success();
    assert_eq!(says("again:1"), says("committed:1"));
    assert_eq!(
        engine.docker(["image", "inspect", "-f", "{{.Comment}} {{len .RootFS.Layers}}", "again:1"]).success(),
        "words 1"
    );
}

#[test]
fn a_name_can_be_taken_from_an_image_that_others_stand_on() {
    let Some(engine) = Engine::start("base-untagged") else { return };
    engine.docker(["tag", "tiny", "base:1"]).success();
    engine.docker(["run", "--name", "made", "base:1", "touch", "/made"]).success();
    engine.docker(["commit", "made", "child:1"]).success();
    engine.docker(["rm", "made"]).success();
    engine.docker(["rmi", "tiny"]).success();
    let id = engine.docker(["image", "inspect", "-f", "{{.Id}}", "base:1"]).success();
    assert_eq!(engine.docker(["rmi", "base:1"]).success(), "Untagged: base:1");
    let refused = engine.docker(["rmi", &id]).failure(1);
    assert!(refused.contains("(cannot be forced) - image has dependent child images"), "{refused}");
    engine.docker(["run", "--rm", "child:1", "ls", "/made"]).success();
    // The last that stands on it takes it along.
    assert!(engine.docker(["rmi", "child:1"]).success().contains(&format!("Deleted: {id}")));
}

#[test]
fn an_archive_is_imported_from_elsewhere() {
    let Some(engine) = Engine::start("import-url") else { return };
    let archive = tar(&[("f", b"from afar\n")]);
    let cut = archive.len() / 2;
    let served = archive.clone();
    let server = Server::start(move |request| match request.target.as_str() {
        "/root.tar" => Reply::new(200, served.clone()),
        "/cut.tar" => Reply { cut_after: Some(cut), ..Reply::new(200, served.clone()) },
        _ => Reply::new(404, "no such file"),
    });
    let url = format!("http://{}/root.tar", server.address());
    let said = engine.docker(["import", &url, "afar:1"]).success();
    assert!(said.starts_with(&format!("Downloading from {url}\n")) && said.contains("\nsha256:"), "{said}");
    let stream = engine.api("POST", &format!("/images/create?fromSrc={url}&repo=afar&tag=1"), "").text();
    let bytes = archive.len();
    let whole =
        format!("{{\"status\":\"Importing\",\"progressDetail\":{{\"current\":{bytes},\"total\":{bytes}}},\"progress\"");
    assert!(stream.contains(&whole) && !stream.contains("\"id\""), "{stream}");
    let words = ["image", "inspect", "-f", "{{.Comment}}", "afar:1"];
    assert_eq!(engine.docker(words).success(), format!("Imported from {url}"));
    engine.docker(["create", "--name", "look", "afar:1", "true"]).success();
    let copied = engine.root().join("copied");
    engine.docker(["cp", "look:/f", copied.to_str().expect("UTF-8")]).success();
    assert_eq!(std::fs::read(copied).expect("copied"), b"from afar\n");
    let before = layers(&engine);
    for (name, words) in [("missing.tar", "the server answers 404"), ("cut.tar", "cannot fetch")] {
        let refused = engine.docker(["import", &format!("http://{}/{name}", server.address())]).failure(1);
        assert!(refused.contains(words), "{name}: {refused}");
    }
    let missing = format!("http://{}/missing.tar", server.address());
    for (url, status) in [
        ("ftp://127.0.0.1/root.tar", 400),
        ("http://127.0.0.1:99999/root.tar", 400),
        ("http://nobody.invalid/root.tar", 404),
        (&missing, 404),
        // The address is good, and nobody is at home.
        ("http://127.0.0.1:1/root.tar", 503),
    ] {
        let refused = engine.api("POST", &format!("/images/create?fromSrc={url}"), "");
        assert_eq!((refused.status, refused.message().contains(url)), (status, true), "{url}: {}", refused.message());
    }
    assert_eq!(layers(&engine), before);
}

#[test]
fn broken_archives_are_refused_in_words_and_leave_nothing() {
    let Some(engine) = Engine::start("broken") else { return };
    let before = layers(&engine);
    let layer = tar(&[("f", b"x")]);
    let good = image("a:1", &[layer]);
    let mut lying = good.clone();
    let at = good.windows(7).position(|window| window == b"sha256:").unwrap() + 10;
    lying[at] = if lying[at] == b'0' { b'1' } else { b'0' };
    for (what, archive, words) in [
        ("empty", Vec::new(), "neither manifest.json nor index.json"),
        ("text", b"hello\n".repeat(1000), "damaged"),
        ("cut off", good[..good.len() / 2].to_vec(), "cut off"),
        ("another digest", lying, "invalid diffID for layer 0"),
    ] {
        let failed = engine.docker_with_input(["load"], &archive);
        assert_ne!(failed.code, 0, "{what}");
        assert!(failed.stderr.contains(words), "{what}: {}", failed.stderr);
        assert_eq!(layers(&engine), before, "{what}");
    }
    assert_ne!(engine.docker_with_input(["import", "-"], &good[..700]).code, 0);
    assert_eq!(layers(&engine), before);
}

/// A few bytes that say they are gigabytes (CVE-2017-14992).
#[test]
fn an_archive_that_unpacks_to_an_enormous_file_costs_neither_memory_nor_disk() {
    let Some(engine) = Engine::start("bomb") else { return };
    const SIZE: u64 = 7 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(SIZE);
    gnu.sparse[0].set_offset(SIZE);
    gnu.sparse[0].set_length(0);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, std::io::empty()).unwrap();
    let hole = builder.into_inner().unwrap();
    // What compresses a thousandfold is read as it comes.
    let zeros = tar(&[("zeros", &vec![0; 256 << 20])]);
    let peak = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", engine.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    };
    let before = (peak(), du(&engine.root().join("data")));
    engine.docker_with_input(["import", "-", "hole:1"], &hole).success();
    let after = du(&engine.root().join("data"));
    assert!(after < before.1 + (8 << 20), "{} bytes on the disk", after - before.1);
    engine.docker_with_input(["load"], &image("hole:2", &[tiny(), hole])).success();
    assert_eq!(engine.docker(["run", "--rm", "hole:2", "stat", "-c", "%s", "/hole"]).success(), SIZE.to_string());
    let mut gzip = Command::new("gzip")
        .arg("-1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = gzip.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || std::io::Write::write_all(&mut input, &zeros));
    let small = gzip.wait_with_output().unwrap().stdout;
    feeding.join().unwrap().unwrap();
    assert!(small.len() < 4 << 20);
    engine.docker_with_input(["import", "-", "zeros:1"], &small).success();
    assert!(peak() < before.0 + 64, "the engine grew from {} to {} MB", before.0, peak());
}

/// An image whose `/dev` leads to a folder of the host (CVE-2026-41579).
#[test]
fn an_image_with_dev_as_a_link_puts_nothing_on_the_host() {
    let Some(engine) = Engine::start("dev") else { return };
    let outside = engine.root().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "dev", &outside).unwrap();
    let archive = image("dev:1", &[tiny(), builder.into_inner().unwrap()]);
    engine.docker_with_input(["load"], &archive).success();
    // Whether it runs does not matter; what the host sees does.
    engine.docker(["run", "--rm", "-t", "dev:1", "true"]);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_damaged_layer_is_found_set_aside_and_made_anew() {
    let Some(engine) = Engine::start("check") else { return };
    let archive = image("words:1", &[tiny(), tar(&[("word", b"right")])]);
    engine.docker_with_input(["load"], &archive).success();
    let said = engine.berth(["system", "check"]).success();
    assert!(said.contains("layers") && said.contains("checked"), "{said}");
    let top = engine.docker(["image", "inspect", "-f", "{{index .RootFS.Layers 1}}", "words:1"]).success();
    let layer = engine.root().join("data/layers").join(top.trim_start_matches("sha256:"));
    // In whichever form the layer lies, one word of it is another.
    let file = [layer.join("fs/word"), layer.join("image.erofs")].into_iter().find(|file| file.exists()).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(5).position(|part| part == b"right").unwrap();
    bytes[at..at + 5].copy_from_slice(b"wrong");
    std::fs::write(&file, bytes).unwrap();
    let failed = engine.berth(["system", "check"]);
    assert_ne!(failed.code, 0);
    assert!(failed.stdout.contains("is damaged") && failed.stdout.contains("words:1"), "{failed:?}");
    // No registry has it: it goes, but not while a container stands on it.
    engine.docker(["create", "--name", "user", "words:1"]).success();
    let stays = engine.berth(["system", "check", "--repair"]);
    assert!(stays.code != 0 && stays.stdout.contains("containers stand on it"), "{stays:?}");
    engine.docker(["rm", "user"]).success();
    engine.berth(["system", "check", "--repair"]).success();
    let missing = engine.docker(["create", "words:1"]);
    assert!(missing.stderr.contains("is missing from the disk"), "{missing:?}");
    engine.docker_with_input(["load"], &archive).success();
    assert_eq!(engine.docker(["run", "--rm", "words:1", "cat", "/word"]).success(), "right");
    engine.berth(["system", "check"]).success();
}

/// Whether new layers are images, as the data root shows.
fn forms(engine: &Engine) -> (usize, usize) {
    let at = |layer: &String, name: &str| engine.root().join("data/layers").join(layer).join(name).exists();
    let all = layers(engine);
    let count = |name: &str| all.iter().filter(|layer| at(layer, name)).count();
    (count("fs"), count("image.erofs"))
}

#[test]
fn layers_of_both_storage_drivers_stand_below_one_container() {
    if std::env::var_os("BERTH_TEST_STORAGE_DRIVER").is_some() {
        eprintln!("skipped: all engines have one storage driver");
        return;
    }
    let Some(mut engine) = Engine::start_with("drivers", &["--storage-driver", "overlay"]) else { return };
    assert_eq!(forms(&engine), (1, 0));
    engine.docker(["run", "-d", "--name", "old", "tiny", "sleep", "1000"]).success();
    engine.restart_with(&["--storage-driver", "erofs"]);
    // A container that runs goes on, and starts again on the folders that it has.
    engine.docker(["exec", "old", "sh", "-c", "echo one >/one"]).success();
    engine.docker(["commit", "old", "two"]).success();
    assert_eq!(forms(&engine), (1, 1));
    assert_eq!(
        engine.docker(["run", "--name", "new", "two", "sh", "-c", "cat /one; rm /one; echo three >/three"]).success(),
        "one"
    );
    engine.docker(["commit", "new", "three"]).success();
    let look = ["run", "--rm", "three", "sh", "-c", "ls /one 2>&1; cat /three"];
    let said = engine.docker(look).success();
    assert!(said.contains("No such file") && said.ends_with("three"), "{said}");
    let archive = engine.root().join("three.tar");
    let saved = |engine: &Engine| {
        engine.docker(["save", "-o", archive.to_str().unwrap(), "three"]).success();
        std::fs::read(&archive).unwrap()
    };
    let before = saved(&engine);
    engine.restart_with(&["--storage-driver", "overlay"]);
    assert_eq!(engine.docker(look).success(), said);
    assert_eq!(forms(&engine), (1, 2));
    // Removed and loaded again, the layers have the other form and make the same archive.
    engine.docker(["rm", "-f", "old", "new"]).success();
    engine.docker(["rmi", "-f", "three", "two"]).success();
    assert_eq!(forms(&engine), (1, 0));
    engine.docker(["load", "-i", archive.to_str().unwrap()]).success();
    assert_eq!(forms(&engine), (3, 0));
    assert!(saved(&engine) == before);
    assert_eq!(engine.docker(look).success(), said);
    let checked = engine.berth(["system", "check"]).success();
    assert!(checked.contains("3 layers"), "{checked}");
}
