//! `/images`: the routes of images.
//!
//! Image names have slashes: `/images/{*rest}` catches them, and [`split_action`] tells name from action.

use axum::Router;
use berth_engine::Engine;

pub(crate) fn router() -> Router<Engine> {
    Router::new()
}

/// `library/debian:12/json` → (`library/debian:12`, `json`); no known action at the end: (all, "").
#[allow(dead_code, reason = "the image routes begin here")]
pub(crate) fn split_action<'a>(rest: &'a str, actions: &[&'a str]) -> (&'a str, &'a str) {
    match rest.rsplit_once('/') {
        Some((name, action)) if actions.contains(&action) => (name, action),
        _ => (rest, ""),
    }
}
