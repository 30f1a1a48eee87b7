//! `attach`, and the session that `run` and `start -a` share with it.

use super::run::exit_status;
use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::hijack::Hijacked;
use crate::client::{Answer, encode};
use crate::error::{CliError, Result};
use crate::session::{Event, Plan, parse_detach_keys, pump};
use crate::tty::{self, RawMode};
use crate::value::Value;
use hyper::Method;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What flows between here and a container.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
    pub(crate) logs: bool,
    pub(crate) detach_keys: String,
    pub(crate) proxy_signals: bool,
}

pub(crate) async fn attach(app: &'static App, args: Args) -> Result<u8> {
    let name = app.container(&args.words[0]).await?;
    let info = running(app, &name).await?;
    let tty = info.at(&["Config", "Tty"]).bool();
    let stdin = !args.on("no-stdin") && info.at(&["Config", "OpenStdin"]).bool();
    if stdin && tty && !tty::stdin_is_terminal() {
        return Err(CliError::failed("the input device is not a TTY"));
    }
    let stream = Stream {
        stdin,
        stdout: true,
        stderr: true,
        tty,
        logs: false,
        detach_keys: args.text("detach-keys").to_owned(),
        proxy_signals: args.on("sig-proxy") && !tty,
    };
    let session = Session::open(app, info.text("Id"), &stream, "").await?;
    // One that ended meanwhile would be waited for until somebody starts it again.
    running(app, &name).await?;
    if let Some((rows, columns)) = tty::size().filter(|_| tty) {
        // A program draws itself anew only when the size changes: one step off, and then the true size.
        let path = format!("{}/resize?h={}&w={}", Target::Container(name).path(), rows + 1, columns + 1);
        app.client.post(&path).await?;
    }
    session.run().await
}

/// What `inspect` says of a container that can be attached to.
async fn running(app: &App, name: &str) -> Result<Value> {
    let info = app.client.get_value(&format!("/containers/{}/json", encode(name))).await?;
    let state = info.get("State");
    if !state.get("Running").bool() {
        return Err(CliError::failed("You cannot attach to a stopped container, start it first")
            .with_hint(format!("berth start -ai {name}")));
    }
    if state.get("Paused").bool() {
        return Err(CliError::failed("You cannot attach to a paused container, unpause it first")
            .with_hint(format!("berth unpause {name}")));
    }
    if state.get("Restarting").bool() {
        return Err(CliError::failed("You cannot attach to a restarting container, wait until it is running"));
    }
    Ok(info)
}

/// The bytes to detach by: the flag, the configuration file, or ctrl-p ctrl-q.
pub(crate) fn detach_keys(app: &App, flag: &str) -> Result<Vec<u8>> {
    let text = match (flag, app.config.text("detachKeys")) {
        ("", "") => "ctrl-p,ctrl-q",
        ("", configured) => configured,
        (flag, _) => flag,
    };
    parse_detach_keys(text).map_err(CliError::usage)
}

/// An attached container that may not have been started yet.
pub(crate) struct Session {
    app: &'static App,
    id: String,
    stream: Stream,
    hijacked: Hijacked,
    wait: Answer<'static>,
}

impl Session {
    pub(crate) async fn open(app: &'static App, id: &str, stream: &Stream, condition: &str) -> Result<Session> {
        let on = |b: bool| if b { "1" } else { "0" };
        let keys = if stream.detach_keys.is_empty() { app.config.text("detachKeys") } else { &stream.detach_keys };
        // Wrong keys are to be found before anything is started.
        detach_keys(app, &stream.detach_keys)?;
        let path = crate::client::with_query(
            &format!("/containers/{}/attach", encode(id)),
            &[
                ("stream", "1"),
                ("stdin", on(stream.stdin)),
                ("stdout", on(stream.stdout)),
                ("stderr", on(stream.stderr)),
                ("logs", on(stream.logs)),
                ("detachKeys", keys),
            ],
        );
        let hijacked = app.client.hijack(&path, None).await?;
        let path = crate::client::with_query(&format!("/containers/{}/wait", encode(id)), &[("condition", condition)]);
        let wait = app.client.send(Method::POST, &path, &[], Body::empty()).await?;
        Ok(Session { app, id: id.to_owned(), stream: stream.clone(), hijacked, wait })
    }

    /// Moves bytes until the container ends or the user detaches; the exit code.
    pub(crate) async fn run(self) -> Result<u8> {
        let Session { app, id, stream, hijacked, wait } = self;
        let raw_mode = if stream.tty && stream.stdin { enter_raw()? } else { None };
        let target = Target::Container(id.clone());
        let guards = Guards::new(app, target, stream.tty, stream.proxy_signals)?;
        let plan = Plan {
            stdin: stream.stdin,
            tty: stream.tty,
            stdout: stream.stdout,
            stderr: stream.stderr,
            detach_keys: detach_keys(app, &stream.detach_keys)?,
        };
        let events = pump(hijacked, plan).map_err(|e| CliError::io("cannot attach", e))?;
        let ended = guards.until_ended(events).await;
        drop(raw_mode);
        if ended? == Ended::Detached {
            return Ok(0);
        }
        let answer = tokio::select! {
            answer = wait.bytes() => answer?,
            code = guards.only_signals() => return Ok(code),
        };
        exit_status(&Value::parse(&answer)?)
    }
}

pub(crate) fn enter_raw() -> Result<Option<RawMode>> {
    RawMode::enter().map_err(|e| CliError::io("cannot set the terminal to raw mode", e))
}

#[derive(Debug, Clone)]
pub(crate) enum Target {
    Container(String),
    Exec(String),
}

impl Target {
    fn path(&self) -> String {
        match self {
            Target::Container(id) => format!("/containers/{}", encode(id)),
            Target::Exec(id) => format!("/exec/{}", encode(id)),
        }
    }
}

#[derive(Debug, PartialEq)]
pub(crate) enum Ended {
    Output,
    Detached,
}

/// Signals and the window's size while a session lasts.
pub(crate) struct Guards {
    signals: tokio::sync::Mutex<mpsc::UnboundedReceiver<&'static str>>,
    app: &'static App,
    target: Target,
    proxy: bool,
}

const PROXIED: &[(i32, &str)] = &[
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (20, "TSTP"),
];

impl Guards {
    pub(crate) fn new(app: &'static App, target: Target, tty: bool, proxy: bool) -> Result<Guards> {
        let (sender, signals) = mpsc::unbounded_channel();
        for &(number, name) in PROXIED {
            // Without proxying only the signals that end us matter: the terminal must be put back first.
            if !proxy && !matches!(name, "HUP" | "INT" | "QUIT" | "TERM") {
                continue;
            }
            let mut stream =
                signal(SignalKind::from_raw(number)).map_err(|e| CliError::io(format!("cannot watch SIG{name}"), e))?;
            let sender = sender.clone();
            tokio::task::spawn_local(async move {
                while stream.recv().await.is_some() {
                    if sender.send(name).is_err() {
                        return;
                    }
                }
            });
        }
        if tty {
            let mut changes =
                signal(SignalKind::window_change()).map_err(|e| CliError::io("cannot watch the window's size", e))?;
            let target = target.clone();
            tokio::task::spawn_local(async move {
                // The process may not be there yet when the first size is sent.
                for pause in [0, 20, 100, 500] {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    if resize(app, &target).await.is_ok() {
                        break;
                    }
                }
                while changes.recv().await.is_some() {
                    // A process that has just ended has no window; its end is told elsewhere.
                    drop(resize(app, &target).await);
                }
            });
        }
        Ok(Guards { signals: tokio::sync::Mutex::new(signals), app, target, proxy })
    }

    pub(crate) async fn until_ended(&self, mut events: mpsc::UnboundedReceiver<Event>) -> Result<Ended> {
        let event = tokio::select! {
            event = events.recv() => event,
            code = self.only_signals() => return Err(CliError::Silent(code)),
        };
        match event {
            Some(Event::Detached) => Ok(Ended::Detached),
            Some(Event::OutputEnded(Err(e))) => Err(CliError::io("cannot pass on the output", e)),
            Some(Event::OutputEnded(Ok(()))) | None => Ok(Ended::Output),
        }
    }

    /// Passes signals on; returns when one is to end this command instead.
    pub(crate) async fn only_signals(&self) -> u8 {
        let mut signals = self.signals.lock().await;
        let mut interrupts = 0;
        while let Some(name) = signals.recv().await {
            let number = PROXIED.iter().find(|(_, n)| *n == name).map_or(15, |(n, _)| *n) as u8;
            let Target::Container(_) = &self.target else { return 128 + number };
            if !self.proxy {
                return 128 + number;
            }
            if matches!(name, "INT" | "TERM") {
                interrupts += 1;
                if interrupts >= 3 {
                    self.app.note("berth: got 3 SIGTERM/SIGINTs, forcefully exiting");
                    return 1;
                }
            }
            let path = format!("{}/kill?signal={name}", self.target.path());
            // The container may have ended meanwhile; then there is nobody to signal.
            drop(self.app.client.post(&path).await);
        }
        std::future::pending().await
    }
}

async fn resize(app: &App, target: &Target) -> Result<()> {
    let Some((rows, columns)) = tty::size() else { return Ok(()) };
    app.client.post(&format!("{}/resize?h={rows}&w={columns}", target.path())).await.map(drop)
}
