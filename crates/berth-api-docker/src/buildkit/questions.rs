//! Questions about a Dockerfile that build nothing: `--check`, `--call=outline`, `--call=targets`.
//!
//! Answered as BuildKit's frontend does: JSON that the client prints its own way, and a text for clients that do not know
//! its version. Base images that are not here are not pulled for it.

use super::Door;
use super::progress::{Progress, rule_url};
use super::request::{self, Attrs, unimplemented};
use super::session::Session;
use super::solve::failed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_buildkit::grpc::Status;
use berth_engine::builds::build::{self, BuildError, BuildOptions, Checked, Need, Outline, Target};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of all the answers' forms.
const VERSION: &str = "1.0.0";

type Answer = BTreeMap<String, Vec<u8>>;

pub(super) async fn answer(
    door: &Door,
    session: &Arc<Session>,
    progress: &Arc<Progress>,
    question: &str,
    attrs: &Attrs,
) -> Result<Answer, Status> {
    if question == "frontend.subrequests.describe" {
        return written(&known_questions(), known_text(), None);
    }
    if !["frontend.lint", "frontend.outline", "frontend.targets"].contains(&question) {
        return Err(unimplemented(format!("unsupported request {question}")));
    }
    let options = request::asked(door, session, attrs, progress).await?;
    let source = STANDARD.encode(&options.dockerfile);
    let why = |error: BuildError| failed(&error, progress);
    match question {
        "frontend.lint" => {
            let checked = door.engine.builds().check(&options).await;
            let status = u8::from(!checked.warnings.is_empty() || checked.error.is_some());
            written(&lint_of(&checked, &options, &source), lint_text(&checked, &options), Some(status))
        }
        "frontend.outline" => {
            let outline = door.engine.builds().outline(&options).await.map_err(why)?;
            written(&outline_of(&outline, &source), outline_text(&outline), None)
        }
        _ => {
            let show = |error: BuildError| why(error.show(&options.dockerfile_name, &options.dockerfile));
            let targets = build::targets(&options.dockerfile).map_err(show)?;
            let all = Targets { targets: targets.iter().map(target_of).collect(), sources: vec![&source] };
            written(&all, targets_text(&targets), None)
        }
    }
}

fn written(json: &impl Serialize, text: String, status: Option<u8>) -> Result<Answer, Status> {
    let json = serde_json::to_vec_pretty(json).map_err(|cause| Status::internal(format!("cannot answer: {cause}")))?;
    let mut answer = BTreeMap::from([
        ("result.json".to_owned(), json),
        ("result.txt".to_owned(), text.into_bytes()),
        ("version".to_owned(), VERSION.as_bytes().to_vec()),
    ]);
    if let Some(status) = status {
        answer.insert("result.statuscode".to_owned(), status.to_string().into_bytes());
    }
    Ok(answer)
}

/// Where something is in the first, and only, source.
#[derive(Serialize)]
struct Location {
    ranges: [Range; 1],
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Serialize)]
struct Position {
    line: usize,
}

fn location(lines: berth_engine::builds::Lines) -> Location {
    Location { ranges: [Range { start: Position { line: lines.first }, end: Position { line: lines.last } }] }
}

#[derive(Serialize)]
struct Lint<'a> {
    warnings: Vec<Finding>,
    sources: Vec<Source<'a>>,
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<Broken>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    rule_name: String,
    description: &'static str,
    url: String,
    detail: String,
    location: Location,
}

#[derive(Serialize)]
struct Source<'a> {
    filename: &'a str,
    data: &'a str,
    language: &'static str,
}

#[derive(Serialize)]
struct Broken {
    message: String,
    /// Empty where it has no place.
    location: serde_json::Value,
}

fn lint_of<'a>(checked: &Checked, options: &'a BuildOptions, source: &'a str) -> Lint<'a> {
    let finding = |warning: &berth_engine::builds::Warning| {
        let rule = format!("{:?}", warning.rule);
        Finding {
            description: warning.rule.description(),
            url: rule_url(&rule),
            rule_name: rule,
            detail: warning.message.clone(),
            location: location(warning.lines),
        }
    };
    let broken = |error: &BuildError| Broken {
        message: error.to_string(),
        location: error.lines.map_or_else(|| serde_json::json!({}), |lines| serde_json::json!(location(lines))),
    };
    Lint {
        warnings: checked.warnings.iter().map(finding).collect(),
        sources: vec![Source { filename: &options.dockerfile_name, data: source, language: "Dockerfile" }],
        error: checked.error.as_ref().map(broken),
    }
}

fn lint_text(checked: &Checked, options: &BuildOptions) -> String {
    let mut text = String::new();
    for warning in &checked.warnings {
        let rule = format!("{:?}", warning.rule);
        let shown = BuildError::invalid("").at(warning.lines).show(&options.dockerfile_name, &options.dockerfile);
        text.push_str(&format!("\nWARNING: {rule} - {}\n{}\n{}\n", rule_url(&rule), warning.message, shown.snippet));
    }
    text
}

#[derive(Serialize)]
struct Outlined<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Taken<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Taken<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Taken<'a>>,
    sources: [&'a str; 1],
}

#[derive(Serialize)]
struct Taken<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

fn outline_of<'a>(outline: &'a Outline, source: &'a str) -> Outlined<'a> {
    let need = |need: &'a Need| Taken {
        name: &need.name,
        description: "",
        value: "",
        required: need.required,
        location: location(need.lines),
    };
    let arg = |arg: &'a build::Parameter| Taken {
        name: &arg.name,
        description: &arg.description,
        value: &arg.value,
        required: false,
        location: location(arg.lines),
    };
    Outlined {
        name: &outline.name,
        description: &outline.description,
        args: outline.args.iter().map(arg).collect(),
        secrets: outline.secrets.iter().map(need).collect(),
        ssh: outline.ssh.iter().map(need).collect(),
        sources: [source],
    }
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        text.push_str(&format!("TARGET: {name}\n"));
        if !outline.description.is_empty() {
            text.push_str(&format!("DESCRIPTION: {}\n", outline.description));
        }
        text.push('\n');
    }
    for arg in &outline.args {
        text.push_str(&format!("BUILD ARG {}={} {}\n", arg.name, arg.value, arg.description));
    }
    for (word, needs) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        for need in needs {
            text.push_str(&format!("{word} {}{}\n", need.name, if need.required { " (required)" } else { "" }));
        }
    }
    text
}

#[derive(Serialize)]
struct Targets<'a> {
    targets: Vec<Targeted<'a>>,
    sources: Vec<&'a str>,
}

#[derive(Serialize)]
struct Targeted<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    base: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    platform: &'a str,
    location: Location,
}

fn target_of(target: &Target) -> Targeted<'_> {
    Targeted {
        name: &target.name,
        default: target.default,
        description: &target.description,
        base: &target.base,
        platform: &target.platform,
        location: location(target.lines),
    }
}

fn targets_text(targets: &[Target]) -> String {
    let mut text = "TARGET DESCRIPTION\n".to_owned();
    for target in targets {
        let name = match (target.name.as_str(), target.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        text.push_str(&format!("{name} {}\n", target.description));
    }
    text
}

const QUESTIONS: [(&str, &str); 4] = [
    ("frontend.outline", "List all parameters current build target supports"),
    ("frontend.targets", "List all targets current build supports"),
    ("frontend.lint", "Lint a Dockerfile"),
    ("frontend.subrequests.describe", "List available subrequest types"),
];

fn known_questions() -> serde_json::Value {
    let one = |(name, description): &(&str, &str)| serde_json::json!({"name": name, "version": VERSION, "type": "rpc", "description": description, "opts": [], "inputs": [], "metadata": [{"name": "result.json"}, {"name": "result.txt"}], "refs": []});
    QUESTIONS.iter().map(one).collect()
}

fn known_text() -> String {
    let line = |(name, description): &(&str, &str)| {
        format!("{} {VERSION} {description}\n", name.trim_start_matches("frontend."))
    };
    format!("NAME VERSION DESCRIPTION\n{}", QUESTIONS.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_engine::builds::{Lines, Rule, Warning};

    fn options() -> BuildOptions {
        BuildOptions { dockerfile: b"FROM scratch\nCMD a\n".to_vec(), ..BuildOptions::default() }
    }

    #[test]
    fn findings_are_written_as_buildx_reads_them() {
        let rule = Rule::JSONArgsRecommended;
        let warnings = vec![Warning::new(rule, "JSON arguments".to_owned(), Lines::new(2, 2))];
        let error = Some(BuildError::invalid("broken"));
        let (checked, options) = (Checked { warnings, error }, options());
        let json = serde_json::to_value(lint_of(&checked, &options, "RlJPTQ==")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "warnings": [{
                    "ruleName": "JSONArgsRecommended",
                    "description": rule.description(),
                    "url": "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
                    "detail": "JSON arguments",
                    "location": {"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]},
                }],
                "sources": [{"filename": "Dockerfile", "data": "RlJPTQ==", "language": "Dockerfile"}],
                "buildError": {"message": "broken", "location": {}},
            })
        );
        assert!(lint_text(&checked, &options).contains("   2 | >>> CMD a"));
    }

    #[test]
    fn what_is_empty_is_left_out_of_targets_and_outlines() {
        let all = build::targets(b"FROM scratch AS a\nFROM a\n").unwrap();
        let json = serde_json::to_value(all.iter().map(target_of).collect::<Vec<_>>()).unwrap();
        let at = |line: usize| serde_json::json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
        assert_eq!(
            json,
            serde_json::json!([
                {"name": "a", "base": "scratch", "location": at(1)},
                {"default": true, "base": "a", "location": at(2)},
            ])
        );
        assert_eq!(targets_text(&all), "TARGET DESCRIPTION\na \n(default) \n");
        let outline = Outline::default();
        assert_eq!(serde_json::to_value(outline_of(&outline, "x")).unwrap(), serde_json::json!({"sources": ["x"]}));
    }
}
