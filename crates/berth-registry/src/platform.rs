//! Platforms of images: `os[/architecture[/variant]]`, and which one of an index fits.

use crate::{Descriptor, RegistryError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Platforms named in an error.
const SHOWN_MAX: usize = 32;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// The other names of architectures, as containerd's `normalizeArch` knows them.
fn normal(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (name, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", "v8"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (name.to_owned(), variant.to_owned())
}

impl Platform {
    /// This machine's.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        let (architecture, variant) = normal(architecture, "");
        Platform { architecture, variant, os: "linux".to_owned(), ..Platform::default() }
    }

    /// `linux/arm64/v8`, `arm64`, `linux`: what is left out is this machine's.
    pub fn parse(text: &str) -> Result<Platform, RegistryError> {
        let invalid =
            |why: &str| RegistryError::Configuration { what: format!("platform {text:?}"), why: why.to_owned() };
        let words: Vec<&str> = text.split('/').collect();
        let fits = |word: &&str| {
            !word.is_empty()
                && word.len() <= 64
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if words.len() > 3 || !words.iter().all(fits) {
            return Err(invalid("os[/architecture[/variant]] is needed, for example linux/arm64"));
        }
        let known_os = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "plan9", "wasi", "js"];
        let (os, architecture, variant) = match words[..] {
            [one] if known_os.contains(&one.to_ascii_lowercase().as_str()) => {
                let host = Platform::host();
                (one, host.architecture, host.variant)
            }
            [one] => {
                let (architecture, variant) = normal(one, "");
                ("linux", architecture, variant)
            }
            [os, architecture] => {
                let (architecture, variant) = normal(architecture, "");
                (os, architecture, variant)
            }
            [os, architecture, variant] => {
                let (architecture, variant) = normal(architecture, variant);
                (os, architecture, variant)
            }
            _ => return Err(invalid("os[/architecture[/variant]] is needed")),
        };
        Ok(Platform { os: os.to_ascii_lowercase(), architecture, variant, ..Platform::default() })
    }

    /// What runs on `self`, best first: 32-bit programs after all others.
    fn runs(&self) -> Vec<(String, String)> {
        let (architecture, variant) = normal(&self.architecture, &self.variant);
        let arm = |highest: u32| (5..=highest).rev().map(|n| ("arm".to_owned(), format!("v{n}")));
        let level = variant.strip_prefix('v').and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        match architecture.as_str() {
            "amd64" => {
                let levels = (2..=level.min(9)).rev().map(|n| ("amd64".to_owned(), format!("v{n}")));
                levels.chain([("amd64".into(), String::new()), ("386".into(), String::new())]).collect()
            }
            "arm64" => {
                let mut all = vec![(architecture.clone(), variant)];
                all.push((architecture, "v8".to_owned()));
                all.extend(arm(8));
                all
            }
            "arm" => arm(level.clamp(5, 8)).collect(),
            _ => vec![(architecture, variant)],
        }
    }

    /// Whether an image for `other` runs on this platform.
    pub fn accepts(&self, other: &Platform) -> bool {
        let theirs = normal(&other.architecture, &other.variant);
        self.os == other.os && self.runs().contains(&theirs)
    }
}

/// The entry for `wanted`: the best that runs there, the first of equals.
pub fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, RegistryError> {
    for (architecture, variant) in wanted.runs() {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|platform| {
                platform.os == wanted.os
                    && normal(&platform.architecture, &platform.variant) == (architecture.clone(), variant.clone())
            })
        };
        if let Some(entry) = entries.iter().find(fits) {
            return Ok(entry);
        }
    }
    let mut available: Vec<String> = Vec::new();
    for platform in entries.iter().filter_map(|entry| entry.platform.as_ref()) {
        let shown = platform.to_string();
        let plain = shown.len() <= 128 && !shown.chars().any(char::is_control);
        if platform.os != "unknown" && plain && !available.contains(&shown) && available.len() < SHOWN_MAX {
            available.push(shown);
        }
    }
    Err(RegistryError::NoPlatform { wanted: wanted.to_string(), available })
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_types::Digest;

    fn entry(n: u8, platform: &str) -> Descriptor {
        let words: Vec<&str> = platform.split('/').collect();
        let platform = Platform {
            os: words[0].into(),
            architecture: words[1].into(),
            variant: words.get(2).copied().unwrap_or_default().into(),
            ..Platform::default()
        };
        let digest = Digest::from_bytes([n; 32]);
        Descriptor { platform: Some(platform), ..Descriptor::new("application/x", digest, 1) }
    }

    #[test]
    fn the_best_entry_that_runs_is_chosen() {
        let all = [
            entry(0, "unknown/unknown"),
            entry(1, "linux/386"),
            entry(2, "linux/arm/v5"),
            entry(3, "linux/arm/v7"),
            entry(4, "linux/amd64/v3"),
            entry(5, "linux/amd64"),
            entry(6, "linux/arm64"),
            entry(7, "windows/amd64"),
        ];
        for (wanted, expected) in [
            ("linux/amd64", 5),
            ("amd64", 5),
            ("x86_64", 5),
            ("linux/amd64/v3", 4),
            ("linux/amd64/v2", 5),
            ("linux/arm64", 6),
            ("linux/arm64/v8", 6),
            ("linux/arm/v7", 3),
            ("linux/arm/v6", 2),
            ("linux/arm", 3),
            ("windows/amd64", 7),
            ("i386", 1),
        ] {
            let chosen = choose(&all, &Platform::parse(wanted).unwrap()).unwrap();
            assert_eq!(chosen.digest, Digest::from_bytes([expected; 32]), "{wanted}");
        }
        let none = choose(&all, &Platform::parse("linux/riscv64").unwrap()).unwrap_err().to_string();
        assert!(none.starts_with("no matching manifest for linux/riscv64 in the manifest list entries"), "{none}");
        assert!(none.contains("linux/386, linux/arm/v5") && !none.contains("unknown"), "{none}");
        // What Docker does with 32-bit only.
        assert!(choose(&all[1..2], &Platform::parse("amd64").unwrap()).is_ok());
    }

    #[test]
    fn words_that_are_no_platforms_are_refused() {
        for bad in ["", "a/b/c/d", "linux/", "linux/a b", "linux/\u{1b}"] {
            assert!(Platform::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Platform::parse("linux").unwrap().architecture, Platform::host().architecture);
        assert!(Platform::host().accepts(&Platform::host()));
    }
}
