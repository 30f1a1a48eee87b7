//! `volume ls`, `create`, `rm`.

use crate::app::App;
use crate::cli::Args;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use crate::opts;
use crate::table::Listing;
use crate::units;
use crate::value::Value;
use serde_json::json;

const HEADERS: &[(&str, &str)] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Status", "STATUS"),
];

pub(crate) fn row(v: &Value) -> Value {
    let labels: Vec<(String, String)> =
        v.get("Labels").map().iter().map(|(k, v)| (k.clone(), v.str().to_owned())).collect();
    let mut text: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    text.sort();
    let usage = v.get("UsageData");
    let (links, size) = match usage.is_null() {
        true => ("N/A".to_owned(), "N/A".to_owned()),
        false => (usage.get("RefCount").int().to_string(), units::human_size(usage.get("Size").float())),
    };
    Value::Map(vec![
        ("Name".into(), v.text("Name").into()),
        ("Driver".into(), v.text("Driver").into()),
        ("Scope".into(), v.text("Scope").into()),
        ("Mountpoint".into(), v.text("Mountpoint").into()),
        ("Labels".into(), text.join(",").into()),
        ("Label".into(), Value::Lookup(labels)),
        ("Links".into(), links.into()),
        ("Size".into(), size.into()),
        ("Availability".into(), "N/A".into()),
        ("Group".into(), "N/A".into()),
        ("Status".into(), "N/A".into()),
    ])
}

pub(crate) async fn list(app: &'static App, args: Args) -> Result<u8> {
    no_cluster(&args, &["cluster"])?;
    let format = match args.text("format") {
        "" if !args.on("quiet") => app.config.text("volumesFormat"),
        format => format,
    };
    let listing = Listing::new(format, "{{.Driver}}\t{{.Name}}", args.on("quiet").then_some("{{.Name}}"), HEADERS)?
        .of("*formatter.volumeContext");
    let filters = opts::filter_flag(&args)?;
    let answer = app.client.get_value(&with_query("/volumes", &[("filters", &filters)])).await?;
    let mut volumes: Vec<&Value> = answer.get("Volumes").list().iter().collect();
    volumes.sort_by(|a, b| a.text("Name").cmp(b.text("Name")));
    let rows: Vec<Value> = volumes.into_iter().map(row).collect();
    app.print(&listing.render(&rows)?)?;
    Ok(0)
}

/// Cluster volumes belong to a swarm, which an engine of this kind never joins.
fn no_cluster(args: &Args, flags: &[&str]) -> Result<()> {
    match flags.iter().find(|flag| args.changed(flag)) {
        Some(flag) => {
            Err(CliError::failed(format!("--{flag} is for cluster volumes, and this engine has no swarm mode")))
        }
        None => Ok(()),
    }
}

pub(crate) async fn update(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    app.client.get(&format!("/volumes/{}", encode(name))).await?;
    Err(CliError::failed("Can only update cluster volumes"))
}

pub(crate) async fn create(app: &'static App, args: Args) -> Result<u8> {
    no_cluster(
        &args,
        &[
            "availability",
            "group",
            "limit-bytes",
            "required-bytes",
            "scope",
            "secret",
            "sharing",
            "topology-preferred",
            "topology-required",
            "type",
        ],
    )?;
    let pairs = |flag: &str| -> serde_json::Map<String, serde_json::Value> {
        args.list(flag).into_iter().map(opts::key_value).map(|(k, v)| (k, json!(v))).collect()
    };
    let body = json!({
        "Name": args.words.first().map_or("", String::as_str),
        "Driver": if args.changed("driver") { args.text("driver") } else { "local" },
        "DriverOpts": pairs("opt"),
        "Labels": pairs("label"),
    });
    let answer = app.client.post_json("/volumes/create", &body).await?;
    app.line(answer.text("Name"))?;
    Ok(0)
}

pub(crate) async fn remove(app: &'static App, args: Args) -> Result<u8> {
    let force = if args.on("force") { "1" } else { "" };
    app.each(&args.words, async |name: String| {
        app.client.delete(&with_query(&format!("/volumes/{}", encode(&name)), &[("force", force)])).await?;
        app.line(&name)
    })
    .await
}
