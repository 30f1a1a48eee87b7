//! `prune` of each kind, and of everything.

use crate::app::App;
use crate::cli::Args;
use crate::client::with_query;
use crate::error::{CliError, Result};
use crate::opts;
use crate::units::human_size;
use crate::value::Value;
use std::io::Write;

/// Asks on the terminal; without one the answer is no, as Docker's client takes it.
pub(super) fn confirmed(args: &Args, warning: &str) -> Result<bool> {
    opts::filter_flag(args)?;
    if args.on("force") {
        return Ok(true);
    }
    let mut out = std::io::stdout();
    write!(out, "{warning}\nAre you sure you want to continue? [y/N] ")
        .and_then(|()| out.flush())
        .map_err(|e| CliError::io("cannot ask", e))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| CliError::io("cannot read the answer", e))?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

async fn prune(app: &App, path: &str, filters: &[&str]) -> Result<Value> {
    let filters = opts::filters(filters).map_err(CliError::usage)?;
    Ok(Value::parse(&app.client.post(&with_query(path, &[("filters", &filters)])).await?)?)
}

fn names(title: &str, list: &[Value]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let lines: Vec<&str> = list.iter().map(Value::str).collect();
    format!("{title}:\n{}\n\n", lines.join("\n"))
}

fn images_text(answer: &Value) -> String {
    let steps = answer.get("ImagesDeleted").list();
    if steps.is_empty() {
        return String::new();
    }
    let line = |s: &Value| match s.text("Untagged") {
        "" => format!("deleted: {}\n", s.text("Deleted")),
        name => format!("untagged: {name}\n"),
    };
    format!("Deleted Images:\n{}\n", steps.iter().map(line).collect::<String>())
}

fn total(app: &App, text: &str, bytes: f64) -> Result<u8> {
    app.print(&format!("{text}Total reclaimed space: {}\n", human_size(bytes)))?;
    Ok(0)
}

pub(crate) async fn containers(app: &'static App, args: Args) -> Result<u8> {
    if !confirmed(&args, "WARNING! This will remove all stopped containers.")? {
        return Err(CliError::failed("container prune has been cancelled"));
    }
    let answer = prune(app, "/containers/prune", &args.list("filter")).await?;
    total(
        app,
        &names("Deleted Containers", answer.get("ContainersDeleted").list()),
        answer.get("SpaceReclaimed").float(),
    )
}

pub(crate) async fn images(app: &'static App, args: Args) -> Result<u8> {
    let all = args.on("all");
    let warning = match all {
        true => "WARNING! This will remove all images without at least one container associated to them.",
        false => "WARNING! This will remove all dangling images.",
    };
    if !confirmed(&args, warning)? {
        return Err(CliError::failed("image prune has been cancelled"));
    }
    let mut filters = args.list("filter");
    filters.push(if all { "dangling=false" } else { "dangling=true" });
    let answer = prune(app, "/images/prune", &filters).await?;
    total(app, &images_text(&answer), answer.get("SpaceReclaimed").float())
}

pub(crate) async fn volumes(app: &'static App, args: Args) -> Result<u8> {
    let all = args.on("all");
    let warning = match all {
        true => "WARNING! This will remove all local volumes not used by at least one container.",
        false => "WARNING! This will remove anonymous local volumes not used by at least one container.",
    };
    if !confirmed(&args, warning)? {
        return Err(CliError::failed("volume prune has been cancelled"));
    }
    let mut filters = args.list("filter");
    if all {
        filters.push("all=true");
    }
    let answer = prune(app, "/volumes/prune", &filters).await?;
    total(app, &names("Deleted Volumes", answer.get("VolumesDeleted").list()), answer.get("SpaceReclaimed").float())
}

pub(crate) async fn networks(app: &'static App, args: Args) -> Result<u8> {
    if !confirmed(&args, "WARNING! This will remove all custom networks not used by at least one container.")? {
        return Err(CliError::failed("network prune has been cancelled"));
    }
    let answer = prune(app, "/networks/prune", &args.list("filter")).await?;
    app.print(names("Deleted Networks", answer.get("NetworksDeleted").list()).trim_end_matches('\n'))?;
    if !answer.get("NetworksDeleted").list().is_empty() {
        app.print("\n")?;
    }
    Ok(0)
}

pub(crate) async fn system(app: &'static App, args: Args) -> Result<u8> {
    let (all, with_volumes) = (args.on("all"), args.on("volumes"));
    let mut what = vec!["all stopped containers", "all networks not used by at least one container"];
    if with_volumes {
        what.push("all anonymous volumes not used by at least one container");
    }
    what.push(if all { "all images without at least one container associated to them" } else { "all dangling images" });
    let warning =
        format!("WARNING! This will remove:\n{}\n", what.iter().map(|w| format!("  - {w}\n")).collect::<String>());
    if !confirmed(&args, &warning)? {
        return Err(CliError::failed("system prune has been cancelled"));
    }
    let filters = args.list("filter");
    let (mut text, mut bytes) = (String::new(), 0.0);
    let answer = prune(app, "/containers/prune", &filters).await?;
    text += &names("Deleted Containers", answer.get("ContainersDeleted").list());
    bytes += answer.get("SpaceReclaimed").float();
    let answer = prune(app, "/networks/prune", &filters).await?;
    text += &names("Deleted Networks", answer.get("NetworksDeleted").list());
    if with_volumes {
        // Volumes know no "until".
        let filters: Vec<&str> = filters.iter().copied().filter(|f| !f.starts_with("until=")).collect();
        let answer = prune(app, "/volumes/prune", &filters).await?;
        text += &names("Deleted Volumes", answer.get("VolumesDeleted").list());
        bytes += answer.get("SpaceReclaimed").float();
    }
    let mut image_filters = filters.clone();
    image_filters.push(if all { "dangling=false" } else { "dangling=true" });
    let answer = prune(app, "/images/prune", &image_filters).await?;
    text += &images_text(&answer);
    bytes += answer.get("SpaceReclaimed").float();
    total(app, &text, bytes)
}
