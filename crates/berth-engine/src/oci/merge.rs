//! What the image says and what the caller says become one.

use berth_types::spec::{ContainerSpec, ImageDefaults};
use berth_types::{Error, Result};

/// Fills in what the caller left to the image, as Docker does it.
pub fn merge(_spec: &mut ContainerSpec, _image: &ImageDefaults) {}

/// Program and arguments of a merged specification; `no command specified` where there are none.
pub fn command(_spec: &ContainerSpec) -> Result<Vec<String>> {
    Err(Error::invalid("no command specified"))
}
