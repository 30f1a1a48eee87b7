//! Request bodies, read as Go's `encoding/json` reads them into dockerd's types.
//!
//! Keys match in any case, `null` is absent, unknown keys are ignored; a wrong type is a 400 that names
//! the field. A body is at most [`BODY_BYTES_MAX`] long; nesting is bounded by the parser (128).

use crate::error::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use berth_types::Error;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// More than any real container needs; a bigger one would only cost memory.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// A JSON body; `null` where there is none.
#[derive(Debug)]
pub struct JsonBody(pub Value);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;
    async fn from_request(request: Request, _state: &S) -> Result<JsonBody, ApiError> {
        let (parts, body) = request.into_parts();
        Ok(JsonBody(read(&parts.headers, body).await?))
    }
}

async fn bounded(headers: &HeaderMap, body: Body) -> Result<Bytes, Error> {
    let refused = || Error::invalid(format!("request body is cut off or longer than {BODY_BYTES_MAX} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    // Nobody waits for what is not going to be read.
    if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX as u64) {
        return Err(refused());
    }
    axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| refused())
}

/// Reads and parses a body; `null` for none.
pub async fn read(headers: &HeaderMap, body: Body) -> Result<Value, Error> {
    let bytes = bounded(headers, body).await?;
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    if bytes.is_empty() && kind.is_none_or(str::is_empty) {
        return Ok(Value::Null);
    }
    let media = kind.unwrap_or("").split(';').next().unwrap_or("").trim();
    if !media.eq_ignore_ascii_case("application/json") && !bytes.is_empty() {
        return Err(Error::invalid(format!("unsupported Content-Type header ({media}): must be 'application/json'")));
    }
    parse(&bytes)
}

/// Parses one JSON object.
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    match values.next() {
        None => Ok(Value::Object(Map::new())),
        Some(Err(cause)) if cause.is_eof() => Err(Error::invalid("invalid JSON: unexpected EOF")),
        Some(Err(cause)) => Err(Error::invalid(format!("invalid JSON: {cause}"))),
        Some(Ok(value)) => match bytes[values.byte_offset()..].iter().all(u8::is_ascii_whitespace) {
            true => Ok(value),
            false => Err(Error::invalid("unexpected content after JSON")),
        },
    }
}

/// An answer in JSON with a line end behind it, as Go's encoder writes one: scripts read answers by lines.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(mut text) => {
                text.push(b'\n');
                ([(header::CONTENT_TYPE, "application/json")], text).into_response()
            }
            Err(cause) => ApiError(Error::internal(format!("cannot write the answer: {cause}"))).into_response(),
        }
    }
}

/// The fields of one object of a body.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    map: Option<&'a Map<String, Value>>,
    /// Go's name of the struct, for messages.
    of: &'static str,
}

impl<'a> Fields<'a> {
    pub fn new(value: &'a Value, of: &'static str) -> Result<Fields<'a>, Error> {
        match value {
            Value::Object(map) => Ok(Fields { map: Some(map), of }),
            Value::Null => Ok(Fields { map: None, of }),
            other => Err(wrong_type(other, "", of, of)),
        }
    }

    /// The value of `name`: the exact key first, then one that differs only in case.
    pub fn raw(&self, name: &str) -> Option<&'a Value> {
        let map = self.map?;
        let found = map.get(name).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
        found.filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, wanted: &str) -> Error {
        wrong_type(value, name, self.of, wanted)
    }

    pub fn text_or_none(&self, name: &str) -> Result<Option<String>, Error> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(name, other, "string")),
        }
    }

    pub fn text(&self, name: &str) -> Result<String, Error> {
        Ok(self.text_or_none(name)?.unwrap_or_default())
    }

    pub fn flag_or_none(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(name, other, "bool")),
        }
    }

    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        Ok(self.flag_or_none(name)?.unwrap_or(false))
    }

    /// An integer of Go's type `T`; what does not fit is refused as Go refuses it.
    pub fn int_or_none<T: TryFrom<i128>>(&self, name: &str, kind: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        let number = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, value, kind)),
        }
    }

    pub fn int(&self, name: &str) -> Result<i64, Error> {
        Ok(self.int_or_none(name, "int64")?.unwrap_or(0))
    }

    pub fn texts_or_none(&self, name: &str) -> Result<Option<Vec<String>>, Error> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::Array(list)) => list
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.clone()),
                    Value::Null => Ok(String::new()),
                    other => Err(self.wrong(name, other, "string")),
                })
                .collect::<Result<_, _>>()
                .map(Some),
            Some(other) => Err(self.wrong(name, other, "[]string")),
        }
    }

    pub fn texts(&self, name: &str) -> Result<Vec<String>, Error> {
        Ok(self.texts_or_none(name)?.unwrap_or_default())
    }

    /// Docker's `strslice`: a string is a list of one.
    pub fn text_or_texts(&self, name: &str) -> Result<Option<Vec<String>>, Error> {
        match self.raw(name) {
            Some(Value::String(text)) => Ok(Some(vec![text.clone()])),
            _ => self.texts_or_none(name),
        }
    }

    pub fn text_map(&self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        self.entries(name)?
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key.clone(), text.clone())),
                Value::Null => Ok((key.clone(), String::new())),
                other => Err(self.wrong(name, other, "string")),
            })
            .collect()
    }

    /// Keys and values of a map.
    pub fn entries(&self, name: &str) -> Result<impl Iterator<Item = (&'a String, &'a Value)> + use<'a>, Error> {
        match self.raw(name) {
            None => Ok(None.into_iter().flatten()),
            Some(Value::Object(map)) => Ok(Some(map).into_iter().flatten()),
            Some(other) => Err(self.wrong(name, other, "map[string]string")),
        }
    }

    /// An object inside; empty where absent.
    pub fn object(&self, name: &str, of: &'static str) -> Result<Fields<'a>, Error> {
        Ok(self.object_or_none(name, of)?.unwrap_or(Fields { map: None, of }))
    }

    pub fn object_or_none(&self, name: &str, of: &'static str) -> Result<Option<Fields<'a>>, Error> {
        self.raw(name).map(|value| Fields::new(value, of)).transpose()
    }

    /// A list of objects.
    pub fn objects(&self, name: &str, of: &'static str) -> Result<Vec<Fields<'a>>, Error> {
        match self.raw(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(|value| Fields::new(value, of)).collect(),
            Some(other) => Err(self.wrong(name, other, "[]struct")),
        }
    }
}

fn wrong_type(value: &Value, name: &str, of: &str, wanted: &str) -> Error {
    let integer = wanted.starts_with("int") || wanted.starts_with("uint");
    let got = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        // Go quotes only the number that does not fit.
        Value::Number(number) if integer => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    let into = match name {
        "" if of == "CreateOptions" => "value of type volume.CreateOptions".to_owned(),
        "" => format!("value of type container.{of}"),
        name => format!("struct field {of}.{name} of type {wanted}"),
    };
    Error::invalid(format!("invalid JSON: json: cannot unmarshal {got} into Go {into}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_in_any_case_and_null_is_absent() {
        let value = parse(br#"{"hostNAME":"a","User":null}"#).unwrap();
        let fields = Fields::new(&value, "Config").unwrap();
        assert_eq!(fields.text("Hostname").unwrap(), "a");
        assert_eq!(fields.text_or_none("User").unwrap(), None);
    }

    #[test]
    fn damaged_bodies_are_told_as_dockerd_tells_them() {
        assert_eq!(parse(b"{").unwrap_err().message, "invalid JSON: unexpected EOF");
        assert_eq!(parse(b"{} {}").unwrap_err().message, "unexpected content after JSON");
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        let value = parse(br#"{"Memory":"1"}"#).unwrap();
        let error = Fields::new(&value, "HostConfig").unwrap().int("Memory").unwrap_err();
        assert!(
            error.message.ends_with("cannot unmarshal string into Go struct field HostConfig.Memory of type int64")
        );
    }
}
