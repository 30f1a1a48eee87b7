//! Networks from create to remove, with the installed `docker` client.

use berth_testkit::Engine;
use serde_json::Value;

fn inspect(engine: &Engine, what: &[&str]) -> Value {
    let mut arguments = what.to_vec();
    arguments.insert(what.len() - 1, "inspect");
    let text = engine.docker(arguments).success();
    let list: Value = serde_json::from_str(&text).expect("an answer in JSON");
    list[0].clone()
}

fn networks_of(engine: &Engine, container: &str) -> Value {
    inspect(engine, &["container", container])["NetworkSettings"]["Networks"].clone()
}

#[test]
fn a_network_is_what_was_asked_for() {
    let Some(engine) = Engine::start("net-create") else { return };
    #[rustfmt::skip]
    engine.docker(["network", "create", "--subnet", "10.200.0.0/16", "--ip-range", "10.200.8.0/24", "--gateway",
        "10.200.0.9", "--aux-address", "router=10.200.8.1", "--subnet", "fd12:9::/64", "--ipv6", "--label", "a=b",
        "-o", "com.docker.network.driver.mtu=1400", "-o", "com.docker.network.bridge.name=bnet-e2e", "big"]).success();
    let big = inspect(&engine, &["network", "big"]);
    // The client sends its subnets in no order of its own.
    let mut blocks = big["IPAM"]["Config"].as_array().into_iter().flatten();
    let block = blocks.find(|block| block["Subnet"] == "10.200.0.0/16").expect("the first subnet");
    assert_eq!(
        (block["Subnet"].as_str(), block["Gateway"].as_str(), block["IPRange"].as_str()),
        (Some("10.200.0.0/16"), Some("10.200.0.9"), Some("10.200.8.0/24"))
    );
    assert_eq!(block["AuxiliaryAddresses"]["router"], "10.200.8.1");
    assert_eq!((&big["Labels"]["a"], &big["EnableIPv6"]), (&Value::from("b"), &Value::from(true)));
    let show = "ip -o addr show eth0; cat /sys/class/net/eth0/mtu /sys/class/net/eth0/address; ip route; ip -6 route";
    let fixed = ["--ip", "10.200.7.7", "--ip6", "fd12:9::77", "--mac-address", "02:00:00:00:07:07"];
    let mut arguments = vec!["run", "--rm", "--network", "big"];
    arguments.extend_from_slice(&fixed);
    arguments.extend_from_slice(&["tiny", "sh", "-c", show]);
    let seen = engine.docker(arguments).success();
    for wanted in ["10.200.7.7/16", "fd12:9::77/64", "1400", "02:00:00:00:07:07", "default via 10.200.0.9"] {
        assert!(seen.contains(wanted), "{wanted}: {seen}");
    }
    let chosen = engine.docker(["run", "--rm", "--network", "big", "tiny", "hostname", "-i"]).success();
    assert!(chosen.contains("10.200.8."), "from the range, and not the reserved one: {chosen}");
    assert!(std::path::Path::new("/sys/class/net/bnet-e2e").exists());
    assert_eq!(engine.docker(["network", "ls", "-q", "--filter", "label=a=b"]).success().len(), 12);
    assert_eq!(engine.docker(["network", "rm", "big"]).success(), "big");
    assert!(!std::path::Path::new("/sys/class/net/bnet-e2e").exists());
    engine.docker(["network", "create", "unused"]).success();
    assert!(engine.docker(["network", "prune", "-f"]).success().contains("unused"));
}

/// Containers that start beside the one that listens.
const TALKERS: usize = 4;

/// What a container says of its own multicast groups would reach all others, and make the last start dear.
#[test]
fn a_start_does_not_wake_the_neighbours() {
    let Some(engine) = Engine::start("net-quiet") else { return };
    engine.docker(["network", "create", "--ipv6", "quiet"]).success();
    // The kernel reports its groups within the first second and once more (RFC 3810, sections 9.11 and 9.14).
    let first =
        ["run", "-d", "--name", "first", "--network", "quiet", "tiny", "sh", "-c", "sleep 3; touch /calm; sleep 1000"];
    engine.docker(first).success();
    engine.docker(["exec", "first", "sh", "-c", "until [ -e /calm ]; do sleep 0.1; done"]).success();
    let received = || -> u64 {
        let text = engine.docker(["exec", "first", "cat", "/sys/class/net/eth0/statistics/rx_packets"]).success();
        text.trim().parse().expect("a count of packets")
    };
    let before = received();
    let talk = ["run", "--rm", "--network", "quiet", "tiny", "sh", "-c", "sleep 2; cat /proc/net/snmp6"];
    let talkers: Vec<_> = (0..TALKERS).map(|_| engine.docker_running(talk)).collect();
    let (mut reports, mut others) = (0, 0);
    for talker in talkers {
        let said = talker.wait().success();
        let sent = |name: &str| -> u64 {
            let line = said.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            let count = line.split_whitespace().nth(1).and_then(|count| count.parse().ok());
            count.unwrap_or_else(|| panic!("{name}: {said}"))
        };
        assert!(sent("Icmp6OutMLDv2Reports") > 0, "{said}");
        reports += sent("Icmp6OutMLDv2Reports");
        others += sent("Icmp6OutMsgs") - sent("Icmp6OutMLDv2Reports");
    }
    let heard = received() - before;
    // The bridge has a word to say now and then, too.
    assert!(heard < others + reports / 2, "{heard} frames heard, {reports} reports and {others} others sent");
}

#[test]
fn a_container_joins_and_leaves_while_it_runs_and_while_it_does_not() {
    let Some(mut engine) = Engine::start("net-connect") else { return };
    for network in ["one", "two"] {
        engine.docker(["network", "create", network]).success();
    }
    engine
        .docker(["run", "-d", "--name", "box", "--network", "one", "-p", "127.0.0.1::80", "tiny", "sleep", "1000"])
        .success();
    let route = |engine: &Engine| engine.docker(["exec", "box", "ip", "route", "show", "default"]).success();
    let gateway =
        |engine: &Engine, name: &str| networks_of(engine, "box")[name]["Gateway"].as_str().unwrap().to_owned();
    engine.docker(["network", "connect", "--alias", "second", "two", "box"]).success();
    assert!(route(&engine).contains(&gateway(&engine, "one")));
    assert_eq!(networks_of(&engine, "box")["two"]["Aliases"][0], "second");
    let containers = inspect(&engine, &["network", "two"])["Containers"].clone();
    assert_eq!(containers.as_object().map(|all| all.len()), Some(1));

    // What it has joined outlives the engine and its own restart.
    engine.restart_after_kill();
    assert!(networks_of(&engine, "box")["two"]["IPAddress"].as_str().is_some_and(|address| !address.is_empty()));
    engine.docker(["restart", "-t", "0", "box"]).success();
    assert_eq!(engine.docker(["exec", "box", "ls", "/sys/class/net"]).success().split_whitespace().count(), 3);

    // The way out moves when its network is left.
    engine.docker(["network", "disconnect", "one", "box"]).success();
    assert!(route(&engine).contains(&gateway(&engine, "two")));
    engine.docker(["network", "connect", "--gw-priority", "100", "one", "box"]).success();
    assert!(route(&engine).contains(&gateway(&engine, "one")), "the higher priority");

    engine.docker(["stop", "-t", "0", "box"]).success();
    engine.docker(["network", "disconnect", "one", "box"]).success();
    engine.docker(["network", "create", "three"]).success();
    engine.docker(["network", "connect", "three", "box"]).success();
    engine.docker(["start", "box"]).success();
    let networks = networks_of(&engine, "box");
    let names: Vec<&String> = networks.as_object().unwrap().keys().collect();
    assert_eq!(names, ["three", "two"]);
}

#[test]
fn what_cannot_be_is_refused_in_dockers_words_and_leaves_nothing() {
    let Some(engine) = Engine::start("net-bad") else { return };
    engine.docker(["network", "create", "--subnet", "10.201.0.0/24", "good"]).success();
    engine
        .docker([
            "run",
            "-d",
            "--name",
            "first",
            "--network",
            "good",
            "--ip",
            "10.201.0.5",
            "-p",
            "127.0.0.1:29871:80",
            "tiny",
            "sleep",
            "1000",
        ])
        .success();
    engine.docker(["create", "--name", "onhost", "--network", "host", "--runtime", "runc", "tiny"]).success();
    let on_host =
        ["run", "-d", "--name", "runs-onhost", "--network", "host", "--runtime", "runc", "tiny", "sleep", "1000"];
    engine.docker(on_host).success();
    let before = engine.docker(["network", "ls", "-q"]).success();
    let containers = engine.containers().len();
    #[rustfmt::skip]
    let table: &[(&[&str], &str)] = &[
        (&["network", "create", "good"], "network with name good already exists"),
        (&["network", "create", "--subnet", "10.201.0.0/16", "x"], "Pool overlaps with other one on this address space"),
        (&["network", "create", "--subnet", "10.201.0.0/16", "x"], "10.201.0.0/16 overlaps 10.201.0.0/24 of network good"),
        (&["network", "create", "--subnet", "127.0.0.0/8", "x"], "of the host's interface lo (see `ip route`); choose another with --subnet"),
        (&["network", "create", "-o", "berth.network.names=two", "x"], "invalid value for network option berth.network.names: two"),
        (&["network", "create", "--subnet", "10.300.0.0/16", "x"], "invalid subnet"),
        (&["network", "create", "--subnet", "10.202.0.0/24", "--gateway", "10.203.0.1", "x"], "10.203.0.1"),
        (&["network", "create", "--subnet", "10.202.0.0/24", "--ip-range", "10.203.0.0/24", "x"], "10.203.0.0"),
        (&["network", "create", "-o", "com.docker.network.driver.mtu=banana", "x"], "com.docker.network.driver.mtu"),
        (&["network", "create", "-d", "weave", "x"], "plugin \"weave\" not found"),
        (&["network", "create", "-d", "macvlan", "-o", "parent=nothere0", "x"], "invalid parent interface nothere0"),
        (&["network", "create", "-d", "host", "x"], "only one instance of \"host\" network is allowed"),
        (&["network", "create", "host"], "operation is not permitted on predefined host network"),
        (&["network", "rm", "bridge"], "bridge is a pre-defined network and cannot be removed"),
        (&["network", "rm", "good"], "has active endpoints (name:\"first\""),
        (&["network", "rm", "nothere"], "network nothere not found"),
        (&["network", "connect", "nothere", "first"], "network nothere not found"),
        (&["network", "connect", "good", "nothere"], "No such container: nothere"),
        (&["network", "connect", "neither", "nothere"], "No such container: nothere"),
        (&["network", "disconnect", "neither", "nothere"], "No such container: nothere"),
        (&["network", "connect", "good", "first"], "endpoint with name first already exists in network good"),
        (&["network", "connect", "host", "first"], "cannot connect container to host network"),
        (&["network", "connect", "good", "onhost"], "container sharing network namespace with another container or host cannot"),
        (&["network", "disconnect", "good", "onhost"], "is not connected to network good"),
        (&["network", "disconnect", "host", "runs-onhost"], "cannot disconnect container from host network - container was created in host network mode"),
        (&["create", "--ip", "10.201.0.9", "tiny"], "invalid config for network bridge: invalid endpoint settings:\n* user specified IP"),
        (&["network", "disconnect", "bridge", "first"], "is not connected to network bridge"),
        (&["run", "--rm", "--network", "nothere", "tiny", "true"], "network nothere not found"),
        (&["run", "--rm", "--network", "good", "--ip", "10.201.0.5", "tiny", "true"], "Address already in use"),
        (&["run", "--rm", "--network", "good", "--ip", "10.9.0.5", "tiny", "true"], "invalid config for network good: invalid endpoint settings:\nno configured subnet or ip-range contain the IP address 10.9.0.5"),
        (&["run", "--rm", "--ip", "10.201.0.9", "tiny", "true"], "user specified IP address is supported on user defined networks only"),
        (&["run", "--rm", "--network", "good", "--mac-address", "nonsense", "tiny", "true"], "is not a valid mac address"),
        (&["run", "--rm", "-p", "127.0.0.1:29871:80", "tiny", "true"], "Bind for 127.0.0.1:29871 failed: port is already allocated"),
        (&["run", "--rm", "-p", "203.0.113.7:29872:80", "tiny", "true"], "cannot assign requested address"),
    ];
    for (arguments, words) in table {
        let output = engine.docker(*arguments);
        assert!(output.code != 0 && output.stderr.contains(words), "{arguments:?}: {} {}", output.code, output.stderr);
    }
    assert_eq!(engine.docker(["network", "ls", "-q"]).success(), before);
    assert_eq!(engine.containers().len(), containers);
}

#[test]
fn a_port_that_is_taken_is_a_conflict_that_says_who_has_it() {
    let Some(engine) = Engine::start("net-taken") else { return };
    engine.docker(["run", "-d", "--name", "first", "-p", "127.0.0.1:29891:80", "tiny", "sleep", "1000"]).success();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listening = listener.local_addr().unwrap().port().to_string();
    // One that is bound and does not listen is in no table of the kernel's.
    let bound = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&bound, &"127.0.0.1:29894".parse::<std::net::SocketAddr>().unwrap()).unwrap();
    let on_host = ["run", "-d", "--name", "onhost", "--network", "host", "--runtime", "runc"];
    engine.docker(on_host.iter().chain(&["tiny", "httpd", "-f", "-p", "127.0.0.1:29892"])).success();
    let of_container = format!("(pid {}) of container onhost holds it", engine.pid_of("onhost"));
    berth_testkit::wait_until("the container listens", || std::net::TcpListener::bind("127.0.0.1:29892").is_err());
    let of_process = format!("(pid {}) of the host holds it; stop it, or publish another port", std::process::id());
    for (port, who) in [
        ("29891", "hint: container first holds it; stop first, or publish another port"),
        ("29892", &of_container),
        (&listening, &of_process),
        ("29894", "hint: a program of the host has bound it"),
    ] {
        let name = format!("for-{port}");
        engine.docker(["create", "--name", &name, "-p", &format!("127.0.0.1:{port}:80"), "tiny", "true"]).success();
        let refused = engine.api("POST", &format!("/containers/{name}/start"), "");
        let words = format!("Bind for 127.0.0.1:{port} failed: port is already allocated\n");
        assert_eq!(refused.status, 409, "{}", refused.message());
        assert!(refused.message().contains(&words) && refused.message().contains(who), "{}", refused.message());
    }
    let range = ["run", "--rm", "-p", "127.0.0.1:29891-29892:80", "tiny", "true"];
    let refused = engine.docker(range).stderr;
    assert!(refused.contains("all ports of 29891-29892 are allocated"), "{refused}");
    assert!(
        refused.contains("hint: 29891: container first, 29892: container onhost; publish other ports"),
        "{refused}"
    );
    let elsewhere = ["create", "--name", "elsewhere", "-p", "203.0.113.7:29893:80", "tiny", "true"];
    engine.docker(elsewhere).success();
    let refused = engine.api("POST", "/containers/elsewhere/start", "");
    assert_eq!(refused.status, 400, "{}", refused.message());
    assert!(refused.message().contains("hint: no interface of the host has 203.0.113.7"), "{}", refused.message());
}

#[test]
fn ports_are_published_one_by_one_in_ranges_at_random_and_for_each_protocol() {
    let Some(engine) = Engine::start("net-ports") else { return };
    #[rustfmt::skip]
    engine.docker(["run", "-d", "--name", "web", "-p", "127.0.0.1:29880:80", "-p", "29881-29883:81-83", "-p", "127.0.0.1::84",
        "-p", "29885:53/udp", "--expose", "86", "-P", "tiny", "sh", "-c", "httpd -p 80 && httpd -f -p 82"]).success();
    let ports = engine.docker(["port", "web"]).success();
    for wanted in [
        "80/tcp -> 127.0.0.1:29880",
        "82/tcp -> 0.0.0.0:29882",
        "82/tcp -> [::]:29882",
        "53/udp -> 0.0.0.0:29885",
        "84/tcp -> 127.0.0.1:",
        "86/tcp -> 0.0.0.0:",
    ] {
        assert!(ports.contains(wanted), "{wanted}: {ports}");
    }
    let get = |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    berth_testkit::wait_until("the server inside", || get(29880) && get(29882));
    // A port of another family or address is another one.
    engine.docker(["run", "--rm", "-p", "127.0.0.2:29880:80", "tiny", "true"]).success();
    engine.docker(["rm", "-f", "web"]).success();
    assert!(std::net::TcpListener::bind("127.0.0.1:29880").is_ok());
    // Shared namespaces: another container's, the host's, none.
    let one = ["run", "-d", "--name", "aa", "--runtime", "runc", "tiny", "httpd", "-f", "-p", "80", "-h", "/etc"];
    engine.docker(one).success();
    let shared = [
        "run",
        "--rm",
        "--runtime",
        "runc",
        "--network",
        "container:aa",
        "tiny",
        "sh",
        "-c",
        "until wget -qO /dev/null http://127.0.0.1/passwd; do :; done",
    ];
    engine.docker(shared).success();
    let none = engine.docker(["run", "--rm", "--network", "none", "tiny", "ls", "/sys/class/net"]).success();
    assert_eq!(none, "lo");
    let stats = engine.docker(["stats", "--no-stream", "--format", "{{.NetIO}}", "aa"]).success();
    assert!(stats.contains('B') && stats != "0B / 0B", "{stats}");
}

#[test]
fn the_gateway_modes_of_a_network_show_in_what_is_published() {
    let Some(engine) = Engine::start("net-modes") else { return };
    const MODE_4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
    let routed = format!("{MODE_4}=routed");
    engine.docker(["network", "create", "--ipv6=false", "-o", &routed, "routed"]).success();
    engine
        .docker(["run", "-d", "--name", "web", "--network", "routed", "-p", "29890:80", "tiny", "httpd", "-f"])
        .success();
    let ports = inspect(&engine, &["container", "web"])["NetworkSettings"]["Ports"].clone();
    assert_eq!(ports["80/tcp"], serde_json::json!([{"HostIp": "0.0.0.0", "HostPort": ""}]));
    assert_eq!(engine.docker(["ps", "--filter", "name=web", "--format", "{{.Ports}}"]).success(), "80/tcp");
    // Nobody keeps the host's port; the container is reached from the host, as every one is.
    drop(std::net::TcpListener::bind("0.0.0.0:29890").unwrap());
    let own = networks_of(&engine, "web")["routed"]["IPAddress"].as_str().unwrap().to_owned();
    berth_testkit::wait_until("the server inside", || std::net::TcpStream::connect((own.as_str(), 80)).is_ok());
    engine.docker(["restart", "-t", "0", "web"]).success();
    engine.docker(["rm", "-f", "web"]).success();

    let isolated = format!("{MODE_4}=isolated");
    let open = engine.docker(["network", "create", "--ipv6=false", "-o", &isolated, "alone"]);
    assert!(
        open.stderr.contains("gateway mode 'isolated' can only be used for an internal network"),
        "{}",
        open.stderr
    );
    engine.docker(["network", "create", "--ipv6=false", "--internal", "-o", &isolated, "alone"]).success();
    let block = inspect(&engine, &["network", "alone"])["IPAM"]["Config"][0].clone();
    assert!(block["Subnet"].is_string() && block["Gateway"].is_null(), "{block}");
    let route = engine.docker(["run", "--rm", "--network", "alone", "tiny", "ip", "route"]).success();
    assert!(!route.contains("default"), "{route}");

    engine.docker(["network", "create", "--ipv4=false", "--ipv6", "six"]).success();
    let six = inspect(&engine, &["network", "six"]);
    assert_eq!((&six["EnableIPv4"], &six["EnableIPv6"]), (&Value::from(false), &Value::from(true)));
    engine.docker(["run", "-d", "--name", "one", "--network", "six", "tiny", "sleep", "1000"]).success();
    let shown =
        engine.docker(["run", "--rm", "--network", "six", "tiny", "sh", "-c", "ip addr show eth0; nslookup one"]);
    let own = networks_of(&engine, "one")["six"]["GlobalIPv6Address"].as_str().unwrap().to_owned();
    assert!(!shown.stdout.contains("inet ") && shown.stdout.contains(&own), "{own}: {} {}", shown.stdout, shown.stderr);
}

#[test]
fn a_container_made_for_one_network_is_on_no_other() {
    let Some(engine) = Engine::start("net-only") else { return };
    engine.docker(["network", "create", "own"]).success();
    // As docker-py and others send it: no mode, one network.
    let body =
        r#"{"Image":"tiny","Cmd":["sleep","1000"],"NetworkingConfig":{"EndpointsConfig":{"own":{"Aliases":["al"]}}}}"#;
    engine.api("POST", "/v1.51/containers/create?name=box", body).expect(201);
    let networks = || {
        let shown = engine.api("GET", "/v1.51/containers/box/json", "").expect(200).json();
        shown["NetworkSettings"]["Networks"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(networks(), ["own"]);
    engine.docker(["start", "box"]).success();
    assert_eq!(networks(), ["own"]);
    assert_eq!(engine.docker(["exec", "box", "sh", "-c", "ls /sys/class/net | grep -c eth"]).success().trim(), "1");
    // After a restart of container and engine too.
    engine.docker(["restart", "-t", "0", "box"]).success();
    assert_eq!(networks(), ["own"]);
    engine.docker(["network", "connect", "bridge", "box"]).success();
    assert_eq!(networks(), ["bridge", "own"]);
}

#[test]
fn settings_with_a_name_make_networks_and_are_none() {
    let Some(engine) = Engine::start("net-settings") else { return };
    let subnet = format!("10.215.{}", std::process::id() % 200);
    let (range, gateway) = (format!("{subnet}.0/24"), format!("{subnet}.9"));
    engine
        .docker([
            "network",
            "create",
            "--config-only",
            "--subnet",
            &range,
            "--gateway",
            &gateway,
            "--label",
            "a=b",
            "base",
        ])
        .success();
    engine.docker(["network", "create", "--config-from", "base", "made"]).success();
    let made = engine.api("GET", "/v1.51/networks/made", "").expect(200).json();
    assert_eq!((&made["IPAM"]["Config"][0]["Gateway"], &made["Labels"]["a"]), (&gateway.as_str().into(), &"b".into()));
    assert_eq!(made["ConfigFrom"]["Network"], "base");
    engine.docker(["run", "-d", "--name", "box", "--network", "made", "tiny", "sleep", "1000"]).success();
    let route = engine.docker(["exec", "box", "ip", "route"]).success();
    assert!(route.contains(&format!("default via {gateway}")), "{route}");
    // No network itself, there as long as one needs it, and remembered.
    for refused in [
        engine.docker(["network", "connect", "base", "box"]),
        engine.docker(["network", "rm", "base"]),
        engine.docker(["run", "--rm", "--network", "base", "tiny", "true"]),
    ] {
        assert_ne!(refused.code, 0);
        let words = ["configuration-only network", "is in use"];
        assert!(words.iter().any(|word| refused.stderr.contains(word)), "{}", refused.stderr);
    }
    engine.docker(["rm", "-f", "box"]).success();
    engine.docker(["network", "rm", "made"]).success();
    engine.docker(["network", "rm", "base"]).success();
}
