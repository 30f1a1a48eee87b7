//! What BuildKit's checks warn about, in their words.

use crate::error::Lines;
use crate::{Dockerfile, Instruction, Kind};
use std::collections::BTreeSet;

/// The checks' names, as `# check=skip=Name` knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JSONArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// What it is for, in BuildKit's words.
    pub fn description(self) -> &'static str {
        match self {
            Rule::StageNameCasing => "Stage names should be lowercase",
            Rule::FromAsCasing => "The 'as' keyword should match the case of the 'from' keyword",
            Rule::NoEmptyContinuation => "Empty continuation lines will become errors in a future release",
            Rule::ConsistentInstructionCasing => {
                "All commands within the Dockerfile should use the same casing (either upper or lower)"
            }
            Rule::DuplicateStageName => "Stage names should be unique",
            Rule::ReservedStageName => "Reserved words should not be used as stage names",
            Rule::JSONArgsRecommended => {
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
            }
            Rule::MaintainerDeprecated => {
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
            }
            Rule::UndefinedArgInFrom => "FROM command must use declared ARGs",
            Rule::WorkdirRelativePath => {
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if \
                 the base image changes"
            }
            Rule::UndefinedVar => "Variables should be defined before their use",
            Rule::MultipleInstructionsDisallowed => {
                "Multiple instructions of the same type should not be used in the same stage"
            }
            Rule::LegacyKeyValueFormat => "Legacy key/value format with whitespace separator should not be used",
            Rule::InvalidBaseImagePlatform => "Base image platform does not match expected target platform",
            Rule::RedundantTargetPlatform => {
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
            }
            Rule::SecretsUsedInArgOrEnv => "Sensitive data should not be used in the ARG or ENV commands",
            Rule::InvalidDefaultArgInFrom => {
                "Default value for global ARG results in an empty or invalid base image name"
            }
            Rule::FromPlatformFlagConstDisallowed => "FROM --platform flag should not use a constant value",
            Rule::CopyIgnoredFile => "Attempting to Copy file that is excluded by .dockerignore",
            Rule::ExposeProtoCasing => "Protocol in EXPOSE instruction should be lowercase",
            Rule::ExposeInvalidFormat => {
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in \
                 a future release"
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub rule: Rule,
    pub message: String,
    pub lines: Lines,
}

impl Warning {
    pub fn new(rule: Rule, message: String, lines: Lines) -> Warning {
        Warning { rule, message, lines }
    }
}

/// `# check=skip=A,B;error=true`
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Checks {
    pub skip_all: bool,
    pub skip: BTreeSet<String>,
    /// Warnings are errors.
    pub error: bool,
}

impl Checks {
    pub fn parse(text: &str) -> Result<Checks, String> {
        let mut checks = Checks::default();
        for part in text.split(';') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("invalid check option {part:?}"))?;
            let value = value.trim();
            match key.trim() {
                "skip" if value.eq_ignore_ascii_case("all") => checks.skip_all = true,
                "skip" => checks.skip.extend(value.split(',').map(|rule| rule.trim().to_owned())),
                "error" => {
                    let error = crate::mount::bool_of(value);
                    checks.error = error.ok_or_else(|| format!("failed to parse check option {key:?}"))?;
                }
                "experimental" => {}
                other => return Err(format!("invalid check option {other:?}")),
            }
        }
        Ok(checks)
    }

    pub fn wants(&self, rule: Rule) -> bool {
        !self.skip_all && !self.skip.contains(&format!("{rule:?}"))
    }
}

/// What can be said without building: names, casing, old forms.
pub(crate) fn of_structure(file: &Dockerfile) -> Vec<Warning> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for stage in &file.stages {
        if let Some(name) = stage.name.as_deref() {
            if matches!(name, "context" | "scratch") {
                let text = format!("Stage name should not use the same name as reserved stage {name:?}");
                out.push(Warning::new(Rule::ReservedStageName, text, stage.lines));
            }
            if !seen.insert(name) {
                let text = format!("Duplicate stage name {name:?}, stage names should be unique");
                out.push(Warning::new(Rule::DuplicateStageName, text, stage.lines));
            }
        }
        used_once(&stage.instructions, &mut out);
    }
    casing(file, &mut out);
    out
}

fn used_once(instructions: &[Instruction], out: &mut Vec<Warning>) {
    let of_kind = |wanted: fn(&Kind) -> bool| instructions.iter().filter(move |one| wanted(&one.kind));
    let kinds: [fn(&Kind) -> bool; 3] = [
        |kind| matches!(kind, Kind::Cmd(_)),
        |kind| matches!(kind, Kind::Entrypoint(_)),
        |kind| matches!(kind, Kind::Healthcheck(_)),
    ];
    for kind in kinds {
        let all: Vec<_> = of_kind(kind).collect();
        for pair in all.windows(2) {
            let text = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                pair[1].keyword
            );
            out.push(Warning::new(Rule::MultipleInstructionsDisallowed, text, pair[0].lines));
        }
    }
}

fn casing(file: &Dockerfile, out: &mut Vec<Warning>) {
    let lower = |text: &str| text == text.to_lowercase();
    let upper = |text: &str| text == text.to_uppercase();
    let words: Vec<(&str, Lines)> = file
        .stages
        .iter()
        .flat_map(|stage| {
            let inner = stage.instructions.iter().map(|one| (one.keyword.as_str(), one.lines));
            std::iter::once((stage.keyword.as_str(), stage.lines)).chain(inner)
        })
        .collect();
    let lowers = words.iter().filter(|(word, _)| lower(word)).count();
    let uppers = words.iter().filter(|(word, _)| !lower(word) && upper(word)).count();
    let (fits, wanted): (&dyn Fn(&str) -> bool, _) =
        if lowers > uppers { (&lower, "lowercase") } else { (&upper, "uppercase") };
    for (word, lines) in words.into_iter().filter(|(word, _)| !fits(word)) {
        let text = format!("Command '{word}' should match the case of the command majority ({wanted})");
        out.push(Warning::new(Rule::ConsistentInstructionCasing, text, lines));
    }
}

/// Whether a variable's name says that its value is a secret.
pub fn names_a_secret(key: &str) -> bool {
    let words: Vec<String> = key.split('_').map(str::to_lowercase).collect();
    // The words count at any place between underscores.
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    has(&["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"])
        && !has(&["public", "file", "version"])
}

pub(crate) fn of_pairs(keyword: &str, instruction: &Instruction, out: &mut Vec<Warning>) {
    let secret = |key: &str| {
        format!("Do not use ARG or ENV instructions for sensitive data ({} {key:?})", keyword.to_uppercase())
    };
    match &instruction.kind {
        Kind::Env(pairs) | Kind::Label(pairs) => {
            for pair in pairs {
                if pair.no_delimiter {
                    let text = format!(
                        "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
                    );
                    out.push(Warning::new(Rule::LegacyKeyValueFormat, text, instruction.lines));
                }
                if matches!(instruction.kind, Kind::Env(_)) && names_a_secret(&pair.key) {
                    out.push(Warning::new(Rule::SecretsUsedInArgOrEnv, secret(&pair.key), instruction.lines));
                }
            }
        }
        Kind::Arg(args) => {
            for arg in args.iter().filter(|arg| names_a_secret(&arg.key)) {
                out.push(Warning::new(Rule::SecretsUsedInArgOrEnv, secret(&arg.key), instruction.lines));
            }
        }
        _ => {}
    }
}
