//! What differs between versions of the API, each version beside the one before it. (What a body of `create` meant to
//! an older version is in `berth-api-docker`, `spec/versions.rs`.)

use berth_testkit::{Engine, wait_until};
use serde_json::{Value, json};

fn get(engine: &Engine, minor: u32, path: &str) -> Value {
    engine.api("GET", &format!("/v1.{minor}{path}"), "").expect(200).json()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// The text of the events up to now, and what the answer calls it.
fn events(engine: &Engine, minor: u32, accept: &str) -> (String, String) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let path = format!("/v1.{minor}/events?since=1&until={now}");
    let answer = engine.exchange("GET", &path, &[("Accept", accept)], b"").finish().expect("an answer");
    (answer.header("content-type").unwrap_or_default().to_owned(), answer.text())
}

#[test]
fn the_newest_version_is_offered_and_the_one_after_it_refused() {
    let Some(engine) = Engine::start("versions-offer") else { return };
    let ping = engine.api("GET", "/_ping", "").expect(200);
    assert_eq!(ping.header("api-version"), Some("1.56"));
    assert_eq!(get(&engine, 56, "/version")["ApiVersion"], "1.56");
    assert_eq!(engine.api("GET", "/version", "").expect(200).json()["MinAPIVersion"], "1.24");
    let refused = engine.api("GET", "/v1.57/version", "").expect(400).message();
    assert!(refused.contains("Maximum supported API version is 1.56"), "{refused}");
    let early = engine.api("POST", "/v1.24/volumes/prune", "").expect(400).message();
    assert_eq!(early, "POST /volumes/prune requires minimum API version 1.25");
}

#[test]
fn containers_are_shown_as_their_version_shows_them() {
    let Some(engine) = Engine::start("versions-show") else { return };
    let health = ["--health-cmd", "true", "--health-interval", "100ms"];
    let run = ["run", "-d", "--name", "well", "--annotation", "a=b"];
    engine.docker(run.iter().chain(&health).chain(&["tiny", "sleep", "1000"])).success();
    engine.docker(["run", "-d", "--name", "plain", "tiny", "sleep", "1000"]).success();
    wait_until("the check has passed", || engine.inspect("well")["State"]["Health"]["Status"] == "healthy");
    let of = |minor, name: &str| {
        let list = get(&engine, minor, "/containers/json");
        let all = list.as_array().expect("a list").clone();
        all.into_iter().find(|one| one["Names"][0] == format!("/{name}")).expect("it is listed")
    };
    assert_eq!(of(52, "well")["Health"], json!({"Status": "healthy", "FailingStreak": 0}));
    assert_eq!(of(52, "plain")["Health"]["Status"], "none");
    assert!(of(51, "well").get("Health").is_none());
    assert_eq!(of(46, "well")["HostConfig"]["Annotations"], json!({"a": "b"}));
    assert!(of(45, "well")["HostConfig"].get("Annotations").is_none());

    let new = get(&engine, 52, "/containers/plain/json");
    assert_eq!(keys(&new["NetworkSettings"]), ["SandboxID", "SandboxKey", "Ports", "Networks"]);
    assert!(new["Config"].get("OnBuild").is_none());
    let old = get(&engine, 51, "/containers/plain/json");
    assert_eq!(old["NetworkSettings"]["IPAddress"], new["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]);
    assert!(old["Config"].get("OnBuild").is_some());

    let stats = |minor| get(&engine, minor, "/containers/plain/stats?stream=0&one-shot=1");
    assert_eq!(stats(52)["os_type"], "linux");
    assert!(stats(51).get("os_type").is_none());
}

#[test]
fn names_and_addresses_stand_where_their_version_has_them() {
    let Some(engine) = Engine::start("versions-names") else { return };
    engine.docker(["network", "create", "sea"]).success();
    let mac = "02:42:ac:11:22:33";
    engine
        .docker(["create", "--name", "box", "--hostname", "boat", "--network", "sea", "--mac-address", mac, "tiny"])
        .success();
    let old = get(&engine, 44, "/containers/box/json");
    let aliases = old["NetworkSettings"]["Networks"]["sea"]["Aliases"].as_array().expect("aliases").clone();
    assert!(aliases.contains(&json!("boat")), "{aliases:?}");
    assert!(aliases.contains(&json!(&old["Id"].as_str().expect("an id")[..12])), "{aliases:?}");
    assert_eq!(get(&engine, 45, "/containers/box/json")["NetworkSettings"]["Networks"]["sea"]["Aliases"], Value::Null);
    assert_eq!(get(&engine, 51, "/containers/box/json")["Config"]["MacAddress"], mac);
    assert!(get(&engine, 52, "/containers/box/json")["Config"].get("MacAddress").is_none());
}

#[test]
fn events_are_a_stream_of_the_kind_that_is_asked_for() {
    let Some(engine) = Engine::start("versions-events") else { return };
    engine.docker(["create", "--name", "box", "tiny"]).success();
    wait_until("the second of the event is over", || events(&engine, 52, "*/*").1.contains("create"));
    let (kind, text) = events(&engine, 51, "*/*");
    assert_eq!(kind, "application/json");
    assert!(text.contains(r#""status":"create""#), "{text}");
    let (kind, text) = events(&engine, 52, "*/*");
    assert_eq!(kind, "application/jsonl");
    assert!(!text.contains(r#""status""#) && text.contains(r#""Action":"create""#), "{text}");
    assert_eq!(events(&engine, 52, "application/x-ndjson").0, "application/x-ndjson");
    let (kind, text) = events(&engine, 56, "application/json-seq");
    assert_eq!(kind, "application/json-seq");
    assert!(text.lines().all(|line| line.starts_with('\u{1e}')), "{text:?}");
}

#[test]
fn the_disks_usage_is_told_in_both_ways() {
    let Some(engine) = Engine::start("versions-df") else { return };
    engine.docker(["volume", "create", "free"]).success();
    engine.docker(["run", "-d", "--name", "box", "-v", "used:/d", "tiny", "sleep", "1000"]).success();
    let old = get(&engine, 51, "/system/df");
    assert_eq!(keys(&old), ["LayersSize", "Images", "Containers", "Volumes", "BuildCache"]);
    let both = get(&engine, 52, "/system/df");
    assert_eq!(both["Volumes"], old["Volumes"]);
    assert_eq!(both["VolumeUsage"]["TotalCount"], 2);
    assert_eq!(both["VolumeUsage"]["ActiveCount"], 1);
    assert!(both["ImageUsage"].get("Items").is_none());
    let verbose = get(&engine, 56, "/system/df?verbose=1");
    assert_eq!(keys(&verbose), ["ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"]);
    assert_eq!(verbose["ContainerUsage"]["Items"][0]["Names"][0], "/box");
    assert_eq!(keys(&get(&engine, 56, "/system/df?verbose=1&type=volume")), ["VolumeUsage"]);
}

#[test]
fn a_network_says_how_full_it_is() {
    let Some(engine) = Engine::start("versions-ipam") else { return };
    engine.docker(["network", "create", "--ipv6=false", "--subnet", "10.231.7.0/28", "sea"]).success();
    let status = |minor| get(&engine, minor, "/networks/sea")["Status"].clone();
    assert_eq!(status(51), Value::Null);
    // The network's own address, its broadcast and the gateway are taken.
    let fresh = json!({"IPAM": {"Subnets": {"10.231.7.0/28": {"IPsInUse": 3, "DynamicIPsAvailable": 13}}}});
    assert_eq!(status(52), fresh);
    engine.docker(["run", "-d", "--network", "sea", "tiny", "sleep", "1000"]).success();
    assert_eq!(status(52)["IPAM"]["Subnets"]["10.231.7.0/28"], json!({"IPsInUse": 4, "DynamicIPsAvailable": 12}));
    assert!(get(&engine, 56, "/networks")[0].get("Status").is_none());
}

#[test]
fn an_image_is_of_one_platform_and_says_only_what_it_has() {
    let Some(engine) = Engine::start("versions-image") else { return };
    let old = get(&engine, 51, "/images/tiny/json");
    let new = get(&engine, 52, "/images/tiny/json");
    assert_eq!(old["Author"], "");
    for key in ["Parent", "Comment", "DockerVersion", "Author"] {
        assert!(new.get(key).is_none() || new[key] != "", "{key}");
    }
    assert_eq!(old["Config"]["OnBuild"], Value::Null);
    assert!(old["Config"].get("OnBuild").is_some() && new["Config"].get("OnBuild").is_none());
    assert!(keys(&new["Config"]).iter().all(|key| !new["Config"][*key].is_null()), "{new}");
    let here = new["Architecture"].as_str().expect("an architecture").to_owned();
    let platform = |architecture: &str| format!("%7B%22os%22:%22linux%22,%22architecture%22:%22{architecture}%22%7D");
    let (own, other) = (platform(&here), platform("s390x"));
    for (method, path) in [
        ("GET", "/v1.56/images/tiny/json?platform="),
        ("GET", "/v1.56/images/tiny/history?platform="),
        ("GET", "/v1.56/images/tiny/get?platform="),
        ("DELETE", "/v1.56/images/tiny?platforms="),
    ] {
        let refused = engine.api(method, &format!("{path}{other}"), "").expect(404).message();
        assert!(refused.contains("does not match the specified platform"), "{method} {path}: {refused}");
        if method == "GET" {
            engine.api(method, &format!("{path}{own}"), "").expect(200);
        }
    }
    let two = |minor| engine.api("GET", &format!("/v1.{minor}/images/tiny/get?platform={own}&platform={other}"), "");
    assert!(two(51).expect(400).message().contains("use API version 1.52 or later"));
    assert!(two(52).expect(400).message().contains("multiple platforms not supported for this image store"));
    assert!(
        engine.api("GET", "/v1.54/images/json?identity=1", "").expect(400).message().contains("requires manifests=1")
    );
    engine.api("GET", "/v1.53/images/json?identity=1", "").expect(200);
    engine.api("GET", "/v1.55/images/tiny/attestations", "").expect(501);
    engine.api("GET", "/v1.55/images/nobody/attestations", "").expect(404);
    let early = engine.api("GET", "/v1.54/images/tiny/attestations", "").expect(400).message();
    assert!(early.contains("requires minimum API version 1.55"), "{early}");
}

#[test]
fn limits_of_single_disks_change_and_end_while_it_runs() {
    let Some(engine) = Engine::start("versions-disks") else { return };
    let Some(disk) = berth_testkit::disk() else {
        return eprintln!("skipped: no disk here whose rate could be limited");
    };
    engine.docker(["run", "-d", "--name", "box", "tiny", "sleep", "1000"]).success();
    let rates = || engine.cgroup("box", "blkio/blkio.throttle.read_bps_device", "io.max").unwrap_or_default();
    let update = |minor, list: Value| {
        let body = json!({ "BlkioDeviceReadBps": list }).to_string();
        engine.api("POST", &format!("/v1.{minor}/containers/box/update"), &body).expect(200);
        engine.inspect("box")["HostConfig"]["BlkioDeviceReadBps"].clone()
    };
    let limit = json!([{"Path": disk, "Rate": 3 << 20}]);
    assert_eq!(update(54, limit.clone()), json!([]), "not looked at before 1.55");
    assert_eq!(update(55, limit.clone()), limit);
    assert!(rates().contains("3145728"), "{}", rates());
    assert_eq!(update(55, Value::Null), limit, "null leaves it");
    assert_eq!(update(55, json!([])), json!([]));
    assert!(!rates().contains("3145728"), "{}", rates());
}

#[test]
fn what_is_not_here_says_so() {
    let Some(engine) = Engine::start("versions-absent") else { return };
    for (method, path, status) in [
        ("POST", "/v1.56/swarm/init", 503),
        ("POST", "/v1.56/swarm/join", 503),
        ("POST", "/v1.56/plugins/create?name=x", 501),
        ("POST", "/v1.56/plugins/pull?remote=x", 501),
        ("POST", "/v1.56/plugins/x/push", 404),
        ("GET", "/v1.56/images/search?term=", 400),
    ] {
        let answer = engine.api(method, path, "");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(!answer.message().is_empty(), "{method} {path}");
    }
    assert_eq!(engine.api("GET", "/v1.56/plugins/privileges?remote=x", "").expect(200).json(), json!([]));
    // Nobody listens there.
    let unreachable = engine.api("GET", "/v1.56/distribution/127.0.0.1:1/a/json", "");
    assert!(unreachable.status >= 400 && unreachable.message().contains("127.0.0.1:1"), "{}", unreachable.text());
}
