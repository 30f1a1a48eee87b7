//! Images from and to registries: the real one, and ones that lie.

mod common;
mod hostile;
mod login;
mod mirrors;
mod repair;
mod send;
mod terminal;
mod transfer;
mod trouble;
mod ways;
