//! Which files a `COPY` takes, and what they are known by.

use crate::key::Key;
use crate::tree::{FileKind, Meta, Tree, walk};
use berth_dockerfile::ignore::{Matcher, clean, has_wildcards, name_matches};
use berth_types::Digest;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// As the kernel has it.
const LINKS_MAX: usize = 40;
/// One `COPY` of more files than this is refused.
const ITEMS_MAX: usize = 2_000_000;

/// A file to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// In the tree.
    pub from: PathBuf,
    /// Below the destination.
    pub to: PathBuf,
    pub meta: Meta,
}

/// What one source comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// One file: it takes the destination's name, or keeps its own in a folder.
    File(Item),
    /// A folder's content: it lands in the destination. The first item is the folder itself.
    Folder(Vec<Item>),
}

/// Why nothing can be copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectError {
    #[error("{}: not found", berth_dockerfile::quote(&format!("/{}", .0.display())))]
    Missing(PathBuf),
    #[error("{0}")]
    Pattern(String),
    #[error("more than {ITEMS_MAX} files")]
    TooMany,
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> SelectError {
    let path = path.to_owned();
    move |cause| SelectError::Read(path, cause)
}

/// Where `path` really is in the tree, which no link leads out of; `None` where there is nothing.
pub fn resolve(tree: &dyn Tree, path: &Path) -> io::Result<Option<PathBuf>> {
    follow(tree, path).map(|found| found.map(|(path, _)| path)).map_err(io::Error::other)
}

/// Follows links within the tree, the last one too. `None`: nothing there.
fn follow(tree: &dyn Tree, path: &Path) -> Result<Option<(PathBuf, Meta)>, SelectError> {
    let mut names: VecDeque<OsString> = VecDeque::new();
    let queue = |names: &mut VecDeque<OsString>, path: &Path| {
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => names.push_front(name.to_owned()),
                Component::ParentDir => names.push_front("..".into()),
                _ => {}
            }
        }
    };
    queue(&mut names, path);
    let (mut here, mut links) = (PathBuf::new(), 0);
    while let Some(name) = names.pop_front() {
        if name == ".." {
            // Above the root is the root: a link cannot lead out.
            here.pop();
            continue;
        }
        let next = here.join(&name);
        let Some(meta) = tree.meta(&next).map_err(read(&next))? else { return Ok(None) };
        match (meta.kind, &meta.link) {
            (FileKind::Link, Some(target)) => {
                links += 1;
                if links > LINKS_MAX {
                    let cause = io::Error::other("too many levels of symbolic links");
                    return Err(SelectError::Read(path.to_owned(), cause));
                }
                if target.is_absolute() {
                    here = PathBuf::new();
                }
                queue(&mut names, target);
            }
            (FileKind::Folder, _) => here = next,
            _ if names.is_empty() => return Ok(Some((next, meta))),
            _ => return Ok(None),
        }
    }
    let meta = tree.meta(&here).map_err(read(&here))?;
    Ok(meta.map(|meta| (here, meta)))
}

/// Paths that a pattern means, in order.
fn expand(tree: &dyn Tree, pattern: &str) -> Result<Vec<PathBuf>, SelectError> {
    let bad = || SelectError::Pattern(format!("syntax error in pattern {}", berth_dockerfile::quote(pattern)));
    let mut found = vec![PathBuf::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for folder in found {
            if !has_wildcards(part) {
                let plain: String = part.replace('\\', "");
                next.push(folder.join(plain));
                continue;
            }
            let Some((real, meta)) = follow(tree, &folder)? else { continue };
            if meta.kind != FileKind::Folder {
                continue;
            }
            for name in tree.names(&real).map_err(read(&real))? {
                if name_matches(part, &name.to_string_lossy()).ok_or_else(bad)? {
                    next.push(folder.join(name));
                }
            }
        }
        found = next;
    }
    Ok(found)
}

/// What `source` means in `tree`. A pattern that matches nothing gives nothing.
pub(crate) fn select(
    tree: &dyn Tree,
    source: &str,
    parents: bool,
    exclude: &Matcher,
) -> Result<Vec<Shape>, SelectError> {
    if parents {
        return with_parents(tree, source, exclude).map(|shape| vec![shape]);
    }
    let cleaned = clean(&format!("/{source}"));
    let wild = has_wildcards(&cleaned);
    let mut shapes = Vec::new();
    for path in expand(tree, &cleaned)? {
        let Some((real, meta)) = follow(tree, &path)? else {
            if wild {
                continue;
            }
            return Err(SelectError::Missing(path));
        };
        // A link to a file keeps the link's name.
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        if meta.kind == FileKind::Folder {
            shapes.push(Shape::Folder(folder(tree, &real, Path::new(""), exclude)?));
        } else if !exclude.matches(&name.to_string_lossy()) {
            shapes.push(Shape::File(Item { from: real, to: name, meta }));
        }
    }
    Ok(shapes)
}

/// Everything below `root`, named relative to it and below `to`.
fn folder(tree: &dyn Tree, root: &Path, to: &Path, exclude: &Matcher) -> Result<Vec<Item>, SelectError> {
    let mut items = Vec::new();
    let mut too_many = false;
    walk(tree, root, &mut |path, meta| {
        let relative = path.strip_prefix(root).unwrap_or(path);
        let out =
            !exclude.is_empty() && !relative.as_os_str().is_empty() && exclude.matches(&relative.to_string_lossy());
        if out {
            return Ok(exclude.brings_back());
        }
        too_many |= items.len() >= ITEMS_MAX;
        if !too_many {
            items.push(Item { from: path.to_owned(), to: to.join(relative), meta: meta.clone() });
        }
        Ok(!too_many)
    })
    .map_err(read(root))?;
    if too_many {
        return Err(SelectError::TooMany);
    }
    Ok(items)
}

/// `--parents a/./b/*.txt`: names behind the pivot stay.
fn with_parents(tree: &dyn Tree, source: &str, exclude: &Matcher) -> Result<Shape, SelectError> {
    let (parent, pattern) = source.split_once("/./").unwrap_or(("/", source));
    let (parent, pattern) = (clean(&format!("/{parent}")), clean(&format!("/{pattern}")));
    let pattern = pattern.trim_start_matches('/');
    let top = Path::new(parent.trim_start_matches('/'));
    let Some((root, _)) = follow(tree, top)? else { return Err(SelectError::Missing(top.to_owned())) };
    let include = Matcher::new(&[pattern.to_owned()]).map_err(SelectError::Pattern)?;
    let all = folder(tree, &root, Path::new(""), exclude)?;
    let everything = pattern.is_empty();
    let mut wanted: std::collections::BTreeSet<PathBuf> = std::collections::BTreeSet::new();
    for item in &all {
        if everything || !item.to.as_os_str().is_empty() && include.matches(&item.to.to_string_lossy()) {
            wanted.extend(item.to.ancestors().map(Path::to_owned));
        }
    }
    if wanted.is_empty() && !has_wildcards(&parent) && !has_wildcards(pattern) {
        return Err(SelectError::Missing(top.join(pattern)));
    }
    Ok(Shape::Folder(all.into_iter().filter(|item| wanted.contains(&item.to)).collect()))
}

/// What a shape contains; times do not count.
pub(crate) fn digest(tree: &dyn Tree, shape: &Shape) -> Result<Digest, SelectError> {
    let (kind, items) = match shape {
        Shape::File(item) => ("file", std::slice::from_ref(item)),
        Shape::Folder(items) => ("folder", items.as_slice()),
    };
    let mut key = Key::new(kind).number(items.len() as i64);
    for item in items {
        let meta = &item.meta;
        key = key.bytes(item.to.as_os_str().as_bytes());
        key = key.number(i64::from(meta.mode) << 3 | meta.kind as i64).number(i64::from(meta.uid));
        key = key.number(i64::from(meta.gid));
        match meta.kind {
            FileKind::File => key = key.bytes(&tree.digest(&item.from).map_err(read(&item.from))?),
            FileKind::Link => {
                let target = meta.link.as_deref().unwrap_or(Path::new(""));
                key = key.bytes(target.as_os_str().as_bytes());
            }
            FileKind::Special => key = key.number(i64::from(meta.device.0)).number(meta.device.1 as i64),
            FileKind::Folder => {}
        }
        for (name, value) in tree.attributes(&item.from).map_err(read(&item.from))? {
            key = key.bytes(&name).bytes(&value);
        }
    }
    Ok(key.end())
}

/// The path in the tree that is spelt most like `wanted`, for a hint.
pub(crate) fn nearest(tree: &dyn Tree, wanted: &Path) -> Option<String> {
    let mut here = PathBuf::new();
    for part in wanted.components() {
        let next = here.join(part);
        if tree.meta(&next).ok()?.is_some() {
            here = next;
            continue;
        }
        let names: Vec<String> =
            tree.names(&here).ok()?.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let part = part.as_os_str().to_string_lossy();
        let folded = names.iter().find(|name| name.eq_ignore_ascii_case(&part));
        let near = folded
            .cloned()
            .or_else(|| berth_dockerfile::suggest::nearest(&part, names.iter().map(String::as_str), true))?;
        here.push(near);
        let rest: PathBuf = wanted.components().skip(here.components().count()).collect();
        let whole = if rest.as_os_str().is_empty() { here } else { here.join(rest) };
        return tree.meta(&whole).ok()?.is_some().then(|| whole.display().to_string());
    }
    None
}
