//! An instance's files: folders, downloads, uploads, removal. Each path is resolved inside of the instance's root.

use super::Done;
use super::instances::may;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::{Json, Query};
use crate::guard::Target;
use crate::identity::Who;
use crate::schema::{answers, requests};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use berth_engine::containers::{ByteStream, FileEntry};
use berth_types::{Error, Result};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use tokio::sync::mpsc;

/// One upload. It is streamed to the disk: no memory holds it.
pub(crate) const UPLOAD_BYTES_MAX: u64 = 16 << 30;
const CHUNKS_MAX: usize = 8;
const KIND_MASK: u32 = 0o170_000;

answers! {
    /// What a folder of an instance holds.
    FolderView {
        /// Where it is, links followed.
        path: String,
        files: Vec<FileRow>,
        /// There is more than is told here.
        more: bool,
        /// Nothing can be written here.
        read_only: bool,
    }
    FileRow {
        name: String,
        /// folder, file, link, device, pipe or socket.
        kind: String,
        size_bytes: u64,
        /// As `ls` writes them: rwxr-xr-x.
        rights: String,
        user: u32,
        group: u32,
        modified_unix_millis: i64,
        /// Of a link: what it says.
        link: Option<String>,
        /// Its name is no UTF-8: it can be seen here, and nothing else.
        unreadable_name: bool,
    }
    Uploaded { size_bytes: u64 }
}

requests! {
    NewFolder { path: String }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PathQuery {
    path: String,
}

impl PathQuery {
    fn path(&self) -> Result<&str> {
        match self.path.as_str() {
            "" => Ok("/"),
            path if !path.starts_with('/') || path.contains('\0') => {
                Err(Error::invalid(format!("{path:?} is no path inside an instance")).with_hint("begin it with /"))
            }
            path => Ok(path),
        }
    }
}

fn kind(mode: u32) -> &'static str {
    match mode & KIND_MASK {
        0o040_000 => "folder",
        0o120_000 => "link",
        0o020_000 | 0o060_000 => "device",
        0o010_000 => "pipe",
        0o140_000 => "socket",
        _ => "file",
    }
}

fn rights(mode: u32) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::with_capacity(9);
    for (n, (bit, with, without)) in special.into_iter().enumerate() {
        let three = mode >> (6 - 3 * n);
        text.push(if three & 4 != 0 { 'r' } else { '-' });
        text.push(if three & 2 != 0 { 'w' } else { '-' });
        text.push(match (three & 1 != 0, mode & bit != 0) {
            (true, true) => with,
            (false, true) => without,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn row(entry: FileEntry) -> FileRow {
    FileRow {
        kind: kind(entry.mode).to_owned(),
        rights: rights(entry.mode),
        name: entry.name,
        size_bytes: entry.size_bytes,
        user: entry.user,
        group: entry.group,
        modified_unix_millis: entry.modified_unix_millis,
        link: entry.link,
        unreadable_name: entry.unreadable_name,
    }
}

/// Whoever reads or writes an instance's files can do what they can in its terminal.
async fn allowed(api: &Api, who: &Who, id: &str) -> ApiResult<()> {
    may(who, &api.engine.containers().inspect(id, false).await?.spec, "open the files of")
}

pub(crate) async fn folder(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
) -> ApiResult<axum::Json<FolderView>> {
    allowed(&api, &who, &id).await?;
    let found = api.engine.containers().folder(&id, query.path()?).await?;
    Ok(axum::Json(FolderView {
        path: found.path,
        files: found.entries.into_iter().map(row).collect(),
        more: found.more,
        read_only: found.read_only,
    }))
}

fn chunks(body: ByteStream) -> impl Stream<Item = Result<bytes::Bytes>> {
    futures_util::stream::unfold(body, |mut body| async move { body.next().await.map(|chunk| (chunk, body)) })
}

/// As a name in a header: what is not plain is left out, and told in full beside it (RFC 6266).
pub(crate) fn attachment(name: &str) -> String {
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || " ._-+".contains(*c)).collect();
    let encoded: String = name
        .bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

/// A file as it is, a folder as a tar archive.
pub(crate) async fn content(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
) -> ApiResult<Response> {
    allowed(&api, &who, &id).await?;
    let (containers, path) = (api.engine.containers(), query.path()?);
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let stat = containers.archive_stat(&id, path).await?;
    // Never as a page: whatever is in it, the browser only keeps it.
    let binary = "application/octet-stream";
    if kind(stat.mode) == "folder" {
        let archive = containers.archive_get(&id, path).await?;
        let name = format!("{}.tar", if name.is_empty() { "root" } else { name });
        let headers = [(header::CONTENT_TYPE, binary.to_owned()), (header::CONTENT_DISPOSITION, attachment(&name))];
        return Ok((headers, Body::from_stream(chunks(archive.body))).into_response());
    }
    let file = containers.file_content(&id, path).await?;
    let headers = [
        (header::CONTENT_TYPE, binary.to_owned()),
        (header::CONTENT_DISPOSITION, attachment(name)),
        (header::CONTENT_LENGTH, file.size_bytes.to_string()),
    ];
    Ok((headers, Body::from_stream(chunks(file.body))).into_response())
}

/// Passes a body on to whoever reads it; ends early where nobody does, or where it is too large.
pub(crate) async fn feed(body: Body, sender: mpsc::Sender<Result<bytes::Bytes>>, bytes_max: u64) {
    let mut body = body.into_data_stream();
    let mut left = bytes_max;
    while let Some(chunk) = body.next().await {
        let broken = |cause: axum::Error| Error::invalid(format!("the upload broke off: {cause}"));
        let chunk = chunk.map_err(broken).and_then(|chunk| {
            left = left
                .checked_sub(chunk.len() as u64)
                .ok_or_else(|| Error::invalid(format!("the upload is larger than {} GiB", bytes_max >> 30)))?;
            Ok(chunk)
        });
        let last = chunk.is_err();
        if sender.send(chunk).await.is_err() || last {
            return;
        }
    }
}

pub(crate) async fn upload(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
    body: Body,
) -> ApiResult<Response> {
    allowed(&api, &who, &id).await?;
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let pass = feed(body, sender, UPLOAD_BYTES_MAX);
    let path = query.path()?;
    let containers = api.engine.containers();
    let put = containers.file_put(&id, path, UPLOAD_BYTES_MAX, receiver);
    let (size_bytes, ()) = tokio::join!(put, pass);
    let mut response = axum::Json(Uploaded { size_bytes: size_bytes? }).into_response();
    response.extensions_mut().insert(Target(path.to_owned()));
    Ok(response)
}

pub(crate) async fn make_folder(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Json(body): Json<NewFolder>,
) -> ApiResult<Response> {
    allowed(&api, &who, &id).await?;
    let query = PathQuery { path: body.path };
    api.engine.containers().folder_make(&id, query.path()?).await?;
    Ok(done(&query.path))
}

pub(crate) async fn remove(
    State(api): State<Api>,
    who: Who,
    Path(id): Path<String>,
    Query(query): Query<PathQuery>,
) -> ApiResult<Response> {
    allowed(&api, &who, &id).await?;
    api.engine.containers().file_remove(&id, query.path()?).await?;
    Ok(done(&query.path))
}

fn done(target: &str) -> Response {
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(target.to_owned()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_read_as_ls_writes_them() {
        assert_eq!(rights(0o100_644), "rw-r--r--");
        assert_eq!(rights(0o041_777), "rwxrwxrwt");
        assert_eq!(rights(0o104_711), "rws--x--x");
        assert_eq!((kind(0o041_777), kind(0o100_644), kind(0o120_777)), ("folder", "file", "link"));
    }

    #[test]
    fn a_hostile_name_stays_inside_its_header() {
        let header = attachment("a\"\r\nset-cookie: x; é.txt");
        assert!(!header.contains('\r') && !header.contains('\n') && header.matches('"').count() == 2, "{header}");
        assert!(header.ends_with("%C3%A9.txt"), "{header}");
    }

    #[test]
    fn paths_are_absolute() {
        let path = |path: &str| PathQuery { path: path.to_owned() }.path().map(str::to_owned);
        assert_eq!(path("").unwrap(), "/");
        assert!(path("etc").is_err() && path("/a\0b").is_err());
    }
}
