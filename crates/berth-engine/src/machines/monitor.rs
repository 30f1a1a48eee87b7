//! What is asked of QEMU while a machine runs: over its monitor's socket, one short conversation for each
//! question, so that nothing has to be found again after the engine's restart.

use super::{Machines, start};
use crate::containers::{Container, blocking};
use berth_types::{Error, ErrorKind, Phase, Result};
use berth_vm::qmp::{self, Client, QmpError};
use berth_vm::spec::{QMP_SOCKET, VNC_SOCKET};
use serde_json::json;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A question and its answer; QEMU answers within milliseconds, also where its guest hangs.
pub(super) const ANSWER_SECONDS_MAX: u64 = 10;
/// QEMU has its sockets within that, on a host that is busy with everything else.
const OPENS: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A picture of 8K in 32 bits, uncompressed, would be 133 MB.
const PICTURE_BYTES_MAX: u64 = 64 << 20;
const PICTURE: &str = "screen.png";
const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

pub(crate) fn told(error: &QmpError) -> Error {
    let kind = match error {
        QmpError::Connect(_) | QmpError::Broken(_) => ErrorKind::Unavailable,
        QmpError::Silent => ErrorKind::Timeout,
        QmpError::Nonsense(_) => ErrorKind::DataLoss,
        QmpError::Refused { .. } => ErrorKind::Internal,
    };
    Error::because(kind, "the machine's monitor failed", error)
}

fn must_run(container: &Container) -> Result<()> {
    match container.phase() {
        Phase::Running { .. } => Ok(()),
        Phase::Paused { .. } => Err(Error::conflict(format!("machine {} is paused", container.name()))
            .with_hint(format!("berth vm resume {}", container.name()))),
        _ => Err(Error::conflict(format!("machine {} is not running", container.name()))
            .with_hint(format!("berth vm start {}", container.name()))),
    }
}

/// A connection to the monitor. QEMU makes its socket a moment after the machine counts as running.
fn reach(folder: &Path, container: &Container, time: Duration) -> Result<Client, QmpError> {
    let deadline = Instant::now() + OPENS;
    loop {
        match Client::connect(folder, QMP_SOCKET, time) {
            Err(QmpError::Connect(_)) if Instant::now() < deadline && container.phase().pid().is_some() => {
                std::thread::sleep(LOOK_AGAIN);
            }
            reached => return reached,
        }
    }
}

impl Machines {
    /// Runs `talk` with a machine's monitor. The machine is held: it neither starts nor is removed meanwhile.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        container: &Arc<Container>,
        seconds: u64,
        talk: impl FnOnce(&mut Client) -> Result<T, QmpError> + Send + 'static,
    ) -> Result<T> {
        must_run(container)?;
        let folder = start::run_folder(&self.engine, &container.id);
        let of = container.clone();
        blocking(move || {
            let mut client = reach(&folder, &of, Duration::from_secs(seconds)).map_err(|error| told(&error))?;
            talk(&mut client).map_err(|error| told(&error))
        })
        .await
    }

    /// Presses the reset button.
    pub async fn reset(&self, machine: &str) -> Result<()> {
        let found = self.get(machine)?;
        let _ops = found.ops.lock().await;
        self.ask(&found, ANSWER_SECONDS_MAX, |monitor| monitor.ask("system_reset", json!({})).map(drop))
            .await
            .map_err(|error| error.context(format!("cannot reset machine {}", found.name())))
    }

    /// A connection to the screen, keyboard and mouse: the other side speaks RFB (VNC).
    pub async fn display(&self, machine: &str) -> Result<UnixStream> {
        let found = self.get(machine)?;
        let _ops = found.ops.lock().await;
        self.must_have_display(&found)?;
        must_run(&found)?;
        let folder = start::run_folder(&self.engine, &found.id);
        blocking(move || qmp::dial(&folder, VNC_SOCKET).map_err(|error| told(&error)))
            .await
            .map_err(|error| error.context(format!("cannot open the display of machine {}", found.name())))
    }

    fn must_have_display(&self, container: &Container) -> Result<()> {
        match container.record().machine.as_ref().is_some_and(|machine| machine.display) {
            true => Ok(()),
            false => Err(Error::conflict(format!("machine {} has no display", container.name()))
                .with_hint("make it with --display vnc, or see its serial line with berth vm logs")),
        }
    }

    /// The screen as a PNG.
    pub async fn screenshot(&self, machine: &str) -> Result<Vec<u8>> {
        let found = self.get(machine)?;
        let _ops = found.ops.lock().await;
        let name = found.name();
        self.must_have_display(&found)?;
        let path = format!("{}/{PICTURE}", berth_vm::spec::RUN);
        let arguments = json!({"filename": path, "format": "png"});
        self.ask(&found, ANSWER_SECONDS_MAX, move |monitor| monitor.ask("screendump", arguments).map(drop))
            .await
            .map_err(|error| error.context(format!("cannot take a picture of machine {name}")))?;
        let folder = start::run_folder(&self.engine, &found.id);
        blocking(move || read_picture(&folder)).await
    }
}

/// The folder is the machine's user's: no link is followed, and what is there must be a picture.
fn read_picture(folder: &Path) -> Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |cause: std::io::Error| Error::because(ErrorKind::Internal, "cannot read the picture", &cause);
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    let path = folder.join(PICTURE);
    let file = std::fs::File::options().read(true).custom_flags(flags).open(&path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(PICTURE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    // Kept, it would only be an old one.
    std::fs::remove_file(&path).ok();
    match bytes.starts_with(PNG_MAGIC) {
        true => Ok(bytes),
        false => Err(Error::new(ErrorKind::DataLoss, "the machine's picture is no PNG")),
    }
}
