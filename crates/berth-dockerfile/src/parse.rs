//! Nodes become typed instructions and stages.

use crate::error::ParseError;
use crate::flags::{FlagKind, Flags};
use crate::instruction::*;
use crate::lint::{self, Rule, Warning};
use crate::text::{self, Node};
use crate::{go_duration_nanos, mount, suggest};

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Docker's shortest time between probes.
const INTERVAL_NANOS_MIN: i64 = 1_000_000;

/// Reads a Dockerfile. Bytes that are no UTF-8 are replaced.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile, ParseError> {
    let text = text::read(&String::from_utf8_lossy(bytes))?;
    let mut file = Dockerfile {
        stages: Vec::new(),
        meta_args: Vec::new(),
        escape: text.escape,
        directives: text.directives,
        warnings: text.warnings,
    };
    for node in text.nodes {
        let lines = node.lines;
        let failed = |message: String| ParseError { message, lines: Some(lines), instruction: true };
        match read(node, &mut file.warnings).map_err(failed)? {
            Read::Stage(stage) => file.stages.push(stage),
            Read::Instruction(one) => match file.stages.last_mut() {
                Some(stage) => stage.instructions.push(one),
                None if matches!(one.kind, Kind::Arg(_)) => file.meta_args.push(one),
                None => return Err(ParseError::plain("no build stage in current context").at(lines)),
            },
        }
    }
    let structure = lint::of_structure(&file);
    file.warnings.extend(structure);
    Ok(file)
}

/// Reads an `ONBUILD` trigger out of an image's configuration.
pub fn parse_trigger(trigger: &str) -> Result<Instruction, ParseError> {
    let mut text = text::read(trigger)?;
    let (Some(node), true) = (text.nodes.pop(), text.nodes.is_empty()) else {
        return Err(ParseError::plain("onbuild trigger should be a single expression"));
    };
    match read(node, &mut Vec::new()).map_err(ParseError::plain)? {
        Read::Instruction(instruction) => Ok(instruction),
        Read::Stage(_) => Err(ParseError::plain("FROM isn't allowed as an ONBUILD trigger")),
    }
}

enum Read {
    Stage(Stage),
    Instruction(Instruction),
}

fn read(node: Node, warnings: &mut Vec<Warning>) -> Result<Read, String> {
    let name = node.keyword.to_ascii_uppercase();
    if name == "FROM" {
        return stage(node, warnings).map(Read::Stage);
    }
    let kind = kind(&name, &node)?;
    let instruction = Instruction {
        code: node.original.trim().to_owned(),
        keyword: node.keyword,
        lines: node.lines,
        comments: node.comments,
        kind,
    };
    if matches!(instruction.kind, Kind::Maintainer(_)) {
        let text = "Maintainer instruction is deprecated in favor of using label".to_owned();
        warnings.push(Warning::new(Rule::MaintainerDeprecated, text, instruction.lines));
    }
    lint::of_pairs(&instruction.keyword, &instruction, warnings);
    Ok(Read::Instruction(instruction))
}

fn kind(name: &str, node: &Node) -> Result<Kind, String> {
    let no_flags = || Flags::parse(&node.flags, &[]).map(drop);
    let some = || match node.args.is_empty() {
        true => Err(format!("{name} requires at least one argument")),
        false => Ok(()),
    };
    let one = || match node.args.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(format!("{name} requires exactly one argument")),
    };
    Ok(match name {
        "ENV" => {
            no_flags()?;
            Kind::Env(pairs(name, node)?)
        }
        "LABEL" => {
            no_flags()?;
            Kind::Label(pairs(name, node)?)
        }
        "MAINTAINER" => {
            let who = one()?;
            no_flags()?;
            Kind::Maintainer(who)
        }
        "ADD" => Kind::Add(add(node)?),
        "COPY" => Kind::Copy(copy(node)?),
        "ONBUILD" => Kind::Onbuild(onbuild(node)?),
        "WORKDIR" => {
            let path = one()?;
            no_flags()?;
            Kind::Workdir(path)
        }
        "RUN" => Kind::Run(Box::new(run(node)?)),
        "CMD" => {
            no_flags()?;
            Kind::Cmd(command(node))
        }
        "ENTRYPOINT" => {
            no_flags()?;
            Kind::Entrypoint(command(node))
        }
        "HEALTHCHECK" => Kind::Healthcheck(health(node)?),
        "EXPOSE" => {
            some()?;
            no_flags()?;
            let mut ports = node.args.clone();
            ports.sort();
            Kind::Expose(ports)
        }
        "USER" => {
            let user = one()?;
            no_flags()?;
            Kind::User(user)
        }
        "VOLUME" => {
            some()?;
            no_flags()?;
            let list: Vec<String> = node.args.iter().map(|path| path.trim().to_owned()).collect();
            if list.iter().any(String::is_empty) {
                return Err("VOLUME specified can not be an empty string".to_owned());
            }
            Kind::Volume(list)
        }
        "STOPSIGNAL" => Kind::StopSignal(one()?),
        "ARG" => {
            some()?;
            let arg = |word: &String| match word.split_once('=') {
                Some(("", _)) => Err("ARG names can not be blank".to_owned()),
                Some((key, value)) => Ok(Arg { key: key.to_owned(), value: Some(value.to_owned()) }),
                None => Ok(Arg { key: word.clone(), value: None }),
            };
            Kind::Arg(node.args.iter().map(arg).collect::<Result<_, _>>()?)
        }
        "SHELL" => {
            no_flags()?;
            some()?;
            match node.json {
                true => Kind::Shell(node.args.clone()),
                false => return Err("SHELL requires the arguments to be in JSON form".to_owned()),
            }
        }
        _ => {
            let message = format!("unknown instruction: {}", node.keyword);
            return Err(suggest::with_suggestion(message, &node.keyword, KEYWORDS, false));
        }
    })
}

fn pairs(name: &str, node: &Node) -> Result<Vec<Pair>, String> {
    if node.args.is_empty() {
        return Err(format!("{name} requires at least one argument"));
    }
    node.args
        .chunks(3)
        .map(|chunk| match chunk {
            [key, _, _] if key.is_empty() => Err(format!("{name} names can not be blank")),
            [key, value, delimiter] => {
                Ok(Pair { key: key.clone(), value: value.clone(), no_delimiter: delimiter.is_empty() })
            }
            _ => Err(format!("Bad input to {name}, too many arguments")),
        })
        .collect()
}

fn sources(name: &str, node: &Node) -> Result<Sources, String> {
    let Some((destination, list)) = node.args.split_last().filter(|(_, list)| !list.is_empty()) else {
        return Err(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        ));
    };
    if text::parse_heredoc(destination).is_some() {
        return Err(format!("{name} cannot accept a heredoc as a destination"));
    }
    let mut sources = Sources { destination: destination.clone(), ..Sources::default() };
    for source in list {
        let Some(announced) = text::parse_heredoc(source) else {
            sources.paths.push(source.clone());
            continue;
        };
        let content = node.heredocs.iter().rev().find(|heredoc| heredoc.name == announced.name);
        let content = content.map(|heredoc| heredoc.content.as_str()).unwrap_or_default();
        let data = if announced.chomp { text::chomp(content) } else { content.to_owned() };
        sources.contents.push(Content { path: announced.name, data, expand: announced.expand });
    }
    Ok(sources)
}

fn add(node: &Node) -> Result<Add, String> {
    // Too few arguments come first, then flags, then the rest, as in BuildKit.
    let sources = sources("ADD", node);
    if node.args.len() < 2 {
        sources?;
        return Ok(Add::default());
    }
    use FlagKind::{Bool, List, Text};
    let flags = Flags::parse(
        &node.flags,
        &[
            ("chown", Text),
            ("chmod", Text),
            ("link", Bool),
            ("keep-git-dir", Bool),
            ("checksum", Text),
            ("unpack", Bool),
            ("exclude", List),
        ],
    )?;
    Ok(Add {
        sources: sources?,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        exclude: flags.list("exclude"),
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.bool("unpack"),
    })
}

fn copy(node: &Node) -> Result<Copy, String> {
    let sources = sources("COPY", node);
    if node.args.len() < 2 {
        sources?;
        return Ok(Copy::default());
    }
    use FlagKind::{Bool, List, Text};
    let flags = Flags::parse(
        &node.flags,
        &[("chown", Text), ("from", Text), ("chmod", Text), ("link", Bool), ("exclude", List), ("parents", Bool)],
    )?;
    Ok(Copy {
        sources: sources?,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        parents: flags.bool("parents").unwrap_or(false),
        exclude: flags.list("exclude"),
    })
}

fn onbuild(node: &Node) -> Result<String, String> {
    let Some(first) = node.args.first() else { return Err("ONBUILD requires at least one argument".to_owned()) };
    Flags::parse(&node.flags, &[])?;
    let trigger = first.trim().to_ascii_uppercase();
    match trigger.as_str() {
        "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        "MAINTAINER" | "FROM" => return Err(format!("{trigger} isn't allowed as an ONBUILD trigger")),
        _ => {}
    }
    let line = node.original.trim_start();
    let mut text = line.get("ONBUILD".len()..).unwrap_or_default().trim_start().to_owned();
    for heredoc in &node.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(text)
}

fn stage(node: Node, warnings: &mut Vec<Warning>) -> Result<Stage, String> {
    let name = match node.args.as_slice() {
        [_] => None,
        [_, as_word, name] if as_word.eq_ignore_ascii_case("as") => Some((as_word, name)),
        _ => return Err("FROM requires either one or three arguments".to_owned()),
    };
    let lower = name.map(|(_, name)| name.to_lowercase());
    if let (Some((as_word, written)), Some(name)) = (name, &lower) {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(valid) {
            let shown = crate::quote(written);
            return Err(format!(
                "invalid name for build stage: {shown}, name can't start with a number or contain symbols"
            ));
        }
        if written != name {
            let text = format!("Stage name '{written}' should be lowercase");
            warnings.push(Warning::new(Rule::StageNameCasing, text, node.lines));
        }
        let same = |text: &str| match node.keyword.as_str() {
            "from" => text == text.to_lowercase(),
            "FROM" => text == text.to_uppercase(),
            _ => true,
        };
        if !same(as_word) {
            let text = format!("'{as_word}' and '{}' keywords' casing do not match", node.keyword);
            warnings.push(Warning::new(Rule::FromAsCasing, text, node.lines));
        }
    }
    let flags = Flags::parse(&node.flags, &[("platform", FlagKind::Text)])?;
    Ok(Stage {
        name: lower,
        base: node.args[0].clone(),
        platform: flags.text("platform"),
        code: node.original.trim().to_owned(),
        keyword: node.keyword,
        lines: node.lines,
        comments: node.comments,
        instructions: Vec::new(),
    })
}

fn command(node: &Node) -> Command {
    let line = match node.json {
        true => node.args.clone(),
        false if node.args.is_empty() => Vec::new(),
        false => vec![node.args.join(" ")],
    };
    Command { line, files: node.heredocs.clone(), in_shell: !node.json }
}

fn run(node: &Node) -> Result<Run, String> {
    use FlagKind::{List, Text};
    let allowed = [("mount", List), ("network", Text), ("security", Text), ("device", List)];
    let flags = Flags::parse(&node.flags, &allowed)?;
    let mount_flags = flags.list("mount");
    let mounts = mount_flags.iter().map(|flag| mount::parse(flag, None)).collect::<Result<_, _>>()?;
    let network = match flags.text("network").as_str() {
        "" | "default" => Network::Default,
        "none" => Network::None,
        "host" => Network::Host,
        other => return Err(format!("invalid network mode {}", crate::quote(other))),
    };
    let insecure = match flags.text("security").as_str() {
        "" | "sandbox" => false,
        "insecure" => true,
        other => return Err(format!("security {} is not valid", crate::quote(other))),
    };
    Ok(Run { command: command(node), mount_flags, mounts, network, insecure, devices: flags.list("device") })
}

fn health(node: &Node) -> Result<Health, String> {
    let Some((kind, args)) = node.args.split_first() else {
        return Err("HEALTHCHECK requires at least one argument".to_owned());
    };
    let kind = kind.to_uppercase();
    if kind == "NONE" {
        return match args.is_empty() {
            true => Ok(Health { test: vec![kind], ..Health::default() }),
            false => Err("HEALTHCHECK NONE takes no arguments".to_owned()),
        };
    }
    use FlagKind::Text;
    let allowed =
        [("interval", Text), ("timeout", Text), ("start-period", Text), ("start-interval", Text), ("retries", Text)];
    let flags = Flags::parse(&node.flags, &allowed)?;
    if kind != "CMD" {
        return Err(format!("Unknown type {} in HEALTHCHECK (try CMD)", crate::quote(&kind)));
    }
    if args.is_empty() {
        return Err("Missing command after HEALTHCHECK CMD".to_owned());
    }
    let test = match node.json {
        true => std::iter::once("CMD".to_owned()).chain(args.iter().cloned()).collect(),
        false => vec!["CMD-SHELL".to_owned(), args.join(" ")],
    };
    let interval = |name: &str| -> Result<i64, String> {
        let text = flags.text(name);
        if text.is_empty() {
            return Ok(0);
        }
        match go_duration_nanos(&text)? {
            0 => Ok(0),
            nanos if nanos < INTERVAL_NANOS_MIN => {
                Err(format!("Interval {} cannot be less than 1ms", crate::quote(name)))
            }
            nanos => Ok(nanos),
        }
    };
    let retries = match flags.text("retries").as_str() {
        "" => 0,
        text => {
            let number: i32 = text
                .parse()
                .map_err(|_| format!("strconv.ParseInt: parsing {}: invalid syntax", crate::quote(text)))?;
            u32::try_from(number).map_err(|_| format!("--retries cannot be negative ({number})"))?
        }
    };
    Ok(Health {
        test,
        interval_nanos: interval("interval")?,
        timeout_nanos: interval("timeout")?,
        start_period_nanos: interval("start-period")?,
        start_interval_nanos: interval("start-interval")?,
        retries,
    })
}
