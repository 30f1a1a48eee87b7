//! `X-Registry-Auth` and `X-Registry-Config`: credentials that clients send along.
//!
//! base64url of JSON, `{"username", "password"}`, `{"username", "identitytoken"}` or `{"registrytoken"}`.

use axum::http::HeaderMap;
use base64::Engine as _;
use berth_engine::images::Credentials;
use berth_types::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;

const HEADER: &str = "x-registry-auth";
const HEADER_ALL: &str = "x-registry-config";
/// More than any token needs.
const BYTES_MAX: usize = 64 << 10;

fn decode(text: &str) -> Option<Value> {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
    if text.len() > BYTES_MAX {
        return None;
    }
    let engines = [&URL_SAFE, &URL_SAFE_NO_PAD, &STANDARD, &STANDARD_NO_PAD];
    let bytes = engines.into_iter().find_map(|engine| engine.decode(text.trim()).ok())?;
    serde_json::from_slice(&bytes).ok()
}

/// Credentials in one entry; `None` for an empty one.
pub(super) fn credentials(entry: &Value) -> Option<Credentials> {
    let text = |name: &str| {
        let map = entry.as_object()?;
        let (_, value) = map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if let Some(token) = text("registrytoken") {
        return Some(Credentials::Bearer(token));
    }
    if let Some(token) = text("identitytoken") {
        return Some(Credentials::Identity { username: text("username").unwrap_or_default(), token });
    }
    if let Some(username) = text("username") {
        return Some(Credentials::Basic { username, password: text("password").unwrap_or_default() });
    }
    let auth = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let auth = String::from_utf8(auth).ok()?;
    let (username, password) = auth.split_once(':')?;
    Some(Credentials::Basic { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// What came along with a request. dockerd refuses what it cannot read.
pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Credentials>> {
    let Some(text) = headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match decode(text) {
        Some(entry) => Ok(credentials(&entry)),
        None => Err(Error::invalid("invalid X-Registry-Auth header: base64url of JSON is needed")),
    }
}

/// All that came along, by domain as image names have it: `X-Registry-Config`.
pub(crate) fn all_from_headers(headers: &HeaderMap) -> Result<BTreeMap<String, Credentials>> {
    let Some(text) = headers.get(HEADER_ALL).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty())
    else {
        return Ok(BTreeMap::new());
    };
    let entries = decode(text).ok_or_else(|| Error::invalid("invalid X-Registry-Config header"))?;
    Ok(by_domain(&entries))
}

/// `{"https://index.docker.io/v1/": {...}, "host:5000": {...}}`
pub(crate) fn by_domain(entries: &Value) -> BTreeMap<String, Credentials> {
    let domain = |server: &str| {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://");
        match bare.split('/').next().unwrap_or_default() {
            "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            host => host.to_owned(),
        }
    };
    let entries = entries.as_object().into_iter().flatten();
    entries.filter_map(|(server, entry)| Some((domain(server), credentials(entry)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_kinds_of_credentials_are_read() {
        let basic = |username: &str, password: &str| {
            Some(Credentials::Basic { username: username.into(), password: password.into() })
        };
        for (entry, expected) in [
            (json!({}), None),
            (json!({"username": "", "password": ""}), None),
            (json!({"username": "a", "password": "b", "serveraddress": "x"}), basic("a", "b")),
            (json!({"auth": "YTpiOmM="}), basic("a", "b:c")),
            (
                json!({"username": "a", "identitytoken": "t"}),
                Some(Credentials::Identity { username: "a".into(), token: "t".into() }),
            ),
            (json!({"registrytoken": "t"}), Some(Credentials::Bearer("t".into()))),
        ] {
            assert_eq!(credentials(&entry), expected, "{entry}");
        }
        let header = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, text.parse().unwrap());
            from_headers(&headers)
        };
        assert_eq!(header("e30=").unwrap(), None);
        assert_eq!(header("eyJ1c2VybmFtZSI6ImEifQ").unwrap(), basic("a", ""));
        assert!(header("!").is_err());
        assert_eq!(from_headers(&HeaderMap::new()).unwrap(), None);
    }
}
