//! A client's folder as a tree of the builder.
//!
//! ```text
//!  client: STAT STAT STAT .. STAT(end)     names, rights, sizes: all of them, once
//!  we:     REQ 17                          a content, when the builder wants it, and a few that follow it
//!  client: DATA 17 .. DATA 17 (end)        into one unnamed file; hashed on the way
//! ```
//!
//! Contents that no step looks at never travel. What the client filters (its ignore file's patterns go to it) is not
//! in the tree. Everything is a stranger's word: names stay inside, links are never followed, numbers are bounded, and
//! what it says after that ends the transfer.

use super::known::Known;
use super::session::Session;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use berth_buildkit::grpc::{Code, Replies, Sending, Status};
use berth_buildkit::proto::fsutil::{Packet, PacketType, Stat};
use berth_buildkit::proto::session::FILE_SYNC;
use berth_buildkit::stat::{self, Kind};
use berth_engine::builds::build::{FileKind, Meta, Tree};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// More files are refused: each costs memory.
const FILES_MAX: usize = 2_000_000;
/// Contents asked for together with one that is wanted: as many, as large, as much.
const AHEAD_FILES_MAX: usize = 64;
const AHEAD_FILE_BYTES_MAX: u64 = 256 << 10;
const AHEAD_BYTES_MAX: u64 = 4 << 20;

/// What is asked of the client.
#[derive(Default)]
pub(super) struct Wanted<'a> {
    /// The folder, as the client calls it.
    pub(super) name: &'a str,
    /// Patterns of what is left out.
    pub(super) exclude: &'a [String],
    /// Nothing but these, and what their links lead to.
    pub(super) only: &'a [String],
}

impl Wanted<'_> {
    fn metadata(&self) -> Result<HeaderMap, Status> {
        let mut map = HeaderMap::new();
        let name = [self.name.to_owned()];
        let lists = [("dir-name", &name[..]), ("exclude-patterns", self.exclude), ("followpaths", self.only)];
        for (key, values) in lists {
            let plain = |text: &String| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
            let encode = !values.iter().all(plain);
            for value in values {
                let text = if encode { query_escaped(value) } else { value.clone() };
                let value = HeaderValue::from_str(&text)
                    .map_err(|_| Status::new(Code::InvalidArgument, format!("{key} {value:?} cannot be sent")))?;
                map.append(HeaderName::from_static(key), value);
            }
            if encode {
                let flag = HeaderName::try_from(format!("{key}-encoded"));
                map.insert(flag.map_err(|cause| Status::internal(cause.to_string()))?, HeaderValue::from_static("1"));
            }
        }
        Ok(map)
    }
}

fn query_escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

struct Entry {
    meta: Meta,
    /// Number of its STAT.
    id: u32,
    /// The earlier file that it is too.
    same_as: Option<PathBuf>,
}

/// Where a content is in the unnamed file.
#[derive(Clone)]
struct Content {
    parts: Arc<Vec<(u64, u64)>>,
    digest: [u8; 32],
}

struct Coming {
    parts: Vec<(u64, u64)>,
    hash: Sha256,
}

#[derive(Default)]
struct Contents {
    here: HashMap<u32, Content>,
    coming: HashMap<u32, Coming>,
    /// Bytes in the unnamed file.
    written: u64,
    /// No more will come.
    failed: Option<String>,
}

#[derive(Default)]
struct Shared {
    contents: Mutex<Contents>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, why: String) {
        self.lock().failed.get_or_insert(why);
        self.changed.notify_all();
    }
}

/// A folder of the client's.
pub(super) struct RemoteTree {
    entries: BTreeMap<PathBuf, Entry>,
    folders: HashMap<PathBuf, Vec<OsString>>,
    /// Files with a content of their own, in the client's order: number and size.
    order: Vec<(u32, u64)>,
    shared: Arc<Shared>,
    wanted: mpsc::UnboundedSender<u32>,
    spool: Arc<File>,
    known: Arc<Known>,
    listed_nanos: i64,
}

/// The conversation behind a tree; contents come as long as it is there.
pub(super) struct Transfer {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Transfer {
    /// Bytes of contents that came.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.lock().written
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        // Whoever waits for a content is on a thread of its own and sees it here only.
        self.shared.fail("the build has ended".to_owned());
    }
}

/// Lists the folder; its contents come as they are wanted. `spool`: an unnamed file for them.
pub(super) async fn receive(
    session: &Session,
    wanted: &Wanted<'_>,
    spool: File,
    known: Arc<Known>,
) -> Result<(Arc<RemoteTree>, Transfer), Status> {
    if !session.supports(FILE_SYNC) {
        return Err(Status::new(Code::InvalidArgument, "the client offers no files (no local sources enabled)"));
    }
    let (sending, mut replies) = session.channel().converse(FILE_SYNC, wanted.metadata()?);
    let mut list = List::default();
    loop {
        let Some(packet) = replies.next::<Packet>().await? else {
            return Err(Status::new(Code::Unavailable, "the client ended in the middle of its list of files"));
        };
        match (packet.kind(), packet.stat) {
            (PacketType::Stat, Some(stat)) => {
                list.add(stat)
                    .map_err(|why| Status::new(Code::InvalidArgument, format!("the build context has {why}")))?;
            }
            (PacketType::Stat, None) => break,
            (PacketType::Err, _) => return Err(from_sender(&packet.data)),
            (other, _) => {
                return Err(Status::internal(format!("the client sent {other:?} instead of its list of files")));
            }
        }
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let (shared, spool) = (Arc::new(Shared::default()), Arc::new(spool));
    let asking = tokio::spawn(ask(receiver, sending));
    let hearing = tokio::spawn(hear(replies, shared.clone(), spool.clone()));
    let tree = list.tree(shared.clone(), sender, spool, known);
    Ok((Arc::new(tree), Transfer { shared, tasks: [asking, hearing] }))
}

fn from_sender(text: &[u8]) -> Status {
    let text: String = String::from_utf8_lossy(text).chars().take(4096).collect();
    Status::new(Code::Unknown, format!("error from sender: {text}"))
}

/// Asks for contents; with the tree gone, says that there is nothing more to ask.
async fn ask(mut wanted: mpsc::UnboundedReceiver<u32>, sending: Sending) {
    while let Some(id) = wanted.recv().await {
        if sending.send(&Packet::request(id)).await.is_err() {
            // Why it ended is heard on the other side.
            return;
        }
    }
    sending.send(&Packet::new(PacketType::Fin)).await.ok();
}

async fn hear(mut replies: Replies, shared: Arc<Shared>, spool: Arc<File>) {
    let why = loop {
        match replies.next::<Packet>().await {
            Ok(Some(packet)) => match packet.kind() {
                PacketType::Data => {
                    if let Err(why) = shared.take(&packet, &spool) {
                        break why;
                    }
                }
                PacketType::Err => break from_sender(&packet.data).message,
                PacketType::Fin => {}
                other => break format!("the client sent {other:?} among contents"),
            },
            Ok(None) => break "the client has ended the transfer".to_owned(),
            Err(status) => break status.message,
        }
    };
    shared.fail(why);
}

impl Shared {
    /// A part of a content; an empty one is its end.
    fn take(&self, packet: &Packet, spool: &File) -> Result<(), String> {
        let mut contents = self.lock();
        let at = contents.written;
        let Some(coming) = contents.coming.get_mut(&packet.id) else {
            return Err(format!("the client sent content {} without being asked", packet.id));
        };
        if packet.data.is_empty() {
            if let Some(Coming { parts, hash }) = contents.coming.remove(&packet.id) {
                contents.here.insert(packet.id, Content { parts: Arc::new(parts), digest: hash.finalize().into() });
            }
            drop(contents);
            self.changed.notify_all();
            return Ok(());
        }
        let length = packet.data.len() as u64;
        coming.hash.update(&packet.data);
        match coming.parts.last_mut() {
            Some((start, held)) if *start + *held == at => *held += length,
            _ => coming.parts.push((at, length)),
        }
        contents.written += length;
        drop(contents);
        spool.write_all_at(&packet.data, at).map_err(|cause| format!("cannot keep the build context: {cause}"))
    }
}

/// What the client lists, as it comes.
#[derive(Default)]
struct List {
    entries: BTreeMap<PathBuf, Entry>,
    folders: HashMap<PathBuf, Vec<OsString>>,
    order: Vec<(u32, u64)>,
    count: u32,
}

impl List {
    fn add(&mut self, stat: Stat) -> Result<(), String> {
        let id = self.count;
        self.count += 1;
        if self.entries.len() >= FILES_MAX {
            return Err(format!("more than {FILES_MAX} files"));
        }
        let Some(path) = stat::inside(&stat.path) else { return Err(format!("{:?}, which leaves it", stat.path)) };
        if self.entries.contains_key(&path) {
            return Err(format!("{:?} twice", stat.path));
        }
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        if !parent.as_os_str().is_empty() {
            match self.entries.get(&parent) {
                Some(entry) if entry.meta.kind == FileKind::Folder => {}
                _ => return Err(format!("{:?} outside of any folder", stat.path)),
            }
        }
        let mut meta = Meta::file(u64::try_from(stat.size).unwrap_or(0), stat::rights(stat.mode));
        (meta.uid, meta.gid, meta.mtime_nanos) = (stat.uid, stat.gid, stat.mtime_nanos);
        let mut same_as = None;
        match stat::kind(stat.mode) {
            Kind::Folder => (meta.kind, meta.size) = (FileKind::Folder, 0),
            Kind::Link => {
                meta.kind = FileKind::Link;
                meta.link = Some(PathBuf::from(&stat.linkname));
            }
            // Pipes and devices mean nothing in a context.
            Kind::Special => return Ok(()),
            Kind::File if !stat.linkname.is_empty() => {
                let other = stat::inside(&stat.linkname);
                let of = other.as_ref().and_then(|other| self.entries.get(other));
                let Some(of) = of.filter(|of| of.meta.kind == FileKind::File && of.same_as.is_none()) else {
                    return Err(format!("{:?}, a link to {:?}, which is no file in it", stat.path, stat.linkname));
                };
                meta = of.meta.clone();
                same_as = other;
            }
            Kind::File => self.order.push((id, meta.size)),
        }
        if let Some(name) = path.file_name() {
            self.folders.entry(parent).or_default().push(name.to_owned());
        }
        self.entries.insert(path, Entry { meta, id, same_as });
        Ok(())
    }

    fn tree(
        mut self,
        shared: Arc<Shared>,
        wanted: mpsc::UnboundedSender<u32>,
        spool: Arc<File>,
        known: Arc<Known>,
    ) -> RemoteTree {
        let top = Entry { meta: Meta::folder(0o755), id: u32::MAX, same_as: None };
        self.entries.insert(PathBuf::new(), top);
        self.folders.values_mut().for_each(|names| names.sort());
        let List { entries, folders, order, .. } = self;
        let listed_nanos = berth_engine::events::now_unix_nanos();
        RemoteTree { entries, folders, order, shared, wanted, spool, known, listed_nanos }
    }
}

impl RemoteTree {
    /// A small file's bytes; `None` where there is no such file. Blocks.
    pub(super) fn small(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(entry) = self.entries.get(path) else { return Ok(None) };
        if entry.meta.kind != FileKind::File {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(io::Error::other(format!("{} is larger than {bytes_max} bytes", path.display())));
        }
        Ok(Some(bytes))
    }

    /// How many files and folders it has.
    pub(super) fn files(&self) -> usize {
        self.entries.len() - 1
    }

    fn file(&self, path: &Path) -> io::Result<&Entry> {
        let entry = self.entries.get(path).ok_or(io::ErrorKind::NotFound)?;
        let entry = match &entry.same_as {
            Some(other) => self.entries.get(other).ok_or(io::ErrorKind::NotFound)?,
            None => entry,
        };
        match entry.meta.kind {
            FileKind::File => Ok(entry),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// A file's content, asked for where it is not here. Waits for it.
    fn content(&self, path: &Path) -> io::Result<Content> {
        let id = self.file(path)?.id;
        let mut contents = self.shared.lock();
        loop {
            if let Some(content) = contents.here.get(&id) {
                return Ok(content.clone());
            }
            if let Some(why) = &contents.failed {
                return Err(io::Error::other(why.clone()));
            }
            if !contents.coming.contains_key(&id) {
                self.request(id, &mut contents);
            }
            contents = self.shared.changed.wait(contents).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn known_digest(&self, path: &Path) -> io::Result<Option<[u8; 32]>> {
        let meta = &self.file(path)?.meta;
        Ok(self.known.get(path, meta.size, meta.mtime_nanos))
    }

    /// This content, and small ones behind it: whoever wants one mostly wants its neighbours.
    fn request(&self, id: u32, contents: &mut Contents) {
        let Ok(at) = self.order.binary_search_by_key(&id, |(id, _)| *id) else { return };
        let mut bytes = 0;
        for (number, (id, size)) in self.order[at..].iter().take(AHEAD_FILES_MAX).enumerate() {
            let known = contents.here.contains_key(id) || contents.coming.contains_key(id);
            if number > 0 && (known || *size > AHEAD_FILE_BYTES_MAX || bytes + size > AHEAD_BYTES_MAX) {
                break;
            }
            bytes += size;
            contents.coming.insert(*id, Coming { parts: Vec::new(), hash: Sha256::default() });
            if self.wanted.send(*id).is_err() {
                contents.failed.get_or_insert("the client wants no more questions".to_owned());
                return;
            }
        }
    }
}

/// A content, part by part.
struct Parts {
    spool: Arc<File>,
    parts: Arc<Vec<(u64, u64)>>,
    at: usize,
    read: u64,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((start, length)) = self.parts.get(self.at) {
            let left = length - self.read;
            if left == 0 {
                (self.at, self.read) = (self.at + 1, 0);
                continue;
            }
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = self.spool.read_at(&mut buffer[..wanted], start + self.read)?;
            if count == 0 && wanted > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read += count as u64;
            return Ok(count);
        }
        Ok(0)
    }
}

impl Tree for RemoteTree {
    fn meta(&self, path: &Path) -> io::Result<Option<Meta>> {
        Ok(self.entries.get(path).map(|entry| entry.meta.clone()))
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        Ok(self.folders.get(folder).cloned().unwrap_or_default())
    }

    fn digest(&self, file: &Path) -> io::Result<[u8; 32]> {
        if let Some(digest) = self.known_digest(file)? {
            return Ok(digest);
        }
        let digest = self.content(file)?.digest;
        let meta = &self.file(file)?.meta;
        self.known.put(file, meta.size, meta.mtime_nanos, digest, self.listed_nanos);
        Ok(digest)
    }

    fn changed(&self, file: &Path) -> io::Result<bool> {
        let id = self.file(file)?.id;
        let here = self.shared.lock().here.get(&id).map(|content| content.digest);
        // What came is not what was known of it: the next build must not believe it again.
        let changed = self.known_digest(file)?.zip(here).is_some_and(|(known, here)| known != here);
        if changed {
            self.known.forget(file);
        }
        Ok(changed)
    }

    fn open(&self, file: &Path) -> io::Result<Box<dyn Read + Send>> {
        let parts = self.content(file)?.parts;
        Ok(Box::new(Parts { spool: self.spool.clone(), parts, at: 0, read: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(path: &str, mode: u32, linkname: &str) -> Stat {
        Stat { path: path.to_owned(), mode, linkname: linkname.to_owned(), size: 3, ..Stat::default() }
    }

    const FOLDER: u32 = 0x8000_01ed;
    const LINK: u32 = 0x0800_01ff;

    #[test]
    fn a_list_that_lies_is_refused() {
        for (bad, why) in [
            (vec![stat("../a", 0o644, "")], "leaves it"),
            (vec![stat("/a", 0o644, "")], "leaves it"),
            (vec![stat("a", 0o644, ""), stat("a", 0o644, "")], "twice"),
            (vec![stat("a/b", 0o644, "")], "outside of any folder"),
            (vec![stat("a", LINK, "/etc"), stat("a/b", 0o644, "")], "outside of any folder"),
            (vec![stat("a", 0o644, ""), stat("a/b", 0o644, "")], "outside of any folder"),
            (vec![stat("a", 0o644, "/etc/passwd")], "no file in it"),
            (vec![stat("a", LINK, "x"), stat("b", 0o644, "a")], "no file in it"),
        ] {
            let mut list = List::default();
            let refused = bad.into_iter().map(|stat| list.add(stat)).find_map(Result::err);
            assert!(refused.as_ref().is_some_and(|text| text.contains(why)), "{refused:?}: {why}");
        }
    }

    fn tree(stats: Vec<Stat>) -> (RemoteTree, mpsc::UnboundedReceiver<u32>) {
        let mut list = List::default();
        stats.into_iter().for_each(|stat| list.add(stat).unwrap());
        let (sender, receiver) = mpsc::unbounded_channel();
        let path = std::env::temp_dir().join(format!("berth-receive-{}-{:p}", std::process::id(), &list));
        let spool = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        (list.tree(Arc::default(), sender, Arc::new(spool), Arc::default()), receiver)
    }

    #[test]
    fn contents_come_when_they_are_wanted_in_parts_and_for_hard_links_once() {
        let (tree, mut asked) = tree(vec![
            stat("a", FOLDER, ""),
            stat("a/one", 0o644, ""),
            stat("a/two", 0o644, ""),
            stat("b", 0o644, "a/one"),
            stat("c", LINK, "/etc/passwd"),
        ]);
        assert_eq!(tree.files(), 5);
        assert!(asked.try_recv().is_err());
        assert_eq!(tree.names(Path::new("a")).unwrap(), ["one", "two"]);
        assert!(tree.open(Path::new("c")).is_err());
        let (shared, spool) = (tree.shared.clone(), tree.spool.clone());
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            tree.open(Path::new("b")).unwrap().read_to_string(&mut text).unwrap();
            (text, tree.digest(Path::new("a/one")).unwrap(), tree.digest(Path::new("a/two")).unwrap())
        });
        assert_eq!(asked.blocking_recv(), Some(1));
        assert_eq!(asked.blocking_recv(), Some(2));
        for (id, data) in [(1, "on"), (2, "two"), (1, "e!"), (2, ""), (1, "")] {
            shared.take(&Packet::data(id, bytes::Bytes::from_static(data.as_bytes())), &spool).unwrap();
        }
        let (text, one, two) = reading.join().unwrap();
        assert_eq!(text, "one!");
        assert_ne!(one, two);
        assert!(shared.take(&Packet::data(9, bytes::Bytes::new()), &spool).is_err());
        assert!(asked.blocking_recv().is_none());
    }

    #[test]
    fn whoever_waits_for_a_content_hears_that_it_will_not_come() {
        let (tree, _asked) = tree(vec![stat("a", 0o644, "")]);
        let shared = tree.shared.clone();
        let reading = std::thread::spawn(move || tree.digest(Path::new("a")).unwrap_err().to_string());
        shared.fail("gone".to_owned());
        assert_eq!(reading.join().unwrap(), "gone");
    }

    #[test]
    fn names_that_a_header_cannot_carry_are_escaped() {
        let exclude = ["ä b".to_owned(), "c".to_owned()];
        let map = Wanted { name: "context", exclude: &exclude, only: &[] }.metadata().unwrap();
        let all: Vec<&str> = map.get_all("exclude-patterns").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(all, ["%C3%A4%20b", "c"]);
        assert_eq!(map["exclude-patterns-encoded"], "1");
        assert!(!map.contains_key("dir-name-encoded"));
    }
}
