//! `berth-vmm exec`: one process in the guest, with our standard streams, signals and terminal.

use crate::bridge::{code_of, code_of_failure};
use crate::relay::Relay;
use crate::spec::{CONTROL_SOCKET, RUN};
use crate::wire::Wire;
use berth_agent_proto::{Answer, Ended, Exec, Failure, Kind, Request, Say};
use rustix::event::{PollFd, PollFlags};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

const STREAM: u32 = 1;
const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;
const CANNOT_START: u8 = 125;

/// `wish` is an [`Exec`] as JSON. The code to end with.
pub fn run(wish: &str) -> u8 {
    match execute(wish) {
        Ok(code) => code,
        Err(text) => {
            rustix::io::write(rustix::stdio::stderr(), format!("{text}\n").as_bytes()).ok();
            CANNOT_START
        }
    }
}

fn execute(wish: &str) -> Result<u8, String> {
    let exec: Exec = serde_json::from_str(wish).map_err(|cause| format!("cannot read what to execute: {cause}"))?;
    let (tty, stdin) = (exec.tty, exec.stdin);
    let unreachable = |cause: std::io::Error| format!("cannot reach the machine's agent: {cause}");
    let stream = UnixStream::connect(Path::new(RUN).join(CONTROL_SOCKET)).map_err(unreachable)?;
    let mut wire = Wire::new(stream).map_err(unreachable)?;
    let signals = berth_sys::signals::all_as_descriptor().map_err(|errno| format!("cannot watch signals: {errno}"))?;
    wire.send(Kind::Request, STREAM, &Request::Exec(Box::new(exec)).to_json());
    let mut relay: Option<Relay> = None;
    // What came before there was a process that could have it.
    let mut early = Vec::new();
    let mut ended = None;
    loop {
        if let Some(relay) = &mut relay {
            relay.pump(&mut wire.out);
        }
        wire.flush();
        if let Some(how) = ended.take_if(|_| relay.as_ref().is_none_or(Relay::is_drained)) {
            // Before anything is said the terminal is as it was.
            drop(relay);
            if let Ended::Failed(failure) = &how {
                rustix::io::write(rustix::stdio::stderr(), format!("{failure}\n").as_bytes()).ok();
            }
            return Ok(code_of(&how));
        }
        if wire.gone {
            return Err("the machine's agent is gone".to_owned());
        }
        let (fd, flags) = wire.watched(true);
        let mut watched =
            vec![PollFd::from_borrowed_fd(fd, flags), PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        let both = relay.as_ref().map(|relay| relay.watched(wire.out.len())).unwrap_or_default();
        watched.extend(both.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        match rustix::event::poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(format!("cannot wait: {errno}")),
        }
        while let Ok(Some(signal)) = berth_sys::signals::next_signal(signals.as_fd()) {
            match (&relay, signal) {
                (_, SIGCHLD) | (None, SIGWINCH) => {}
                (None, other) => early.push(other),
                (Some(relay), SIGWINCH) => relay.resized(&mut wire.out),
                (Some(relay), other) => relay.signal(other, &mut wire.out),
            }
        }
        wire.receive();
        while let Some(frame) = wire.next_frame().map_err(|error| error.to_string())? {
            match frame.kind {
                Kind::Answer => match serde_json::from_slice::<Result<Answer, Failure>>(&frame.payload) {
                    Ok(Ok(_)) => {
                        let new = Relay::new(STREAM, tty, stdin);
                        if tty {
                            // The terminal may have another size than the one that the guest was told.
                            new.resized(&mut wire.out);
                        }
                        early.drain(..).for_each(|signal| new.signal(signal, &mut wire.out));
                        relay = Some(new);
                    }
                    Ok(Err(failure)) => {
                        rustix::io::write(rustix::stdio::stderr(), format!("{failure}\n").as_bytes()).ok();
                        return Ok(code_of_failure(&failure));
                    }
                    Err(cause) => return Err(format!("the guest's answer cannot be read: {cause}")),
                },
                Kind::Data => {
                    if let Some(relay) = &mut relay {
                        relay.data(&frame.payload);
                    }
                }
                Kind::Window => {
                    if let Some(relay) = &mut relay {
                        relay.grant(&frame.payload);
                    }
                }
                Kind::End => {
                    ended = Some(serde_json::from_slice(&frame.payload).unwrap_or(Ended::Code(u8::MAX)));
                }
                _ => {}
            }
        }
    }
}
