//! The engine is killed 200 times at random moments while clients work: what was answered stays true, every exit
//! status and log line is there, and nothing is left.
//!
//! Every run has another seed, and prints it: `BERTH_SEED` plays one again, as far as time can be. `BERTH_KILLS` sets
//! the number of kills.

use berth_testkit::{Engine, Random, Remote, setting, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KILLS: u64 = 200;
const WORKERS: u64 = 3;
/// An engine that does not come back within this is lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a worker whose answer is waited for may take: what it asked for may only take time.
const LULL: Duration = Duration::from_secs(2);

/// One client: containers of its own, one after another.
struct Worker<'a> {
    number: u64,
    remote: Remote,
    random: Random,
    stop: &'a AtomicBool,
    tally: &'a Tally,
}

/// What one worker has come to.
struct Tally {
    answers: AtomicU64,
    stories: AtomicU64,
    /// Commits that were asked for more than once: the first may have been made all the same.
    commits_cut_off: AtomicU64,
}

impl Tally {
    const fn new() -> Tally {
        Tally { answers: AtomicU64::new(0), stories: AtomicU64::new(0), commits_cut_off: AtomicU64::new(0) }
    }
}

impl Worker<'_> {
    /// Asks until somebody answers; also tells whether an answer was cut off before.
    fn ask(&self, method: &str, path: &str, body: &str) -> (berth_testkit::Response, bool) {
        let begun = Instant::now();
        let mut cut_off = false;
        loop {
            if let Some(answer) = self.remote.try_api(method, path, body) {
                // 503: the engine ends or its shim has just gone with a start that was cut off.
                assert!(answer.status != 500, "{method} {path}: {}", answer.text());
                self.tally.answers.fetch_add(1, Ordering::AcqRel);
                return (answer, cut_off);
            }
            cut_off = true;
            let waits = begun.elapsed() < PATIENCE && !self.stop.load(Ordering::Acquire);
            assert!(waits || begun.elapsed() < Duration::from_secs(2), "{method} {path}: nobody answers");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn state(&self, name: &str) -> Option<Value> {
        let (answer, _) = self.ask("GET", &format!("/containers/{name}/json"), "");
        match answer.status {
            200 => Some(answer.json()["State"].clone()),
            404 => None,
            other => panic!("inspect of {name}: {other} {}", answer.text()),
        }
    }

    fn work(mut self) {
        let mut count = 0;
        while !self.stop.load(Ordering::Acquire) {
            count += 1;
            let name = format!("w{}-{count}", self.number);
            self.story(&name);
            self.tally.stories.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A container's whole life. What was answered is checked against what is.
    fn story(&mut self, name: &str) {
        let code = 1 + self.random.below(100);
        // Half of them end by themselves, half are stopped.
        let alone = self.random.below(2) == 0;
        let script = match alone {
            true => format!("echo begun; sleep 0.0{}; echo ended; exit {code}", self.random.below(10)),
            false => "echo begun; exec sleep 1000".to_owned(),
        };
        let mut body = json!({"Image": "tiny", "Cmd": ["sh", "-c", script], "HostConfig": {}});
        if self.random.below(2) == 0 {
            body["Volumes"] = json!({"/data": {}});
        }
        if self.random.below(3) == 0 {
            body["HostConfig"]["PortBindings"] = json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]});
        }
        self.create(name, &body.to_string());
        self.start(name);
        if self.random.below(3) == 0 {
            self.exec(name);
        }
        if self.random.below(8) == 0 {
            self.commit(name);
        }
        // Of one that is killed: it may not have come to say anything.
        let mut begun = alone;
        let expected = match alone {
            true => code,
            false => {
                begun = self.log(name).contains("begun");
                self.end(name);
                137
            }
        };
        let (waited, _) = self.ask("POST", &format!("/containers/{name}/wait"), "");
        assert_eq!((waited.status, &waited.json()["StatusCode"]), (200, &expected.into()), "{name}: {}", waited.text());
        let state = self.state(name).unwrap_or_else(|| panic!("{name} is lost"));
        let seen = (&state["Status"], &state["ExitCode"], &state["Error"]);
        assert_eq!(seen, (&"exited".into(), &expected.into(), &"".into()), "{name}: {state}");
        let text = self.log(name);
        assert!((!begun || text.contains("begun")) && (!alone || text.contains("ended")), "{name}: {text:?}");
        self.remove(name);
    }

    fn log(&self, name: &str) -> String {
        self.ask("GET", &format!("/containers/{name}/logs?stdout=1"), "").0.text()
    }

    fn create(&self, name: &str, body: &str) {
        let (answer, cut_off) = self.ask("POST", &format!("/containers/create?name={name}"), body);
        // Made before the answer was cut off: asking again clashes with it.
        let good = answer.status == 201 || (cut_off && answer.status == 409);
        assert!(good, "create {name}: {} {}", answer.status, answer.text());
        assert!(self.state(name).is_some(), "{name} was made and is lost");
    }

    fn start(&self, name: &str) {
        let (answer, cut_off) = self.ask("POST", &format!("/containers/{name}/start"), "");
        let good = answer.status == 204 || (cut_off && answer.status == 304);
        assert!(good, "start {name}: {} {}", answer.status, answer.text());
        let state = self.state(name).unwrap_or_else(|| panic!("{name} is lost"));
        assert_ne!(state["Status"], "created", "{name} was started: {state}");
    }

    fn exec(&self, name: &str) {
        let (answer, _) = self.ask("POST", &format!("/containers/{name}/exec"), r#"{"Cmd": ["true"]}"#);
        if answer.status == 201 {
            let id = answer.json()["Id"].as_str().unwrap_or_default().to_owned();
            let (started, cut_off) = self.ask("POST", &format!("/exec/{id}/start"), r#"{"Detach": true}"#);
            // The container may end before it; an engine that is new knows only execs that were started.
            let good = matches!(started.status, 200 | 409) || (cut_off && started.status == 404);
            assert!(good || started.status == 503, "exec in {name}: {} {}", started.status, started.text());
        } else {
            assert_eq!(answer.status, 409, "exec in {name}: {}", answer.text());
        }
    }

    fn commit(&self, name: &str) {
        let path = format!("/commit?container={name}&repo=commit-{name}&pause=1");
        let (answer, cut_off) = self.ask("POST", &path, "{}");
        self.tally.commits_cut_off.fetch_add(cut_off.into(), Ordering::AcqRel);
        assert_eq!(answer.status, 201, "commit {name}: {}", answer.text());
        let (removed, cut_off) = self.ask("DELETE", &format!("/images/commit-{name}"), "");
        let good = removed.status == 200 || (cut_off && removed.status == 404);
        assert!(good, "rmi commit-{name}: {} {}", removed.status, removed.text());
    }

    fn end(&mut self, name: &str) {
        let path = match self.random.below(2) {
            0 => format!("/containers/{name}/stop?t=0"),
            _ => format!("/containers/{name}/kill"),
        };
        let (answer, cut_off) = self.ask("POST", &path, "");
        let good = answer.status == 204 || (cut_off && matches!(answer.status, 304 | 409));
        assert!(good, "{path}: {} {}", answer.status, answer.text());
    }

    fn remove(&self, name: &str) {
        let (answer, cut_off) = self.ask("DELETE", &format!("/containers/{name}?v=1"), "");
        let good = answer.status == 204 || (cut_off && answer.status == 404);
        assert!(good, "rm {name}: {} {}", answer.status, answer.text());
        assert!(self.state(name).is_none(), "{name} was removed and is there");
    }
}

fn entries(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The layers that images have, as the disk names them.
fn layers_of_images(engine: &Engine) -> BTreeSet<String> {
    let images = engine.api("GET", "/images/json?all=1", "").expect(200).json();
    let layers = |image: &Value| {
        let id = image["Id"].as_str().unwrap_or_default();
        let layers =
            engine.api("GET", &format!("/images/{id}/json"), "").expect(200).json()["RootFS"]["Layers"].clone();
        layers.as_array().cloned().unwrap_or_default()
    };
    let layers = images.as_array().into_iter().flatten().flat_map(layers);
    layers.filter_map(|layer| Some(layer.as_str()?.trim_start_matches("sha256:").to_owned())).collect()
}

/// Kills at moments that `random` chooses: any, or just after an answer to a worker that it chooses, so that on a slow
/// machine everybody gets on. How many there were before a worker failed.
fn kill_again_and_again(
    engine: &mut Engine,
    kills: u64,
    random: &mut Random,
    tallies: &[Tally],
    stop: &AtomicBool,
) -> u64 {
    for kill in 0..kills {
        let whose = &tallies[usize::try_from(random.below(WORKERS)).expect("a small number")];
        let (enough, until) = (whose.answers.load(Ordering::Acquire) + random.below(6), Instant::now() + LULL);
        while whose.answers.load(Ordering::Acquire) < enough && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(random.below(15_000)));
        engine.kill();
        let launched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.launch()));
        if let Err(cause) = launched {
            // The workers would wait for an engine that does not come.
            stop.store(true, Ordering::Release);
            std::panic::resume_unwind(cause);
        }
        if stop.load(Ordering::Acquire) {
            return kill;
        }
    }
    stop.store(true, Ordering::Release);
    kills
}

#[test]
fn two_hundred_random_kills_lose_nothing() {
    let Some(mut engine) = Engine::start("crash-random") else { return };
    let (mut random, kills) = (Random::of_this_run(), setting("BERTH_KILLS", KILLS));
    let seed = random.0;
    let count = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";
    engine.docker(["run", "-d", "--name", "witness", "-p", "127.0.0.1::80", "tiny", "sh", "-c", count]).success();
    let layers_folder = engine.root().join("data/layers");
    let layers = entries(&layers_folder);
    assert_eq!(layers, layers_of_images(&engine));
    let witness = engine.pid_of("witness");
    let (stop, tallies) = (&AtomicBool::new(false), &[const { Tally::new() }; WORKERS as usize]);
    std::thread::scope(|scope| {
        for (number, tally) in (0..WORKERS).zip(tallies) {
            let random = Random(seed.wrapping_add(number + 1));
            let worker = Worker { number, remote: engine.remote(), random, stop, tally };
            scope.spawn(move || {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.work()));
                if let Err(cause) = ended {
                    stop.store(true, Ordering::Release);
                    std::panic::resume_unwind(cause);
                }
            });
        }
        let done = kill_again_and_again(&mut engine, kills, &mut random, tallies, stop);
        println!("{done} of {kills} kills");
    });
    let total =
        |of: fn(&Tally) -> &AtomicU64| tallies.iter().map(|tally| of(tally).load(Ordering::Acquire)).sum::<u64>();
    let (stories, commits_cut_off) = (total(|tally| &tally.stories), total(|tally| &tally.commits_cut_off));
    println!("{stories} lives, {commits_cut_off} commits cut off");
    assert!(stories * 20 > kills, "the workers came to next to nothing");
    assert_eq!(engine.pid_of("witness"), witness, "it ran on through all of it");
    engine.docker(["stop", "-t", "0", "witness"]).success();
    let log = engine.docker(["logs", "witness"]).success();
    let numbers: Vec<u64> = log.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    assert_eq!(numbers.first(), Some(&1));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a line is lost");
    engine.docker(["rm", "witness"]).success();
    assert_eq!(engine.containers(), Vec::<String>::new());
    // Nothing that no record names: volumes, layers, files half written.
    wait_until("no volume is left", || entries(&engine.root().join("data/volumes")).is_empty());
    wait_until("every layer is some image's", || entries(&layers_folder) == layers_of_images(&engine));
    // A commit whose answer was cut off may have been made all the same: asked for again, the first image lost its
    // name to the second. No other image may be left, and with those their layers go.
    let nameless = engine.docker(["images", "-q", "--filter", "dangling=true"]).success();
    assert!(nameless.lines().count() as u64 <= commits_cut_off, "{nameless}");
    assert_eq!(
        engine.docker(["images", "--format", "{{.Repository}}", "--filter", "dangling=false"]).success(),
        "tiny"
    );
    engine.docker(["image", "prune", "-f"]).success();
    wait_until("no layer is left", || entries(&layers_folder) == layers);
    // And `system df` says what there is, once it is enough for one part in a hundred to be more than a folder.
    let fill = "head -c 6000000 /dev/urandom >/bulk; head -c 5000000 /dev/urandom >/v/bulk";
    engine.docker(["run", "--name", "bulk", "-v", "bulk:/v", "tiny", "sh", "-c", fill]).success();
    engine.docker(["commit", "bulk", "bulk"]).success();
    assert_eq!(entries(&engine.root().join("data/snapshots")).len(), 1);
    engine.check_df();
    engine.docker(["rm", "-v", "bulk"]).success();
    engine.docker(["volume", "rm", "-f", "bulk"]).success();
    engine.docker(["rmi", "bulk"]).success();
    engine.clear();
}
