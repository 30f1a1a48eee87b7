//! Who we are to a registry: challenges, tokens, and the credentials behind them.
//!
//! ```text
//! request ── 401 WWW-Authenticate: Basic realm=..          ── same request with the user's name and password
//!         ── 401 WWW-Authenticate: Bearer realm=,service=  ── GET realm (POST with an identity token) ── same with the token
//! ```
//!
//! What a registry asked for is remembered, so the next request brings the token along; tokens are kept until shortly
//! before they expire, each for one registry, user and set of scopes. Credentials go to the registry they are for and
//! to the token server it names, never in the clear where the registry itself speaks TLS.

mod challenge;

use crate::RegistryError;
use crate::http::{Call, Http, Payload};
use crate::retry::Tries;
use crate::url::{self, Origin};
use base64::Engine as _;
use bytes::Bytes;
use challenge::Challenge;
use hyper::Method;
use hyper::header::{self, HeaderMap};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A token server's answer.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// What a token lives where its server does not say (distribution's token specification).
const TOKEN_SECONDS: u64 = 60;
/// A token is not used in its last seconds: it must still be good when it arrives.
const MARGIN: Duration = Duration::from_secs(10);
const TOKENS_MAX: usize = 512;

/// Who asks.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Credentials {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token, which Docker calls identity token.
    Identity {
        username: String,
        token: String,
    },
    /// A token for the registry itself.
    Bearer(String),
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Basic { .. } => "Basic(..)",
            Credentials::Identity { .. } => "Identity(..)",
            Credentials::Bearer(_) => "Bearer(..)",
        })
    }
}

impl Credentials {
    /// Tells users apart without keeping their secrets.
    fn key(&self) -> [u8; 32] {
        let (kind, user, secret) = match self {
            Credentials::Anonymous => ("a", "", ""),
            Credentials::Basic { username, password } => ("b", username.as_str(), password.as_str()),
            Credentials::Identity { username, token } => ("i", username.as_str(), token.as_str()),
            Credentials::Bearer(token) => ("t", "", token.as_str()),
        };
        Sha256::digest(format!("{kind}\0{user}\0{secret}")).into()
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
}

/// What a request needs to be allowed to do: `repository:library/debian:pull`.
pub(crate) type Scopes = BTreeSet<String>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    origin: Origin,
    user: [u8; 32],
    scopes: Scopes,
}

#[derive(Clone)]
struct Token {
    value: String,
    until: Instant,
}

#[derive(Default)]
pub(crate) struct Auth {
    challenges: Mutex<HashMap<Origin, Challenge>>,
    tokens: Mutex<HashMap<TokenKey, Token>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Auth {
    /// Value of the Authorization header that `origin` wants, as far as that is known.
    pub(crate) async fn header(
        &self,
        http: &Http,
        origin: &Origin,
        credentials: &Credentials,
        scopes: &Scopes,
        tries: Tries,
    ) -> Result<Option<String>, RegistryError> {
        if let Credentials::Bearer(token) = credentials {
            return Ok(Some(format!("Bearer {token}")));
        }
        let challenge = lock(&self.challenges).get(origin).cloned();
        match (challenge, credentials) {
            (None, _) | (Some(Challenge::Basic), Credentials::Anonymous) => Ok(None),
            (Some(Challenge::Basic), Credentials::Basic { username, password }) => Ok(Some(basic(username, password))),
            (Some(Challenge::Basic), Credentials::Identity { .. }) => Err(RegistryError::Login {
                host: origin.shown(),
                why: "it asks for a user name and a password, and only an identity token is known".to_owned(),
            }),
            (Some(Challenge::Basic), Credentials::Bearer(_)) => Ok(None),
            (Some(Challenge::Bearer { realm, service, .. }), _) => {
                let key = TokenKey { origin: origin.clone(), user: credentials.key(), scopes: scopes.clone() };
                let kept = lock(&self.tokens).get(&key).filter(|token| token.until > Instant::now()).cloned();
                let token = match kept {
                    Some(token) => token,
                    None => {
                        let call = token_call(http, origin, &realm, &service, credentials, scopes, false);
                        let (token, _) = self.fetch(http, &realm, call, tries).await?;
                        let mut tokens = lock(&self.tokens);
                        if tokens.len() >= TOKENS_MAX {
                            tokens.clear();
                        }
                        tokens.insert(key, token.clone());
                        token
                    }
                };
                Ok(Some(format!("Bearer {}", token.value)))
            }
        }
    }

    /// Forgets what `origin` asked for: it may ask for something else now.
    pub(crate) fn forget(&self, origin: &Origin) {
        lock(&self.challenges).remove(origin);
    }

    /// Learns from a 401 of `origin`; false where it asks for nothing that we understand. `scopes` grows by what it
    /// says is missing, and a token that it refused is forgotten.
    pub(crate) fn challenged(
        &self,
        origin: &Origin,
        headers: &HeaderMap,
        credentials: &Credentials,
        scopes: &mut Scopes,
    ) -> bool {
        let texts = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenge::best(texts) else { return false };
        lock(&self.tokens).remove(&TokenKey {
            origin: origin.clone(),
            user: credentials.key(),
            scopes: scopes.clone(),
        });
        if let Challenge::Bearer { scope, .. } = &challenge {
            scopes.extend(scope.split(' ').filter(|scope| !scope.is_empty()).map(in_order));
        }
        lock(&self.challenges).insert(origin.clone(), challenge);
        true
    }

    /// The identity token for a login at `origin`, where its token server gives one.
    pub(crate) async fn identity(
        &self,
        http: &Http,
        origin: &Origin,
        credentials: &Credentials,
    ) -> Result<Option<String>, RegistryError> {
        let challenge = lock(&self.challenges).get(origin).cloned();
        let Some(Challenge::Bearer { realm, service, .. }) = challenge else { return Ok(None) };
        let call = token_call(http, origin, &realm, &service, credentials, &Scopes::new(), true);
        let (_, refresh) = self.fetch(http, &realm, call, Tries::new(http.config())).await?;
        Ok(Some(refresh).filter(|token| !token.is_empty()))
    }

    async fn fetch(
        &self,
        http: &Http,
        realm: &str,
        call: Result<Call, RegistryError>,
        mut tries: Tries,
    ) -> Result<(Token, String), RegistryError> {
        let failed = |cause| RegistryError::Token { realm: realm.to_owned(), cause: Box::new(cause) };
        let call = call.map_err(failed)?;
        loop {
            match self.fetch_once(http, call.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(cause) => tries.again(cause).await.map_err(failed)?,
            }
        }
    }

    async fn fetch_once(&self, http: &Http, call: Call) -> Result<(Token, String), RegistryError> {
        let answer = http.follow(call).await?;
        if !answer.status.is_success() {
            return Err(answer.refusal().await);
        }
        let host = answer.host.clone();
        let damaged = |why: String| RegistryError::Damaged { host: host.clone(), what: "token".to_owned(), why };
        let body = answer.bytes("token", TOKEN_BYTES_MAX).await?;
        let parsed: TokenAnswer = serde_json::from_slice(&body).map_err(|cause| damaged(cause.to_string()))?;
        let value = if parsed.token.is_empty() { parsed.access_token } else { parsed.token };
        if value.is_empty() {
            return Err(damaged("there is no token in it".to_owned()));
        }
        let seconds = parsed.expires_in.unwrap_or(TOKEN_SECONDS).clamp(TOKEN_SECONDS, 24 * 3600);
        let until = Instant::now() + Duration::from_secs(seconds) - MARGIN;
        Ok((Token { value, until }, parsed.refresh_token))
    }
}

/// The request for a token.
fn token_call(
    http: &Http,
    origin: &Origin,
    realm: &str,
    service: &str,
    credentials: &Credentials,
    scopes: &Scopes,
    offline: bool,
) -> Result<Call, RegistryError> {
    let uri = url::parse(realm)?;
    let server = Origin::of(&uri).map_or(String::new(), |server| server.shown());
    if origin.tls && uri.scheme_str() == Some("http") && !http.config().is_insecure(&server) {
        let why = format!("its token server {server} speaks plain http, which would show the password to everybody");
        return Err(RegistryError::Login { host: origin.shown(), why });
    }
    let joined: Vec<&str> = scopes.iter().map(String::as_str).collect();
    if let Credentials::Identity { token, .. } = credentials {
        let mut form = vec![
            ("grant_type", "refresh_token".to_owned()),
            ("service", service.to_owned()),
            ("client_id", "berth".to_owned()),
            ("refresh_token", token.clone()),
        ];
        if !joined.is_empty() {
            form.push(("scope", joined.join(" ")));
        }
        let pairs: Vec<String> = form.iter().map(|(name, value)| format!("{name}={}", url::encode(value))).collect();
        return Ok(Call::new(Method::POST, uri)
            .with(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .sending(Payload::Bytes(Bytes::from(pairs.join("&")))));
    }
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    if !service.is_empty() {
        pairs.push(("service", service));
    }
    pairs.extend(joined.iter().map(|scope| ("scope", *scope)));
    if let Credentials::Basic { username, .. } = credentials {
        pairs.push(("account", username));
    }
    if offline {
        pairs.extend([("offline_token", "true"), ("client_id", "berth")]);
    }
    let call = Call::new(Method::GET, url::with_query(&uri, &pairs)?);
    Ok(match credentials {
        Credentials::Basic { username, password } => call.with(header::AUTHORIZATION, &basic(username, password)),
        _ => call,
    })
}
/// `repository:a:push,pull` asks for what `repository:a:pull,push` does; registries name the actions in any order.
fn in_order(scope: &str) -> String {
    match scope.rsplit_once(':') {
        Some((of, actions)) => {
            let mut actions: Vec<&str> = actions.split(',').collect();
            actions.sort_unstable();
            format!("{of}:{}", actions.join(","))
        }
        None => scope.to_owned(),
    }
}
