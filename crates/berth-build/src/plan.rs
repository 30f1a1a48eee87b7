//! A Dockerfile becomes a graph.
//!
//! Stages are planned when something needs them, from the target down: what nobody needs is not even looked at.
//! A stage knows its environment, user and folder as it goes; what it does to files is a vertex each.

use crate::StepInfo;
use crate::dispatch::Stage;
use crate::error::BuildError;
use crate::graph::{From, Graph, Id, Op, Vertex};
use crate::types::{BaseImage, BuildOptions, History};
use crate::worker::Images;
use berth_dockerfile::lint::{Rule, Warning};
use berth_dockerfile::platform::Platform;
use berth_dockerfile::shell::{Shell, env_lookup};
use berth_dockerfile::{Dockerfile, Instruction, Kind, Lines, suggest};
use berth_types::spec::Config;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Programs look here when an image does not say.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables that need no `ARG` and never count.
pub(crate) const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

pub(crate) struct Planner<'a, I: Images> {
    pub options: &'a BuildOptions,
    pub known: &'a I,
    pub file: Dockerfile,
    pub shell: Shell,
    /// Values of the arguments before the first stage, and the predefined ones.
    pub global: Vec<String>,
    pub platform: Platform,
    pub vertices: Vec<Vertex>,
    pub steps: Vec<StepInfo>,
    pub epoch_seconds: Option<i64>,
    pub warnings: Vec<Warning>,
    stages: Vec<Option<Arc<Stage>>>,
    images: BTreeMap<String, (Id, Arc<BaseImage>)>,
}

/// The graph of what the target needs, and the stage that it is.
pub(crate) async fn plan<I: Images>(options: &BuildOptions, known: &I) -> Result<(Graph, Arc<Stage>), BuildError> {
    let mut planner = Planner::new(options, known)?;
    let stage = planner.stage(planner.target()?).await?;
    planner.checks()?;
    // Stages are planned as they are needed; people read them as they are written.
    planner.steps.sort_by_key(|step| (step.lines, step.id));
    let graph = Graph {
        vertices: planner.vertices,
        steps: planner.steps,
        target: stage.vertex,
        epoch_seconds: planner.epoch_seconds,
        warnings: planner.warnings,
    };
    Ok((graph, stage))
}

fn target_of(file: &Dockerfile, target: &str) -> Result<usize, BuildError> {
    if target.is_empty() {
        return Ok(file.stages.len() - 1);
    }
    let lower = target.to_lowercase();
    let by_name = file.stages.iter().rposition(|stage| stage.name.as_deref() == Some(lower.as_str()));
    let by_number = || target.parse().ok().filter(|number| *number < file.stages.len());
    by_name.or_else(by_number).ok_or_else(|| {
        let names: Vec<&str> = file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let message = format!("target stage {} could not be found", berth_dockerfile::quote(target));
        let message = suggest::with_suggestion(message, target, names.iter().copied(), true);
        let known = if names.is_empty() { "no stage has a name".to_owned() } else { names.join(", ") };
        BuildError::invalid(message).hint(format!("stages: {known}"))
    })
}

fn global_args(
    file: &Dockerfile,
    options: &BuildOptions,
    shell: &Shell,
    host: &Platform,
    platform: &Platform,
    target: &str,
) -> Result<Vec<String>, BuildError> {
    let predefined = [
        ("BUILDPLATFORM", host.to_string()),
        ("BUILDOS", host.os.clone()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", host.architecture.clone()),
        ("BUILDVARIANT", host.variant.clone()),
        ("TARGETPLATFORM", platform.to_string()),
        ("TARGETOS", platform.os.clone()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", platform.architecture.clone()),
        ("TARGETVARIANT", platform.variant.clone()),
        ("TARGETSTAGE", target.to_owned()),
    ];
    let given = |key: &str| options.build_args.get(key).cloned();
    let mut global: Vec<String> = predefined
        .iter()
        .map(|(key, value)| format!("{key}={}", given(key).unwrap_or_else(|| value.clone())))
        .collect();
    for one in &file.meta_args {
        let Kind::Arg(args) = &one.kind else { continue };
        for arg in args {
            let value = match (given(&arg.key), &arg.value) {
                (Some(value), _) => Some(value),
                (None, Some(text)) => {
                    let word = shell.word(text, &env_lookup(&global));
                    Some(word.map_err(|error| BuildError::invalid(error.to_string()).at(one.lines))?.text)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                set_env(&mut global, &arg.key, &value);
            }
        }
    }
    Ok(global)
}

fn epoch(options: &BuildOptions, global: &[String]) -> Result<Option<i64>, BuildError> {
    let name = "SOURCE_DATE_EPOCH";
    let text = options.build_args.get(name).cloned().or_else(|| env_lookup(global)(name)).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let seconds = text.parse::<i64>().ok().filter(|seconds| (0..=253_402_300_799).contains(seconds));
    seconds.map(Some).ok_or_else(|| BuildError::invalid(format!("invalid {name}: {text}: not a number of seconds")))
}

/// Replaces or adds `key`.
pub(crate) fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    match env.iter_mut().find(|have| have.split('=').next() == Some(key)) {
        Some(have) => *have = entry,
        None => env.push(entry),
    }
}

impl<'a, I: Images> Planner<'a, I> {
    /// Nothing is planned yet.
    pub(crate) fn new(options: &'a BuildOptions, known: &'a I) -> Result<Planner<'a, I>, BuildError> {
        let file = berth_dockerfile::parse(&options.dockerfile)?;
        if file.stages.is_empty() {
            return Err(BuildError::invalid("dockerfile contains no stages to build"));
        }
        let host = Platform::host();
        let platform = options.platform.clone().unwrap_or_else(|| host.clone());
        let shell = Shell::new(file.escape);
        let target_name = match options.target.as_str() {
            "" => file.stages.last().and_then(|stage| stage.name.clone()).unwrap_or_else(|| "default".to_owned()),
            name => name.to_owned(),
        };
        let global = global_args(&file, options, &shell, &host, &platform, &target_name)?;
        let epoch_seconds = epoch(options, &global)?;
        Ok(Planner {
            options,
            known,
            shell,
            global,
            platform,
            vertices: Vec::new(),
            steps: Vec::new(),
            epoch_seconds,
            warnings: file.warnings.clone(),
            stages: vec![None; file.stages.len()],
            file,
            images: BTreeMap::new(),
        })
    }

    /// Which stage is asked for.
    pub(crate) fn target(&self) -> Result<usize, BuildError> {
        target_of(&self.file, &self.options.target)
    }

    /// A stage that has been planned.
    pub(crate) fn planned(&self, index: usize) -> Option<&Arc<Stage>> {
        self.stages[index].as_ref()
    }
}

impl<I: Images> Planner<'_, I> {
    pub(crate) fn add(&mut self, vertex: Vertex) -> Id {
        self.vertices.push(vertex);
        self.vertices.len() - 1
    }

    /// Plans stage `index`, once.
    pub(crate) fn stage(&mut self, index: usize) -> BoxFuture<'_, Result<Arc<Stage>, BuildError>> {
        Box::pin(async move {
            if let Some(stage) = &self.stages[index] {
                return Ok(stage.clone());
            }
            let stage = Arc::new(self.plan_stage(index).await?);
            self.stages[index] = Some(stage.clone());
            Ok(stage)
        })
    }

    async fn plan_stage(&mut self, index: usize) -> Result<Stage, BuildError> {
        let stage = self.file.stages[index].clone();
        let lines = stage.lines;
        let failed = |message: String| BuildError::invalid(message).at(lines);
        let word =
            self.shell.word(&stage.base, &env_lookup(&self.global)).map_err(|error| failed(error.to_string()))?;
        for name in &word.unmatched {
            let declared = self.file.meta_args.iter().any(|one| match &one.kind {
                Kind::Arg(args) => args.iter().any(|arg| arg.key == *name),
                _ => false,
            });
            if !declared {
                let text = format!("FROM argument '{name}' is not declared");
                let keys = self.global.iter().filter_map(|entry| entry.split('=').next());
                let text = suggest::with_suggestion(text, name, keys, true);
                self.warnings.push(Warning::new(Rule::UndefinedArgInFrom, text, lines));
            }
        }
        let base = word.text;
        if base.is_empty() {
            let error = failed(format!("base name ({}) should not be blank", stage.base));
            return Err(error.hint(format!("give it a value: --build-arg, or ARG before FROM: {}", stage.base)));
        }
        let mut platform = self.platform.clone();
        if !stage.platform.is_empty() {
            let word = self.shell.word(&stage.platform, &env_lookup(&self.global));
            let word = word.map_err(|error| failed(error.to_string()))?;
            if word.text.is_empty() {
                return Err(failed(format!("empty platform value from expression {}", stage.platform)));
            }
            platform = Platform::parse(&word.text, &Platform::host())
                .map_err(|cause| failed(format!("failed to parse platform {}: {cause}", stage.platform)))?;
            if word.matched.is_empty() && word.unmatched.is_empty() {
                let in_name = |part: &str| stage.name.as_deref().is_some_and(|name| name.contains(part));
                if !in_name(&platform.os) && !in_name(&platform.architecture) {
                    let text = format!("FROM --platform flag should not use constant value {:?}", word.text);
                    self.warnings.push(Warning::new(Rule::FromPlatformFlagConstDisallowed, text, lines));
                }
            } else if word.matched.contains("TARGETPLATFORM") && word.text == self.platform.to_string() {
                let text = format!(
                    "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                    stage.platform
                );
                self.warnings.push(Warning::new(Rule::RedundantTargetPlatform, text, lines));
            }
        }
        let shown = match (&stage.name, self.file.stages.len()) {
            (_, 1) => String::new(),
            (Some(name), _) => name.clone(),
            (None, _) => format!("stage-{index}"),
        };
        let earlier = self.file.stages[..index]
            .iter()
            .rposition(|other| other.name.as_deref() == Some(base.to_lowercase().as_str()));
        let mut begun = match earlier {
            Some(of) => {
                let of = self.stage(of).await?;
                Stage::on_stage(&of, index, shown)
            }
            None => {
                let (vertex, image) = self.image(&base, &platform, lines).await?;
                Stage::on_image(vertex, &image, index, shown)
            }
        };
        let triggers = std::mem::take(&mut begun.triggers);
        let mut instructions: Vec<(Instruction, bool)> = Vec::new();
        for trigger in triggers {
            let parsed = berth_dockerfile::parse_trigger(&trigger).map_err(|error| failed(error.to_string()))?;
            instructions.push((Instruction { lines, ..parsed }, true));
        }
        instructions.extend(stage.instructions.iter().map(|one| (one.clone(), false)));
        let counted = instructions
            .iter()
            .filter(|(one, _)| matches!(one.kind, Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)))
            .count();
        begun.total = counted + usize::from(earlier.is_none() && base != "scratch");
        let name = begun.step_name(&format!("FROM {base}"), earlier.is_none() && base != "scratch");
        if let Some(vertex) = self.vertices.get_mut(begun.vertex).filter(|vertex| vertex.name.is_empty()) {
            vertex.name.clone_from(&name);
        }
        self.steps.push(StepInfo {
            id: begun.vertex,
            metadata: earlier.is_some(),
            name,
            instruction: stage.code.clone(),
            stage: begun.shown.clone(),
            lines: Some(lines),
        });
        for (instruction, on_build) in instructions {
            let lines = instruction.lines;
            self.dispatch(&mut begun, instruction, on_build).await.map_err(|error| error.at(lines))?;
        }
        Ok(begun)
    }

    /// The image `name`, as a vertex; the same for all who need it.
    async fn image(
        &mut self,
        name: &str,
        platform: &Platform,
        lines: Lines,
    ) -> Result<(Id, Arc<BaseImage>), BuildError> {
        let key = format!("{name} {platform}");
        if let Some((id, image)) = self.images.get(&key) {
            return Ok((*id, image.clone()));
        }
        let image = if name == "scratch" {
            BaseImage {
                id: None,
                config: Config { env: vec![PATH.to_owned()], working_dir: "/".to_owned(), ..Config::default() },
                platform: platform.clone(),
                author: String::new(),
                layers: Vec::new(),
                history: Vec::new(),
            }
        } else {
            let wanted = self.options.image_contexts.get(name).map_or(name, String::as_str);
            self.known.image(wanted, platform, self.options.pull).await.map_err(|error| {
                let names = self.file.stages.iter().filter_map(|stage| stage.name.as_deref());
                let near = suggest::nearest(name, names, true);
                let hint = error.hint.clone();
                let mut error = BuildError::new(error.context(name.to_owned())).at(lines);
                error.error.hint = hint;
                match near {
                    Some(near) => error.hint(format!("there is a stage {near:?}: is that meant?")),
                    None => error,
                }
            })?
        };
        if image.platform.architecture != platform.architecture || image.platform.os != platform.os {
            let text = format!(
                "Base image {name} was pulled with platform {:?}, expected {:?} for current build",
                image.platform.to_string(),
                platform.to_string()
            );
            self.warnings.push(Warning::new(Rule::InvalidBaseImagePlatform, text, lines));
        }
        let image = Arc::new(image);
        let op = Op::State(image.layers.clone());
        let id = self.add(Vertex { op, name: String::new(), lines: Some(lines), no_cache: false });
        self.images.insert(key, (id, image.clone()));
        Ok((id, image))
    }

    /// What `--from=name` of stage `at` means. `what` begins the message when it cannot be had.
    pub(crate) async fn source(&mut self, name: &str, at: usize, lines: Lines, what: &str) -> Result<From, BuildError> {
        if self.options.tree_contexts.contains(name) {
            return Ok(From::Context(Some(name.to_owned())));
        }
        let lower = name.to_lowercase();
        let by_name = |range: std::ops::Range<usize>| {
            self.file.stages[range.clone()]
                .iter()
                .rposition(|stage| stage.name.as_deref() == Some(lower.as_str()))
                .map(|found| found + range.start)
        };
        let all = self.file.stages.len();
        let found = match name.parse::<usize>() {
            Ok(number) if number < at => Some(number),
            Ok(number) if number < all => {
                return Err(self.too_late(name, number, at, what));
            }
            Ok(number) => return Err(BuildError::invalid(format!("invalid stage index {number}"))),
            Err(_) => match by_name(0..at) {
                Some(found) => Some(found),
                None => match by_name(at..all) {
                    Some(later) => return Err(self.too_late(name, later, at, what)),
                    None => None,
                },
            },
        };
        match found {
            Some(index) => Ok(From::State(self.stage(index).await?.vertex)),
            None => {
                let platform = self.platform.clone();
                let (id, _) = self.image(name, &platform, lines).await?;
                if self.vertices[id].name.is_empty() {
                    self.vertices[id].name = format!("FROM {name}");
                }
                Ok(From::State(id))
            }
        }
    }

    fn too_late(&self, name: &str, found: usize, at: usize, what: &str) -> BuildError {
        if found == at {
            let shown = self.file.stages[at].name.clone().unwrap_or_else(|| format!("stage-{at}"));
            return BuildError::invalid(format!("circular dependency detected on stage: {shown}"));
        }
        let here = self.file.stages[at].name.clone().unwrap_or_else(|| format!("stage-{at}"));
        BuildError::invalid(format!(
            "cannot {what} from stage {}, it needs to be defined before current stage {}",
            berth_dockerfile::quote(name),
            berth_dockerfile::quote(&here)
        ))
    }

    /// `# check=` of the file: warnings that nobody wants go, and may be errors.
    pub(crate) fn checks(&mut self) -> Result<(), BuildError> {
        let Some(check) = self.file.directives.iter().find(|directive| directive.name == "check") else {
            return Ok(());
        };
        let checks = berth_dockerfile::lint::Checks::parse(&check.value)
            .map_err(|message| BuildError::invalid(message).at(check.lines))?;
        self.warnings.retain(|warning| checks.wants(warning.rule));
        match self.warnings.first() {
            Some(first) if checks.error => {
                let message = format!("lint violation found for rules: {:?}", first.rule);
                Err(BuildError::invalid(message).at(first.lines).hint(first.message.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// History lines of an image, as they are.
pub(crate) fn inherited(image: &BaseImage) -> Vec<(History, Option<Id>)> {
    image.history.iter().map(|step| (step.clone(), None)).collect()
}
