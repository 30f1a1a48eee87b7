//! Registries that lie or break: a clear error with their own reason, and nothing half visible.

use crate::common::{curl, forget_packed, make_image, names_in};
use berth_testkit::{Engine, Registry, Reply, Request, Server};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub(crate) const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// An honest image's parts.
pub(crate) struct Image {
    pub manifest: String,
    pub digest: String,
    pub config: (String, Vec<u8>),
    pub layer: (String, Vec<u8>),
}

/// A real image, by way of a real registry.
pub(crate) fn image(engine: &Engine, registry: &Registry) -> Image {
    let name = format!("{}/honest:1", registry.address());
    make_image(engine, &name, 2, 1);
    engine.docker(["push", &name]).success();
    let digest = crate::common::digest(engine, &name);
    engine.docker(["rmi", &name]).success();
    forget_packed(engine);
    let url = |rest: &str| format!("http://{}/v2/honest/{rest}", registry.address());
    let manifest = curl(&["-H", &format!("Accept: {MANIFEST}"), &url("manifests/1")]);
    let parsed: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let blob = |digest: &serde_json::Value| {
        let digest = digest.as_str().expect("a digest").to_owned();
        let file = engine.root().join("blob");
        curl(&["-o", file.to_str().expect("our own path"), &url(&format!("blobs/{digest}"))]);
        (digest, std::fs::read(file).expect("just fetched"))
    };
    let (config, layer) = (blob(&parsed["config"]["digest"]), blob(&parsed["layers"][0]["digest"]));
    Image { manifest, digest, config, layer }
}

/// Answers with whatever the table has for a path.
pub(crate) struct Table(pub Arc<Mutex<BTreeMap<String, Reply>>>);

impl Table {
    pub(crate) fn serve(&self, request: &Request) -> Reply {
        let table = self.0.lock().expect("no test panicked here");
        let path = request.target.trim_start_matches("/v2/");
        let mut reply = match table.get(path) {
            Some(reply) => reply.clone(),
            None => {
                return Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#);
            }
        };
        let range = request.header("range").trim_start_matches("bytes=").trim_end_matches('-');
        if let Ok(from) = range.parse::<usize>()
            && reply.status == 200
        {
            let size = reply.body.len();
            reply.status = 206;
            reply.headers.push(("Content-Range".to_owned(), format!("bytes {from}-{}/{size}", size - 1)));
            reply.body = reply.body[from.min(size)..].to_vec();
        }
        reply
    }
}

#[test]
fn lies_are_refused_and_leave_nothing() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start_with("registry-lies", &["--max-download-attempts", "2"]) else { return };
    let image = image(&engine, &registry);
    let table: Arc<Mutex<BTreeMap<String, Reply>>> = Arc::default();
    let served = Table(table.clone());
    let server = Server::start(move |request| served.serve(request));
    let layers_before = names_in(&engine, "layers").len();
    let images_before = engine.docker(["images", "-aq"]).success();

    let flipped = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let manifest = Reply::new(200, image.manifest.clone()).with("Content-Type", MANIFEST);
    let honest = || {
        BTreeMap::from([
            ("x/manifests/1".to_owned(), manifest.clone()),
            (format!("x/blobs/{}", image.config.0), Reply::new(200, image.config.1.clone())),
            (format!("x/blobs/{}", image.layer.0), Reply::new(200, image.layer.1.clone())),
        ])
    };
    let layer_path = format!("x/blobs/{}", image.layer.0);
    let config_path = format!("x/blobs/{}", image.config.0);
    let (layer, config) = (image.layer.1.clone(), image.config.1.clone());
    let other_layers = image
        .manifest
        .replace(&image.layer.0, &image.config.0)
        .replace(&format!("\"size\":{}", layer.len()), &format!("\"size\":{}", config.len()));
    let no_layers = {
        let mut value: serde_json::Value = serde_json::from_str(&image.manifest).expect("JSON");
        value["layers"] = serde_json::json!([]);
        value.to_string()
    };
    let as_manifest = |text: &str| Reply::new(200, text).with("Content-Type", MANIFEST);
    let chart = image
        .manifest
        .replace("application/vnd.docker.container.image.v1+json", "application/vnd.cncf.helm.config.v1+json");
    let cases: Vec<(&str, &str, Reply, &str)> = vec![
        ("wrong bytes of a layer", &layer_path, Reply::new(200, flipped(&layer)), "layer verification failed"),
        ("wrong bytes of a configuration", &config_path, Reply::new(200, flipped(&config)), "has digest"),
        ("a layer that is too long", &layer_path, Reply::new(200, [&layer[..], b"more"].concat()), "descriptor says"),
        ("a layer that is too short", &layer_path, Reply::new(200, &layer[..100]), "descriptor says"),
        (
            "a length that is a lie",
            &layer_path,
            Reply { claimed_length: Some(1 << 50), ..Reply::new(200, "x") },
            "descriptor says",
        ),
        (
            "a connection that always breaks",
            &layer_path,
            Reply { cut_after: Some(1000), ..Reply::new(200, layer.clone()) },
            "broke",
        ),
        (
            "a blob that is not there",
            &layer_path,
            Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#),
            "blob unknown to registry",
        ),
        (
            "an outage with a reason",
            &layer_path,
            Reply::new(503, r#"{"errors":[{"code":"UNAVAILABLE","message":"disk on fire"}]}"#),
            "disk on fire",
        ),
        ("a layer that is another thing", "x/manifests/1", as_manifest(&other_layers), "failed to register layer"),
        (
            "fewer layers than there are",
            "x/manifests/1",
            as_manifest(&no_layers),
            "its configuration names 1 layer and its manifest 0 layers",
        ),
        ("no container image", "x/manifests/1", as_manifest(&chart), "no container image but"),
        (
            "a huge manifest",
            "x/manifests/1",
            Reply { claimed_length: Some(1 << 30), ..Reply::new(200, "{") },
            "larger than",
        ),
        ("no JSON", "x/manifests/1", as_manifest("{\"schemaVersion\":2,"), "invalid manifest"),
        ("schema 1", "x/manifests/1", as_manifest(r#"{"schemaVersion":1}"#), "schema version 1"),
        (
            "another digest than its own header says",
            "x/manifests/1",
            as_manifest(&image.manifest).with("Docker-Content-Digest", &image.config.0),
            "has digest",
        ),
        (
            "a circle",
            "x/manifests/1",
            Reply::new(307, "").with("Location", "/v2/x/manifests/1"),
            "redirects in circles",
        ),
    ];
    let name = format!("{}/x:1", server.address());
    for (case, path, reply, words) in cases {
        let mut all = honest();
        all.insert(path.to_owned(), reply);
        *table.lock().expect("the server does not panic") = all;
        let output = engine.docker(["pull", &name]);
        assert_eq!(output.code, 1, "{case}: {output:?}");
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains(words), "{case}: {words:?} is not in:\n{said}");
        assert_eq!(engine.docker(["images", "-aq"]).success(), images_before, "{case}");
        assert_eq!(names_in(&engine, "layers").len(), layers_before, "{case}: {:?}", names_in(&engine, "layers"));
    }
    // What a digest says must be what comes, also by name.
    *table.lock().expect("the server does not panic") =
        BTreeMap::from([(format!("x/manifests/{}", image.digest), as_manifest(&no_layers))]);
    let pinned = engine.docker(["pull", &format!("{}/x@{}", server.address(), image.digest)]).failure(1);
    assert!(pinned.contains("has digest"), "{pinned}");

    // The same registry, honest at last.
    *table.lock().expect("the server does not panic") = honest();
    engine.docker(["pull", &name]).success();
    assert_eq!(
        engine.docker(["run", "--rm", &name, "sh", "-c", "busybox wc -c < /noise"]).success(),
        (2 << 20).to_string()
    );
    assert!(names_in(&engine, "content/partial").is_empty(), "{:?}", names_in(&engine, "content/partial"));
}

#[test]
fn nobody_and_strangers_are_told_apart() {
    let Some(engine) = Engine::start_with("registry-nobody", &["--max-download-attempts", "1"]) else { return };
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let refused = engine.docker(["pull", &format!("{free}/x:1")]).failure(1);
    assert!(refused.contains(&format!("cannot reach {free}")) && refused.contains("Connection refused"), "{refused}");
    let unknown = engine.docker(["pull", "registry.invalid/x:1"]).failure(1);
    assert!(unknown.contains("cannot look up registry.invalid"), "{unknown}");
    // A word with a capital before the slash is a host, to Docker too.
    let host = engine.docker(["pull", "UPPER/x:1"]).failure(1);
    assert!(host.contains("must be lowercase") || host.contains("is taken for a registry's host"), "{host}");
}

/// Dockerd's words and status for names that are no names, whoever is asked.
#[test]
fn names_that_are_no_names_are_refused_in_dockers_words() {
    let Some(engine) = Engine::start("registry-names") else { return };
    let (format, tag) = ("invalid reference format", "invalid tag format");
    let upper = "invalid reference format: repository name (library/UPPER) must be lowercase";
    let id = "a".repeat(64);
    let long = "repository name must not be more than 255 characters";
    for (query, words) in [
        ("fromImage=UPPER", upper),
        ("fromImage=UPPER&tag=1", upper),
        ("fromImage=127.0.0.1:1/team/UPPER", &upper.replace("library/UPPER", "team/UPPER")),
        ("fromImage=a//b", format),
        ("fromImage=a%20b", format),
        ("fromImage=-a", format),
        ("fromImage=http://127.0.0.1/a", format),
        ("fromImage=a@sha256:12", format),
        ("fromImage=a&tag=-1", tag),
        ("fromImage=a&tag=sha256:12", tag),
        (
            &format!("fromImage={id}"),
            &format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings"),
        ),
        (&format!("fromImage={}", "a".repeat(256)), long),
        ("fromSrc=-&repo=UPPER", upper),
        ("fromSrc=-&repo=a&tag=-1", tag),
        ("fromSrc=-&repo=a@sha256:12", format),
        ("fromSrc=http://%5B/x.tar", "cannot fetch http://[/x.tar: invalid URL"),
        ("fromSrc=http://", "cannot fetch http://: invalid URL"),
        ("fromSrc=file:///etc/passwd", "cannot import from file:///etc/passwd: only http and https are fetched"),
        ("", "nothing to pull or import"),
    ] {
        let refused = engine.api("POST", &format!("/images/create?{query}"), "");
        assert_eq!(refused.status, 400, "{query}: {}", refused.message());
        assert!(refused.message().starts_with(words), "{query}: {}", refused.message());
    }
    for (path, words) in [
        ("/images/UPPER/push?tag=1", upper),
        ("/images/tiny/push?tag=-1", tag),
        ("/images/tiny/tag?repo=UPPER", upper),
        ("/images/tiny/tag?repo=a&tag=-1", tag),
        ("/images/tiny/tag?repo=", format),
    ] {
        let refused = engine.api("POST", path, "");
        assert_eq!((refused.status, refused.message().as_str()), (400, words), "{path}");
    }
    let asked = engine.api("GET", "/distribution/UPPER/json", "");
    assert_eq!((asked.status, asked.message().as_str()), (400, upper));
    for client in [engine.docker(["pull", "UPPER"]), engine.berth(["pull", "UPPER"]), engine.berth(["push", "UPPER"])] {
        assert!(client.failure(1).contains(upper));
    }
}

#[test]
fn a_certificate_of_somebody_else_is_refused_until_it_is_trusted() {
    let Some(registry) = Registry::secured() else { return };
    let config = tempfile::NamedTempFile::new().expect("scratch file");
    let checked = serde_json::json!({"registries": {registry.address(): {
        "insecure": false, "username": Registry::USER, "password": Registry::PASSWORD,
    }}});
    std::fs::write(config.path(), checked.to_string()).expect("scratch file");
    let file = config.path().to_str().expect("our own path");
    let Some(engine) = Engine::start_with("registry-ca", &["--config-file", file]) else { return };
    let name = format!("{}/x:1", registry.address());
    make_image(&engine, &name, 0, 1);
    let refused = engine.docker(["push", &name]).failure(1);
    assert!(refused.contains("certificate") && refused.contains("certs.d"), "{refused}");
}
