//! `--cache-from` and `--cache-to`: build caches in registries, folders and images.

use crate::cli::Args;
use crate::error::{CliError, Result};
use serde_json::{Value as Json, json};
use std::path::PathBuf;

#[derive(Debug, PartialEq)]
pub(super) struct Caches {
    pub from: Vec<Json>,
    pub to: Vec<Json>,
    /// Where the client puts a cache that is a folder.
    pub folder: Option<PathBuf>,
}

pub(super) fn parse(args: &Args) -> Result<Caches> {
    let mut caches = Caches { from: Vec::new(), to: Vec::new(), folder: None };
    for word in args.list("cache-from") {
        caches.from.push(from(word)?);
    }
    for word in args.list("cache-to") {
        let (to, folder) = to(word)?;
        caches.to.push(to);
        if folder.is_some() && caches.folder.is_some() {
            return Err(CliError::usage("only one --cache-to can be a folder"));
        }
        caches.folder = caches.folder.or(folder);
    }
    Ok(caches)
}

/// `type=registry,ref=x,mode=max` as its parts; a bare word is a registry's.
struct Parts<'a> {
    kind: &'a str,
    place: &'a str,
    max: bool,
}

fn parts<'a>(flag: &str, word: &'a str, places: &[&str]) -> Result<Parts<'a>> {
    if !word.contains('=') {
        return Ok(Parts { kind: "registry", place: word, max: false });
    }
    let mut parts = Parts { kind: "", place: "", max: false };
    for part in word.split(',') {
        match part.split_once('=') {
            Some(("type", value)) => parts.kind = value,
            Some((key, value)) if places.contains(&key) => parts.place = value,
            Some(("mode", "max")) => parts.max = true,
            // What is written anyhow.
            Some(("mode", "min") | ("image-manifest" | "oci-mediatypes", "true")) => {}
            _ => return Err(CliError::usage(format!("unexpected part {part:?} in --{flag} {word}"))),
        }
    }
    Ok(parts)
}

fn unknown(flag: &str, kind: &str) -> CliError {
    CliError::usage(format!("unknown type {kind:?} in --{flag}: inline, registry, local"))
}

fn from(word: &str) -> Result<Json> {
    let parts = parts("cache-from", word, &["ref", "src"])?;
    match (parts.kind, parts.place) {
        ("registry" | "local", "") => Err(CliError::usage(format!("--cache-from {word} needs ref= or src="))),
        ("registry", name) => Ok(json!({ "registry": name })),
        ("local", folder) => {
            let path = std::fs::canonicalize(folder)
                .map_err(|e| CliError::io(format!("cannot find build cache {folder}"), e))?;
            Ok(json!({ "folder": path.to_string_lossy() }))
        }
        ("inline", _) => {
            Err(CliError::usage("an inline cache is read from its image")
                .with_hint("--cache-from type=registry,ref=IMAGE"))
        }
        (kind, _) => Err(unknown("cache-from", kind)),
    }
}

fn to(word: &str) -> Result<(Json, Option<PathBuf>)> {
    let parts = parts("cache-to", word, &["ref", "dest"])?;
    match (parts.kind, parts.place) {
        ("registry" | "local", "") => Err(CliError::usage(format!("--cache-to {word} needs ref= or dest="))),
        ("registry", name) => Ok((json!({"registry": {"name": name, "max": parts.max}}), None)),
        ("local", folder) => Ok((json!({"folder": {"max": parts.max}}), Some(folder.into()))),
        ("inline", _) if parts.max => Err(CliError::usage(
            "an image carries no more than its own layers: mode=max needs type=registry or type=local",
        )),
        ("inline", _) => Ok((json!({"inline": {}}), None)),
        (kind, _) => Err(unknown("cache-to", kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_read_in_buildkits_forms() {
        assert_eq!(from("host/a:b").unwrap(), json!({"registry": "host/a:b"}));
        assert_eq!(from("type=registry,ref=a").unwrap(), json!({"registry": "a"}));
        assert_eq!(from("type=local,src=/").unwrap(), json!({"folder": "/"}));
        assert_eq!(to("type=inline").unwrap(), (json!({"inline": {}}), None));
        let max = json!({"registry": {"name": "a", "max": true}});
        assert_eq!(to("type=registry,ref=a,mode=max,image-manifest=true").unwrap(), (max, None));
        let folder = (json!({"folder": {"max": false}}), Some(PathBuf::from("x")));
        assert_eq!(to("type=local,dest=x,mode=min").unwrap(), folder);
        for bad in ["type=gha", "type=registry", "type=local", "type=inline,mode=max", "type=registry,ref=a,x=y"] {
            assert!(to(bad).is_err(), "{bad}");
        }
        assert!(from("type=inline").is_err() && from("type=local,src=/no/such/folder").is_err());
    }
}
