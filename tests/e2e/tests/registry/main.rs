//! Images from and to registries: the real one, and ones that lie.

mod common;
mod hostile;
mod login;
mod send;
mod transfer;
mod trouble;
