//! Docker's flags, and what `berth` does beyond them: completion, help for slips of the finger, `doctor`, base images.

use berth_testkit::Engine;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Docker's commands about what this engine does; those of builds come with a plugin and have flags of their own.
const COMMANDS: [(&str, &str); 7] = [
    (
        "",
        "attach commit cp create diff events exec export history images import info inspect kill load login logout logs \
         pause port ps pull push rename restart rm rmi run save search start stats stop tag top unpause update version wait",
    ),
    (
        "container",
        "attach commit cp create diff exec export inspect kill logs ls pause port prune rename restart rm run start stats \
         stop top unpause update wait",
    ),
    ("image", "history import inspect load ls prune pull push rm save tag"),
    ("volume", "create inspect ls prune rm"),
    ("network", "connect create disconnect inspect ls prune rm"),
    ("system", "df events info prune"),
    ("context", "create export import inspect ls rm show update use"),
];

#[test]
fn every_flag_of_docker_is_berths() {
    let berth = berth_testkit::programs().join("berth");
    if Command::new("docker").arg("--version").output().is_err() || !berth.exists() {
        eprintln!("skipped: needs docker and berth");
        return;
    }
    let flag = regex::Regex::new(r"(?m)^\s+(?:-\w, )?--([a-z0-9][a-z0-9-]*)").unwrap();
    let flags = |program: &Path, words: &[&str]| -> BTreeSet<String> {
        let said = Command::new(program).args(words).arg("--help").output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{} {words:?}: {text}", program.display());
        flag.captures_iter(&text).map(|found| found[1].to_owned()).collect()
    };
    let (mut missing, mut seen) = (Vec::new(), 0);
    for (group, names) in COMMANDS {
        for name in names.split_whitespace() {
            let words: Vec<&str> = [group, name].into_iter().filter(|word| !word.is_empty()).collect();
            let mut wanted = flags(Path::new("docker"), &words);
            // Not listed, but it is what is asked here.
            wanted.remove("help");
            seen += wanted.len();
            let lacking: Vec<_> = wanted.difference(&flags(&berth, &words)).cloned().collect();
            if !lacking.is_empty() {
                missing.push(format!("{}: {lacking:?}", words.join(" ")));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(seen > 300, "docker's flags were not read: {seen}");
}

#[test]
fn completion_offers_the_names_that_there_are() {
    let Some(engine) = Engine::start("own-complete") else { return };
    engine.docker(["create", "--name", "lighthouse", "tiny", "true"]).success();
    engine.docker(["volume", "create", "harbour"]).success();
    engine.docker(["network", "create", "northsea"]).success();
    let offered = |words: &[&str]| -> Vec<String> {
        let all: Vec<&str> = ["__complete", "--"].iter().chain(words).copied().collect();
        engine.berth(all).success().lines().map(str::to_owned).collect()
    };
    for (words, wanted) in [
        (&["sta"][..], "start"),
        (&["start", ""], "lighthouse"),
        (&["start", "li"], "lighthouse"),
        (&["inspect", "light"], "lighthouse"),
        (&["volume", "rm", ""], "harbour"),
        (&["network", "connect", ""], "northsea"),
        (&["network", "connect", "northsea", ""], "lighthouse"),
        (&["run", "--network", "no"], "northsea"),
        (&["run", "--rm", "ti"], "tiny"),
        (&["image", "his"], "history"),
        (&["run", "--memory-s"], "--memory-swap"),
        (&["why", ""], "lighthouse"),
    ] {
        let found = offered(words);
        assert!(found.iter().any(|word| word == wanted || word == &format!("{wanted}:latest")), "{words:?}: {found:?}");
    }
    assert!(offered(&["start", "no-such-"]).is_empty());
    for shell in ["bash", "zsh", "fish"] {
        let script = engine.berth(["completion", shell]).success();
        assert!(script.contains("__complete"), "{script}");
    }
    // As bash runs it.
    let script = format!(
        "{}\nCOMP_WORDS=({} start li); COMP_CWORD=2; _berth; echo \"${{COMPREPLY[@]}}\"",
        engine.berth(["completion", "bash"]).success(),
        berth_testkit::programs().join("berth").display()
    );
    let mut bash = engine.command(Path::new("bash"));
    let said = bash.args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "lighthouse");
}

#[test]
fn slips_of_the_finger_are_met_with_what_was_meant() {
    let Some(engine) = Engine::start("own-slips") else { return };
    engine.docker(["create", "--name", "lighthouse", "tiny", "true"]).success();
    engine.docker(["volume", "create", "harbour"]).success();
    for (words, meant) in [
        (&["strat", "lighthouse"][..], "start"),
        (&["image", "hsitory", "tiny"], "history"),
        (&["run", "--memroy", "5m", "tiny"], "--memory"),
        (&["start", "lighthuose"], "lighthouse"),
        (&["volume", "inspect", "harbuor"], "harbour"),
        (&["history", "tinny"], "tiny"),
    ] {
        let said = engine.berth(words);
        assert_ne!(said.code, 0, "{words:?}");
        assert!(said.stderr.contains(meant) && said.stderr.to_lowercase().contains("mean"), "{words:?}: {said:?}");
    }
}

#[test]
fn the_doctor_looks_at_everything_and_has_a_fix_for_what_it_finds() {
    let Some(engine) = Engine::start("own-doctor") else { return };
    let said = engine.berth(["doctor", "--format", "json"]);
    let checks: Value = serde_json::from_str(&said.stdout).unwrap();
    let checks = checks.as_array().unwrap_or_else(|| panic!("{checks}"));
    let text = engine.berth(["doctor"]).stdout.to_lowercase();
    for subject in ["kernel", "cgroups", "overlayfs", "nftables", "kvm", "nofile", "data root"] {
        assert!(text.contains(subject), "{subject} is not looked at:\n{text}");
    }
    for check in checks {
        let word = |key: &str| check[key].as_str().unwrap_or_else(|| panic!("{key}: {check}"));
        assert!(!word("found").is_empty() && (word("grade") == "ok" || !word("fix").is_empty()), "{check}");
    }
}

#[test]
fn the_same_packages_make_the_same_image() {
    let Some(engine) = Engine::start("own-bootstrap") else { return };
    if Command::new("mmdebstrap").arg("--version").output().is_err() {
        eprintln!("skipped: needs mmdebstrap");
        return;
    }
    // Unpacked and not set up: what takes long, and changes with the day, is the writing of files.
    let packages = ["--package", "busybox-static", "--package", "base-files"];
    let make = |name: &str| {
        let begin = ["image", "bootstrap", "debian:bookworm", "-q", "--variant", "extract", "--name", name];
        engine.berth(begin.iter().chain(&packages))
    };
    let first = make("one");
    if first.code != 0 && ["resolve", "connect", "unreachable"].iter().any(|word| first.stderr.contains(word)) {
        eprintln!("skipped: needs a mirror of Debian: {}", first.stderr);
        return;
    }
    let first = first.success();
    assert_eq!(make("two").success(), first);
    let version = engine.docker(["run", "--rm", "two", "/bin/busybox", "cat", "/etc/debian_version"]).success();
    assert!(version.starts_with("12."), "{version}");
    assert_ne!(engine.berth(["image", "bootstrap", "debian:no-such-suite", "-q"]).code, 0);
}
