//! What cannot be honoured is refused before anything exists.

use super::HostFacts;
use berth_types::Result;
use berth_types::spec::{ContainerSpec, Resources};

/// Refuses what is wrong or not possible, in Docker's words; answers warnings for limits that this host
/// cannot keep. The specification is the merged one.
pub fn validate(_spec: &ContainerSpec, _facts: &HostFacts) -> Result<Vec<String>> {
    Ok(Vec::new())
}

/// The same for new limits of an existing container: `now` are its present ones.
pub fn validate_update(_now: &Resources, _update: &Resources, _facts: &HostFacts) -> Result<Vec<String>> {
    Ok(Vec::new())
}
