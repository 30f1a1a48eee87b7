//! What can be said of a Dockerfile without building it: BuildKit's checks, what a target takes, which targets there are.

use crate::error::BuildError;
use crate::plan::Planner;
use crate::types::BuildOptions;
use crate::worker::Images;
use berth_dockerfile::lint::Warning;
use berth_dockerfile::shell::env_lookup;
use berth_dockerfile::{Kind, Lines, MountType};
use std::collections::{BTreeMap, BTreeSet};

/// What the checks found.
#[derive(Debug, Default)]
pub struct Checked {
    pub warnings: Vec<Warning>,
    /// Why it could not be built.
    pub error: Option<BuildError>,
}

/// What a target takes, in the order of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outline {
    pub name: String,
    pub description: String,
    pub args: Vec<Parameter>,
    pub secrets: Vec<Need>,
    pub ssh: Vec<Need>,
}

/// A build argument.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub description: String,
    pub value: String,
    pub lines: Lines,
}

/// A secret or an agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Need {
    pub name: String,
    pub required: bool,
    pub lines: Lines,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub description: String,
    /// It is the one that is built when none is named.
    pub default: bool,
    pub base: String,
    pub platform: String,
    pub lines: Lines,
}

/// Looks at the target, without one at all stages, as a build would before its first step.
pub async fn check<I: Images>(options: &BuildOptions, known: &I) -> Checked {
    let show = |error: BuildError| error.show(&options.dockerfile_name, &options.dockerfile);
    let failed = |error: BuildError| Checked { warnings: Vec::new(), error: Some(show(error)) };
    let mut planner = match Planner::new(options, known) {
        Ok(planner) => planner,
        Err(error) => return failed(error),
    };
    let stages = match (options.target.as_str(), planner.target()) {
        ("", _) => 0..planner.file.stages.len(),
        (_, Ok(target)) => target..target + 1,
        (_, Err(error)) => return failed(error),
    };
    let mut error = None;
    for index in stages {
        error = planner.stage(index).await.err();
        if error.is_some() {
            break;
        }
    }
    let strict = planner.checks().err();
    planner.warnings.sort_by_key(|warning| warning.lines);
    Checked { warnings: planner.warnings, error: error.or(strict).map(show) }
}

/// What the target takes.
pub async fn outline<I: Images>(options: &BuildOptions, known: &I) -> Result<Outline, BuildError> {
    let show = |error: BuildError| error.show(&options.dockerfile_name, &options.dockerfile);
    let mut planner = Planner::new(options, known).map_err(show)?;
    let target = planner.target().map_err(show)?;
    planner.stage(target).await.map_err(show)?;
    let stage = &planner.file.stages[target];
    let name = stage.name.clone().unwrap_or_default();
    let mut outline = Outline { description: described(&stage.comments, &name), name, ..Outline::default() };
    let mut seen = BTreeSet::new();
    let mut global = BTreeSet::new();
    // The target first: what it says of an argument counts for those that it stands on.
    for (index, stage) in planner.file.stages.iter().enumerate().rev() {
        let Some(planned) = planner.planned(index) else { continue };
        for text in [&stage.base, &stage.platform] {
            // It was expanded without an error when it was planned.
            global.extend(
                planner.shell.word(text, &env_lookup(&planner.global)).map(|word| word.matched).unwrap_or_default(),
            );
        }
        for one in &stage.instructions {
            match &one.kind {
                Kind::Arg(args) => {
                    for arg in args {
                        let from_before = arg.value.is_none()
                            && !options.build_args.contains_key(&arg.key)
                            && env_lookup(&planner.global)(&arg.key).is_some();
                        if from_before {
                            global.insert(arg.key.clone());
                        } else if seen.insert(("arg", arg.key.clone())) {
                            let value = planned.args.iter().rev().find(|known| known.key == arg.key);
                            outline.args.push(Parameter {
                                description: described(&one.comments, &arg.key),
                                value: value.and_then(|known| known.value.clone()).unwrap_or_default(),
                                name: arg.key.clone(),
                                lines: one.lines,
                            });
                        }
                    }
                }
                Kind::Run(_) => {
                    let env: Vec<String> = planned
                        .args
                        .iter()
                        .map(|arg| format!("{}={}", arg.key, arg.value.as_deref().unwrap_or_default()))
                        .collect();
                    let mut one = one.clone();
                    let mut expander = |word: &str| planner.shell.word(word, &env_lookup(&env)).map(|word| word.text);
                    // Its mounts are read by that. It was done without an error when it was planned.
                    let (Ok(()), Kind::Run(run)) = (one.expand(&mut expander), &one.kind) else { continue };
                    for mount in &run.mounts {
                        let (list, name) = match mount.kind {
                            MountType::Secret => (&mut outline.secrets, secret_name(mount)),
                            MountType::Ssh if mount.id.is_empty() => (&mut outline.ssh, "default".to_owned()),
                            MountType::Ssh => (&mut outline.ssh, mount.id.clone()),
                            _ => continue,
                        };
                        if seen.insert((mount.kind.as_str(), name.clone())) {
                            list.push(Need { name, required: mount.required, lines: one.lines });
                        }
                    }
                }
                _ => {}
            }
        }
    }
    global_parameters(&planner, global, &mut seen, &mut outline.args);
    outline.args.sort_by_key(|one| one.lines);
    outline.secrets.sort_by_key(|one| one.lines);
    outline.ssh.sort_by_key(|one| one.lines);
    Ok(outline)
}

/// Those of the arguments before the first stage that are `used`, and what their values are made of.
fn global_parameters<I: Images>(
    planner: &Planner<'_, I>,
    mut used: BTreeSet<String>,
    seen: &mut BTreeSet<(&'static str, String)>,
    args: &mut Vec<Parameter>,
) {
    let mut all = BTreeMap::new();
    for one in &planner.file.meta_args {
        let Kind::Arg(list) = &one.kind else { continue };
        all.extend(list.iter().map(|arg| (arg.key.as_str(), (arg, one))));
    }
    while let Some(key) = used.pop_first() {
        let Some((arg, one)) = all.get(key.as_str()) else { continue };
        if !seen.insert(("arg", key.clone())) {
            continue;
        }
        let lookup = env_lookup(&planner.global);
        if let Some(word) = arg.value.as_ref().and_then(|text| planner.shell.word(text, &lookup).ok()) {
            used.extend(word.matched);
        }
        let value = lookup(&key).unwrap_or_default();
        args.push(Parameter { description: described(&one.comments, &key), name: key, value, lines: one.lines });
    }
}

fn secret_name(mount: &berth_dockerfile::Mount) -> String {
    let given = [&mount.id, &mount.source].into_iter().find(|text| !text.is_empty());
    let last = || mount.target.rsplit('/').next().unwrap_or_default().to_owned();
    given.cloned().unwrap_or_else(last)
}

/// The stages that can be built.
pub fn targets(file: &[u8]) -> Result<Vec<Target>, BuildError> {
    let file = berth_dockerfile::parse(file)?;
    let last = file.stages.len().saturating_sub(1);
    let stages = file.stages.into_iter().enumerate().map(|(index, stage)| {
        let name = stage.name.unwrap_or_default();
        Target {
            description: described(&stage.comments, &name),
            name,
            default: index == last,
            base: stage.base,
            platform: stage.platform,
            lines: stage.lines,
        }
    });
    Ok(stages.collect())
}

/// The comment above that begins with the name of what it is about.
fn described(comments: &[String], name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let about = |line: &String| {
        let line = line.trim_start_matches('#').trim();
        line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned)
    };
    comments.iter().find_map(about).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::BaseImage;
    use berth_dockerfile::platform::Platform;
    use futures_util::future::BoxFuture;

    /// Knows no image.
    struct Empty;

    impl Images for Empty {
        fn image<'a>(
            &'a self,
            name: &'a str,
            _: &'a Platform,
            _: bool,
        ) -> BoxFuture<'a, berth_types::Result<BaseImage>> {
            Box::pin(async move { Err(berth_types::Error::not_found(format!("No such image: {name}"))) })
        }
    }

    fn asked(file: &str, target: &str) -> BuildOptions {
        BuildOptions { dockerfile: file.as_bytes().to_vec(), target: target.to_owned(), ..BuildOptions::default() }
    }

    const FILE: &str = "\
# VERSION of everything
ARG VERSION=1
ARG NAME=a-$VERSION
ARG UNUSED=x
# base what all stand on
FROM scratch AS base
# TOKEN where to look
ARG TOKEN
RUN --mount=type=secret,id=key,required=true --mount=type=ssh true
FROM base AS prod
ARG NAME
ARG MODE=fast
RUN --mount=type=secret,target=/run/secrets/other true
FROM scratch AS Aside
cmd sleep 1
";

    #[tokio::test]
    async fn an_outline_has_what_the_target_and_those_below_it_take() {
        let outline = super::outline(&asked(FILE, "prod"), &Empty).await.unwrap();
        let args: Vec<_> =
            outline.args.iter().map(|a| (a.name.as_str(), a.value.as_str(), a.description.as_str())).collect();
        let expected = [
            ("VERSION", "1", "of everything"),
            ("NAME", "a-1", ""),
            ("TOKEN", "", "where to look"),
            ("MODE", "fast", ""),
        ];
        assert_eq!(args, expected);
        let secrets: Vec<_> = outline.secrets.iter().map(|s| (s.name.as_str(), s.required)).collect();
        assert_eq!(secrets, [("key", true), ("other", false)]);
        assert_eq!((outline.ssh.len(), outline.ssh[0].name.as_str()), (1, "default"));
        let aside = super::outline(&asked(FILE, "aside"), &Empty).await.unwrap();
        assert_eq!((aside.args.len(), aside.secrets.len()), (0, 0));
        assert!(super::outline(&asked(FILE, "nope"), &Empty).await.is_err());
    }

    #[test]
    fn targets_are_the_stages() {
        let all = targets(FILE.as_bytes()).unwrap();
        let names: Vec<_> = all.iter().map(|t| (t.name.as_str(), t.base.as_str(), t.default)).collect();
        assert_eq!(names, [("base", "scratch", false), ("prod", "base", false), ("aside", "scratch", true)]);
        assert_eq!(all[0].description, "what all stand on");
        assert!(targets(b"NOPE").is_err());
    }

    #[tokio::test]
    async fn checks_look_at_all_stages_where_no_target_is_named() {
        let all = check(&asked(FILE, ""), &Empty).await;
        assert!(all.error.is_none(), "{:?}", all.error);
        let rules: Vec<String> = all.warnings.iter().map(|one| format!("{:?} {}", one.rule, one.lines.first)).collect();
        let expected = [
            "SecretsUsedInArgOrEnv 8",
            "StageNameCasing 14",
            "ConsistentInstructionCasing 15",
            "JSONArgsRecommended 15",
        ];
        assert_eq!(rules, expected);
        let one = check(&asked(FILE, "prod"), &Empty).await;
        assert!(one.warnings.iter().all(|one| !matches!(one.rule, berth_dockerfile::lint::Rule::JSONArgsRecommended)));
        let strict = check(&asked(&format!("# check=error=true\n{FILE}"), ""), &Empty).await;
        assert!(strict.error.unwrap().to_string().contains("lint violation found for rules"));
        let missing = check(&asked("FROM nothing\nCOPY a b\n", ""), &Empty).await;
        assert_eq!(missing.error.unwrap().lines, Some(Lines::new(1, 1)));
        assert!(check(&asked("FROM scratch\nNOPE\n", ""), &Empty).await.error.is_some());
    }
}
