//! Limits that change while a container's machine runs.
//!
//! Processors are the jail's affair: its cgroup on the host. Memory and number of processes are the guest's, whose
//! agent has the container in a cgroup of its own.

use super::Agent;
use super::start::size;
use crate::Engine;
use crate::containers::{Record, blocking};
use crate::oci;
use berth_agent_proto::{Answer, Request};
use berth_types::spec::Resources;
use berth_types::{Error, ErrorKind, Result};
use std::time::Duration;

const ANSWER: Duration = Duration::from_secs(60);
/// Of what a guest says.
const NOTES_MAX: usize = 8;
const NOTE_CHARS_MAX: usize = 300;

/// Tells the guest what is new in `new`; what counts only from the next start on, in words.
pub(crate) async fn update(engine: &Engine, now: &Record, new: &Record) -> Result<Vec<String>> {
    let (before, after) = (&now.spec.host.resources, &new.spec.host.resources);
    let mut notes = Vec::new();
    if size(after).0 > size(before).0 {
        notes.push(format!(
            "the machine has as many processors as it began with; {} from its next start on",
            size(after).0
        ));
    }
    if (before.memory_bytes, before.pids_limit) == (after.memory_bytes, after.pids_limit) {
        return Ok(notes);
    }
    let only = Resources { memory_bytes: after.memory_bytes, pids_limit: after.pids_limit, ..Resources::default() };
    let resources = serde_json::to_value(oci::resources(&only)?)
        .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the limits", &cause))?;
    let run = crate::machines::run_folder(engine, &new.id);
    let answer = blocking(move || Agent::connect(&run, ANSWER)?.ask(&Request::Update { resources })).await?;
    if let Answer::Changed { notes: theirs } = answer {
        let bounded = |note: String| note.chars().filter(|c| !c.is_control()).take(NOTE_CHARS_MAX).collect();
        notes.extend(theirs.into_iter().take(NOTES_MAX).map(bounded));
    }
    Ok(notes)
}
