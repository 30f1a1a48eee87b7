//! `stats`.
//!
//! One stream per container, one redraw every half second. The figures are Docker's: CPU is the share of
//! the host's time times its CPUs, memory leaves out the page cache that the kernel would give back.

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::encode;
use crate::error::{CliError, Result};
use crate::table::{Listing, short_id};
use crate::units::{bytes_size, human_size3};
use crate::value::Value;
use hyper::Method;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const HEADERS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const TABLE: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
const REDRAW: Duration = Duration::from_millis(500);

pub(crate) async fn stats(app: &'static App, args: Args) -> Result<u8> {
    let format = match args.text("format") {
        "" => app.config.text("statsFormat"),
        format => format,
    };
    let listing =
        Listing::new(format, TABLE, None, HEADERS)?.of("*container.statsContext").failing("template parsing error: ");
    let no_trunc = args.on("no-trunc");
    let path = if args.on("all") { "/containers/json?all=1" } else { "/containers/json" };
    let list = args.words.is_empty().then_some(path);
    let names = if args.words.is_empty() {
        let all = app.client.get_value(path).await?;
        all.list().iter().map(|c| short_id(c.text("Id"))).collect()
    } else {
        let mut names = Vec::new();
        for name in &args.words {
            names.push(app.container(name).await?);
        }
        names
    };
    if args.on("no-stream") {
        // Asked side by side: each answer takes the second between two readings.
        let tasks: Vec<_> =
            names.iter().cloned().map(|name| tokio::task::spawn_local(async move { once(app, &name).await })).collect();
        let mut rows = Vec::new();
        for (task, name) in tasks.into_iter().zip(&names) {
            let answer = task.await.map_err(|_| CliError::failed("a reading was cancelled"))??;
            rows.push(row(&answer, name, no_trunc));
        }
        app.print(&listing.render(&rows)?)?;
        return Ok(0);
    }
    follow(app, &listing, names, no_trunc, list).await
}

async fn once(app: &App, name: &str) -> Result<Value> {
    app.client.get_value(&format!("/containers/{}/stats?stream=false", encode(name))).await
}

/// A container that is followed: its newest reading, and its end.
struct Followed {
    name: String,
    row: Rc<RefCell<Option<Value>>>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Followed {
    fn start(app: &'static App, name: String, no_trunc: bool) -> Followed {
        let row_now = Rc::new(RefCell::new(None));
        let (slot, container) = (Rc::clone(&row_now), name.clone());
        let task = tokio::task::spawn_local(async move {
            let path = format!("/containers/{}/stats?stream=true", encode(&container));
            let mut answer = app.client.send(Method::GET, &path, &[], Body::empty()).await?;
            let mut buffer = Vec::new();
            while let Some(value) = answer.json(&mut buffer).await? {
                *slot.borrow_mut() = Some(row(&value, &container, no_trunc));
            }
            *slot.borrow_mut() = None;
            Ok(())
        });
        Followed { name, row: row_now, task }
    }
}

/// `list`: the path that lists whom to follow, asked again so that new containers appear; none when they
/// were named, and then the command ends with the last of them.
async fn follow(
    app: &'static App,
    listing: &Listing,
    names: Vec<String>,
    no_trunc: bool,
    list: Option<&str>,
) -> Result<u8> {
    let mut followed: Vec<Followed> = names.into_iter().map(|n| Followed::start(app, n, no_trunc)).collect();
    let clear = if crate::tty::stdout_is_terminal() { "\x1b[H\x1b[J" } else { "" };
    loop {
        tokio::time::sleep(REDRAW).await;
        match list {
            Some(path) => {
                let now = app.client.get_value(path).await?;
                let ids: Vec<String> = now.list().iter().map(|c| short_id(c.text("Id"))).collect();
                followed.retain(|f| ids.contains(&f.name));
                for id in ids {
                    if !followed.iter().any(|f| f.name == id && !f.task.is_finished()) {
                        followed.retain(|f| f.name != id);
                        followed.push(Followed::start(app, id, no_trunc));
                    }
                }
            }
            None if followed.iter().all(|f| f.task.is_finished()) => {
                for f in followed {
                    f.task.await.map_err(|_| CliError::failed("a reading was cancelled"))??;
                }
                return Ok(0);
            }
            None => {}
        }
        let rows: Vec<Value> = followed.iter().filter_map(|f| f.row.borrow().clone()).collect();
        app.print(&format!("{clear}{}", listing.render(&rows)?))?;
    }
}

fn row(s: &Value, name: &str, no_trunc: bool) -> Value {
    let memory = s.get("memory_stats");
    let limit = memory.get("limit").float();
    let used = used_memory(memory);
    let percent = if limit > 0.0 { used / limit * 100.0 } else { 0.0 };
    let (mut received, mut sent) = (0.0, 0.0);
    for (_, network) in s.get("networks").map() {
        received += network.get("rx_bytes").float();
        sent += network.get("tx_bytes").float();
    }
    let (mut read, mut written) = (0.0, 0.0);
    for entry in s.at(&["blkio_stats", "io_service_bytes_recursive"]).list() {
        match entry.text("op").as_bytes().first() {
            Some(b'r' | b'R') => read += entry.get("value").float(),
            Some(b'w' | b'W') => written += entry.get("value").float(),
            _ => {}
        }
    }
    let id = if no_trunc { s.text("id").to_owned() } else { short_id(s.text("id")) };
    Value::Map(vec![
        ("Container".into(), name.into()),
        ("ID".into(), id.into()),
        ("Name".into(), s.text("name").trim_start_matches('/').into()),
        ("CPUPerc".into(), format!("{:.2}%", cpu_percent(s)).into()),
        ("MemUsage".into(), format!("{} / {}", bytes_size(used), bytes_size(limit)).into()),
        ("MemPerc".into(), format!("{percent:.2}%").into()),
        ("NetIO".into(), format!("{} / {}", human_size3(received), human_size3(sent)).into()),
        ("BlockIO".into(), format!("{} / {}", human_size3(read), human_size3(written)).into()),
        ("PIDs".into(), s.at(&["pids_stats", "current"]).int().to_string().into()),
    ])
}

/// What is used without inactive page cache: v1 calls it `total_inactive_file`, v2 `inactive_file`.
fn used_memory(memory: &Value) -> f64 {
    let usage = memory.get("usage").float();
    let stats = memory.get("stats");
    let cache = stats.field("total_inactive_file").or_else(|| stats.field("inactive_file")).map_or(0.0, Value::float);
    if cache < usage { usage - cache } else { usage }
}

fn cpu_percent(s: &Value) -> f64 {
    let delta = |path: &[&str]| s.get("cpu_stats").at(path).float() - s.get("precpu_stats").at(path).float();
    let (container, system) = (delta(&["cpu_usage", "total_usage"]), delta(&["system_cpu_usage"]));
    let online = match s.at(&["cpu_stats", "online_cpus"]).float() {
        n if n > 0.0 => n,
        _ => s.at(&["cpu_stats", "cpu_usage", "percpu_usage"]).list().len() as f64,
    };
    if container > 0.0 && system > 0.0 { container / system * online * 100.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_dockers() {
        let s = Value::parse(
            br#"{"id":"0123456789abcdef","name":"/web","memory_stats":{"usage":3145728,"limit":104857600,"stats":{"inactive_file":1048576}},
            "cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},
            "precpu_stats":{"cpu_usage":{"total_usage":100},"system_cpu_usage":1000},
            "networks":{"eth0":{"rx_bytes":1000,"tx_bytes":10}},"pids_stats":{"current":3},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":5},{"op":"write","value":7}]}}"#,
        )
        .unwrap();
        let row = row(&s, "web", false);
        for (key, expected) in [
            ("CPUPerc", "40.00%"),
            ("MemUsage", "2MiB / 100MiB"),
            ("MemPerc", "2.00%"),
            ("NetIO", "1kB / 10B"),
            ("BlockIO", "5B / 7B"),
            ("PIDs", "3"),
        ] {
            assert_eq!(row.text(key), expected, "{key}");
        }
    }
}
