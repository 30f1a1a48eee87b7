//! `update` of published ports: on a running container, over restarts of container and engine, and refused whole.

use berth_testkit::{Engine, wait_until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A server that takes longer is asked again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container that answers on its port 80 with `who`, and on 81 with `who` twice.
fn server(engine: &Engine, who: &str, more: &[&str]) {
    let program = format!(
        "mkdir /one /two; echo {who} > /one/index.html; echo {who}{who} > /two/index.html; \
         httpd -h /one -p 80; exec httpd -f -h /two -p 81"
    );
    let run = ["run", "-d", "--name", who].into_iter().chain(more.iter().copied());
    engine.docker(run.chain(["tiny", "sh", "-c", &program])).success();
}

fn answer(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.trim().to_owned())
}

fn answers(port: u16, word: &str) {
    wait_until(&format!("{word} answers on {port}"), || answer(port).as_deref() == Some(word));
}

fn closed(port: u16) {
    wait_until(&format!("{port} is closed"), || TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// Ports that nobody has now.
fn free<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("0.0.0.0:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

#[test]
fn ports_change_on_a_running_container_and_stay_so() {
    let Some(mut engine) = Engine::start("update-ports") else { return };
    let [first, second, third] = free();
    server(&engine, "web", &["-p", &format!("{first}:80")]);
    answers(first, "web");

    let add = format!("127.0.0.1:{second}:81");
    engine.berth(["update", "--publish-add", &add, "web"]).success();
    answers(second, "webweb");
    answers(first, "web");
    let shown = engine.docker(["port", "web", "81/tcp"]).success();
    assert_eq!(shown.trim(), format!("127.0.0.1:{second}"));

    // The same number of the host may lead elsewhere in one step.
    let (remove, again) = (format!("{first}:80"), format!("{first}:81"));
    engine.berth(["update", "--publish-rm", &remove, "--publish-add", &again, "web"]).success();
    answers(first, "webweb");
    engine.berth(["update", "--publish-rm", "81", "--publish-add", &format!("{third}:80"), "web"]).success();
    answers(third, "web");
    closed(first);
    closed(second);

    engine.restart_after_kill();
    answers(third, "web");
    closed(first);
    engine.docker(["restart", "-t", "0", "web"]).success();
    answers(third, "web");
    // What was given back is free for others.
    server(&engine, "other", &["-p", &format!("{first}:80")]);
    answers(first, "other");

    // Refused as a whole: what was published stays.
    let taken = ["update", "--publish-rm", "80", "--publish-add", &format!("{first}:80"), "web"];
    let refused = engine.berth(taken).failure(1);
    assert!(refused.contains("port is already allocated") && refused.contains("container other holds it"), "{refused}");
    answers(third, "web");
    answers(first, "other");
    assert!(engine.inspect("web")["HostConfig"]["PortBindings"].get("80/tcp").is_some());

    let nothing = engine.berth(["update", "--publish-rm", "9:9", "web"]).failure(1);
    assert!(nothing.contains("nothing is published as 9:9"), "{nothing}");
}

#[test]
fn a_stopped_container_gets_them_at_its_start_and_one_without_a_network_never() {
    let Some(engine) = Engine::start("update-ports-stopped") else { return };
    let [port] = free();
    server(&engine, "web", &[]);
    engine.docker(["stop", "-t", "0", "web"]).success();
    let body = format!(r#"{{"PortBindings": {{"80/tcp": [{{"HostPort": "{port}"}}]}}}}"#);
    engine.api("POST", "/v1.51/containers/web/update", &body).expect(200);
    engine.docker(["start", "web"]).success();
    answers(port, "web");
    engine.api("POST", "/v1.51/containers/web/update", r#"{"PortBindings": {}}"#).expect(200);
    closed(port);
    engine.docker(["run", "-d", "--name", "alone", "--network", "none", "tiny", "sleep", "1000"]).success();
    let refused = engine.api("POST", "/v1.51/containers/alone/update", &body).expect(409).message();
    assert!(refused.contains("no network of its own"), "{refused}");
}

#[test]
fn a_run_of_ports_is_taken_apart_and_ports_of_our_choice_stay() {
    let Some(engine) = Engine::start("update-ports-runs") else { return };
    let [chosen] = free();
    // A hundred in a row are one element of the kernel's map.
    let start = (20_000..30_000)
        .step_by(100)
        .find(|start| (*start..start + 100).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok()))
        .expect("a hundred free ports in a row");
    let range = format!("{start}-{}:{start}-{}", start + 99, start + 99);
    server(&engine, "box", &["-p", &range, "-p", "80"]);
    let own = engine.docker(["port", "box", "80/tcp"]).success();
    let number: u16 = own.lines().next().and_then(|line| line.rsplit(':').next()?.parse().ok()).expect("a port");
    answers(number, "box");
    engine
        .berth(["update", "--publish-rm", &format!("{}", start + 50), "--publish-add", &format!("{chosen}:80"), "box"])
        .success();
    let ports = engine.inspect("box")["NetworkSettings"]["Ports"].clone();
    let published = |port: u16| ports[format!("{port}/tcp")].as_array().is_some_and(|list| !list.is_empty());
    assert!(published(start) && published(start + 99) && !published(start + 50), "{ports}");
    answers(number, "box");
    answers(chosen, "box");
    assert!(TcpListener::bind(("0.0.0.0", start + 50)).is_ok(), "given back");
    assert!(TcpListener::bind(("0.0.0.0", start + 51)).is_err(), "kept");
}
