//! `why`: the reason instead of the code.

use crate::app::App;
use crate::cli::Args;
use crate::client::encode;
use crate::error::Result;
use crate::template::Template;
use crate::value::Value;

pub(crate) async fn why(app: &'static App, args: Args) -> Result<u8> {
    let id = app.container(&args.words[0]).await?;
    let bytes = app.client.get(&format!("/api/v1/containers/{}/why", encode(&id))).await?;
    let answer = Value::parse(&bytes)?;
    match args.text("format") {
        "" => app.print(&render(&answer))?,
        "json" => app.line(String::from_utf8_lossy(&bytes).trim())?,
        format => app.line(&Template::parse(format)?.execute(&answer)?)?,
    }
    Ok(0)
}

/// The sentence first, then what proves it, then what to do. Field names are read without regard to case.
fn render(answer: &Value) -> String {
    let field =
        |name: &str| answer.map().iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map_or(&Value::Null, |(_, v)| v);
    let first = |names: &[&str]| names.iter().map(|n| field(n)).find(|v| !v.is_null()).cloned().unwrap_or_default();
    let mut out = String::new();
    let sentence = first(&["summary", "reason", "message", "why"]);
    if !sentence.str().is_empty() {
        out.push_str(&format!("{}\n", sentence.str()));
    }
    let mut write = |label: &str, value: &Value| match value {
        Value::Null => {}
        Value::Str(s) if s.is_empty() => {}
        Value::List(items) => {
            for item in items {
                let text = if item.str().is_empty() { item.to_json() } else { item.str().to_owned() };
                out.push_str(&format!("  {label}: {text}\n"));
            }
        }
        Value::Str(s) => out.push_str(&format!("  {label}: {s}\n")),
        Value::Map(fields) => {
            for (key, value) in fields {
                let text = if let Value::Str(s) = value { s.clone() } else { value.to_json() };
                out.push_str(&format!("  {key}: {text}\n"));
            }
        }
        other => out.push_str(&format!("  {label}: {}\n", other.to_json())),
    };
    for (key, value) in answer.map() {
        let known =
            ["summary", "reason", "message", "why", "hint", "hints"].iter().any(|k| key.eq_ignore_ascii_case(k));
        // A second sentence beside the first is detail.
        if !known || (value != &sentence && !key.to_ascii_lowercase().starts_with("hint")) {
            write(key, value);
        }
    }
    for hint in [field("hint"), field("hints")] {
        match hint {
            Value::Str(s) if !s.is_empty() => out.push_str(&format!("hint: {s}\n")),
            Value::List(items) => items.iter().for_each(|h| out.push_str(&format!("hint: {}\n", h.str()))),
            _ => {}
        }
    }
    out
}
