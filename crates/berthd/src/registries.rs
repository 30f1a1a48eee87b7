//! Registries: mirrors, trust, credentials, proxies; dockerd's flags and keys, and one table for any registry.

use berth_engine::images::{Credentials, Proxies, Registry, RegistryOptions};
use clap::Args;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[derive(Debug, Default, Args)]
pub(crate) struct RegistryArgs {
    /// Mirror of the public registry (docker.io), asked first; repeatable
    #[arg(long = "registry-mirror", value_name = "URL")]
    mirrors: Vec<String>,
    /// Registry without checked TLS: HOST, HOST:PORT or CIDR; repeatable
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure: Vec<String>,
    /// Layers fetched at once [default: 3]
    #[arg(long, value_name = "N")]
    max_concurrent_downloads: Option<usize>,
    /// Layers sent at once [default: 5]
    #[arg(long, value_name = "N")]
    max_concurrent_uploads: Option<usize>,
    /// Tries of a request to a registry [default: 5]
    #[arg(long, value_name = "N")]
    max_download_attempts: Option<u32>,
    /// Proxy for http:// [default: HTTP_PROXY]
    #[arg(long, value_name = "URL")]
    http_proxy: Option<String>,
    /// Proxy for https:// [default: HTTPS_PROXY]
    #[arg(long, value_name = "URL")]
    https_proxy: Option<String>,
    /// Hosts that are reached without a proxy, with commas [default: NO_PROXY]
    #[arg(long, value_name = "HOSTS")]
    no_proxy: Option<String>,
    /// From the configuration file only: it may hold passwords.
    #[arg(skip)]
    table: BTreeMap<String, Registry>,
}

/// Keys of the configuration file that belong here.
pub(crate) const KEYS: &[&str] = &[
    "registry-mirrors",
    "insecure-registries",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "proxies",
    "registries",
];

impl RegistryArgs {
    /// Takes a key of the configuration file; false where a flag said it already.
    pub(crate) fn merge(&mut self, key: &str, value: &Value) -> Result<bool, String> {
        match key {
            "registry-mirrors" => fill_list(&mut self.mirrors, texts(key, value)?),
            "insecure-registries" => fill_list(&mut self.insecure, texts(key, value)?),
            "max-concurrent-downloads" => fill(&mut self.max_concurrent_downloads, number(key, value)?),
            "max-concurrent-uploads" => fill(&mut self.max_concurrent_uploads, number(key, value)?),
            "max-download-attempts" => {
                let tries = u32::try_from(number(key, value)?).map_err(|_| format!("{key}: too large"))?;
                fill(&mut self.max_download_attempts, tries)
            }
            "proxies" => {
                for (name, value) in object(key, value)? {
                    let path = format!("{key}.{name}");
                    let slot = match name.as_str() {
                        "http-proxy" => &mut self.http_proxy,
                        "https-proxy" => &mut self.https_proxy,
                        "no-proxy" => &mut self.no_proxy,
                        _ => return Err(format!("{path}: there is http-proxy, https-proxy and no-proxy")),
                    };
                    if !fill(slot, text(&path, value)?)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => {
                for (domain, entry) in object(key, value)? {
                    self.table.insert(domain.clone(), registry(&format!("{key}.{domain}"), entry)?);
                }
                Ok(true)
            }
        }
    }

    pub(crate) fn options(&self) -> RegistryOptions {
        let defaults = RegistryOptions::default();
        let mut registries = self.table.clone();
        if !self.mirrors.is_empty() {
            registries.entry("docker.io".to_owned()).or_default().mirrors.splice(0..0, self.mirrors.iter().cloned());
        }
        let from = Proxies::from_environment();
        RegistryOptions {
            registries,
            insecure: self.insecure.clone(),
            proxies: Proxies {
                http: self.http_proxy.clone().unwrap_or(from.http),
                https: self.https_proxy.clone().unwrap_or(from.https),
                none: self.no_proxy.clone().unwrap_or(from.none),
            },
            downloads_max: self.max_concurrent_downloads.unwrap_or(defaults.downloads_max),
            uploads_max: self.max_concurrent_uploads.unwrap_or(defaults.uploads_max),
            attempts_max: self.max_download_attempts.unwrap_or(defaults.attempts_max),
        }
    }
}

/// `{"mirrors": [..], "insecure": true, "username": "..", "password": "..", "identitytoken": ".."}`
fn registry(path: &str, value: &Value) -> Result<Registry, String> {
    let mut registry = Registry::default();
    let (mut username, mut password, mut token) = (None, None, None);
    for (name, value) in object(path, value)? {
        let path = format!("{path}.{name}");
        match name.as_str() {
            "mirrors" => registry.mirrors = texts(&path, value)?,
            "insecure" => {
                registry.insecure = Some(value.as_bool().ok_or_else(|| format!("{path}: must be true or false"))?);
            }
            "username" => username = Some(text(&path, value)?),
            "password" => password = Some(text(&path, value)?),
            "identitytoken" => token = Some(text(&path, value)?),
            _ => return Err(format!("{path}: there is mirrors, insecure, username, password and identitytoken")),
        }
    }
    registry.credentials = match (username, password, token) {
        (username, None, Some(token)) => Some(Credentials::Identity { username: username.unwrap_or_default(), token }),
        (Some(username), Some(password), None) => Some(Credentials::Basic { username, password }),
        (None, None, None) => None,
        _ => return Err(format!("{path}: username and password, or identitytoken")),
    };
    Ok(registry)
}

fn text(path: &str, value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("{path}: must be a string"))
}

fn texts(path: &str, value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("{path}: must be a list of strings");
    let list = value.as_array().ok_or_else(wrong)?;
    list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn number(path: &str, value: &Value) -> Result<usize, String> {
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    count.ok_or_else(|| format!("{path}: must be a whole number above 0"))
}

fn object<'a>(path: &str, value: &'a Value) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{path}: must be an object"))
}

fn fill<T>(slot: &mut Option<T>, value: T) -> Result<bool, String> {
    let free = slot.is_none();
    if free {
        *slot = Some(value);
    }
    Ok(free)
}

fn fill_list(slot: &mut Vec<String>, value: Vec<String>) -> Result<bool, String> {
    let free = slot.is_empty();
    if free {
        *slot = value;
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dockerds_keys_and_the_table_become_one_setting() {
        let mut args = RegistryArgs { mirrors: vec!["https://flag".into()], ..RegistryArgs::default() };
        assert_eq!(args.merge("registry-mirrors", &json!(["https://file"])), Ok(false));
        assert_eq!(args.merge("insecure-registries", &json!(["10.0.0.0/8"])), Ok(true));
        assert_eq!(args.merge("max-concurrent-downloads", &json!(7)), Ok(true));
        assert_eq!(args.merge("proxies", &json!({"https-proxy": "http://p:1", "no-proxy": "x"})), Ok(true));
        let table = json!({
            "docker.io": {"mirrors": ["https://table"]},
            "r.example:5000": {"insecure": false, "username": "u", "password": "p"},
        });
        assert_eq!(args.merge("registries", &table), Ok(true));
        let options = args.options();
        assert_eq!(options.registries["docker.io"].mirrors, ["https://flag", "https://table"]);
        assert_eq!(options.registries["r.example:5000"].insecure, Some(false));
        assert!(matches!(options.registries["r.example:5000"].credentials, Some(Credentials::Basic { .. })));
        assert_eq!((options.downloads_max, options.uploads_max), (7, 5));
        assert_eq!((options.proxies.https.as_str(), options.proxies.none.as_str()), ("http://p:1", "x"));
    }

    #[test]
    fn mistakes_in_the_file_say_where_they_are() {
        for (key, value, words) in [
            ("registries", json!({"h": {"user": "x"}}), "registries.h.user"),
            ("registries", json!({"h": {"username": "x"}}), "registries.h"),
            ("proxies", json!({"ftp": "x"}), "proxies.ftp"),
            ("max-download-attempts", json!(0), "max-download-attempts"),
            ("registry-mirrors", json!("x"), "registry-mirrors"),
        ] {
            let error = RegistryArgs::default().merge(key, &value).unwrap_err();
            assert!(error.starts_with(words), "{error}");
        }
    }
}
