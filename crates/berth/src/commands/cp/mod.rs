//! `cp` between a container and this host, both ways a tar stream.
//!
//! Where a copy lands follows `cp -a`'s rules as Docker has them:
//!
//! ```text
//! destination        source is a file          source is a directory (`/.` at its end: its content)
//! a directory        into it                   into it (`/.`: its content into it)
//! a file             replaces it               refused
//! does not exist     made under that name      made under that name
//! ends in `/`, none  refused                   made under that name
//! ```
//!
//! The stream from a container is foreign: nothing of it is written outside the destination (see
//! [`extract`]).

mod extract;
mod pack;

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result, plain};
use crate::units::human_size3;
use crate::value::Value;
use base64::Engine as _;
use hyper::Method;
use std::io::Write;
use std::path::Path;

/// One side of the command.
#[derive(Debug, PartialEq)]
enum Side<'a> {
    Local(&'a str),
    Container(&'a str, &'a str),
}

impl Side<'_> {
    /// `name:path` unless it starts like a path.
    fn parse(text: &str) -> Side<'_> {
        match text.split_once(':') {
            _ if text.starts_with('/') => Side::Local(text),
            Some((name, path)) if !name.starts_with('.') && !name.is_empty() => Side::Container(name, path),
            _ => Side::Local(text),
        }
    }
}

pub(crate) async fn cp(app: &'static App, args: Args) -> Result<u8> {
    let (from, to) = (Side::parse(&args.words[0]), Side::parse(&args.words[1]));
    let bytes = match (from, to) {
        (Side::Container(name, path), Side::Local(to)) => {
            let name = app.container(name).await?;
            from_container(app, &args, &name, path, to).await?
        }
        (Side::Local(from), Side::Container(name, path)) => {
            let name = app.container(name).await?;
            to_container(app, &args, &name, from, path).await?
        }
        (Side::Container(..), Side::Container(..)) => {
            return Err(CliError::failed("copying between containers is not supported")
                .with_hint("berth cp A:/path - | berth cp - B:/path"));
        }
        (Side::Local(_), Side::Local(_)) => {
            return Err(CliError::failed("must specify at least one container source"));
        }
    };
    if let Some(bytes) = bytes
        && !args.on("quiet")
        && crate::tty::stderr_is_terminal()
    {
        app.note(&format!("Successfully copied {} to {}", human_size3(bytes as f64), args.words[1]));
    }
    Ok(0)
}

/// What the engine says of a path in a container.
#[derive(Debug)]
struct Stat {
    is_dir: bool,
    link_target: String,
}

/// Go's bits of a file mode.
const GO_MODE_DIR: i64 = 1 << 31;
const GO_MODE_LINK: i64 = 1 << 27;

fn stat_header(text: Option<&str>) -> Result<Stat> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.unwrap_or_default()).unwrap_or_default();
    let value = Value::parse(&bytes).map_err(|_| CliError::failed("the engine does not say what the path is"))?;
    let mode = value.get("mode").int();
    let link_target = if mode & GO_MODE_LINK != 0 { value.text("linkTarget").to_owned() } else { String::new() };
    Ok(Stat { is_dir: mode & GO_MODE_DIR != 0, link_target })
}

fn archive_path(name: &str, path: &str, more: &[(&str, &str)]) -> String {
    let mut query = vec![("path", path)];
    query.extend_from_slice(more);
    with_query(&format!("/containers/{}/archive", encode(name)), &query)
}

async fn stat(app: &App, name: &str, path: &str) -> Result<Option<Stat>> {
    match app.client.send(Method::HEAD, &archive_path(name, path, &[]), &[], Body::empty()).await {
        Ok(answer) => stat_header(answer.header("x-docker-container-path-stat")).map(Some),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The path that a link in a container leads to.
fn link_destination(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    parent.join(target).to_string_lossy().into_owned()
}

fn is_content(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

async fn from_container(app: &App, args: &Args, name: &str, from: &str, to: &str) -> Result<Option<u64>> {
    let mut from = if from.starts_with('/') { from.to_owned() } else { format!("/{from}") };
    if args.on("follow-link")
        && let Some(stat) = stat(app, name, &from).await?
        && !stat.link_target.is_empty()
    {
        from = link_destination(&from, &stat.link_target);
    }
    let mut answer = app.client.send(Method::GET, &archive_path(name, &from, &[]), &[], Body::empty()).await?;
    if to == "-" {
        let mut out = std::io::stdout();
        while let Some(chunk) = answer.chunk().await? {
            out.write_all(&chunk).map_err(|e| CliError::io("cannot write the archive", e))?;
        }
        out.flush().map_err(|e| CliError::io("cannot write the archive", e))?;
        return Ok(None);
    }
    let source = stat_header(answer.header("x-docker-container-path-stat"))?;
    let place = place(&from, source.is_dir, Path::new(to), to.ends_with('/'))?;
    let keep_owner = args.on("archive");
    // Extracting blocks on the disk, so it has a thread; the channel keeps it a few chunks behind.
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<u8>>(8);
    let worker =
        std::thread::spawn(move || extract::extract(extract::ChannelReader::new(receiver), &place, keep_owner));
    let mut cut_off = None;
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                if sender.send(chunk.to_vec()).is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                cut_off = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let result = worker.join().map_err(|_| CliError::failed("extracting the archive failed"))?;
    match (cut_off, result) {
        (Some(error), _) => Err(error),
        (None, Ok(done)) => {
            for skipped in &done.skipped {
                app.note(&format!("berth: skipped {skipped}"));
            }
            Ok(Some(done.bytes))
        }
        (None, Err(error)) => Err(error),
    }
}

/// Where on this host the archive's root goes.
fn place(from: &str, is_dir: bool, to: &Path, wants_dir: bool) -> Result<extract::Place> {
    let base = Path::new(from).file_name().map(|n| n.to_string_lossy().into_owned());
    let split = |path: &Path| -> Result<extract::Place> {
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => ".".into(),
        };
        let name =
            path.file_name().ok_or_else(|| CliError::failed(format!("invalid output path: {}", path.display())))?;
        Ok(extract::Place { folder: parent, name: Some(name.to_owned()) })
    };
    match std::fs::metadata(to) {
        Ok(meta) if meta.is_dir() => {
            if is_content(from) || base.is_none() {
                return Ok(extract::Place { folder: to.to_owned(), name: None });
            }
            Ok(extract::Place { folder: to.to_owned(), name: base.map(Into::into) })
        }
        Ok(_) if is_dir || wants_dir => {
            Err(CliError::failed("cannot copy directory").with_hint(format!("{} is a file", to.display())))
        }
        Ok(_) => {
            split(&std::fs::canonicalize(to).map_err(|e| CliError::io(format!("cannot resolve {}", to.display()), e))?)
        }
        Err(_) if wants_dir && !is_dir => Err(CliError::failed(format!("no such directory: {}", to.display()))),
        Err(_) => {
            let place = split(to)?;
            if !place.folder.is_dir() {
                return Err(CliError::failed(format!(
                    "invalid output path: directory \"{}\" does not exist",
                    place.folder.display()
                )));
            }
            Ok(place)
        }
    }
}

async fn to_container(app: &App, args: &Args, name: &str, from: &str, to: &str) -> Result<Option<u64>> {
    let mut to = if to.starts_with('/') { to.to_owned() } else { format!("/{to}") };
    let wants_dir = to.len() > 1 && to.ends_with('/') || is_content(&to);
    let mut destination = stat(app, name, &to).await?;
    if let Some(link) = destination.as_ref().map(|s| s.link_target.clone()).filter(|t| !t.is_empty()) {
        to = link_destination(&to, &link);
        destination = stat(app, name, &to).await?;
    }
    let is_dir = destination.as_ref().is_some_and(|d| d.is_dir);
    let (folder, body, counter) = if from == "-" {
        if !is_dir {
            return Err(CliError::failed(format!("destination \"{name}:{to}\" must be a directory")));
        }
        (to.clone(), Body::reader(std::io::stdin(), None), None)
    } else {
        let source = if args.on("follow-link") {
            std::fs::canonicalize(from).map_err(|e| CliError::failed(format!("{from}: {}", plain(&e))))?
        } else {
            from.into()
        };
        let meta =
            std::fs::symlink_metadata(&source).map_err(|e| CliError::failed(format!("lstat {from}: {}", plain(&e))))?;
        let base =
            |path: &str| Path::new(path).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let parent = |path: &str| Path::new(path).parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let (folder, root) = match (&destination, meta.is_dir()) {
            (Some(_), _) if is_dir && is_content(from) => (to.clone(), String::new()),
            (Some(_), _) if is_dir => {
                // "." and ".." have their name from where they lead to.
                let whole = if base(from).is_empty() {
                    std::fs::canonicalize(&source).unwrap_or(source.clone())
                } else {
                    source.clone()
                };
                (to.clone(), base(&whole.to_string_lossy()))
            }
            (Some(_), true) => {
                return Err(CliError::failed("cannot copy directory").with_hint(format!("{to} is a file")));
            }
            (Some(_), false) | (None, true) => (parent(to.trim_end_matches('/')), base(&to)),
            (None, false) if wants_dir => return Err(CliError::failed(format!("no such directory: {name}:{to}"))),
            (None, false) => (parent(&to), base(&to)),
        };
        let (writer, body) = Body::channel();
        let counter = pack::start(writer, source, root);
        (folder, body, Some(counter))
    };
    let owner = if args.on("archive") { "true" } else { "" };
    let path = archive_path(name, &folder, &[("noOverwriteDirNonDir", "true"), ("copyUIDGID", owner)]);
    let sent = app.client.send(Method::PUT, &path, &[], body).await;
    // What could not be read here is the better reason than the request it broke.
    let packed = match counter {
        Some(worker) => Some(worker.join().map_err(|_| CliError::failed("packing failed"))?),
        None => None,
    };
    match (sent, packed) {
        (Ok(answer), Some(Ok(bytes))) => {
            answer.bytes().await?;
            Ok(Some(bytes))
        }
        (Ok(answer), None) => {
            answer.bytes().await?;
            Ok(None)
        }
        (_, Some(Err(error))) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("cannot read {}", plain(&error))))
        }
        (Err(error), _) => Err(error),
        (Ok(_), Some(Err(error))) => Err(CliError::io("cannot send the archive", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_as_docker_does() {
        assert_eq!(Side::parse("web:/etc"), Side::Container("web", "/etc"));
        assert_eq!(Side::parse("/a:b"), Side::Local("/a:b"));
        assert_eq!(Side::parse("./a:b"), Side::Local("./a:b"));
        assert_eq!(Side::parse("-"), Side::Local("-"));
        assert_eq!(Side::parse("file"), Side::Local("file"));
    }

    #[test]
    fn links_in_a_container_resolve_there() {
        assert_eq!(link_destination("/a/b", "/x"), "/x");
        assert_eq!(link_destination("/a/b", "x"), "/a/x");
    }
}
