//! Templates and clones of containers.

use berth_testkit::{Engine, Output, wait_until};
use std::collections::BTreeSet;

fn images(engine: &Engine) -> BTreeSet<String> {
    engine.docker(["images", "-aq", "--no-trunc"]).success().lines().map(str::to_owned).collect()
}

#[test]
fn clones_begin_with_a_templates_files_and_are_their_own() {
    let Some(mut engine) = Engine::start("clone-template") else { return };
    let before = images(&engine);
    engine.docker(["network", "create", "lan"]).success();
    let script = "echo base > /kept; rm /etc/passwd; mkdir -p /www; echo page > /www/index.html";
    let rest = ["--network", "lan", "--hostname", "fixed", "--network-alias", "pool", "-p", "80", "-e", "WORD=said"];
    engine.docker([&["run", "--name", "golden"], &rest[..], &["tiny", "sh", "-c", script]].concat()).success();
    assert_eq!(engine.berth(["template", "golden"]).success(), "golden");
    let again = engine.berth(["template", "golden"]).failure(1);
    assert!(again.contains("is a template already"), "{again}");

    // Its files stay as they are, and it does not run, also by its policy and after the engine's end.
    engine.docker(["update", "--restart", "always", "golden"]).success();
    engine.restart_after_kill();
    let refused = engine.docker(["start", "golden"]).failure(1);
    assert!(refused.contains("is a template: it does not run") && refused.contains("berth clone golden"), "{refused}");
    assert_eq!(engine.inspect("golden")["State"]["Template"], true);
    let listed = engine.docker(["ps", "-a", "--format", "{{.Names}} {{.Status}} {{.Image}}"]).success();
    assert_eq!(listed, "golden Template tiny");
    let file = engine.root().join("file");
    std::fs::write(&file, "x").unwrap();
    let refused = engine.docker(["cp", file.to_str().unwrap(), "golden:/kept"]).failure(1);
    assert!(refused.contains("its files stay as they are"), "{refused}");
    engine.docker(["cp", "golden:/kept", file.to_str().unwrap()]).success();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "base\n");
    assert!(engine.berth(["why", "golden"]).success().contains("is a template"));

    // Clones: files and settings of the template; names, addresses, ports of their own.
    let made = engine.berth(["clone", "golden", "one", "two"]).success();
    assert_eq!(made.lines().collect::<Vec<_>>(), ["one", "two"]);
    let layers = |name: &str| engine.inspect(name)["GraphDriver"]["Data"]["LowerDir"].as_str().unwrap().to_owned();
    assert_eq!(layers("one"), layers("two"), "the same layers below both");
    assert_eq!(engine.docker(["diff", "one"]).success(), "", "nothing was copied into it");
    let hosts: BTreeSet<String> =
        ["golden", "one", "two"].map(|name| engine.inspect(name)["Config"]["Hostname"].to_string()).into();
    assert_eq!(hosts.len(), 3, "{hosts:?}");
    for name in ["one", "two"] {
        let config = engine.inspect(name)["Config"].clone();
        assert!(config["Env"].as_array().unwrap().iter().any(|entry| entry == "WORD=said"), "{config}");
        engine.docker(["update", "--restart", "no", name]).success();
        engine.docker(["start", "-a", name]).success();
        let seen = engine.docker(["cp", &format!("{name}:/kept"), "-"]);
        assert!(seen.stdout.contains("base"), "{seen:?}");
        engine.docker(["cp", &format!("{name}:/etc/passwd"), "-"]).failure(1);
    }
    // Of the same settings with another program, side by side on one network.
    engine
        .docker(["run", "-d", "--name", "web", "--network", "lan", "-p", "80", "tiny", "httpd", "-f", "-h", "/"])
        .success();
    engine.docker(["exec", "web", "sh", "-c", "echo mine > /page"]).success();
    engine.berth(["clone", "--start", "web", "web2"]).success();
    let network = |name: &str, key: &str| engine.inspect(name)["NetworkSettings"]["Networks"]["lan"][key].to_string();
    for key in ["IPAddress", "MacAddress"] {
        assert_ne!(network("web", key), network("web2", key), "{key}");
    }
    assert_ne!(engine.docker(["port", "web", "80"]).success(), engine.docker(["port", "web2", "80"]).success());
    let page = |name: &str| engine.docker(["exec", "web", "wget", "-qO-", &format!("http://{name}/page")]);
    wait_until("the clone answers by its name", || page("web2").stdout == "mine\n");
    // Neither sees what the other writes.
    engine.docker(["exec", "web2", "sh", "-c", "echo other > /page"]).success();
    assert_eq!((page("web").success(), page("web2").success()), ("mine".to_owned(), "other".to_owned()));
    engine.docker(["rm", "-f", "web", "web2"]).success();

    // Nobody loses a template or what clones stand on by clearing up, and a template can go before its clones.
    let pruned = engine.docker(["container", "prune", "-f"]).success();
    assert!(pruned.contains("Deleted Containers"), "{pruned}");
    engine.docker(["image", "prune", "-f"]).success();
    assert_eq!(engine.docker(["ps", "-a", "--format", "{{.Names}}"]).success(), "golden");
    engine.berth(["clone", "golden", "three"]).success();
    engine.docker(["rm", "golden"]).success();
    engine.docker(["image", "prune", "-f"]).success();
    engine.docker(["update", "--restart", "no", "three"]).success();
    engine.docker(["start", "-a", "three"]).success();
    let origin = engine.inspect("three")["Image"].as_str().unwrap().to_owned();
    engine.docker(["rmi", &origin]).failure(1);
    assert!(images(&engine).contains(&origin));
    engine.docker(["rm", "three"]).success();
    assert_eq!(images(&engine), before, "the origin's image goes with the last clone");
}

#[test]
fn what_cannot_be_cloned_says_why_and_leaves_nothing() {
    let Some(engine) = Engine::start("clone-refused") else { return };
    engine.docker(["run", "-d", "--name", "busy", "tiny", "sleep", "1000"]).success();
    let before = images(&engine);
    let refused = engine.berth(["template", "busy"]).failure(1);
    assert!(refused.contains("container busy runs") && refused.contains("berth clone busy NEW"), "{refused}");
    let failed = |output: Output, says: &str| {
        let said = output.failure(1);
        assert!(said.contains(says), "{says}: {said}");
    };
    failed(engine.berth(["template", "nobody"]), "No such container");
    failed(engine.berth(["clone", "nobody", "x1"]), "No such container");
    failed(engine.berth(["clone", "busy", "busy"]), "already in use");
    failed(engine.berth(["clone", "busy", "bad/name"]), "Invalid container name");
    assert_eq!(images(&engine), before, "no image is left of clones that were not made");
    // Those that were made before one failed stay, on one image.
    failed(engine.berth(["clone", "busy", "first", "busy"]), "already in use");
    engine.docker(["inspect", "first"]).success();
    // One that cannot start keeps no other from it: both are there, and the answer says why.
    engine.docker(["create", "--name", "bound", "tiny", "/no/such/program"]).success();
    let output = engine.berth(["clone", "--start", "bound", "b1", "b2"]);
    assert_eq!((output.code, output.stdout.as_str()), (1, "b1\nb2\n"), "{output:?}");
    assert_eq!(output.stderr.matches("Error: ").count(), 2, "{output:?}");
    engine.docker(["rm", "-f", "bound", "b1", "b2"]).success();
    // What a user gave a name is the user's, also where it was made for a clone.
    let origin = engine.inspect("first")["Image"].as_str().unwrap().to_owned();
    engine.docker(["tag", &origin, "kept:1"]).success();
    engine.docker(["rm", "first"]).success();
    assert_eq!(engine.docker(["images", "-q", "--no-trunc", "kept:1"]).success(), origin);
    let body = engine.api("POST", "/api/v1/containers/busy/clone", r#"{"names": []}"#);
    assert_eq!(body.status, 400, "{}", body.text());
    engine.docker(["rm", "-f", "busy"]).success();
}
