//! The projects of `examples/compose`, each from `up` to `down` with Docker's Compose plugin.
//!
//! Whatever a project is about is looked at; then the engine is killed under it, and nothing is noticed; then it goes
//! down, and nothing is left.

use crate::plugin::{self, Compose};
use berth_testkit::{Engine, wait_until};
use std::path::{Path, PathBuf};

/// Copies a folder of the examples, hidden files and all.
fn copied(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp starts");
    assert!(status.success(), "{} cannot be copied", from.display());
}

fn project<'a>(engine: &'a Engine, folder: &Path, env: &[(&str, &str)]) -> Compose<'a> {
    let mut project = Compose::new(engine, folder.to_owned());
    if berth_testkit::docker_plugin("docker-buildx", "BERTH_BUILDX").is_none() {
        // Without the buildx plugin Compose builds by the classic way only.
        project = project.env("DOCKER_BUILDKIT", "0");
    }
    env.iter().fold(project, |project, (name, value)| project.env(name, value))
}

/// Plays the project `name`: `options` for `up`, `check` while it is up.
fn play(name: &str, env: &[(&str, &str)], options: &[&str], check: impl Fn(&Compose<'_>)) {
    if !plugin::found() {
        return;
    }
    let Some(mut engine) = Engine::start(&format!("example-{name}")) else { return };
    engine.berth(["image", "bootstrap", "busybox"]).success();
    let folder: PathBuf = engine.root().join(name);
    copied(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/compose").join(name), &folder);
    let before = {
        let compose = project(&engine, &folder, env);
        compose.ok(&["config", "--quiet"]);
        let services = compose.ok(&["config", "--services"]);
        let events = compose.start(&["events", "--json"], "events.txt");
        let mut up = vec!["up", "-d"];
        up.extend_from_slice(options);
        compose.ok(&up);
        let running = compose.containers(&[]);
        assert!(!running.is_empty() && !services.is_empty(), "nothing runs of {services}");
        events.wait_for(r#""action":"start""#);
        check(&compose);
        compose.containers(&[])
    };
    engine.restart_after_kill();
    let compose = project(&engine, &folder, env);
    assert_eq!(compose.containers(&[]), before, "after the engine's death");
    for name in &before {
        assert!(compose.engine.pid_of(name) > 0, "{name} runs on");
    }
    compose.ok(&["--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5"]);
    assert_eq!(engine.docker(["ps", "-aq"]).success(), "");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "");
    assert_eq!(engine.docker(["network", "ls", "-q", "--filter", "type=custom"]).success(), "");
}

/// `compose port`: the port that the host has for one of the service.
fn published(compose: &Compose<'_>, service: &str, port: &str) -> u16 {
    let address = compose.ok(&["port", service, port]);
    address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in {address:?}"))
}

/// The body of an answer of a web server on this host.
fn get(port: u16, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    // What a script writes ends its lines as it likes.
    answer.replace('\r', "").split_once("\n\n").map_or("", |(_, body)| body).trim().to_owned()
}

#[test]
fn shop() {
    play("shop", &[], &["--wait"], |compose| {
        let names = ["shop-cache-1", "shop-db-1", "shop-queue-1", "shop-web-1", "shop-worker-1"];
        assert_eq!(compose.containers(&[]), names);
        let port = published(compose, "web", "80");
        assert_eq!(get(port, "/"), "the shop");
        assert_eq!(get(port, "/cgi-bin/items"), "apples");
        wait_until("the worker has done its job", || {
            compose.ok(&["logs", "--no-log-prefix", "worker"]).contains("done: listing")
        });
        // What the database has outlives it, and who depends on it starts anew with it.
        compose.exec("db", "echo pears >> /data/items");
        let web = compose.engine.inspect("shop-web-1")["State"]["StartedAt"].clone();
        compose.ok(&["up", "-d", "--wait", "--force-recreate", "db"]);
        compose.ok(&["restart", "db"]);
        compose.ok(&["up", "-d", "--wait"]);
        assert_ne!(compose.engine.inspect("shop-web-1")["State"]["StartedAt"], web);
        assert_eq!(get(published(compose, "web", "80"), "/cgi-bin/items"), "apples\npears");
        assert!(compose.ok(&["images", "--format", "json"]).contains("shop-web"));
        assert!(compose.ok(&["top", "worker"]).contains("sh -c"));
        assert_eq!(compose.ok(&["run", "--rm", "-T", "--no-deps", "web", "cat", "/www/index.html"]), "the shop");
        compose.ok(&["rm", "--stop", "--force", "cache"]);
        assert!(!compose.containers(&["-a"]).contains(&"shop-cache-1".to_owned()));
        compose.ok(&["up", "-d", "--wait"]);
        for verb in ["pause", "unpause", "stop", "start", "kill"] {
            compose.ok(&[verb, "cache"]);
        }
        compose.ok(&["up", "-d", "--wait"]);
        assert_eq!(compose.containers(&[]), names);
        assert!(compose.ok(&["ls"]).contains("running(5)"));
        assert!(compose.ok(&["volumes", "--format", "{{.Name}}"]).contains("shop_items"));
    });
}

#[test]
fn build() {
    play("build", &[], &[], |compose| {
        wait_until("both have spoken", || compose.ok(&["logs", "--no-log-prefix"]).lines().count() == 2);
        assert_eq!(compose.ok(&["logs", "--no-log-prefix", "app"]), "hello from a stage (default)");
        assert_eq!(compose.ok(&["logs", "--no-log-prefix", "tool"]), "made for tool");
        let labels = "{{json .Config.Labels}}";
        let labels = compose.engine.docker(["inspect", "-f", labels, "example/app:1"]).success();
        assert!(labels.contains(r#""org.example.kind":"app""#), "{labels}");
        // The builder speaks before it.
        let test = compose.ok(&["--profile", "test", "run", "--rm", "-T", "--build", "test"]);
        assert_eq!(test.lines().last(), Some("tests passed"), "{test}");
        compose.ok(&["build", "--no-cache", "app"]);
        compose.ok(&["up", "-d", "--build", "app"]);
        wait_until("the new one has spoken", || {
            compose.ok(&["logs", "--no-log-prefix", "app"]) == "hello from a stage (default)"
        });
    });
}

#[test]
fn envfiles() {
    play("envfiles", &[("PASSED", "along")], &[], |compose| {
        assert_eq!(compose.containers(&[]), ["named-app"]);
        let seen = compose.exec("app", "env");
        for line in [
            "A=common",
            "B=override",
            "QUOTED=two words",
            "INTERPOLATED=common-more",
            "DIRECT=by default",
            "DOLLAR=$HOME",
            "PASSED=along",
        ] {
            assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
        }
        let once = compose.ok(&["run", "--rm", "-T", "-e", "A=mine", "--name", "once", "app", "sh", "-c", "echo $A"]);
        assert_eq!(once, "mine");
    });
}

#[test]
fn extends() {
    play("extends", &[], &["--wait"], |compose| {
        assert_eq!(compose.exec("app", "echo $LEVEL $FROM"), "debug base");
        assert_eq!(compose.exec("second", "echo $LEVEL $FROM"), "debug app");
        let family = compose.engine.docker(["ps", "-q", "--filter", "label=family=base"]).success();
        assert_eq!(family.lines().count(), 2);
        let rank = compose.engine.docker(["ps", "--filter", "label=rank=second", "--format", "{{.Names}}"]).success();
        assert_eq!(rank, "extends-second-1");
    });
}

#[test]
fn include() {
    play("include", &[], &["--wait"], |compose| {
        assert_eq!(compose.containers(&[]), ["include-cache-1", "include-db-1", "include-web-1"]);
        assert_eq!(compose.exec("web", "wget -qO- http://db:5432/table"), "rows");
        assert_eq!(compose.exec("cache", "echo $SIZE $EVICT"), "64m oldest");
    });
}

#[test]
fn jobs() {
    play("jobs", &[], &[], |compose| {
        wait_until("the job that fails twice has worked", || {
            compose.engine.inspect("jobs-flaky-1")["State"]["ExitCode"] == 0
                && compose.engine.status_of("jobs-flaky-1") == "exited"
        });
        assert_eq!(compose.engine.inspect("jobs-flaky-1")["RestartCount"], 2);
        assert_eq!(
            compose.exec("app", "cat /tmp/hook; wc -l < /state/tries; grep -c -e -init /proc/1/comm"),
            "hooked\n3\n1"
        );
        assert_eq!(compose.run(&["--profile", "broken", "up", "--exit-code-from", "failing", "failing"]).code, 7);
        assert_eq!(compose.run(&["run", "--rm", "-T", "app", "sh", "-c", "exit 5"]).code, 5);
        compose.ok(&["--profile", "waited", "up", "-d", "ten"]);
        assert_eq!(compose.run(&["--profile", "waited", "wait", "ten"]).code, 10);
        // Asked to stop it stops by itself, and stays so.
        compose.ok(&["stop", "app"]);
        let app = compose.engine.inspect("jobs-app-1");
        assert_eq!((&app["State"]["ExitCode"], &app["State"]["Status"]), (&3.into(), &"exited".into()));
        assert!(compose.ok(&["logs", "--no-log-prefix", "app"]).ends_with("stopping"));
        assert_eq!(compose.ok(&["run", "--rm", "-T", "--no-deps", "app", "cat", "/state/left"]), "leaving");
        compose.ok(&["start", "app"]);
        assert_eq!(compose.run(&["exec", "-T", "app", "sh", "-c", "exit 9"]).code, 9);
        assert_eq!(
            compose.ok(&[
                "exec",
                "-T",
                "-u",
                "nobody",
                "-w",
                "/tmp",
                "-e",
                "X=1",
                "app",
                "sh",
                "-c",
                "id -un; pwd; echo $X"
            ]),
            "nobody\n/tmp\n1"
        );
    });
}

#[test]
fn limits() {
    play("limits", &[], &[], |compose| {
        let host = |name: &str| compose.engine.inspect(&format!("limits-{name}-1"))["HostConfig"].clone();
        let small = host("small");
        assert_eq!((&small["Memory"], &small["MemorySwap"]), (&(64 << 20).into(), &(64 << 20).into()));
        assert_eq!((&small["NanoCpus"], &small["CpuShares"]), (&500_000_000.into(), &512.into()));
        assert_eq!((&small["CpusetCpus"], &small["PidsLimit"]), (&"0".into(), &50.into()));
        assert_eq!(compose.exec("small", "ulimit -n; ulimit -Hn; cat /proc/1/oom_score_adj"), "1000\n2000\n100");
        assert_eq!(compose.exec("small", "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2"), "16384");
        assert_eq!(compose.exec("small", "grep Cpus_allowed_list /proc/self/status | cut -f2"), "0");
        let careful = "id -un; id -G | grep -c 4242; pwd; hostname; cat /proc/sys/net/core/somaxconn; \
                       grep NoNewPrivs /proc/self/status | cut -f2; touch /no 2>&1; touch /tmp/yes && ls /dev/nothing; \
                       grep CapBnd /proc/self/status | cut -f2; tr '\\0' ' ' < /proc/1/cmdline";
        assert_eq!(
            compose.exec("careful", careful).lines().map(str::trim).collect::<Vec<_>>(),
            [
                "nobody",
                "1",
                "/var",
                "careful",
                "777",
                "1",
                "touch: /no: Read-only file system",
                "/dev/nothing",
                "0000000000000400",
                "sleep 100000"
            ]
        );
        let deployed = host("deployed");
        assert_eq!((&deployed["Memory"], &deployed["PidsLimit"]), (&(48 << 20).into(), &20.into()));
        assert_eq!(deployed["RestartPolicy"]["Name"], "on-failure");
        assert_eq!(compose.ok(&["stats", "--no-stream", "--format", "{{.Name}}"]).lines().count(), 3);
    });
}

#[test]
fn logging() {
    play("logging", &[], &[], |compose| {
        wait_until("all is written", || compose.ok(&["logs", "chatty"]).contains("number 1999 of"));
        let kept = compose.ok(&["logs", "--no-log-prefix", "chatty"]).lines().count();
        assert!((200..2000).contains(&kept), "{kept} lines are kept of 2000");
        assert_eq!(compose.ok(&["logs", "--no-log-prefix", "--tail", "3", "chatty"]).lines().count(), 3);
        let mut both: Vec<String> =
            compose.ok(&["logs", "--no-log-prefix", "local"]).lines().map(str::to_owned).collect();
        both.sort();
        assert_eq!(both, ["err", "out"]);
        assert!(compose.ok(&["logs", "-t", "labelled"]).contains("Z labelled"));
        let silent = compose.run(&["logs", "--no-log-prefix", "silent"]);
        assert!(!silent.stdout.contains("nobody reads this"), "{}", silent.stdout);
        let follow = compose.start(&["logs", "--follow", "--since", "1h", "local"], "follow.txt");
        follow.wait_for("out");
        compose.exec("local", "echo later > /proc/1/fd/1");
        follow.wait_for("later");
        compose.ok(&["kill", "local"]);
        follow.wait_for("exited with code 137");
    });
}

#[test]
fn networks() {
    // A subnet of this run's own: tests may run side by side.
    let back = format!("10.213.{}", std::process::id() % 256);
    play("networks", &[("BACK", &back)], &[], |compose| {
        assert!(compose.exec("app", "wget -qO- http://www.example.test/hostname").starts_with("gate"));
        assert!(compose.exec("app", "wget -qO- http://entrance/hostname").starts_with("gate"));
        assert!(!compose.exec("proxy", "wget -qO- http://db:5432/hosts").is_empty());
        assert!(compose.exec("probe", "wget -qO- http://127.0.0.1:5432/hosts").contains(&format!("{back}.20")));
        assert!(compose.exec("app", "wget -T 2 -qO- http://db:5432/hosts 2>&1 || echo none").contains("none"));
        assert!(compose.exec("app", "ip link show eth0").contains("02:42:0a:d5:4d:0b"));
        assert_eq!(compose.exec("alone", "ls /sys/class/net"), "lo");
        assert_eq!(compose.exec("proxy", "grep -c 192.0.2.7.elsewhere /etc/hosts"), "1");
        assert!(compose.exec("proxy", "cat /etc/resolv.conf").contains("search example.test"));
        // Inside stays inside: no way out of an internal network.
        assert_eq!(compose.exec("db", "ip route | grep -c default || true"), "0");
        let network = compose.engine.api("GET", "/networks/networks_back", "").expect(200).json();
        assert_eq!(network["Internal"], true);
        assert_eq!(network["IPAM"]["Config"][0]["IPRange"], format!("{back}.128/25"));
        assert_eq!(network["Labels"]["purpose"], "private");
    });
}

/// `count` free ports of this host in a row, as far as one can know.
fn free_ports(count: u16) -> u16 {
    let start = 20000 + u16::try_from(std::process::id() % 8000).expect("below 8000");
    let free = |port: &u16| (0..count).all(|at| std::net::TcpListener::bind(("0.0.0.0", port + at)).is_ok());
    (start..start + 4000).step_by(usize::from(count)).find(free).expect("some ports are free")
}

#[test]
fn ports() {
    let first = free_ports(3);
    let (second, third) = (first + 1, first + 2);
    let env = [("FIRST", first.to_string()), ("LAST", second.to_string()), ("UDP", third.to_string())];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    play("ports", &env, &[], |compose| {
        assert!(get(published(compose, "web", "80"), "/hosts").contains("localhost"));
        for port in [first, second] {
            assert!(get(port, "/hosts").contains("localhost"));
        }
        assert_eq!(compose.ok(&["port", "web", "82"]), format!("127.0.0.1:{second}"));
        assert_eq!(compose.ok(&["port", "--protocol", "udp", "web", "53"]), format!("127.0.0.1:{third}"));
        let shown = compose.ok(&["ps", "--format", "{{.Ports}}"]);
        assert!(shown.contains(&format!("127.0.0.1:{third}->53/udp")) && shown.contains("9000/tcp"), "{shown}");
    });
}

#[test]
fn profiles() {
    play("profiles", &[], &[], |compose| {
        assert_eq!(compose.containers(&["-a"]), ["profiles-web-1"]);
        compose.ok(&["--profile", "debug", "up", "-d"]);
        let all = ["profiles-report-1", "profiles-shell-1", "profiles-web-1"];
        assert_eq!(compose.containers(&["-a"]), all);
        assert!(compose.ok(&["run", "--rm", "-T", "report"]).parse::<u32>().is_ok_and(|lines| lines > 0));
        compose.ok(&["--profile", "debug", "stop", "shell"]);
    });
}

#[test]
fn scale() {
    let first = free_ports(10);
    let range = format!("{first}-{}", first + 9);
    play("scale", &[("WEB_PORTS", &range)], &["--wait"], |compose| {
        let webs = |count: u32| (1..=count).map(|number| format!("scale-web-{number}")).collect::<Vec<_>>();
        assert_eq!(compose.containers(&["web"]), webs(3));
        // One name has all their addresses, and each answers at its own.
        let look = "nslookup -type=a web | sed -n 's/^Address: //p' | grep -v :53";
        let each = format!("for address in $({look}); do wget -qO- http://$address/; done");
        let mut names: Vec<String> = compose.exec("client", &each).lines().map(str::to_owned).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 3);
        compose.ok(&["scale", "web=6"]);
        assert_eq!(compose.containers(&["web"]), webs(6));
        let mut ports: Vec<u16> = (1..=6)
            .map(|number| {
                let shown = compose.ok(&["port", "--index", &number.to_string(), "web", "80"]);
                shown.rsplit(':').next().expect("a port").parse().expect("a port")
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6, "each has a port of its own");
        assert!(ports.iter().all(|port| (first..first + 10).contains(port) && !get(*port, "/").is_empty()));
        compose.ok(&["up", "-d", "--scale", "web=1"]);
        assert_eq!(compose.containers(&["web"]), webs(1));
    });
}

#[test]
fn secrets() {
    play("secrets", &[("SHOP_TOKEN", "t0ken"), ("COLOUR", "blue")], &[], |compose| {
        assert_eq!(compose.exec("app", "cat /run/secrets/password"), "correct horse");
        assert_eq!(compose.exec("app", "cat /run/secrets/api/token"), "t0ken");
        assert_eq!(compose.exec("app", "stat -c %a:%u /run/secrets/api/token"), "400:1000");
        assert_eq!(compose.exec("app", "cat /etc/app.conf /www/index.html"), "colour = blue\n<p>configured</p>");
        let inspected = compose.engine.docker(["inspect", "secrets-app-1"]).success();
        assert!(
            !inspected.contains("t0ken") && !inspected.contains("correct horse"),
            "a secret is in inspect's answer"
        );
    });
}

#[test]
fn volumes() {
    play("volumes", &[], &[], |compose| {
        let read = "cat /data/file /part/file /shared/note; touch /shared/no 2>/dev/null || echo refused; \
                    df -k /quick | tail -1 | tr -s ' ' | cut -d' ' -f2; stat -c %a /quick; touch /scratch/x /made/y && echo made";
        assert_eq!(compose.exec("app", read), "outer\ninner\na note\nrefused\n8192\n1777\nmade");
        assert!(compose.folder.join("made/y").exists());
        wait_until("the backup is made", || compose.ok(&["logs", "--no-log-prefix", "backup"]) == "outer\na note");
        std::fs::write(compose.folder.join("sent"), "to be copied").expect("scratch folder");
        compose.ok(&["cp", "sent", "app:/data/received"]);
        compose.ok(&["cp", "app:/data/received", "back"]);
        assert_eq!(std::fs::read_to_string(compose.folder.join("back")).expect("it came back"), "to be copied");
        assert_eq!(compose.ok(&["volumes", "--quiet"]), "volumes-data");
        // An anonymous volume goes along to the next container, unless told otherwise.
        compose.exec("app", "echo kept > /scratch/x");
        compose.ok(&["up", "-d", "--force-recreate", "--no-deps", "app"]);
        assert_eq!(compose.exec("app", "cat /scratch/x"), "kept");
        compose.ok(&["up", "-d", "--force-recreate", "--no-deps", "--renew-anon-volumes", "app"]);
        assert_eq!(compose.exec("app", "ls /scratch"), "");
    });
}

#[test]
fn watch() {
    play("watch", &[], &[], |compose| {
        assert_eq!(compose.exec("web", "cat /www/index.html"), "first");
        let watch = compose.start(&["watch", "--no-up"], "watch.txt");
        watch.wait_for("Watch enabled");
        std::fs::write(compose.folder.join("page/index.html"), "second").expect("scratch folder");
        wait_until("the page is in the container", || compose.exec("web", "cat /www/index.html") == "second");
        let before = compose.engine.inspect("watch-web-1")["Id"].clone();
        std::fs::write(compose.folder.join("version"), "2").expect("scratch folder");
        wait_until("a new container with the new version", || {
            let exec = compose.run(&["exec", "-T", "web", "cat", "/version"]);
            exec.code == 0 && exec.stdout == "2" && compose.engine.inspect("watch-web-1")["Id"] != before
        });
    });
}
