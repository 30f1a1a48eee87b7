//! `events`: a container's numbers as JSON lines, in runc's form, and the kernel's killings for want of memory.

use super::args::{ArgsError, Parsed};
use super::error::CliError;
use super::state::{Folder, Status};
use super::{Global, cgroup, list};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// How often the end of the container and OOM kills are looked for between two sets of numbers.
const LOOK_MILLISECONDS: u64 = 200;

pub(crate) fn events(global: &Global, flags: &Parsed) -> Result<ExitCode, CliError> {
    let id = flags.only_id("events")?;
    let folder = Folder::open(&global.root, id)?;
    let record = folder.load(id)?;
    if list::status(&folder, &record) == Status::Stopped {
        return Err(CliError::NotRunning);
    }
    let opened = cgroup::open(&record)?;
    let line = |kind: &str, data: Value| json!({ "type": kind, "id": id, "data": data });
    if flags.has("stats") {
        println!("{}", line("stats", stats(&opened.stats())));
        return Ok(ExitCode::SUCCESS);
    }
    let text = flags.get("interval").unwrap_or("5s");
    let wrong =
        || ArgsError::BadValue { flag: "interval", value: text.to_owned(), wanted: "a time such as 500ms or 5s" };
    let interval = duration(text).filter(|interval| !interval.is_zero()).ok_or_else(wrong)?;
    let mut kills = opened.oom_kills();
    let mut since = interval;
    while record.is_alive() {
        let now = opened.oom_kills();
        if now > kills {
            println!("{}", json!({ "type": "oom", "id": id }));
            kills = now;
        }
        if since >= interval {
            println!("{}", line("stats", stats(&opened.stats())));
            since = Duration::ZERO;
        }
        let pause = Duration::from_millis(LOOK_MILLISECONDS).min(interval);
        std::thread::sleep(pause);
        since += pause;
    }
    Ok(ExitCode::SUCCESS)
}

/// Go's durations, as far as people write them here.
fn duration(text: &str) -> Option<Duration> {
    for (unit, milliseconds) in [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3600e3)] {
        if let Some(number) = text.strip_suffix(unit).and_then(|number| number.parse::<f64>().ok()) {
            return Duration::try_from_secs_f64(number * milliseconds / 1e3).ok();
        }
    }
    text.parse().ok().map(Duration::from_secs)
}

fn stats(stats: &berth_cgroup::Stats) -> Value {
    let entries = |list: &[(u64, u64, String, u64)]| -> Vec<Value> {
        list.iter()
            .map(|(major, minor, op, value)| json!({ "major": major, "minor": minor, "op": op, "value": value }))
            .collect()
    };
    json!({
        "cpu": {
            "usage": {
                "total": stats.cpu_total_nanos,
                "percpu": stats.per_cpu_nanos,
                "kernel": stats.cpu_kernel_nanos,
                "user": stats.cpu_user_nanos,
            },
            "throttling": {
                "periods": stats.periods,
                "throttledPeriods": stats.throttled_periods,
                "throttledTime": stats.throttled_nanos,
            },
        },
        "memory": {
            "usage": {
                "usage": stats.memory_usage_bytes,
                "max": stats.memory_max_usage_bytes,
                "limit": stats.memory_limit_bytes.unwrap_or(u64::MAX),
                "failcnt": stats.memory_fail_count,
            },
            "raw": stats.memory_stat,
        },
        "pids": { "current": stats.pids_current, "limit": stats.pids_limit },
        "blkio": {
            "ioServiceBytesRecursive": entries(&stats.io_service_bytes),
            "ioServicedRecursive": entries(&stats.io_serviced),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("2"), Some(Duration::from_secs(2)));
        assert_eq!((duration("x"), duration("-1s")), (None, None));
    }
}
