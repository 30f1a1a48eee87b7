//! Statistics of a thousand running containers.

use crate::engines::{Engine, Kind};
use crate::http::Connection;
use crate::{Outcome, middle, ms, verdict};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CONTAINERS: usize = 1000;
const CLIENTS: usize = 8;
/// For how long the engine's processor time is counted: some rounds of its reader.
const WATCHED: Duration = Duration::from_secs(60);

pub(crate) fn meters(engines: &mut [Engine]) -> Outcome<()> {
    let Some(engine) = engines.iter_mut().find(|engine| engine.kind == Kind::Berth) else { return Ok(()) };
    println!("\n## berth: statistics of {CONTAINERS} running containers\n");
    engine.stop_engine()?;
    // The reader of everything, and its hour, is the console's.
    engine.start_with(&["--console", "127.0.0.1:0"])?;
    engine.group.enter()?;
    let ids = start(engine)?;
    engine.group.calm()?;
    let quiet = share(engine, || Ok(()))?;
    verdict("the engine's share of a processor, every instance read every five seconds", quiet, Some(0.02));
    let mut connection = Connection::open(&engine.socket())?;
    let mut timed = |what: &str, path: &dyn Fn(usize) -> String, target: Option<f64>| -> Outcome<()> {
        let mut times = Vec::new();
        for number in 0..100 {
            let begin = Instant::now();
            connection.call("GET", &path(number), None)?;
            times.push(ms(begin.elapsed()));
        }
        times.sort_by(f64::total_cmp);
        verdict(
            &format!("ms, median of {}, worst {:.1}: {what}", times.len(), times[times.len() - 1]),
            middle(&times),
            target,
        );
        Ok(())
    };
    timed("the newest of all, one answer", &|_| "/api/v1/overview".to_owned(), Some(10.0))?;
    timed("the hour of one", &|n| format!("/api/v1/instances/{}/meters", ids[n * 10 % ids.len()]), Some(10.0))?;
    let one = |n: usize| format!("/v1.41/containers/{}/stats?stream=false&one-shot=true", ids[n * 7 % ids.len()]);
    timed("one reading of one, Docker's API", &one, Some(10.0))?;
    // Docker's client follows each by a stream of its own, and counts in seconds.
    let watching = share(engine, || {
        let mut command = Command::new("docker");
        command.args(["stats"]).env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = command.spawn()?;
        std::thread::sleep(WATCHED);
        client.kill()?;
        client.wait()?;
        Ok(())
    })?;
    verdict("the engine's share of a processor while `docker stats` follows all of them", watching, None);
    let names = ids.iter().map(String::as_str);
    engine.succeed(&mut engine.client(["rm", "-f"].into_iter().chain(names)))?;
    Ok(())
}

fn start(engine: &Engine) -> Outcome<Vec<String>> {
    let next = AtomicUsize::new(0);
    let one = || -> Result<Vec<String>, String> {
        let work = || -> Outcome<Vec<String>> {
            let (mut connection, mut ids) = (Connection::open(&engine.socket())?, Vec::new());
            while next.fetch_add(1, Ordering::Relaxed) < CONTAINERS {
                let id = connection.create(r#"{"Image":"tiny:1","Cmd":["/bin/sleep","100000"]}"#)?;
                connection.call("POST", &format!("/v1.41/containers/{id}/start"), None)?;
                ids.push(id);
            }
            Ok(ids)
        };
        work().map_err(|error| error.to_string())
    };
    let begin = Instant::now();
    let ids = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a client died".to_owned())));
        joined.collect::<Result<Vec<_>, String>>()
    })?;
    println!("started in {:.1} s", begin.elapsed().as_secs_f64());
    Ok(ids.concat())
}

/// The engine's processor time by that of the clock, while `meanwhile` goes on, [`WATCHED`] at least.
fn share(engine: &Engine, meanwhile: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let (begin, before) = (Instant::now(), spent(engine)?);
    meanwhile()?;
    std::thread::sleep(WATCHED.saturating_sub(begin.elapsed()));
    Ok((spent(engine)? - before) / begin.elapsed().as_secs_f64())
}

/// Seconds of processor time of the engine's own process (proc(5), `utime` and `stime`).
fn spent(engine: &Engine) -> Outcome<f64> {
    let mut ticks = 0.0;
    for pid in engine.daemon_pids() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        ticks +=
            fields.get(11).ok_or("no utime")?.parse::<f64>()? + fields.get(12).ok_or("no stime")?.parse::<f64>()?;
    }
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}
