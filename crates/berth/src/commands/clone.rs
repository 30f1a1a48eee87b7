//! `template` and `clone`: containers that begin with another one's files.

use crate::app::App;
use crate::cli::Args;
use crate::client::encode;
use crate::error::Result;
use crate::value::Value;
use serde_json::json;

fn path_of(container: &str) -> String {
    format!("/api/v1/containers/{}", encode(container))
}

pub(crate) async fn template(app: &'static App, args: Args) -> Result<u8> {
    app.each(&args.words, async |name: String| {
        let id = app.container(&name).await?;
        app.client.post(&format!("{}/template", path_of(&id))).await?;
        app.line(&name)
    })
    .await
}

pub(crate) async fn clone(app: &'static App, args: Args) -> Result<u8> {
    let id = app.container(&args.words[0]).await?;
    // Without a name it gets one of its own.
    let given = &args.words[1..];
    let names = if given.is_empty() { vec![String::new()] } else { given.to_vec() };
    let body = json!({"names": names, "start": args.on("start")});
    let made = app.client.post_json(&format!("{}/clone", path_of(&id)), &body).await?;
    for warning in made.get("Warnings").list() {
        app.note(&format!("WARNING: {}", warning.str()));
    }
    let ids = made.get("Ids").list().iter().map(Value::str);
    for (name, id) in names.iter().zip(ids) {
        app.line(if name.is_empty() { id } else { name })?;
    }
    let failed = made.get("Failed").list();
    for why in failed {
        app.note(&format!("Error: {}", why.str()));
    }
    Ok(u8::from(!failed.is_empty()))
}
