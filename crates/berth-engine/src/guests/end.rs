//! The end of a container in a machine that somebody wants at once: `kill`, `restart -t 0`, a grace that is over.
//!
//! A container's writes are the host's as soon as they are made; a guest holds them for some seconds, and a pulled plug would
//! lose them. So the guest is told to kill the container, which ends its machine with everything written. One that does not
//! answer, or writes without end, is ended anyway.

use super::Agent;
use crate::Engine;
use crate::containers::blocking;
use berth_agent_proto::Request;
use berth_types::ContainerId;
use berth_vm::spec::Accelerator;
use std::path::Path;
use std::time::Duration;

/// A guest that is well answers within that.
fn answers() -> Duration {
    match crate::machines::accelerator() {
        Accelerator::Kvm => Duration::from_secs(10),
        Accelerator::Tcg => Duration::from_secs(60),
    }
}

/// From its answer on, until everything is on the disk.
pub(crate) const WRITES: Duration = Duration::from_secs(60);

/// Has the guest kill its container; whether it does. May take as long as a guest has to answer.
pub(crate) async fn kill(engine: &Engine, id: &ContainerId) -> bool {
    let folder = crate::machines::run_folder(engine, id);
    let asked = blocking(move || ask(&folder, answers())).await;
    if let Err(error) = &asked {
        tracing::warn!(container = id.short(), %error, "ended without its guest: what that had not written is lost");
    }
    asked.is_ok()
}

fn ask(folder: &Path, time: Duration) -> berth_types::Result<()> {
    Agent::connect(folder, time)?.ask(&Request::Kill).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_agent_proto::{Answer, Failure, Kind, Say, encode};
    use berth_vm::spec::CONTROL_SOCKET;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_guest_that_does_not_answer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ask(folder.path(), Duration::from_secs(60)).is_err(), "there is no machine");
        let listener = UnixListener::bind(folder.path().join(CONTROL_SOCKET)).unwrap();
        assert!(ask(folder.path(), Duration::from_millis(50)).is_err());
        drop(listener.accept().unwrap());
        let guest = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 256];
            assert!(stream.read(&mut question).unwrap() > 0);
            let answer: Result<Answer, Failure> = Ok(Answer::Done);
            let mut bytes = Vec::new();
            encode(Kind::Answer, 1, &answer.to_json(), &mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        ask(folder.path(), Duration::from_secs(60)).unwrap();
        guest.join().unwrap();
    }
}
