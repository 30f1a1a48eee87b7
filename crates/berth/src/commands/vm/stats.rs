//! `vm stats`: what machines take of the host, beside what their guests use of it.

use super::path_of;
use crate::app::App;
use crate::cli::Args;
use crate::error::{CliError, Result};
use crate::table::Listing;
use crate::units::{bytes_size, human_size3};
use crate::value::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const HEADERS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("GuestMem", "GUEST MEM USED / TOTAL"),
    ("HostMem", "HOST MEM / LIMIT"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
];
const TABLE: &str = "{{.Name}}\t{{.CPUPerc}}\t{{.GuestMem}}\t{{.HostMem}}\t{{.NetIO}}\t{{.BlockIO}}";
const BETWEEN: Duration = Duration::from_secs(1);
/// Where a guest says nothing.
const UNKNOWN: &str = "--";

pub(crate) async fn stats(app: &'static App, args: Args) -> Result<u8> {
    let listing = Listing::new(args.text("format"), TABLE, None, HEADERS)?.failing("template parsing error: ");
    let once = args.on("no-stream");
    let clear = if crate::tty::stdout_is_terminal() && !once { "\x1b[H\x1b[J" } else { "" };
    let mut before = read(app, &args.words).await?;
    loop {
        tokio::time::sleep(BETWEEN).await;
        let now = read(app, &args.words).await?;
        let rows: Vec<Value> = now.iter().map(|(name, one)| row(name, one, before.get(name))).collect();
        app.print(&format!("{clear}{}", listing.render(&rows)?))?;
        if once || (now.is_empty() && !args.words.is_empty()) {
            return Ok(0);
        }
        before = now;
    }
}

/// Of those that were named, which must run, or of all that run; asked side by side.
async fn read(app: &'static App, named: &[String]) -> Result<BTreeMap<String, Value>> {
    let names = match named {
        [] => {
            let all = app.client.get_value("/api/v1/machines").await?;
            let running = all.list().iter().filter(|one| one.text("state") == "running");
            running.map(|one| one.text("name").to_owned()).collect()
        }
        names => names.to_vec(),
    };
    let ask = |name: String| async move { app.client.get_value(&format!("{}/stats", path_of(&name))).await };
    let tasks: Vec<_> = names.into_iter().map(|name| tokio::task::spawn_local(ask(name))).collect();
    let mut readings = BTreeMap::new();
    for task in tasks {
        match task.await.map_err(|_| CliError::failed("a reading was cancelled"))? {
            Ok(one) => drop(readings.insert(one.text("name").to_owned(), one)),
            // It ended since the list was made.
            Err(_) if named.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(readings)
}

fn row(name: &str, now: &Value, before: Option<&Value>) -> Value {
    let pair = |one: &str, other: &str| {
        format!("{} / {}", human_size3(now.get(one).float()), human_size3(now.get(other).float()))
    };
    let guest = now.get("guest");
    let guest_memory = match guest.text("source") {
        "" => UNKNOWN.to_owned(),
        _ => format!(
            "{} / {}",
            bytes_size(guest.get("memory_used_bytes").float()),
            bytes_size(guest.get("memory_total_bytes").float())
        ),
    };
    let (used, limit) = (now.get("memory_bytes").float(), now.get("memory_limit_bytes").float());
    Value::Map(vec![
        ("Name".into(), name.into()),
        ("CPUPerc".into(), before.map_or(UNKNOWN.to_owned(), |before| cpu_percent(before, now)).into()),
        ("GuestMem".into(), guest_memory.into()),
        ("HostMem".into(), format!("{} / {}", bytes_size(used), bytes_size(limit)).into()),
        ("NetIO".into(), pair("received_bytes", "sent_bytes").into()),
        ("BlockIO".into(), pair("read_bytes", "written_bytes").into()),
    ])
}

/// Of one processor, as Docker counts it. A machine that began anew between the two readings has counted from zero.
fn cpu_percent(before: &Value, now: &Value) -> String {
    let grown = |name: &str| now.get(name).float() - before.get(name).float();
    let (time, cpu) = (grown("read_unix_nanos"), grown("cpu_nanos"));
    match time > 0.0 && cpu >= 0.0 {
        true => format!("{:.2}%", cpu / time * 100.0),
        false => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(nanos: u64, cpu: u64, guest: &str) -> Value {
        let text = format!(
            r#"{{"name":"web","read_unix_nanos":{nanos},"cpu_nanos":{cpu},"memory_bytes":104857600,"memory_limit_bytes":209715200,
                "read_bytes":5,"written_bytes":1000,"received_bytes":7,"sent_bytes":10,"guest":{guest}}}"#
        );
        Value::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn guest_and_host_stand_side_by_side() {
        let guest = r#"{"source":"balloon","memory_total_bytes":201326592,"memory_used_bytes":67108864}"#;
        let row = row("web", &reading(2000, 600, guest), Some(&reading(1000, 100, "null")));
        for (key, expected) in [
            ("CPUPerc", "50.00%"),
            ("GuestMem", "64MiB / 192MiB"),
            ("HostMem", "100MiB / 200MiB"),
            ("NetIO", "7B / 10B"),
            ("BlockIO", "5B / 1kB"),
        ] {
            assert_eq!(row.text(key), expected, "{key}");
        }
    }

    #[test]
    fn what_is_not_known_is_no_number() {
        let one = row("web", &reading(2000, 600, "null"), None);
        assert_eq!((one.text("GuestMem"), one.text("CPUPerc")), (UNKNOWN, UNKNOWN));
        let anew = row("web", &reading(2000, 0, "null"), Some(&reading(1000, 100, "null")));
        assert_eq!(anew.text("CPUPerc"), UNKNOWN);
    }
}
