//! Build caches elsewhere, as BuildKit's clients name them.

use super::request::{Attrs, unimplemented};
use berth_buildkit::grpc::{Code, Status};
use berth_buildkit::proto::control::{CacheEntry, CacheOptions};
use berth_engine::builds::{CacheFrom, CacheTo, Elsewhere};
use berth_types::ImageName;
use serde::Deserialize;
use std::collections::BTreeMap;

/// An import as it stands in the frontend's attributes.
#[derive(Deserialize)]
struct Import {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Attrs", default)]
    attrs: BTreeMap<String, String>,
}

/// What the request says of caches.
pub(super) fn elsewhere(cache: Option<&CacheOptions>, attrs: &Attrs) -> Result<Elsewhere, Status> {
    let mut all = Elsewhere::default();
    let mut imports: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    if let Some(text) = attrs.get("cache-imports").filter(|text| !text.is_empty()) {
        let list: Vec<Import> = serde_json::from_str(text)
            .map_err(|cause| invalid(format!("failed to unmarshal cache-imports: {cause}")))?;
        imports.extend(list.into_iter().map(|import| (import.kind, import.attrs)));
    }
    let given = cache.into_iter().flat_map(|cache| &cache.imports);
    imports.extend(given.map(|CacheEntry { kind, attrs }| (kind.clone(), attrs.clone())));
    for (kind, attrs) in imports {
        let from = match kind.as_str() {
            "registry" => CacheFrom::Registry(name(&attrs)?),
            other => return Err(unknown("import", other)),
        };
        if !all.from.contains(&from) {
            all.from.push(from);
        }
    }
    for CacheEntry { kind, attrs } in cache.into_iter().flat_map(|cache| &cache.exports) {
        let max = attrs.get("mode").is_some_and(|mode| mode == "max");
        all.to.push(match kind.as_str() {
            "inline" => CacheTo::Inline,
            "registry" => CacheTo::Registry { name: name(attrs)?, max },
            other => return Err(unknown("export", other)),
        });
    }
    Ok(all)
}

fn name(attrs: &BTreeMap<String, String>) -> Result<ImageName, Status> {
    let text = attrs.get("ref").map(String::as_str).unwrap_or_default();
    text.parse().map_err(|cause: berth_types::reference::InvalidReference| {
        invalid(format!("invalid ref of a build cache {text:?}: {cause}"))
    })
}

fn invalid(text: String) -> Status {
    Status::new(Code::InvalidArgument, text)
}

fn unknown(what: &str, kind: &str) -> Status {
    unimplemented(format!(
        "this builder has no cache {what} of type {kind:?}: registry and inline; berth build has local as well"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_read_from_the_request_and_from_the_frontends_attributes_once() {
        let entry = |kind: &str, pairs: &[(&str, &str)]| CacheEntry {
            kind: kind.to_owned(),
            attrs: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let options = CacheOptions {
            exports: vec![entry("inline", &[]), entry("registry", &[("ref", "r:5000/a"), ("mode", "max")])],
            imports: vec![entry("registry", &[("ref", "r:5000/b")])],
        };
        let text = r#"[{"Type":"registry","Attrs":{"ref":"r:5000/b"}}]"#;
        let attrs = Attrs::from([("cache-imports".to_owned(), text.to_owned())]);
        let all = elsewhere(Some(&options), &attrs).unwrap();
        assert_eq!(all.from, [CacheFrom::Registry("r:5000/b".parse().unwrap())]);
        assert_eq!(all.to, [CacheTo::Inline, CacheTo::Registry { name: "r:5000/a".parse().unwrap(), max: true }]);
        let local = CacheOptions { exports: vec![entry("local", &[("dest", "x")])], imports: Vec::new() };
        assert!(elsewhere(Some(&local), &Attrs::new()).is_err());
        assert!(elsewhere(None, &Attrs::from([("cache-imports".to_owned(), "{".to_owned())])).is_err());
    }
}
