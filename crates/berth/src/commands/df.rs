//! `system df`.

use super::volume;
use crate::app::App;
use crate::cli::Args;
use crate::error::Result;
use crate::table::{Listing, align_with, short_id};
use crate::units::{self, human_size, human_size3};
use crate::value::Value;

const HEADERS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

pub(crate) async fn df(app: &'static App, args: Args) -> Result<u8> {
    let usage = app.client.get_value("/system/df").await?;
    if args.on("verbose") {
        app.print(&verbose(&usage))?;
        return Ok(0);
    }
    let table = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let listing = Listing::new(args.text("format"), table, None, HEADERS)?;
    app.print(&listing.render(&rows(&usage))?)?;
    Ok(0)
}

fn row(kind: &str, total: usize, active: usize, size: f64, reclaimable: f64, percent: bool) -> Value {
    let mut text = human_size(reclaimable);
    if percent && size > 0.0 {
        text.push_str(&format!(" ({}%)", (reclaimable * 100.0 / size) as i64));
    }
    Value::Map(vec![
        ("Type".into(), kind.into()),
        ("TotalCount".into(), total.to_string().into()),
        ("Active".into(), active.to_string().into()),
        ("Size".into(), human_size(size).into()),
        ("Reclaimable".into(), text.into()),
    ])
}

fn rows(usage: &Value) -> Vec<Value> {
    let (images, containers, volumes, cache) = (
        usage.get("Images").list(),
        usage.get("Containers").list(),
        usage.get("Volumes").list(),
        usage.get("BuildCache").list(),
    );
    let used: Vec<&Value> = images.iter().filter(|i| i.get("Containers").int() > 0).collect();
    let layers = usage.get("LayersSize").float();
    let in_use: f64 = used
        .iter()
        .filter(|i| i.get("Size").int() >= 0)
        .map(|i| i.get("Size").float() - i.get("SharedSize").float().max(0.0))
        .sum();
    let is_active = |c: &&Value| matches!(c.text("State"), "running" | "paused" | "restarting");
    let size_of = |c: &Value| c.get("SizeRw").float();
    let written: f64 = containers.iter().map(size_of).sum();
    let stopped: f64 = containers.iter().filter(|c| !is_active(c)).map(size_of).sum();
    let known = |v: &Value| v.at(&["UsageData", "Size"]).float().max(0.0);
    let references = |v: &Value| v.at(&["UsageData", "RefCount"]).int();
    let volume_size: f64 = volumes.iter().map(known).sum();
    let free: f64 = volumes.iter().filter(|v| references(v) == 0).map(known).sum();
    let cache_size: f64 = cache.iter().filter(|c| !c.get("Shared").bool()).map(|c| c.get("Size").float()).sum();
    let cache_free: f64 =
        cache.iter().filter(|c| !c.get("InUse").bool() && !c.get("Shared").bool()).map(|c| c.get("Size").float()).sum();
    vec![
        row("Images", images.len(), used.len(), layers, (layers - in_use).max(0.0), true),
        row("Containers", containers.len(), containers.iter().filter(is_active).count(), written, stopped, true),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(|v| references(v) > 0).count(),
            volume_size,
            free,
            true,
        ),
        row(
            "Build Cache",
            cache.len(),
            cache.iter().filter(|c| c.get("InUse").bool()).count(),
            cache_size,
            cache_free,
            false,
        ),
    ]
}

fn verbose(usage: &Value) -> String {
    let now = units::now_seconds();
    let age = |v: &Value| format!("{} ago", units::human_duration(now - v.get("Created").int()));
    let mut out = String::from("Images space usage:\n\n");
    let mut text = String::from("REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS\n");
    for i in usage.get("Images").list() {
        let tag = i.get("RepoTags").list().first().map_or("<none>:<none>", Value::str);
        let (repository, tag) = super::commit::split_reference(tag);
        let (size, shared) = (i.get("Size").float(), i.get("SharedSize").float().max(0.0));
        text.push_str(&format!(
            "{repository}\t{tag}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            short_id(i.text("Id")),
            age(i),
            human_size3(size),
            human_size(shared),
            human_size(size - shared),
            i.get("Containers").int().max(0)
        ));
    }
    out.push_str(&align_with(&text, 10, 3));
    out.push_str("\nContainers space usage:\n\n");
    let mut text = String::from("CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES\n");
    for c in usage.get("Containers").list() {
        let name = c.get("Names").list().first().map_or("", Value::str).trim_start_matches('/');
        let local = c.get("Mounts").list().iter().filter(|m| m.text("Driver") == "local").count();
        text.push_str(&format!(
            "{}\t{}\t\"{}\"\t{local}\t{}\t{}\t{}\t{name}\n",
            short_id(c.text("Id")),
            if c.text("Image").starts_with("sha256:") { short_id(c.text("Image")) } else { c.text("Image").to_owned() },
            crate::table::ellipsis(c.text("Command"), 20),
            human_size3(c.get("SizeRw").float()),
            age(c),
            c.text("Status")
        ));
    }
    out.push_str(&align_with(&text, 10, 3));
    out.push_str("\nLocal Volumes space usage:\n\n");
    let mut text = String::from("VOLUME NAME\tLINKS\tSIZE\n");
    for v in usage.get("Volumes").list() {
        let row = volume::row(v);
        text.push_str(&format!("{}\t{}\t{}\n", row.text("Name"), row.text("Links"), row.text("Size")));
    }
    out.push_str(&align_with(&text, 10, 3));
    let cache: f64 = usage.get("BuildCache").list().iter().map(|c| c.get("Size").float()).sum();
    out.push_str(&format!("\nBuild cache usage: {}\n\n", human_size(cache)));
    let mut text = String::from("CACHE ID\tCACHE TYPE\tSIZE\tCREATED\tLAST USED\tUSAGE\tSHARED\n");
    for c in usage.get("BuildCache").list() {
        let ago = |field: &str| {
            let seconds = units::parse_time(c.text(field)).map_or(now, jiff::Timestamp::as_second);
            format!("{} ago", units::human_duration(now - seconds))
        };
        text.push_str(&format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            short_id(c.text("ID")),
            c.text("Type"),
            human_size(c.get("Size").float()),
            ago("CreatedAt"),
            ago("LastUsedAt"),
            c.get("UsageCount").int(),
            c.get("Shared").bool()
        ));
    }
    out.push_str(&align_with(&text, 10, 3));
    out
}
