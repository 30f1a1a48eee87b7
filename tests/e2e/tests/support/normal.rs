//! What must differ between two engines made equal, and the rest compared.

use super::exchange::Exchange;
use regex::Regex;
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::OnceLock;

/// Headers that clients read.
const HEADERS: &[&str] = &[
    "content-type",
    "api-version",
    "ostype",
    "docker-experimental",
    "builder-version",
    "cache-control",
    "pragma",
    "allow",
    "location",
];

fn rules() -> &'static Vec<(Regex, &'static str)> {
    static RULES: OnceLock<Vec<(Regex, &'static str)>> = OnceLock::new();
    RULES.get_or_init(|| {
        let rules = [
            (r"sha256:[0-9a-f]{64}", "sha256:<id>"),
            (r"[0-9a-f]{64}", "<id>"),
            (r"\b[0-9a-f]{12}\b", "<short id>"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
            (r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "<mac>"),
            (r"\b172\.\d+\.\d+\.\d+|\b10\.\d+\.\d+\.\d+", "<address>"),
            (r"fd[0-9a-f:]+::[0-9a-f]*", "<address6>"),
            (r"/var/lib/docker|/var/tmp/berth-[^/]+/data", "<root>"),
            // Our addition behind dockerd's words.
            (r"\nhint: .*", ""),
            (r"(About an?|Less than a|\d+) (second|minute)s?", "<age>"),
        ];
        rules.map(|(rule, to)| (Regex::new(rule).expect("a good rule"), to)).into()
    })
}

fn text(text: &str) -> String {
    if text == "0001-01-01T00:00:00Z" {
        return text.to_owned();
    }
    rules().iter().fold(text.to_owned(), |text, (rule, to)| rule.replace_all(&text, *to).into_owned())
}

/// Numbers that measure the host, the moment or the image: only that they are numbers is compared.
const MEASURED: &[&str] = &[
    "Created",
    "Size",
    "SizeRw",
    "SizeRootFs",
    "LayersSize",
    "VirtualSize",
    "SpaceReclaimed",
    "NFd",
    "NGoroutines",
    "NEventsListener",
    "Pid",
    "time",
    "timeNano",
    "total_usage",
    "usage_in_kernelmode",
    "usage_in_usermode",
    "system_cpu_usage",
    "usage",
    "max_usage",
    "rx_bytes",
    "rx_packets",
    "tx_bytes",
    "tx_packets",
    "IPPrefixLen",
    "execDuration",
    "Images",
    // Of the host.
    "MemTotal",
];
/// Lists whose order means nothing.
const UNORDERED: &[(&str, &str)] =
    &[("Mounts", "Destination"), ("Volumes", "Name"), ("InsecureRegistryCIDRs", ""), ("VolumesDeleted", "")];

fn value(key: &str, from: &Value) -> Value {
    match from {
        Value::String(_) if key == "KernelVersion" => Value::String("<KERNEL>".to_owned()),
        Value::String(s) => Value::String(text(s)),
        Value::Number(n) if MEASURED.contains(&key) && !n.is_f64() => json!(1),
        Value::Array(items) if key == "percpu_usage" && !items.is_empty() => json!([1]),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| value("", item)).collect();
            if let Some((_, by)) = UNORDERED.iter().find(|(name, _)| *name == key) {
                items.sort_by_key(|item| if by.is_empty() { item.to_string() } else { format!("{}{item}", item[*by]) });
            }
            // Networks of a list.
            if items.iter().all(|item| item.get("IPAM").is_some()) {
                items.sort_by_key(|item| item["Name"].to_string());
            }
            Value::Array(items)
        }
        Value::Object(fields) if key == "stats" => {
            Value::Object(fields.keys().map(|k| (k.clone(), json!(1))).collect())
        }
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(k, v)| (text(k), value(k, v))).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// An answer as it is recorded.
pub(crate) fn exchange(line: &str, exchange: &Exchange) -> Value {
    let headers: Map<String, Value> = HEADERS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), Value::String(exchange.header(name)?.to_owned()))))
        .collect();
    json!({"request": line, "status": exchange.status, "headers": headers, "body": value("", &exchange.body)})
}

/// One field that is not as it should be.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) path: String,
    pub(crate) theirs: Option<Value>,
    pub(crate) ours: Option<Value>,
    /// Numbers that only measure something are compared by type.
    pub(crate) what: &'static str,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |v: &Option<Value>| v.as_ref().map_or("absent".to_owned(), |v| v.to_string().chars().take(300).collect());
        write!(f, "{} [{}]: dockerd {} | ours {}", self.path, self.what, show(&self.theirs), show(&self.ours))
    }
}

pub(crate) fn differences(theirs: &Value, ours: &Value) -> Vec<Difference> {
    let mut out = Vec::new();
    for part in ["status", "headers", "body"] {
        compare(part, &theirs[part], &ours[part], &mut out);
    }
    out
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn compare(path: &str, theirs: &Value, ours: &Value, out: &mut Vec<Difference>) {
    let mut differ = |path: String, theirs: Option<&Value>, ours: Option<&Value>, what| {
        out.push(Difference { path, theirs: theirs.cloned(), ours: ours.cloned(), what });
    };
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                if !b.contains_key(key) {
                    differ(format!("{path}.{key}"), Some(value), None, "missing");
                }
            }
            for (key, value) in b {
                if !a.contains_key(key) {
                    differ(format!("{path}.{key}"), None, Some(value), "extra");
                }
            }
            let order = |x: &Map<String, Value>, y: &Map<String, Value>| -> Vec<String> {
                x.keys().filter(|k| y.contains_key(*k)).cloned().collect()
            };
            let (left, right) = (order(a, b), order(b, a));
            if left != right {
                differ(path.to_owned(), Some(&json!(left)), Some(&json!(right)), "order");
            }
            for (key, value) in a {
                if let Some(other) = b.get(key) {
                    compare(&format!("{path}.{key}"), value, other, out);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            if a.len() != b.len() {
                differ(path.to_owned(), Some(theirs), Some(ours), "length");
                return;
            }
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), x, y, out);
            }
        }
        _ if kind(theirs) != kind(ours) => differ(path.to_owned(), Some(theirs), Some(ours), "type"),
        _ if theirs != ours => differ(path.to_owned(), Some(theirs), Some(ours), "value"),
        _ => {}
    }
}
