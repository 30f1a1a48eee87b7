//! `top`.

use crate::app::App;
use crate::cli::Args;
use crate::client::{encode, with_query};
use crate::error::Result;
use crate::table;
use crate::value::Value;

pub(crate) async fn top(app: &'static App, args: Args) -> Result<u8> {
    let id = app.container(&args.words[0]).await?;
    let options = args.words[1..].join(" ");
    let answer = app
        .client
        .get_value(&with_query(&format!("/containers/{}/top", encode(&id)), &[("ps_args", &options)]))
        .await?;
    let line = |cells: &[Value]| cells.iter().map(Value::str).collect::<Vec<_>>().join("\t") + "\n";
    let mut text = line(answer.get("Titles").list());
    for process in answer.get("Processes").list() {
        text.push_str(&line(process.list()));
    }
    // Docker pads this table's columns to 20.
    app.print(&table::align_with(&text, 20, 3))?;
    Ok(0)
}
