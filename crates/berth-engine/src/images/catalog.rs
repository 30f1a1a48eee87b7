//! Which images there are and what they are called: the part of images that needs no disk.
//!
//! ```text
//! images  id -> record          children are found by their parent
//! names   canonical name -> id  docker.io/library/debian:12, and name@sha256:... for pinned ones
//! ```
//!
//! A record lists the digests of its unpacked layers; whoever holds the catalog's lock knows exactly which
//! layers are needed.

use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is remembered about an image beside its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: Digest,
    /// The image that it was committed on, while that is here.
    pub parent: Option<Digest>,
    /// Digests of the unpacked layers, lowest first, and what each takes on the disk.
    pub layers: Vec<Digest>,
    pub layer_bytes: Vec<u64>,
    pub created_unix_nanos: i64,
    #[serde(default)]
    pub last_tagged_unix_nanos: i64,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Record {
    pub(super) fn size_bytes(&self) -> u64 {
        self.layer_bytes.iter().sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub images: BTreeMap<Digest, Arc<Record>>,
    pub names: BTreeMap<ImageName, Digest>,
}

/// `No such image: x:latest`, as dockerd says it.
pub(super) fn no_such(reference: &str) -> Error {
    let shown = match any_reference(reference) {
        Ok(Reference::Name(name)) => name.or_latest().familiar(),
        _ => reference.to_owned(),
    };
    Error::not_found(format!("No such image: {shown}"))
}

enum Reference {
    Id(Digest),
    Name(ImageName),
}

/// 64 hexadecimal digits and `sha256:...` are ids, everything else a name.
fn any_reference(text: &str) -> Result<Reference> {
    if let Ok(id) = Digest::from_hex(text) {
        return Ok(Reference::Id(id));
    }
    if let Ok(id) = text.parse() {
        return Ok(Reference::Id(id));
    }
    text.parse()
        .map(Reference::Name)
        .map_err(|cause: berth_types::reference::InvalidReference| Error::invalid(cause.to_string()))
}

/// What a name looks up: with a digest the tag does not count.
fn key(name: ImageName) -> ImageName {
    match name.digest().copied() {
        Some(digest) => name.pinned(digest),
        None => name.or_latest(),
    }
}

impl Catalog {
    /// The id that `reference` means: a name, an id, or a unique beginning of an id.
    pub(super) fn find(&self, reference: &str) -> Result<Digest> {
        match any_reference(reference)? {
            Reference::Id(id) if self.images.contains_key(&id) => return Ok(id),
            Reference::Id(_) => return Err(no_such(reference)),
            Reference::Name(name) => {
                if let Some(id) = self.names.get(&key(name)) {
                    return Ok(*id);
                }
            }
        }
        self.by_prefix(reference).ok_or_else(|| no_such(reference))
    }

    /// The only image whose id begins so.
    fn by_prefix(&self, reference: &str) -> Option<Digest> {
        let prefix = reference.strip_prefix("sha256:").unwrap_or(reference);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let lowest = Digest::from_hex(&format!("{prefix:0<64}")).ok()?;
        let mut matching = self.images.range(lowest..).map(|(id, _)| id).take_while(|id| id.hex().starts_with(prefix));
        match (matching.next(), matching.next()) {
            (Some(id), None) => Some(*id),
            _ => None,
        }
    }

    /// All names of `id` in their order.
    pub(super) fn names_of(&self, id: &Digest) -> Vec<&ImageName> {
        self.names.iter().filter(|(_, of)| *of == id).map(|(name, _)| name).collect()
    }

    /// Names with a tag, and those with a digest, as people write them.
    pub(super) fn familiar_names(&self, id: &Digest) -> (Vec<String>, Vec<String>) {
        let (tags, digests): (Vec<_>, Vec<_>) = self.names_of(id).into_iter().partition(|name| name.digest().is_none());
        let familiar = |names: Vec<&ImageName>| names.into_iter().map(ImageName::familiar).collect();
        (familiar(tags), familiar(digests))
    }

    pub(super) fn children<'a>(&'a self, id: &'a Digest) -> impl Iterator<Item = &'a Digest> {
        self.images.values().filter(move |record| record.parent.as_ref() == Some(id)).map(|record| &record.id)
    }

    pub(super) fn all_layers(&self) -> BTreeMap<Digest, (u64, usize)> {
        let mut layers = BTreeMap::new();
        for record in self.images.values() {
            let unique: BTreeMap<&Digest, &u64> = record.layers.iter().zip(&record.layer_bytes).collect();
            for (layer, bytes) in unique {
                let entry = layers.entry(*layer).or_insert((*bytes, 0));
                entry.1 += 1;
            }
        }
        layers
    }
}

/// Whether `reference` is (the beginning of) the id itself rather than a name.
pub(super) fn is_id_prefix(id: &Digest, reference: &str) -> bool {
    let whole = id.to_string();
    whole.starts_with(reference) || whole["sha256:".len()..].starts_with(reference)
}

/// At most one tag, and everything within one repository: then an id stands for all of its names.
pub(super) fn is_single(names: &[&ImageName]) -> bool {
    if names.len() <= 1 {
        return true;
    }
    let tags = names.iter().filter(|name| name.digest().is_none()).count();
    let repositories: BTreeSet<(&str, &str)> = names.iter().map(|name| (name.domain(), name.path())).collect();
    tags <= 1 && repositories.len() == 1
}

/// Why an image cannot be deleted.
pub(super) fn conflict(id: &Digest, hard: bool, why: &str) -> Error {
    let force = if hard { "cannot be forced" } else { "must be forced" };
    Error::new(ErrorKind::Conflict, format!("conflict: unable to delete {} ({force}) - {why}", id.short()))
}

/// Go's `path.Match`: `*` and `?` stop at slashes, `[a-z]`, `[^a]`, `\` escapes. `None`: malformed pattern.
pub(super) fn path_match(pattern: &str, text: &str) -> Option<bool> {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // Each star is tried once per letter: bounded by pattern x text.
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            None if t == text.len() => return Some(true),
            None => None,
            Some('*') => {
                back = Some((p, t));
                p += 1;
                continue;
            }
            Some(_) => one(&pattern, p, text.get(t).copied())?,
        };
        match (step, back) {
            (Some(after), _) => (p, t) = (after, t + 1),
            (None, Some((star, from))) if text.get(from).is_some_and(|&letter| letter != '/') => {
                back = Some((star, from + 1));
                (p, t) = (star + 1, from + 1);
            }
            (None, _) => return Some(false),
        }
    }
}

/// One letter against the pattern at `p`: `Some(Some(after))` where it matches, `None` for a malformed pattern.
fn one(pattern: &[char], p: usize, letter: Option<char>) -> Option<Option<usize>> {
    match pattern[p] {
        '?' => Some(letter.filter(|&letter| letter != '/').map(|_| p + 1)),
        '\\' => {
            let wanted = *pattern.get(p + 1)?;
            Some((letter == Some(wanted)).then_some(p + 2))
        }
        '[' => {
            let mut at = p + 1;
            let negated = pattern.get(at) == Some(&'^');
            at += usize::from(negated);
            let (mut matched, first) = (false, at);
            loop {
                if pattern.get(at) == Some(&']') && at > first {
                    break;
                }
                let bound = |at: &mut usize| -> Option<char> {
                    if pattern.get(*at) == Some(&'\\') {
                        *at += 1;
                    }
                    let bound = *pattern.get(*at)?;
                    *at += 1;
                    Some(bound)
                };
                let low = bound(&mut at)?;
                let high = match pattern.get(at) {
                    Some('-') => {
                        at += 1;
                        bound(&mut at)?
                    }
                    _ => low,
                };
                matched |= letter.is_some_and(|letter| (low..=high).contains(&letter));
            }
            Some((letter.is_some() && matched != negated).then_some(at + 1))
        }
        wanted => Some((letter == Some(wanted)).then_some(p + 1)),
    }
}

/// Whether `name` matches the pattern of a `reference` filter, with its tag or without.
pub(super) fn reference_matches(pattern: &str, name: &ImageName) -> Result<bool> {
    let malformed = || Error::invalid(format!("invalid reference filter {pattern:?}: syntax error in pattern"));
    let whole = path_match(pattern, &name.familiar()).ok_or_else(malformed)?;
    Ok(whole || path_match(pattern, &name.familiar_repository()).ok_or_else(malformed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> (Catalog, Digest, Digest) {
        let (a, b) = (Digest::from_bytes([0xaa; 32]), Digest::from_bytes([0xab; 32]));
        let record = |id, parent: Option<Digest>, layers: &[u8]| {
            Arc::new(Record {
                id,
                parent,
                layers: layers.iter().map(|&byte| Digest::from_bytes([byte; 32])).collect(),
                layer_bytes: vec![10; layers.len()],
                created_unix_nanos: 1,
                last_tagged_unix_nanos: 0,
                labels: BTreeMap::new(),
            })
        };
        let mut catalog = Catalog::default();
        catalog.images.insert(a, record(a, None, &[1]));
        catalog.images.insert(b, record(b, Some(a), &[1, 2]));
        catalog.names.insert("debian:12".parse().unwrap(), a);
        (catalog, a, b)
    }

    #[test]
    fn a_name_an_id_and_a_unique_beginning_of_an_id_find_an_image() {
        let (catalog, a, b) = catalog();
        for reference in ["debian:12", "docker.io/library/debian:12", &a.hex(), &a.to_string(), "aaa", "sha256:aaa"] {
            assert_eq!(catalog.find(reference).unwrap(), a, "{reference}");
        }
        assert_eq!(catalog.find("ab").unwrap(), b);
        assert_eq!(catalog.find("a").unwrap_err().message, "No such image: a:latest");
        assert_eq!(catalog.find("debian").unwrap_err().message, "No such image: debian:latest");
        assert_eq!(catalog.find("De:x").unwrap_err().kind, ErrorKind::InvalidArgument);
    }

    #[test]
    fn shared_layers_stay() {
        let (catalog, a, b) = catalog();
        assert_eq!(catalog.children(&a).collect::<Vec<_>>(), [&b]);
        assert_eq!(catalog.all_layers()[&Digest::from_bytes([1; 32])], (10, 2));
    }

    #[test]
    fn patterns_match_as_gos_do() {
        for (pattern, text, expected) in [
            ("*", "debian", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("deb*:1?", "debian:12", true),
            ("[a-d]*", "debian", true),
            ("[^a-d]*", "debian", false),
            ("a\\*", "a*", true),
            ("a", "ab", false),
            ("*a*b", "xaxxab", true),
        ] {
            assert_eq!(path_match(pattern, text), Some(expected), "{pattern} {text}");
        }
        assert_eq!(path_match("[a", "a"), None);
        let name = "debian:12".parse().unwrap();
        assert!(reference_matches("debian", &name).unwrap() && reference_matches("deb*:12", &name).unwrap());
    }

    #[test]
    fn names_in_one_repository_are_single() {
        let names: Vec<ImageName> = ["a:1", "b:1"].iter().map(|name| name.parse().unwrap()).collect();
        assert!(is_single(&[&names[0]]));
        assert!(!is_single(&[&names[0], &names[1]]));
    }
}
