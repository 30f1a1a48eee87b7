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
/// Where a guest says nothing, or a machine does not run.
const UNKNOWN: &str = "--";
const CONFLICT: u16 = 409;

/// By name; `None`: one that was named and does not run (any more).
type Readings = BTreeMap<String, Option<Value>>;

pub(crate) async fn stats(app: &'static App, args: Args) -> Result<u8> {
    let listing = Listing::new(args.text("format"), TABLE, None, HEADERS)?.failing("template parsing error: ");
    let once = args.on("no-stream");
    let clear = if crate::tty::stdout_is_terminal() && !once { "\x1b[H\x1b[J" } else { "" };
    let (mut before, refused) = read(app, &args.words).await?;
    if let Some(error) = refused.filter(|_| before.values().all(Option::is_none)) {
        return Err(error);
    }
    loop {
        tokio::time::sleep(BETWEEN).await;
        let (now, _) = read(app, &args.words).await?;
        let reading = |name| before.get(name).and_then(Option::as_ref);
        let rows = now.iter().map(|(name, one)| match one {
            Some(one) => row(name, one, reading(name)),
            None => idle(name),
        });
        let rows: Vec<Value> = rows.collect();
        app.print(&format!("{clear}{}", listing.render(&rows)?))?;
        if once || (!args.words.is_empty() && now.values().all(Option::is_none)) {
            return Ok(0);
        }
        before = now;
    }
}

/// Of those that were named, or of all that run; asked side by side. Beside them why one that was named has none.
async fn read(app: &'static App, named: &[String]) -> Result<(Readings, Option<CliError>)> {
    let names = match named {
        [] => {
            let all = app.client.get_value("/api/v1/machines").await?;
            let running = all.list().iter().filter(|one| one.text("state") == "running");
            running.map(|one| one.text("name").to_owned()).collect()
        }
        names => names.to_vec(),
    };
    let ask = |name: String| async move { app.client.get_value(&format!("{}/stats", path_of(&name))).await };
    let tasks: Vec<_> = names.into_iter().map(|name| (name.clone(), tokio::task::spawn_local(ask(name)))).collect();
    let (mut readings, mut refused) = (BTreeMap::new(), None);
    for (name, task) in tasks {
        match task.await.map_err(|_| CliError::failed("a reading was cancelled"))? {
            Ok(one) => drop(readings.insert(one.text("name").to_owned(), Some(one))),
            // It ended since the list was made.
            Err(_) if named.is_empty() => {}
            // The others are read all the same.
            Err(error) if error.status() == Some(CONFLICT) => {
                readings.insert(name, None);
                refused = refused.or(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((readings, refused))
}

/// One that does not run.
fn idle(name: &str) -> Value {
    let fields = HEADERS.iter().map(|(field, _)| if *field == "Name" { name } else { UNKNOWN });
    Value::Map(HEADERS.iter().zip(fields).map(|((field, _), text)| ((*field).into(), text.into())).collect())
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
    fn a_machine_that_does_not_run_has_a_row() {
        let row = idle("off");
        assert_eq!((row.text("Name"), row.text("HostMem"), row.text("BlockIO")), ("off", UNKNOWN, UNKNOWN));
    }

    #[test]
    fn what_is_not_known_is_no_number() {
        let one = row("web", &reading(2000, 600, "null"), None);
        assert_eq!((one.text("GuestMem"), one.text("CPUPerc")), (UNKNOWN, UNKNOWN));
        let anew = row("web", &reading(2000, 0, "null"), Some(&reading(1000, 100, "null")));
        assert_eq!(anew.text("CPUPerc"), UNKNOWN);
    }
}
