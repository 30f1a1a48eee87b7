//! A frontend's options as a request of the builder.

use super::Door;
use super::progress::{Progress, Step};
use super::promise::Asked;
use super::receive::{self, RemoteTree, Transfer, Wanted};
use super::session::Session;
use crate::build::extra_host;
use berth_buildkit::grpc::{Code, Status};
use berth_buildkit::proto::control::SourceInfo;
use berth_buildkit::proto::session::{BytesMessage, UPLOAD};
use berth_engine::builds::build::platform::Platform;
use berth_engine::builds::build::{BuildOptions, NetworkChoice, Remote};
use berth_engine::builds::{BuildRequest, Context, DockerfileAt, NamedContext, OutputTo};
use berth_engine::containers::ByteSource;
use berth_types::Error;
use berth_types::spec::{Resources, Ulimit};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Dockerfiles and ignore files are not larger.
const TEXT_BYTES_MAX: u64 = 4 << 20;
const IGNORE_FILE: &str = ".dockerignore";
/// The frontends that ours stands for.
const OWN_FRONTENDS: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];
/// What an upload on the session looks like as a context.
const UPLOADED: &str = "http://buildkit-session/";

pub(super) type Attrs = BTreeMap<String, String>;

/// A request, and what has to stay while it runs.
pub(super) struct Prepared {
    pub(super) request: BuildRequest,
    pub(super) transfers: Vec<Open>,
}

/// A folder whose contents come while the build runs.
pub(super) struct Open {
    transfer: Transfer,
    step: Step,
}

impl Open {
    /// Nothing more is wanted of it.
    pub(super) fn close(self) {
        self.step.part("transferring context:", self.transfer.bytes());
    }
}

pub(super) fn invalid(text: impl Into<String>) -> Status {
    // Clients print every other code before the text.
    Status::new(Code::Unknown, text)
}

pub(super) fn unimplemented(text: impl Into<String>) -> Status {
    Status::new(Code::Unimplemented, text)
}

/// Refuses frontends that are not ours.
pub(super) fn check_frontend(frontend: &str, attrs: &Attrs) -> Result<(), Status> {
    match frontend {
        "dockerfile.v0" => Ok(()),
        "gateway.v0" => check_syntax(attrs.get("source").map_or("", String::as_str)),
        other => Err(unimplemented(format!("this builder has no frontend {other:?}: only dockerfile.v0"))),
    }
}

/// `docker/dockerfile:1` and its like are what our own frontend speaks: nothing is pulled for them.
fn check_syntax(source: &str) -> Result<(), Status> {
    let image = source.split_whitespace().next().unwrap_or_default();
    let name = image.split('@').next().unwrap_or_default();
    let name = name.trim_start_matches("docker.io/");
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    if OWN_FRONTENDS.contains(&repository) {
        return Ok(());
    }
    Err(unimplemented(format!(
        "the frontend {image} is an image, which this builder does not run: only docker/dockerfile, which it has itself"
    )))
}

/// Reads what the client has and makes the request of it.
pub(super) async fn prepare(
    door: &Door,
    session: &Arc<Session>,
    asked: &Asked,
    progress: &Arc<Progress>,
    posted: Option<ByteSource>,
) -> Result<Prepared, Status> {
    let attrs = &asked.attrs;
    let mut loader = Loader { door, session, progress, transfers: Vec::new() };
    let attr = |name: &str| attrs.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let mut options = options(attrs)?;
    options.allow = asked.entitlements.iter().cloned().collect();
    let name = options.dockerfile_name.clone();
    let context_name = attr("contextkey").unwrap_or("context");
    let keep_git_dir = attr("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|text| matches!(text, "1" | "true"));
    let remote = |address: &str| Remote::context(address, keep_git_dir).map_err(|error| invalid(error.to_string()));
    let elsewhere = match (posted, attr("context")) {
        (Some(archive), _) => Some(Context::Archive(archive)),
        (None, None) => None,
        (None, Some(address)) => match address.strip_prefix(UPLOADED) {
            Some(path) => Some(Context::Archive(loader.upload(&format!("/{path}"))?)),
            None => remote(address)?.map(Context::Remote),
        },
    };
    let (context, dockerfile, ignore) = match elsewhere {
        Some(context) => (context, loader.dockerfile_of(attr("dockerfilekey"), &name).await?, None),
        None => {
            let (text, own_ignore) = loader.written(attr("dockerfilekey"), &name).await?;
            let (tree, ignore) = loader.folder(context_name, "build context", own_ignore).await?;
            (Context::Tree(tree), DockerfileAt::Text(text), Some(ignore))
        }
    };
    let mut named_contexts = BTreeMap::new();
    for (key, value) in attrs {
        let Some(name) = key.strip_prefix("context:") else { continue };
        // `name::platform`: for one platform only.
        let name = name.split("::").next().unwrap_or(name);
        if let Some(local) = value.strip_prefix("local:") {
            let (tree, _) = loader.folder(local, &format!("context {name}"), None).await?;
            named_contexts.insert(name.to_owned(), NamedContext::Tree(tree));
        } else if let Some(image) = value.strip_prefix("docker-image://") {
            options.image_contexts.insert(name.to_owned(), image.to_owned());
        } else if let Some(promise) = value.strip_prefix("input:").and_then(|input| asked.inputs.get(input)) {
            options.image_contexts.insert(name.to_owned(), promise.image(door).await?);
        } else if let Some(remote) = remote(value)? {
            named_contexts.insert(name.to_owned(), NamedContext::Remote(remote));
        } else {
            return Err(unimplemented(format!(
                "cannot use {value} as the context {name}: a folder, a repository, an archive's address or \
                 docker-image:// is needed"
            )));
        }
    }
    let request = BuildRequest {
        options,
        dockerfile,
        context,
        ignore,
        named_contexts,
        secrets: BTreeMap::new(),
        ssh: BTreeMap::new(),
        caller: Some(session.clone()),
        tags: Vec::new(),
        limits: limits(attrs)?,
        shm_size_bytes: number(attrs, "shm-size")?.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        output: OutputTo::Nothing,
        elsewhere: berth_engine::builds::Elsewhere::default(),
    };
    Ok(Prepared { request, transfers: loader.transfers })
}

/// What a question about a Dockerfile needs of all that: the file alone, from the client.
pub(super) async fn asked(
    door: &Door,
    session: &Arc<Session>,
    attrs: &Attrs,
    progress: &Arc<Progress>,
) -> Result<BuildOptions, Status> {
    let attr = |name: &str| attrs.get(name).map(String::as_str).filter(|text| !text.is_empty());
    if let Some(address) = attr("context").filter(|_| attr("dockerfilekey").is_none()) {
        return Err(unimplemented(format!(
            "this builder answers questions about a Dockerfile here, not one in {address}"
        )));
    }
    let mut options = options(attrs)?;
    for (key, value) in attrs {
        let Some(name) = key.strip_prefix("context:").and_then(|name| name.split("::").next()) else { continue };
        match value.strip_prefix("docker-image://") {
            Some(image) => drop(options.image_contexts.insert(name.to_owned(), image.to_owned())),
            None => drop(options.tree_contexts.insert(name.to_owned())),
        }
    }
    let loader = Loader { door, session, progress, transfers: Vec::new() };
    let name = options.dockerfile_name.clone();
    options.dockerfile = loader.written(attr("dockerfilekey"), &name).await?.0;
    Ok(options)
}

/// Gets what the client has.
struct Loader<'a> {
    door: &'a Door,
    session: &'a Arc<Session>,
    progress: &'a Arc<Progress>,
    transfers: Vec<Open>,
}

impl Loader<'_> {
    async fn receive(&self, wanted: &Wanted<'_>) -> Result<(Arc<RemoteTree>, Transfer), Status> {
        let spool = self.door.engine.builds().scratch_file();
        let spool = spool.map_err(|cause| Status::internal(format!("cannot make a file for the build: {cause}")))?;
        let known = self.door.folders.of(&self.session.folder_key(wanted.name));
        receive::receive(self.session, wanted, spool, known).await
    }

    /// Small files of one of the client's folders, in the order of `names`.
    async fn texts(&self, folder: &str, names: &[String]) -> Result<Vec<Option<Vec<u8>>>, Status> {
        let (tree, transfer) = self.receive(&Wanted { name: folder, only: names, exclude: &[] }).await?;
        let names = names.to_vec();
        let read = tokio::task::spawn_blocking(move || {
            names.iter().map(|name| tree.small(Path::new(name), TEXT_BYTES_MAX)).collect::<std::io::Result<Vec<_>>>()
        });
        let texts = read.await.map_err(|cause| Status::internal(format!("reading ended early: {cause}")))?;
        drop(transfer);
        texts.map_err(|cause| Status::new(Code::Unknown, format!("failed to read {folder}: {cause}")))
    }

    /// The Dockerfile in the client's folder `key`, as a step that people see, and the ignore file that is its own.
    async fn written(&self, key: Option<&str>, name: &str) -> Result<(Vec<u8>, Option<String>), Status> {
        let step = self.progress.begin(format!("[internal] load build definition from {name}"));
        let found = self.definition(key.unwrap_or("dockerfile"), name).await;
        let (text, own_ignore) = match found {
            Ok(found) => found,
            Err(status) => {
                step.failed(&status.message);
                return Err(status);
            }
        };
        step.part("transferring dockerfile:", text.len() as u64);
        let info = SourceInfo { filename: name.to_owned(), data: text.clone(), language: "Dockerfile".to_owned() };
        self.progress.defined_by(&step, info);
        step.done();
        if let Some(syntax) = berth_engine::builds::syntax(&text) {
            check_syntax(&syntax)?;
        }
        Ok((text, own_ignore))
    }

    /// The Dockerfile, and the ignore file that is its own.
    async fn definition(&self, folder: &str, name: &str) -> Result<(Vec<u8>, Option<String>), Status> {
        let clean = Path::new(name).components().collect::<std::path::PathBuf>();
        let name = clean.to_str().unwrap_or(name).to_owned();
        let mut names = vec![name.clone(), format!("{name}.dockerignore")];
        if clean.file_name().is_some_and(|last| last == "Dockerfile") {
            names.push(clean.with_file_name("dockerfile").to_string_lossy().into_owned());
        }
        let mut texts = self.texts(folder, &names).await?.into_iter();
        let (exact, ignore, lower) = (texts.next().flatten(), texts.next().flatten(), texts.next().flatten());
        let missing =
            || Status::new(Code::Unknown, format!("failed to read dockerfile: open {name}: no such file or directory"));
        let text = exact.or(lower).ok_or_else(missing)?;
        Ok((text, ignore.map(|ignore| String::from_utf8_lossy(&ignore).into_owned())))
    }

    /// A folder without what its ignore file names, and that file's text.
    async fn folder(
        &mut self,
        folder: &str,
        shown: &str,
        ignore: Option<String>,
    ) -> Result<(Arc<RemoteTree>, String), Status> {
        let ignore = match ignore {
            Some(ignore) => ignore,
            None => {
                let step = self.progress.begin(format!("[internal] load {IGNORE_FILE}"));
                let text = self.texts(folder, &[IGNORE_FILE.to_owned()]).await?.into_iter().next().flatten();
                let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
                step.part("transferring context:", text.len() as u64);
                step.done();
                text
            }
        };
        let exclude = berth_engine::builds::ignored(&ignore);
        let mut step = self.progress.begin(format!("[internal] load {shown}"));
        let (tree, transfer) = self.receive(&Wanted { name: folder, exclude: &exclude, only: &[] }).await?;
        step.part(&format!("listing {} files", tree.files()), 0);
        step.end();
        self.transfers.push(Open { transfer, step });
        Ok((tree, ignore))
    }

    /// The Dockerfile of a context that is an archive: in it, or with the client.
    async fn dockerfile_of(&self, folder: Option<&str>, name: &str) -> Result<DockerfileAt, Status> {
        match folder {
            None => Ok(DockerfileAt::Context(name.to_owned())),
            Some(folder) => Ok(DockerfileAt::Text(self.definition(folder, name).await?.0)),
        }
    }

    /// A stream that the client sends once.
    fn upload(&self, path: &str) -> Result<ByteSource, Status> {
        let mut metadata = axum::http::HeaderMap::new();
        let value = axum::http::HeaderValue::from_str(path).map_err(|_| invalid(format!("no upload {path:?}")))?;
        metadata.insert("urlpath", value);
        metadata.insert("urlhost", axum::http::HeaderValue::from_static("buildkit-session"));
        let (sending, mut replies) = self.session.channel().converse(UPLOAD, metadata);
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let part = match replies.next::<BytesMessage>().await {
                    Ok(None) => break,
                    Ok(Some(message)) => Ok(message.data),
                    Err(status) => Err(Error::invalid(format!("the build context is cut off: {status}"))),
                };
                let ended = part.is_err();
                if sender.send(part).await.is_err() || ended {
                    break;
                }
            }
            drop(sending);
        });
        Ok(receiver)
    }
}

/// What has no files in it.
fn options(attrs: &Attrs) -> Result<BuildOptions, Status> {
    let attr = |name: &str| attrs.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let with = |prefix: &str| -> BTreeMap<String, String> {
        let found = attrs.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone())));
        found.collect()
    };
    if let Some(key) = attrs.keys().find(|key| key.starts_with("attest:")) {
        return Err(unimplemented(format!("this builder makes no attestations ({key})")));
    }
    let platforms: Vec<&str> = attr("platform").map(|text| text.split(',').collect()).unwrap_or_default();
    let platform = match platforms.as_slice() {
        [] => None,
        [one] => Some(Platform::parse(one, &Platform::host()).map_err(invalid)?),
        _ => return Err(unimplemented("one build makes an image for one platform: build them one after the other")),
    };
    let (no_cache, no_cache_stages) = match attrs.get("no-cache").map(String::as_str) {
        None => (false, BTreeSet::new()),
        Some("") => (true, BTreeSet::new()),
        Some(stages) => (false, stages.split(',').map(str::to_owned).collect()),
    };
    let host = |entry: &str| {
        let (name, address) =
            entry.split_once('=').ok_or_else(|| invalid(format!("invalid key-value pair {entry}")))?;
        Ok(format!("{name}:{address}"))
    };
    let hosts: Result<Vec<String>, Status> =
        attr("add-hosts").into_iter().flat_map(|text| text.split(',')).map(host).collect();
    let extra_hosts = hosts?.iter().map(|entry| extra_host(entry)).collect::<Result<Vec<_>, Error>>();
    Ok(BuildOptions {
        dockerfile_name: attr("filename").unwrap_or("Dockerfile").to_owned(),
        target: attr("target").unwrap_or_default().to_owned(),
        build_args: with("build-arg:"),
        labels: with("label:"),
        no_cache,
        no_cache_stages,
        pull: attr("image-resolve-mode") == Some("pull"),
        platform,
        network: match attr("force-network-mode") {
            None | Some("sandbox" | "default") => NetworkChoice::Default,
            Some("none") => NetworkChoice::None,
            Some("host") => NetworkChoice::Host,
            Some(other) => return Err(invalid(format!("invalid netmode {other}"))),
        },
        extra_hosts: extra_hosts.map_err(|error| invalid(error.to_string()))?.concat(),
        ..BuildOptions::default()
    })
}

fn number(attrs: &Attrs, name: &str) -> Result<Option<i64>, Status> {
    let text = attrs.get(name).filter(|text| !text.is_empty());
    let parse = |text: &String| text.parse().map_err(|_| invalid(format!("invalid {name}: {text:?} is no number")));
    text.map(parse).transpose()
}

fn limits(attrs: &Attrs) -> Result<Resources, Status> {
    let text = |name: &str| attrs.get(name).cloned().unwrap_or_default();
    let int = |name: &str| Ok::<i64, Status>(number(attrs, name)?.unwrap_or(0));
    let ulimit = |entry: &str| {
        let parsed = entry.split_once('=').and_then(|(name, values)| {
            let (soft, hard) = values.split_once(':').unwrap_or((values, values));
            Some(Ulimit { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
        });
        parsed.ok_or_else(|| invalid(format!("failed to parse ulimit: {entry:?}")))
    };
    Ok(Resources {
        memory_bytes: int("memory")?,
        memory_swap_bytes: int("memswap")?,
        cpu_shares: int("cpushares")?,
        cpu_period_micros: int("cpuperiod")?,
        cpu_quota_micros: int("cpuquota")?,
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
        cgroup_parent: text("cgroup-parent"),
        ulimits: text("ulimit").split(',').filter(|entry| !entry.is_empty()).map(ulimit).collect::<Result<_, _>>()?,
        ..Resources::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> Attrs {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_our_own_frontend_runs() {
        for own in [
            "docker/dockerfile:1",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile",
            "docker/dockerfile@sha256:ab x=y",
        ] {
            assert!(check_syntax(own).is_ok(), "{own}");
        }
        for other in ["", "localhost:5000/docker/dockerfile:1", "acme/frontend", "docker/dockerfile2"] {
            assert_eq!(check_syntax(other).unwrap_err().code, Code::Unimplemented, "{other}");
        }
        assert!(check_frontend("dockerfile.v0", &Attrs::new()).is_ok());
        assert!(check_frontend("gateway.v0", &attrs(&[("source", "docker/dockerfile:1")])).is_ok());
        assert!(check_frontend("gateway.v0", &attrs(&[("source", "x/y")])).is_err());
    }

    #[test]
    fn options_are_read_as_buildx_writes_them() {
        let read = options(&attrs(&[
            ("filename", "a/Dockerfile"),
            ("target", "prod"),
            ("build-arg:A", "1"),
            ("label:b", "2"),
            ("no-cache", "x,y"),
            ("add-hosts", "db=10.0.0.1,six=[::1]"),
            ("force-network-mode", "none"),
            ("image-resolve-mode", "pull"),
            ("platform", "linux/arm64"),
        ]))
        .unwrap();
        assert_eq!((read.dockerfile_name.as_str(), read.target.as_str()), ("a/Dockerfile", "prod"));
        assert_eq!((read.build_args["A"].as_str(), read.labels["b"].as_str()), ("1", "2"));
        assert!(!read.no_cache && read.no_cache_stages.contains("y") && read.pull);
        assert_eq!(read.extra_hosts, ["db:10.0.0.1", "six:[::1]"]);
        assert_eq!((read.network, read.platform.unwrap().architecture.as_str()), (NetworkChoice::None, "arm64"));
        assert!(options(&attrs(&[("no-cache", "")])).unwrap().no_cache);
        for bad in [
            ("add-hosts", "x"),
            ("force-network-mode", "mine"),
            ("platform", "linux/amd64,linux/arm64"),
            ("attest:sbom", ""),
        ] {
            assert!(options(&attrs(&[bad])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn limits_are_numbers_and_ulimits_pairs() {
        let read = limits(&attrs(&[("ulimit", "nofile=1024:2048,nproc=5"), ("memory", "64"), ("cgroup-parent", "/x")]));
        let read = read.unwrap();
        assert_eq!(read.ulimits.len(), 2);
        assert_eq!((read.ulimits[0].soft, read.ulimits[0].hard, read.ulimits[1].hard), (1024, 2048, 5));
        assert_eq!((read.memory_bytes, read.cgroup_parent.as_str()), (64, "/x"));
        assert!(limits(&attrs(&[("memory", "x")])).is_err());
        assert!(limits(&attrs(&[("ulimit", "nofile")])).is_err());
    }
}
