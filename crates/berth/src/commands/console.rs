//! `console token`: a way into the web console for whoever is root on the host.

use crate::app::App;
use crate::cli::Args;
use crate::error::{CliError, Result};
use crate::value::Value;

pub(crate) async fn token(app: &'static App, _: Args) -> Result<u8> {
    let bytes = app.client.post("/api/v1/console/token").await.map_err(|error| match error.to_string() {
        text if text.contains("page not found") => CliError::failed("this engine serves no console")
            .with_hint("start it with: berthd --console 127.0.0.1:9443"),
        _ => error,
    })?;
    app.line(Value::parse(&bytes)?.text("token"))?;
    Ok(0)
}
