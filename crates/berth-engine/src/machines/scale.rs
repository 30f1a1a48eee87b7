//! Processors and memory of a machine that runs.
//!
//! ```text
//!  processors   device_add: the guest hears of it by ACPI; its agent lets them take part, or not any more
//!  more memory  virtio-mem: so much of its room as is asked for is the guest's, in blocks of 2 MiB
//!  less memory  first what was added goes; below what the machine began with the balloon takes it
//! ```
//!
//! For both a machine needs room that it began with. Possible processors cost a guest some 256 KiB each. Room for memory
//! costs a Linux guest 64 MiB: as soon as memory above 4 GiB is possible, it sets them aside for devices that cannot reach there. So
//! a machine has that room by itself only where it has a GiB to begin with.
//!
//! Processors that are given back stay plugged in, and idle: QEMU 7.2 corrupts its memory when it unplugs emulated ones.
//!
//! A guest need not do any of this. What it does not do within a time comes with the next start, and the answer says so.

use super::{Machines, Record, guest, monitor};
use crate::containers::Container;
use crate::oci::HostFacts;
use berth_agent_proto::{Answer, Request};
use berth_types::{ContainerId, Error, Result};
use berth_vm::command::{MORE_MEMORY, processor};
use berth_vm::qmp::{Client, QmpError};
use berth_vm::spec::{CPUS_MAX, MEMORY_BLOCK_BYTES, MEMORY_BYTES_MAX};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A machine with so much has room for more by itself.
const ROOM_FROM_BYTES: u64 = 1 << 30;
/// Emulated processors of QEMU 7.2 reach 40 bits of addresses, on other machines fewer.
const ROOM_BYTES_MAX: u64 = 256 << 30;
/// How many times the processors that it begins with, and at least how many, are possible; never more than the host has.
const CPUS_TIMES: u16 = 4;
const CPUS_ROOM_MIN: u16 = 8;

/// The whole conversation.
const SECONDS_MAX: u64 = 600;
/// A guest that has done nothing for so long does nothing.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const AGENT: Duration = Duration::from_secs(5);
/// What a guest keeps beside what it uses, when memory is taken: below that it would end processes.
const MARGIN_BYTES: u64 = 24 << 20;
/// The balloon takes whole pages, and a guest may round.
const BALLOON_OFF_BYTES: u64 = 1 << 20;

/// What it can have of processors while it runs.
pub(crate) fn cpus_max(cpus: u16) -> u16 {
    let host = u16::try_from(HostFacts::get().cpus).unwrap_or(CPUS_MAX);
    cpus_room(cpus, host)
}

fn cpus_room(cpus: u16, host: u16) -> u16 {
    cpus.saturating_mul(CPUS_TIMES).max(CPUS_ROOM_MIN).min(host).clamp(cpus, CPUS_MAX.max(cpus))
}

/// Memory that can be added to what it begins with.
pub(super) fn room(memory_bytes: u64, memory_max_bytes: u64) -> u64 {
    let most = match memory_max_bytes {
        0 if memory_bytes < ROOM_FROM_BYTES => 0,
        0 => crate::host::memory_total(),
        most => most,
    };
    most.saturating_sub(memory_bytes).min(ROOM_BYTES_MAX) / MEMORY_BLOCK_BYTES * MEMORY_BLOCK_BYTES
}

/// What it can have of memory while it runs.
pub(super) fn memory_max(record: &Record) -> u64 {
    record.memory_bytes + room(record.memory_bytes, record.memory_max_bytes)
}

pub(super) fn check_room(memory_bytes: u64, memory_max_bytes: u64) -> Result<()> {
    match memory_max_bytes {
        0 => Ok(()),
        most if most < memory_bytes => Err(Error::invalid(format!(
            "at most {most} bytes of memory are less than the {memory_bytes} that it begins with"
        ))),
        most if most > MEMORY_BYTES_MAX => Err(Error::invalid(format!("{most} bytes of memory: at most 4 TiB"))),
        _ => Ok(()),
    }
}

/// A running machine's hardware, as QEMU says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) cpus: u16,
    pub(crate) cpus_max: u16,
    /// What it began with.
    pub(crate) memory_bytes: u64,
    pub(crate) room_bytes: u64,
    /// Of the room, what the guest has.
    pub(crate) added_bytes: u64,
    /// Of all of it, what the balloon has not.
    pub total_bytes: u64,
}

pub(crate) fn shape(monitor: &mut Client) -> std::result::Result<Shape, QmpError> {
    let count = |value: Value| u16::try_from(value.as_array().map_or(0, Vec::len)).unwrap_or(u16::MAX);
    let cpus = count(monitor.ask("query-cpus-fast", json!({}))?);
    let cpus_max = count(monitor.ask("query-hotpluggable-cpus", json!({}))?).min(CPUS_MAX);
    let memory = monitor.ask("query-memory-size-summary", json!({}))?["base-memory"].as_u64().unwrap_or(0);
    let devices = monitor.ask("query-memory-devices", json!({}))?;
    let more = devices.as_array().into_iter().flatten().find(|one| one["data"]["id"] == MORE_MEMORY);
    let number = |name: &str| more.and_then(|one| one["data"][name].as_u64()).unwrap_or(0);
    let (room_bytes, added_bytes) = (number("max-size").min(MEMORY_BYTES_MAX), number("size").min(MEMORY_BYTES_MAX));
    let held = memory.saturating_sub(ballooned(monitor)?.unwrap_or(memory));
    let total_bytes = memory.saturating_add(added_bytes).saturating_sub(held);
    Ok(Shape { cpus, cpus_max, memory_bytes: memory, room_bytes, added_bytes, total_bytes })
}

/// What the balloon leaves of the memory that the machine began with; `None`: the guest has no driver for it.
fn ballooned(monitor: &mut Client) -> std::result::Result<Option<u64>, QmpError> {
    match monitor.ask("query-balloon", json!({})) {
        Ok(answer) => Ok(answer["actual"].as_u64()),
        Err(QmpError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The agent in the guest, where there is one.
pub(crate) struct Guest {
    engine: crate::Engine,
    id: ContainerId,
    has_agent: bool,
}

impl Guest {
    /// Of a container's machine, whose first process it is.
    pub(crate) fn of_container(engine: &crate::Engine, id: &ContainerId) -> Guest {
        Guest { engine: engine.clone(), id: id.clone(), has_agent: true }
    }

    /// Lets so many processors take part, and all memory; how many take part now. `None`: nobody answers.
    pub(crate) fn takes(&self, cpus: u16) -> Option<u16> {
        if !self.has_agent {
            return None;
        }
        let mut agent = guest::agent(&self.engine, &self.id, AGENT).ok()?;
        agent.ask(&Request::Online { cpus }).ok()?;
        match agent.ask(&Request::Statistics).ok()? {
            Answer::Statistics(said) if said.cpus_online > 0 => Some(said.cpus_online),
            _ => None,
        }
    }
}

/// Looks again until `done`, or until nothing has moved for a time; the last look.
pub(super) fn watch<T: PartialEq + Copy>(
    mut look: impl FnMut() -> std::result::Result<T, QmpError>,
    done: impl Fn(T) -> bool,
) -> std::result::Result<T, QmpError> {
    let (mut last, mut moved) = (look()?, Instant::now());
    while !done(last) && moved.elapsed() < PATIENCE {
        std::thread::sleep(LOOK_AGAIN);
        let now = look()?;
        if now != last {
            (last, moved) = (now, Instant::now());
        }
    }
    Ok(last)
}

/// What became of one wish: at once, with something to say of it or nothing, or later, for a reason.
pub(crate) enum Outcome {
    Now(&'static str),
    Later(String),
}

pub(crate) type Answered = std::result::Result<Outcome, QmpError>;

fn later(why: impl Into<String>) -> Answered {
    Ok(Outcome::Later(why.into()))
}

/// Possible processors by their core: whether each is there.
fn slots(monitor: &mut Client) -> std::result::Result<Vec<Value>, QmpError> {
    let answer = monitor.ask("query-hotpluggable-cpus", json!({}))?;
    let mut slots = answer.as_array().cloned().unwrap_or_default();
    slots.sort_by_key(|slot| slot["props"]["core-id"].as_u64());
    slots.truncate(usize::from(CPUS_MAX));
    Ok(slots)
}

fn plug(monitor: &mut Client, wanted: u16) -> std::result::Result<(), QmpError> {
    for (core, slot) in (0..wanted).zip(slots(monitor)?) {
        if slot.get("qom-path").is_none() {
            let mut device = slot["props"].clone();
            (device["driver"], device["id"]) = (slot["type"].clone(), json!(processor(core)));
            monitor.ask("device_add", device)?;
        }
    }
    Ok(())
}

/// Whether the guest's system has answered for all of the first processors that came by ACPI.
fn acknowledged(monitor: &mut Client, wanted: u16) -> std::result::Result<bool, QmpError> {
    let answer = monitor.ask("query-acpi-ospm-status", json!({}))?;
    let slot = (wanted - 1).to_string();
    let mut slots = answer.as_array().into_iter().flatten();
    let last = slots.find(|one| one["slot-type"] == "CPU" && one["slot"] == slot.as_str());
    // ACPI's _OST: what it answers (1: to a device that came), and 0 for success.
    Ok(last.is_some_and(|one| one["source"] == 1 && one["status"] == 0))
}

pub(crate) fn processors(monitor: &mut Client, guest: &Guest, before: Shape, wanted: u16) -> Answered {
    if wanted > before.cpus_max {
        return later(match before.cpus_max {
            most if most > before.cpus => format!("it began with room for {most}"),
            _ => "it began without room for more".to_owned(),
        });
    }
    plug(monitor, wanted)?;
    if let Some(now) = guest.takes(wanted) {
        let taken = match now == wanted {
            true => Some(now),
            false => watch(|| Ok(guest.takes(wanted)), |now| now == Some(wanted))?,
        };
        return match taken {
            Some(now) if now == wanted => Ok(Outcome::Now("")),
            // They are idle.
            Some(now) if now < wanted => later("its guest does not take processors while it runs"),
            _ => later("its guest does not give processors back while it runs"),
        };
    }
    match wanted.cmp(&before.cpus) {
        std::cmp::Ordering::Less => later("its guest has no agent that lets go of them"),
        std::cmp::Ordering::Equal => Ok(Outcome::Now("")),
        std::cmp::Ordering::Greater => match watch(|| acknowledged(monitor, wanted), |known| known)? {
            true => Ok(Outcome::Now(", where its guest uses them: it has no agent that lets them take part")),
            false => later("its guest does not take processors while it runs"),
        },
    }
}

/// Asks the guest to have so much of its room; what it has of it then.
pub(crate) fn take_of_room(monitor: &mut Client, added: u64) -> std::result::Result<u64, QmpError> {
    let path = format!("/machine/peripheral/{MORE_MEMORY}");
    let ask = |value: u64, monitor: &mut Client| {
        monitor.ask("qom-set", json!({"path": path, "property": "requested-size", "value": value})).map(drop)
    };
    ask(added, monitor)?;
    let now = watch(|| Ok(shape(monitor)?.added_bytes), |now| now == added)?;
    if now < added {
        // It does not come as a surprise later.
        ask(now, monitor)?;
    }
    Ok(now)
}

fn memory(monitor: &mut Client, guest: &Guest, before: Shape, wanted: u64) -> Answered {
    let mib = |bytes: u64| bytes >> 20;
    let added = wanted.saturating_sub(before.memory_bytes) / MEMORY_BLOCK_BYTES * MEMORY_BLOCK_BYTES;
    if wanted > before.memory_bytes && (added == 0 || added > before.room_bytes) {
        return later(match before.room_bytes {
            0 => "it began without room for more (--memory-max)".to_owned(),
            room => format!("it began with room for {} MiB (--memory-max)", mib(before.memory_bytes + room)),
        });
    }
    let mut says = "";
    if before.room_bytes > 0 {
        let now = take_of_room(monitor, added)?;
        if now != added {
            return later(match now {
                0 => "its guest takes no memory while it runs: it has no driver (virtio_mem)".to_owned(),
                _ => format!("its guest has {} MiB now", mib(before.memory_bytes + now)),
            });
        }
        if added > 0 && guest.takes(before.cpus).is_none() {
            says = ", where its guest uses it: it has no agent that takes it into use";
        }
    }
    // What is below the beginning, the balloon holds: none of it where all is wanted.
    let of_beginning = wanted.min(before.memory_bytes);
    let held = ballooned(monitor)?;
    if held.is_none_or(|now| now == of_beginning) && of_beginning == before.memory_bytes {
        return Ok(Outcome::Now(says));
    }
    if held.is_none() {
        return later("its guest gives no memory back while it runs: it has no driver (virtio_balloon)");
    }
    monitor.ask("balloon", json!({"value": of_beginning}))?;
    let near = |now: Option<u64>| now.is_some_and(|now| now.abs_diff(of_beginning) <= BALLOON_OFF_BYTES);
    let now = watch(|| ballooned(monitor), near)?;
    match near(now) {
        true => Ok(Outcome::Now(says)),
        false => later(format!("its guest has {} MiB now", mib(now.unwrap_or(before.memory_bytes) + added))),
    }
}

/// A wish, and the words for it.
pub(super) struct Wanted {
    pub cpus: Option<u16>,
    pub memory_bytes: Option<u64>,
}

impl Machines {
    /// Gives a running machine what is wanted, as far as its guest takes it. The caller holds its lock.
    pub(super) async fn scale(
        &self,
        container: &Arc<Container>,
        wanted: Wanted,
        changed: &mut super::types::Changed,
    ) -> Result<()> {
        let before = self.ask(container, monitor::ANSWER_SECONDS_MAX, shape).await?;
        let memory_then = wanted.memory_bytes.unwrap_or(before.total_bytes);
        if memory_then < before.total_bytes {
            self.must_fit(container, before.total_bytes, memory_then).await?;
        }
        let cpus_then = wanted.cpus.unwrap_or(before.cpus).max(before.cpus);
        // First the jail: QEMU must not be short of what its guest is given.
        let most = memory_then.max(before.memory_bytes.saturating_add(before.added_bytes));
        self.limit_jail(container, cpus_then, most).await?;
        let guest = Guest {
            engine: self.engine.clone(),
            id: container.id.clone(),
            has_agent: guest::answers(&self.engine, container).await,
        };
        let talk = move |monitor: &mut Client| {
            let memory =
                wanted.memory_bytes.map(|bytes| Ok((bytes, memory(monitor, &guest, before, bytes)?))).transpose()?;
            let cpus = wanted.cpus.map(|cpus| Ok((cpus, processors(monitor, &guest, before, cpus)?))).transpose()?;
            Ok((memory, cpus))
        };
        let failed = |error: Error| error.context(format!("cannot change machine {}", container.name()));
        let (memory, cpus) = self.ask(container, SECONDS_MAX, talk).await.map_err(failed)?;
        let memory = memory.map(|(bytes, outcome)| (memory_words(bytes), outcome));
        let cpus = cpus.map(|(cpus, outcome)| (cpus_words(cpus), outcome));
        for (what, outcome) in cpus.into_iter().chain(memory) {
            match outcome {
                Outcome::Now(says) => changed.now.push(format!("{what}: at once{says}")),
                Outcome::Later(why) => changed.later.push(format!("{what}: from its next start on, as {why}")),
            }
        }
        Ok(())
    }

    /// A guest whose memory is taken although it uses it ends its processes, or itself.
    async fn must_fit(&self, container: &Arc<Container>, now: u64, then: u64) -> Result<()> {
        let Some(said) = self.of_guest_now(container).await else { return Ok(()) };
        let left = said.memory_total_bytes.saturating_sub(now - then);
        let needs = said.memory_used_bytes.saturating_add(MARGIN_BYTES);
        match needs <= left {
            true => Ok(()),
            false => Err(Error::conflict(format!(
                "the guest of machine {} uses {} MiB of its memory: {} MiB are too little for it while it runs",
                container.name(),
                said.memory_used_bytes >> 20,
                then >> 20
            ))
            .with_hint(format!("stop what uses it, or stop the machine first: berth vm stop {}", container.name()))),
        }
    }
}

pub(crate) fn cpus_words(cpus: u16) -> String {
    format!("{cpus} {}", if cpus == 1 { "processor" } else { "processors" })
}

pub(super) fn memory_words(bytes: u64) -> String {
    format!("{} MiB of memory", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_room_for_processors_that_the_host_has() {
        assert_eq!((cpus_room(1, 2), cpus_room(1, 64), cpus_room(4, 64)), (2, 8, 16));
        assert_eq!((cpus_room(4, 2), cpus_room(64, 256), cpus_room(32, 256)), (4, 64, 64));
    }

    #[test]
    fn room_for_memory_is_for_those_who_ask_or_have_some() {
        const GIB: u64 = 1 << 30;
        assert_eq!(room(GIB / 2, 0), 0);
        assert_eq!(room(GIB / 2, 2 * GIB), 3 * GIB / 2);
        assert_eq!((room(GIB, GIB), room(GIB, 4 << 40)), (0, ROOM_BYTES_MAX));
        assert_eq!(room(GIB + (1 << 20), 2 * GIB) % MEMORY_BLOCK_BYTES, 0);
        assert!(check_room(GIB, 0).is_ok() && check_room(GIB, GIB).is_ok());
        assert!(check_room(GIB, GIB - 1).is_err() && check_room(GIB, u64::MAX).is_err());
    }
}
