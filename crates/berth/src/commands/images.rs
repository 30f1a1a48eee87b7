//! `images`, `tag`, `rmi`.

use super::archive::image_path;
use super::commit::split_reference;
use crate::app::App;
use crate::cli::Args;
use crate::client::with_query;
use crate::error::{CliError, Result};
use crate::opts;
use crate::table::{Listing, short_id};
use crate::units;
use crate::value::Value;

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

pub(crate) async fn images(app: &'static App, args: Args) -> Result<u8> {
    if args.on("tree") {
        return Err(CliError::failed("--tree is not supported: every image here has one platform"));
    }
    let no_trunc = args.on("no-trunc");
    let format = match args.text("format") {
        "" if !args.on("quiet") => app.config.text("imagesFormat"),
        format => format,
    };
    let table = if args.on("digests") {
        "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    } else {
        "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    };
    let listing =
        Listing::new(format, table, args.on("quiet").then_some("{{.ID}}"), HEADERS)?.of("*formatter.imageContext");
    opts::filter_flag(&args)?;
    let mut filters = args.list("filter").into_iter().map(str::to_owned).collect::<Vec<_>>();
    filters.extend(args.words.first().map(|name| format!("reference={name}")));
    let filters = opts::filters(&filters.iter().map(String::as_str).collect::<Vec<_>>()).map_err(CliError::usage)?;
    let all = if args.on("all") { "1" } else { "" };
    let answer = app.client.get_value(&with_query("/images/json", &[("all", all), ("filters", &filters)])).await?;
    let digests = args.on("digests") || (!format.is_empty() && format != "json" && listing.mentions("Digest"));
    let rows: Vec<Value> = answer.list().iter().flat_map(|i| rows(i, no_trunc, digests, args.on("quiet"))).collect();
    app.print(&listing.render(&rows)?)?;
    Ok(0)
}

/// An image has a line for each of its names.
fn rows(image: &Value, no_trunc: bool, digests: bool, quiet: bool) -> Vec<Value> {
    let strings = |key: &str| -> Vec<&str> {
        image.get(key).list().iter().map(Value::str).filter(|s| !s.starts_with("<none>")).collect()
    };
    let (tags, repo_digests) = (strings("RepoTags"), strings("RepoDigests"));
    let mut names: Vec<(&str, &str, &str)> = Vec::new();
    let digest_of = |repository: &str| {
        repo_digests
            .iter()
            .filter_map(|d| d.split_once('@'))
            .find(|(name, _)| *name == repository)
            .map_or("<none>", |(_, d)| d)
    };
    for tag in &tags {
        let (repository, tag) = split_reference(tag);
        names.push((
            repository,
            if tag.is_empty() { "<none>" } else { tag },
            if digests { digest_of(repository) } else { "<none>" },
        ));
    }
    if tags.is_empty() {
        for digest in &repo_digests {
            let (repository, digest) = digest.split_once('@').unwrap_or((digest, "<none>"));
            names.push((repository, "<none>", digest));
        }
    }
    if names.is_empty() {
        names.push(("<none>", "<none>", "<none>"));
    }
    if quiet {
        names.truncate(names.len().max(1));
    }
    let id = if no_trunc { image.text("Id").to_owned() } else { short_id(image.text("Id")) };
    let created = image.get("Created").int();
    let since = if created <= 0 {
        "N/A".to_owned()
    } else {
        format!("{} ago", units::human_duration(units::now_seconds() - created))
    };
    let size = |key: &str| match image.get(key) {
        Value::Int(n) if *n >= 0 => units::human_size3(*n as f64),
        _ => "N/A".to_owned(),
    };
    let containers = match image.get("Containers").int() {
        n if n < 0 || image.get("Containers").is_null() => "N/A".to_owned(),
        n => n.to_string(),
    };
    let unique = match (image.get("Size").int(), image.get("SharedSize").int()) {
        (size, shared) if shared >= 0 && !image.get("SharedSize").is_null() => {
            units::human_size3((size - shared) as f64)
        }
        _ => "N/A".to_owned(),
    };
    names
        .into_iter()
        .map(|(repository, tag, digest)| {
            Value::Map(vec![
                ("ID".into(), id.as_str().into()),
                ("Repository".into(), repository.into()),
                ("Tag".into(), tag.into()),
                ("Digest".into(), digest.into()),
                ("CreatedSince".into(), since.as_str().into()),
                ("CreatedAt".into(), units::local_time(created).into()),
                ("Size".into(), size("Size").into()),
                ("Containers".into(), containers.as_str().into()),
                ("VirtualSize".into(), units::human_size(image.get("Size").float()).into()),
                ("SharedSize".into(), size("SharedSize").into()),
                ("UniqueSize".into(), unique.as_str().into()),
            ])
        })
        .collect()
}

pub(crate) async fn tag(app: &'static App, args: Args) -> Result<u8> {
    let (repository, tag) = split_reference(&args.words[1]);
    if repository.contains(|c: char| c.is_ascii_uppercase()) && !repository.contains('/') {
        return Err(CliError::failed(format!(
            "Error parsing reference: {:?} is not a valid repository/tag: invalid reference format: repository name (library/{repository}) must be lowercase",
            args.words[1]
        )));
    }
    let tag = if tag.is_empty() { "latest" } else { tag };
    app.client.post(&with_query(&image_path(&args.words[0], "/tag"), &[("repo", repository), ("tag", tag)])).await?;
    Ok(0)
}

/// Images here have one platform, so choosing one of several is refused instead of being ignored.
pub(crate) fn one_platform(args: &Args) -> Result<()> {
    match args.text("platform") {
        "" => Ok(()),
        _ => Err(CliError::usage("--platform is not supported by this command: every image here has one platform")),
    }
}

pub(crate) async fn remove(app: &'static App, args: Args) -> Result<u8> {
    one_platform(&args)?;
    let on = |flag: &str| if args.on(flag) { "1" } else { "" };
    let query = [("force", on("force")), ("noprune", on("no-prune"))];
    let force = args.on("force");
    app.each(&args.words, async |name: String| {
        let answer = match app.client.delete(&with_query(&image_path(&name, ""), &query)).await {
            Err(error) if force && error.status() == Some(404) => {
                app.note(&error.to_string());
                return Ok(());
            }
            other => Value::parse(&other?)?,
        };
        for step in answer.list() {
            match step.text("Deleted") {
                "" => app.line(&format!("Untagged: {}", step.text("Untagged")))?,
                id => app.line(&format!("Deleted: {id}"))?,
            }
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_an_image_is_a_line() {
        let image = Value::parse(
            br#"{"Id":"sha256:0123456789abcdef","RepoTags":["a:1","h:5000/a:2"],"RepoDigests":["a@sha256:9"],"Created":1,"Size":1000,"Containers":-1}"#,
        )
        .unwrap();
        let rows = rows(&image, false, true, false);
        let cell = |i: usize, k: &str| rows[i].text(k).to_owned();
        assert_eq!((rows.len(), cell(1, "Repository"), cell(1, "Tag")), (2, "h:5000/a".into(), "2".into()));
        assert_eq!(
            (cell(0, "Digest"), cell(0, "ID"), cell(0, "Containers")),
            ("sha256:9".into(), "0123456789ab".into(), "N/A".into())
        );
    }
}
