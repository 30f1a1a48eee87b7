//! `image bootstrap`: a base image from a distribution's own signed packages.

use super::archive::stream_error;
use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::error::Result;
use crate::progress::Line;
use hyper::Method;
use serde_json::json;

pub(crate) async fn bootstrap(app: &'static App, args: Args) -> Result<u8> {
    let optional = |flag: &str| match args.text(flag) {
        "" => serde_json::Value::Null,
        text => json!(text),
    };
    let mut body = json!({"suite": args.words[0], "packages": args.commas("package"), "bootable": args.on("bootable")});
    for (key, flag) in [("name", "name"), ("mirror", "mirror"), ("variant", "variant")] {
        let value = optional(flag);
        if !value.is_null() {
            body[key] = value;
        }
    }
    let mut answer = app.client.send(Method::POST, "/api/v1/images/bootstrap", &[], Body::json(&body)).await?;
    let quiet = args.on("quiet");
    let mut line = Line::new(!quiet);
    let (mut buffer, mut last) = (Vec::new(), String::new());
    while let Some(message) = answer.json(&mut buffer).await? {
        if let Some(error) = stream_error(&message) {
            drop(line);
            return Err(error);
        }
        let id = [message.at(&["aux", "ID"]).str(), message.text("id"), message.text("image")]
            .into_iter()
            .find(|id| id.starts_with("sha256:"))
            .unwrap_or_default()
            .to_owned();
        let text =
            [message.text("stream"), message.text("status")].into_iter().find(|t| !t.is_empty()).unwrap_or_default();
        let text = text.trim_end();
        if !text.is_empty() && !quiet {
            // On a terminal steps replace one another; a log keeps them all.
            if line.is_shown() {
                line.update(text);
            } else {
                app.line(text)?;
            }
        }
        if !id.is_empty() {
            last = id;
        }
    }
    let shown = line.is_shown();
    drop(line);
    if quiet {
        app.line(&last)?;
    } else if shown {
        let name = if args.text("name").is_empty() { args.words[0].as_str() } else { args.text("name") };
        app.line(&format!("Made image: {name} {last}"))?;
    }
    Ok(0)
}
