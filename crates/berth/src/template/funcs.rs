//! The functions a template may call.

use super::printf;
use crate::value::Value;
use std::cmp::Ordering;

const NAMES: &[&str] = &[
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "slice", "len", "print", "printf", "println",
    "html", "js", "urlquery", "json", "split", "join", "title", "lower", "upper", "pad", "truncate",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Int(n) => *n != 0,
        Value::Float(f) => *f != 0.0,
        Value::Str(s) => !s.is_empty(),
        Value::List(l) => !l.is_empty(),
        Value::Map(m) => !m.is_empty(),
        Value::Lookup(_) => true,
    }
}

pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Str(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) => "map[string]interface {}",
        Value::Lookup(_) => "func",
    }
}

/// Fields that are maps in the API; other objects are structs in Go, and look otherwise.
pub(super) const MAPS: &[&str] = &[
    "Labels",
    "Ports",
    "Networks",
    "Volumes",
    "Options",
    "DriverOpts",
    "Sysctls",
    "Annotations",
    "ExposedPorts",
    "PortBindings",
    "Tmpfs",
    "StorageOpt",
    "Containers",
    "LogConfig.Config",
    "Data",
    "Attributes",
    "Storage",
    "LogOpts",
    "Runtimes",
];

/// Fields that are pointers in Go: null or left out, they print as `<nil>`.
pub(super) const POINTERS: &[&str] = &[
    "Health",
    "Init",
    "Platform",
    "PidsLimit",
    "MemorySwappiness",
    "OomKillDisable",
    "IPAMConfig",
    "Healthcheck",
    "StopTimeout",
    "SizeRw",
    "SizeRootFs",
];

/// A value as `{{.}}` prints it.
pub(super) fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        other => inner(other),
    }
}

/// A value as `{{.Name}}` prints it, which depends on its type in Go.
pub(super) fn print_field(name: &str, value: &Value) -> String {
    let map = MAPS.contains(&name);
    match value {
        Value::Null if POINTERS.contains(&name) => "<nil>".to_owned(),
        Value::Null if map => "map[]".to_owned(),
        Value::Null => "[]".to_owned(),
        Value::Map(fields) if map => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            format!("map[{}]", sorted.iter().map(|(k, v)| format!("{k}:{}", inner(v))).collect::<Vec<_>>().join(" "))
        }
        other => inner(other),
    }
}

/// As part of something larger: objects are structs, whose fields Go prints without their names.
pub(super) fn inner(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(f) => crate::units::go_float(*f),
        Value::Str(s) => s.clone(),
        Value::List(items) => format!("[{}]", items.iter().map(inner).collect::<Vec<_>>().join(" ")),
        Value::Map(fields) => {
            format!("{{{}}}", fields.iter().map(|(k, v)| print_field(k, v)).collect::<Vec<_>>().join(" "))
        }
        Value::Lookup(_) => String::new(),
    }
}

pub(super) fn call(name: &str, mut args: Vec<Value>, header: bool) -> Result<Value, String> {
    if header && matches!(name, "json" | "join" | "split" | "title" | "lower" | "upper" | "pad" | "truncate") {
        return Ok(args.into_iter().find(|a| matches!(a, Value::Str(_))).unwrap_or(Value::Null));
    }
    let count = args.len();
    let want = |n: usize| match count == n {
        true => Ok(()),
        false => Err(format!("wrong number of args for {name}: want {n} got {count}")),
    };
    match name {
        "not" => {
            want(1)?;
            Ok(Value::Bool(!truth(&args[0])))
        }
        "eq" => {
            if count < 2 {
                return Err("missing argument for comparison".into());
            }
            for other in &args[1..] {
                if equal(&args[0], other)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "ne" => {
            want(2)?;
            Ok(Value::Bool(!equal(&args[0], &args[1])?))
        }
        "lt" | "le" | "gt" | "ge" => {
            want(2)?;
            let order = compare(&args[0], &args[1])?;
            Ok(Value::Bool(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        "len" => {
            want(1)?;
            match &args[0] {
                Value::Str(s) => Ok(Value::Int(s.len() as i64)),
                Value::List(l) => Ok(Value::Int(l.len() as i64)),
                Value::Map(m) => Ok(Value::Int(m.len() as i64)),
                Value::Null => Ok(Value::Int(0)),
                other => Err(format!("len of type {}", type_name(other))),
            }
        }
        "index" => {
            if args.is_empty() {
                return Err("wrong number of args for index: want at least 1 got 0".into());
            }
            let item = args.remove(0);
            args.iter().try_fold(item, index)
        }
        "slice" => slice(&args),
        "print" => Ok(Value::Str(spaced(&args, false))),
        "println" => Ok(Value::Str(spaced(&args, true) + "\n")),
        "printf" => match args.split_first() {
            Some((Value::Str(format), rest)) => Ok(Value::Str(printf::sprintf(format, rest))),
            _ => Err("wrong type for value; expected string".into()),
        },
        "html" => Ok(Value::Str(escape_html(&spaced(&args, false)))),
        "js" => Ok(Value::Str(spaced(&args, false).replace('\\', "\\\\").replace('\'', "\\'").replace('"', "\\\""))),
        "urlquery" => Ok(Value::Str(crate::client::encode(&spaced(&args, false)).replace("%20", "+"))),
        "json" => {
            want(1)?;
            // A row of a list is an object of methods in Go, whose JSON is made elsewhere and escaped.
            let is_row = args[0].map().iter().any(|(_, v)| matches!(v, Value::Lookup(_)));
            Ok(Value::Str(if is_row { crate::table::sorted_json(&args[0]) } else { args[0].to_plain_json() }))
        }
        "lower" | "upper" | "title" => {
            want(1)?;
            let s = string(name, &args[0])?;
            Ok(Value::Str(match name {
                "lower" => s.to_lowercase(),
                "upper" => s.to_uppercase(),
                _ => title(&s),
            }))
        }
        "split" => {
            want(2)?;
            let (s, sep) = (string(name, &args[0])?, string(name, &args[1])?);
            let parts: Vec<Value> = if sep.is_empty() {
                s.chars().map(|c| Value::Str(c.to_string())).collect()
            } else {
                s.split(sep.as_str()).map(Value::from).collect()
            };
            Ok(Value::List(parts))
        }
        "join" => {
            want(2)?;
            let sep = string(name, &args[1])?;
            match &args[0] {
                Value::List(items) => Ok(Value::Str(items.iter().map(inner).collect::<Vec<_>>().join(&sep))),
                Value::Null => Ok(Value::Str(String::new())),
                other => Err(format!("wrong type for value; expected []string; got {}", type_name(other))),
            }
        }
        "pad" => {
            want(3)?;
            let (s, before, after) = (string(name, &args[0])?, number(&args[1])?, number(&args[2])?);
            let spaces = |n: i64| " ".repeat(n.clamp(0, 4096) as usize);
            Ok(Value::Str(if s.is_empty() { s } else { spaces(before) + &s + &spaces(after) }))
        }
        "truncate" => {
            want(2)?;
            let (s, max) = (string(name, &args[0])?, number(&args[1])?.max(0) as usize);
            let cut = s.char_indices().map(|(i, _)| i).take_while(|i| *i <= max).last().unwrap_or(0);
            Ok(Value::Str(if s.len() <= max { s } else { s[..cut.min(max)].to_owned() }))
        }
        _ => Err(format!("function {name:?} not defined")),
    }
}

fn string(function: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::Str(s) => Ok(s.clone()),
        Value::Null => Ok(String::new()),
        other => Err(format!("wrong type for value of {function}; expected string; got {}", type_name(other))),
    }
}

fn number(value: &Value) -> Result<i64, String> {
    match value {
        Value::Int(n) => Ok(*n),
        other => Err(format!("wrong type for value; expected int; got {}", type_name(other))),
    }
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => Ok(a.float() == b.float()),
        (Value::Null, Value::Null) => Ok(true),
        (Value::Null, Value::Str(s)) | (Value::Str(s), Value::Null) => Ok(s.is_empty()),
        (Value::Null, _) | (_, Value::Null) => Ok(false),
        (Value::Str(a), Value::Str(b)) => Ok(a == b),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::List(_) | Value::Map(_), _) | (_, Value::List(_) | Value::Map(_)) => Err("non-comparable type".into()),
        _ => Err("incompatible types for comparison".into()),
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            a.float().partial_cmp(&b.float()).ok_or_else(|| "not a number".into())
        }
        (Value::Str(a), Value::Str(b)) => Ok(a.cmp(b)),
        _ => Err("incompatible types for comparison".into()),
    }
}

fn index(item: Value, key: &Value) -> Result<Value, String> {
    match (item, key) {
        (Value::Map(fields), Value::Str(key)) => {
            // Go gives the zero value of the map's type, which in this API nearly always is a string.
            Ok(fields.into_iter().find(|(k, _)| k == key).map_or(Value::Str(String::new()), |(_, v)| v))
        }
        (Value::List(mut items), Value::Int(n)) => match usize::try_from(*n) {
            Ok(i) if i < items.len() => Ok(items.swap_remove(i)),
            _ => Err(format!("reflect: slice index out of range: {n}")),
        },
        (Value::Str(s), Value::Int(n)) => match usize::try_from(*n).ok().and_then(|i| s.as_bytes().get(i)) {
            Some(byte) => Ok(Value::Int(i64::from(*byte))),
            None => Err(format!("index out of range: {n}")),
        },
        (Value::Null, Value::Str(_)) => Ok(Value::Null),
        (Value::Null, _) => Err("index of untyped nil".into()),
        (Value::Map(_), _) => Err("value has type int; should be string".into()),
        (Value::List(_), _) => Err("cannot index slice/array with type string".into()),
        (other, _) => Err(format!("can't index item of type {}", type_name(&other))),
    }
}

fn slice(args: &[Value]) -> Result<Value, String> {
    let Some((item, bounds)) = args.split_first() else {
        return Err("wrong number of args for slice: want at least 1 got 0".into());
    };
    let len = match item {
        Value::Str(s) => s.len(),
        Value::List(l) => l.len(),
        other => return Err(format!("can't slice item of type {}", type_name(other))),
    };
    let bound = |i: usize, default: usize| match bounds.get(i) {
        None => Ok(default),
        Some(v) => {
            usize::try_from(number(v)?).ok().filter(|n| *n <= len).ok_or(format!("index out of range: {}", v.int()))
        }
    };
    let (from, to) = (bound(0, 0)?, bound(1, len)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match item {
        Value::Str(s) => s.get(from..to).map(Value::from).ok_or_else(|| "slice cuts a character".into()),
        _ => Ok(Value::List(item.list()[from..to].to_vec())),
    }
}

/// Go's `Sprint` puts spaces only between operands when neither is a string; `Sprintln` always.
fn spaced(args: &[Value], always: bool) -> String {
    let mut out = String::new();
    for (i, arg) in args.iter().enumerate() {
        let between = i > 0 && (always || !(matches!(args[i - 1], Value::Str(_)) || matches!(arg, Value::Str(_))));
        if between {
            out.push(' ');
        }
        out.push_str(&inner(arg));
    }
    out
}

fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut start = true;
    for c in s.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = !(c.is_alphanumeric() || c == '_' || c == '\'');
    }
    out
}

fn escape_html(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}
