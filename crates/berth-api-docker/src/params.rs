//! Query parameters, read as dockerd reads them.

use crate::error::ApiError;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use berth_engine::Filters;
use berth_types::Error;
use serde_json::Value;

/// All parameters of a request in their order; a name may come several times.
#[derive(Debug, Clone, Default)]
pub struct Params(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Params, ApiError> {
        match Query::<Vec<(String, String)>>::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Params(pairs)),
            Err(cause) => Err(Error::invalid(format!("invalid query: {cause}")).into()),
        }
    }
}

impl Params {
    /// The first value of `name`; `""` counts as given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value that is not empty.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// dockerd's truth: everything but empty, `0`, `no`, `false` and `none`.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// [`Params::flag`], `default` where the parameter is absent.
    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, |value| {
            !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
        })
    }

    /// Go's `strconv.ParseBool`, which some parameters are read with; no where absent or empty.
    pub fn bool(&self, name: &str) -> Result<bool, Error> {
        match self.filled(name) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some(text) => Err(Error::invalid(format!(
                "invalid value for {name}: {text}: strconv.ParseBool: parsing {text:?}: invalid syntax"
            ))),
        }
    }

    /// A whole number; `None` where absent or empty.
    pub fn int(&self, name: &str) -> Result<Option<i64>, Error> {
        let Some(text) = self.filled(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Error::invalid(format!("strconv.Atoi: parsing {text:?}: {}", crate::params::why_no_number(text)))
        })
    }

    /// The `filters` parameter: `{"key": ["v"]}` or the older `{"key": {"v": true}}`.
    pub fn filters(&self) -> Result<Filters, Error> {
        let Some(text) = self.filled("filters") else { return Ok(Filters::default()) };
        let invalid = || Error::invalid("invalid filter");
        let map = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map,
            // What a client without filters may send.
            Ok(Value::Null) => return Ok(Filters::default()),
            _ => return Err(invalid()),
        };
        let mut filters = Filters::default();
        for (key, values) in map {
            let values = match values {
                Value::Array(list) => list
                    .into_iter()
                    .map(|value| value.as_str().map(str::to_owned))
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(invalid)?,
                Value::Object(set) => {
                    set.into_iter().filter(|(_, on)| on.as_bool() != Some(false)).map(|(value, _)| value).collect()
                }
                _ => return Err(invalid()),
            };
            filters.0.insert(key, values);
        }
        Ok(filters)
    }
}

/// Go's words for a text that is no number of 64 bits.
pub(crate) fn why_no_number(text: &str) -> &'static str {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => "value out of range",
        false => "invalid syntax",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn truth_is_as_in_dockerd() {
        for (text, truth) in [("1", true), ("true", true), ("yes", true), ("0", false), ("False", false), ("", false)] {
            assert_eq!(params(&[("a", text)]).flag("a"), truth, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_told_in_gos_words() {
        for (text, words) in [
            ("x\"y", r#"strconv.Atoi: parsing "x\"y": invalid syntax"#),
            ("99999999999999999999", r#"strconv.Atoi: parsing "99999999999999999999": value out of range"#),
        ] {
            assert_eq!(params(&[("n", text)]).int("n").unwrap_err().message, words);
        }
        assert_eq!(params(&[("n", "-3")]).int("n").unwrap(), Some(-3));
    }

    #[test]
    fn a_strict_truth_is_refused_where_it_is_none() {
        assert!(params(&[("v", "T")]).bool("v").unwrap());
        assert!(!params(&[("v", "")]).bool("v").unwrap());
        assert!(params(&[("v", "yes")]).bool("v").is_err());
    }

    #[test]
    fn both_spellings_of_filters_are_read_and_garbage_is_refused() {
        let new = params(&[("filters", r#"{"label":["a","b"]}"#)]).filters().unwrap();
        let old = params(&[("filters", r#"{"label":{"a":true,"b":true}}"#)]).filters().unwrap();
        assert_eq!(new, old);
        assert!(params(&[("filters", "null")]).filters().unwrap().is_empty());
        for bad in ["[]", "{", r#"{"a":1}"#, r#"{"a":[1]}"#] {
            assert!(params(&[("filters", bad)]).filters().is_err(), "{bad}");
        }
    }
}
