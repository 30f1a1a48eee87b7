//! Results into the client's folders: an archive, or file by file.

use super::session::Session;
use axum::http::{HeaderMap, HeaderValue};
use berth_buildkit::grpc::{Code, Replies, Sending, Status};
use berth_buildkit::proto::fsutil::{Packet, PacketType, Stat};
use berth_buildkit::proto::session::{BytesMessage, FILE_SEND};
use berth_buildkit::stat::{self, Kind};
use berth_engine::builds::build::{FileKind, Meta, Tree, walk};
use bytes::Bytes;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A part of a file on the wire.
const PART_BYTES: usize = 32 << 10;

fn open(session: &Session) -> Result<(Sending, Replies), Status> {
    if !session.supports(FILE_SEND) {
        return Err(Status::new(Code::InvalidArgument, "the client takes no files: this output needs it to"));
    }
    let mut metadata = HeaderMap::new();
    metadata.insert("buildkit-attachable-exporter-id", HeaderValue::from_static("0"));
    Ok(session.channel().converse(FILE_SEND, metadata))
}

/// A file of the client's, written part by part.
pub(super) struct Archive {
    sending: Sending,
    replies: Replies,
}

impl Archive {
    pub(super) fn begin(session: &Session) -> Result<Archive, Status> {
        let (sending, replies) = open(session)?;
        Ok(Archive { sending, replies })
    }

    pub(super) async fn write(&mut self, data: Bytes) -> Result<(), Status> {
        match self.sending.send(&BytesMessage { data }).await {
            Ok(()) => Ok(()),
            // What stopped it is its last word.
            Err(stopped) => Err(self.replies.end().await.err().unwrap_or(stopped)),
        }
    }

    /// Waits until the client has all of it.
    pub(super) async fn finish(mut self) -> Result<(), Status> {
        drop(self.sending);
        self.replies.end().await
    }
}

/// All files of `tree` into the client's folder; answers the bytes sent.
pub(super) async fn folder(session: &Session, tree: Arc<dyn Tree>) -> Result<u64, Status> {
    let (sending, mut replies) = open(session)?;
    let listing = tree.clone();
    let listed = tokio::task::spawn_blocking(move || list(&*listing));
    let listed = listed.await.map_err(|cause| Status::internal(format!("listing ended early: {cause}")))?;
    let (stats, paths) = listed.map_err(|cause| Status::internal(format!("cannot list the result: {cause}")))?;
    let mut sent = 0;
    let work = async {
        for stat in stats {
            sending.send(&Packet { stat: Some(stat), ..Packet::new(PacketType::Stat) }).await?;
        }
        sending.send(&Packet::new(PacketType::Stat)).await?;
        while let Some(packet) = replies.next::<Packet>().await? {
            match packet.kind() {
                PacketType::Req => sent += content(&sending, &tree, &paths, packet.id).await?,
                PacketType::Fin => {
                    sending.send(&Packet::new(PacketType::Fin)).await?;
                    break;
                }
                PacketType::Err => {
                    let text = String::from_utf8_lossy(&packet.data).chars().take(4096).collect::<String>();
                    return Err(Status::new(Code::Unknown, format!("error from receiver: {text}")));
                }
                other => return Err(Status::internal(format!("the client sent {other:?} while it takes files"))),
            }
        }
        Ok(())
    };
    let outcome: Result<(), Status> = work.await;
    drop(sending);
    match outcome {
        Ok(()) => replies.end().await.map(|()| sent),
        // The client's own word on why it stopped says more.
        Err(status) if status.code == Code::Unavailable => Err(replies.end().await.err().unwrap_or(status)),
        Err(status) => Err(status),
    }
}

async fn content(sending: &Sending, tree: &Arc<dyn Tree>, paths: &[PathBuf], id: u32) -> Result<u64, Status> {
    let Some(path) = paths.get(id as usize).cloned() else {
        return Err(Status::new(Code::InvalidArgument, format!("invalid file id {id}")));
    };
    let failed = |cause: io::Error| Status::internal(format!("cannot read {}: {cause}", path.display()));
    let ended = |cause: tokio::task::JoinError| Status::internal(format!("reading ended early: {cause}"));
    let (opening, of) = (tree.clone(), path.clone());
    let mut file = tokio::task::spawn_blocking(move || opening.open(&of)).await.map_err(ended)?.map_err(failed)?;
    let mut sent = 0;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let mut part = vec![0; PART_BYTES];
            let count = file.read(&mut part)?;
            part.truncate(count);
            Ok::<_, io::Error>((file, part))
        });
        let (back, part) = read.await.map_err(ended)?.map_err(failed)?;
        file = back;
        sent += part.len() as u64;
        let last = part.is_empty();
        sending.send(&Packet::data(id, part.into())).await?;
        if last {
            return Ok(sent);
        }
    }
}

/// Everything below the root in fsutil's order, and where each is.
fn list(tree: &dyn Tree) -> io::Result<(Vec<Stat>, Vec<PathBuf>)> {
    let (mut stats, mut paths) = (Vec::new(), Vec::new());
    walk(tree, Path::new(""), &mut |path, meta| {
        if path.as_os_str().is_empty() {
            return Ok(true);
        }
        if let Some(stat) = stat_of(tree, path, meta)? {
            stats.push(stat);
            paths.push(path.to_owned());
        }
        Ok(true)
    })?;
    Ok((stats, paths))
}

fn stat_of(tree: &dyn Tree, path: &Path, meta: &Meta) -> io::Result<Option<Stat>> {
    let text = |path: &Path| {
        let no_text = || io::Error::other(format!("{}: a name that is no text cannot be sent", path.display()));
        path.to_str().map(str::to_owned).ok_or_else(no_text)
    };
    let mode = match meta.kind {
        FileKind::File => stat::mode(Kind::File, meta.mode),
        FileKind::Folder => stat::mode(Kind::Folder, meta.mode),
        FileKind::Link => stat::mode(Kind::Link, 0o777),
        FileKind::Special => match stat::special(meta.device.0, meta.mode) {
            Some(mode) => mode,
            // A socket without its program is nothing.
            None => return Ok(None),
        },
    };
    let mut sent = Stat {
        path: text(path)?,
        mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime_nanos: meta.mtime_nanos,
        linkname: meta.link.as_deref().map(text).transpose()?.unwrap_or_default(),
        ..Stat::default()
    };
    match meta.kind {
        FileKind::File => sent.size = i64::try_from(meta.size).unwrap_or(i64::MAX),
        FileKind::Special => {
            sent.devmajor = i64::from(rustix::fs::major(meta.device.1));
            sent.devminor = i64::from(rustix::fs::minor(meta.device.1));
        }
        _ => {}
    }
    if matches!(meta.kind, FileKind::File | FileKind::Folder) {
        for (name, value) in tree.attributes(path)? {
            if let Ok(name) = String::from_utf8(name) {
                sent.xattrs.insert(name, value);
            }
        }
    }
    Ok(Some(sent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_engine::builds::build::MemTree;

    #[test]
    fn files_are_listed_by_the_names_of_their_folders_first() {
        let mut tree = MemTree::default();
        for name in ["a.txt", "a/b", "a/c/d", "b"] {
            tree.add(name, Meta::file(1, 0o600), vec![1]);
        }
        let link = Meta { kind: FileKind::Link, link: Some("../x".into()), ..Meta::file(0, 0o777) };
        tree.add("z", link, Vec::new());
        let (stats, paths) = list(&tree).unwrap();
        let names: Vec<&str> = stats.iter().map(|stat| stat.path.as_str()).collect();
        assert_eq!(names, ["a", "a/b", "a/c", "a/c/d", "a.txt", "b", "z"]);
        assert_eq!((paths.len(), stats[6].linkname.as_str(), stats[1].size), (7, "../x", 1));
        assert_eq!((stats[0].mode, stats[1].mode), (0x8000_01ed, 0o600));
    }
}
