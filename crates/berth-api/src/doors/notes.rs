//! Notes on instances and machines.

use super::Done;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::follow::Owner;
use crate::guard::Target;
use crate::hub::Message;
use crate::identity::Who;
use crate::notes::Note;
use crate::schedules::now_millis;
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};

answers! {
    /// What people want to know about an instance.
    NoteView {
        /// Empty: there is none.
        text: String,
        who: String,
        changed_unix_millis: i64,
    }
}

requests! {
    NewNote {
        /// At most 8 KiB; empty: no note.
        text: String,
    }
}

pub(crate) async fn get(State(api): State<Api>, Path(id): Path<String>) -> ApiResult<axum::Json<NoteView>> {
    let id = api.engine.containers().resolve(&id).await?;
    let view = match api.notes.get(id.as_str())? {
        Some(Note { text, who, changed_unix_millis, .. }) => NoteView { text, who, changed_unix_millis },
        None => NoteView { text: String::new(), who: String::new(), changed_unix_millis: 0 },
    };
    Ok(axum::Json(view))
}

pub(crate) async fn put(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Json(body): Json<NewNote>,
) -> ApiResult<Response> {
    let found = api.engine.containers().inspect(&id, false).await?;
    let target = format!("{} bytes", body.text.len());
    let note = Note {
        text: body.text,
        who: who.user,
        changed_unix_millis: now_millis(),
        owner: Owner::new(&found.name, &found.spec.config.labels),
    };
    api.notes.put(found.id.as_str(), &note).await?;
    api.hub.send(Message::Event {
        kind: "note",
        action: "change".to_owned(),
        id: found.id.to_string(),
        name: found.name,
        unix_millis: note.changed_unix_millis,
    });
    let mut response = Done::plainly().into_response();
    // What it says is nobody's who reads the audit log.
    response.extensions_mut().insert(Target(target));
    Ok(response)
}
