//! Mirrors that fail or lie, and registries that ask for time: named, told, and no pull fails for a mirror's sake.

use crate::common::{forget_packed, id, names_in};
use crate::hostile::{Image, MANIFEST, Table, image};
use berth_testkit::{Engine, Registry, Reply, Request, Server, wait_until};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What an honest server of the image has, under the repository `path`.
fn honest(image: &Image, path: &str) -> BTreeMap<String, Reply> {
    let manifest = Reply::new(200, image.manifest.clone()).with("Content-Type", MANIFEST);
    let mut all = BTreeMap::from([
        (format!("{path}/manifests/1"), manifest.clone()),
        (format!("{path}/manifests/{}", image.digest), manifest),
    ]);
    for (digest, bytes) in [&image.config, &image.layer] {
        all.insert(format!("{path}/blobs/{digest}"), Reply::new(200, bytes.clone()));
    }
    all
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

#[test]
fn a_mirror_that_fails_or_lies_is_named_and_the_next_place_is_asked() {
    let Some(registry) = Registry::plain() else { return };
    let table: Arc<Mutex<BTreeMap<String, Reply>>> = Arc::default();
    let served = Table(table.clone());
    let mirror = Server::start(move |request| {
        let target = request.target.split('?').next().unwrap_or_default().to_owned();
        served.serve(&Request { target, ..request.clone() })
    });
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let config = tempfile::NamedTempFile::new().expect("scratch file");
    let mirrors = [format!("http://{free}"), format!("http://{}", mirror.address())];
    let registries = serde_json::json!({"registries": {registry.address(): {"mirrors": mirrors}}});
    std::fs::write(config.path(), registries.to_string()).expect("scratch file");
    let file = config.path().to_str().expect("our own path");
    let Some(engine) = Engine::start_with("registry-mirrors", &["--config-file", file]) else { return };
    let image = image(&engine, &registry);
    let (layer, parsed) = (&image.layer.1, &image.config.1);
    let path = |digest: &str| format!("honest/blobs/{digest}");
    let as_manifest = |text: &str| Reply::new(200, text).with("Content-Type", MANIFEST);
    let cases: Vec<(&str, String, Reply, &str)> = vec![
        ("bytes in its middle", path(&image.layer.0), Reply::new(200, flipped(layer, layer.len() / 2)), "has digest"),
        // The unpacker notices long before the digest can.
        ("its first bytes", path(&image.layer.0), Reply::new(200, flipped(layer, 12)), "has digest"),
        ("no archive at all", path(&image.layer.0), Reply::new(200, vec![7; layer.len()]), "has digest"),
        ("too few", path(&image.layer.0), Reply::new(200, &layer[..100]), "descriptor says"),
        ("a cut", path(&image.layer.0), Reply { cut_after: Some(100), ..Reply::new(200, layer.clone()) }, "broke"),
        ("its configuration", path(&image.config.0), Reply::new(200, flipped(parsed, parsed.len() / 2)), "has digest"),
        ("a page", "honest/manifests/1".into(), Reply::new(200, "<html>log in</html>"), "invalid manifest"),
        (
            "another digest than it says",
            "honest/manifests/1".into(),
            as_manifest(&image.manifest).with("Docker-Content-Digest", &image.config.0),
            "has digest",
        ),
        ("an outage", "honest/manifests/1".into(), Reply::new(503, "closed on Mondays"), "closed on Mondays"),
        ("too many questions", "honest/manifests/1".into(), Reply::new(429, "").with("Retry-After", "60"), "too many"),
    ];
    let name = format!("{}/honest:1", registry.address());
    for (case, path, reply, words) in cases {
        let mut all = honest(&image, "honest");
        all.insert(path, reply);
        *table.lock().expect("the server does not panic") = all;
        let before = engine.log().len();
        let began = Instant::now();
        let said = engine.docker(["pull", &name]).success();
        assert!(began.elapsed() < Duration::from_secs(10), "{case}: a mirror is not waited for");
        assert!(said.contains(&format!("mirror {free} is passed over: cannot reach {free}")), "{case}: {said}");
        let line = said.lines().find(|line| line.contains(&format!("mirror {} is passed over", mirror.address())));
        assert!(line.is_some_and(|line| line.contains(words)), "{case}: {words:?} is not in\n{said}");
        assert!(engine.log()[before..].contains(&mirror.address()), "{case}: the log names it");
        let whole = engine.docker(["run", "--rm", &name, "sh", "-c", "busybox wc -c < /noise"]).success();
        assert_eq!(whole, (2 << 20).to_string(), "{case}");
        engine.docker(["rmi", &name]).success();
        assert!(names_in(&engine, "content/partial").is_empty(), "{case}: {:?}", names_in(&engine, "content/partial"));
    }
    // A digest is asked for by name: what a mirror has for it must be that.
    let mut all = honest(&image, "honest");
    all.insert(format!("honest/manifests/{}", image.digest), as_manifest(&image.manifest.replace(':', ": ")));
    *table.lock().expect("the server does not panic") = all;
    let pinned = format!("{}/honest@{}", registry.address(), image.digest);
    let said = engine.docker(["pull", &pinned]).success();
    assert!(said.contains("passed over") && said.contains("has digest"), "{said}");
    engine.docker(["rmi", &pinned]).success();
    // An honest one is believed, and nobody else asked for the layer. Where all lie, that is the error.
    *table.lock().expect("the server does not panic") = honest(&image, "honest");
    let before = mirror.requests().len();
    assert!(!engine.docker(["pull", &name]).success().contains(&mirror.address()));
    assert!(mirror.requests()[before..].iter().any(|request| request.target.contains(&image.layer.0)));
    engine.docker(["rmi", &name]).success();
    forget_packed(&engine);
    let blob = format!("docker/registry/v2/blobs/sha256/{}/{}/data", &image.layer.0[7..9], &image.layer.0[7..]);
    std::fs::write(registry.data().join(blob), flipped(layer, layer.len() / 2)).expect("root writes it");
    table.lock().expect("the server does not panic").insert(path(&image.layer.0), Reply::new(503, "out"));
    let failed = engine.docker(["pull", &name]).failure(1);
    assert!(failed.contains("layer verification failed") && failed.contains(registry.address()), "{failed}");
    assert!(engine.docker(["images", "-q", &name]).success().is_empty());
}

#[test]
fn a_registry_that_asks_for_time_gets_it_and_everybody_knows() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-busy") else { return };
    let image = image(&engine, &registry);
    let table: Arc<Mutex<BTreeMap<String, Reply>>> = Arc::default();
    let served = Table(table.clone());
    // Part of the path, and seconds.
    let busy: Arc<Mutex<Option<(String, &str)>>> = Arc::default();
    *table.lock().expect("nobody panicked") = honest(&image, "x");
    let asked = busy.clone();
    let server = Server::start(move |request| {
        let mut asked = asked.lock().expect("nobody panicked");
        match asked.as_ref().filter(|(part, _)| request.method == "GET" && request.target.contains(part.as_str())) {
            Some((_, seconds)) => {
                let reply = Reply::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#);
                let reply = reply.with("Retry-After", seconds);
                // Short waits are over then.
                if *seconds == "2" {
                    *asked = None;
                }
                reply
            }
            None => served.serve(request),
        }
    });
    let set = |part: &str, seconds| *busy.lock().expect("nobody panicked") = Some((part.to_owned(), seconds));
    let name = format!("{}/x:1", server.address());
    // Before there is anything to show, and in the middle of it.
    set("/manifests/1", "2");
    let said = engine.docker(["pull", &name]).success();
    assert!(said.starts_with("toomanyrequests: slow down: asking again in 3 seconds\n1: Pulling from x"), "{said}");
    let before = id(&engine, &name);
    engine.docker(["rmi", &name]).success();
    set(&image.layer.0, "2");
    let said = engine.docker(["pull", &name]).success();
    assert!(said.contains(": Retrying in 3 seconds") && said.contains(": Retrying in 1 second\n"), "{said}");
    assert_eq!(id(&engine, &name), before);
    engine.docker(["rmi", &name]).success();
    // On a terminal it is part of the line.
    set(&image.layer.0, "2");
    let client = engine.berth_on_terminal(["pull", &name]);
    client.wait_for("retrying in ");
    client.wait().success();
    engine.docker(["rmi", &name]).success();
    // Whoever leaves does not wait: neither a client nor the engine for it.
    for part in ["/manifests/1", &image.layer.0] {
        set(part, "60");
        let mut client = engine.command("docker".as_ref()).args(["pull", "-q", &name]).spawn().expect("docker runs");
        let count = || server.requests().iter().filter(|request| request.target.contains(part)).count();
        let before = count();
        wait_until("it is asked", || count() > before);
        std::thread::sleep(Duration::from_millis(300));
        client.kill().expect("our own child");
        client.wait().expect("our own child");
        *busy.lock().expect("nobody panicked") = None;
        let began = Instant::now();
        engine.docker(["pull", "-q", &name]).success();
        assert!(began.elapsed() < Duration::from_secs(10), "{part}: {:?}", began.elapsed());
        engine.docker(["rmi", &name]).success();
    }
    // Nobody is kept waiting for hours.
    set("/manifests/1", "21600");
    let began = Instant::now();
    let failed = engine.docker(["pull", &name]).failure(1);
    assert!(failed.contains("slow down") && failed.contains("left alone for 6 hours"), "{failed}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
