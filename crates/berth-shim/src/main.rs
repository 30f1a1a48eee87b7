//! `berth-shim`: one container's monitor.
//!
//! ```text
//!  main       takes the engine's connection (descriptor 3), runs the loop until it is told to go
//!  monitor    the loop: one poll(2) over everything that may happen; requests, ends and probes below it
//!  container  the container's own process: made, started, ended, recorded
//!  streams    pipes and terminals: to the log, to attached clients, from them
//!  client     connections: requests in, replies and notices out, or an attached byte stream
//!  health     the probe's clock and verdict
//! ```
//!
//! A single thread: the runtime clones it, and only a single-threaded process may go on after that. It
//! outlives the engine that started it; without a container it ends with the engine.

/// A line for `shims.log`. A disk that is full must not end the shim and with it the container, as `eprintln!` would.
macro_rules! say {
    ($($word:tt)*) => {{
        use std::io::Write as _;
        drop(std::io::stderr().write_all(format!("berth-shim: {}\n", format_args!($($word)*)).as_bytes()));
    }};
}

mod client;
mod container;
mod health;
mod monitor;
mod streams;

use std::process::ExitCode;

/// Where the engine put its end of the socket pair.
const CONNECTION: i32 = 3;

fn main() -> ExitCode {
    if let Err(error) = berth_shim::own_program::protect() {
        say!("cannot protect the own program: {error}");
        return ExitCode::FAILURE;
    }
    // Started through a descriptor, it would be called by that number.
    rustix::thread::set_name(c"berth-shim").ok();
    berth_sys::handed_over::limit_malloc_arenas(1);
    let Some(connection) = berth_sys::handed_over::take_descriptor(CONNECTION) else {
        say!("started by the engine only: it wants a connection as descriptor {CONNECTION}");
        return ExitCode::from(2);
    };
    match monitor::Monitor::new(connection).and_then(|mut monitor| monitor.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("{error}");
            ExitCode::FAILURE
        }
    }
}
