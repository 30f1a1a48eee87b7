//! `logs`: what a container wrote, from its files on disk.
//!
//! The shim writes, we read: nothing is asked of the shim, and a log can be read without one. A follower
//! hears of new records by inotify and ends when the container has ended and its last record is sent.

use super::{Containers, LogOptions, LogRecord, LogStream, OutputStream, WaitCondition};
use crate::events::now_unix_nanos;
use berth_log::{Format, Query, Reader, Stream};
use berth_types::{Error, ErrorKind, Phase, Result};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Records on their way to a reader.
const RECORDS_MAX: usize = 256;
/// Rotated files are looked for up to this number, whatever the log's options say by now.
const FILES_MAX: u32 = 1000;
/// After so many records others get their turn.
const BATCH_MAX: usize = 64;

impl Containers {
    /// Its log.
    pub async fn logs(&self, container: &str, options: LogOptions) -> Result<LogStream> {
        let inspect = self.inspect(container, false).await?;
        let driver = match inspect.spec.host.log.driver.as_str() {
            "" => self.engine.config().log_driver.as_str(),
            driver => driver,
        };
        let format = match driver {
            "none" => {
                let words = "configured logging driver does not support reading";
                return Err(Error::not_implemented(words).with_hint("run it with --log-driver local or json-file"));
            }
            "local" => Format::Local,
            _ => Format::JsonFile,
        };
        let running = matches!(inspect.state.phase, Phase::Running { .. } | Phase::Paused { .. });
        let follow = options.follow && (running || inspect.state.restarting);
        let (sender, records) = mpsc::channel(RECORDS_MAX);
        // Registered before the log is opened: an end in between is not missed.
        let ended = match follow {
            true => Some(self.wait(inspect.id.as_str(), WaitCondition::LastExit).await?),
            false => None,
        };
        let folder_is_there = inspect.log_path.parent().is_some_and(std::path::Path::is_dir);
        if folder_is_there {
            let query = Query {
                tail: options.tail.map(|records| u64::try_from(records).unwrap_or(u64::MAX)),
                since: options.since_unix_nanos,
                until: options.until_unix_nanos,
                stream: match (options.stdout, options.stderr) {
                    (true, false) => Some(Stream::Stdout),
                    (false, true) => Some(Stream::Stderr),
                    _ => None,
                },
                follow,
            };
            let files = files(&inspect.spec.host.log.options);
            let reader = Reader::open(&inspect.log_path, files, format, query).map_err(|error| broken(&error))?;
            let until = options.until_unix_nanos.filter(|_| follow);
            tokio::spawn(async move {
                let end = async move {
                    let over = async {
                        match ended {
                            // An error means that nobody can tell any more: what is there is all.
                            Some(waiter) => drop(waiter.await),
                            None => std::future::pending().await,
                        }
                    };
                    match until {
                        Some(until) => drop(tokio::time::timeout(left(until), over).await),
                        None => over.await,
                    }
                };
                if let Err(error) = send(reader, &sender, follow, end).await {
                    // Nobody to tell where the reader has gone.
                    sender.send(Err(error)).await.ok();
                }
            });
        }
        Ok(LogStream { tty: inspect.spec.config.tty, records })
    }
}

fn files(options: &std::collections::BTreeMap<String, String>) -> u32 {
    let asked = options.get("max-file").and_then(|text| text.parse().ok()).unwrap_or(1);
    // The engine's default may be more than what the container says.
    u32::clamp(asked, 32, FILES_MAX)
}

fn left(until_unix_nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(until_unix_nanos.saturating_sub(now_unix_nanos())).unwrap_or(0))
}

fn broken(error: &berth_log::LogError) -> Error {
    Error::because(ErrorKind::Internal, "cannot read the log", error)
}

/// Sends records until there are no more, or following is over.
async fn send(
    mut reader: Reader,
    sender: &mpsc::Sender<Result<LogRecord>>,
    follow: bool,
    end: impl Future<Output = ()>,
) -> Result<()> {
    let watched = match reader.wait_fd() {
        Some(fd) if follow => {
            Some(watch(fd).map_err(|cause| Error::because(ErrorKind::Internal, "cannot follow the log", &cause))?)
        }
        _ => None,
    };
    let mut end = std::pin::pin!(end);
    let mut over = false;
    loop {
        let mut sent = 0;
        while let Some(record) = reader.next().map_err(|error| broken(&error))? {
            if sender.send(Ok(render(record))).await.is_err() {
                return Ok(());
            }
            sent += 1;
            if sent % BATCH_MAX == 0 {
                tokio::task::yield_now().await;
            }
        }
        let Some(watched) = watched.as_ref().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            ready = watched.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                reader.clear_wait();
            }
            // The shim drains the streams before it announces the end: one more look shows the rest.
            () = &mut end => over = true,
            () = sender.closed() => return Ok(()),
        }
    }
}

fn watch(fd: std::os::fd::BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    // Its successor is unsafe: it asks that the descriptor's number never changes, as an OwnedFd's does not.
    #[expect(deprecated)]
    AsyncFd::with_interest(fd.try_clone_to_owned()?, Interest::READABLE)
}

fn render(record: berth_log::Record) -> LogRecord {
    LogRecord {
        stream: match record.stream {
            Stream::Stdout => OutputStream::Stdout,
            Stream::Stderr => OutputStream::Stderr,
        },
        time_unix_nanos: record.unix_nanos,
        line: record.text.into(),
        attributes: record.attributes,
    }
}
