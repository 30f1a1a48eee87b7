//! Work off the answer's path, on two small threads.
//!
//! `networks`: keeps [`SLOTS`] namespaces ready, takes leftover interfaces apart and gives their addresses
//! back once they are gone: an address is never handed out while an old interface still answers for it.
//! `firewall`: waits for the kernel to tell that our table was deleted and puts it back whole.

use super::attach::{Blank, build_endpoint};
use super::state::{Leaving, Shared, Slot, State, host_name};
use berth_net::firewall::{Notice, Watch};
use berth_net::netlink::{Batch, NetlinkError};
use berth_net::route::{self, Route};
use berth_net::slot::{self, Namespace};
use berth_types::{Error, Result};
use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Namespaces ready for the next containers. Each costs the kernel about 150 KB, four bear a burst of starts.
pub(super) const SLOTS: usize = 4;
/// The same for user networks, once there are any.
const BLANKS: usize = 2;
/// The kernel takes a namespace apart within a few milliseconds after its last user; look that often.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The container that took a slot starts meanwhile: a new slot would take the processor from it.
const AFTER_START: Duration = Duration::from_millis(15);
/// An interface still there after so long is kept by somebody who joined the namespace. A busy kernel takes some
/// hundred milliseconds, and many namespaces at once; taking one interface away by hand makes it wait once more.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a failure to make a slot: not at once again, the host is short of something.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The threads go a few calls deep and keep nothing large on the stack.
pub(super) const STACK_BYTES: usize = 256 * 1024;

impl Shared {
    pub(super) fn start_behind(&self) -> Result<()> {
        let spawn = |name: &str, work: fn(Weak<Shared>)| {
            let me = self.me.clone();
            let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
            builder.spawn(move || work(me)).map(drop)
        };
        spawn("networks", keep_up)
            .and_then(|()| spawn("firewall", watch_table))
            .map_err(|error| Error::because(berth_types::ErrorKind::Internal, "cannot start a thread", &error))
    }
}

fn keep_up(shared: Weak<Shared>) {
    let mut looked = Instant::now();
    while let Some(shared) = shared.upgrade() {
        if !turn(&shared, &mut looked) {
            return;
        }
    }
}

/// One round; false: the engine is closing. `looked`: when the interfaces were listed last.
fn turn(shared: &Arc<Shared>, looked: &mut Instant) -> bool {
    // An address only: what a container waits for goes first, the rest when there is time.
    let (leaving, short, rest) = {
        let mut state = shared.lock();
        if state.closing {
            return false;
        }
        let rest = state.slot_taken.map_or(Duration::ZERO, |taken| AFTER_START.saturating_sub(taken.elapsed()));
        let short = state.slots.len() < SLOTS || state.blanks.len() < blanks_wanted(&state);
        let leaving = match looked.elapsed() >= LOOK_AGAIN {
            true => std::mem::take(&mut state.leaving),
            false => Vec::new(),
        };
        (leaving, short, rest)
    };
    if !leaving.is_empty() {
        settle(shared, leaving);
        *looked = Instant::now();
    }
    let mut pause = if shared.lock().leaving.is_empty() { Duration::from_secs(5) } else { LOOK_AGAIN };
    if short && !rest.is_zero() {
        drop(shared.work.wait_timeout(shared.lock(), rest));
        return true;
    }
    if short {
        match fill(shared) {
            Ok(()) => pause = Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "cannot prepare a network namespace");
                pause = AFTER_FAILURE;
            }
        }
    }
    if pause > Duration::ZERO {
        let state = shared.lock();
        let idle = |state: &mut State| {
            !state.closing
                && state.slots.len() >= SLOTS
                && state.blanks.len() >= blanks_wanted(state)
                && state.leaving.is_empty()
        };
        if pause == LOOK_AGAIN || pause == AFTER_FAILURE {
            // Only time helps; new work waits these milliseconds.
            drop(shared.work.wait_timeout(state, pause));
        } else {
            drop(shared.work.wait_timeout_while(state, pause, idle));
        }
    }
    true
}

/// Which of them there are: a few are asked for by name, since a list of all is long beside a thousand networks.
fn still_there(route: &mut Route, leaving: &[Leaving]) -> Result<HashSet<String>, NetlinkError> {
    const FEW: usize = 16;
    if leaving.len() > FEW {
        return Ok(route.links()?.into_iter().map(|link| link.name).collect());
    }
    let mut there = HashSet::new();
    for one in leaving {
        there.extend(route.link(&one.host_name)?.map(|link| link.name));
    }
    Ok(there)
}

/// Gives back the addresses of interfaces that are gone, and ends those that stay too long.
fn settle(shared: &Shared, leaving: Vec<Leaving>) {
    let there = Route::open().and_then(|mut route| Ok((still_there(&mut route, &leaving)?, route)));
    let (there, mut route) = match there {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "cannot list interfaces");
            shared.lock().leaving.extend(leaving);
            return;
        }
    };
    let (still, gone): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|one| there.contains(&one.host_name));
    for one in still.iter().filter(|one| one.since.elapsed() > PATIENCE) {
        let mut batch = Batch::default();
        route::delete_link(&mut batch, &one.host_name);
        // Whether it worked shows in the next round's list.
        route.run(batch).ok();
    }
    let mut state = shared.lock();
    for one in gone {
        if let Some(live) = state.networks.get_mut(&one.network) {
            let mut batch = Batch::default();
            for &address in &one.addresses {
                route::delete_neighbour(&mut batch, live.bridge_index(), address);
            }
            // Not there: a macvlan's, or of an engine before.
            route.run(batch).ok();
            one.addresses.into_iter().for_each(|address| live.give_back(address));
            live.give_back_port(one.shard);
        }
    }
    state.leaving.extend(still);
}

fn blanks_wanted(state: &State) -> usize {
    if state.networks.values().any(super::state::Live::has_names) { BLANKS } else { 0 }
}

fn fill(shared: &Shared) -> Result<()> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Error::because(berth_types::ErrorKind::Internal, "cannot make a network slot", error)
    };
    let planned = {
        let mut state = shared.lock();
        if state.slots.len() >= SLOTS {
            None
        } else {
            let bridge = state.find("bridge")?.network.id.clone();
            Some(shared.plan_slot(&mut state, &bridge)?)
        }
    };
    let Some((endpoint, site)) = planned else {
        let namespace = Namespace::create().map_err(|error| failed(&error))?;
        let names = match shared.names.are_there() {
            true => Some(namespace.open_name_sockets().map_err(|error| failed(&error))?),
            false => None,
        };
        let mut state = shared.lock();
        if !state.closing {
            state.blanks.push(Blank { namespace, names });
        }
        return Ok(());
    };
    let made = Namespace::create().and_then(|namespace| {
        let mut route = Route::open()
            .map_err(|source| berth_net::slot::SlotError::Interface { name: endpoint.interface.clone(), source })?;
        build_endpoint(&namespace, &mut route, &endpoint, site)?;
        slot::wait_operational(&mut route, &host_name(&endpoint.endpoint_id), site.uplink)?;
        Ok(namespace)
    });
    let mut state = shared.lock();
    let guarded = made.map_err(|error| failed(&error)).and_then(|namespace| {
        let guard = state.guard_of(&endpoint);
        if let (Some(guard), Some(ready)) = (guard, &mut state.ready) {
            ready.firewall.guard(vec![guard]).map_err(|error| failed(&error))?;
        }
        Ok(namespace)
    });
    match guarded {
        Ok(namespace) if !state.closing => {
            state.slots.push(Slot { namespace, endpoint });
            if state.slots.len() >= SLOTS {
                state.slot_taken = None;
            }
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => {
            state.leave(&endpoint);
            Err(error)
        }
    }
}

fn watch_table(shared: Weak<Shared>) {
    let Some(table) = shared.upgrade().map(|shared| shared.table()) else { return };
    let mut watch = match Watch::open(&table) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "the firewall table is not watched");
            return;
        }
    };
    // Before anything large is published: what follows is only faster with it.
    match (watch.ear(), shared.upgrade()) {
        (Ok(ear), Some(shared)) => {
            if let Some(ready) = &mut shared.lock().ready {
                ready.firewall.heard_by(ear);
            }
        }
        (Err(error), _) => tracing::warn!(%error, "large changes to the firewall take longer"),
        (_, None) => return,
    }
    loop {
        let notice = watch.wait();
        let Some(shared) = shared.upgrade() else { return };
        let notice = match notice {
            Ok(Notice::Nothing) => continue,
            Ok(notice) => notice,
            Err(error) => {
                tracing::warn!(%error, "the firewall table is not watched any more");
                return;
            }
        };
        let mut state = shared.lock();
        if state.closing {
            return;
        }
        let Some(ready) = &mut state.ready else { continue };
        // First what every container's packets depend on.
        let healed = if notice == Notice::TableDeleted { ready.firewall.heal() } else { Ok(false) };
        // A flush takes the rules in other people's chains along.
        if let Err(error) = ready.firewall.pass_foreign_chains() {
            tracing::warn!(%error, "cannot pass the host's forward chains");
        }
        match healed {
            Ok(true) => tracing::warn!(table, "somebody deleted the firewall table; it is back"),
            Ok(false) => (),
            Err(error) => tracing::error!(%error, table, "the firewall table is gone and cannot be put back"),
        }
    }
}
