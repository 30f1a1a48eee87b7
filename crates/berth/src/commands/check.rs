//! `system check`: images' files compared with their digests.

use super::archive::stream_error;
use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::error::Result;
use hyper::Method;

pub(crate) async fn check(app: &'static App, args: Args) -> Result<u8> {
    let path = if args.on("repair") { "/api/v1/system/check?repair=1" } else { "/api/v1/system/check" };
    // A layer may have to come from a registry that only its users may read.
    let logins = if args.on("repair") { crate::credentials::header_for_all(app) } else { String::new() };
    let mut answer = app.client.send(Method::POST, path, &[("X-Registry-Config", &logins)], Body::empty()).await?;
    let mut buffer = Vec::new();
    while let Some(message) = answer.json(&mut buffer).await? {
        if let Some(error) = stream_error(&message) {
            return Err(error);
        }
        let text = message.text("stream").trim_end();
        if !text.is_empty() {
            app.line(text)?;
        }
    }
    Ok(0)
}
