//! Networks that a container in a machine, or a whole machine, joins and leaves while it runs.
//!
//! ```text
//!  join   interface in the jail's network ── handed over: tap ── netdev_add, device_add ── the guest's new card
//!  leave  device_del, once the guest has given it back netdev_del ── tap and bridge go ── the interface goes
//!  both   the agent hears of all cards as they should be, and of names and hosts
//! ```

use super::start::configure;
use super::{Agent, user};
use crate::Engine;
use crate::containers::{Paths, Record, blocking};
use crate::machines::told;
use crate::networks::{Attachment, Endpoint};
use berth_agent_proto::Request;
use berth_net::rate::Bandwidth;
use berth_net::slot::{Namespace, SlotError};
use berth_types::{Error, ErrorKind, Result};
use berth_vm::command::{SPARE_PORTS, SPARE_PORTS_OF_CONTAINERS, card_bus, card_on, spare_bus};
use berth_vm::qmp::{Client, QmpError};
use berth_vm::spec::{NICS_MAX, Nic, QMP_SOCKET};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// All of a conversation with the monitor; a guest that is asked for a card takes some of it.
const MONITOR: Duration = Duration::from_secs(60);
/// The guest gives a card back within that, or keeps it.
const GIVES_BACK: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const ANSWER: Duration = Duration::from_secs(120);
const PERIPHERAL: &str = "/machine/peripheral";

fn unhanded(cause: &SlotError) -> Error {
    Error::because(ErrorKind::Internal, "cannot give the machine its network card", cause)
}

fn monitor(engine: &Engine, record: &Record) -> Result<Client> {
    let folder = crate::machines::run_folder(engine, &record.id);
    Client::connect(&folder, QMP_SOCKET, MONITOR).map_err(|error| told(&error))
}

/// Devices of the machine that have a name.
fn devices(monitor: &mut Client) -> Result<BTreeSet<String>> {
    crate::machines::devices(monitor).map_err(|error| told(&error))
}

/// A property of a card, in QEMU's words.
fn property(monitor: &mut Client, card: &str, name: &str) -> Result<String> {
    let path = format!("{PERIPHERAL}/{card}");
    let value = monitor.ask("qom-get", json!({"path": path, "property": name})).map_err(|error| told(&error))?;
    Ok(value.as_str().unwrap_or_default().to_owned())
}

fn cards(devices: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    devices.iter().filter(|name| name.starts_with("nic"))
}

/// The container has `endpoint` now: so has its guest.
pub(crate) async fn joined(
    engine: &Engine,
    record: &Record,
    attachment: &Attachment,
    endpoint: &Endpoint,
) -> Result<()> {
    let (engine, record, attachment, endpoint) = (engine.clone(), record.clone(), attachment.clone(), endpoint.clone());
    blocking(move || {
        let namespace = Namespace::open(&attachment.netns).map_err(|cause| unhanded(&cause))?;
        let bandwidth = record.machine.as_ref().map_or(Bandwidth::default(), |machine| machine.bandwidth);
        let nic = crate::machines::hand_over(&namespace, &endpoint, user(&record.id), false, bandwidth);
        let nic = nic.map_err(|cause| unhanded(&cause))?;
        let done = plug(&engine, &record, &nic).and_then(|()| tell(&engine, &record, &attachment, Some(&endpoint)));
        if done.is_err() {
            // A card that it has nevertheless: what undoes the join takes it away.
            let (tap, bridge) = crate::machines::beside(&endpoint.interface);
            if unplug(&engine, &record, &endpoint.mac_address).is_ok() {
                namespace.take_back(&tap, &bridge).map_err(|cause| unhanded(&cause))?;
            }
        }
        done
    })
    .await
}

/// The container is about to lose `endpoint`: its guest loses the card first.
pub(crate) async fn leaving(
    engine: &Engine,
    record: &Record,
    attachment: &Attachment,
    endpoint: &Endpoint,
) -> Result<()> {
    let (engine, record, attachment, endpoint) = (engine.clone(), record.clone(), attachment.clone(), endpoint.clone());
    blocking(move || {
        unplug(&engine, &record, &endpoint.mac_address)?;
        let (tap, bridge) = crate::machines::beside(&endpoint.interface);
        let namespace = Namespace::open(&attachment.netns).map_err(|cause| unhanded(&cause))?;
        namespace.take_back(&tap, &bridge).map_err(|cause| unhanded(&cause))
    })
    .await
}

/// Addresses, routes, names and hosts as they are now.
pub(crate) async fn changed(engine: &Engine, record: &Record, attachment: &Attachment) -> Result<()> {
    let (engine, record, attachment) = (engine.clone(), record.clone(), attachment.clone());
    blocking(move || tell(&engine, &record, &attachment, None)).await
}

fn tell(engine: &Engine, record: &Record, attachment: &Attachment, new: Option<&Endpoint>) -> Result<()> {
    if record.machine.is_some() {
        return crate::machines::cards_changed(engine, &record.id, attachment, new);
    }
    let paths = Paths::new(engine.config(), &record.id);
    let texts = [("resolv.conf", paths.resolv_conf), ("hostname", paths.hostname), ("hosts", paths.hosts)];
    let request = Request::Configure(Box::new(configure(record, attachment, &texts)?));
    let run = crate::machines::run_folder(engine, &record.id);
    Agent::connect(&run, ANSWER)?.ask(&request).map(drop)
}

fn plug(engine: &Engine, record: &Record, nic: &Nic) -> Result<()> {
    let mut monitor = monitor(engine, record)?;
    let there = devices(&mut monitor)?;
    let number = (0..2 * NICS_MAX).find(|number| !there.contains(&format!("nic{number}")));
    let Some(number) = number else { return Err(no_slot(record)) };
    let netdev =
        json!({"type": "tap", "id": format!("net{number}"), "ifname": nic.tap, "script": "no", "downscript": "no"});
    monitor.ask("netdev_add", netdev).map_err(|error| told(&error))?;
    // Spare slots, and those of cards that it gave back.
    let buses = (0..spare_ports(record)).map(spare_bus).chain((0..NICS_MAX).map(card_bus));
    for bus in buses {
        match monitor.ask("device_add", card_on(number, nic, &bus)) {
            Ok(_) => return Ok(()),
            // Taken, or none of this machine's.
            Err(QmpError::Refused { .. }) => {}
            Err(error) => return Err(told(&error)),
        }
    }
    monitor.ask("netdev_del", json!({"id": format!("net{number}")})).map_err(|error| told(&error))?;
    Err(no_slot(record))
}

fn spare_ports(record: &Record) -> u8 {
    if record.machine.is_some() { SPARE_PORTS } else { SPARE_PORTS_OF_CONTAINERS }
}

fn no_slot(record: &Record) -> Error {
    Error::conflict(format!("the machine of {} has no slot left for a network card", record.name)).with_hint(format!(
        "while it runs it takes {} more than it began with; a restart makes room",
        spare_ports(record)
    ))
}

/// The card with that hardware address; none there is done.
fn unplug(engine: &Engine, record: &Record, mac: &str) -> Result<()> {
    let mut monitor = monitor(engine, record)?;
    let mut found = None;
    for card in cards(&devices(&mut monitor)?) {
        if property(&mut monitor, card, "mac")?.eq_ignore_ascii_case(mac) {
            found = Some((card.clone(), property(&mut monitor, card, "netdev")?));
        }
    }
    let Some((card, netdev)) = found else { return Ok(()) };
    let deadline = Instant::now() + GIVES_BACK;
    monitor.ask("device_del", json!({"id": card})).map_err(|error| told(&error))?;
    while devices(&mut monitor)?.contains(&card) {
        if Instant::now() > deadline {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("the guest of {} did not give back its network card within {GIVES_BACK:?}", record.name),
            ));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    monitor.ask("netdev_del", json!({"id": netdev})).map(drop).map_err(|error| told(&error))
}
