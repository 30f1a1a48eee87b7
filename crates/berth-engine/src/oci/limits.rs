//! Limits in OCI's words.

use berth_types::Result;
use berth_types::spec::Resources;
use oci_spec::runtime::LinuxResources;

/// The limits without device rules, for live updates and as part of a configuration. Absent means untouched.
pub fn resources(_limits: &Resources) -> Result<LinuxResources> {
    Ok(LinuxResources::default())
}
