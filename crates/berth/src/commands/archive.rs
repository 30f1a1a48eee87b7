//! Tar streams in and out: `export`, `save`, `load`, `import`.

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::{Answer, encode, encode_name, with_query};
use crate::error::{CliError, Result, plain};
use crate::progress::{Counted, Line, Sending};
use crate::tty;
use crate::value::Value;
use hyper::Method;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(crate) async fn export(app: &'static App, args: Args) -> Result<u8> {
    check_output(args.text("output"), "export")?;
    let id = app.container(&args.words[0]).await?;
    let answer =
        app.client.send(Method::GET, &format!("/containers/{}/export", encode(&id)), &[], Body::empty()).await?;
    write_out(answer, args.text("output")).await
}

pub(crate) async fn save(app: &'static App, args: Args) -> Result<u8> {
    check_output(args.text("output"), "save")?;
    let names: Vec<String> = args.words.iter().map(|n| format!("names={}", encode(n))).collect();
    let mut path = format!("/images/get?{}", names.join("&"));
    if !args.text("platform").is_empty() {
        path.push_str(&format!("&platform={}", encode(args.text("platform"))));
    }
    let answer = app.client.send(Method::GET, &path, &[], Body::empty()).await?;
    write_out(answer, args.text("output")).await
}

pub(crate) fn check_output(output: &str, verb: &str) -> Result<()> {
    let folder = Path::new(output).parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder
        && let Err(error) = std::fs::metadata(folder)
    {
        let what = if verb == "save" { "save image" } else { "export container" };
        let (folder, why) = (folder.display(), plain(&error));
        return Err(CliError::failed(format!("failed to {what}: invalid output path: stat {folder}: {why}")));
    }
    if output.is_empty() && tty::stdout_is_terminal() {
        return Err(CliError::failed("cowardly refusing to save to a terminal. Use the -o flag or redirect")
            .with_hint(format!("berth {verb} -o FILE.tar ...")));
    }
    Ok(())
}

/// Streams an answer to stdout, or to a file that appears under its name only when it is complete.
pub(crate) async fn write_out(mut answer: Answer<'_>, output: &str) -> Result<u8> {
    if output.is_empty() {
        while let Some(chunk) = answer.chunk().await? {
            io::stdout().write_all(&chunk).map_err(|e| CliError::io("cannot write the archive", e))?;
        }
        return io::stdout().flush().map(|()| 0).map_err(|e| CliError::io("cannot write the archive", e));
    }
    let target = Path::new(output);
    let failed = |e| CliError::io(format!("cannot write {output}"), e);
    // Devices and pipes are written directly.
    let special = std::fs::metadata(target).is_ok_and(|m| !m.is_file());
    let partial = if special { target.to_owned() } else { partial_name(target) };
    let mut file = File::create(&partial).map_err(failed)?;
    let guard = RemoveOnDrop((!special).then(|| partial.clone()));
    let mut line = Line::new(true);
    let mut done = 0;
    while let Some(chunk) = answer.chunk().await? {
        file.write_all(&chunk).map_err(failed)?;
        done += chunk.len() as u64;
        line.bytes(output, done, None);
    }
    if !special {
        std::fs::rename(&partial, target).map_err(failed)?;
    }
    guard.keep();
    Ok(0)
}

fn partial_name(target: &Path) -> PathBuf {
    let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    target.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // What cannot be removed now is a hidden leftover of a failed command.
            drop(std::fs::remove_file(path));
        }
    }
}

/// A file or stdin, counted, with its size if it has one.
struct Source {
    body: Body,
    count: std::sync::Arc<std::sync::atomic::AtomicU64>,
    total: Option<u64>,
}

fn source(path: &str) -> Result<Source> {
    if path.is_empty() || path == "-" {
        let (reader, count) = Counted::new(io::stdin());
        return Ok(Source { body: Body::reader(reader, None), count, total: None });
    }
    let file = File::open(path).map_err(|e| CliError::failed(format!("open {path}: {}", plain(&e))))?;
    let meta = file.metadata().map_err(|e| CliError::io(format!("cannot read {path}"), e))?;
    if meta.is_dir() {
        return Err(CliError::failed(format!("read {path}: is a directory")).with_hint("give the archive's file"));
    }
    let total = meta.is_file().then_some(meta.len());
    let (reader, count) = Counted::new(file);
    Ok(Source { body: Body::reader(reader, total), count, total })
}

pub(crate) async fn load(app: &'static App, args: Args) -> Result<u8> {
    let input = args.text("input");
    if input.is_empty() && tty::stdin_is_terminal() {
        return Err(
            CliError::failed("requested load from stdin, but stdin is empty").with_hint("berth load -i FILE.tar")
        );
    }
    let source = source(input)?;
    let quiet = if args.on("quiet") || !tty::stdout_is_terminal() { "1" } else { "0" };
    let path = with_query("/images/load", &[("quiet", quiet), ("platform", args.text("platform"))]);
    let what = if input.is_empty() { "loading" } else { input };
    let mut sending = Sending::new(what, source.total, source.count, !args.on("quiet"));
    // It answers while the archive still comes.
    let mut answer = sending.during(app.client.send(Method::POST, &path, &[], source.body)).await?;
    let (mut buffer, mut layers) = (Vec::new(), BTreeMap::new());
    while let Some(message) = sending.during(answer.json(&mut buffer)).await? {
        let current = message.at(&["progressDetail", "current"]);
        if !current.is_null() {
            layers.insert(message.text("id").to_owned(), u64::try_from(current.int()).unwrap_or(0));
            sending.unpacked = layers.values().sum();
            continue;
        }
        sending.clear();
        super::registry::show_message(app, &message, args.on("quiet"), false)?;
    }
    Ok(0)
}

pub(crate) async fn import(app: &'static App, args: Args) -> Result<u8> {
    let from = args.words[0].as_str();
    let name = args.words.get(1).map_or("", String::as_str);
    let remote = from.starts_with("http://") || from.starts_with("https://");
    let mut path = with_query(
        "/images/create",
        &[
            ("fromSrc", if remote { from } else { "-" }),
            ("repo", name),
            ("message", args.text("message")),
            ("platform", args.text("platform")),
        ],
    );
    for change in args.list("change") {
        path.push_str(&format!("&changes={}", encode(change)));
    }
    let mut answer = if remote {
        app.client.send(Method::POST, &path, &[], Body::empty()).await?
    } else {
        let source = source(from)?;
        let what = if from == "-" { "importing" } else { from };
        let mut sending = Sending::new(what, source.total, source.count, true);
        sending.during(app.client.send(Method::POST, &path, &[], source.body)).await?
    };
    let mut buffer = Vec::new();
    while let Some(message) = answer.json(&mut buffer).await? {
        super::registry::show_message(app, &message, false, false)?;
    }
    Ok(0)
}

/// `GET /images/{name}/json` and friends keep the slashes of a name.
pub(crate) fn image_path(name: &str, rest: &str) -> String {
    format!("/images/{}{rest}", encode_name(name))
}

/// A value that a stream of messages ended with, if it was an error.
pub(crate) fn stream_error(message: &Value) -> Option<CliError> {
    let text = match message.at(&["errorDetail", "message"]).str() {
        "" => message.text("error"),
        text => text,
    };
    (!text.is_empty()).then(|| match text.split_once("\nhint: ") {
        Some((text, hint)) => CliError::failed(text).with_hint(hint),
        None => CliError::failed(text),
    })
}
