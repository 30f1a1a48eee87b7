//! `POST /api/v1/images/bootstrap`: a base image from a distribution's own packages.

use super::messages;
use crate::error::ApiResult;
use crate::json::{Fields, JsonBody};
use axum::extract::State;
use berth_engine::Engine;
use berth_engine::images::Bootstrap;

/// `{"suite", "packages", "name"?, "mirror"?, "variant"?, "bootable"?}`; answers messages, the last with `aux.ID`.
pub(super) async fn bootstrap(State(engine): State<Engine>, JsonBody(body): JsonBody) -> ApiResult {
    let fields = Fields::new(&body, "Bootstrap")?;
    let filled = |key: &str| Ok::<_, berth_types::Error>(fields.text_or_none(key)?.filter(|text| !text.is_empty()));
    let request = Bootstrap {
        suite: fields.text("suite")?,
        packages: fields.texts("packages")?,
        name: filled("name")?,
        mirror: filled("mirror")?,
        variant: filled("variant")?,
        bootable: fields.flag("bootable")?,
    };
    let stream = engine.images().bootstrap(request).await?;
    Ok(messages::answer(stream, false).await?)
}
