//! Whether a layer's names, owners, rights and times are those that its archive's headers say.
//!
//! ```text
//! record ── headers as they are, contents as zeros ──> tar entries ──> what is to be at each path ──┐
//! layer  ── names of its folders, each looked at ───────────────────────────────────────────────────┴─ compared
//! ```
//!
//! Contents are not read here: the archive's digest says whether they are right. Of an archive whose entries go
//! through its own links, or delete what it brought, only the digest is compared: where its entries end up is the
//! driver's knowledge.

use crate::record::{RecordError, Step, Steps};
use crate::stream::FromRead;
use crate::tar::{Kind, Member, Reader};
use crate::unpack::{WHITEOUT, WHITEOUT_META, WHITEOUT_OPAQUE, clean};
use berth_snapshot::{Found, LayerReader, Look, Meta};
use berth_types::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// Times that every file system keeps.
const SECONDS: std::ops::Range<i64> = 0..1 << 31;

/// A tree of more is not held in memory: of those only the digest is compared. A whole distribution has a quarter.
const ENTRIES_MAX: usize = 2_000_000;

/// A layer's archive with zeros for contents.
struct Headers {
    steps: Steps,
    raw: usize,
    zeros: u64,
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.raw > 0 {
                let most = buffer.len().min(self.raw);
                self.steps.input.read_exact(&mut buffer[..most])?;
                self.raw -= most;
                return Ok(most);
            }
            if self.zeros > 0 {
                let most = buffer.len().min(usize::try_from(self.zeros).unwrap_or(usize::MAX));
                buffer[..most].fill(0);
                self.zeros -= most as u64;
                return Ok(most);
            }
            match self.steps.next()? {
                Step::Raw(length) => self.raw = length,
                Step::Content { length, .. } => self.zeros = length,
                Step::Displaced { .. } => {}
                Step::End { .. } => return Ok(0),
            }
        }
    }
}

/// What is to be at a path.
enum Wanted {
    Is {
        look: Look,
        meta: Meta,
    },
    /// Another name of something.
    Name,
    /// A folder that only a path named.
    Implied,
}

type Tree = BTreeMap<Vec<u8>, Wanted>;

fn is_folder(wanted: &Wanted) -> bool {
    matches!(wanted, Wanted::Implied | Wanted::Is { look: Look::Directory, .. })
}

/// The proper parents of a path, without the top.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

/// What an entry means; `None` for what becomes nothing.
fn wanted(member: &Member) -> Option<(Vec<u8>, Wanted)> {
    let path = clean(&member.path)?;
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(&path);
    if name == WHITEOUT_OPAQUE || path.split(|&byte| byte == b'/').any(|name| name.starts_with(WHITEOUT_META)) {
        return None;
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        let whole = [&path[..path.len() - name.len()], hidden].concat();
        return Some((whole, Wanted::Is { look: Look::CharDevice { major: 0, minor: 0 }, meta: Meta::default() }));
    }
    let (major, minor) = member.device;
    let look = match member.kind {
        Kind::File | Kind::GnuSparse => Look::File { size: member.size },
        Kind::Directory => Look::Directory,
        Kind::Symlink => Look::Symlink { target: member.link.clone() },
        Kind::HardLink => return Some((path, Wanted::Name)),
        Kind::CharDevice => Look::CharDevice { major, minor },
        Kind::BlockDevice => Look::BlockDevice { major, minor },
        Kind::Fifo => Look::Fifo,
        Kind::Pax | Kind::PaxGlobal | Kind::GnuLongName | Kind::GnuLongLink => return None,
    };
    Some((path, Wanted::Is { look, meta: member.meta.clone() }))
}

/// What the archive makes; `None` where that cannot be said without the driver.
fn tree(steps: Steps) -> Option<Tree> {
    let mut tar = Reader::new(FromRead::new(Headers { steps, raw: 0, zeros: 0 }));
    let mut tree = Tree::new();
    while let Some(member) = tar.next().ok()? {
        while tar.content().ok()?.is_some() {}
        drop(tar.take_raw());
        let Some((path, wanted)) = wanted(&member) else { continue };
        for parent in parents(&path) {
            if !is_folder(tree.entry(parent.to_vec()).or_insert(Wanted::Implied)) {
                return None;
            }
        }
        // The other way round is common: deleted below, and made anew.
        let is_whiteout = matches!(wanted, Wanted::Is { look: Look::CharDevice { major: 0, minor: 0 }, .. });
        match tree.get(&path) {
            Some(_) if is_whiteout => return None,
            Some(old) if is_folder(old) && !is_folder(&wanted) => {
                let below = [&path[..], b"/"].concat();
                let gone: Vec<_> = tree
                    .range(below.clone()..)
                    .map(|(path, _)| path.clone())
                    .take_while(|path| path.starts_with(&below))
                    .collect();
                for path in gone {
                    tree.remove(&path);
                }
            }
            _ => {}
        }
        tree.insert(path, wanted);
        if tree.len() > ENTRIES_MAX {
            return None;
        }
    }
    Some(tree)
}

/// What is wrong with what was found.
fn difference(look: &Look, meta: &Meta, found: &Found) -> Option<&'static str> {
    match (look, &found.look) {
        (Look::File { size }, Look::File { size: there }) if size != there => return Some("has another size"),
        (Look::Symlink { target }, Look::Symlink { target: there }) if target != there => {
            return Some("leads elsewhere");
        }
        (one, other) if std::mem::discriminant(one) != std::mem::discriminant(other) => {
            return Some("is of another kind");
        }
        (Look::CharDevice { major: 0, minor: 0 }, Look::CharDevice { major: 0, minor: 0 }) => return None,
        (Look::CharDevice { .. } | Look::BlockDevice { .. }, other) if look != other => {
            return Some("is another device");
        }
        _ => {}
    }
    if (meta.uid, meta.gid) != (found.meta.uid, found.meta.gid) {
        return Some("has another owner");
    }
    // A link's rights mean nothing.
    if !matches!(look, Look::Symlink { .. }) && meta.mode != found.meta.mode {
        return Some("has other rights");
    }
    let is_kept = SECONDS.contains(&meta.mtime_seconds);
    (is_kept && meta.mtime_seconds != found.meta.mtime_seconds).then_some("has another time")
}

/// Compares names, owners, rights and times of `layer` with its record.
pub(crate) fn inspect(id: &Digest, layer: &dyn LayerReader) -> Result<(), RecordError> {
    let steps = Steps::open(layer.record()?).map_err(|cause| RecordError::Read(*id, cause))?;
    let Some(tree) = tree(steps) else { return Ok(()) };
    let wrong = |path: &[u8], what| {
        let path = String::from_utf8_lossy(path).into_owned().into();
        Err(RecordError::Differs { id: *id, path, what })
    };
    let mut folders: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::from([(&b""[..], BTreeSet::new())]);
    for (path, wanted) in &tree {
        let Some(found) = layer.look(path)? else { return wrong(path, "is missing") };
        match wanted {
            Wanted::Implied if found.look != Look::Directory => return wrong(path, "is of another kind"),
            Wanted::Is { look, meta } => {
                if let Some(what) = difference(look, meta, &found) {
                    return wrong(path, what);
                }
            }
            Wanted::Implied | Wanted::Name => {}
        }
        if is_folder(wanted) {
            folders.entry(path).or_default();
        }
        if !path.is_empty() {
            let end = path.iter().rposition(|&byte| byte == b'/');
            folders.entry(&path[..end.unwrap_or(0)]).or_default().insert(&path[end.map_or(0, |at| at + 1)..]);
        }
    }
    for (folder, names) in folders {
        for name in layer.names(folder)? {
            let path = if folder.is_empty() { name.clone() } else { [folder, b"/", &name].concat() };
            // Sockets are in no archive.
            if !names.contains(&name[..]) && layer.look(&path)?.is_some_and(|found| found.look != Look::Other) {
                return wrong(&path, "is not part of it");
            }
        }
    }
    Ok(())
}
