//! Against Debian's docker-registry: plain, with TLS and passwords, with tokens, over a link that breaks.

use berth_registry::manifest::{DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST};
use berth_registry::{
    Access, BytesSource, Client, Config, Credentials, Descriptor, Document, FileSource, Manifest, Positioned,
    Repository, Uploaded,
};
use berth_testkit::{Link, Registry, TokenServer};
use berth_types::Digest;
use bytes::Bytes;
use sha2::Digest as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

fn config() -> Config {
    Config { backoff: Duration::from_millis(10), ..Config::default() }
}

fn tester() -> Option<Credentials> {
    Some(Credentials::Basic { username: Registry::USER.into(), password: Registry::PASSWORD.into() })
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

/// Bytes that no compression or repetition hides mistakes in.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) | 1;
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 56) as u8
    };
    (0..length).map(|_| next(&mut state)).collect()
}

fn at(client: &Client, address: &str, name: &str, access: Access, credentials: Option<Credentials>) -> Repository {
    client.repository(&format!("{address}/{name}").parse().expect("a name"), access, credentials)
}

async fn push_blob(repository: &Repository, bytes: &[u8]) -> Descriptor {
    let digest = digest_of(bytes);
    let source = Arc::new(BytesSource(Bytes::copy_from_slice(bytes)));
    repository.upload(&digest, bytes.len() as u64, source, Arc::new(|_| {})).await.expect("uploaded");
    Descriptor::new(DOCKER_LAYER_GZIP, digest, bytes.len() as u64)
}

async fn push_image(repository: &Repository, tag: &str, layer: &[u8]) -> Manifest {
    let layer = push_blob(repository, layer).await;
    let mut config = push_blob(repository, b"{}").await;
    config.media_type = DOCKER_CONFIG.to_owned();
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer],
    });
    let manifest = Manifest::new(DOCKER_MANIFEST, text.to_string().into_bytes());
    repository.put_manifest(tag, &manifest).await.expect("stored");
    manifest
}

async fn read(repository: &Repository, descriptor: &Descriptor, offset: u64) -> Vec<u8> {
    let mut reader = repository.blob(descriptor, offset);
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await.expect("more") {
        all.extend_from_slice(&chunk);
    }
    all
}

#[tokio::test]
async fn what_is_pushed_is_pulled_again() {
    let Some(registry) = Registry::plain() else { return };
    let client = Client::new(config()).unwrap();
    let push = at(&client, registry.address(), "a/b", Access::Push, None);
    let layer = noise(3_000_000, 1);
    let pushed = push_image(&push, "1", &layer).await;

    let pull = at(&client, registry.address(), "a/b", Access::Pull, None);
    assert_eq!(pull.resolve("1").await.unwrap().unwrap().digest, pushed.digest);
    for reference in ["1", &pushed.digest.to_string()] {
        assert_eq!(pull.manifest(reference).await.unwrap(), pushed);
    }
    let Document::Image { layers, config } = pushed.parse().unwrap() else { panic!("an image") };
    assert_eq!(read(&pull, &layers[0], 0).await, layer);
    assert_eq!(read(&pull, &layers[0], 2_999_999).await, layer[2_999_999..]);
    assert_eq!(pull.blob_bytes(&config, 10).await.unwrap(), b"{}");
    assert!(pull.blob_bytes(&layers[0], 10).await.is_err());
    assert_eq!(pull.tags().await.unwrap(), ["1"]);
    assert!(pull.referrers(&pushed.digest).await.unwrap().is_empty());

    // Into another repository without sending it again.
    let other = at(&client, registry.address(), "c", Access::Push, None);
    assert!(!other.has_blob(&layers[0].digest).await.unwrap());
    assert!(other.mount(&layers[0].digest, "a/b").await.unwrap());
    assert!(other.has_blob(&layers[0].digest).await.unwrap());
    assert!(!other.mount(&digest_of(b"nowhere"), "a/b").await.unwrap());

    let found = client.search(registry.address(), "b", 10, &Credentials::Anonymous).await.unwrap();
    assert_eq!(
        found.iter().map(|found| found.name.clone()).collect::<Vec<_>>(),
        [format!("{}/a/b", registry.address())]
    );

    let missing = pull.manifest("2").await.unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().contains("manifest unknown"), "{missing}");
}

#[tokio::test]
async fn tls_and_passwords() {
    let Some(registry) = Registry::secured() else { return };
    let address = registry.address();
    // The default for loopback: unchecked.
    let client = Client::new(config()).unwrap();
    let push = at(&client, address, "a", Access::Push, tester());
    push_image(&push, "1", b"layer").await;
    let refused = at(&client, address, "a", Access::Pull, None).manifest("1").await.unwrap_err();
    assert!(refused.is_denied() && refused.to_string().contains("authentication required"), "{refused}");

    let checked = berth_registry::Registry { insecure: Some(false), ..Default::default() };
    let strict = Config { registries: [(address.to_owned(), checked)].into(), ..config() };
    let client = Client::new(strict.clone()).unwrap();
    let untrusted = at(&client, address, "a", Access::Pull, tester()).manifest("1").await.unwrap_err();
    let mut chain = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&untrusted);
    while let Some(error) = cause {
        chain.push_str(&format!("{error}: "));
        cause = error.source();
    }
    assert!(chain.contains("certificate") && chain.contains(address), "{chain}");

    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join(address);
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(registry.ca(), trusted.join("ca.crt")).unwrap();
    let strict = Config { certificate_folders: vec![folder.path().to_owned()], ..strict };
    let client = Client::new(strict).unwrap();
    at(&client, address, "a", Access::Pull, tester()).manifest("1").await.unwrap();
    assert_eq!(client.login(address, &tester().unwrap()).await.unwrap(), None);
    let wrong = Credentials::Basic { username: "tester".into(), password: "wrong".into() };
    assert!(client.login(address, &wrong).await.unwrap_err().is_denied());
    assert!(at(&client, address, "a", Access::Pull, Some(wrong)).manifest("1").await.unwrap_err().is_denied());
}

#[tokio::test]
async fn tokens_are_fetched_once_and_renewed_with_the_identity() {
    let tokens = TokenServer::start();
    let Some(registry) = Registry::with_tokens(&tokens) else { return };
    let client = Client::new(config()).unwrap();
    let push = at(&client, registry.address(), "a", Access::Push, tester());
    push_image(&push, "1", b"layer").await;
    assert_eq!(tokens.requests().len(), 1, "{:#?}", tokens.requests());

    let pull = at(&client, registry.address(), "a", Access::Pull, None);
    for _ in 0..5 {
        pull.manifest("1").await.unwrap();
    }
    assert_eq!(tokens.requests().len(), 2);

    let anonymous = at(&client, registry.address(), "a", Access::Push, None);
    let denied = anonymous.put_manifest("2", &pull.manifest("1").await.unwrap()).await.unwrap_err();
    assert!(denied.is_denied(), "{denied}");

    let identity = client.login(registry.address(), &tester().unwrap()).await.unwrap();
    let identity = Credentials::Identity { username: "tester".into(), token: identity.expect("an identity token") };
    let again = at(&client, registry.address(), "a", Access::Push, Some(identity));
    push_image(&again, "3", b"other layer").await;

    // Two failures are forgiven, an outage is told.
    let client = Client::new(config()).unwrap();
    tokens.fail(2);
    at(&client, registry.address(), "a", Access::Pull, None).manifest("1").await.unwrap();
    let client = Client::new(config()).unwrap();
    tokens.fail(100);
    let failed = at(&client, registry.address(), "a", Access::Pull, None).manifest("1").await.unwrap_err();
    assert!(failed.to_string().contains("no token from"), "{failed}");
    assert!(std::error::Error::source(&failed).unwrap().to_string().contains("tokens are out"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_twenty_times_costs_no_more_bytes() {
    let Some(registry) = Registry::plain() else { return };
    let client = Client::new(config()).unwrap();
    let layer = noise(24 << 20, 2);
    let push = at(&client, registry.address(), "big", Access::Push, None);
    let descriptor = push_blob(&push, &layer).await;
    let link = Link::start(registry.address(), 20, 1 << 20);
    let pull = at(&client, &link.address(), "big", Access::Pull, None);
    assert!(read(&pull, &descriptor, 0).await == layer, "the bytes are the same");
    assert_eq!(link.cuts_left(), 0);
    assert!(link.bytes_down() as f64 <= layer.len() as f64 * 1.05, "{} bytes", link.bytes_down());
}

#[tokio::test]
async fn a_file_is_sent_with_its_progress() {
    let Some(registry) = Registry::plain() else { return };
    let client = Client::new(config()).unwrap();
    let bytes = noise(2 << 20, 3);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("layer"), &bytes).unwrap();
    let source = Arc::new(FileSource::new(std::fs::File::open(folder.path().join("layer")).unwrap()));
    let sent = Arc::new(AtomicU64::new(0));
    let told = sent.clone();
    let push = at(&client, registry.address(), "f", Access::Push, None);
    let digest = digest_of(&bytes);
    push.upload(&digest, bytes.len() as u64, source, Arc::new(move |at| told.store(at, Ordering::Relaxed)))
        .await
        .unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), bytes.len() as u64);
    assert!(push.has_blob(&digest).await.unwrap());
}

/// Bytes that become readable one after another.
struct Made {
    bytes: Vec<u8>,
    there: Mutex<usize>,
    more: Condvar,
}

impl Made {
    fn until(&self, count: usize) {
        *self.there.lock().expect("nobody panicked") = count.min(self.bytes.len());
        self.more.notify_all();
    }
}

struct Growing(Arc<Made>);

impl Positioned for Growing {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
        let (made, at) = (&self.0, at as usize);
        let there = made
            .more
            .wait_while(made.there.lock().expect("nobody panicked"), |there| *there <= at && at < made.bytes.len());
        let part = &made.bytes[at..*there.expect("nobody panicked")];
        let count = part.len().min(buffer.len());
        buffer[..count].copy_from_slice(&part[..count]);
        Ok(count)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_sent_while_it_is_made_over_a_link_that_breaks() {
    let Some(registry) = Registry::plain() else { return };
    // This registry throws away what it has of an upload whose link broke: each cut costs what was sent before it.
    for cuts in [0, 2] {
        let link = Link::broken_upwards(registry.address(), cuts, 1 << 20);
        let client = Client::new(config()).unwrap();
        let push = at(&client, &link.address(), "growing", Access::Push, None);
        let bytes = noise(12 << 20, 30 + cuts);
        let (digest, length) = (digest_of(&bytes), bytes.len() as u64);
        let made = Arc::new(Made { bytes, there: Mutex::new(0), more: Condvar::new() });
        let maker = made.clone();
        let (told, whole) = tokio::sync::oneshot::channel();
        let sent = Arc::new(AtomicU64::new(0));
        let (counted, arrived) = (sent.clone(), sent.clone());
        let making = tokio::task::spawn_blocking(move || {
            maker.until(4 << 20);
            // Half a megabyte may stay in buffers on its way. A link that breaks waits for the rest.
            let begun = std::time::Instant::now();
            while cuts == 0 && arrived.load(Ordering::Relaxed) < 3 << 20 {
                assert!(begun.elapsed() < Duration::from_secs(120), "nothing is sent before all of it is made");
                std::thread::sleep(Duration::from_millis(1));
            }
            maker.until(usize::MAX);
            told.send((digest, length)).unwrap();
        });
        let source = Arc::new(FileSource::new(Growing(made.clone())));
        let whole = async { whole.await.map_err(std::io::Error::other) };
        let sent = Arc::new(move |at| counted.store(at, Ordering::Relaxed));
        assert_eq!(push.upload_growing(source, whole, sent).await.unwrap(), Uploaded::Sent);
        making.await.unwrap();
        let descriptor = Descriptor::new(DOCKER_LAYER_GZIP, digest, length);
        assert!(read(&push, &descriptor, 0).await == made.bytes, "the bytes are the same");
        assert_eq!(link.cuts_left(), 0);
        assert!(link.bytes_up() as f64 <= length as f64 * 1.3, "{} bytes", link.bytes_up());
    }
}
