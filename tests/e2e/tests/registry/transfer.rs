//! Images go to a registry and come back: the real registry, the real client, ours, and a link that breaks.

use crate::common::{digest, forget_packed, id, make_image, names_in, put_manifest};
use berth_testkit::{Engine, Link, Registry, Reply, Server, wait_until};
use std::os::unix::fs::MetadataExt as _;

#[test]
fn what_is_pushed_is_pulled_and_runs() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-round") else { return };
    let name = format!("{}/team/app:1", registry.address());
    let repository = format!("{}/team/app", registry.address());
    make_image(&engine, "app", 1, 1);
    engine.docker(["tag", "app", &name]).success();
    let pushed = engine.docker(["push", &name]).success();
    assert!(pushed.contains(&format!("The push refers to repository [{repository}]")), "{pushed}");
    assert!(pushed.contains(": Pushed\n") && pushed.contains("1: digest: sha256:"), "{pushed}");
    let (pinned, before) = (digest(&engine, &name), id(&engine, &name));
    assert!(pushed.contains(&pinned), "{pushed}");
    // The layer is known now: to this repository, and to the registry.
    assert!(engine.docker(["push", &name]).success().contains(": Layer already exists"));
    let other = format!("{}/other:2", registry.address());
    engine.docker(["tag", "app", &other]).success();
    assert!(engine.docker(["push", &other]).success().contains(": Mounted from team/app"));
    assert_eq!(digest(&engine, &other), pinned, "the same bytes every time");

    engine.docker(["rmi", "app", &name, &other]).success();
    assert!(engine.docker(["images", "-q", "--filter", &format!("reference={repository}")]).success().is_empty());
    let pulled = engine.docker(["pull", &name]).success();
    for words in ["1: Pulling from team/app", "Pulling fs layer", "Download complete", "Pull complete"] {
        assert!(pulled.contains(words), "{words} is not in:\n{pulled}");
    }
    assert!(
        pulled.contains(&format!("Digest: {pinned}\nStatus: Downloaded newer image for {name}\n{name}")),
        "{pulled}"
    );
    assert_eq!((id(&engine, &name), digest(&engine, &name)), (before.clone(), pinned.clone()));
    wait_until("nothing is half there", || names_in(&engine, "content/partial").is_empty());
    assert!(names_in(&engine, "content/blobs/sha256").len() <= 1);
    assert_eq!(engine.docker(["run", "--rm", &name, "sh", "-c", "busybox wc -c < /noise"]).success(), "1048576");

    let again = engine.docker(["pull", &name]).success();
    assert!(again.contains(&format!("Status: Image is up to date for {name}")), "{again}");
    // By digest there is no tag, and the same image.
    engine.docker(["rmi", &name]).success();
    let by_digest = format!("{repository}@{pinned}");
    engine.docker(["pull", &by_digest]).success();
    assert_eq!(id(&engine, &by_digest), before);
    let listed = engine.docker(["images", "--digests", "--format", "{{.Tag}} {{.Digest}}", &repository]).success();
    assert_eq!(listed, format!("<none> {pinned}"));
    engine.docker(["rmi", &by_digest]).success();

    // run and create fetch what is missing, as their flag says.
    let never = engine.docker(["run", "--rm", "--pull", "never", &name, "true"]).failure(125);
    assert!(never.to_lowercase().contains("no such image"), "{never}");
    let output = engine.berth(["run", "--rm", &name, "sh", "-c", "echo ran"]);
    assert!(output.stderr.contains("Unable to find image"), "{}", output.stderr);
    assert_eq!(output.success(), "ran");

    for (reference, words) in [("team/app:nope", "manifest unknown"), ("nobody/nothing:1", "not found")] {
        let missing = engine.docker(["pull", &format!("{}/{reference}", registry.address())]).failure(1);
        assert!(missing.contains(words), "{missing}");
    }
    let tag = engine.docker(["push", &format!("{repository}:nope")]).failure(1);
    assert!(tag.contains(&format!("tag does not exist: {repository}:nope")), "{tag}");
    let nothing = engine.docker(["push", &format!("{}/nothing", registry.address())]).failure(1);
    assert!(nothing.contains("An image does not exist locally with the tag:"), "{nothing}");
}

#[test]
fn all_tags_platforms_and_what_a_registry_knows() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-tags") else { return };
    let repository = format!("{}/many", registry.address());
    for n in 1..=3u64 {
        make_image(&engine, &format!("{repository}:{n}"), 0, n);
    }
    let pushed = engine.docker(["push", "-a", &repository]).success();
    assert_eq!(pushed.matches(": digest: ").count(), 3, "{pushed}");
    let one = digest(&engine, &format!("{repository}:1"));
    let all: Vec<String> = (1..=3).map(|n| format!("{repository}:{n}")).collect();
    engine.docker(["rmi".to_owned()].iter().chain(&all)).success();
    let pulled = engine.berth(["pull", "-a", &repository]).success();
    assert_eq!(pulled.matches("Status: Downloaded newer image").count(), 3, "{pulled}");
    engine.docker(["rmi".to_owned()].iter().chain(&all)).success();

    // An index leads to the image for this machine, and says what there is otherwise.
    let size = crate::common::curl(&[
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
        "-H",
        "Accept: application/vnd.docker.distribution.manifest.v2+json",
        &format!("http://{repository}/manifests/1").replace("/many", "/v2/many"),
    ]);
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = |platform: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"{one}","size":{size},"platform":{platform}}}]}}"#
        )
    };
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let ours = index(&format!(r#"{{"os":"linux","architecture":"{host}"}}"#));
    put_manifest(registry.address(), "many", "index", kind, &ours, engine.root());
    put_manifest(
        registry.address(),
        "many",
        "foreign",
        kind,
        &index(r#"{"os":"linux","architecture":"s390x"}"#),
        engine.root(),
    );
    engine.docker(["pull", &format!("{repository}:index")]).success();
    assert_ne!(digest(&engine, &format!("{repository}:index")), one, "the index's own digest is kept");
    let foreign = engine.docker(["pull", &format!("{repository}:foreign")]).failure(1);
    assert!(foreign.contains("no matching manifest for linux/") && foreign.contains("linux/s390x"), "{foreign}");
    let foreign = engine.docker(["pull", "--platform", "linux/s390x", &format!("{repository}:2")]).failure(1);
    assert!(foreign.contains("linux/s390x") && foreign.contains(&format!("linux/{host}")), "{foreign}");

    let manifest = engine.berth(["manifest", "inspect", &format!("{repository}:index")]).success();
    assert!(manifest.contains(&one), "{manifest}");
    let socket = engine.socket();
    let asked = crate::common::curl(&[
        "--unix-socket",
        socket.to_str().expect("our own path"),
        &format!("http://x/v1.43/distribution/{repository}:index/json"),
    ]);
    let known: serde_json::Value = serde_json::from_str(&asked).expect("JSON");
    assert_eq!(known["Descriptor"]["mediaType"], kind);
    assert_eq!(known["Platforms"][0]["architecture"], host);
    let found = engine.docker(["search", &format!("{}/man", registry.address())]).success();
    assert!(found.contains(&repository), "{found}");
}

#[test]
fn what_was_packed_for_a_push_that_failed_is_not_packed_again() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-push-failed") else { return };
    make_image(&engine, "kept", 3, 31);
    // Takes all the bytes and does not want them.
    let stingy = Server::start(|request| match request.method.as_str() {
        "GET" => Reply::new(200, "{}"),
        "POST" | "PATCH" => Reply::new(202, "").with("Location", "/v2/kept/blobs/uploads/1"),
        "PUT" => Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"no room left for you"}]}"#),
        _ => Reply::new(404, ""),
    });
    let names = [stingy.address(), registry.address().to_owned()].map(|address| format!("{address}/kept:1"));
    for name in &names {
        engine.docker(["tag", "kept", name]).success();
    }
    let failed = engine.docker(["push", &names[0]]).failure(1);
    assert!(failed.contains("no room left for you"), "{failed}");
    wait_until("what was packed is kept", || names_in(&engine, "content/blobs/sha256").len() == 1);
    let hex = names_in(&engine, "content/blobs/sha256").remove(0);
    let packed = engine.root().join("data/content/blobs/sha256").join(&hex);
    let inode = || std::fs::metadata(&packed).expect("it is kept").ino();
    let before = inode();
    engine.docker(["push", &names[1]]).success();
    let on_its_way = || names_in(&engine, "content/partial").iter().any(|name| name.starts_with("draft-"));
    wait_until("nothing is being kept", || !on_its_way());
    assert_eq!(inode(), before, "the same file, not one packed anew");
    crate::common::curl(&["-I", &format!("http://{}/v2/kept/blobs/sha256:{hex}", registry.address())]);
}

#[test]
fn a_link_cut_twenty_times_and_an_engine_killed_cost_no_more_bytes() {
    let Some(registry) = Registry::plain() else { return };
    let Some(mut engine) = Engine::start("registry-cut") else { return };
    let home = format!("{}/big:1", registry.address());
    make_image(&engine, &home, 40, 4);
    engine.docker(["push", &home]).success();
    let before = id(&engine, &home);
    engine.docker(["rmi", &home]).success();
    forget_packed(&engine);
    let link = Link::slow_and_broken(registry.address(), 24, 20, 1 << 20);
    let name = format!("{}/big:1", link.address());
    let mut client = engine.command("docker".as_ref()).args(["pull", "-q", &name]).spawn().expect("docker runs");
    wait_until("half of it is there", || link.bytes_down() > 16 << 20);
    engine.restart_after_kill();
    assert!(!client.wait().expect("it ends").success(), "its engine is gone");
    assert!(engine.docker(["images", "-q", &name]).success().is_empty(), "nothing half visible");
    engine.docker(["pull", "-q", &name]).success();
    assert_eq!((id(&engine, &name), link.cuts_left()), (before, 0));
    let ratio = link.bytes_down() as f64 / f64::from(40 << 20);
    assert!(ratio <= 1.05, "{ratio} x the bytes");
}

#[test]
fn two_pulls_share_the_work_and_a_removal_does_not_disturb_them() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-two") else { return };
    let home = format!("{}/shared:1", registry.address());
    make_image(&engine, &home, 16, 5);
    engine.docker(["push", &home]).success();
    engine.docker(["rmi", &home]).success();
    let link = Link::slow(registry.address(), 16);
    let name = format!("{}/shared:1", link.address());
    let start = || engine.command("docker".as_ref()).args(["pull", "-q", &name]).spawn().expect("docker runs");
    let (mut one, mut two) = (start(), start());
    wait_until("it arrives", || link.bytes_down() > 2 << 20);
    // The same image under its other name, there and gone in the middle of it.
    engine.docker(["pull", "-q", &home]).success();
    engine.docker(["rmi", &home]).success();
    assert!(one.wait().expect("it ends").success() && two.wait().expect("it ends").success());
    assert_eq!(
        engine.docker(["run", "--rm", &name, "sh", "-c", "busybox wc -c < /noise"]).success(),
        (16 << 20).to_string()
    );
    assert!(link.bytes_down() < 18 << 20, "{} bytes", link.bytes_down());
}

#[test]
fn a_client_that_leaves_ends_its_pull() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-cancel") else { return };
    let home = format!("{}/left:1", registry.address());
    make_image(&engine, &home, 24, 6);
    engine.docker(["push", &home]).success();
    engine.docker(["rmi", &home]).success();
    let link = Link::slow(registry.address(), 8);
    let name = format!("{}/left:1", link.address());
    let mut client = engine.command("docker".as_ref()).args(["pull", "-q", &name]).spawn().expect("docker runs");
    wait_until("it arrives", || link.bytes_down() > 4 << 20);
    client.kill().expect("our own child");
    client.wait().expect("our own child");
    let mut last = 0;
    wait_until("no more bytes come", || {
        let now = link.bytes_down();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let stopped = last == now;
        last = now;
        stopped
    });
    assert!(link.bytes_down() < 20 << 20, "it went on for {} bytes", link.bytes_down());
    assert!(engine.docker(["images", "-q", &name]).success().is_empty());
    engine.docker(["pull", "-q", &name]).success();
    assert!(link.bytes_down() as f64 <= f64::from(24 << 20) * 1.08, "{} bytes", link.bytes_down());
}

#[test]
fn a_mirror_serves_the_public_registrys_names() {
    let Some(registry) = Registry::plain() else { return };
    let mirror = format!("http://{}", registry.address());
    let arguments = ["--registry-mirror", &mirror, "--insecure-registry", "10.99.0.0/16"];
    let Some(engine) = Engine::start_with("registry-mirror", &arguments) else { return };
    let home = format!("{}/library/fromhub:1", registry.address());
    make_image(&engine, &home, 0, 7);
    engine.docker(["push", &home]).success();
    let pulled = engine.docker(["pull", "fromhub:1"]).success();
    assert!(pulled.contains("Status: Downloaded newer image for fromhub:1\ndocker.io/library/fromhub:1"), "{pulled}");
    assert_eq!(id(&engine, "fromhub:1"), id(&engine, &home));
    // A build asks the same mirror, in a FROM and in a COPY.
    engine.docker(["rmi", "fromhub:1", &home]).success();
    let context = engine.root().join("context");
    std::fs::create_dir(&context).expect("scratch folder");
    let text = "FROM fromhub:1\nCOPY --from=library/fromhub:2 /noise /second\nRUN busybox cmp /noise /second || echo differs >/said\n";
    std::fs::write(context.join("Dockerfile"), text).expect("scratch folder");
    let second = format!("{}/library/fromhub:2", registry.address());
    make_image(&engine, &second, 1, 8);
    engine.docker(["push", &second]).success();
    engine.docker(["rmi", &second]).success();
    engine.berth(["build", "-q", "-t", "mirrored", context.to_str().expect("our own path")]).success();
    assert_eq!(engine.docker(["run", "--rm", "mirrored", "sh", "-c", "busybox cat /said"]).success(), "differs");
    let info = engine
        .docker(["info", "-f", "{{.RegistryConfig.Mirrors}} {{.RegistryConfig.InsecureRegistryCIDRs}}"])
        .success();
    assert!(info.contains(&mirror) && info.contains("10.99.0.0/16"), "{info}");
}

#[test]
fn a_client_that_leaves_at_the_last_moment_takes_nothing_from_the_others() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-last") else { return };
    let home = format!("{}/last:1", registry.address());
    make_image(&engine, &home, 6, 9);
    engine.docker(["push", &home]).success();
    let link = Link::slow(registry.address(), 6);
    let name = format!("{}/last:1", link.address());
    for _ in 0..5 {
        engine.docker(["rmi", &home]).success();
        forget_packed(&engine);
        let path = format!("/images/create?fromImage={}/last&tag=1", link.address());
        let mut leaving = engine.exchange("POST", &path, &[], b"");
        let staying = engine.docker_running(["pull", "-q", &name]);
        // Right before the layer becomes visible.
        let mut line = String::new();
        while !line.contains("Pull complete") {
            line.clear();
            assert!(std::io::BufRead::read_line(leaving.stream(), &mut line).expect("it says more") > 0);
        }
        drop(leaving);
        staying.wait().success();
        assert_eq!(
            engine.docker(["run", "--rm", &name, "sh", "-c", "busybox wc -c < /noise"]).success(),
            (6 << 20).to_string()
        );
        engine.docker(["tag", &name, &home]).success();
        engine.docker(["rmi", &name]).success();
    }
}

#[test]
fn what_is_kept_for_pushes_and_pulls_goes_with_what_is_pruned() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-prune") else { return };
    let name = format!("{}/kept:1", registry.address());
    make_image(&engine, &name, 3, 33);
    engine.docker(["push", &name]).success();
    let blobs = || names_in(&engine, "content/blobs/sha256").len();
    let on_its_way = || names_in(&engine, "content/partial").iter().any(|name| name.starts_with("draft-"));
    wait_until("what was packed is kept", || !on_its_way() && blobs() == 1);
    let half = engine.root().join("data/content/partial").join("ab".repeat(32));
    std::fs::write(&half, [0; 100_000]).expect("scratch folder");
    // What is unfinished goes at once; the packed layer of an image that is here, with all that can be made again.
    engine.docker(["image", "prune", "-f"]).success();
    assert_eq!((blobs(), half.exists()), (1, false));
    engine.check_df();
    engine.docker(["rmi", &name]).success();
    let pruned = engine.docker(["image", "prune", "-af"]).success();
    assert_eq!(blobs(), 0);
    assert!(pruned.contains("MB"), "{pruned}");
}
