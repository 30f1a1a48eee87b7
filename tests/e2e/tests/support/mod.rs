//! Parts of the comparison with dockerd.

pub(crate) mod accepted;
pub(crate) mod exchange;
pub(crate) mod normal;
