//! One instruction after another changes a stage.

use crate::error::BuildError;
use crate::graph::{CopyOp, From, Id, MountOp, MountOpKind, Op, RunOp, SourceOp, Vertex};
use crate::key::Key;
use crate::plan::{PATH, PROXIES, Planner, inherited, set_env};
use crate::remote::{Remote, is_git, is_http};
use crate::tree::MemTree;
use crate::types::{BaseImage, History, NetworkChoice};
use crate::worker::{CacheMount, Images, OwnMount};
use crate::{StepInfo, parse_chmod};
use berth_dockerfile::ignore::clean;
use berth_dockerfile::lint::{Rule, Warning};
use berth_dockerfile::platform::Platform;
use berth_dockerfile::shell::{Shell, ShellError, env_lookup};
use berth_dockerfile::{self as df, ExpandError, Instruction, Kind, MountType, Network, quote};
use berth_types::Digest;
use berth_types::spec::{Config, Healthcheck};
use std::collections::BTreeSet;
use std::sync::Arc;

/// BuildKit's word for its own steps.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// A stage as far as it has been planned.
pub(crate) struct Stage {
    /// The state that it has come to.
    pub vertex: Id,
    pub config: Config,
    pub platform: Platform,
    pub author: String,
    /// With the vertex that made a layer, or not.
    pub history: Vec<(History, Option<Id>)>,
    /// What a `RUN` sees: the image's environment and arguments.
    env: Vec<String>,
    pub args: Vec<df::Arg>,
    index: usize,
    /// Its name in steps; empty where there is only one.
    pub shown: String,
    /// Its vertices and of the stages below it.
    pub keys: Vec<Id>,
    pub total: usize,
    done: usize,
    cmd_set: bool,
    workdir_set: bool,
    pub triggers: Vec<String>,
}

impl Stage {
    pub(crate) fn on_image(vertex: Id, image: &BaseImage, index: usize, shown: String) -> Stage {
        let mut config = image.config.clone();
        let triggers = config.on_build.take().unwrap_or_default();
        if !config.env.iter().any(|entry| entry.starts_with("PATH=")) {
            config.env.push(PATH.to_owned());
        }
        Stage {
            vertex,
            env: config.env.clone(),
            config,
            platform: image.platform.clone(),
            author: image.author.clone(),
            history: inherited(image),
            args: Vec::new(),
            index,
            shown,
            keys: Vec::new(),
            total: 0,
            done: 0,
            cmd_set: false,
            workdir_set: false,
            triggers,
        }
    }

    pub(crate) fn on_stage(of: &Stage, index: usize, shown: String) -> Stage {
        let mut config = of.config.clone();
        let triggers = config.on_build.take().unwrap_or_default();
        Stage {
            vertex: of.vertex,
            env: of.env.clone(),
            config,
            platform: of.platform.clone(),
            author: of.author.clone(),
            history: of.history.clone(),
            args: of.args.clone(),
            index,
            shown,
            keys: of.keys.clone(),
            total: 0,
            done: 0,
            cmd_set: false,
            workdir_set: of.workdir_set,
            triggers,
        }
    }

    /// `[stage 2/5] text`
    pub(crate) fn step_name(&mut self, text: &str, counts: bool) -> String {
        if self.total == 0 || !counts {
            return text.to_owned();
        }
        self.done += 1;
        let stage = if self.shown.is_empty() { String::new() } else { format!("{} ", self.shown) };
        let width = self.total.ilog10() as usize + 1;
        format!("[{stage}{:width$}/{}] {text}", self.done, self.total)
    }

    /// All that an instruction without files may have changed.
    fn known_by(&self, code: &str) -> Digest {
        let Stage { config, env, args, author, .. } = self;
        Key::new("words").text(&format!("{config:?} {env:?} {args:?} {author:?}")).text(code).end()
    }

    fn cwd(&self) -> &str {
        match self.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }

    fn shell(&self) -> Vec<String> {
        match &self.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
        }
    }

    fn in_shell(&self, command: &df::Command) -> Vec<String> {
        if !command.in_shell {
            return command.line.clone();
        }
        let mut line = self.shell();
        line.push(command.line.join(" "));
        line
    }

    /// `path` seen from the working folder; a slash at the end stays.
    fn absolute(&self, path: &str) -> String {
        let folder = path.ends_with('/') || path.is_empty() || path == "." || path.ends_with("/.");
        let whole = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.cwd()) };
        let cleaned = clean(&whole);
        if folder && cleaned != "/" { format!("{cleaned}/") } else { cleaned }
    }
}

fn plain(error: ExpandError) -> BuildError {
    BuildError::invalid(error.to_string())
}

impl<I: Images> Planner<'_, I> {
    pub(crate) async fn dispatch(
        &mut self,
        stage: &mut Stage,
        mut one: Instruction,
        on_build: bool,
    ) -> Result<(), BuildError> {
        let mut unmatched = BTreeSet::new();
        let env = stage.env.clone();
        let shell = self.shell.clone();
        let mut expander = |word: &str| -> Result<String, ShellError> {
            let word = shell.word(word, &env_lookup(&env))?;
            unmatched.extend(word.unmatched);
            Ok(word.text)
        };
        one.expand(&mut expander).map_err(plain)?;
        let raw = Shell { skip_quotes: true, ..Shell::new('\\') };
        let mut in_contents = |word: &str| raw.word(word, &env_lookup(&env)).map(|word| word.text);
        one.expand_contents(&mut in_contents).map_err(|error| BuildError::invalid(error.to_string()))?;
        self.undefined(stage, &one, unmatched);
        let before = stage.vertex;
        let vertices = self.vertices.len();
        let code = if on_build { format!("ONBUILD {}", one.code) } else { one.code.clone() };
        match &one.kind {
            Kind::Arg(args) => self.arg(stage, args, &one)?,
            Kind::Env(pairs) => {
                let mut text = "ENV".to_owned();
                for pair in pairs {
                    text.push_str(&format!(" {}={}", pair.key, pair.value));
                    set_env(&mut stage.env, &pair.key, &pair.value);
                    set_env(&mut stage.config.env, &pair.key, &pair.value);
                }
                self.history(stage, text, None);
            }
            Kind::Label(pairs) => {
                let mut text = "LABEL".to_owned();
                for pair in pairs {
                    text.push_str(&format!(" {}={}", pair.key, pair.value));
                    stage.config.labels.insert(pair.key.clone(), pair.value.clone());
                }
                self.history(stage, text, None);
            }
            Kind::Maintainer(who) => {
                stage.author.clone_from(who);
                self.history(stage, format!("MAINTAINER {who}"), None);
            }
            Kind::Onbuild(trigger) => stage.config.on_build.get_or_insert_default().push(trigger.clone()),
            Kind::Cmd(command) => {
                self.json_recommended(stage, command, &one);
                let line = stage.in_shell(command);
                let shown: Vec<String> = line.iter().map(|word| quote(word)).collect();
                stage.config.cmd = Some(line);
                stage.cmd_set = true;
                self.history(stage, format!("CMD [{}]", shown.join(" ")), None);
            }
            Kind::Entrypoint(command) => {
                self.json_recommended(stage, command, &one);
                let line = stage.in_shell(command);
                let shown: Vec<String> = line.iter().map(|word| quote(word)).collect();
                stage.config.entrypoint = Some(line).filter(|line| !line.is_empty());
                if !stage.cmd_set {
                    stage.config.cmd = None;
                }
                self.history(stage, format!("ENTRYPOINT [{}]", shown.join(" ")), None);
            }
            Kind::Healthcheck(health) => {
                stage.config.healthcheck = Some(Healthcheck {
                    test: health.test.clone(),
                    interval_nanos: health.interval_nanos,
                    timeout_nanos: health.timeout_nanos,
                    start_period_nanos: health.start_period_nanos,
                    start_interval_nanos: health.start_interval_nanos,
                    retries: health.retries,
                });
                self.history(stage, format!("HEALTHCHECK {}", health.go_format()), None);
            }
            Kind::Expose(words) => self.expose(stage, words, &one)?,
            Kind::User(user) => {
                stage.config.user.clone_from(user);
                self.history(stage, format!("USER {user}"), None);
            }
            Kind::Volume(list) => {
                if list.iter().any(String::is_empty) {
                    return Err(BuildError::invalid("VOLUME specified can not be an empty string"));
                }
                stage.config.volumes.extend(list.iter().cloned());
                self.history(stage, format!("VOLUME [{}]", list.join(" ")), None);
            }
            Kind::StopSignal(signal) => {
                if !is_signal(signal) {
                    return Err(BuildError::invalid(format!("invalid signal: {signal}")));
                }
                stage.config.stop_signal = Some(signal.clone());
                self.history(stage, format!("STOPSIGNAL {signal}"), None);
            }
            Kind::Shell(shell) => {
                stage.config.shell = Some(shell.clone());
                self.history(stage, format!("SHELL [{}]", shell.join(" ")), None);
            }
            Kind::Workdir(path) => self.workdir(stage, path, &one, &code),
            Kind::Add(add) => self.add_files(stage, add, &one, &code)?,
            Kind::Copy(copy) => self.copy_files(stage, copy, &one, &code).await?,
            Kind::Run(run) => self.run(stage, run, &one, &code).await?,
        }
        let made = self.vertices.len() > vertices && stage.vertex != before;
        if made {
            stage.keys.push(stage.vertex);
        } else {
            let op = Op::Config { base: stage.vertex, known_by: stage.known_by(&code) };
            let no_cache = self.no_cache(stage);
            stage.vertex = self.add(Vertex { op, name: code.clone(), lines: Some(one.lines), no_cache });
        }
        self.steps.push(StepInfo {
            id: stage.vertex,
            metadata: !made,
            name: self.vertices[stage.vertex].name.clone(),
            instruction: code,
            stage: stage.shown.clone(),
            lines: Some(one.lines),
        });
        Ok(())
    }

    fn undefined(&mut self, stage: &Stage, one: &Instruction, unmatched: BTreeSet<String>) {
        for name in unmatched {
            if stage.args.iter().any(|arg| arg.key == name) {
                continue;
            }
            let text = format!("Usage of undefined variable '${name}'");
            let keys = stage.env.iter().filter_map(|entry| entry.split('=').next());
            let text = match df::suggest::nearest(&name, keys, true) {
                Some(near) => format!("{text} (did you mean ${near}?)"),
                None => text,
            };
            self.warnings.push(Warning::new(Rule::UndefinedVar, text, one.lines));
        }
    }

    fn json_recommended(&mut self, stage: &Stage, command: &df::Command, one: &Instruction) {
        if command.in_shell && stage.config.shell.as_ref().is_none_or(Vec::is_empty) {
            let text = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                one.keyword
            );
            self.warnings.push(Warning::new(Rule::JSONArgsRecommended, text, one.lines));
        }
    }

    fn history(&self, stage: &mut Stage, text: String, vertex: Option<Id>) {
        let created_unix_nanos = self.epoch_seconds.map(|seconds| seconds * 1_000_000_000);
        let step = History {
            created_unix_nanos,
            created_by: text,
            comment: COMMENT.to_owned(),
            author: String::new(),
            empty_layer: vertex.is_none(),
        };
        stage.history.push((step, vertex));
    }

    fn arg(&mut self, stage: &mut Stage, args: &[df::Arg], one: &Instruction) -> Result<(), BuildError> {
        let mut shown = Vec::new();
        for arg in args {
            let given = self.options.build_args.get(&arg.key).cloned();
            let value = match (given, &arg.value) {
                (Some(value), _) => Some(value),
                (None, Some(text)) => {
                    let word = self.shell.word(text, &env_lookup(&stage.env));
                    let word = word.map_err(|error| BuildError::invalid(error.to_string()))?;
                    self.undefined(stage, one, word.unmatched);
                    Some(word.text)
                }
                (None, None) => env_lookup(&self.global)(&arg.key),
            };
            if let Some(value) = &value {
                set_env(&mut stage.env, &arg.key, value);
            }
            shown.push(match &value {
                Some(value) => format!("{}={value}", arg.key),
                None => arg.key.clone(),
            });
            stage.args.push(df::Arg { key: arg.key.clone(), value });
        }
        self.history(stage, format!("ARG {}", shown.join(" ")), None);
        Ok(())
    }

    fn expose(&mut self, stage: &mut Stage, words: &[String], one: &Instruction) -> Result<(), BuildError> {
        let mut ports = Vec::new();
        for word in words {
            let list = self.shell.words(word, &env_lookup(&stage.env));
            for word in list.map_err(|error| BuildError::invalid(error.to_string()))? {
                let (list, notes) = df::ports::exposed(&word).map_err(BuildError::invalid)?;
                if notes.casing {
                    let text = format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase");
                    self.warnings.push(Warning::new(Rule::ExposeProtoCasing, text, one.lines));
                }
                if notes.mapping {
                    let text = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
                    );
                    self.warnings.push(Warning::new(Rule::ExposeInvalidFormat, text, one.lines));
                }
                ports.extend(list);
            }
        }
        for port in &ports {
            let parsed = port.parse();
            stage
                .config
                .exposed_ports
                .insert(parsed.map_err(|_| BuildError::invalid(format!("invalid port: {port}")))?);
        }
        self.history(stage, format!("EXPOSE [{}]", ports.join(" ")), None);
        Ok(())
    }

    fn no_cache(&self, stage: &Stage) -> bool {
        self.options.no_cache || self.options.no_cache_stages.contains(&stage.shown)
    }

    fn shown_name(&self, stage: &mut Stage, code: &str) -> String {
        let word = Shell { raw_quotes: true, skip_unset: true, ..self.shell.clone() }
            .word(code, &env_lookup(&stage.env))
            .map_or_else(|_| code.to_owned(), |word| word.text);
        let (first, rest) = word.split_once(' ').unwrap_or((&word, ""));
        let text = format!("{} {rest}", first.to_uppercase());
        stage.step_name(text.trim_end(), true)
    }

    fn push(&mut self, stage: &mut Stage, op: Op, one: &Instruction, code: &str) -> Id {
        let name = self.shown_name(stage, code);
        let no_cache = self.no_cache(stage);
        stage.vertex = self.add(Vertex { op, name, lines: Some(one.lines), no_cache });
        stage.vertex
    }

    fn workdir(&mut self, stage: &mut Stage, path: &str, one: &Instruction, code: &str) {
        if !stage.workdir_set && !path.starts_with('/') {
            let text = format!("Relative workdir {path:?} can have unexpected results if the base image changes");
            self.warnings.push(Warning::new(Rule::WorkdirRelativePath, text, one.lines));
        }
        stage.workdir_set = true;
        let path = stage.absolute(path).trim_end_matches('/').to_owned();
        let path = if path.is_empty() { "/".to_owned() } else { path };
        stage.config.working_dir.clone_from(&path);
        let vertex = (path != "/").then(|| {
            let op = Op::Mkdir { base: stage.vertex, path: path.clone(), user: stage.config.user.clone() };
            self.push(stage, op, one, code)
        });
        self.history(stage, format!("WORKDIR {path}"), vertex);
    }

    fn add_files(&mut self, stage: &mut Stage, add: &df::Add, one: &Instruction, code: &str) -> Result<(), BuildError> {
        let mut sources = Vec::new();
        if !add.checksum.is_empty() {
            match add.sources.paths.as_slice() {
                [only] if is_http(only) || is_git(only) => {}
                [_] => return Err(BuildError::invalid("checksum requires HTTP(S) or Git sources")),
                _ => return Err(BuildError::invalid("checksum can't be specified for multiple sources")),
            }
        }
        for path in &add.sources.paths {
            if is_git(path) {
                let remote = Remote::git(path, &add.checksum, add.keep_git_dir.unwrap_or(false))?;
                sources.push(SourceOp { from: From::Remote(remote), path: String::new(), unpack: false });
            } else if is_http(path) {
                let (remote, name) = Remote::http(path, &add.checksum)?;
                sources.push(SourceOp { from: From::Remote(remote), path: name, unpack: add.unpack.unwrap_or(false) });
            } else {
                let unpack = add.unpack.unwrap_or(true);
                sources.push(SourceOp { from: From::Context(None), path: path.clone(), unpack });
            }
        }
        let what = Copying {
            keyword: "ADD",
            sources,
            given: &add.sources,
            chown: &add.chown,
            chmod: &add.chmod,
            link: add.link,
            parents: false,
            exclude: &add.exclude,
        };
        self.files(stage, what, one, code)
    }

    async fn copy_files(
        &mut self,
        stage: &mut Stage,
        copy: &df::Copy,
        one: &Instruction,
        code: &str,
    ) -> Result<(), BuildError> {
        let from = match copy.from.as_str() {
            "" => From::Context(None),
            name => {
                if name.contains('$') {
                    return Err(BuildError::invalid(
                        "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                         global scope as a workaround",
                    ));
                }
                self.source(name, stage.index, one.lines, "copy").await?
            }
        };
        for path in &copy.sources.paths {
            if is_git(path) {
                return Err(BuildError::invalid("source can't be a git ref for COPY"));
            }
            if is_http(path) {
                return Err(BuildError::invalid("source can't be a URL for COPY").hint("ADD takes URLs"));
            }
        }
        let source = |path: &String| SourceOp { from: from.clone(), path: path.clone(), unpack: false };
        let what = Copying {
            keyword: "COPY",
            sources: copy.sources.paths.iter().map(source).collect(),
            given: &copy.sources,
            chown: &copy.chown,
            chmod: &copy.chmod,
            link: copy.link,
            parents: copy.parents,
            exclude: &copy.exclude,
        };
        self.files(stage, what, one, code)
    }

    fn files(
        &mut self,
        stage: &mut Stage,
        mut what: Copying<'_>,
        one: &Instruction,
        code: &str,
    ) -> Result<(), BuildError> {
        let chmod = match what.chmod {
            "" => None,
            text => Some(parse_chmod(text).map_err(BuildError::invalid)?),
        };
        let mut text = what.keyword.to_owned();
        if what.parents {
            text.push_str(" --parents");
        }
        for (flag, value) in [("chown", what.chown), ("chmod", what.chmod)] {
            if !value.is_empty() {
                text.push_str(&format!(" --{flag}={value}"));
            }
        }
        what.given.paths.iter().for_each(|path| text.push_str(&format!(" {path}")));
        for content in &what.given.contents {
            text.push_str(&format!(" <<{}", content.path));
            let name = clean(&format!("/{}", content.path)).trim_start_matches('/').to_owned();
            if name.is_empty() {
                return Err(BuildError::invalid(format!("invalid name of a here-document: {:?}", content.path)));
            }
            let tree = MemTree::one(&name, content.data.clone().into_bytes());
            what.sources.push(SourceOp { from: From::Memory(Arc::new(tree)), path: name, unpack: false });
        }
        text.push_str(&format!(" {} # buildkit", what.given.destination));
        let destination = stage.absolute(&what.given.destination);
        let several = what.given.paths.len() + what.given.contents.len() > 1;
        if several && !destination.ends_with('/') {
            return Err(BuildError::invalid(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                what.keyword
            )));
        }
        let op = CopyOp {
            base: stage.vertex,
            link: what.link,
            sources: what.sources,
            destination,
            chown: what.chown.to_owned(),
            chmod,
            parents: what.parents,
            exclude: what.exclude.to_vec(),
        };
        let id = self.push(stage, Op::Copy(Box::new(op)), one, code);
        self.history(stage, text, Some(id));
        Ok(())
    }

    async fn run(&mut self, stage: &mut Stage, run: &df::Run, one: &Instruction, code: &str) -> Result<(), BuildError> {
        if !run.devices.is_empty() {
            return Err(BuildError::invalid("RUN --device needs devices described by CDI, which this engine has not"));
        }
        if run.insecure && !self.options.allow.contains("security.insecure") {
            return Err(BuildError::invalid("security.insecure is not allowed").hint("--allow security.insecure"));
        }
        let network = match run.network {
            Network::Default => self.options.network.clone(),
            Network::None => NetworkChoice::None,
            Network::Host => NetworkChoice::Host,
        };
        if run.network == Network::Host && !self.options.allow.contains("network.host") {
            return Err(BuildError::invalid("network.host is not allowed").hint("--allow network.host"));
        }
        let mut mounts = Vec::new();
        let mut command = run.command.clone();
        if !command.files.is_empty() {
            self.here_documents(&mut command, &mut mounts)?;
        }
        let args = stage.in_shell(&command);
        if args.is_empty() || args.iter().any(|arg| arg.contains('\0')) {
            return Err(BuildError::invalid("RUN needs a command"));
        }
        for mount in &run.mounts {
            mounts.push(self.mount(stage, mount, one).await?);
        }
        let proxies = self.options.build_args.iter().filter(|(key, _)| PROXIES.contains(&key.to_uppercase().as_str()));
        let proxy_env = proxies
            .filter(|(key, _)| !stage.args.iter().any(|arg| arg.key == **key))
            .flat_map(|(key, value)| {
                let mut names = vec![key.to_uppercase(), key.to_lowercase()];
                names.dedup();
                names.into_iter().map(move |name| format!("{name}={value}"))
            })
            .collect();
        let shown = history_of(&args, &stage.args, &stage.env);
        let op = RunOp {
            base: stage.vertex,
            env: stage.env.clone(),
            proxy_env,
            cwd: stage.cwd().to_owned(),
            user: stage.config.user.clone(),
            network,
            insecure: run.insecure,
            extra_hosts: self.options.extra_hosts.clone(),
            mounts,
            shown: args.join(" "),
            args,
        };
        let summary = run.command.files.first().map(|file| {
            let text = file.content.trim();
            let first = text.lines().next().unwrap_or_default();
            format!(" ({first}{})", if text.lines().count() > 1 { "..." } else { "" })
        });
        let id = self.push(stage, Op::Run(Box::new(op)), one, &format!("{code}{}", summary.unwrap_or_default()));
        self.history(stage, format!("RUN {shown} # buildkit"), Some(id));
        Ok(())
    }

    /// A here-document alone is a script; with more around it the shell gets it back as it was.
    fn here_documents(&self, command: &mut df::Command, mounts: &mut Vec<MountOp>) -> Result<(), BuildError> {
        let ([line], true) = (command.line.as_slice(), command.in_shell) else {
            return Err(BuildError::invalid("parsing produced an invalid run command"));
        };
        if df::parse_heredoc(line).is_some() {
            let file = &command.files[0];
            let data = file.text();
            if data.starts_with("#!") {
                let target = format!("/dev/pipes/{}", file.name.replace('/', "_"));
                command.line = vec![target.clone()];
                mounts.push(MountOp { target, kind: MountOpKind::Own(OwnMount::Inline { data }) });
            } else {
                command.line = vec![data];
            }
        } else {
            let mut text = line.clone();
            for file in &command.files {
                text.push('\n');
                text.push_str(&file.content);
                text.push_str(&file.name);
            }
            command.line = vec![text];
        }
        Ok(())
    }

    async fn mount(&mut self, stage: &Stage, mount: &df::Mount, one: &Instruction) -> Result<MountOp, BuildError> {
        let source = clean(&format!("/{}", mount.source));
        let mut target = match mount.target.as_str() {
            "" => String::new(),
            path => stage.absolute(path).trim_end_matches('/').to_owned(),
        };
        let id_or = |default: &str| match mount.id.as_str() {
            "" => default.to_owned(),
            id => id.to_owned(),
        };
        let owner = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let kind = match mount.kind {
            MountType::Bind => {
                let from = match mount.from.as_str() {
                    "" => From::Context(None),
                    name => self.source(name, stage.index, one.lines, "mount").await?,
                };
                MountOpKind::Bind { from, source, read_only: mount.read_only }
            }
            MountType::Cache => {
                let from = match mount.from.as_str() {
                    "" => None,
                    name => match self.source(name, stage.index, one.lines, "mount").await? {
                        From::State(id) => Some(id),
                        _ => return Err(BuildError::invalid("a cache mount begins with a stage or an image only")),
                    },
                };
                let mount = CacheMount {
                    id: id_or(&target),
                    sharing: mount.sharing.unwrap_or_default(),
                    source,
                    owner,
                    mode: mount.mode.unwrap_or(0o755),
                    read_only: mount.read_only,
                };
                MountOpKind::Cache { mount, from }
            }
            MountType::Tmpfs => MountOpKind::Own(OwnMount::Tmpfs { size_bytes: mount.size_bytes }),
            MountType::Secret => {
                let id = match (&*mount.id, &*mount.source) {
                    ("", "") => mount.target.rsplit('/').next().unwrap_or_default().to_owned(),
                    ("", source) => source.to_owned(),
                    (id, _) => id.to_owned(),
                };
                let has_file = mount.env.is_none() || !mount.target.is_empty();
                if has_file && target.is_empty() {
                    target = format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or(&id));
                }
                let file = has_file.then_some((owner.0, owner.1, mount.mode.unwrap_or(0o400)));
                let env = match &mount.env {
                    Some(name) if name.is_empty() => Some(id.clone()),
                    other => other.clone(),
                };
                MountOpKind::Own(OwnMount::Secret { id, file, env, required: mount.required })
            }
            MountType::Ssh => {
                if !mount.source.is_empty() {
                    return Err(BuildError::invalid("ssh does not support source"));
                }
                let id = id_or("default");
                if target.is_empty() {
                    target = format!("/run/buildkit/ssh_agent.{}", one.lines.first);
                }
                let mode = mount.mode.unwrap_or(0o600);
                MountOpKind::Own(OwnMount::Ssh { id, owner, mode, required: mount.required })
            }
        };
        let no_target = matches!(kind, MountOpKind::Own(OwnMount::Secret { file: None, .. }));
        if !no_target && (target.is_empty() || target == "/") {
            return Err(BuildError::invalid(format!("invalid mount target {}", quote(&mount.target))));
        }
        Ok(MountOp { target, kind })
    }
}

struct Copying<'a> {
    keyword: &'static str,
    sources: Vec<SourceOp>,
    given: &'a df::Sources,
    chown: &'a str,
    chmod: &'a str,
    link: bool,
    parents: bool,
    exclude: &'a [String],
}

/// `|2 A=1 B=2 /bin/sh -c make`
fn history_of(args: &[String], build_args: &[df::Arg], env: &[String]) -> String {
    let mut list: Vec<String> = Vec::new();
    for arg in build_args {
        if PROXIES.contains(&arg.key.to_uppercase().as_str()) {
            continue;
        }
        let value = env_lookup(env)(&arg.key).or_else(|| arg.value.clone()).unwrap_or_default();
        set_env(&mut list, &arg.key, &value);
    }
    if !list.is_empty() {
        list.insert(0, format!("|{}", list.len()));
    }
    list.extend(args.iter().cloned());
    list.join(" ")
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number);
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    const NAMES: [&str; 33] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "IOT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let real_time = |prefix: &str| name.strip_prefix(prefix).is_some_and(|n| n.is_empty() || n.parse::<u8>().is_ok());
    NAMES.contains(&name)
        || name == "POLL"
        || real_time("RTMIN+")
        || real_time("RTMAX-")
        || name == "RTMIN"
        || name == "RTMAX"
}
