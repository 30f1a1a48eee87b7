//! Ways to a registry: through proxies, and with certificates of all kinds.

use crate::common::{id, make_image};
use berth_testkit::{Engine, Registry};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// An HTTP proxy that leads everybody to one server, whatever they ask for, and keeps the first line of each connection.
struct Proxy {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(to: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (to, kept) = (to.to_owned(), asked.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (to, kept) = (to.clone(), kept.clone());
                // A client that goes away ends its thread.
                std::thread::spawn(move || drop(serve(client, &to, &kept)));
            }
        });
        Proxy { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test panicked here").clone()
    }
}

fn serve(mut client: TcpStream, to: &str, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let mut server = TcpStream::connect(to)?;
    match line.starts_with("CONNECT ") {
        true => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
        false => server.write_all(&head)?,
    }
    asked.lock().expect("no test panicked here").push(line);
    let (mut from, mut back) = (client.try_clone()?, server.try_clone()?);
    let up = std::thread::spawn(move || {
        let done = std::io::copy(&mut from, &mut back);
        // The other side may be closed already.
        drop(back.shutdown(Shutdown::Both));
        done
    });
    let down = std::io::copy(&mut server, &mut client);
    drop(client.shutdown(Shutdown::Both));
    drop(up.join());
    down.map(drop)
}

/// Nobody can look this up: only the proxy leads there.
const FAR: &str = "registry.invalid:5000";

#[test]
fn a_proxy_leads_to_plain_registries_and_through_a_tunnel_to_others() {
    for secured in [false, true] {
        let Some(registry) = (if secured { Registry::secured() } else { Registry::plain() }) else { return };
        let proxy = Proxy::start(registry.address());
        let url = format!("http://{}", proxy.address);
        let arguments = ["--http-proxy", &url, "--https-proxy", &url, "--insecure-registry", FAR];
        let Some(engine) = Engine::start_with("registry-proxy", &arguments) else { return };
        let name = format!("{FAR}/far:1");
        make_image(&engine, &name, 1, 11);
        let before = id(&engine, &name);
        if secured {
            engine.docker(["login", "-u", Registry::USER, "-p", Registry::PASSWORD, FAR]).success();
        }
        engine.docker(["push", &name]).success();
        engine.docker(["rmi", &name]).success();
        engine.docker(["pull", &name]).success();
        assert_eq!(id(&engine, &name), before);
        let asked = proxy.asked();
        let expected = if secured { format!("CONNECT {FAR} HTTP/1.1") } else { format!(" http://{FAR}/v2/") };
        assert!(asked.iter().any(|line| line.contains(&expected)), "{asked:#?}");
    }
}

/// A registry's folder of certificates, which goes with the test.
struct Trusted(std::path::PathBuf);

impl Trusted {
    fn new(host: &str, ca: &std::path::Path) -> Trusted {
        let folder = std::path::Path::new("/etc/berth/certs.d").join(host);
        std::fs::create_dir_all(&folder).expect("root makes it");
        std::fs::copy(ca, folder.join("ca.crt")).expect("root copies it");
        Trusted(folder)
    }
}

impl Drop for Trusted {
    fn drop(&mut self) {
        // Only what this made; the folders above may be the host's own.
        drop(std::fs::remove_dir_all(&self.0));
        drop(std::fs::remove_dir("/etc/berth/certs.d"));
    }
}

#[test]
fn a_certificate_is_trusted_by_its_ca_and_only_for_its_own_name() {
    let (Some(registry), Some(other)) = (Registry::secured(), Registry::secured()) else { return };
    let config = tempfile::NamedTempFile::new().expect("scratch file");
    let login = serde_json::json!({"insecure": false, "username": Registry::USER, "password": Registry::PASSWORD});
    // The certificate is 127.0.0.1's; localhost is somebody else.
    let alias = registry.address().replace("127.0.0.1", "localhost");
    let table = serde_json::json!({"registries": {registry.address(): login, alias.clone(): login}});
    std::fs::write(config.path(), table.to_string()).expect("scratch file");
    let file = config.path().to_str().expect("our own path");
    let Some(engine) = Engine::start_with("registry-trust", &["--config-file", file]) else { return };
    let name = format!("{}/x:1", registry.address());
    make_image(&engine, &name, 0, 1);
    // Another registry's CA does not help.
    let wrong = Trusted::new(registry.address(), &other.ca());
    let refused = engine.docker(["push", &name]).failure(1);
    let file = format!("the CA in /etc/berth/certs.d/{}/ca.crt is another one", registry.address());
    assert!(refused.contains("signed by no CA that is trusted here") && refused.contains(&file), "{refused}");
    drop(wrong);
    let _right = Trusted::new(registry.address(), &registry.ca());
    engine.docker(["push", &name]).success();
    engine.docker(["rmi", &name]).success();
    engine.docker(["pull", &name]).success();
    let _also = Trusted::new(&alias, &registry.ca());
    let mismatch = engine.docker(["pull", &format!("{alias}/x:1")]).failure(1);
    assert!(mismatch.contains("its certificate is for 127.0.0.1, not for localhost"), "{mismatch}");
    assert!(
        mismatch.contains("hint: use a name that it has (127.0.0.1)") && !mismatch.contains("certs.d"),
        "{mismatch}"
    );
}
