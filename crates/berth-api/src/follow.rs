//! What the console keeps beside the engine's records goes when that goes which it is about.
//!
//! ```text
//! an instance goes  ── one of its name and project is there ── its note and schedule are that one's
//!                   └─ none ── they go too
//! a volume goes     ── its schedule goes, its backups stay
//! ```
//!
//! So a note outlives a re-creation, whoever makes it: this console, or `docker compose` on the host, which both put the
//! old one aside under another name, make the new one, and remove the old one at the end. What was missed while the
//! engine was down, or of more events than anybody can hear, is made up for at the start and every ten minutes.

use crate::Api;
use crate::identity::projects::of;
use berth_engine::events::{Event, EventKind, EventQuery};
use berth_types::{ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// So much of an id is in the names of those that are put aside.
const SHORT: usize = 12;

/// The instance that something belongs to, by what it has in common with the one that comes after it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) project: Option<String>,
}

impl Owner {
    pub(crate) fn new(name: &str, labels: &BTreeMap<String, String>) -> Owner {
        Owner { name: name.to_owned(), project: of(labels).map(str::to_owned) }
    }
}

/// Follows the engine's events for as long as it lives.
pub(crate) async fn run(api: Api) {
    let Ok(mut events) = api.engine.events().subscribe(EventQuery::default()) else { return };
    let mut look = tokio::time::interval(LOOK_AGAIN);
    loop {
        let done = tokio::select! {
            event = events.next() => match event {
                Some(event) => heard(&api, &event).await,
                None => return,
            },
            _ = look.tick() => tidy(&api).await,
        };
        if let Err(error) = done {
            tracing::error!(%error, "notes and schedules of what is gone may still be there");
        }
    }
}

async fn heard(api: &Api, event: &Event) -> Result<()> {
    match (event.kind, event.action.as_str()) {
        (EventKind::Volume, "destroy") => volume_gone(api, &event.actor_id).await,
        (EventKind::Container, "destroy") => gone(api, &event.actor_id).await,
        (EventKind::Container, "rename") => {
            let (id, name) = (&event.actor_id, event.attributes.get("name").map_or("", String::as_str));
            if is_aside(id, name) {
                return Ok(());
            }
            api.notes.renamed(id, name).await?;
            api.schedules.renamed(id, name).await
        }
        _ => Ok(()),
    }
}

/// Whether an instance was given `name` to make room for the one that replaces it, here or by compose.
fn is_aside(id: &str, name: &str) -> bool {
    let short = id.get(..SHORT).unwrap_or(id);
    name.ends_with(&format!("-before-{short}")) || name.starts_with(&format!("{short}_"))
}

/// All that is about something that is not there.
async fn tidy(api: &Api) -> Result<()> {
    let mut owners = api.notes.owners()?;
    for (key, schedule) in api.schedules.list()? {
        match key.strip_prefix(crate::schedules::INSTANCE) {
            Some(id) => owners.push((id.to_owned(), schedule.owner)),
            None => volume_gone(api, &key).await?,
        }
    }
    for (id, _) in owners {
        if let Err(error) = api.engine.containers().resolve(&id).await
            && error.kind == ErrorKind::NotFound
        {
            gone(api, &id).await?;
        }
    }
    Ok(())
}

async fn volume_gone(api: &Api, volume: &str) -> Result<()> {
    // It may be there again, and only then it is a schedule of this one.
    if let Err(error) = api.engine.volumes().inspect(volume).await
        && error.kind == ErrorKind::NotFound
        && api.schedules.forget(volume).await?
    {
        tracing::info!(volume, "the volume is gone, and so is its schedule; its backups stay");
    }
    Ok(())
}

/// The instance `id` is not there any more: what is kept about it goes on to the one that replaced it, or goes too.
async fn gone(api: &Api, id: &str) -> Result<()> {
    let noted = api.notes.get(id)?.map(|note| note.owner);
    let scheduled = api.schedules.get(&crate::schedules::of_instance(id))?.map(|schedule| schedule.owner);
    let Some(owner) = noted.or(scheduled) else { return Ok(()) };
    let heir = match api.engine.containers().inspect(&owner.name, false).await {
        // A name can also be the beginning of an id.
        Ok(found) if found.name == owner.name && of(&found.spec.config.labels) == owner.project.as_deref() => {
            Some(found.id.to_string())
        }
        _ => None,
    };
    pass(api, id, heir.as_deref()).await
}

/// What is kept about `id` is `heir`'s from now on.
pub(crate) async fn pass(api: &Api, id: &str, heir: Option<&str>) -> Result<()> {
    api.notes.pass(id, heir).await?;
    api.schedules.pass(id, heir).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_those_that_are_put_aside_are_known() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        assert!(is_aside(id, "web-before-0123456789ab") && is_aside(id, "0123456789ab_web"));
        assert!(!is_aside(id, "web") && !is_aside(id, "web-before-ba9876543210"));
    }
}
