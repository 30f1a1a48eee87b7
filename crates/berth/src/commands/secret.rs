//! `secret` and `config`: `create`, `ls`, `rm`.

use crate::app::App;
use crate::cli::Args;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use crate::opts;
use crate::table::Listing;
use crate::units;
use crate::value::Value;
use base64::Engine as _;
use serde_json::json;
use std::io::Read;

const HEADERS: &[(&str, &str)] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("CreatedAt", "CREATED"),
    ("UpdatedAt", "UPDATED"),
    ("Labels", "LABELS"),
];
/// More than the engine takes; a file that is larger is not read to its end.
const BYTES_MAX: u64 = 2 << 20;

pub(crate) async fn create_secret(app: &'static App, args: Args) -> Result<u8> {
    create(app, &args, "/secrets").await
}

pub(crate) async fn create_config(app: &'static App, args: Args) -> Result<u8> {
    create(app, &args, "/configs").await
}

pub(crate) async fn list_secrets(app: &'static App, args: Args) -> Result<u8> {
    let table = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}";
    list(app, &args, "/secrets", app.config.text("secretFormat"), table).await
}

pub(crate) async fn list_configs(app: &'static App, args: Args) -> Result<u8> {
    let table = "{{.ID}}\t{{.Name}}\t{{.CreatedAt}}\t{{.UpdatedAt}}";
    list(app, &args, "/configs", app.config.text("configFormat"), table).await
}

pub(crate) async fn remove_secret(app: &'static App, args: Args) -> Result<u8> {
    remove(app, &args, "/secrets").await
}

pub(crate) async fn remove_config(app: &'static App, args: Args) -> Result<u8> {
    remove(app, &args, "/configs").await
}

async fn create(app: &App, args: &Args, path: &str) -> Result<u8> {
    if args.changed("template-driver") {
        return Err(CliError::failed("--template-driver is not supported: there is no swarm to fill in a template"));
    }
    let content = read(args.words.get(1).map_or("-", String::as_str))?;
    let labels = args.list("label").into_iter().map(opts::key_value).map(|(k, v)| (k, json!(v)));
    let body = json!({
        "Name": args.words[0],
        "Labels": labels.collect::<serde_json::Map<_, _>>(),
        "Data": base64::engine::general_purpose::STANDARD.encode(content),
    });
    let answer = app.client.post_json(&format!("{path}/create"), &body).await?;
    app.line(answer.text("ID"))?;
    Ok(0)
}

/// A file's bytes, or those of standard input.
fn read(file: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let outcome = match file {
        "-" => std::io::stdin().take(BYTES_MAX).read_to_end(&mut content),
        path => std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut content)),
    };
    outcome.map_err(|cause| CliError::failed(format!("error reading content from {file:?}: {cause}")))?;
    Ok(content)
}

fn row(secret: &Value) -> Value {
    let spec = secret.get("Spec");
    let labels: Vec<(String, String)> =
        spec.get("Labels").map().iter().map(|(k, v)| (k.clone(), v.str().to_owned())).collect();
    let mut text: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    text.sort();
    let ago = |key: &str| {
        let then = units::parse_time(secret.text(key)).map_or(0, jiff::Timestamp::as_second);
        format!("{} ago", units::human_duration(units::now_seconds() - then))
    };
    Value::Map(vec![
        ("ID".into(), secret.text("ID").into()),
        ("Name".into(), spec.text("Name").into()),
        ("Driver".into(), "".into()),
        ("CreatedAt".into(), ago("CreatedAt").into()),
        ("UpdatedAt".into(), ago("UpdatedAt").into()),
        ("Labels".into(), text.join(",").into()),
        ("Label".into(), Value::Lookup(labels)),
    ])
}

async fn list(app: &App, args: &Args, path: &str, configured: &str, table: &str) -> Result<u8> {
    let format = match args.text("format") {
        "" if !args.on("quiet") => configured,
        format => format,
    };
    let listing = Listing::new(format, table, args.on("quiet").then_some("{{.ID}}"), HEADERS)?;
    let filters = opts::filter_flag(args)?;
    let answer = app.client.get_value(&with_query(path, &[("filters", &filters)])).await?;
    let rows: Vec<Value> = answer.list().iter().map(row).collect();
    app.print(&listing.render(&rows)?)?;
    Ok(0)
}

async fn remove(app: &'static App, args: &Args, path: &'static str) -> Result<u8> {
    app.each(&args.words, async |name: String| {
        app.client.delete(&format!("{path}/{}", encode(&name))).await?;
        app.line(&name)
    })
    .await
}
