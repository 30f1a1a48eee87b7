//! What the agent in a machine's guest is asked, where it has one: whether it is there, to stand still for a moment, to
//! become another machine.
//!
//! A guest without an agent is a machine like any other: what needs one says so, what is only better with one is done
//! without.

use crate::Engine;
use crate::containers::{Container, blocking};
use crate::guests::{Agent, interfaces};
use crate::networks::{Attachment, Endpoint};
use berth_agent_proto::{Answer, Identity, Interface, Request};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use berth_vm::spec::CARDS;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// An agent that is there answers at once, also on a host that is busy.
const THERE: Duration = Duration::from_secs(5);
/// Until all file systems have written what they hold.
const WRITES: Duration = Duration::from_secs(60);
/// The guest goes on by itself after that, whatever became of us.
const STILL_SECONDS_MAX: u32 = 60;
/// A fork answers within that: its old card goes, its new one comes.
const BECOMES: Duration = Duration::from_secs(120);
const ASK_AGAIN: Duration = Duration::from_millis(20);
const NOTES_MAX: usize = 8;

pub(super) fn agent(engine: &Engine, id: &ContainerId, time: Duration) -> Result<Agent> {
    Agent::connect(&super::run_folder(engine, id), time)
}

/// Whether its guest's agent answers.
pub(super) async fn answers(engine: &Engine, container: &Arc<Container>) -> bool {
    if !container.record().machine.as_ref().is_some_and(|machine| machine.agent) {
        return false;
    }
    let (engine, id) = (engine.clone(), container.id.clone());
    blocking(move || agent(&engine, &id, THERE)?.ask(&Request::Ping)).await.is_ok()
}

/// A guest whose file systems stand still with everything written, until this is dropped.
pub(super) struct Still {
    engine: Engine,
    id: ContainerId,
}

impl Still {
    /// `None`: it has no agent, or one that cannot; its disks are then what a power cut would leave.
    pub(super) async fn hold(engine: &Engine, container: &Arc<Container>) -> Option<Still> {
        if !answers(engine, container).await {
            return None;
        }
        let still = Still { engine: engine.clone(), id: container.id.clone() };
        let (engine, id) = (engine.clone(), container.id.clone());
        let ask = move || agent(&engine, &id, WRITES)?.ask(&Request::Freeze { seconds_max: STILL_SECONDS_MAX });
        match blocking(ask).await {
            Ok(_) => Some(still),
            Err(error) => {
                tracing::warn!(machine = container.name(), %error, "its guest does not stand still for a snapshot");
                None
            }
        }
    }

    pub(super) async fn let_go(self) {
        let (engine, id) = (self.engine, self.id);
        let thawed = blocking(move || agent(&engine, &id, WRITES)?.ask(&Request::Thaw)).await;
        if let Err(error) = thawed {
            tracing::warn!(%error, "a guest goes on by itself within {STILL_SECONDS_MAX} seconds");
        }
    }
}

/// A running machine's cards are others now: who answers their DHCP is told, and a guest's agent gives the new one its
/// addresses. Blocks.
pub(crate) fn cards_changed(
    engine: &Engine,
    id: &ContainerId,
    attachment: &Attachment,
    new: Option<&Endpoint>,
) -> Result<()> {
    let run = super::run_folder(engine, id);
    let failed = |cause: &dyn std::error::Error| {
        Error::new(ErrorKind::Internal, format!("cannot write down the machine's network cards: {cause}"))
    };
    let text = serde_json::to_vec(&super::nics(attachment)).map_err(|cause| failed(&cause))?;
    super::replace(&run.join(CARDS), &text).map_err(|cause| failed(&cause))?;
    agent(engine, id, THERE)?.ask(&Request::Cards)?;
    let Some(new) = new else { return Ok(()) };
    let cards = interfaces(attachment).into_iter().filter(|card| card.mac == new.mac_address);
    let identity = Identity {
        interfaces: cards.map(|card| Interface { name: String::new(), ..card }).collect(),
        ..Identity::default()
    };
    // Without an agent the guest asks by DHCP, or waits for its user.
    let told = agent(engine, id, BECOMES).and_then(|mut agent| {
        agent.ask(&Request::Ping)?;
        agent.ask(&Request::Identify(Box::new(identity)))
    });
    if let Err(error) = told {
        tracing::debug!(machine = id.short(), %error, "a guest's new card has no address from us");
    }
    Ok(())
}

/// A fork's guest gets a host name, a machine-id, a clock, random numbers, addresses and SSH keys of its own.
pub(super) async fn become_another(engine: &Engine, container: &Arc<Container>) -> Result<()> {
    let (engine, of, name) = (engine.clone(), container.clone(), container.name());
    let attachment = container.live().run.attachment.clone();
    let entropy = [crate::containers::random_bytes()?, crate::containers::random_bytes()?].concat();
    let id = crate::containers::random_bytes()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let identity = Identity {
        hostname: Some(name.clone()),
        machine_id: Some(berth_types::digest::hex(&id[..16])),
        clock_unix_nanos: i64::try_from(now.as_nanos()).unwrap_or(0),
        entropy: berth_types::digest::hex(&entropy),
        // How they are called is the guest's own affair.
        interfaces: interfaces(&attachment).into_iter().map(|card| Interface { name: String::new(), ..card }).collect(),
        new_host_keys: true,
    };
    let answer = blocking(move || {
        let deadline = Instant::now() + BECOMES;
        loop {
            // Its machine makes the socket, and the agent hears of it, a moment after the start.
            let asked = agent(&engine, &of.id, BECOMES)
                .and_then(|mut agent| agent.ask(&Request::Ping).map(|_| agent))
                .map_err(|error| error.context("the agent of its guest does not answer"));
            match asked {
                Ok(mut agent) => return agent.ask(&Request::Identify(Box::new(identity))),
                Err(error) if Instant::now() > deadline || of.phase().pid().is_none() => return Err(error),
                Err(_) => std::thread::sleep(ASK_AGAIN),
            }
        }
    })
    .await;
    let failed =
        |error: Error| error.context(format!("machine {name} runs, but is in part still the one it was forked from"));
    if let Answer::Changed { notes } = answer.map_err(failed)? {
        for note in notes.into_iter().take(NOTES_MAX) {
            let note: String = note.chars().filter(|c| !c.is_control()).take(300).collect();
            tracing::warn!(machine = name, note, "a fork's guest");
        }
    }
    Ok(())
}
