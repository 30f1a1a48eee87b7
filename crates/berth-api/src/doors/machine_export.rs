//! A machine's disks as a download.

use crate::error::ApiResult;
use crate::extract::Query;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use berth_engine::Engine;
use berth_engine::machines::{Export, ExportFormat, Part};
use berth_types::Error;
use bytes::Bytes;
use serde::Deserialize;
use std::io::Read;
use tokio::sync::mpsc;

const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_MAX: usize = 4;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ExportQuery {
    /// qcow2 (the default), raw or ova.
    format: String,
    /// Which disk, where there are several.
    disk: String,
}

pub(crate) async fn export(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Query(query): Query<ExportQuery>,
) -> ApiResult<Response> {
    let format = match query.format.as_str() {
        "" | "qcow2" => ExportFormat::Qcow2,
        "raw" => ExportFormat::Raw,
        "ova" => ExportFormat::Ova,
        other => {
            return Err(Error::invalid(format!("unknown format {other:?}"))
                .with_hint("qcow2, raw and ova are written")
                .into());
        }
    };
    let disk = Some(query.disk.as_str()).filter(|disk| !disk.is_empty());
    let Export { file_name, length, parts } = engine.machines().export(&id, format, disk).await?;
    // Names of machines have only letters, digits, dots, dashes and underscores.
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file_name}\"")),
    ];
    Ok((headers, body(parts)).into_response())
}

/// Read on a thread of its own while they are sent.
pub(crate) fn body(parts: Vec<Part>) -> Body {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || send(parts, &sender));
    Body::from_stream(futures_util::stream::unfold(receiver, |mut receiver| async move {
        let chunk: std::io::Result<Bytes> = receiver.recv().await?;
        Some((chunk, receiver))
    }))
}

/// Until all is sent, a file cannot be read, or the client has gone.
fn send(parts: Vec<Part>, to: &mpsc::Sender<std::io::Result<Bytes>>) {
    for part in parts {
        let sent = match part {
            Part::Bytes(bytes) => to.blocking_send(Ok(bytes.into())).is_ok(),
            Part::File(file, length) => send_file(&mut file.take(length), length, to),
        };
        if !sent {
            return;
        }
    }
}

fn send_file(file: &mut impl Read, length: u64, to: &mpsc::Sender<std::io::Result<Bytes>>) -> bool {
    let mut left = length;
    while left > 0 {
        let mut chunk = vec![0; CHUNK_BYTES];
        let next = match file.read(&mut chunk) {
            // Cut off: the client sees that the answer is not whole.
            Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        let failed = next.is_err();
        let message = next.map(|count| {
            chunk.truncate(count);
            left -= count as u64;
            Bytes::from(chunk)
        });
        if to.blocking_send(message).is_err() || failed {
            return false;
        }
    }
    true
}
