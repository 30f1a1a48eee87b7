//! exec: processes inside a running container.

use berth_testkit::{Engine, frames, wait_until};
use serde_json::json;

fn running(engine: &Engine) {
    engine.docker(["run", "-d", "--name", "box", "-e", "ONE=1", "-w", "/tmp", "tiny", "sleep", "1000"]).success();
}

#[test]
fn it_has_the_containers_surroundings_or_its_own() {
    let Some(engine) = Engine::start("exec-env") else { return };
    running(&engine);
    for berth in [false, true] {
        let exec = |arguments: &[&str]| {
            let all = [&["exec"], arguments].concat();
            if berth { engine.berth(all) } else { engine.docker(all) }
        };
        assert_eq!(exec(&["box", "sh", "-c", "echo $ONE $TWO; pwd; id -u"]).success(), "1\n/tmp\n0");
        let own = exec(&["-e", "TWO=2", "-w", "/etc", "-u", "nobody", "box", "sh", "-c", "echo $ONE $TWO; pwd; id -u"]);
        assert_eq!(own.success(), "1 2\n/etc\n65534");
        assert_eq!(exec(&["-u", "12:34", "box", "sh", "-c", "id -u; id -g"]).success(), "12\n34");
        assert_eq!(exec(&["box", "sh", "-c", "exit 9"]).code, 9);
        assert_eq!(exec(&["box", "sh", "-c", "kill -9 $$"]).code, 137);
        assert_eq!(exec(&["box", "no-such-program"]).code, 127);
        assert_eq!(exec(&["box", "/etc/passwd"]).code, 126);
        assert_eq!(exec(&["-w", "/not/there", "box", "true"]).code, 127, "as runc has it");
        assert_ne!(exec(&["-u", "nobodyhere", "box", "true"]).code, 0);
        assert_eq!(exec(&["nobox", "true"]).code, 1);
        let output = exec(&["box", "sh", "-c", "echo out; echo err >&2"]);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
        let capabilities = |arguments: &[&str]| {
            let read = ["box", "sed", "-n", "s/^CapEff:\t//p", "/proc/self/status"];
            u64::from_str_radix(&exec(&[arguments, &read].concat()).success(), 16).unwrap()
        };
        const SYS_ADMIN: u64 = 1 << 21;
        assert_eq!(capabilities(&[]) & SYS_ADMIN, 0);
        assert_eq!(capabilities(&["--privileged"]) & SYS_ADMIN, SYS_ADMIN);
    }
    let pids = engine.docker(["top", "box", "-eo", "pid"]).success().lines().count();
    assert_eq!(pids, 2, "nothing of an exec is left");
}

#[test]
fn input_flows_in_and_ends() {
    let Some(engine) = Engine::start("exec-input") else { return };
    running(&engine);
    let big = "x".repeat(2 << 20);
    let counted = engine.docker_with_input(["exec", "-i", "box", "wc", "-c"], big.as_bytes()).success();
    assert_eq!(counted.trim(), big.len().to_string());
    assert_eq!(engine.berth_with_input(["exec", "-i", "box", "cat"], big.as_bytes()).success().len(), big.len());
    // Without -i there is none, and nobody waits for it.
    assert_eq!(engine.docker_with_input(["exec", "box", "cat"], b"unheard").success(), "");
}

#[test]
fn a_terminal_has_its_size_and_follows_it() {
    let Some(engine) = Engine::start("exec-tty") else { return };
    running(&engine);
    for berth in [false, true] {
        let arguments = ["exec", "-it", "box", "sh"];
        let mut client = match berth {
            true => engine.berth_on_terminal(arguments),
            false => engine.docker_on_terminal(arguments),
        };
        client.wait_for("/tmp #");
        client.send("stty size; tty; echo wo''rks\n");
        client.wait_for("works");
        let text = client.stdout();
        assert!(text.contains("30 100") && text.contains("/dev/pts/"), "{text}");
        client.send("exit 3\n");
        assert_eq!(client.wait().code, 3);
    }
    // A resize through the API reaches the process.
    let body =
        json!({"Cmd": ["sh", "-c", "read x; stty size"], "Tty": true, "AttachStdin": true, "AttachStdout": true});
    let id = engine.api("POST", "/containers/box/exec", &body.to_string()).expect(201).json()["Id"].clone();
    let id = id.as_str().unwrap();
    let headers = [("Upgrade", "tcp"), ("Connection", "Upgrade"), ("Content-Type", "application/json")];
    let start = json!({"Tty": true}).to_string();
    let mut stream = engine.exchange("POST", &format!("/exec/{id}/start"), &headers, start.as_bytes());
    assert_eq!(stream.status(), 101);
    engine.api("POST", &format!("/exec/{id}/resize?h=40&w=120"), "").expect(200);
    use std::io::{Read, Write};
    stream.stream().get_mut().write_all(b"go\n").unwrap();
    let mut text = String::new();
    stream.stream().read_to_string(&mut text).unwrap();
    assert!(text.contains("40 120"), "{text:?}");
    assert_eq!(engine.api("POST", "/exec/nope/resize?h=1&w=1", "").status, 404);
    assert_eq!(engine.api("POST", &format!("/exec/{id}/resize?h=x&w=1"), "").status, 400);
}

#[test]
fn a_resize_waits_for_an_exec_that_is_about_to_start() {
    let Some(engine) = Engine::start("exec-resize") else { return };
    running(&engine);
    let body = json!({"Cmd": ["sleep", "1000"], "Tty": true});
    let id = engine.api("POST", "/containers/box/exec", &body.to_string()).expect(201).json()["Id"].clone();
    let id = id.as_str().unwrap();
    std::thread::scope(|scope| {
        let resize = scope.spawn(|| engine.api("POST", &format!("/exec/{id}/resize?h=40&w=120"), ""));
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!resize.is_finished());
        engine.api("POST", &format!("/exec/{id}/start"), &json!({"Detach": true, "Tty": true}).to_string()).expect(200);
        resize.join().unwrap().expect(200);
    });
}

#[test]
fn detach_keys_leave_it_running() {
    let Some(engine) = Engine::start("exec-detach") else { return };
    running(&engine);
    let mut client = engine.docker_on_terminal(["exec", "-it", "--detach-keys", "ctrl-a,d", "box", "sh"]);
    client.wait_for("/tmp #");
    client.send("sleep 777\n");
    wait_until("it sleeps", || engine.docker(["top", "box"]).stdout.contains("sleep 777"));
    client.send([1, b'd']);
    let output = client.wait();
    assert!(output.code <= 1, "{output:?}");
    assert!(engine.docker(["top", "box"]).stdout.contains("sleep 777"));
}

#[test]
fn a_detached_one_runs_on_and_is_known_until_asked_for() {
    let Some(engine) = Engine::start("exec-detached") else { return };
    running(&engine);
    for client in ["docker", "berth"] {
        let arguments = ["exec", "-d", "box", "sh", "-c", &format!("sleep 0.1; echo done > /{client}")];
        let output = if client == "docker" { engine.docker(arguments) } else { engine.berth(arguments) };
        output.success();
        wait_until("it is done", || engine.docker(["exec", "box", "cat", &format!("/{client}")]).code == 0);
    }
    let body = json!({"Cmd": ["sh", "-c", "exit 11"]}).to_string();
    let id = engine.api("POST", "/containers/box/exec", &body).expect(201).json()["Id"].clone();
    let id = id.as_str().unwrap();
    let inspect = || engine.api("GET", &format!("/exec/{id}/json"), "").expect(200).json();
    assert_eq!((&inspect()["Running"], &inspect()["ExitCode"]), (&false.into(), &serde_json::Value::Null));
    engine.api("POST", &format!("/exec/{id}/start"), r#"{"Detach": true}"#).expect(200);
    wait_until("it has ended", || inspect()["Running"] == false);
    assert_eq!(inspect()["ExitCode"], 11);
    let again = engine.api("POST", &format!("/exec/{id}/start"), r#"{"Detach": true}"#).expect(409);
    assert!(again.message().contains("already"), "{}", again.message());
}

#[test]
fn many_at_once_and_one_after_another_leave_nothing() {
    let Some(engine) = Engine::start("exec-many") else { return };
    running(&engine);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..12 {
                    let body = json!({"Cmd": ["echo", format!("{worker}-{round}")], "AttachStdout": true}).to_string();
                    let id = engine.api("POST", "/containers/box/exec", &body).expect(201).json()["Id"].clone();
                    let path = format!("/exec/{}/start", id.as_str().unwrap());
                    let headers = [("Upgrade", "tcp"), ("Connection", "Upgrade"), ("Content-Type", "application/json")];
                    let mut stream = engine.exchange("POST", &path, &headers, b"{}");
                    let said = frames(stream.stream());
                    assert_eq!(said, [(1, format!("{worker}-{round}\n").into_bytes())]);
                }
            });
        }
    });
    assert_eq!(engine.docker(["top", "box"]).success().lines().count(), 2);
    // The shim holds nothing of them: two dozen descriptors are its own.
    let pid = engine.inspect("box")["State"]["Pid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    let open = std::fs::read_dir(format!("/proc/{parent}/fd")).unwrap().count();
    assert!(open < 24, "{open} descriptors");
}

#[test]
fn a_background_process_does_not_hold_the_client() {
    let Some(engine) = Engine::start("exec-background") else { return };
    running(&engine);
    let client = engine.docker_running(["exec", "box", "sh", "-c", "sleep 500 & echo started"]);
    assert_eq!(client.wait().success(), "started");
    assert!(engine.docker(["top", "box"]).stdout.contains("sleep 500"));
}

#[test]
fn it_goes_on_over_an_engines_death_and_new_ones_work() {
    let Some(mut engine) = Engine::start("exec-engine") else { return };
    let (shared, volume) = engine.shared();
    engine.docker(["run", "-d", "--name", "box", "-v", &volume, "tiny", "sleep", "1000"]).success();
    let body = json!({"Cmd": ["sh", "-c", "while [ ! -e /shared/go ]; do sleep 0.02; done; exit 13"]}).to_string();
    let id = engine.api("POST", "/containers/box/exec", &body).expect(201).json()["Id"].clone();
    let id = id.as_str().unwrap();
    engine.api("POST", &format!("/exec/{id}/start"), r#"{"Detach": true}"#).expect(200);
    engine.restart_after_kill();
    let inspect = || engine.api("GET", &format!("/exec/{id}/json"), "").expect(200).json();
    assert_eq!(inspect()["Running"], true);
    assert_eq!(inspect()["ProcessConfig"]["entrypoint"], "sh");
    engine.docker(["exec", "box", "touch", "/shared/go"]).success();
    wait_until("it has ended", || inspect()["Running"] == false);
    assert_eq!(inspect()["ExitCode"], 13);
    // An end while no engine was there.
    engine.docker(["exec", "box", "rm", "/shared/go"]).success();
    let id = engine.api("POST", "/containers/box/exec", &body).expect(201).json()["Id"].clone();
    let id = id.as_str().unwrap();
    engine.api("POST", &format!("/exec/{id}/start"), r#"{"Detach": true}"#).expect(200);
    engine.kill();
    std::fs::write(shared.join("go"), "").unwrap();
    engine.launch();
    wait_until("it has ended", || {
        engine.api("GET", &format!("/exec/{id}/json"), "").expect(200).json()["ExitCode"] == 13
    });
}

#[test]
fn it_is_refused_where_it_cannot_be() {
    let Some(engine) = Engine::start("exec-bad") else { return };
    engine.docker(["create", "--name", "idle", "tiny"]).success();
    let body = r#"{"Cmd": ["true"]}"#;
    let refusal = engine.api("POST", "/containers/idle/exec", body).expect(409);
    assert!(refusal.message().contains("is not running"), "{}", refusal.message());
    assert_eq!(engine.api("POST", "/containers/nobody/exec", body).status, 404);
    assert_eq!(engine.api("GET", "/exec/nobody/json", "").status, 404);
    assert_eq!(engine.api("POST", "/exec/nobody/start", "{}").status, 404);
    running(&engine);
    for (body, words) in [
        ("{}", "No exec command specified"),
        (r#"{"Cmd": []}"#, "No exec command specified"),
        (r#"{"Cmd": 5}"#, "cannot unmarshal"),
        (r#"{"Cmd": ["true"], "DetachKeys": "ctrl-"}"#, "Invalid escape keys (ctrl-) provided"),
        ("{", "EOF"),
    ] {
        let refusal = engine.api("POST", "/containers/box/exec", body);
        assert!(refusal.status == 400 && refusal.message().contains(words), "{body}: {}", refusal.text());
    }
}
