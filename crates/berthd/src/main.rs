//! The engine's daemon: sockets, signals, and the engine behind them.
//!
//! ```text
//! berthd -H unix:///run/berth/berth.sock --data-root /var/lib/berth --exec-root /run/berth
//! ```
//!
//! SIGTERM and SIGINT end it; containers run on and are found again by the next one. It forks nothing but
//! `berth-shim` and needs no systemd, but speaks to it (`sd_notify`, socket activation by `fd://`).

mod options;
mod registries;
mod sockets;

use berth_engine::Engine;
use clap::Parser;
use options::Options;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Two answer every request that the benchmarks have; each more costs the idle engine a stack and an arena.
const WORKER_THREADS: usize = 2;
const MALLOC_ARENAS_MAX: i32 = 2;
/// Enough for files read in parallel; tokio's 512 would let one burst leave its stacks behind.
const BLOCKING_THREADS_MAX: usize = 32;
const BLOCKING_KEEP_SECONDS: u64 = 5;
/// Open answers may take this long once a signal asked to stop.
const STOP_SECONDS_MAX: u64 = 5;

fn main() -> ExitCode {
    let options = match Options::parse().with_file() {
        Ok(options) => options,
        Err(text) => return fail(&text),
    };
    let filter = tracing_subscriber::EnvFilter::try_new(options.log_filter())
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    if options.validate {
        println!("configuration OK");
        return ExitCode::SUCCESS;
    }
    berth_sys::handed_over::limit_malloc_arenas(MALLOC_ARENAS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(Duration::from_secs(BLOCKING_KEEP_SECONDS))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(cause) => return fail(&format!("cannot start threads: {cause}")),
    };
    let ended = runtime.block_on(run(options));
    runtime.shutdown_timeout(Duration::from_secs(STOP_SECONDS_MAX));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => fail(&text),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("berthd: {text}");
    ExitCode::FAILURE
}

async fn run(options: Options) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|cause| format!("cannot watch SIGTERM: {cause}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|cause| format!("cannot watch SIGINT: {cause}"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|cause| format!("cannot watch SIGHUP: {cause}"))?;

    // The engine's lock comes first: a second daemon on these folders must not take the first one's socket.
    let engine = Engine::open(options.engine_config()?).await.map_err(|error| describe(&error))?;
    let (stop, stopped) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    let console = match options.console_config()? {
        Some(config) => Some(berth_api::Console::open(engine.clone(), config).await.map_err(|error| describe(&error))?),
        None => None,
    };
    for listener in sockets::open(&options)? {
        let mut routes = berth_api_docker::router(engine.clone());
        routes = berth_api::engine_routes(engine.clone()).fallback_service(routes);
        if let Some(console) = &console {
            routes = console.local_routes().fallback_service(console.noted(routes));
        }
        servers.spawn(berth_api_docker::serve(listener, routes, stopped.clone()));
    }
    match console {
        Some(console) => drop(servers.spawn(console.serve(stopped.clone()))),
        None => match berth_api::Unattended::open(engine.clone()) {
            Ok(Some(unattended)) => {
                let stopped = stopped.clone();
                servers.spawn(async move {
                    unattended.run(stopped).await;
                    Ok(())
                });
            }
            Ok(None) => {}
            // Containers do not wait for the console's records.
            Err(error) => tracing::error!(%error, "no schedule of backups runs"),
        },
    }
    let pid_file = options.write_pid_file()?;
    notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(data_root = %options.data_root().display(), "ready");

    let result = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => tracing::info!("SIGHUP: no setting of a running engine can change; restart it, containers run on"),
            Some(ended) = servers.join_next() => break match ended {
                Ok(Ok(())) => Ok(()),
                Ok(Err(cause)) => Err(format!("a listening socket failed: {cause}")),
                Err(cause) => Err(format!("a server ended: {cause}")),
            },
        }
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping; containers run on");
    stop.send_replace(true);
    while servers.join_next().await.is_some() {}
    if tokio::time::timeout(Duration::from_secs(STOP_SECONDS_MAX), engine.close()).await.is_err() {
        tracing::warn!("the engine did not close in time; the next one cleans up");
    }
    if let Some(path) = pid_file {
        std::fs::remove_file(path).ok();
    }
    sockets::remove(&options);
    result
}

/// Tells systemd, where it listens; nobody else is waiting for it.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(states) {
        tracing::debug!(%cause, "no service manager to notify");
    }
}

fn describe(error: &berth_types::Error) -> String {
    match &error.hint {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}
