//! `vm console`: a machine's serial line, kept over an engine's restart.
//!
//! The machine runs on while the engine is away. One thread reads what is typed for the whole session; each
//! connection has a thread for its output. When a connection ends, the machine is asked for: where it still
//! runs, the next connection takes over.

use super::path_of;
use crate::app::App;
use crate::cli::Args;
use crate::client::hijack::{Hijacked, Raw};
use crate::client::{demux::Channel, encode, with_query};
use crate::commands::attach::{detach_keys, enter_raw};
use crate::error::{CliError, Result};
use crate::session::{DetachKeys, write_fd};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// An engine that comes back takes a moment; one that does not is gone.
const AWAY_SECONDS_MAX: u64 = 60;
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const CHUNKS_MAX: usize = 16;

#[derive(Debug, PartialEq)]
enum Ended {
    Detached,
    Connection,
}

pub(crate) async fn console(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    let keys = detach_keys(app, args.text("detach-keys"))?;
    let machine = app.client.get_value(&path_of(name)).await?;
    let id = machine.text("id").to_owned();
    if machine.text("state") != "running" {
        return Err(CliError::failed(format!(
            "machine {name} is {}, and its serial line is dead",
            machine.text("state")
        ))
        .with_hint(format!("berth vm start {name}; what it wrote: berth vm logs {name}")));
    }
    let mut connection = connect(app, &id, args.text("detach-keys")).await?;
    let raw_mode = enter_raw()?;
    let mut typed = read_input(keys);
    loop {
        if session(connection, &mut typed).await? == Ended::Detached {
            return Ok(0);
        }
        match again(app, &id, args.text("detach-keys")).await? {
            Some(next) => connection = next,
            None => break,
        }
    }
    drop(raw_mode);
    app.note(&format!("machine {name} has ended"));
    Ok(0)
}

async fn connect(app: &App, id: &str, keys: &str) -> Result<Hijacked> {
    let query = [("stream", "1"), ("stdin", "1"), ("stdout", "1"), ("stderr", "1"), ("detachKeys", keys)];
    app.client.hijack(&with_query(&format!("/containers/{}/attach", encode(id)), &query), None).await
}

/// A new connection once the engine answers; `None` where the machine does not run any more.
async fn again(app: &App, id: &str, keys: &str) -> Result<Option<Hijacked>> {
    let deadline = Instant::now() + Duration::from_secs(AWAY_SECONDS_MAX);
    loop {
        let failure = match app.client.get_value(&path_of(id)).await {
            Ok(machine) if matches!(machine.text("state"), "running" | "paused") => {
                match connect(app, id, keys).await {
                    Ok(connection) => return Ok(Some(connection)),
                    Err(error) => error,
                }
            }
            Ok(machine) if machine.text("state") == "restarting" => CliError::failed("the machine does not come back"),
            Ok(_) => return Ok(None),
            Err(error) if error.status() == Some(404) => return Ok(None),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            return Err(failure);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What is typed, `None` for the detach keys.
fn read_input(keys: Vec<u8>) -> mpsc::Receiver<Option<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    std::thread::spawn(move || {
        let mut keys = DetachKeys::new(keys);
        let mut buffer = [0; 4096];
        loop {
            let (pass, detached) = match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(count) if count > 0 => keys.filter(&buffer[..count]),
                Err(rustix::io::Errno::INTR) => continue,
                // Without input there is still output: the session goes on.
                Ok(_) | Err(_) => return,
            };
            if sender.blocking_send(Some(pass)).is_err() {
                return;
            }
            if detached {
                // A session that is over needs no word of it.
                sender.blocking_send(None).ok();
                return;
            }
        }
    });
    receiver
}

async fn session(connection: Hijacked, typed: &mut mpsc::Receiver<Option<Vec<u8>>>) -> Result<Ended> {
    let Hijacked { raw, early } = connection;
    let mut input = raw.try_clone().map_err(|e| CliError::io("cannot use the connection", e))?;
    let (told, mut ended) = oneshot::channel();
    std::thread::spawn(move || {
        // Nobody may wait for it any more.
        told.send(print(raw, &early)).ok();
    });
    let mut open = true;
    loop {
        tokio::select! {
            result = &mut ended => {
                return match result {
                    Ok(Err(cause)) => Err(CliError::io("cannot write the output", cause)),
                    Ok(Ok(())) | Err(_) => Ok(Ended::Connection),
                };
            }
            chunk = typed.recv(), if open => match chunk {
                Some(Some(bytes)) => {
                    // A connection that broke ends by its output; what was typed into it is lost, as on a pulled cable.
                    input.write_all(&bytes).ok();
                }
                Some(None) => return Ok(Ended::Detached),
                None => open = false,
            },
        }
    }
}

/// Copies output until the connection ends; an error is our own output's.
fn print(mut raw: Raw, early: &[u8]) -> std::io::Result<()> {
    write_fd(Channel::Stdout, early)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match raw.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => write_fd(Channel::Stdout, &buffer[..count])?,
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}
