//! Against registries that lie, break, send around in circles, or are merely different.

use berth_registry::manifest::OCI_MANIFEST;
use berth_registry::{
    Access, BytesSource, Client, Config, Credentials, Descriptor, FileSource, Positioned, Proxies, RegistryError,
    Repository, Uploaded,
};
use berth_testkit::{Reply, Request, Server};
use berth_types::Digest;
use bytes::Bytes;
use sha2::Digest as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BLOB: usize = 300_000;

fn config() -> Config {
    Config {
        backoff: Duration::from_millis(1),
        silence_timeout: Duration::from_secs(2),
        attempts_max: 3,
        ..Config::default()
    }
}

fn blob() -> Vec<u8> {
    (0..BLOB).map(|n| (n / 7) as u8).collect()
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

fn descriptor() -> Descriptor {
    Descriptor::new("application/octet-stream", digest_of(&blob()), BLOB as u64)
}

fn repository(server: &Server) -> Repository {
    let name = format!("{}/a", server.address()).parse().expect("a name");
    Client::new(config()).expect("it is valid").repository(&name, Access::Pull, None)
}

async fn read(repository: &Repository) -> Result<Vec<u8>, RegistryError> {
    let mut reader = repository.blob(&descriptor(), 0);
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

fn from(request: &Request) -> usize {
    let range = request.header("range").trim_start_matches("bytes=");
    range.split('-').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The blob from where the request wants it.
fn part(request: &Request) -> Reply {
    match from(request) {
        0 => Reply::new(200, blob()),
        at => Reply::new(206, &blob()[at..]).with("Content-Range", &format!("bytes {at}-{}/{BLOB}", BLOB - 1)),
    }
}

#[tokio::test]
async fn blobs_that_break_are_resumed_and_never_read_twice() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let server = Server::start(move |request| {
        let mut reply = part(request);
        reply.cut_after = Some(100_000);
        counted.fetch_add(reply.body.len().min(100_000) as u64, Ordering::AcqRel);
        reply
    });
    assert!(read(&repository(&server)).await.unwrap() == blob());
    assert_eq!(sent.load(Ordering::Acquire), BLOB as u64);
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_again_from_the_start() {
    let first = AtomicU64::new(0);
    let server = Server::start(move |_| {
        let mut reply = Reply::new(200, blob());
        reply.cut_after = (first.fetch_add(1, Ordering::AcqRel) == 0).then_some(100_000);
        reply
    });
    assert!(read(&repository(&server)).await.unwrap() == blob());
}

#[tokio::test]
async fn lies_about_blobs_are_refused() {
    let longer = |_: &Request| Reply::new(200, [blob(), vec![0]].concat());
    let shorter = |_: &Request| Reply::new(200, &blob()[..BLOB - 1]);
    let claimed = |_: &Request| Reply { claimed_length: Some(1 << 40), ..Reply::new(200, blob()) };
    let other_range = |request: &Request| {
        let mut reply = Reply::new(200, blob());
        reply.cut_after = Some(100_000);
        match from(request) {
            0 => reply,
            at => Reply::new(206, &blob()[..BLOB - at])
                .with("Content-Range", &format!("bytes 0-{}/{BLOB}", BLOB - at - 1)),
        }
    };
    let stops = |request: &Request| Reply { cut_after: Some(0), ..part(request) };
    type Answer = Box<dyn Fn(&Request) -> Reply + Send + Sync>;
    let cases: [(&str, Answer, &str); 5] = [
        ("longer", Box::new(longer), "300001 bytes where its descriptor says 300000"),
        ("shorter", Box::new(shorter), "299999 bytes where its descriptor says 300000"),
        ("claims more", Box::new(claimed), "1099511627776 bytes where its descriptor says 300000"),
        ("other range", Box::new(other_range), "bytes 0-"),
        ("sends nothing", Box::new(stops), "broke"),
    ];
    for (case, answer, words) in cases {
        let server = Server::start(answer);
        let error = read(&repository(&server)).await.unwrap_err();
        assert!(error.to_string().contains(words), "{case}: {error}");
    }
}

#[tokio::test]
async fn lies_about_manifests_are_refused() {
    let text = r#"{"schemaVersion":2,"config":{"digest":"sha256:0","size":1},"layers":[]}"#;
    let server = Server::start(move |request| match request.target.rsplit('/').next().unwrap() {
        "huge" => Reply { claimed_length: Some(5 << 20), ..Reply::new(200, "") },
        "endless" => Reply::new(200, vec![b' '; (4 << 20) + 1]).with("Transfer", "x"),
        "header" => Reply::new(200, text).with("Docker-Content-Digest", &digest_of(b"else").to_string()),
        "loop" => Reply::new(307, "").with("Location", "/v2/a/manifests/loop"),
        "silent" => Reply { claimed_length: Some(100), ..Reply::new(200, "") },
        "busy" => Reply::new(503, r#"{"errors":[{"code":"UNAVAILABLE","message":"try later"}]}"#),
        "html" => Reply::new(500, "<html>oops"),
        _ => Reply::new(200, text).with("Content-Type", OCI_MANIFEST),
    });
    let repository = repository(&server);
    let digest = digest_of(b"something").to_string();
    for (reference, words) in [
        ("huge", "larger than"),
        ("endless", "larger than"),
        ("header", "has digest"),
        (digest.as_str(), "has digest"),
        ("loop", "redirects in circles"),
        ("silent", "broke"),
        ("busy", "unavailable: try later"),
        ("html", "answered HTTP 500"),
    ] {
        let error = repository.manifest(reference).await.unwrap_err();
        assert!(error.to_string().contains(words), "{reference}: {error}");
    }
    let busy = server.requests().iter().filter(|request| request.target.ends_with("busy")).count();
    assert_eq!(busy, 3, "tried as often as configured");
    assert!(repository.manifest("bad").await.unwrap().parse().is_err(), "a digest that is none");
}

#[tokio::test]
async fn waits_as_long_as_it_is_asked_to() {
    let asked = AtomicU64::new(0);
    let server = Server::start(move |_| match asked.fetch_add(1, Ordering::AcqRel) {
        0 => Reply::new(429, "").with("Retry-After", "1"),
        _ => Reply::new(200, r#"{"tags":["a","b","-bad"]}"#),
    });
    let before = std::time::Instant::now();
    assert_eq!(repository(&server).tags().await.unwrap(), ["a", "b"]);
    assert!(before.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn passwords_stay_with_their_registry() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = seen.clone();
    let elsewhere = Server::start(move |request| {
        heard.lock().unwrap().push(request.header("authorization").to_owned());
        part(request)
    });
    let to = format!("http://{}/blob", elsewhere.address());
    let server = Server::start(move |request| match request.header("authorization") {
        "" => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
        _ => Reply::new(307, "").with("Location", &to),
    });
    let credentials = Some(Credentials::Basic { username: "u".into(), password: "p".into() });
    let name = format!("{}/a", server.address()).parse().unwrap();
    let repository = Client::new(config()).unwrap().repository(&name, Access::Pull, credentials);
    assert!(read(&repository).await.unwrap() == blob());
    assert_eq!(*seen.lock().unwrap(), [""]);
}

#[tokio::test]
async fn mirrors_are_asked_first_and_without_the_users_password() {
    let broken = Server::start(|_| Reply::new(500, ""));
    let mirror = Server::start(|request| match request.target.contains("/manifests/") {
        true => Reply::new(200, r#"{"schemaVersion":2,"manifests":[]}"#),
        false => Reply { cut_after: Some(100_000), ..part(request) },
    });
    let mut config = config();
    let mirrors = vec![format!("http://{}", broken.address()), format!("http://{}/hub", mirror.address())];
    config.registries.insert("docker.io".into(), berth_registry::Registry { mirrors, ..Default::default() });
    let credentials = Some(Credentials::Basic { username: "u".into(), password: "p".into() });
    let name = "debian:12".parse().unwrap();
    let repository = Client::new(config).unwrap().repository(&name, Access::Pull, credentials);
    repository.manifest("12").await.unwrap();
    assert!(read(&repository).await.unwrap() == blob());
    assert_eq!(broken.requests().len(), 1, "not asked again");
    let asked = mirror.requests();
    assert_eq!(asked[0].target, "/hub/v2/library/debian/manifests/12");
    assert!(asked.iter().all(|request| request.header("authorization").is_empty()));
}

#[tokio::test]
async fn plain_http_goes_through_the_proxy_whole() {
    let proxy = Server::start(|_| Reply::new(200, r#"{"tags":["1"]}"#));
    let mut config = config();
    config.proxies = Proxies { http: format!("http://u:p@{}", proxy.address()), ..Proxies::default() };
    let mirrors = vec!["http://registry.invalid:5000".to_owned()];
    config.registries.insert("docker.io".into(), berth_registry::Registry { mirrors, ..Default::default() });
    let client = Client::new(config).unwrap();
    let repository = client.repository(&"debian".parse().unwrap(), Access::Pull, None);
    assert_eq!(repository.tags().await.unwrap(), ["1"]);
    let asked = &proxy.requests()[0];
    assert_eq!(asked.target, "http://registry.invalid:5000/v2/library/debian/tags/list");
    assert_eq!(asked.header("proxy-authorization"), "Basic dTpw");
}

/// A registry that keeps half of what it gets and then fails once.
fn forgetful_once(kept: Arc<Mutex<Vec<u8>>>) -> Server {
    Server::start(move |request| {
        let mut kept = kept.lock().expect("no handler panicked");
        let range = |length: usize| format!("0-{}", length.max(1) - 1);
        match request.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            "POST" => Reply::new(202, "").with("Location", "/v2/a/blobs/uploads/1?_state=x"),
            "GET" => {
                Reply::new(204, "").with("Location", "/v2/a/blobs/uploads/1?_state=y").with("Range", &range(kept.len()))
            }
            "PATCH" if kept.is_empty() => {
                kept.extend_from_slice(&request.body[..BLOB / 2]);
                Reply::new(503, "")
            }
            "PATCH" => {
                assert_eq!(request.header("content-range"), format!("{}-{}", BLOB / 2, BLOB - 1));
                kept.extend_from_slice(&request.body);
                Reply::new(202, "").with("Location", "/v2/a/blobs/uploads/1?_state=z").with("Range", &range(kept.len()))
            }
            _ => match digest_of(&kept).to_string() == request.query("digest").unwrap_or_default() {
                true => Reply::new(201, ""),
                false => Reply::new(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#),
            },
        }
    })
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut() {
    for growing in [false, true] {
        let got: Arc<Mutex<Vec<u8>>> = Arc::default();
        let server = forgetful_once(got.clone());
        let name = format!("{}/a", server.address()).parse().unwrap();
        let repository = Client::new(config()).unwrap().repository(&name, Access::Push, None);
        let source = Arc::new(BytesSource(Bytes::from(blob())));
        let (digest, length) = (digest_of(&blob()), BLOB as u64);
        match growing {
            false => repository.upload(&digest, length, source, Arc::new(|_| {})).await.unwrap(),
            true => {
                let whole = async { Ok((digest, length)) };
                let uploaded = repository.upload_growing(source, whole, Arc::new(|_| {})).await;
                assert_eq!(uploaded.unwrap(), Uploaded::Sent);
            }
        }
        assert!(*got.lock().unwrap() == blob());
    }
}

/// A registry that takes nothing of which it does not know the length.
#[tokio::test]
async fn a_blob_in_the_making_waits_for_its_end_where_its_length_is_wanted() {
    let got: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = got.clone();
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => Reply::new(202, "").with("Location", "/v2/a/blobs/uploads/1"),
        "PATCH" if request.header("content-length").is_empty() => Reply::new(411, ""),
        "PATCH" => {
            kept.lock().unwrap().extend_from_slice(&request.body);
            Reply::new(202, "").with("Location", "/v2/a/blobs/uploads/1")
        }
        "PUT" => Reply::new(201, ""),
        _ => Reply::new(404, ""),
    });
    let name = format!("{}/a", server.address()).parse().unwrap();
    let repository = Client::new(config()).unwrap().repository(&name, Access::Push, None);
    let source = Arc::new(BytesSource(Bytes::from(blob())));
    let whole = async { Ok((digest_of(&blob()), BLOB as u64)) };
    assert_eq!(repository.upload_growing(source, whole, Arc::new(|_| {})).await.unwrap(), Uploaded::Sent);
    assert!(*got.lock().unwrap() == blob());
}

/// Bytes that do not come before the test says so.
struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);

impl Positioned for Stuck {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
        if at == 0 {
            buffer[0] = 1;
            return Ok(1);
        }
        // The end is when the sender is gone.
        Ok(self.0.lock().expect("nobody panicked").recv().map_or(0, |()| 0))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_turns_out_to_be_there_is_not_sent_to_its_end() {
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => Reply::new(202, "").with("Location", "/v2/a/blobs/uploads/1"),
        "HEAD" => Reply::new(200, ""),
        "DELETE" => Reply::new(204, ""),
        _ => Reply::new(500, ""),
    });
    let name = format!("{}/a", server.address()).parse().unwrap();
    let patient = Config { silence_timeout: Duration::from_secs(120), ..config() };
    let repository = Client::new(patient).unwrap().repository(&name, Access::Push, None);
    let (end, stuck) = std::sync::mpsc::channel();
    let source = Arc::new(FileSource::new(Stuck(Mutex::new(stuck))));
    let whole = async { Ok((digest_of(&blob()), BLOB as u64)) };
    let uploaded = repository.upload_growing(source, whole, Arc::new(|_| {})).await;
    drop(end);
    assert_eq!(uploaded.unwrap(), Uploaded::WasThere);
    let asked: Vec<String> = server.requests().into_iter().map(|request| request.method).collect();
    assert!(asked.contains(&"DELETE".to_owned()) && !asked.contains(&"PUT".to_owned()), "{asked:?}");
}

#[tokio::test]
async fn a_blob_that_cannot_be_made_is_not_the_registrys_fault() {
    let server = Server::start(move |_| Reply::new(202, "").with("Location", "/v2/a/blobs/uploads/1"));
    let name = format!("{}/a", server.address()).parse().unwrap();
    let repository = Client::new(config()).unwrap().repository(&name, Access::Push, None);
    let source = Arc::new(BytesSource(Bytes::from(blob())));
    let whole = async { Err(std::io::Error::other("no more")) };
    let error = repository.upload_growing(source, whole, Arc::new(|_| {})).await.unwrap_err();
    assert!(matches!(error, RegistryError::Source(_)), "{error}");
}

/// Long enough that nobody waits for it twice.
fn patient() -> Config {
    Config { backoff: Duration::from_secs(20), ..config() }
}

#[tokio::test]
async fn nobody_home_says_where_and_is_not_waited_for() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (host, words) in [(address.to_string(), "Connection refused"), ("nobody.invalid".to_owned(), "look up")] {
        let client = Client::new(Config { attempts_max: 20, ..patient() }).unwrap();
        let repository = client.repository(&format!("{host}/a").parse().unwrap(), Access::Push, None);
        let asked = async {
            let error = repository.manifest("1").await.unwrap_err();
            assert_eq!(error.to_string(), format!("cannot reach {host}"));
            let bytes = Arc::new(BytesSource(Bytes::from_static(b"x")));
            let upload = repository.upload(&digest_of(b"x"), 1, bytes, Arc::new(|_| {})).await.unwrap_err();
            assert!(upload.is_transient() || words == "look up");
        };
        // A name server that cannot be asked is another matter than one that knows no such name.
        let answer = tokio::net::lookup_host("nobody.invalid:1").await.map(drop);
        if words == "look up" && answer.is_err_and(|cause| cause.to_string().contains("Temporary")) {
            eprintln!("skipped: no name server says that there is no nobody.invalid");
            continue;
        }
        tokio::time::timeout(Duration::from_secs(60), asked).await.expect(words);
    }
}

#[tokio::test]
async fn a_token_server_that_fails_is_asked_no_more_often_than_others_and_one_that_moved_is_found() {
    let gone = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let closed = gone.clone();
    let first = Server::start(move |_| match closed.load(Ordering::Acquire) {
        true => Reply::new(410, ""),
        false => Reply::new(200, r#"{"token":"good"}"#),
    });
    let second = Server::start(|_| Reply::new(200, r#"{"token":"good"}"#));
    let broken = Server::start(|_| Reply::new(503, r#"{"details":"vault is sealed"}"#));
    let realm = Arc::new(Mutex::new(first.address()));
    let named = realm.clone();
    let registry = Server::start(move |request| match request.header("authorization") {
        "Bearer good" => Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        _ => {
            let realm = named.lock().unwrap().clone();
            Reply::new(401, "")
                .with("WWW-Authenticate", &format!("Bearer realm=\"http://{realm}/token\",service=\"s\""))
        }
    });
    let client = Client::new(config()).unwrap();
    // A token of its own for each.
    let ask = async |name: &str| {
        let name = format!("{}/{name}", registry.address()).parse().unwrap();
        client.repository(&name, Access::Pull, None).manifest("1").await.unwrap_err()
    };
    assert!(ask("a").await.is_not_found());
    *realm.lock().unwrap() = broken.address();
    assert!(ask("b").await.is_not_found(), "the first still gives some");
    assert_eq!(first.requests().len(), 2);
    gone.store(true, Ordering::Release);
    let failed = ask("c").await;
    assert!(failed.to_string().contains(&broken.address()), "{failed}");
    assert_eq!(broken.requests().len(), usize::try_from(config().attempts_max).unwrap());
    *realm.lock().unwrap() = second.address();
    assert!(ask("d").await.is_not_found());
    assert_eq!(second.requests().len(), 1);
}
