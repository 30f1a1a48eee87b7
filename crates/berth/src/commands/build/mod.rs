//! `build`: what is asked for goes to the engine as one line; what it does comes back as it happens.
//!
//! A folder is not sent where the engine can read it itself: it is told the path, with the folder's device and inode,
//! so that another folder of the same name (in a container, on another host) is never taken for it. Everywhere else
//! the files that the ignore file leaves go as an archive.

mod cache;
mod context;
mod output;
mod progress;

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::endpoint::Address;
use crate::error::{CliError, Result};
use crate::value::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde_json::{Value as Json, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Larger secrets are refused, as by BuildKit.
const SECRET_BYTES_MAX: u64 = 500 << 10;

pub(crate) async fn build(app: &'static App, args: Args) -> Result<u8> {
    let place = args.words[0].clone();
    let mut head = request(&args)?;
    let outputs = output::parse(&args)?;
    head["output"] = json!(outputs.wanted());
    let caches = cache::parse(&args)?;
    // An older engine knows no such words; it need not, where nothing is said.
    for (name, value) in [
        ("cache_from", json!(caches.from)),
        ("cache_to", json!(caches.to)),
        ("credentials", crate::credentials::all(app)),
    ] {
        if value.as_array().is_some_and(|list| !list.is_empty()) || value.as_object().is_some_and(|map| !map.is_empty())
        {
            head[name] = value;
        }
    }
    let results = Results { outputs, cache: caches.folder };
    let mut context = None;
    if place == "-" {
        let mut text = Vec::new();
        std::io::stdin()
            .take(64 << 20)
            .read_to_end(&mut text)
            .map_err(|e| CliError::io("cannot read the Dockerfile from standard input", e))?;
        if text.is_empty() {
            return Err(CliError::failed("the Dockerfile on standard input is empty"));
        }
        match is_archive(&text) {
            true => {
                head["context"] = json!("archive");
                head["dockerfile"] = json!(if args.text("file").is_empty() { "Dockerfile" } else { args.text("file") });
                context = Some(context::Source::Bytes(text));
            }
            false => head["dockerfile_text"] = json!(String::from_utf8_lossy(&text)),
        }
    } else if is_remote(&place) {
        head["context"] = json!({ "remote": place });
        match args.text("file") {
            "-" => head["dockerfile_text"] = json!(standard_input()?),
            "" => {}
            file => head["dockerfile"] = json!(file),
        }
    } else {
        let folder = std::fs::canonicalize(&place)
            .map_err(|e| CliError::io(format!("unable to prepare context: path {place:?}"), e))?;
        if !folder.is_dir() {
            return Err(CliError::failed(format!("unable to prepare context: {place:?} is no folder")));
        }
        let (file, text) = dockerfile(&folder, args.text("file"))?;
        head["dockerfile"] = json!(file.file_name().map(|name| name.to_string_lossy()));
        head["dockerfile_text"] = json!(text);
        let ignore = context::ignore_file(&folder, &file)?;
        head["ignore"] = json!(ignore);
        context = Some(context::Source::Folder { folder, ignore });
    }
    if let Some(context::Source::Folder { folder, .. }) = &context
        && matches!(app.client.endpoint.address, Address::Unix(_))
    {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(folder).map_err(|e| CliError::io("cannot read the build context", e))?;
        head["context"] = json!({"folder": folder.to_string_lossy(), "device": meta.dev(), "inode": meta.ino()});
        match send(app, &args, &head, None, &results).await {
            // It does not see our folders: the files are sent.
            Err(CliError::Failed { message, .. }) if message.contains("does not see the build context") => {}
            other => return other,
        }
    }
    if let Some(context::Source::Folder { .. }) = &context {
        head["context"] = json!("archive");
    }
    send(app, &args, &head, context, &results).await
}

/// Where what comes back goes.
struct Results {
    outputs: output::Outputs,
    cache: Option<PathBuf>,
}

/// Repositories and addresses: the engine fetches them.
fn is_remote(place: &str) -> bool {
    place.contains("://") || place.starts_with("git@") || place.starts_with("github.com/")
}

fn standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(4 << 20)
        .read_to_string(&mut text)
        .map_err(|e| CliError::io("cannot read the Dockerfile from standard input", e))?;
    Ok(text)
}

fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
        || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || bytes.get(257..262).is_some_and(|magic| magic == b"ustar")
}

fn dockerfile(folder: &Path, flag: &str) -> Result<(PathBuf, String)> {
    if flag == "-" {
        return Ok((folder.join("Dockerfile"), standard_input()?));
    }
    let path = if flag.is_empty() { folder.join("Dockerfile") } else { PathBuf::from(flag) };
    let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => CliError::failed(format!("cannot find a Dockerfile at {}", path.display()))
            .with_hint("name it with -f, or give the folder that has it"),
        _ => CliError::io(format!("cannot read {}", path.display()), e),
    })?;
    Ok((path, String::from_utf8_lossy(&bytes).into_owned()))
}

fn pairs<'a>(list: Vec<&'a str>, from_environment: bool) -> Vec<(&'a str, String)> {
    let pair = |word: &'a str| match word.split_once('=') {
        Some((key, value)) => Some((key, value.to_owned())),
        None if from_environment => std::env::var(word).ok().map(|value| (word, value)),
        None => Some((word, String::new())),
    };
    list.into_iter().filter_map(pair).collect()
}

fn request(args: &Args) -> Result<Json> {
    let object = |list: Vec<(&str, String)>| -> Json {
        Json::Object(list.into_iter().map(|(key, value)| (key.to_owned(), Json::String(value))).collect())
    };
    let mut build_args = pairs(args.list("build-arg"), true);
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH")
        && !build_args.iter().any(|(key, _)| *key == "SOURCE_DATE_EPOCH")
    {
        build_args.push(("SOURCE_DATE_EPOCH", epoch));
    }
    let mut contexts = serde_json::Map::new();
    for word in args.list("build-context") {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| CliError::usage(format!("invalid context value: {word}, expected key=value")))?;
        let context = match value.strip_prefix("docker-image://") {
            Some(image) => json!({ "image": image }),
            None if is_remote(value) => json!({ "remote": value }),
            None => {
                let path = std::fs::canonicalize(value)
                    .map_err(|e| CliError::io(format!("cannot find build context {name}: {value}"), e))?;
                json!({"folder": path.to_string_lossy()})
            }
        };
        contexts.insert(name.to_owned(), context);
    }
    Ok(json!({
        "context": null,
        "contexts": contexts,
        "build_args": object(build_args),
        "labels": object(pairs(args.list("label"), false)),
        "target": args.text("target"),
        "tags": args.list("tag"),
        "platform": args.text("platform"),
        "network": args.text("network"),
        "extra_hosts": args.commas("add-host"),
        "no_cache": args.on("no-cache"),
        "no_cache_filter": args.commas("no-cache-filter"),
        "pull": args.on("pull"),
        "allow": args.commas("allow"),
        "parallel": args.int("parallel")?,
        "secrets": secrets(args)?,
        "ssh": ssh(args)?,
        "memory_bytes": args.bytes("memory")?,
        "shm_size_bytes": args.bytes("shm-size")?,
    }))
}

/// `id=x[,src=file][,env=NAME]`
fn secrets(args: &Args) -> Result<Json> {
    let mut all = serde_json::Map::new();
    for word in args.list("secret") {
        let (mut id, mut file, mut variable) = ("", None, None);
        for part in word.split(',') {
            match part.split_once('=') {
                Some(("id", value)) => id = value,
                Some(("src" | "source", value)) => file = Some(value),
                Some(("env", value)) => variable = Some(value),
                Some(("type", "file" | "env")) => {}
                _ => return Err(CliError::usage(format!("unexpected part {part:?} in --secret {word}"))),
            }
        }
        if id.is_empty() {
            return Err(CliError::usage(format!("--secret {word} has no id")));
        }
        let data = match (file, variable) {
            (Some(path), _) => {
                let meta =
                    std::fs::metadata(path).map_err(|e| CliError::io(format!("cannot read secret {path}"), e))?;
                if meta.len() > SECRET_BYTES_MAX {
                    return Err(CliError::failed(format!("secret {path} is larger than {SECRET_BYTES_MAX} bytes")));
                }
                std::fs::read(path).map_err(|e| CliError::io(format!("cannot read secret {path}"), e))?
            }
            (None, name) => {
                let name = name.unwrap_or(id);
                let value = std::env::var(name);
                value.map_err(|_| CliError::failed(format!("secret {id}: there is no variable {name}")))?.into_bytes()
            }
        };
        all.insert(id.to_owned(), Json::String(STANDARD.encode(data)));
    }
    Ok(Json::Object(all))
}

/// `default`, `id=socket`
fn ssh(args: &Args) -> Result<Json> {
    let mut all = serde_json::Map::new();
    for word in args.list("ssh") {
        let (id, socket) = match word.split_once('=') {
            Some((id, socket)) => (id, socket.to_owned()),
            None => {
                let socket = std::env::var("SSH_AUTH_SOCK");
                (word, socket.map_err(|_| CliError::failed("--ssh needs SSH_AUTH_SOCK, or id=socket"))?)
            }
        };
        all.insert(id.to_owned(), Json::String(socket));
    }
    Ok(Json::Object(all))
}

async fn send(
    app: &'static App,
    args: &Args,
    head: &Json,
    context: Option<context::Source>,
    results: &Results,
) -> Result<u8> {
    let (writer, body) = Body::channel();
    let sending = context::send(writer, head.to_string(), context);
    let mut answer = app.client.send(Method::POST, "/api/v1/build", &[], body).await?;
    let mut show = progress::Progress::new(args)?;
    let mut files = results.outputs.files()?;
    let mut cache = results.cache.as_deref().map(output::Files::folder).transpose()?;
    let mut buffer = Vec::new();
    let mut finished = None;
    loop {
        // Dropping the wait loses nothing: what came of a message is in the buffer.
        let Ok(message) = tokio::time::timeout(progress::REDRAW, answer.json(&mut buffer)).await else {
            show.tick();
            continue;
        };
        let Some(message) = message? else { break };
        if let Some(error) = message.field("error") {
            show.failed(&message);
            drop(show);
            return Err(failure(error));
        }
        let part = [("archive", &mut files), ("cache", &mut cache)]
            .into_iter()
            .find_map(|(name, to)| Some((message.field(name)?, to.as_mut()?)));
        if let Some((part, to)) = part {
            let bytes = STANDARD.decode(part.str()).map_err(|_| CliError::failed("a part of the result is damaged"))?;
            to.write(&bytes)?;
            continue;
        }
        if let Some(done) = message.field("finished") {
            finished = Some(done.clone());
        }
        show.message(&message);
    }
    // What could not be sent the engine has told already.
    drop(sending.join());
    let Some(done) = finished else {
        return Err(CliError::failed("the engine ended the build without a result")
            .with_hint("its log says why; what had been built is cached"));
    };
    drop(show);
    for files in [files, cache].into_iter().flatten() {
        files.finish()?;
    }
    results.outputs.images(app, &done).await?;
    report(app, args, &done)?;
    Ok(0)
}

fn report(app: &App, args: &Args, done: &Value) -> Result<()> {
    let id = done.text("image");
    let write = |path: &str, text: &str| {
        std::fs::write(path, text).map_err(|e| CliError::io(format!("cannot write {path}"), e))
    };
    if !args.text("iidfile").is_empty() {
        write(args.text("iidfile"), id)?;
    }
    if !args.text("metadata-file").is_empty() {
        let names: Vec<&str> = done.get("tags").list().iter().map(Value::str).collect();
        let text = json!({"containerimage.config.digest": id, "image.name": names.join(",")});
        write(args.text("metadata-file"), &format!("{text:#}\n"))?;
    }
    if (args.on("quiet") || args.text("progress") == "quiet") && !id.is_empty() {
        app.line(id)?;
    }
    Ok(())
}

fn failure(error: &Value) -> CliError {
    let mut text = error.text("message").to_owned();
    for cause in error.get("causes").list() {
        // What a step printed is on the screen already.
        if !cause.str().starts_with("last output:") {
            text.push_str(&format!(": {}", cause.str()));
        }
    }
    if !error.text("snippet").is_empty() {
        text = format!("{}\n{text}", error.text("snippet"));
    }
    let failed = CliError::failed(text);
    match error.text("hint") {
        "" => failed,
        hint => failed.with_hint(hint),
    }
}

pub(crate) async fn prune(app: &'static App, args: Args) -> Result<u8> {
    let what = if args.on("all") { "all build cache" } else { "all dangling build cache" };
    if !super::prune::confirmed(&args, &format!("WARNING! This will remove {what}."))? {
        return Ok(0);
    }
    let mut path = format!("/build/prune?all={}", u8::from(args.on("all")));
    if args.bytes("keep-storage")? > 0 {
        path.push_str(&format!("&keep-storage={}", args.bytes("keep-storage")?));
    }
    for filter in args.list("filter") {
        let Some(("until", age)) = filter.split_once('=') else {
            return Err(CliError::usage(format!("unknown filter {filter:?}: until=24h")));
        };
        path.push_str(&format!("&filters=%7B%22until%22%3A%5B%22{age}%22%5D%7D"));
    }
    let mut answer = app.client.send(Method::POST, &path, &[], Body::empty()).await?;
    let mut buffer = Vec::new();
    let done = answer.json(&mut buffer).await?.unwrap_or_default();
    for id in done.get("CachesDeleted").list() {
        app.line(&id.str().chars().take(12).collect::<String>())?;
    }
    app.line(&format!("Total:\t{}", crate::units::human_size3(done.get("SpaceReclaimed").float())))?;
    Ok(0)
}
