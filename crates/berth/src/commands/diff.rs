//! `diff`.

use crate::app::App;
use crate::cli::Args;
use crate::client::encode;
use crate::error::Result;

pub(crate) async fn diff(app: &'static App, args: Args) -> Result<u8> {
    let id = app.container(&args.words[0]).await?;
    let changes = app.client.get_value(&format!("/containers/{}/changes", encode(&id))).await?;
    let mut text = String::new();
    for change in changes.list() {
        let kind = match change.get("Kind").int() {
            0 => 'C',
            1 => 'A',
            _ => 'D',
        };
        text.push_str(&format!("{kind} {}\n", change.text("Path")));
    }
    app.print(&text)?;
    Ok(0)
}
