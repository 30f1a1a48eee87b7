//! `commit --change` and `import --change`: Dockerfile instructions applied to a configuration.
//!
//! Only those that change nothing but the configuration: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD
//! STOPSIGNAL USER VOLUME WORKDIR. Words are expanded with the environment so far, as in a Dockerfile.

use berth_types::spec::{Config, Healthcheck, PortProto};
use berth_types::{Error, Result};

/// A change longer than this is no configuration.
const CHANGE_BYTES_MAX: usize = 64 << 10;

/// Applies `changes` in their order.
pub(super) fn apply(config: &mut Config, changes: &[String]) -> Result<()> {
    let mut cmd_set = false;
    for line in changes.iter().flat_map(|change| logical_lines(change)) {
        if line.len() > CHANGE_BYTES_MAX {
            return Err(Error::invalid(format!("a change is longer than {CHANGE_BYTES_MAX} bytes")));
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        instruction(config, word, rest.trim(), &mut cmd_set)?;
    }
    Ok(())
}

/// Lines with their continuations joined, comments and blanks left out.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => open.push_str(part),
            None => lines.push(std::mem::take(&mut open) + line),
        }
    }
    if !open.is_empty() {
        lines.push(open);
    }
    lines
}

fn instruction(config: &mut Config, word: &str, rest: &str, cmd_set: &mut bool) -> Result<()> {
    let name = word.to_ascii_uppercase();
    let known = [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    if !known.contains(&name.as_str()) {
        return Err(Error::invalid(format!("{word} is not a valid change command")));
    }
    let needs_one = || Error::invalid(format!("{name} requires exactly one argument"));
    let needs_some = || Error::invalid(format!("{name} requires at least one argument"));
    let single = |config: &Config| -> Result<String> {
        match rest.is_empty() {
            true => Err(needs_one()),
            false => expand(rest, &config.env),
        }
    };
    match name.as_str() {
        "CMD" => {
            config.cmd = Some(command(rest, config));
            *cmd_set = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest, config)).filter(|list| !list.is_empty());
            if !*cmd_set {
                config.cmd = None;
            }
        }
        "ENV" => {
            for (key, value) in pairs(rest, &config.env, "ENV")? {
                set_env(&mut config.env, &key, &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(rest, &config.env, "LABEL")?),
        "EXPOSE" => {
            let list = words(rest)?;
            if list.is_empty() {
                return Err(needs_some());
            }
            for word in list {
                config.exposed_ports.extend(ports(&expand(&word, &config.env)?)?);
            }
        }
        "VOLUME" => {
            let list = match json_list(rest) {
                Some(list) => list,
                None => words(rest)?,
            };
            if list.is_empty() {
                return Err(needs_some());
            }
            for word in list {
                let path = expand(&word, &config.env)?;
                if path.trim().is_empty() {
                    return Err(Error::invalid("VOLUME specified can not be an empty string"));
                }
                config.volumes.insert(path);
            }
        }
        "USER" => config.user = single(config)?,
        "STOPSIGNAL" => config.stop_signal = Some(single(config)?),
        "WORKDIR" => {
            let path = single(config)?;
            config.working_dir = join(&config.working_dir, &path);
        }
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
            match trigger.as_str() {
                "" => return Err(needs_some()),
                "ONBUILD" => return Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
                "MAINTAINER" | "FROM" => {
                    return Err(Error::invalid(format!("{trigger} isn't allowed as an ONBUILD trigger")));
                }
                _ => config.on_build.get_or_insert_default().push(rest.to_owned()),
            }
        }
        _ => config.healthcheck = Some(healthcheck(rest)?),
    }
    Ok(())
}

fn json_list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// The exec form as it is, or the shell form in its shell.
fn command(text: &str, config: &Config) -> Vec<String> {
    if let Some(list) = json_list(text) {
        return list;
    }
    if text.is_empty() {
        return Vec::new();
    }
    let mut list = match &config.shell {
        Some(shell) if !shell.is_empty() => shell.clone(),
        _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
    };
    list.push(text.to_owned());
    list
}

fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    match env.iter_mut().find(|have| have.split('=').next() == Some(key)) {
        Some(have) => *have = entry,
        None => env.push(entry),
    }
}

/// `a=1 b="2 3"`, or the old `a rest of line`.
fn pairs(text: &str, env: &[String], name: &str) -> Result<Vec<(String, String)>> {
    let list = words(text)?;
    let Some(first) = list.first() else {
        return Err(Error::invalid(format!("{name} requires at least one argument")));
    };
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{name} must have two arguments")))?;
        return Ok(vec![(expand(key, env)?, expand(value.trim(), env)?)]);
    }
    list.iter()
        .map(|word| {
            let (key, value) = word.split_once('=').ok_or_else(|| {
                Error::invalid(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"))
            })?;
            let key = expand(key, env)?;
            if key.is_empty() {
                return Err(Error::invalid(format!("{name} names can not be blank")));
            }
            Ok((key, expand(value, env)?))
        })
        .collect()
}

/// Splits at blanks outside of quotes; quotes and escapes stay for [`expand`].
fn words(text: &str) -> Result<Vec<String>> {
    let (mut list, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                word.push(letter);
                word.extend(letters.next());
                continue;
            }
            ('"' | '\'', None) => quote = Some(letter),
            (_, Some(open)) if open == letter => quote = None,
            (_, None) if letter.is_whitespace() => {
                if !word.is_empty() {
                    list.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => (),
        }
        word.push(letter);
    }
    if quote.is_some() {
        return Err(Error::invalid("unexpected end of statement while looking for matching quote"));
    }
    if !word.is_empty() {
        list.push(word);
    }
    Ok(list)
}

fn lookup<'a>(env: &'a [String], key: &str) -> Option<&'a str> {
    env.iter().rev().find_map(|entry| entry.strip_prefix(key)?.strip_prefix('='))
}

/// Takes quotes and escapes away and puts variables in: `$a`, `${a}`, `${a:-b}`, `${a:+b}`.
fn expand(text: &str, env: &[String]) -> Result<String> {
    let mut out = String::new();
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            (_, Some('\'')) => out.push(letter),
            ('"' | '\'', None) => quote = Some(letter),
            ('\\', _) => match letters.next() {
                // Within double quotes only these lose their backslash.
                Some(next) if quote.is_none() || matches!(next, '"' | '$' | '\\') => out.push(next),
                Some(next) => out.extend(['\\', next]),
                None => out.push('\\'),
            },
            ('$', _) => variable(&mut letters, env, &mut out)?,
            _ => out.push(letter),
        }
    }
    Ok(out)
}

fn variable(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, env: &[String], out: &mut String) -> Result<()> {
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    if letters.next_if_eq(&'{').is_none() {
        let mut name = String::new();
        while let Some(letter) = letters.next_if(is_name) {
            name.push(letter);
        }
        match name.is_empty() {
            true => out.push('$'),
            false => out.push_str(lookup(env, &name).unwrap_or("")),
        }
        return Ok(());
    }
    let mut inside = String::new();
    loop {
        match letters.next() {
            None => return Err(Error::invalid("syntax error: missing '}' in a variable")),
            Some('}') => break,
            Some(letter) => inside.push(letter),
        }
    }
    let end = inside.find(|c| !is_name(&c)).unwrap_or(inside.len());
    let (name, modifier) = inside.split_at(end);
    let value = lookup(env, name).filter(|value| !value.is_empty());
    match modifier {
        "" => out.push_str(value.unwrap_or("")),
        _ if modifier.starts_with(":-") => out.push_str(&value.map_or_else(|| modifier[2..].to_owned(), str::to_owned)),
        _ if modifier.starts_with(":+") => out.push_str(if value.is_some() { &modifier[2..] } else { "" }),
        _ => return Err(Error::invalid(format!("unsupported modifier ({modifier}) in substitution"))),
    }
    Ok(())
}

/// `80`, `80/udp`, `8000-8002/tcp`
fn ports(text: &str) -> Result<Vec<PortProto>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |number: &str| format!("{number}/{protocol}").parse::<PortProto>();
    match (port(first), port(last)) {
        (Ok(first), Ok(last)) if first.port <= last.port => {
            Ok((first.port..=last.port).map(|port| PortProto { port, protocol: first.protocol }).collect())
        }
        _ => Err(Error::invalid(format!("invalid containerPort: {text}"))),
    }
}

fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => (),
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut probe = Healthcheck::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
        let duration = || -> Result<i64> {
            match nanos(value) {
                Some(nanos) if nanos == 0 || nanos >= 1_000_000 => Ok(nanos),
                Some(_) => Err(Error::invalid(format!("Interval {flag:?} cannot be less than 1ms"))),
                None => Err(Error::invalid(format!("time: invalid duration {value:?}"))),
            }
        };
        match key {
            "interval" => probe.interval_nanos = duration()?,
            "timeout" => probe.timeout_nanos = duration()?,
            "start-period" => probe.start_period_nanos = duration()?,
            "start-interval" => probe.start_interval_nanos = duration()?,
            "retries" => {
                probe.retries = value
                    .parse()
                    .map_err(|_| Error::invalid(format!("--retries cannot be {value:?}: a number is needed")))?;
            }
            _ => return Err(Error::invalid(format!("unknown flag: {key}"))),
        }
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    probe.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => vec!["NONE".to_owned()],
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if command.is_empty() => return Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
        "CMD" => match json_list(command) {
            Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        "" => return Err(Error::invalid("HEALTHCHECK requires at least one argument")),
        other => return Err(Error::invalid(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)"))),
    };
    Ok(probe)
}

/// Go's durations: `1m30s`, `1.5h`, `0`.
pub(super) fn nanos(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total) = (text, 0f64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * factor;
    }
    Some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<Config> {
        let mut config = Config { env: vec!["A=1".into()], cmd: Some(vec!["old".into()]), ..Config::default() };
        apply(&mut config, &changes.iter().map(|&change| change.to_owned()).collect::<Vec<_>>())?;
        Ok(config)
    }

    #[test]
    fn each_instruction_changes_its_part() {
        let config = changed(&[
            "ENV B=$A C=\"x y\" A=2",
            "LABEL a.b=\"c d\"",
            "EXPOSE 80 53/udp 9000-9001",
            "VOLUME /a /b",
            "USER www",
            "WORKDIR /x",
            "WORKDIR y/../z",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
            "HEALTHCHECK --interval=5s --retries=2 CMD curl -f x",
            "cmd [\"a\", \"b\"]",
        ])
        .unwrap();
        assert_eq!(config.env, ["A=2", "B=1", "C=x y"]);
        assert_eq!(config.labels["a.b"], "c d");
        assert_eq!(config.exposed_ports.len(), 4);
        assert_eq!(config.volumes.len(), 2);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("www", "/x/z"));
        let probe = config.healthcheck.unwrap();
        assert_eq!((probe.interval_nanos, probe.retries), (5_000_000_000, 2));
        assert_eq!(probe.test, ["CMD-SHELL", "curl -f x"]);
        assert_eq!(config.cmd.unwrap(), ["a", "b"]);
    }

    #[test]
    fn an_entrypoint_takes_the_old_command_away() {
        let config = changed(&["ENTRYPOINT run it"]).unwrap();
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "run it"]);
        assert_eq!(config.cmd, None);
        assert!(changed(&["CMD x", "ENTRYPOINT [\"y\"]"]).unwrap().cmd.is_some());
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for (change, part) in [
            ("RUN x", "RUN is not a valid change command"),
            ("FOO x", "FOO is not a valid change command"),
            ("EXPOSE x", "invalid containerPort: x"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV \"a", "matching quote"),
            ("USER", "USER requires exactly one argument"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ] {
            assert!(changed(&[change]).unwrap_err().message.contains(part), "{change}");
        }
    }

    #[test]
    fn variables_are_put_in_as_in_a_dockerfile() {
        let env = ["A=1".to_owned(), "E=".to_owned()];
        for (text, expected) in [
            ("$A", "1"),
            ("${A}x", "1x"),
            ("'$A'", "$A"),
            ("\\$A", "$A"),
            ("${Z:-d}", "d"),
            ("${A:+s}", "s"),
            ("${E:-f}", "f"),
            ("$", "$"),
            ("\"a $A\"", "a 1"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), expected, "{text}");
        }
    }
}
