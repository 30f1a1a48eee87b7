//! A JSON value that keeps the order of its fields.
//!
//! Templates and `inspect` print what the engine sent, in its order, which a sorted map would lose.
//! Maps are short lists of pairs: the largest object of the API has some eighty fields, and a scan of
//! those is faster than hashing.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
    /// What a method with one argument answers from, for example `.Label "x"`.
    Lookup(Vec<(String, String)>),
}

static NULL: Value = Value::Null;

impl Value {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// A list of objects, of each only the fields `keys`: to step over the rest takes a fraction of the time.
    pub(crate) fn parse_rows(bytes: &[u8], keys: &[&str]) -> Result<Vec<Value>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let rows = Rows(keys).deserialize(&mut deserializer)?;
        deserializer.end().map(|()| rows)
    }

    /// The field `key`, or null.
    pub(crate) fn get(&self, key: &str) -> &Value {
        self.field(key).unwrap_or(&NULL)
    }

    pub(crate) fn field(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Map(fields) => fields.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Follows several fields, null as soon as one is missing.
    pub(crate) fn at(&self, path: &[&str]) -> &Value {
        path.iter().fold(self, |v, key| v.get(key))
    }

    /// The string, or an empty one.
    pub(crate) fn str(&self) -> &str {
        match self {
            Value::Str(s) => s,
            _ => "",
        }
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).str()
    }

    pub(crate) fn int(&self) -> i64 {
        match self {
            Value::Int(n) => *n,
            Value::Float(f) => *f as i64,
            _ => 0,
        }
    }

    pub(crate) fn float(&self) -> f64 {
        match self {
            Value::Int(n) => *n as f64,
            Value::Float(f) => *f,
            _ => 0.0,
        }
    }

    pub(crate) fn bool(&self) -> bool {
        matches!(self, Value::Bool(true))
    }

    pub(crate) fn list(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn map(&self) -> &[(String, Value)] {
        match self {
            Value::Map(fields) => fields,
            _ => &[],
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// JSON as Go's encoder writes it: no spaces, `<`, `>` and `&` escaped.
    pub(crate) fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out, true);
        out
    }

    /// As `to_json`, with `<`, `>` and `&` as they are.
    pub(crate) fn to_plain_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out, false);
        out
    }

    fn write_json(&self, out: &mut String, html: bool) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Int(n) => out.push_str(&n.to_string()),
            Value::Float(f) => out.push_str(&crate::units::go_float(*f)),
            Value::Str(s) => write_string(out, s, html),
            Value::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write_json(out, html);
                }
                out.push(']');
            }
            Value::Map(fields) => {
                out.push('{');
                for (i, (key, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_string(out, key, html);
                    out.push(':');
                    value.write_json(out, html);
                }
                out.push('}');
            }
            Value::Lookup(_) => out.push_str("{}"),
        }
    }
}

fn write_string(out: &mut String, s: &str, html: bool) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || matches!(c, '\u{2028}' | '\u{2029}') || (html && matches!(c, '<' | '>' | '&')) => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// JSON text without the spaces between its parts.
pub(crate) fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        match c {
            _ if in_string => {
                in_string = escaped || c != '"';
                escaped = c == '\\' && !escaped;
            }
            c if c.is_ascii_whitespace() => continue,
            '"' => in_string = true,
            _ => {}
        }
        out.push(c);
    }
    out
}

/// Indents JSON text by four spaces, as Go's `json.Indent` does: the bytes inside strings and the
/// spelling of numbers stay as the engine sent them.
pub(crate) fn indent(json: &str, prefix_depth: usize) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped, mut pending_open) = (prefix_depth, false, false, false);
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        for _ in 0..depth {
            out.push_str("    ");
        }
    };
    for c in json.chars() {
        if in_string {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if pending_open && c != '}' && c != ']' {
            depth += 1;
            newline(&mut out, depth);
        }
        match c {
            '{' | '[' => out.push(c),
            '}' | ']' => {
                if !pending_open {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '"' => {
                in_string = true;
                out.push(c);
            }
            c => out.push(c),
        }
        pending_open = matches!(c, '{' | '[');
    }
    out
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::Str(s.to_owned())
    }
}

impl From<String> for Value {
    fn from(s: String) -> Value {
        Value::Str(s)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Value {
        Value::Int(n)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::Int(n))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(i64::try_from(n).map_or(Value::Float(n as f64), Value::Int))
    }
    fn visit_f64<E>(self, f: f64) -> Result<Value, E> {
        Ok(Value::Float(f))
    }
    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(Value::Str(s.to_owned()))
    }
    fn visit_string<E>(self, s: String) -> Result<Value, E> {
        Ok(Value::Str(s))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = map.next_entry()? {
            fields.push(entry);
        }
        Ok(Value::Map(fields))
    }
}

struct Rows<'k>(&'k [&'k str]);

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Value>, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = seq.next_element_seed(Row(self.0))? {
            rows.push(row);
        }
        Ok(rows)
    }
}

struct Row<'k>(&'k [&'k str]);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::with_capacity(self.0.len());
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.0.iter().find(|wanted| **wanted == key) {
                Some(wanted) => fields.push(((*wanted).to_owned(), map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Map(fields))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_go_escapes_survive_a_round_trip() {
        let v = Value::parse(br#"{"z":1,"a":"<x> & y","f":1.5,"n":null,"l":[true]}"#).unwrap();
        assert_eq!(v.to_json(), r#"{"z":1,"a":"\u003cx\u003e \u0026 y","f":1.5,"n":null,"l":[true]}"#);
    }

    #[test]
    fn rows_have_the_fields_that_were_asked_for() {
        let text = br#"[{"a":{"b":[1,"]"]},"c":1,"d":{"e":null}},{"c":"\u00e9"}]"#;
        let rows = Value::parse_rows(text, &["c", "d", "f"]).unwrap();
        assert_eq!(rows.iter().map(Value::to_json).collect::<Vec<_>>(), [r#"{"c":1,"d":{"e":null}}"#, r#"{"c":"é"}"#]);
        for bad in ["{}", "[1]", "[{\"a\":}]", "[] x", ""] {
            assert!(Value::parse_rows(bad.as_bytes(), &["a"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn compacting_touches_no_string() {
        assert_eq!(compact("{ \"a b\" : \"c \\\" d\" ,\n \"e\": [ 1 ] }"), "{\"a b\":\"c \\\" d\",\"e\":[1]}");
    }

    #[test]
    fn indenting_keeps_empty_containers_on_one_line() {
        assert_eq!(
            indent(r#"{"a":[],"b":{},"c":[1,{"d":"x:,{"}]}"#, 0),
            "{\n    \"a\": [],\n    \"b\": {},\n    \"c\": [\n        1,\n        {\n            \"d\": \"x:,{\"\n        }\n    ]\n}"
        );
    }
}
