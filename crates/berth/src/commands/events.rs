//! `events`.

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::with_query;
use crate::error::{CliError, Result};
use crate::opts;
use crate::template::Template;
use crate::units::timestamp_argument;
use crate::value::Value;
use hyper::Method;

pub(crate) async fn events(app: &'static App, args: Args) -> Result<u8> {
    let time = |name: &str| timestamp_argument(args.text(name)).map_err(CliError::failed);
    let filters = opts::filter_flag(&args)?;
    let format = args.text("format");
    let template = match format {
        "" | "json" => None,
        format => Some(Template::parse(format)?),
    };
    let (since, until) = (time("since")?, time("until")?);
    let path = with_query("/events", &[("since", &since), ("until", &until), ("filters", &filters)]);
    let mut answer = app.client.send(Method::GET, &path, &[], Body::empty()).await?;
    let mut buffer = Vec::new();
    while let Some(event) = answer.json(&mut buffer).await? {
        match (&template, format) {
            (Some(template), _) => app.line(&template.execute(&with_go_names(event))?)?,
            (None, "json") => app.line(&event.to_json())?,
            (None, _) => app.line(&sentence(&event))?,
        }
    }
    Ok(0)
}

/// Go's fields have other names than the JSON: `.TimeNano` is `timeNano`, which case hides; `.ID`,
/// `.Status` and `.From` may be left out of it.
fn with_go_names(mut event: Value) -> Value {
    let action = event.text("Action").to_owned();
    let id = event.at(&["Actor", "ID"]).str().to_owned();
    if let Value::Map(fields) = &mut event {
        for (key, value) in [("id", id), ("status", action), ("from", String::new())] {
            if !fields.iter().any(|(k, _)| k == key) {
                fields.push((key.to_owned(), value.into()));
            }
        }
    }
    event
}

fn sentence(e: &Value) -> String {
    let nanos = match e.get("timeNano").int() {
        0 => e.get("time").int().saturating_mul(1_000_000_000),
        nanos => nanos,
    };
    let at = jiff::Timestamp::from_nanosecond(i128::from(nanos))
        .map(|t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string())
        .unwrap_or_default();
    let at = at.strip_suffix("+00:00").map(|t| format!("{t}Z")).unwrap_or(at);
    let mut attributes: Vec<String> =
        e.at(&["Actor", "Attributes"]).map().iter().map(|(k, v)| format!("{k}={}", v.str())).collect();
    attributes.sort();
    let mut out = format!("{at} {} {} {}", e.text("Type"), e.text("Action"), e.at(&["Actor", "ID"]).str());
    if !attributes.is_empty() {
        out.push_str(&format!(" ({})", attributes.join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_as_dockers() {
        let e = Value::parse(
            br#"{"Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":{"name":"web","exitCode":"0"}},"timeNano":1700000000000000005}"#,
        )
        .unwrap();
        let text = sentence(&e);
        assert!(text.ends_with("container die abc (exitCode=0, name=web)"), "{text}");
    }
}
