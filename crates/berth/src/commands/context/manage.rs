//! `context create`, `update`, `inspect`, `rm`, `export`, `import`.

use super::store::{self, Context, Store};
use super::{change, current, docker_endpoint};
use crate::app::App;
use crate::cli::Args;
use crate::error::{CliError, Result, plain};
use crate::template::Template;
use crate::value::{self, Value};
use serde_json::json;
use std::io::{Read, Write};

/// Longer than any exported context.
const ARCHIVE_BYTES_MAX: u64 = 10 << 20;

fn checked(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let valid = name.len() > 1 && name.starts_with(plain) && name.chars().all(|c| plain(c) || "_.+-".contains(c));
    match name {
        "" => Err(CliError::failed("context name cannot be empty")),
        "default" => Err(CliError::failed("\"default\" is a reserved context name")),
        _ if !valid => Err(CliError::failed(format!(
            "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        ))),
        _ => Ok(()),
    }
}

/// `--docker host=..,ca=..,cert=..,key=..,skip-tls-verify=..,from=..` upon `base`.
fn endpoint(app: &App, args: &Args, base: Context) -> Result<Context> {
    let failed = |why: String| CliError::failed(format!("unable to create docker endpoint config: {why}"));
    let fields = args.commas("docker");
    if fields.is_empty() {
        return Ok(base);
    }
    let mut out = Context { description: base.description, ..Context::default() };
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(args.because(
                "docker",
                &args.list("docker").join(","),
                &format!("{field} must be formatted as key=value"),
            ));
        };
        match key {
            "host" => {
                crate::client::endpoint::Endpoint::parse(value).map_err(|_| {
                    failed(format!("unable to apply docker endpoint options: unable to parse docker host `{value}`"))
                })?;
                value.clone_into(&mut out.host);
            }
            "from" => {
                let from = load(app, value)?;
                (out.host, out.skip_verify, out.pems) = (from.host, from.skip_verify, from.pems);
            }
            "skip-tls-verify" => out.skip_verify = matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
            "ca" | "cert" | "key" => {
                let bytes = store::read_pem(std::path::Path::new(value))
                    .map_err(|e| failed(format!("open {value}: {}", plain(&e))))?;
                let file = format!("{key}.pem");
                out.pems.retain(|(name, _)| *name != file);
                out.pems.push((file, bytes));
            }
            other => return Err(failed(format!("unrecognized config key: {other}"))),
        }
    }
    if out.pems.iter().any(|(n, _)| n == "cert.pem") != out.pems.iter().any(|(n, _)| n == "key.pem") {
        return Err(failed("a client certificate needs its key, and a key its certificate".to_owned()));
    }
    Ok(out)
}

fn load(app: &App, name: &str) -> Result<Context> {
    match name {
        "default" => Ok(Context { host: docker_endpoint(), ..Context::default() }),
        name => Store::new(app.config.folder()).load(name),
    }
}

pub(crate) async fn create(app: &'static App, args: Args) -> Result<u8> {
    let (name, store) = (args.words[0].as_str(), Store::new(app.config.folder()));
    checked(name)?;
    if args.changed("from") && args.changed("docker") {
        return Err(CliError::failed("cannot use --docker flag when --from is set"));
    }
    if store.exists(name) {
        return Err(CliError::failed(format!("context {name:?} already exists")));
    }
    let from = if args.changed("from") { args.text("from").to_owned() } else { current(app) };
    let mut context = match args.changed("docker") {
        true => Context::default(),
        false => {
            let mut base = load(app, &from)?;
            if !args.changed("from") && from == "default" {
                super::DEFAULT_DESCRIPTION.clone_into(&mut base.description);
            }
            base
        }
    };
    if args.changed("description") {
        args.text("description").clone_into(&mut context.description);
    }
    store.save(name, &endpoint(app, &args, context)?)?;
    app.line(name)?;
    app.note(&format!("Successfully created context {name:?}"));
    Ok(0)
}

pub(crate) async fn update(app: &'static App, args: Args) -> Result<u8> {
    let (name, store) = (args.words[0].as_str(), Store::new(app.config.folder()));
    checked(name)?;
    let mut context = store.load(name)?;
    if args.changed("description") {
        args.text("description").clone_into(&mut context.description);
    }
    store.save(name, &endpoint(app, &args, context)?)?;
    app.line(name)?;
    app.note(&format!("Successfully updated context {name:?}"));
    Ok(0)
}

pub(crate) async fn remove(app: &'static App, args: Args) -> Result<u8> {
    let store = Store::new(app.config.folder());
    let (force, now) = (args.on("force"), current(app));
    app.each(&args.words, async |name: String| {
        if name == "default" {
            return Err(CliError::failed(r#"context "default" cannot be removed"#));
        }
        if !store.exists(&name) && !force {
            return Err(CliError::failed(format!("context {name:?} does not exist")));
        }
        if name == now {
            if !force {
                return Err(CliError::failed(format!("context {name:?} is in use, set -f flag to force remove")));
            }
            change(app, |config| drop(config.remove("currentContext")))?;
        }
        store.remove(&name)?;
        app.line(&name)
    })
    .await
}

fn described(app: &App, name: &str) -> Result<Value> {
    let context = load(app, name)?;
    let store = Store::new(app.config.folder());
    let in_memory = name == "default";
    let place = |folder: std::path::PathBuf| match in_memory {
        true => "<IN MEMORY>".to_owned(),
        false => folder.display().to_string(),
    };
    let mut whole = store::meta(name, &context);
    let files: Vec<&String> = context.pems.iter().map(|(file, _)| file).collect();
    whole["TLSMaterial"] = if files.is_empty() { json!({}) } else { json!({"docker": files}) };
    whole["Storage"] =
        json!({"MetadataPath": place(store.meta_folder(name)), "TLSPath": place(store.tls_folder(name))});
    Ok(Value::parse(whole.to_string().as_bytes())?)
}

pub(crate) async fn inspect(app: &'static App, args: Args) -> Result<u8> {
    let names = if args.words.is_empty() { vec![current(app)] } else { args.words.clone() };
    let format = args.text("format");
    let template = match format {
        "" | "json" => None,
        format => Some(Template::parse(format)?),
    };
    let (mut out, mut found, mut failed) = (String::new(), Vec::new(), None);
    for name in &names {
        match (described(app, name), &template) {
            (Ok(value), Some(template)) => out.push_str(&format!("{}\n", template.execute(&value)?)),
            (Ok(value), None) => found.push(value.to_json()),
            (Err(error), _) => {
                failed = Some(error);
                break;
            }
        }
    }
    if template.is_none() {
        let whole = format!("[{}]", found.join(","));
        out = if format == "json" { whole } else { value::indent(&whole, 0) };
        out.push('\n');
    }
    app.print(&out)?;
    failed.map_or(Ok(0), Err)
}

pub(crate) async fn export(app: &'static App, args: Args) -> Result<u8> {
    let name = args.words[0].as_str();
    if name == "default" {
        return Err(CliError::failed("context \"default\": the default context cannot be exported"));
    }
    let bytes = Store::new(app.config.folder()).export(name)?;
    let target = args.words.get(1).cloned().unwrap_or_else(|| format!("{name}.dockercontext"));
    if target == "-" {
        if crate::tty::stdout_is_terminal() {
            return Err(CliError::failed("cowardly refusing to export to a terminal, specify a file path"));
        }
        let mut out = std::io::stdout();
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| CliError::io("cannot write the archive", e))?;
        return Ok(0);
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&target)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|e| CliError::failed(format!("open {target}: {}", plain(&e))))?;
    app.note(&format!("Written file {target:?}"));
    Ok(0)
}

pub(crate) async fn import(app: &'static App, args: Args) -> Result<u8> {
    let (name, from, store) = (args.words[0].as_str(), args.words[1].as_str(), Store::new(app.config.folder()));
    checked(name)?;
    if store.exists(name) {
        return Err(CliError::failed(format!("context {name:?} already exists")));
    }
    let mut bytes = Vec::new();
    let read = |reader: &mut dyn Read, bytes: &mut Vec<u8>| reader.take(ARCHIVE_BYTES_MAX).read_to_end(bytes);
    match from {
        "-" => read(&mut std::io::stdin(), &mut bytes),
        path => std::fs::File::open(path).and_then(|mut file| read(&mut file, &mut bytes)),
    }
    .map_err(|e| CliError::failed(format!("open {from}: {}", plain(&e))))?;
    store.save(name, &store::import(&bytes)?)?;
    app.line(name)?;
    app.note(&format!("Successfully imported context {name:?}"));
    Ok(0)
}
