//! What every command has at hand: the client, the configuration file, the output.

use crate::cli::Global;
use crate::client::Client;
use crate::client::endpoint::Endpoint;
use crate::error::{CliError, Result};
use crate::value::Value;
use futures_util::StreamExt as _;
use std::cell::OnceCell;
use std::io::Write;
use std::path::PathBuf;

pub(crate) struct App {
    pub(crate) client: Client,
    pub(crate) config: Config,
}

/// As many requests as `docker` has under way at most.
const AT_ONCE: usize = 50;

impl App {
    pub(crate) fn new(global: &Global) -> Result<App> {
        let config = Config::new(global.config.as_deref());
        let client = Client::new(Endpoint::choose(global, &config)?);
        Ok(App { client, config })
    }

    pub(crate) fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|e| CliError::io("cannot write the output", e))
    }

    pub(crate) fn line(&self, text: &str) -> Result<()> {
        self.print(&format!("{text}\n"))
    }

    pub(crate) fn note(&self, text: &str) {
        // A closed stderr is no reason to fail.
        drop(writeln!(std::io::stderr(), "{text}"));
    }

    /// The engine's words for a name: `@last` is the newest container.
    pub(crate) async fn container(&self, name: &str) -> Result<String> {
        if name != "@last" {
            return Ok(name.trim_start_matches('/').to_owned());
        }
        let newest = self.client.get_value("/containers/json?all=1&limit=1").await?;
        match newest.list().first() {
            Some(container) => Ok(container.text("Id").to_owned()),
            None => Err(CliError::failed("there is no container yet that @last could name")),
        }
    }

    /// As [`each`](Self::each), many at a time; lines and errors come in the names' order. `docker` works like this
    /// too: two hundred stops that wait one for another take two hundred times as long.
    pub(crate) async fn together<F, Fut>(&self, names: &[String], each: F) -> Result<u8>
    where
        F: FnMut(String) -> Fut,
        Fut: Future<Output = Result<Option<String>>>,
    {
        let mut code = 0;
        let mut answers = futures_util::stream::iter(names.to_vec()).map(each).buffered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            let told = answer.and_then(|line| line.map_or(Ok(()), |line| self.line(&line)));
            if let Err(error) = told {
                if error.is_broken_pipe() {
                    return Err(error);
                }
                crate::report(self, &error).await;
                code = 1;
            }
        }
        Ok(code)
    }

    /// Runs `each` for every name, says what failed, and goes on; exit code 1 if anything did.
    pub(crate) async fn each<F, Fut>(&self, names: &[String], mut each: F) -> Result<u8>
    where
        F: FnMut(String) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let mut code = 0;
        for name in names {
            if let Err(error) = each(name.clone()).await {
                if error.is_broken_pipe() {
                    return Err(error);
                }
                crate::report(self, &error).await;
                code = 1;
            }
        }
        Ok(code)
    }
}

/// `~/.docker/config.json` and the contexts beside it, read when first asked for.
pub(crate) struct Config {
    folder: PathBuf,
    file: OnceCell<Value>,
}

impl Config {
    fn new(folder: Option<&str>) -> Config {
        let env = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = folder
            .map(PathBuf::from)
            .or_else(|| env("DOCKER_CONFIG"))
            .unwrap_or_else(|| env("HOME").unwrap_or_else(|| "/root".into()).join(".docker"));
        Config { folder, file: OnceCell::new() }
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    pub(crate) fn file(&self) -> &Value {
        self.file.get_or_init(|| {
            let path = self.folder.join("config.json");
            let read = match std::fs::read(&path) {
                Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Value::default(),
                Err(cause) => Err(cause.to_string()),
                Ok(bytes) => Value::parse(&bytes).map_err(|cause| cause.to_string()),
            };
            read.unwrap_or_else(|cause| {
                // Docker's words. Without the file nobody is logged in, which would be a riddle otherwise.
                drop(writeln!(std::io::stderr(), "WARNING: Error loading config file: {}: {cause}", path.display()));
                Value::default()
            })
        })
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.file().text(key)
    }

    pub(crate) fn current_context(&self) -> Option<String> {
        let name = self.text("currentContext");
        (!name.is_empty() && name != "default").then(|| name.to_owned())
    }

    /// Contexts are kept as `contexts/meta/<hash>/meta.json`.
    pub(crate) fn contexts(&self) -> Vec<Value> {
        let Ok(folders) = std::fs::read_dir(self.folder.join("contexts/meta")) else { return Vec::new() };
        let mut contexts: Vec<Value> = folders
            .filter_map(|f| std::fs::read(f.ok()?.path().join("meta.json")).ok())
            .filter_map(|bytes| Value::parse(&bytes).ok())
            .collect();
        contexts.sort_by(|a, b| a.text("Name").cmp(b.text("Name")));
        contexts
    }

    pub(crate) fn context_endpoint(&self, name: &str) -> Result<Endpoint> {
        if name == "default" {
            return Ok(Endpoint::standard());
        }
        let contexts = self.contexts();
        let Some(context) = contexts.iter().find(|c| c.text("Name") == name) else {
            let near = crate::suggest::nearest(name, contexts.iter().map(|c| c.text("Name")));
            let error = CliError::failed(format!("context {name:?}: context not found"));
            return Err(match near {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error.with_hint("list them with: berth context ls"),
            });
        };
        let stored = crate::commands::context::store::Store::new(&self.folder).load(name)?;
        let pem = |file: &str| stored.pems.iter().find(|(n, _)| n == file).map(|(_, b)| b.clone()).unwrap_or_default();
        let tls = (!stored.pems.is_empty()).then(|| crate::client::endpoint::Tls {
            ca: pem("ca.pem"),
            certificate: pem("cert.pem"),
            key: pem("key.pem"),
        });
        if stored.skip_verify {
            return Err(CliError::failed(format!("context {name:?} skips the check of the engine's certificate"))
                .with_hint("anybody could answer: give the context the engine's CA with --docker ca=FILE"));
        }
        Ok(Endpoint::parse(context.at(&["Endpoints", "docker"]).text("Host"))?.with_tls(tls))
    }
}
