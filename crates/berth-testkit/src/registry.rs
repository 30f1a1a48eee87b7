//! Debian's `docker-registry`, the real one, on a port and a folder of its own.

use crate::TokenServer;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = "docker-registry";
/// bcrypt of `secret`.
const HTPASSWD: &str = "tester:$2y$04$vzo05xW09YqvjNO/uQVOCuPPCatI4TPopGxxQDYlpY1ax5apkGOPW\n";

/// Runs until it is dropped.
pub struct Registry {
    folder: tempfile::TempDir,
    child: Child,
    address: String,
}

/// How it protects itself.
enum Guard<'a> {
    None,
    TlsAndPassword,
    Token(&'a TokenServer),
}

impl Registry {
    pub const USER: &'static str = "tester";
    pub const PASSWORD: &'static str = "secret";

    /// Plain HTTP for everybody; `None` after saying why where the program is missing.
    pub fn plain() -> Option<Registry> {
        Registry::start(&Guard::None)
    }

    /// TLS with a CA of its own and a password: [`Registry::USER`], [`Registry::PASSWORD`].
    pub fn secured() -> Option<Registry> {
        Registry::start(&Guard::TlsAndPassword)
    }

    /// Plain HTTP, with tokens of `server`.
    pub fn with_tokens(server: &TokenServer) -> Option<Registry> {
        Registry::start(&Guard::Token(server))
    }

    /// `127.0.0.1:port`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The CA's certificate where it speaks TLS.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Where its blobs and manifests lie.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn start(guard: &Guard<'_>) -> Option<Registry> {
        if Command::new(PROGRAM).arg("--version").output().is_err() {
            eprintln!("skipped: needs {PROGRAM}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("berth-registry-").tempdir_in("/var/tmp").expect("scratch folder");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let address = format!("127.0.0.1:{port}");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (mut http, mut auth) = (format!("{{addr: \"{address}\", secret: scratch"), String::new());
        match guard {
            Guard::None => {}
            Guard::TlsAndPassword => {
                certificates(folder.path());
                http.push_str(&format!(", tls: {{certificate: {}, key: {}}}", path("server.crt"), path("server.key")));
                std::fs::write(folder.path().join("htpasswd"), HTPASSWD).expect("scratch folder");
                auth = format!("auth: {{htpasswd: {{realm: scratch, path: {}}}}}\n", path("htpasswd"));
            }
            Guard::Token(server) => {
                std::fs::write(folder.path().join("token.crt"), server.certificate()).expect("scratch folder");
                auth = format!(
                    "auth: {{token: {{realm: \"http://{}/token\", service: scratch, issuer: tests, rootcertbundle: {}}}}}\n",
                    server.address(),
                    path("token.crt")
                );
            }
        }
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {http}}}\n{auth}",
            path("data")
        );
        std::fs::write(folder.path().join("config.yml"), config).expect("scratch folder");
        let log = std::fs::File::create(folder.path().join("log")).expect("scratch folder");
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(folder.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("the registry starts");
        let registry = Registry { folder, child, address };
        crate::wait_until("the registry answers", || std::net::TcpStream::connect(&registry.address).is_ok());
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It is ours and keeps nothing that must be saved.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A CA and a certificate of 127.0.0.1 by it.
fn certificates(folder: &Path) {
    let (ca_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let mut ca = CertificateParams::new(Vec::new()).expect("no names are valid names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("our own key signs");
    let issuer = Issuer::new(ca, ca_key);
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a valid name");
    let certificate = server.signed_by(&key, &issuer).expect("our own key signs");
    for (name, text) in
        [("ca.crt", ca_certificate.pem()), ("server.crt", certificate.pem()), ("server.key", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).expect("scratch folder");
    }
}
