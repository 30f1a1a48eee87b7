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

/// The sentence, the facts that support it, what to do.
fn render(answer: &Value) -> String {
    let mut out = format!("{}: {}\n", answer.text("name").trim_start_matches('/'), answer.text("summary"));
    for detail in answer.get("details").list() {
        out.push_str(&format!("  {}\n", detail.str()));
    }
    if !answer.text("hint").is_empty() {
        out.push_str(&format!("hint: {}\n", answer.text("hint")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_comes_first_and_the_way_out_last() {
        let answer = br#"{"name":"web","id":"a","summary":"killed by the kernel: out of memory","details":["limit 64MiB","peak 64MiB"],"hint":"berth update --memory 128m web"}"#;
        assert_eq!(
            render(&Value::parse(answer).unwrap()),
            "web: killed by the kernel: out of memory\n  limit 64MiB\n  peak 64MiB\nhint: berth update --memory 128m web\n"
        );
    }
}
