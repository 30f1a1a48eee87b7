//! Programs on foreign disk images, in a machine's jail.
//!
//! `qemu-img` reads formats that whole products were attacked by. So it runs where QEMU runs: as a user of its own with
//! no capability, no network, seccomp, limits, and of the host's files only `/usr`, the shared bases and a folder made for
//! it. Such a job is a machine that is in no list; its folder goes with it. One that an engine left behind is removed
//! by the next.
//!
//! What a job leaves is read only once its process has ended, and is foreign all the same.

use super::create::{Furnished, finish_specification, specification};
use super::record::Record;
use super::types::CreateMachine;
use super::{Machines, start};
use crate::containers::{RemoveOptions, WaitCondition, Wish, blocking};
use berth_types::spec::{ContainerSpec, NetworkMode, Ulimit};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use berth_vm::spec::MACHINE;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Caches of `qemu-img` are small, tables of large images are not.
const MEMORY_BYTES_MAX: i64 = 1 << 30;
const PIDS_MAX: i64 = 64;
/// Its last words in an error.
const WHY_BYTES_MAX: u64 = 2000;
const WHY: &str = "why";
const QEMU_IMG: &str = "/usr/bin/qemu-img";

/// A job that has ended well, with its folder. Dropped, it is removed.
pub(super) struct Done {
    machines: Machines,
    id: ContainerId,
    pub(super) folder: PathBuf,
}

impl Drop for Done {
    fn drop(&mut self) {
        let (machines, id) = (self.machines.clone(), self.id.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { machines.remove_tool(&id).await });
        }
    }
}

impl Machines {
    async fn remove_tool(&self, id: &ContainerId) {
        let options = RemoveOptions { force: true, volumes: true };
        if let Err(error) = self.containers().remove(id.as_str(), options).await {
            tracing::warn!(id = id.short(), %error, "a job on a disk image stays until the next start of the engine");
        }
    }

    /// Removes jobs that an earlier engine left.
    pub(crate) fn remove_tools(&self) {
        for container in self.engine.table().all() {
            if container.record().machine.as_ref().is_some_and(|machine| machine.tool) {
                let (machines, id) = (self.clone(), container.id.clone());
                tokio::spawn(async move { machines.remove_tool(&id).await });
            }
        }
    }

    /// Runs `qemu-img` with these words in a folder that `prepare` has filled. No file that it writes may be larger than
    /// `file_bytes_max`.
    pub(super) async fn qemu_img(
        &self,
        words: &[&str],
        file_bytes_max: u64,
        prepare: impl FnOnce(&Path) -> Result<()> + Send + 'static,
    ) -> Result<Done> {
        if !Path::new(QEMU_IMG).exists() {
            return Err(
                Error::new(ErrorKind::Unavailable, "qemu-img is not installed").with_hint("apt-get install qemu-utils")
            );
        }
        let wish = CreateMachine { network: NetworkMode::None, ..CreateMachine::default() };
        let mut spec = specification(&wish);
        let shell = ["/bin/sh", "-c", "exec \"$@\" >/dev/null 2>/machine/why", "sh", QEMU_IMG];
        spec.config.entrypoint = Some(shell.iter().chain(words).map(|word| (*word).to_owned()).collect());
        (spec.config.tty, spec.config.open_stdin) = (false, false);
        let resources = &mut spec.host.resources;
        (resources.memory_bytes, resources.pids_limit) = (MEMORY_BYTES_MAX, Some(PIDS_MAX));
        resources.devices.clear();
        let most = i64::try_from(file_bytes_max).unwrap_or(i64::MAX);
        resources.ulimits = vec![Ulimit { name: "fsize".to_owned(), soft: most, hard: most }];
        let engine = self.engine.clone();
        let furnish = move |id: &ContainerId, spec: &mut ContainerSpec| -> Result<Furnished> {
            let (folder, owner) = (start::folder(&engine, id), start::user(id));
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::os::unix::fs::chown(&folder, Some(owner), Some(owner)))
                .map_err(|cause| start::cannot_write(&folder, &cause))?;
            prepare(&folder)?;
            finish_specification(&engine, id, spec)?;
            Ok(Furnished { record: Record::of_a_tool(), _pins: Vec::new() })
        };
        let made = self.containers().create_machine(None, spec, Wish(Box::new(furnish))).await?;
        let folder = start::folder(&self.engine, &made.id);
        // From here on every way out removes it.
        let done = Done { machines: self.clone(), id: made.id.clone(), folder };
        self.containers().start(made.id.as_str()).await?;
        let ended = self.containers().wait(made.id.as_str(), WaitCondition::NotRunning).await?.await?;
        if ended.exit_code == 0 {
            return Ok(done);
        }
        let path = done.folder.join(WHY);
        let why = blocking(move || {
            let mut text = Vec::new();
            start::open_own(&path)?
                .take(WHY_BYTES_MAX)
                .read_to_end(&mut text)
                .map_err(|cause| Error::because(ErrorKind::Internal, "cannot read what qemu-img said", &cause))?;
            Ok(String::from_utf8_lossy(&text).trim().to_owned())
        })
        .await
        .unwrap_or_default();
        // As it sees its folder, nobody else does.
        let why = why.replace("qemu-img: ", "").replace(&format!("{MACHINE}/"), "");
        let why = match why.as_str() {
            "" => format!("qemu-img ended with code {}", ended.exit_code),
            _ => why,
        };
        Err(Error::new(ErrorKind::DataLoss, why))
    }
}
