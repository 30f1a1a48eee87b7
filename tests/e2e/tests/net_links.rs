//! Links of the default bridge, and containers between networks, with the installed `docker` client.

use berth_testkit::{Engine, wait_until};

fn networks_of(engine: &Engine, container: &str) -> serde_json::Value {
    engine.inspect(container)["NetworkSettings"]["Networks"].clone()
}

#[test]
fn a_link_tells_names_ports_and_environment_and_follows_a_new_address() {
    let Some(engine) = Engine::start("links") else { return };
    let db = ["run", "-d", "--name", "db", "--expose", "80", "--expose", "81", "-e", "A=b=c", "tiny", "sleep", "1000"];
    engine.docker(db).success();
    engine.docker(["run", "-d", "--name", "web", "--link", "db:my-store", "tiny", "sleep", "1000"]).success();
    let env = engine.docker(["exec", "web", "env"]).success();
    let address = engine.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]).success();
    for line in [
        format!("MY_STORE_PORT=tcp://{address}:80"),
        format!("MY_STORE_PORT_81_TCP_ADDR={address}"),
        "MY_STORE_PORT_80_TCP_PORT_END=81".to_owned(),
        "MY_STORE_NAME=/web/my-store".to_owned(),
        "MY_STORE_ENV_A=b=c".to_owned(),
    ] {
        assert!(env.lines().any(|seen| seen == line), "{line} in {env}");
    }
    let first = engine.docker(["exec", "web", "cat", "/proc/1/environ"]).success();
    assert!(first.contains("MY_STORE_NAME"), "the first process is told as well");
    assert_eq!(engine.inspect("web")["HostConfig"]["Links"], serde_json::json!(["/db:/web/my-store"]));
    // Somebody else takes its address meanwhile.
    engine.docker(["stop", "-t", "0", "db"]).success();
    engine.docker(["run", "-d", "--name", "other", "tiny", "sleep", "1000"]).success();
    engine.docker(["start", "db"]).success();
    let address = engine.docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]).success();
    wait_until("the hosts file has the new address", || {
        let hosts = engine.docker(["exec", "web", "cat", "/etc/hosts"]).success();
        hosts.lines().any(|line| line.starts_with(&format!("{address}\tmy-store ")) && line.ends_with(" db"))
    });

    engine.docker(["stop", "-t", "0", "web", "db"]).success();
    let refused = engine.docker(["start", "web"]);
    assert!(refused.stderr.contains("Cannot link to a non running container: /db AS /web/my-store"), "{refused:?}");
    engine.docker(["rm", "--link", "web/my-store"]).success();
    engine.docker(["start", "web"]).success();
    let env = engine.docker(["exec", "web", "env"]).success();
    assert!(!env.contains("MY_STORE"), "{env}");
    let gone = engine.docker(["rm", "--link", "web/my-store"]);
    assert!(gone.stderr.contains("No such container: web/my-store"), "{gone:?}");
    let missing = engine.docker(["create", "--link", "nobody:x", "tiny"]);
    assert!(missing.stderr.contains("could not get container for nobody: No such container: nobody"), "{missing:?}");
}

#[test]
fn a_container_that_left_its_last_network_joins_another_and_keeps_it() {
    let Some(engine) = Engine::start("between") else { return };
    for network in ["front", "back"] {
        engine.docker(["network", "create", network]).success();
    }
    engine.docker(["run", "-d", "--name", "box", "--network", "front", "tiny", "sleep", "1000"]).success();
    engine.docker(["network", "disconnect", "front", "box"]).success();
    assert_eq!(networks_of(&engine, "box"), serde_json::json!({}));
    engine.docker(["network", "connect", "--alias", "crate", "back", "box"]).success();
    let joined = networks_of(&engine, "box");
    assert!(joined["back"]["IPAddress"].as_str().is_some_and(|address| !address.is_empty()), "{joined}");
    engine.docker(["stop", "-t", "0", "box"]).success();
    // Of a stopped one: what it is to join, by id, without addresses.
    let stopped = networks_of(&engine, "box");
    let back = engine.api("GET", "/networks/back", "").expect(200).json();
    assert_eq!((&stopped["back"]["NetworkID"], &stopped["back"]["IPAddress"]), (&back["Id"], &"".into()));
    assert_eq!(stopped["back"]["Aliases"], serde_json::json!(["crate"]));
    assert_eq!(stopped.as_object().map(serde_json::Map::len), Some(1), "{stopped}");
    engine.docker(["start", "box"]).success();
    assert_eq!(engine.docker(["exec", "box", "ls", "/sys/class/net"]).success(), "eth0\nlo");
    // Without any it starts with loopback alone; `none` can be left, too.
    engine.docker(["network", "disconnect", "back", "box"]).success();
    engine.docker(["restart", "-t", "0", "box"]).success();
    assert_eq!(engine.docker(["exec", "box", "ls", "/sys/class/net"]).success(), "lo");
    engine.docker(["run", "-d", "--name", "hermit", "--network", "none", "tiny", "sleep", "1000"]).success();
    let refused = engine.docker(["network", "connect", "back", "hermit"]);
    assert!(refused.stderr.contains("private (none) mode"), "{refused:?}");
    engine.docker(["network", "disconnect", "none", "hermit"]).success();
    engine.docker(["network", "connect", "back", "hermit"]).success();
    engine.docker(["network", "connect", "--link-local-ip", "169.254.8.8", "front", "hermit"]).success();
    assert!(engine.docker(["exec", "hermit", "ip", "address"]).success().contains("169.254.8.8/16"));
}
