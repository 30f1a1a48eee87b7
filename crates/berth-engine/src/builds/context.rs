//! Where a build's files and its Dockerfile are.

use super::fetch::{self, Means};
use super::{Tree, folder, spool};
use crate::containers::ByteSource;
use berth_build::{BuildOptions, Remote};
use berth_dockerfile::ignore::{self, Matcher};
use berth_types::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A Dockerfile is not larger than this.
const DOCKERFILE_BYTES_MAX: u64 = 4 << 20;

/// The files that a build sees.
pub enum Context {
    /// A folder of this host, and what tells that it is the one that the caller sees.
    Folder {
        path: PathBuf,
        identity: Option<(u64, u64)>,
    },
    /// An archive.
    Archive(ByteSource),
    /// Files that somebody else has, without those that its ignore file names.
    Tree(Arc<dyn Tree>),
    /// An archive, a Dockerfile or a repository somewhere else.
    Remote(Remote),
    Nothing,
}

/// The files of a context with a name.
pub enum NamedContext {
    /// A folder of this host.
    Folder(PathBuf),
    Tree(Arc<dyn Tree>),
    /// An archive or a repository somewhere else.
    Remote(Remote),
}

/// Where the Dockerfile is.
pub enum DockerfileAt {
    Text(Vec<u8>),
    /// A path in the context.
    Context(String),
}

/// Opens the context, and finds the Dockerfile and the ignore file in it.
pub(super) async fn open(
    means: Means<'_>,
    context: Context,
    dockerfile: DockerfileAt,
    ignore: Option<String>,
    options: &mut BuildOptions,
) -> Result<Arc<dyn Tree>> {
    let shared = means.engine.build_state();
    let (tree, text, file): (Arc<dyn Tree>, _, Vec<u8>) = match context {
        Context::Nothing => nothing_but(dockerfile)?,
        Context::Folder { path, identity } => {
            if let Some((device, inode)) = identity {
                use std::os::unix::fs::MetadataExt;
                let same = std::fs::metadata(&path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (device, inode));
                if !same {
                    let what = format!("the engine does not see the build context {}", path.display());
                    return Err(Error::new(ErrorKind::Unavailable, what));
                }
            }
            let plain = host_folder(means, &path, Matcher::default())?;
            let (file, text) = locate(dockerfile, ignore, &|name| small(&plain, name))?;
            (Arc::new(host_folder(means, &path, matcher(&text)?)?), text, file)
        }
        Context::Tree(tree) => {
            let DockerfileAt::Text(text) = dockerfile else {
                return Err(Error::invalid("the Dockerfile of a context elsewhere comes with the request"));
            };
            (tree, ignore.unwrap_or_default(), text)
        }
        Context::Archive(source) => {
            let folder = shared.temporary.clone();
            let spool = blocking(move || {
                let mut source = crate::images::Source::new(source);
                let spool = spool::SpoolTree::read(&mut source, &folder);
                spool.map_err(|error| source.failed.take().unwrap_or(error))
            });
            of_archive(spool.await?, dockerfile, ignore)?
        }
        Context::Remote(git @ Remote::Git { .. }) => {
            let checkout = fetch::checkout(means, &git).await?;
            let plain = checkout.open(&[])?;
            let (file, text) = locate(dockerfile, ignore, &|name| small(&plain, name))?;
            (Arc::new(checkout.open(&ignore::read(&text))?), text, file)
        }
        Context::Remote(Remote::Http { url, .. }) => {
            let file = fetch::download(means, &url).await?.file;
            let folder = shared.temporary.clone();
            match blocking(move || archive_or_text(file, &url, &folder)).await? {
                Fetched::Archive(spool) => of_archive(*spool, dockerfile, ignore)?,
                Fetched::Text(text) => match dockerfile {
                    DockerfileAt::Context(_) => nothing_but(DockerfileAt::Text(text))?,
                    given @ DockerfileAt::Text(_) => nothing_but(given)?,
                },
            }
        }
    };
    options.ignored = ignore::read(&text);
    options.dockerfile = file;
    Ok(tree)
}

/// The files of a context with a name.
pub(super) async fn open_named(means: Means<'_>, context: NamedContext) -> Result<Arc<dyn Tree>> {
    match context {
        NamedContext::Tree(tree) => Ok(tree),
        NamedContext::Folder(path) => Ok(Arc::new(host_folder(means, &path, Matcher::default())?)),
        NamedContext::Remote(git @ Remote::Git { .. }) => Ok(Arc::new(fetch::checkout(means, &git).await?.open(&[])?)),
        NamedContext::Remote(Remote::Http { url, .. }) => {
            let file = fetch::download(means, &url).await?.file;
            let folder = means.engine.build_state().temporary.clone();
            let what = format!("{url} is no archive, as a context with a name has to be");
            match blocking(move || archive_or_text(file, &url, &folder)).await? {
                Fetched::Archive(spool) => Ok(Arc::new(*spool)),
                Fetched::Text(_) => Err(Error::invalid(what)),
            }
        }
    }
}

fn host_folder(means: Means<'_>, path: &Path, ignore: Matcher) -> Result<folder::FolderTree> {
    folder::FolderTree::open(path, ignore, means.engine.build_state().digests.clone()).map_err(|cause| {
        Error::because(ErrorKind::NotFound, format!("cannot open build context {}", path.display()), &cause)
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| Error::internal(format!("reading the context ended early: {cause}")))?
}

/// Files, the text of the ignore file, and the Dockerfile.
type Opened = (Arc<dyn Tree>, String, Vec<u8>);

fn nothing_but(dockerfile: DockerfileAt) -> Result<Opened> {
    let DockerfileAt::Text(text) = dockerfile else {
        return Err(Error::invalid("there is no context to find a Dockerfile in"));
    };
    let mut tree = berth_build::MemTree::default();
    tree.add("", berth_build::Meta::folder(0o755), Vec::new());
    Ok((Arc::new(tree), String::new(), text))
}

fn of_archive(spool: spool::SpoolTree, dockerfile: DockerfileAt, ignore: Option<String>) -> Result<Opened> {
    let (file, text) = locate(dockerfile, ignore, &|name| spool.small(name, DOCKERFILE_BYTES_MAX))?;
    Ok((Arc::new(spool.ignoring(matcher(&text)?)), text, file))
}

/// What an address had.
enum Fetched {
    Archive(Box<spool::SpoolTree>),
    /// A Dockerfile.
    Text(Vec<u8>),
}

/// As Docker takes it: what is an archive is the context, anything else the Dockerfile.
fn archive_or_text(mut file: File, url: &str, folder: &Path) -> Result<Fetched> {
    let unread = |cause: io::Error| Error::because(ErrorKind::Unavailable, format!("cannot read {url}"), &cause);
    // What cannot be unpacked is no archive.
    let is_archive = berth_image::decode(io::BufReader::new(&file))
        .and_then(|mut plain| spool::tar_head(&mut plain))
        .is_ok_and(|head| head.is_some());
    file.rewind().map_err(unread)?;
    if is_archive {
        return spool::SpoolTree::read(file, folder).map(|spool| Fetched::Archive(Box::new(spool)));
    }
    let mut text = Vec::new();
    let read = file.take(DOCKERFILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(unread)?;
    if read as u64 > DOCKERFILE_BYTES_MAX {
        return Err(Error::invalid(format!("{url} is no archive, and too large for a Dockerfile")));
    }
    Ok(Fetched::Text(text))
}

fn no_dockerfile(name: &str) -> Error {
    Error::invalid(format!("Cannot locate specified Dockerfile: {name}"))
}

/// The Dockerfile, and the text of the ignore file that belongs to it. `small` reads a file of the context.
fn locate(
    dockerfile: DockerfileAt,
    ignore: Option<String>,
    small: &dyn Fn(&Path) -> Result<Option<Vec<u8>>>,
) -> Result<(Vec<u8>, String)> {
    let small = |name: &str| small(Path::new(ignore::clean(name).trim_start_matches('/')));
    let (file, name) = match dockerfile {
        DockerfileAt::Text(text) => (text, None),
        DockerfileAt::Context(name) => (small(&name)?.ok_or_else(|| no_dockerfile(&name))?, Some(name)),
    };
    if let Some(text) = ignore {
        return Ok((file, text));
    }
    let own = name.map(|name| small(&format!("{name}.dockerignore"))).transpose()?.flatten();
    let found = match own {
        Some(text) => Some(text),
        None => small(".dockerignore")?,
    };
    Ok((file, String::from_utf8_lossy(&found.unwrap_or_default()).into_owned()))
}

fn matcher(ignore_file: &str) -> Result<Matcher> {
    Matcher::new(&ignore::read(ignore_file)).map_err(Error::invalid)
}

fn small(tree: &folder::FolderTree, path: &Path) -> Result<Option<Vec<u8>>> {
    let failed = |cause: std::io::Error| {
        Error::because(ErrorKind::InvalidArgument, format!("cannot read {}", path.display()), &cause)
    };
    match tree.meta(path).map_err(failed)? {
        None => Ok(None),
        Some(meta) if meta.size > DOCKERFILE_BYTES_MAX => {
            Err(Error::invalid(format!("{} is larger than {DOCKERFILE_BYTES_MAX} bytes", path.display())))
        }
        Some(_) => {
            let mut bytes = Vec::new();
            let file = tree.open(path).map_err(failed)?;
            file.take(DOCKERFILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
            Ok(Some(bytes))
        }
    }
}
