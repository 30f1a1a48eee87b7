//! Limits that change while a container's machine runs.
//!
//! ```text
//!  processor time          the jail's cgroup, on the host
//!  memory, processes       the guest's cgroup of the container, by its agent
//!  more of both than the machine has   processors and memory that are plugged in (`crates/berth-engine/src/machines/scale.rs`)
//! ```
//!
//! A machine begins with room for [`TIMES`] its memory. Linux would set 64 MiB aside for that, for devices that do not reach
//! far (`swiotlb`); a container's machine has none of them and is told so. What it began with stays the machine's, also where
//! its container is given less.

use super::Agent;
use super::start::size;
use crate::Engine;
use crate::containers::{Container, Record, blocking};
use crate::machines::{Guest, Scaled, Shape, processors, shape, take_of_room, told};
use crate::oci;
use berth_agent_proto::{Answer, Request};
use berth_types::spec::Resources;
use berth_types::{Error, ErrorKind, Phase, Result};
use berth_vm::qmp::Client;
use berth_vm::spec::{MEMORY_BLOCK_BYTES, QMP_SOCKET};
use std::sync::Arc;
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// All that is asked of QEMU: its guest takes its time for what is plugged in.
const MONITOR: Duration = Duration::from_secs(600);
/// Of what a guest says.
const NOTES_MAX: usize = 8;
const NOTE_CHARS_MAX: usize = 300;
/// Of what it begins with; each further GiB takes 16 MiB of that for the kernel's own account of it.
const TIMES: u64 = 4;
const ROOM_BYTES_MIN: u64 = 1 << 30;
/// Emulated processors of QEMU 7.2 reach 40 bits of addresses.
const ROOM_BYTES_MAX: u64 = 256 << 30;

/// Memory that can be added to what a machine begins with.
pub(super) fn room(memory_bytes: u64) -> u64 {
    room_on(memory_bytes, crate::host::memory_total())
}

fn room_on(memory_bytes: u64, host_bytes: u64) -> u64 {
    let room = memory_bytes.saturating_mul(TIMES - 1).max(ROOM_BYTES_MIN);
    room.min(host_bytes.saturating_sub(memory_bytes)).min(ROOM_BYTES_MAX) / MEMORY_BLOCK_BYTES * MEMORY_BLOCK_BYTES
}

/// What the guest's own cgroup keeps to.
fn of_guest(all: &Resources) -> Resources {
    Resources {
        memory_bytes: all.memory_bytes,
        memory_swap_bytes: all.memory_swap_bytes,
        memory_reservation_bytes: all.memory_reservation_bytes,
        pids_limit: all.pids_limit,
        ..Resources::default()
    }
}

/// A running container's machine, as it is changed.
struct Change {
    engine: Engine,
    container: Arc<Container>,
    guest: Resources,
    cpus: u16,
    memory_bytes: u64,
}

/// Gives machine and guest what is new in `new`; what comes only with the next start, in words.
pub(crate) async fn update(
    engine: &Engine,
    container: &Arc<Container>,
    now: &Record,
    new: &Record,
) -> Result<Vec<String>> {
    let (before, after) = (&now.spec.host.resources, &new.spec.host.resources);
    if of_guest(before) == of_guest(after) && size(before) == size(after) {
        return Ok(Vec::new());
    }
    if matches!(container.phase(), Phase::Paused { .. }) {
        return Err(Error::conflict(format!("{} is paused: its guest hears of no limits", new.name))
            .with_hint(format!("berth unpause {}", new.name)));
    }
    let (cpus, memory_bytes) = size(after);
    let change = Arc::new(Change {
        engine: engine.clone(),
        container: container.clone(),
        guest: of_guest(after),
        cpus,
        memory_bytes,
    });
    let has = change.run(|change| change.has()).await?;
    let most = (has.memory_bytes + has.added_bytes).max(memory_bytes);
    // First the jail: QEMU must not be short of what its guest is given.
    change.limit_jail(new, has.cpus.max(cpus), most).await?;
    let notes = change.run(move |change| change.resize(has)).await?;
    if change.wants(has) < has.added_bytes {
        let has = change.run(|change| change.has()).await?;
        change.limit_jail(new, has.cpus, has.memory_bytes + has.added_bytes).await?;
    }
    Ok(notes)
}

impl Change {
    async fn run<T: Send + 'static>(
        self: &Arc<Change>,
        work: impl FnOnce(&Change) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let change = self.clone();
        blocking(move || work(&change)).await
    }

    fn monitor(&self) -> Result<Client> {
        let folder = crate::machines::run_folder(&self.engine, &self.container.id);
        Client::connect(&folder, QMP_SOCKET, MONITOR).map_err(|error| told(&error))
    }

    fn has(&self) -> Result<Shape> {
        shape(&mut self.monitor()?).map_err(|error| told(&error))
    }

    /// Of its room, what it should have.
    fn wants(&self, has: Shape) -> u64 {
        self.memory_bytes.saturating_sub(has.memory_bytes).next_multiple_of(MEMORY_BLOCK_BYTES).min(has.room_bytes)
    }

    async fn limit_jail(&self, record: &Record, cpus: u16, memory_bytes: u64) -> Result<()> {
        let (memory_bytes, pids) = crate::machines::limits_of_jail(cpus, memory_bytes);
        let mut resources = record.spec.host.resources.clone();
        (resources.memory_swap_bytes, resources.memory_reservation_bytes) = (0, 0);
        (resources.memory_bytes, resources.pids_limit) = (memory_bytes, Some(pids));
        self.engine.containers().limit(&self.container, &resources).await
    }

    /// More memory is there before its limit is higher, and its limit is lower before there is less.
    fn resize(&self, has: Shape) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let wants = self.wants(has);
        if wants > has.added_bytes {
            self.have(wants)?;
        }
        let given = self.has()?;
        let (is, wanted) = (given.memory_bytes + given.added_bytes, self.memory_bytes);
        if is < wanted {
            let why = match wants < given.added_bytes.max(wanted.saturating_sub(given.memory_bytes)) {
                true => format!("it began with room for {}", mib(given.memory_bytes + given.room_bytes)),
                false => "its guest takes no more while it runs".to_owned(),
            };
            notes.push(format!("the machine has {}; {} from its next start on, as {why}", mib(is), mib(wanted)));
        }
        notes.extend(self.tell()?);
        if wants < given.added_bytes {
            let left = self.have(wants)?;
            if left > wants {
                let bytes = given.memory_bytes + left;
                notes.push(format!("the machine keeps {} until its next start, as its guest uses it", mib(bytes)));
            }
        }
        let guest = Guest::of_container(&self.engine, &self.container.id);
        match processors(&mut self.monitor()?, &guest, given, self.cpus).map_err(|error| told(&error))? {
            Scaled::Now(_) => {}
            Scaled::Later(why) => {
                let words = crate::machines::cpus_words(self.cpus);
                notes.push(format!("{words} of the machine's from its next start on, as {why}"));
            }
        }
        Ok(notes)
    }

    /// Asks the guest to have so much of its room, and its agent to use it; what it has then.
    fn have(&self, wants: u64) -> Result<u64> {
        let mut monitor = self.monitor()?;
        let now = take_of_room(&mut monitor, wants).map_err(|error| told(&error))?;
        let cpus = shape(&mut monitor).map_err(|error| told(&error))?.cpus;
        Guest::of_container(&self.engine, &self.container.id).takes(cpus);
        Ok(now)
    }

    /// The limits of the container's cgroup in the guest.
    fn tell(&self) -> Result<Vec<String>> {
        let resources = serde_json::to_value(oci::resources(&self.guest)?)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the limits", &cause))?;
        let run = crate::machines::run_folder(&self.engine, &self.container.id);
        let answer = Agent::connect(&run, ANSWER)?.ask(&Request::Update { resources })?;
        let Answer::Changed { notes } = answer else { return Ok(Vec::new()) };
        let bounded = |note: String| note.chars().filter(|c| !c.is_control()).take(NOTE_CHARS_MAX).collect();
        Ok(notes.into_iter().take(NOTES_MAX).map(bounded).collect())
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB of memory", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_room_for_what_its_host_has() {
        const GIB: u64 = 1 << 30;
        let host = 64 * GIB;
        assert_eq!(room_on(192 << 20, host), GIB);
        assert_eq!(room_on(2 * GIB, host), 6 * GIB);
        assert_eq!(room_on(32 * GIB, host), 32 * GIB);
        assert_eq!(room_on((2 * GIB) + (1 << 20), 4 * GIB) % MEMORY_BLOCK_BYTES, 0);
        assert_eq!(room_on(80 * GIB, host), 0);
    }
}
