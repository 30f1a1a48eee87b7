//! Signing in by another party: OpenID Connect, the authorization code flow with PKCE.
//!
//! ```text
//! page: GET /oidc/start --302--> provider, with state, nonce and the digest of a secret
//! provider --302--> GET /oidc/return?code&state: the browser must be the one that began (cookie)
//! engine --POST code, secret--> provider's token endpoint: id_token by TLS from the provider itself
//! ```
//!
//! The token comes from the provider's own endpoint over a connection that was checked, so its signature says
//! nothing more (OpenID Connect Core 3.1.3.7, 6); issuer, audience, time and nonce are checked. Many providers put name
//! and groups not into the token but behind their userinfo endpoint (5.4): it is asked where they are missing, and its
//! answer counts for the token's subject only. Who may sign in is
//! what groups say at each sign-in; without a group that is known nobody comes in.

mod http;

use crate::identity::{Role, now_unix, password, random};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_store::{Batch, Store, StoreError};
use berth_types::{Error, ErrorKind, Result};
use http::Ask;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Mutex;

const BEGUN_SECONDS: i64 = 600;
/// Sign-ins under way; a flood of new ones drops the oldest.
const BEGUN_MAX: usize = 1000;
/// Clocks of two hosts differ.
const CLOCK_SECONDS: i64 = 120;
const GROUPS_MAX: usize = 500;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// `https://...`, as the provider calls itself.
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    /// Where a user's name is: `preferred_username`, `email`, ...
    pub(crate) user_claim: String,
    pub(crate) groups_claim: String,
    /// Group -> role; `*` is everybody whom the provider lets in.
    pub(crate) roles: BTreeMap<String, Role>,
    /// More certificates to trust, PEM.
    #[serde(default)]
    pub(crate) ca: String,
}

/// What a provider says of itself.
pub(crate) struct Endpoints {
    authorize: String,
    token: String,
    /// Empty: it has none.
    userinfo: String,
    /// It knows the scope of that name.
    groups: bool,
}

struct Begun {
    nonce: String,
    verifier: String,
    back: String,
    until_unix: i64,
}

/// Who came back from the provider.
#[derive(Debug, PartialEq)]
pub(crate) struct Known {
    pub(crate) name: String,
    /// `issuer subject`: never reused, whatever names are.
    pub(crate) subject: String,
    pub(crate) role: Role,
}

pub(crate) struct Oidc {
    store: Store,
    settings: Mutex<Option<Settings>>,
    begun: Mutex<BTreeMap<String, Begun>>,
}

fn refused(why: impl Into<String>) -> Error {
    let mut error = Error::new(ErrorKind::Unauthorized, "the provider's answer cannot be used");
    error.causes.push(why.into());
    error
}

fn failed(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::because(ErrorKind::Internal, "cannot use the records of the provider", cause)
}

fn secret() -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

/// As queries and forms write it.
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            })
            .collect()
    };
    pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

impl Settings {
    pub(crate) fn check(&self) -> Result<()> {
        let loopback = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
        let secure = self.issuer.starts_with("https://") || loopback.iter().any(|one| self.issuer.starts_with(one));
        if !secure {
            return Err(Error::invalid(format!("the provider's address must begin with https://: {:?}", self.issuer)));
        }
        for (value, what) in [(&self.client_id, "client id"), (&self.user_claim, "name's claim")] {
            if value.is_empty() {
                return Err(Error::invalid(format!("the {what} is missing")));
            }
        }
        match self.roles.is_empty() {
            true => Err(Error::invalid("no group has a role, so nobody could sign in")
                .with_hint("say which groups are viewers, operators, admins; * is everybody")),
            false => Ok(()),
        }
    }

    /// Whether who it is and what they may do stands there.
    fn has_all(&self, claims: &Value) -> bool {
        [&self.user_claim, &self.groups_claim].into_iter().all(|name| claims.get(name).is_some())
    }

    /// Takes name and groups over from what userinfo says, where the token has none.
    fn add(&self, claims: &mut Value, more: &Value) -> Result<()> {
        if more
            .get("sub")
            .and_then(Value::as_str)
            .is_none_or(|sub| claims.get("sub").and_then(Value::as_str) != Some(sub))
        {
            return Err(refused("its userinfo is somebody else's"));
        }
        for name in [&self.user_claim, &self.groups_claim] {
            if let (Some(value), Value::Object(all)) = (more.get(name), &mut *claims) {
                all.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        Ok(())
    }

    /// Who an id_token's claims say.
    fn known(&self, claims: &Value, nonce: &str, now: i64) -> Result<Known> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("iss").trim_end_matches('/') != self.issuer.trim_end_matches('/') {
            return Err(refused(format!("it is {:?}'s, not {}'s", text("iss"), self.issuer)));
        }
        let audience = match claims.get("aud") {
            Some(Value::String(one)) => *one == self.client_id,
            // Several: it must be made for us (azp).
            Some(Value::Array(all)) => {
                all.iter().any(|one| one == &self.client_id) && (all.len() == 1 || text("azp") == self.client_id)
            }
            _ => false,
        };
        if !audience {
            return Err(refused("it is for another client"));
        }
        let time = |name: &str| claims.get(name).and_then(Value::as_i64);
        if time("exp").is_none_or(|end| end + CLOCK_SECONDS < now) {
            return Err(refused("it has expired"));
        }
        if time("iat").is_some_and(|begin| begin - CLOCK_SECONDS > now) {
            return Err(refused("it is from the future: the clocks differ"));
        }
        if !password::same(text("nonce").as_bytes(), nonce.as_bytes()) {
            return Err(refused("it belongs to another sign-in"));
        }
        let (subject, name) = (text("sub"), text(&self.user_claim));
        if subject.is_empty() || name.is_empty() {
            return Err(refused(format!("it has no sub or no {}", self.user_claim)));
        }
        let groups: Vec<&str> = match claims.get(&self.groups_claim) {
            Some(Value::Array(all)) => all.iter().take(GROUPS_MAX).filter_map(Value::as_str).collect(),
            Some(Value::String(one)) => vec![one.as_str()],
            _ => Vec::new(),
        };
        let roles = groups.iter().chain(std::iter::once(&"*")).filter_map(|group| self.roles.get(*group));
        let Some(role) = roles.copied().max() else {
            return Err(Error::new(ErrorKind::Forbidden, format!("no group of {name} may use this engine"))
                .with_hint("ask an administrator"));
        };
        Ok(Known { name: name.to_owned(), subject: format!("{} {subject}", self.issuer), role })
    }
}

impl Oidc {
    pub(crate) fn open(store: Store) -> Result<Oidc> {
        let settings = store.get::<Settings>("oidc", "settings").map_err(|cause| failed(&cause))?;
        Ok(Oidc { store, settings: Mutex::new(settings), begun: Mutex::default() })
    }

    pub(crate) fn settings(&self) -> Option<Settings> {
        self.settings.lock().expect("no holder of this lock panics").clone()
    }

    /// `None`: nobody signs in this way any more.
    pub(crate) async fn put(&self, settings: Option<Settings>) -> Result<()> {
        let mut batch = Batch::new();
        match &settings {
            Some(settings) => batch.put("oidc", "settings", settings).map_err(|cause| failed(&cause))?,
            None => batch.delete("oidc", "settings"),
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.store.submit(batch, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed)).map_err(|cause| failed(&cause))?;
        *self.settings.lock().expect("no holder of this lock panics") = settings;
        Ok(())
    }

    /// What the provider says of itself.
    pub(crate) async fn endpoints(settings: &Settings) -> Result<Endpoints> {
        let url = format!("{}/.well-known/openid-configuration", settings.issuer.trim_end_matches('/'));
        let found = http::json(&url, Ask::Get, &settings.ca).await?;
        let text = |name: &str| found.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("issuer").trim_end_matches('/') != settings.issuer.trim_end_matches('/') {
            return Err(refused(format!("{url} is {:?}'s", text("issuer"))));
        }
        match (text("authorization_endpoint"), text("token_endpoint")) {
            (authorize, token) if !authorize.is_empty() && !token.is_empty() => {
                let scopes = found.get("scopes_supported").and_then(Value::as_array);
                let groups = scopes.is_some_and(|all| all.iter().any(|one| one == "groups"));
                Ok(Endpoints { authorize, token, userinfo: text("userinfo_endpoint"), groups })
            }
            _ => Err(refused(format!("{url} names no endpoints"))),
        }
    }

    /// Where to send the browser, and the secret that it must bring back.
    pub(crate) async fn begin(&self, back: &str) -> Result<(String, String)> {
        let settings = self.settings().ok_or_else(|| Error::not_found("no provider is set up here"))?;
        let Endpoints { authorize: to, groups, .. } = Oidc::endpoints(&settings).await?;
        // Some refuse a scope that they do not know.
        let scope = if groups { "openid profile email groups" } else { "openid profile email" };
        let (state, nonce, verifier) = (secret()?, secret()?, secret()?);
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let query = form(&[
            ("response_type", "code"),
            ("client_id", &settings.client_id),
            ("redirect_uri", back),
            ("scope", scope),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let now = now_unix();
        let mut begun = self.begun.lock().expect("no holder of this lock panics");
        begun.retain(|_, one| now < one.until_unix);
        if begun.len() >= BEGUN_MAX
            && let Some(oldest) = begun.iter().min_by_key(|(_, one)| one.until_unix).map(|(state, _)| state.clone())
        {
            begun.remove(&oldest);
        }
        begun.insert(state.clone(), Begun { nonce, verifier, back: back.to_owned(), until_unix: now + BEGUN_SECONDS });
        let joint = if to.contains('?') { '&' } else { '?' };
        Ok((format!("{to}{joint}{query}"), state))
    }

    /// Who came back with `code`; a state is good once.
    pub(crate) async fn end(&self, state: &str, code: &str) -> Result<Known> {
        let begun = self.begun.lock().expect("no holder of this lock panics").remove(state);
        let begun = begun.filter(|one| now_unix() < one.until_unix);
        let begun = begun.ok_or_else(|| refused("this sign-in was not begun here, or long ago"))?;
        let settings = self.settings().ok_or_else(|| Error::not_found("no provider is set up here"))?;
        let Endpoints { token, userinfo, .. } = Oidc::endpoints(&settings).await?;
        let body = form(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &begun.back),
            ("client_id", &settings.client_id),
            ("client_secret", &settings.client_secret),
            ("code_verifier", &begun.verifier),
        ]);
        let answer = http::json(&token, Ask::Form(body), &settings.ca).await?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        let mut claims = claims(text("id_token").ok_or_else(|| refused("it has no id_token"))?)?;
        if let Some(access) = text("access_token").filter(|_| !userinfo.is_empty())
            && !settings.has_all(&claims)
        {
            let more = http::json(&userinfo, Ask::GetAs(access), &settings.ca).await?;
            settings.add(&mut claims, &more)?;
        }
        settings.known(&claims, &begun.nonce, now_unix())
    }
}

/// The middle part of a token.
fn claims(token: &str) -> Result<Value> {
    let parts: Vec<&str> = token.split('.').collect();
    let [_, middle, _] = parts.as_slice() else { return Err(refused("its id_token has not three parts")) };
    let bytes = URL_SAFE_NO_PAD.decode(middle.trim_end_matches('=')).map_err(|cause| refused(cause.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|cause| refused(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings() -> Settings {
        Settings {
            issuer: "https://id.example/".into(),
            client_id: "berth".into(),
            user_claim: "email".into(),
            groups_claim: "groups".into(),
            roles: BTreeMap::from([("ops".to_owned(), Role::Operator), ("all".to_owned(), Role::Viewer)]),
            ..Settings::default()
        }
    }

    fn good() -> Value {
        json!({"iss": "https://id.example", "aud": "berth", "exp": 2000, "iat": 900, "nonce": "n", "sub": "7",
            "email": "ada@example.org", "groups": ["all", "ops", "x"]})
    }

    #[test]
    fn the_highest_role_of_all_groups_counts() {
        let known = settings().known(&good(), "n", 1000).unwrap();
        assert_eq!((known.name.as_str(), known.role), ("ada@example.org", Role::Operator));
        assert_eq!(known.subject, "https://id.example/ 7");
    }

    #[test]
    fn what_is_not_for_this_sign_in_is_refused() {
        for (name, value) in [
            ("iss", json!("https://evil.example")),
            ("aud", json!("other")),
            ("aud", json!(["berth", "other"])),
            ("exp", json!(10)),
            ("exp", Value::Null),
            ("iat", json!(100_000)),
            ("nonce", json!("m")),
            ("sub", json!("")),
            ("email", Value::Null),
            ("groups", json!(["strangers"])),
            ("groups", json!({"ops": true})),
        ] {
            let mut claims = good();
            claims[name] = value.clone();
            assert!(settings().known(&claims, "n", 1000).is_err(), "{name} {value}");
        }
    }

    #[test]
    fn userinfo_fills_what_the_token_lacks_and_is_of_the_same_subject() {
        let mut thin = json!({"sub": "7", "email": "ada@example.org"});
        assert!(!settings().has_all(&thin) && settings().has_all(&good()));
        let more = |sub: &str| json!({"sub": sub, "email": "other@example.org", "groups": ["ops"], "iss": "x"});
        assert!(settings().add(&mut thin, &more("8")).is_err());
        settings().add(&mut thin, &more("7")).unwrap();
        assert_eq!(thin, json!({"sub": "7", "email": "ada@example.org", "groups": ["ops"]}), "the token's word counts");
    }

    #[test]
    fn the_provider_must_be_reached_safely() {
        let with = |issuer: &str| Settings { issuer: issuer.into(), ..settings() }.check();
        assert!(with("https://id.example").is_ok() && with("http://127.0.0.1:8080").is_ok());
        assert!(
            with("http://id.example").is_err() && with("ftp://x").is_err() && with("http://127.0.0.1.evil:1").is_err()
        );
        assert!(Settings { roles: BTreeMap::new(), ..settings() }.check().is_err());
    }

    #[test]
    fn forms_are_encoded_and_tokens_bounded() {
        assert_eq!(form(&[("a", "x y&=/"), ("b", "é")]), "a=x%20y%26%3D%2F&b=%C3%A9");
        assert!(claims("a.b").is_err() && claims("a.!!.c").is_err());
        assert_eq!(claims("x.eyJhIjoxfQ.y").unwrap(), json!({"a": 1}));
    }
}
