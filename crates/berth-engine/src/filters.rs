//! Filters as Docker's API has them: a key with several values, of which one must match.

use berth_types::{Error, Result};
use std::collections::BTreeMap;

/// `{"label": ["a=b", "c"], "status": ["running"]}`: every key must match, any of its values may.
/// Labels are the exception: all of them must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, Vec<String>>);

impl Filters {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of `key`, empty where it is not filtered by.
    pub fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Adds one value; for callers that build filters in code.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Filters {
        self.0.entry(key.to_owned()).or_default().push(value.into());
        self
    }

    /// Refuses keys that are not in `known`, with Docker's words.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// Whether `value` is one of the values of `key`, or `key` is not filtered by.
    pub fn exact(&self, key: &str, value: &str) -> bool {
        !self.contains(key) || self.get(key).iter().any(|wanted| wanted == value)
    }

    /// Whether some value of `key` is the beginning of `value` or contained in it, as names and ids match.
    pub fn fuzzy(&self, key: &str, value: &str) -> bool {
        !self.contains(key) || self.get(key).iter().any(|wanted| value.contains(wanted.as_str()))
    }

    /// A yes/no filter: `None` where it is not used.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        let values = self.get(key);
        let Some(first) = values.first() else { return Ok(None) };
        let parse = |text: &String| match text.as_str() {
            "1" | "true" | "True" | "TRUE" | "t" | "T" => Ok(true),
            "0" | "false" | "False" | "FALSE" | "f" | "F" => Ok(false),
            _ => Err(Error::invalid(format!("invalid filter '{key}=[{}]'", values.join(" ")))),
        };
        let value = parse(first)?;
        if values.iter().skip(1).any(|other| parse(other).ok() != Some(value)) {
            return Err(Error::invalid(format!("invalid filter '{key}=[{}]'", values.join(" "))));
        }
        Ok(Some(value))
    }

    /// `label` and `label!` against an object's labels: `key` or `key=value`, all must match.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        };
        self.get("label").iter().all(has) && !self.get("label!").iter().any(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_labels_must_match_and_negated_ones_must_not() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        assert!(Filters::default().labels(&labels));
        assert!(Filters::default().with("label", "a").with("label", "b").labels(&labels));
        assert!(!Filters::default().with("label", "a=2").labels(&labels));
        assert!(!Filters::default().with("label!", "b").labels(&labels));
    }

    #[test]
    fn an_unknown_key_is_refused_with_dockers_words() {
        let error = Filters::default().with("colour", "red").only(&["label"]).unwrap_err();
        assert_eq!(error.message, "invalid filter 'colour'");
    }
}
