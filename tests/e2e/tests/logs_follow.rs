//! logs: every line once, in order, across rotation, by both clients, followed and not.

use berth_testkit::{Client, Engine, wait_until};

/// `number` of every line `line <number>`.
fn numbers(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.rsplit_once("line ")?.1.parse().ok()).collect()
}

fn count_to(last: u32) -> String {
    format!("i=0; while [ $i -lt {last} ]; do i=$((i+1)); echo line $i; done")
}

#[test]
fn every_line_comes_once_and_in_order_whatever_the_driver() {
    let Some(engine) = Engine::start("logs-all") else { return };
    for driver in ["json-file", "local"] {
        let name = format!("box-{driver}");
        // Rotates many times: each line takes more than ten bytes.
        let run = ["run", "-d", "--name", &name, "--log-driver", driver, "--log-opt", "max-size=8k"];
        let keep = ["--log-opt", "max-file=50", "tiny", "sh", "-c", &count_to(3000)];
        engine.docker(run.iter().chain(&keep)).success();
        let follower = engine.docker_running(["logs", "-f", &name]);
        let ours = engine.berth_running(["logs", "-f", &name]);
        engine.docker(["wait", &name]).success();
        let all: Vec<u32> = (1..=3000).collect();
        for client in [follower, ours] {
            assert_eq!(numbers(&client.wait().success()), all, "{driver}: followed");
        }
        assert_eq!(numbers(&engine.docker(["logs", &name]).success()), all, "{driver}");
        assert_eq!(numbers(&engine.berth(["logs", &name]).success()), all, "{driver}: berth");
        let tail = numbers(&engine.docker(["logs", "--tail", "7", &name]).success());
        assert_eq!(tail, [2994, 2995, 2996, 2997, 2998, 2999, 3000], "{driver}");
        assert_eq!(numbers(&engine.docker(["logs", "--tail", "2999", &name]).success()).len(), 2999, "{driver}");
        assert_eq!(numbers(&engine.docker(["logs", "--tail", "0", &name]).success()).len(), 0, "{driver}");
    }
}

#[test]
fn a_log_is_bounded_by_its_options() {
    let Some(engine) = Engine::start("logs-bounded") else { return };
    let run = ["run", "-d", "--name", "box", "--log-opt", "max-size=10k", "--log-opt", "max-file=3"];
    engine.docker(run.iter().chain(&["tiny", "sh", "-c", &count_to(20_000)])).success();
    engine.docker(["wait", "box"]).success();
    let path = engine.inspect("box")["LogPath"].as_str().unwrap().to_owned();
    let folder = std::path::Path::new(&path).parent().unwrap();
    let files: Vec<u64> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(files.len() <= 3 && files.iter().all(|bytes| *bytes <= 11 << 10), "{files:?}");
    let kept = numbers(&engine.docker(["logs", "box"]).success());
    assert_eq!(kept.last(), Some(&20_000));
    assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1), "no gap within what is kept");
}

#[test]
fn streams_stay_apart() {
    let Some(engine) = Engine::start("logs-streams") else { return };
    for driver in ["json-file", "local"] {
        let name = format!("box-{driver}");
        let script = "echo out; echo err >&2";
        engine.docker(["run", "--name", &name, "--log-driver", driver, "tiny", "sh", "-c", script]).success();
        for output in [engine.docker(["logs", &name]), engine.berth(["logs", &name])] {
            assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"), "{driver}");
        }
        let only = engine.api("GET", &format!("/containers/{name}/logs?stderr=1"), "").expect(200);
        assert_eq!(berth_testkit::frames(&only.body[..]), [(2, b"err\n".to_vec())]);
        let neither = engine.api("GET", &format!("/containers/{name}/logs"), "").expect(400);
        assert!(neither.message().contains("you must choose at least one stream"), "{}", neither.message());
    }
}

#[test]
fn since_until_and_timestamps_agree() {
    let Some(engine) = Engine::start("logs-times") else { return };
    for driver in ["json-file", "local"] {
        let name = format!("box-{driver}");
        let script = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.1; done";
        engine.docker(["run", "--name", &name, "--log-driver", driver, "tiny", "sh", "-c", script]).success();
        let stamped = engine.docker(["logs", "-t", &name]).success();
        let times: Vec<&str> = stamped.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(times.len(), 6, "{stamped}");
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
        assert_eq!(times[0].len(), "2006-01-02T15:04:05.000000000Z".len(), "{}", times[0]);
        let some = |arguments: &[&str]| numbers(&engine.docker([&["logs"], arguments, &[&name]].concat()).success());
        assert_eq!(some(&["--since", times[3]]), [4, 5, 6], "{driver}");
        assert_eq!(some(&["--until", times[2]]), [1, 2, 3], "{driver}");
        assert_eq!(some(&["--since", times[1], "--until", times[4]]), [2, 3, 4, 5], "{driver}");
        // The tail is taken first, as Docker does.
        assert_eq!(some(&["--since", times[1], "--until", times[4], "--tail", "2"]), [5], "{driver}");
        assert_eq!(some(&["--since", "1h"]).len(), 6);
        assert_eq!(some(&["--until", "1h"]).len(), 0);
        assert_eq!(numbers(&engine.berth(["logs", "-t", "--since", times[4], &name]).success()), [5, 6]);
    }
}

#[test]
fn a_follower_sees_lines_as_they_come_and_ends_with_the_container() {
    let Some(engine) = Engine::start("logs-follow") else { return };
    for driver in ["json-file", "local"] {
        let name = format!("box-{driver}");
        let script = "echo line 1; read x; echo line 2; read x; echo line 3";
        let arguments = ["run", "-di", "--name", &name, "--log-driver", driver, "tiny", "sh", "-c", script];
        engine.docker(arguments).success();
        let mut typist = engine.docker_running(["attach", &name]);
        let follow: [Client; 2] =
            [engine.docker_running(["logs", "-f", &name]), engine.berth_running(["logs", "-f", "--tail", "1", &name])];
        for (number, typed) in [(1, "a\n"), (2, "b\n")] {
            follow.iter().for_each(|client| client.wait_for(&format!("line {number}")));
            typist.send(typed);
        }
        for client in follow {
            assert_eq!(numbers(&client.wait().success()), [1, 2, 3], "{driver}");
        }
        // Following what has ended shows all of it and ends.
        assert_eq!(numbers(&engine.docker(["logs", "-f", &name]).success()), [1, 2, 3]);
    }
}

#[test]
fn following_goes_on_over_restarts_by_policy_and_until_its_end() {
    let Some(engine) = Engine::start("logs-restarts") else { return };
    let script = "echo x >> /n; echo line $(wc -l < /n); exit 1";
    let run = ["run", "-d", "--name", "box", "--restart", "on-failure:3", "tiny", "sh", "-c", script];
    engine.docker(run).success();
    let follower = engine.docker_running(["logs", "-f", "box"]);
    assert_eq!(numbers(&follower.wait().success()), [1, 2, 3, 4]);
    // --until ends a follower of a container that runs on.
    engine.docker(["run", "-d", "--name", "on", "tiny", "sh", "-c", "echo line 1; exec sleep 1000"]).success();
    let follower = engine.docker_running(["logs", "-f", "--until", "1s", "on"]);
    assert_eq!(follower.wait().code, 0);
}

#[test]
fn long_lines_and_lines_without_an_end_are_whole() {
    let Some(engine) = Engine::start("logs-long") else { return };
    let script = "head -c 100000 /dev/zero | tr '\\0' a; echo; printf 'no newline'";
    for driver in ["json-file", "local"] {
        let name = format!("box-{driver}");
        engine.docker(["run", "--name", &name, "--log-driver", driver, "tiny", "sh", "-c", script]).success();
        for output in [engine.docker(["logs", &name]), engine.berth(["logs", &name])] {
            let text = output.success();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!((lines[0].len(), lines[1]), (100_000, "no newline"), "{driver}");
        }
        // A tail counts records, of which a long line takes several, as Docker does.
        let tail = engine.docker(["logs", "--tail", "2", &name]).success();
        assert_eq!(tail.len(), 100_000 % 16_384 + 1 + "no newline".len(), "{driver}");
        let stamped = engine.docker(["logs", "-t", &name]).success();
        assert_eq!(stamped.lines().count(), 2, "{driver}");
    }
    // Bytes that are no text come back as they were.
    let bytes = "printf '\\377\\000\\001b\\n'";
    engine.docker(["run", "--name", "local", "--log-driver", "local", "tiny", "sh", "-c", bytes]).success();
    let answer = engine.api("GET", "/containers/local/logs?stdout=1", "").expect(200);
    assert_eq!(berth_testkit::frames(&answer.body[..]), [(1, vec![0xff, 0, 1, b'b', b'\n'])]);
}

#[test]
fn drivers_and_options_that_cannot_be_are_refused() {
    let Some(engine) = Engine::start("logs-bad") else { return };
    for (arguments, words) in [
        (&["--log-driver", "syslog"][..], "plugin \"syslog\" not found"),
        (&["--log-opt", "max-size=big"], "max-size"),
        (&["--log-opt", "max-file=0"], "max-file"),
        (&["--log-opt", "colour=red"], "unknown log opt 'colour'"),
    ] {
        let output = engine.docker([&["create"][..], arguments, &["tiny"]].concat());
        assert!(output.code == 1 && output.stderr.contains(words), "{arguments:?}: {}", output.stderr);
    }
    engine.docker(["run", "--name", "quiet", "--log-driver", "none", "tiny", "echo", "hi"]).success();
    let refusal = engine.docker(["logs", "quiet"]).failure(1);
    assert!(refusal.contains("does not support reading"), "{refusal}");
    let path = "/containers/quiet/logs?stdout=1&since=yesterday";
    assert_eq!(engine.api("GET", path, "").status, 400);
}

#[test]
fn labels_and_variables_are_in_every_record_where_asked_for() {
    let Some(engine) = Engine::start("logs-attributes") else { return };
    let options = ["--log-opt", "labels=tier", "--log-opt", "env=WHERE", "--label", "tier=web", "-e", "WHERE=here"];
    engine.docker(["run", "--name", "box"].iter().chain(&options).chain(&["tiny", "echo", "hi"])).success();
    let details = engine.docker(["logs", "--details", "box"]).success();
    assert!(details.contains("WHERE=here") && details.contains("tier=web") && details.ends_with("hi"), "{details}");
    let path = engine.inspect("box")["LogPath"].as_str().unwrap().to_owned();
    wait_until("the record is written", || std::fs::read_to_string(&path).is_ok_and(|text| text.contains("attrs")));
}
