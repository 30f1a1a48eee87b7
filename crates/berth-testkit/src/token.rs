//! A token server as the distribution project specifies it: signed tokens for who has the password.

use crate::{Registry, Reply, Request, Server};
use base64::Engine as _;
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Gives tokens for everything to [`Registry::USER`] and for pulling to everybody.
pub struct TokenServer {
    server: Server,
    certificate: String,
    /// Requests that still fail with 503.
    failures: Arc<AtomicU64>,
}

struct Signer {
    key: KeyPair,
    der: Vec<u8>,
}

fn url_safe(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

impl TokenServer {
    pub fn start() -> TokenServer {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["tokens".to_owned()]).expect("a name");
        let certificate = certificate.self_signed(&key).expect("our own key signs");
        let signer = Signer { key, der: certificate.der().to_vec() };
        let failures = Arc::new(AtomicU64::new(0));
        let failing = failures.clone();
        let less = |left: u64| left.checked_sub(1);
        let server = Server::start(move |request| {
            if failing.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok() {
                return Reply::new(503, r#"{"details":"tokens are out"}"#);
            }
            answer(&signer, request)
        });
        TokenServer { server, certificate: certificate.pem(), failures }
    }

    pub fn address(&self) -> String {
        self.server.address()
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }

    /// The next `count` requests fail.
    pub fn fail(&self, count: u64) {
        self.failures.store(count, Ordering::Release);
    }
}

fn answer(signer: &Signer, request: &Request) -> Reply {
    let known = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", Registry::USER, Registry::PASSWORD));
    let authorization = request.header("authorization");
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let has_identity = form.split('&').any(|pair| pair == "refresh_token=identity");
    let is_known = has_identity || authorization == format!("Basic {known}");
    if !is_known && !authorization.is_empty() || request.method == "POST" && !has_identity {
        return Reply::new(401, r#"{"details":"incorrect username or password"}"#);
    }
    let source = if request.method == "POST" {
        form
    } else {
        request.target.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default()
    };
    let scopes = source.split('&').filter_map(|pair| pair.strip_prefix("scope=")).flat_map(|list| list.split("%20"));
    let access: Vec<serde_json::Value> = scopes
        .filter_map(|scope| {
            let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let allowed: Vec<&str> = actions.split(',').filter(|action| is_known || *action == "pull").collect();
            Some(serde_json::json!({"type": kind, "name": name, "actions": allowed}))
        })
        .collect();
    let mut answer = serde_json::json!({"token": signer.token(&access), "expires_in": 300});
    if request.query("offline_token").is_some() {
        answer["refresh_token"] = "identity".into();
    }
    Reply::new(200, answer.to_string()).with("Content-Type", "application/json")
}

impl Signer {
    fn token(&self, access: &[serde_json::Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let der = base64::engine::general_purpose::STANDARD.encode(&self.der);
        let head = serde_json::json!({"typ": "JWT", "alg": "ES256", "x5c": [der]});
        let claims = serde_json::json!({
            "iss": "tests", "sub": Registry::USER, "aud": "scratch", "exp": now + 300, "nbf": now - 60, "iat": now,
            "jti": "1", "access": access,
        });
        let signed = format!("{}.{}", url_safe(head.to_string().as_bytes()), url_safe(claims.to_string().as_bytes()));
        let signature = self.key.sign(signed.as_bytes()).expect("our own key signs");
        format!("{signed}.{}", url_safe(&fixed(&signature)))
    }
}

/// A DER signature as the two 32-byte numbers that tokens carry.
fn fixed(der: &[u8]) -> Vec<u8> {
    let number = |from: usize| {
        let length = usize::from(der[from + 1]);
        let bytes = &der[from + 2..from + 2 + length];
        let bytes = &bytes[bytes.len().saturating_sub(32)..];
        let mut padded = vec![0; 32 - bytes.len()];
        padded.extend_from_slice(bytes);
        (padded, from + 2 + length)
    };
    let (mut all, next) = number(2);
    all.extend(number(next).0);
    all
}
