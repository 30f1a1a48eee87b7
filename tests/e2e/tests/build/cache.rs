//! What is not done again, and what a build that ends early leaves.

use crate::common::{Context, Door, build, build_with, client, doors, id, said, sh};
use berth_testkit::{Engine, wait_until};
use std::time::Duration;

/// Steps that were done again.
fn done(output: &str) -> usize {
    output.lines().filter(|line| line.contains("DONE")).count()
}

const APP: &str = "FROM tiny\nWORKDIR /app\nCOPY deps .\nRUN cat deps >installed\nCOPY . .\nRUN cat main >built\n";

#[test]
fn what_did_not_change_is_not_done_again_also_by_the_next_engine() {
    let Some(mut engine) = Engine::start("build-cache") else { return };
    let context = Context::new(APP, &[("deps", "d"), ("main", "m"), (".dockerignore", "*.log\nDockerfile")]);
    let run = |engine: &Engine, arguments: &[&str]| {
        let all = [&["-t", "app", "--progress", "plain"], arguments].concat();
        said(build(engine, Door::Berth, &context, &all))
    };
    let first = run(&engine, &[]);
    assert!(!first.contains("CACHED"), "{first}");
    let image = id(&engine, "app");
    let cached = |output: &str| output.matches("CACHED").count();
    assert_eq!(cached(&run(&engine, &[])), 5);
    engine.restart_after_kill();
    assert_eq!(cached(&run(&engine, &[])), 5, "after kill -9");
    engine.stop();
    engine.launch();
    // Times do not count, nor what is ignored, nor the whole context's being sent instead of read.
    for name in ["deps", "main"] {
        let path = context.at(name);
        std::fs::write(&path, std::fs::read(&path).unwrap()).unwrap();
    }
    context.write("x.log", "noise");
    assert_eq!(cached(&run(&engine, &[])), 5, "after a touch");
    assert_eq!(id(&engine, "app"), image);
    let docker = said(build(&engine, Door::Docker, &context, &["-t", "app"]));
    assert_eq!(docker.matches("Using cache").count(), 5, "{docker}");
    context.write("main", "changed");
    let late = run(&engine, &[]);
    assert_eq!((cached(&late), done(&late)), (3, 3), "{late}");
    // A step that is done again and comes to the same leaves the rest cached.
    let file = APP.replace("RUN cat deps >installed", "RUN cat deps >installed && touch -d @0 installed .");
    context.write("Dockerfile", &file);
    assert_eq!(cached(&run(&engine, &[])), 2);
    context.write("Dockerfile", &file.replacen("RUN cat", "RUN true; cat", 1));
    let same = run(&engine, &[]);
    assert_eq!(cached(&same), 4, "{same}");
    assert_eq!(cached(&run(&engine, &["--no-cache"])), 0);
    assert_eq!(cached(&run(&engine, &["--no-cache-filter", ""])), 5);
}

#[test]
fn a_step_that_changes_nothing_adds_nothing() {
    let Some(engine) = Engine::start("build-empty") else { return };
    let context = Context::new(
        "FROM tiny\nRUN true\nRUN --mount=type=cache,target=/a/b true\nRUN touch /var\nRUN echo same >/f && touch -d @9 /f\nRUN rm /f\nRUN echo same >/f && touch -d @9 /f\n",
        &[],
    );
    said(build(&engine, Door::Berth, &context, &["-t", "empty"]));
    let layers = engine.docker(["image", "inspect", "-f", "{{len .RootFS.Layers}}", "empty"]).success();
    assert_eq!(layers, "5", "tiny, touch, and three with files");
    // The first and the last are one layer: an image with a layer twice runs.
    assert_eq!(sh(&engine, "empty", "cat /f; ls -d /a /dev/pts/ptmx /run 2>/dev/null; true"), "same\n/dev/pts/ptmx");
}

#[test]
fn with_source_date_epoch_two_cold_builds_give_one_digest() {
    let (Some(one), Some(two)) = (Engine::start("build-epoch1"), Engine::start("build-epoch2")) else { return };
    // When the base was made counts too: the same one for both.
    let base = one.root().join("base.tar");
    one.docker(["save", "-o", base.to_str().unwrap(), "tiny"]).success();
    two.docker(["load", "-i", base.to_str().unwrap()]).success();
    let text = "FROM tiny AS build\nRUN mkdir -p /out/deep && date >/out/deep/file.txt && echo same >/out/deep/file.txt\n\
        FROM tiny\nWORKDIR /srv/new\nCOPY --from=build /out /out\nCOPY --chown=3 src /src\nADD a.tar /unpacked/\n\
        RUN mkdir /made && echo x >/made/x && ln -s x /made/link && touch /etc/passwd\nCMD [\"true\"]\n";
    let mut ids = Vec::new();
    for (engine, door) in [(&one, Door::Berth), (&two, Door::Docker)] {
        // Another folder, other times.
        let context = Context::new(text, &[("src/a", "a"), ("src/b/c", "c")]);
        let mut builder = tar::Builder::new(std::fs::File::create(context.at("a.tar")).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_mtime(4_000_000_000);
        builder.append_data(&mut header, "in/file", &b"x"[..]).unwrap();
        builder.into_inner().unwrap();
        let given = ["-t", "same", "--build-arg", "SOURCE_DATE_EPOCH=1600000000"];
        said(build(engine, door, &context, &given));
        ids.push(id(engine, "same"));
        assert_eq!(
            sh(engine, "same", "stat -c %Y /made/x /srv/new /unpacked/in/file"),
            "1600000000\n1600000000\n1600000000"
        );
        let created = engine.docker(["image", "inspect", "-f", "{{.Created}}", "same"]).success();
        assert!(created.starts_with("2020-09-13T12:26:40"), "{created}");
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert_eq!(ids[0], ids[1]);
    let context = Context::new("FROM tiny\nRUN echo x >/x\n", &[]);
    let variable = [("SOURCE_DATE_EPOCH", "1500000000")];
    said(build_with(&one, Door::Berth, &context, &["-t", "env"], &variable));
    assert_eq!(sh(&one, "env", "stat -c %Y /x"), "1500000000");
    let text = build(&one, Door::Berth, &context, &["--build-arg", "SOURCE_DATE_EPOCH=soon"]).failure(1);
    assert!(text.contains("invalid SOURCE_DATE_EPOCH: soon"), "{text}");
}

/// What builds keep for a while.
fn scratch(engine: &Engine) -> usize {
    let count = |path: &str| std::fs::read_dir(engine.root().join(path)).into_iter().flatten().count();
    count("data/builds/tmp") + count("run/builds") + count("data/snapshots")
}

#[test]
fn a_client_that_goes_ends_its_build_and_leaves_nothing() {
    let Some(engine) = Engine::start("build-cancel") else { return };
    let context = Context::new("FROM tiny\nRUN echo first >/f\nRUN sleep 12345\n", &[]);
    for door in doors() {
        let path = context.path().to_str().unwrap();
        let mut command = client(&engine, door);
        command.args(["build", path]);
        let client = berth_testkit::Client::start(command);
        wait_until("the step runs", || sleeping(12345) == 1);
        client.signal(rustix::process::Signal::INT);
        wait_until("the step has ended", || sleeping(12345) == 0);
        wait_until("nothing is left", || scratch(&engine) == 0);
        drop(client);
    }
    engine.clear();
}

/// How long after its begin the nth build is cancelled: from before its first step to within its last.
const CANCEL_STEP: Duration = Duration::from_millis(9);
const CANCELS: u32 = 24;

#[test]
fn a_build_cancelled_at_any_moment_leaves_nothing() {
    let Some(engine) = Engine::start("build-moments") else { return };
    for number in 0..CANCELS {
        // Nothing of it is cached.
        let text = format!("FROM tiny\nRUN echo {number} >/f\nRUN echo {number} >/g\nRUN sleep 23{number:03}\n");
        let context = Context::new(&text, &[]);
        let client = engine.berth_running(["build", context.path().to_str().unwrap()]);
        std::thread::sleep(CANCEL_STEP * number);
        drop(client);
        wait_until("the step has ended", || sleeping(23_000 + number) == 0);
    }
    wait_until("nothing is left", || scratch(&engine) == 0);
    // Shims are looked for when the engine has ended: at once.
}

#[test]
fn an_engine_that_is_stopped_ends_its_builds() {
    let Some(mut engine) = Engine::start("build-stop") else { return };
    let context = Context::new("FROM tiny\nRUN sleep 34567\n", &[]);
    let client = engine.berth_running(["build", context.path().to_str().unwrap()]);
    wait_until("the step runs", || sleeping(34567) == 1);
    engine.stop();
    assert_eq!(sleeping(34567), 0);
    assert_eq!(scratch(&engine), 0);
    assert_eq!(std::fs::read_dir(engine.root().join("run/shims")).unwrap().count(), 0);
    let output = client.wait();
    assert!(output.stderr.contains("the engine is stopping"), "{output:?}");
}

/// Processes of a step that never ends, each test's with a number of its own.
fn sleeping(seconds: u32) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
        .count()
}

#[test]
fn an_engine_killed_in_mid_build_loses_at_most_the_running_step() {
    let Some(mut engine) = Engine::start("build-kill") else { return };
    let text = "FROM tiny\nRUN echo first >/f\nCOPY file /\n\
        RUN --mount=target=/c --mount=type=cache,target=/cache --mount=type=secret,id=s echo more >/m; sleep 54321\n";
    let context = Context::new(text, &[("file", "x")]);
    let path = context.path().to_str().unwrap();
    let client = engine.berth_running(["build", path, "--secret", "id=s,env=HOME"]);
    wait_until("the step runs", || sleeping(54321) == 1);
    engine.kill();
    drop(client);
    engine.launch();
    wait_until("the step has ended", || sleeping(54321) == 0);
    wait_until("nothing is left", || scratch(&engine) == 0);
    engine.clear();
    context.write("Dockerfile", &text.replace("; sleep 54321", ""));
    let next = said(build(
        &engine,
        Door::Berth,
        &context,
        &["-t", "next", "--progress", "plain", "--secret", "id=s,env=HOME"],
    ));
    assert_eq!(next.matches("CACHED").count(), 2, "{next}");
    assert_eq!(sh(&engine, "next", "cat /f /m"), "first\nmore");
}

#[test]
fn the_cache_is_counted_and_pruned() {
    let Some(engine) = Engine::start("build-prune") else { return };
    let context = Context::new(
        "FROM tiny AS a\nRUN dd if=/dev/urandom of=/noise bs=1M count=3\nFROM tiny\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/z bs=1M count=2\nCOPY --from=a /noise /kept\n",
        &[],
    );
    said(build(&engine, Door::Berth, &context, &["-t", "kept"]));
    let usage = engine.api("GET", "/system/df", "").expect(200).json();
    let cache = usage["BuildCache"].as_array().unwrap();
    assert!(cache.len() >= 3, "{cache:#?}");
    let size = |kind: &str| -> i64 {
        cache.iter().filter(|entry| entry["Type"] == kind).map(|entry| entry["Size"].as_i64().unwrap()).sum()
    };
    assert!(size("regular") >= 6 << 20 && size("exec.cachemount") >= 2 << 20, "{cache:#?}");
    for output in [engine.docker(["system", "df"]).success(), engine.berth(["system", "df"]).success()] {
        let line = output.lines().find(|line| line.starts_with("Build Cache")).unwrap().to_owned();
        assert!(!line.contains(" 0B "), "{output}");
    }
    let layers = || std::fs::read_dir(engine.root().join("data/layers")).unwrap().count();
    let before = layers();
    // What an image needs stays; the stage that only the cache kept goes.
    let said_so = engine.berth(["builder", "prune", "-f"]).success();
    assert!(said_so.contains("Total:"), "{said_so}");
    wait_until("the layer has gone", || layers() == before - 1);
    assert_eq!(sh(&engine, "kept", "stat -c %s /kept"), (3 << 20).to_string());
    engine.docker(["builder", "prune", "-af"]).success();
    let usage = engine.api("GET", "/system/df", "").expect(200).json();
    assert_eq!(usage["BuildCache"].as_array().map(Vec::len), Some(0), "{usage:#}");
    let again = said(build(&engine, Door::Berth, &context, &["-t", "kept", "--progress", "plain"]));
    assert!(!again.contains("CACHED"), "{again}");
}

/// Two stages that begin alike: what they share is made once, and the same build again is the same image.
#[test]
fn a_step_that_two_stages_have_is_made_once() {
    let Some(engine) = Engine::start("build-shared") else { return };
    let dockerfile = "FROM tiny AS one\nWORKDIR /w\nRUN sleep 0.3; head -c 16 /dev/urandom > /random\n\
        FROM tiny\nWORKDIR /w\nRUN sleep 0.3; head -c 16 /dev/urandom > /random\n\
        COPY --link --from=one /random /other\nRUN cmp /random /other\n";
    let context = Context::new(dockerfile, &[]);
    let ids = [(); 2].map(|()| {
        said(build(&engine, Door::Berth, &context, &["-t", "shared"]));
        id(&engine, "shared")
    });
    assert_eq!(ids[0], ids[1]);
}
