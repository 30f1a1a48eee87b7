//! The Docker Engine API: translates, nothing more

pub mod networks;
