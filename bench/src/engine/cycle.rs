//! One container's life.

use crate::engines::{Engine, Kind};
use crate::http::Connection;
use crate::{Measure, Options, Outcome, Times, Title, verdict};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HTTP_MAX: Duration = Duration::from_secs(10);
const CLIENTS: usize = 16;
const CLIENTS_ROUND: Duration = Duration::from_secs(4);

pub(crate) const MEASURES: &[(&str, Title, Measure)] = &[
    ("api", Title { text: "API: create + start + wait + remove of true, default bridge", target: Some(0.1) }, api),
    ("run", Title { text: "command line: run --rm tiny true", target: Some(1.0 / 12.0) }, run),
    ("exec", Title { text: "command line: exec CONTAINER true", target: Some(0.1) }, exec),
    ("client", Title { text: "command line: version, what the client costs by itself", target: None }, version),
    ("http", Title { text: "command line: run -d -p to the first HTTP answer", target: Some(0.125) }, http),
];

fn api(engine: &mut Engine, _round: usize) -> Outcome<Option<Times>> {
    if engine.kind == Kind::Podman {
        return Ok(None);
    }
    let mut connection = Connection::open(&engine.socket())?;
    connection.call("GET", "/_ping", None)?;
    let body = r#"{"Image":"tiny:1","Cmd":["/bin/true"]}"#;
    let begin = Instant::now();
    let id = connection.create(body)?;
    let created = begin.elapsed();
    connection.call("POST", &format!("/v1.41/containers/{id}/start"), None)?;
    let started = begin.elapsed();
    let answer: serde_json::Value =
        serde_json::from_slice(&connection.call("POST", &format!("/v1.41/containers/{id}/wait"), None)?)?;
    let waited = begin.elapsed();
    if answer["StatusCode"] != 0 {
        return Err(format!("true ended with {answer}").into());
    }
    connection.call("DELETE", &format!("/v1.41/containers/{id}"), None)?;
    let removed = begin.elapsed();
    Ok(Some(vec![
        ("all", removed),
        ("create", created),
        ("start", started - created),
        ("wait", waited - started),
        ("remove", removed - waited),
    ]))
}

fn run(engine: &mut Engine, _round: usize) -> Outcome<Option<Times>> {
    timed(&mut engine.run(["--rm", "tiny:1", "/bin/true"]))
}

fn exec(engine: &mut Engine, round: usize) -> Outcome<Option<Times>> {
    if round == 0 {
        engine.succeed(&mut engine.run(["-d", "--name", "held", "tiny:1", "/bin/sleep", "100000"]))?;
    }
    timed(&mut engine.client(["exec", "held", "/bin/true"]))
}

fn version(engine: &mut Engine, _round: usize) -> Outcome<Option<Times>> {
    timed(&mut engine.client(["version"]))
}

/// One command from its start to its end.
fn timed(command: &mut Command) -> Outcome<Option<Times>> {
    let begin = Instant::now();
    let status = command.status()?;
    let took = begin.elapsed();
    if status.success() { Ok(Some(vec![("all", took)])) } else { Err(format!("{command:?}: {status}").into()) }
}

fn http(engine: &mut Engine, round: usize) -> Outcome<Option<Times>> {
    if round == 0 {
        engine.succeed(&mut engine.client(["rm", "-f", "held"])).ok();
    }
    // A port of its own each time: one that was used may still be waiting in the kernel.
    let port = 20_000 + u16::try_from(round)? * 3 + u16::from(engine.kind as u8);
    let publish = format!("{port}:80");
    let words = ["-d", "--name", "web", "-p", &publish, "tiny:1", "/bin/httpd", "-f", "-p", "80", "-h", "/www"];
    let mut command = engine.run(words);
    let begin = Instant::now();
    let mut client = command.stderr(Stdio::inherit()).spawn()?;
    let answered = first_answer(port, begin);
    let status = client.wait()?;
    let returned = begin.elapsed();
    engine.succeed(&mut engine.client(["rm", "-f", "web"]))?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(Some(vec![("all", answered?), ("client returned by", returned)]))
}

fn first_answer(port: u16, begin: Instant) -> Outcome<Duration> {
    while begin.elapsed() < HTTP_MAX {
        let answer = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(HTTP_MAX))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = [0; 15];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        });
        if answer.is_ok_and(|answer| answer.starts_with(b"HTTP/1.") && answer.ends_with(b" 200 OK")) {
            return Ok(begin.elapsed());
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    Err(format!("no HTTP answer on port {port}").into())
}

/// `run --rm` from many clients at once, for some seconds.
pub(crate) fn clients(options: &Options, engines: &mut [Engine]) -> Outcome<()> {
    println!("\n## {CLIENTS} clients in parallel: run --rm per second\n");
    rates(
        options,
        engines,
        Rate { clients: CLIENTS, target: 0.1 },
        |_| true,
        |engine| {
            move || {
                let status = engine.run(["--rm", "tiny:1", "/bin/true"]).status()?;
                if status.success() { Ok(()) } else { Err(format!("run: {status}").into()) }
            }
        },
    )
}

/// Many clients at once: how many, and the peer's rate beside ours at most.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) clients: usize,
    pub(crate) target: f64,
}

/// How often in a second many clients come to the end of what `client` makes for each of them.
pub(crate) fn rates<'e, W>(
    options: &Options,
    engines: &'e mut [Engine],
    rate: Rate,
    takes_part: impl Fn(&Engine) -> bool,
    client: impl Fn(&'e Engine) -> W + Sync,
) -> Outcome<()>
where
    W: FnMut() -> Outcome<()>,
{
    println!("| engine | per second, median | rounds | cpu ms each, all processes | failed |");
    println!("|---|---|---|---|---|");
    let engines: Vec<&'e Engine> = engines.iter().filter(|engine| takes_part(engine)).collect();
    let rounds = (options.runs / 5).max(1);
    let mut found: Vec<Vec<f64>> = engines.iter().map(|_| Vec::new()).collect();
    let mut cpu: Vec<Vec<f64>> = engines.iter().map(|_| Vec::new()).collect();
    let mut failed = vec![0; engines.len()];
    for _ in 0..rounds {
        for (index, engine) in engines.iter().copied().enumerate() {
            engine.group.enter()?;
            let before = engine.group.cpu()?;
            let begin = Instant::now();
            let counts: Vec<(usize, usize)> = std::thread::scope(|scope| {
                let one = || {
                    let (mut good, mut bad) = (0, 0);
                    let mut work = client(engine);
                    while begin.elapsed() < CLIENTS_ROUND {
                        match work() {
                            Ok(()) => good += 1,
                            Err(error) => {
                                if bad == 0 {
                                    eprintln!("{}: {error}", engine.name());
                                }
                                bad += 1;
                            }
                        }
                    }
                    (good, bad)
                };
                let threads: Vec<_> = (0..rate.clients).map(|_| scope.spawn(one)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap_or((0, 1))).collect()
            });
            let took = begin.elapsed();
            engine.group.calm()?;
            let used = engine.group.cpu()?.saturating_sub(before);
            let good: usize = counts.iter().map(|(good, _)| good).sum();
            failed[index] += counts.iter().map(|(_, bad)| bad).sum::<usize>();
            found[index].push(good as f64 / took.as_secs_f64());
            cpu[index].push(crate::ms(used) / good.max(1) as f64);
        }
    }
    let mut medians = Vec::new();
    for (index, engine) in engines.iter().enumerate() {
        found[index].sort_by(f64::total_cmp);
        cpu[index].sort_by(f64::total_cmp);
        let median = crate::middle(&found[index]);
        println!(
            "| {} | {median:.1} | {} | {:.1} | {} |",
            engine.name(),
            found[index].len(),
            crate::middle(&cpu[index]),
            failed[index]
        );
        medians.push((engine.kind, median));
    }
    if let Some((_, ours)) = medians.iter().find(|(kind, _)| *kind == Kind::Berth) {
        for (kind, theirs) in medians.iter().filter(|(kind, _)| *kind != Kind::Berth) {
            let target = (*kind == Kind::Docker).then_some(rate.target);
            verdict(&format!("{} / berth rate", kind.name()), theirs / ours, target);
        }
    }
    Ok(())
}
