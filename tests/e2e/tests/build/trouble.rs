//! Builds that go wrong, and what is left of them: nothing.

use crate::common::{Context, Door, build, build_with, doors, said, sh};
use berth_testkit::{Engine, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system, unmounted with the value.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size: &str) -> Small {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status().unwrap();
        assert!(mounted.success());
        Small(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.0.display());
    }
}

fn names(folder: &Path) -> usize {
    std::fs::read_dir(folder).into_iter().flatten().count()
}

#[test]
fn a_step_that_fills_the_disk_fails_alone_and_gives_it_back() {
    let Some(mut engine) = Engine::start("build-full") else { return };
    let (data, base) = (engine.root().join("data"), engine.root().join("tiny.tar"));
    engine.docker(["save", "-o", base.to_str().unwrap(), "tiny"]).success();
    engine.stop();
    let small = Small::mount(&data, "64m");
    engine.launch();
    engine.docker(["load", "-i", base.to_str().unwrap()]).success();
    let big = Context::new("FROM tiny\nRUN echo first >/f\nRUN dd if=/dev/zero of=/big bs=1M count=200\n", &[]);
    for door in doors() {
        let output = build(&engine, door, &big, &[]);
        let all = format!("{}{}", output.stdout, output.stderr);
        assert!(output.code != 0 && all.contains("No space left on device"), "{door:?}: {all}");
        wait_until("the step's files are gone", || names(&data.join("snapshots")) == 0);
        let free = rustix::fs::statvfs(&small.0).unwrap();
        assert!(free.f_bavail * free.f_frsize > 40 << 20, "{door:?}: the room is there again");
    }
    // A file that does not fit while it is copied, and a context that does not.
    let file = Context::new("FROM tiny\nCOPY large /\n", &[]);
    std::fs::File::create(file.at("large")).unwrap().set_len(100 << 20).unwrap();
    for door in doors() {
        let text = build(&engine, door, &file, &[]).failure(1);
        assert!(text.to_lowercase().contains("no space left") || text.contains("full"), "{door:?}: {text}");
        wait_until("nothing is left", || names(&data.join("snapshots")) == 0);
    }
    let fits = Context::new("FROM tiny\nRUN echo first >/f\nRUN echo fits >/g\n", &[]);
    let next = said(build(&engine, Door::Berth, &fits, &["-t", "fits", "--progress", "plain"]));
    assert!(next.contains("CACHED"), "what had been done is known: {next}");
    assert_eq!(sh(&engine, "fits", "cat /g"), "fits");
    // The mount goes first, then what is left is looked for.
    engine.stop();
    drop(small);
}

#[test]
fn orphans_of_a_step_end_with_it() {
    let Some(engine) = Engine::start("build-orphans") else { return };
    // They hold its output open, and ignore what asks them to end.
    let context = Context::new("FROM tiny\nRUN (trap '' TERM HUP INT; sleep 98761) & echo done >/f\n", &[]);
    for door in doors() {
        said(build(&engine, door, &context, &["-t", "orphans", "--no-cache"]));
        let left = Command::new("pgrep").args(["-f", "sleep 98761"]).output().unwrap();
        assert!(left.stdout.is_empty(), "{door:?}: {}", String::from_utf8_lossy(&left.stdout));
    }
}

#[test]
fn a_step_that_prints_without_end_is_clipped_and_can_be_cancelled() {
    let Some(engine) = Engine::start("build-noise") else { return };
    let context = Context::new("FROM tiny\nRUN yes a line that says nothing | head -c 20000000; echo end >/f\n", &[]);
    for door in doors() {
        let output = said(build(&engine, door, &context, &["-t", "noise", "--no-cache"]));
        assert!(output.contains("[output clipped, log limit 4MiB reached]"), "{door:?}");
        assert!(output.len() < 16 << 20, "{door:?}: {} bytes", output.len());
        assert_eq!(sh(&engine, "noise", "cat /f"), "end");
    }
}

#[test]
fn names_and_kinds_of_files_that_nobody_expects_are_copied_as_they_are() {
    let Some(engine) = Engine::start("build-names") else { return };
    let context = Context::new("FROM tiny\nCOPY . /all/\nRUN cd /all && ls -A | wc -l >/count\n", &[]);
    use std::os::unix::ffi::OsStrExt;
    for name in [&b"new\nline"[..], b"\xff\xfe", b"-rf", b"a*b[c]?", b" ", b"$HOME", "ü".as_bytes()] {
        std::fs::write(context.path().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    std::os::unix::fs::symlink("loop", context.at("loop")).unwrap();
    std::os::unix::fs::symlink("/proc/1/root", context.at("out")).unwrap();
    // BuildKit's messages are UTF-8: its clients cannot say such names.
    for door in [Door::Berth, Door::Docker] {
        said(build(&engine, door, &context, &["-t", "names", "--no-cache"]));
        let count =
            sh(&engine, "names", "cd /all; for f in *; do test -L \"$f\" || cat \"./$f\"; done | tr -cd x | wc -c");
        assert!(count.trim().parse::<usize>().unwrap() >= 7, "{door:?}: {count}");
        assert_eq!(sh(&engine, "names", "readlink /all/loop; readlink /all/out"), "loop\n/proc/1/root", "{door:?}");
    }
    // A pipe makes no reader wait.
    rustix::fs::mknodat(rustix::fs::CWD, context.at("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    let ended = build_with(&engine, Door::Berth, &context, &["-t", "names"], &[]);
    assert!(ended.code == 0 || ended.stderr.contains("pipe"), "{}", ended.stderr);
}

#[test]
fn base_images_are_pulled_anew_only_where_that_is_asked() {
    let Some(engine) = Engine::start("build-pull") else { return };
    let Some(registry) = berth_testkit::Registry::plain() else { return };
    let name = format!("{}/base:1", registry.address());
    let publish = |text: &str| {
        let base = Context::new(&format!("FROM tiny\nRUN echo {text} >/which\n"), &[]);
        said(build(&engine, Door::Berth, &base, &["-t", &name]));
        engine.docker(["push", "-q", &name]).success();
    };
    publish("old");
    let old = crate::common::id(&engine, &name);
    publish("new");
    // This host still has the old one.
    engine.docker(["tag", &old, &name]).success();
    let context = Context::new(&format!("FROM {name}\nRUN cat /which >/seen\n"), &[]);
    for door in doors() {
        engine.docker(["tag", &old, &name]).success();
        said(build(&engine, door, &context, &["-t", "plain"]));
        assert_eq!(sh(&engine, "plain", "cat /seen"), "old", "{door:?}");
        said(build(&engine, door, &context, &["-t", "pulled", "--pull"]));
        assert_eq!(sh(&engine, "pulled", "cat /seen"), "new", "{door:?}");
    }
}

#[test]
fn the_cache_is_pruned_by_age_and_to_a_size() {
    let Some(engine) = Engine::start("build-prune-filter") else { return };
    let step =
        |name: &str| format!("FROM tiny AS {name}\nRUN dd if=/dev/urandom of=/{name} bs=1M count=2 2>/dev/null\n");
    let text = format!("{}{}FROM tiny\nRUN true\n", step("one"), step("two"));
    let context = Context::new(&text, &[]);
    for target in ["one", "two"] {
        said(build(&engine, Door::Berth, &context, &["--target", target, "--output", "type=cacheonly"]));
    }
    let bytes = || -> i64 {
        let usage = engine.api("GET", "/system/df", "").expect(200).json();
        usage["BuildCache"].as_array().unwrap().iter().map(|entry| entry["Size"].as_i64().unwrap()).sum()
    };
    let whole = bytes();
    assert!(whole >= 4 << 20, "{whole}");
    engine.berth(["builder", "prune", "-af", "--filter", "until=1h"]).success();
    let prune = |query: &str| engine.api("POST", &format!("/build/prune?all=1&{query}"), "").expect(200).json();
    let until = |age: &str| format!("filters=%7B%22until%22%3A%7B%22{age}%22%3Atrue%7D%7D");
    assert_eq!(prune(&until("1h"))["SpaceReclaimed"], 0);
    assert_eq!(bytes(), whole, "nothing is that old");
    // What may be used at most, and what stays in any case.
    assert_eq!(prune("max-used-space=999000000")["SpaceReclaimed"], 0);
    assert_eq!(prune("max-used-space=1&reserved-space=999000000")["SpaceReclaimed"], 0);
    engine.berth(["builder", "prune", "-af", "--keep-storage", "3MB"]).success();
    let kept = bytes();
    assert!((2 << 20..3_000_000).contains(&kept), "{kept}");
    let again = said(build(
        &engine,
        Door::Berth,
        &context,
        &["--target", "two", "--output", "type=cacheonly", "--progress", "plain"],
    ));
    assert!(again.contains("CACHED"), "what was needed last stays: {again}");
    assert!(prune(&until("0s"))["SpaceReclaimed"].as_i64().unwrap() >= 2 << 20);
    assert_eq!(bytes(), 0);
    engine.berth(["builder", "prune", "-f", "--filter", "color=red"]).failure(125);
}
