//! One wish in three other forms: a `berth run` command, a call of this API, compose text.
//!
//! Pure, so that what the console shows can be pasted and means the same.

use super::create::CreateInstance;
use crate::schema::answers;
use serde_json::Value;

answers! {
    /// The same wish in other forms.
    Texts {
        /// For a shell.
        command: String,
        /// For curl, with $BERTH_TOKEN.
        call: String,
        compose: String,
    }
}

pub(crate) fn texts(wish: &CreateInstance) -> Texts {
    Texts { command: command(wish), call: call(wish), compose: compose(wish) }
}

/// A word that a POSIX shell reads as `text`.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// `512m` where it is a round number of something.
fn bytes(count: i64) -> String {
    match count {
        count if count % (1 << 30) == 0 => format!("{}g", count >> 30),
        count if count % (1 << 20) == 0 => format!("{}m", count >> 20),
        count if count % (1 << 10) == 0 => format!("{}k", count >> 10),
        count => format!("{count}b"),
    }
}

fn port(wish: &super::create::PortWish) -> String {
    let mut text = String::new();
    if !wish.address.is_empty() {
        match wish.address.contains(':') {
            true => text.push_str(&format!("[{}]:", wish.address)),
            false => text.push_str(&format!("{}:", wish.address)),
        }
    }
    match wish.host_port {
        0 if text.is_empty() => {}
        0 => text.push(':'),
        port => text.push_str(&format!("{port}:")),
    }
    text.push_str(&wish.port.to_string());
    if wish.protocol == "udp" {
        text.push_str("/udp");
    }
    text
}

fn command(wish: &CreateInstance) -> String {
    let mut flags: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: &str| match value {
        "" => flags.push(name.to_owned()),
        value => flags.push(format!("{name} {}", quote(value))),
    };
    let text = |flag: &mut dyn FnMut(&str, &str), name: &str, value: &str| {
        if !value.is_empty() {
            flag(name, value);
        }
    };
    if wish.start {
        flag("-d", "");
    }
    if wish.tty {
        flag("-t", "");
    }
    if wish.open_stdin {
        flag("-i", "");
    }
    text(&mut flag, "--name", &wish.name);
    text(&mut flag, "--hostname", &wish.hostname);
    text(&mut flag, "--user", &wish.user);
    text(&mut flag, "--workdir", &wish.working_dir);
    text(&mut flag, "--isolation", &wish.isolation);
    if wish.memory_bytes > 0 {
        flag("--memory", &bytes(wish.memory_bytes));
    }
    if wish.cpus > 0.0 {
        flag("--cpus", &wish.cpus.to_string());
    }
    if wish.processes > 0 {
        flag("--pids-limit", &wish.processes.to_string());
    }
    if !matches!(wish.network.as_str(), "" | "bridge") {
        flag("--network", &wish.network);
    }
    for one in &wish.ports {
        flag("-p", &port(one));
    }
    for mount in &wish.mounts {
        let read_only = if mount.read_only { ":ro" } else { "" };
        match mount.kind.as_str() {
            "tmpfs" => flag("--tmpfs", &format!("{}{read_only}", mount.target)),
            "volume" if mount.source.is_empty() => flag("-v", &mount.target),
            _ => flag("-v", &format!("{}:{}{read_only}", mount.source, mount.target)),
        }
    }
    for entry in &wish.env {
        flag("-e", entry);
    }
    for (name, value) in &wish.labels {
        flag("--label", &if value.is_empty() { name.clone() } else { format!("{name}={value}") });
    }
    if !matches!(wish.restart.as_str(), "" | "no") {
        flag("--restart", &wish.restart);
    }
    if let Some(health) = &wish.health {
        flag("--health-cmd", &health.command);
        let mut seconds = |name: &str, value: i64| {
            if value > 0 {
                flag(name, &format!("{value}s"));
            }
        };
        seconds("--health-interval", health.interval_seconds);
        seconds("--health-timeout", health.timeout_seconds);
        seconds("--health-start-period", health.start_period_seconds);
        if health.retries > 0 {
            flag("--health-retries", &health.retries.to_string());
        }
    }
    for (on, name) in [(wish.init, "--init"), (wish.read_only, "--read-only"), (wish.privileged, "--privileged")] {
        if on {
            flag(name, "");
        }
    }
    let mut rest = wish.command.clone();
    if let Some(entrypoint) = &wish.entrypoint {
        match entrypoint.split_first() {
            Some((first, more)) => {
                flag("--entrypoint", first);
                rest.splice(0..0, more.iter().cloned());
            }
            None => flags.push("--entrypoint ''".to_owned()),
        }
    }
    let verb = if wish.start { "run" } else { "create" };
    let mut words = vec![format!("berth {verb}")];
    words.extend(flags);
    let mut last = quote(&wish.image);
    for word in &rest {
        last.push(' ');
        last.push_str(&quote(word));
    }
    words.push(last);
    let line = words.join(" ");
    if line.len() <= 100 { line } else { words.join(" \\\n  ") }
}

/// Only what differs from the defaults.
fn call(wish: &CreateInstance) -> String {
    let default = serde_json::to_value(CreateInstance::default()).unwrap_or_default();
    let mut value = serde_json::to_value(wish).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.retain(|key, value| default.get(key) != Some(value));
    }
    let body = serde_json::to_string_pretty(&value).unwrap_or_default();
    format!(
        "curl -H \"authorization: Bearer $BERTH_TOKEN\" -H 'content-type: application/json' \\\n  \
         https://$BERTH_CONSOLE/api/v1/instances -d {}",
        quote(&body)
    )
}

/// A JSON string is a YAML string too, whatever is in it; `$` would be a variable of compose's.
fn yaml(text: &str) -> String {
    Value::String(text.replace('$', "$$")).to_string()
}

fn compose(wish: &CreateInstance) -> String {
    let service = if wish.name.is_empty() { "app" } else { &wish.name };
    let mut out = format!("services:\n  {}:\n    image: {}\n", yaml(service), yaml(&wish.image));
    let mut line = |key: &str, value: String| {
        out.push_str(&format!("    {key}: {value}\n"));
    };
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let texts = |items: &[String]| list(items.iter().map(|item| yaml(item)).collect());
    for (key, value) in [
        ("container_name", &wish.name),
        ("hostname", &wish.hostname),
        ("user", &wish.user),
        ("working_dir", &wish.working_dir),
        ("isolation", &wish.isolation),
    ] {
        if !value.is_empty() {
            line(key, yaml(value));
        }
    }
    if let Some(entrypoint) = &wish.entrypoint {
        line("entrypoint", texts(entrypoint));
    }
    if !wish.command.is_empty() {
        line("command", texts(&wish.command));
    }
    if !wish.env.is_empty() {
        line("environment", texts(&wish.env));
    }
    if !wish.labels.is_empty() {
        let pairs = wish.labels.iter().map(|(name, value)| format!("{}: {}", yaml(name), yaml(value)));
        line("labels", format!("{{{}}}", pairs.collect::<Vec<_>>().join(", ")));
    }
    if wish.memory_bytes > 0 {
        line("mem_limit", wish.memory_bytes.to_string());
    }
    if wish.cpus > 0.0 {
        line("cpus", wish.cpus.to_string());
    }
    if wish.processes > 0 {
        line("pids_limit", wish.processes.to_string());
    }
    if !wish.ports.is_empty() {
        line("ports", list(wish.ports.iter().map(|one| yaml(&port(one))).collect()));
    }
    let stored = wish.mounts.iter().filter(|mount| mount.kind != "tmpfs");
    let stored: Vec<String> = stored
        .map(|mount| {
            let read_only = if mount.read_only { ":ro" } else { "" };
            match mount.source.is_empty() {
                true => yaml(&mount.target),
                false => yaml(&format!("{}:{}{read_only}", mount.source, mount.target)),
            }
        })
        .collect();
    if !stored.is_empty() {
        line("volumes", list(stored));
    }
    let fleeting: Vec<String> =
        wish.mounts.iter().filter(|mount| mount.kind == "tmpfs").map(|mount| yaml(&mount.target)).collect();
    if !fleeting.is_empty() {
        line("tmpfs", list(fleeting));
    }
    let named = !matches!(wish.network.as_str(), "" | "bridge" | "none" | "host");
    match wish.network.as_str() {
        "none" | "host" => line("network_mode", wish.network.clone()),
        network if named => line("networks", list(vec![yaml(network)])),
        _ => {}
    }
    if !matches!(wish.restart.as_str(), "" | "no") {
        line("restart", yaml(&wish.restart));
    }
    for (on, key) in [
        (wish.tty, "tty"),
        (wish.open_stdin, "stdin_open"),
        (wish.init, "init"),
        (wish.read_only, "read_only"),
        (wish.privileged, "privileged"),
    ] {
        if on {
            line(key, "true".to_owned());
        }
    }
    if let Some(health) = &wish.health {
        let mut parts = vec![format!("test: [\"CMD-SHELL\", {}]", yaml(&health.command))];
        for (key, seconds) in [
            ("interval", health.interval_seconds),
            ("timeout", health.timeout_seconds),
            ("start_period", health.start_period_seconds),
        ] {
            if seconds > 0 {
                parts.push(format!("{key}: {seconds}s"));
            }
        }
        if health.retries > 0 {
            parts.push(format!("retries: {}", health.retries));
        }
        line("healthcheck", format!("{{{}}}", parts.join(", ")));
    }
    let mut volumes: Vec<&str> =
        wish.mounts.iter().filter(|mount| mount.kind == "volume").map(|mount| mount.source.as_str()).collect();
    volumes.sort_unstable();
    volumes.dedup();
    volumes.retain(|name| !name.is_empty());
    if !volumes.is_empty() {
        out.push_str("volumes:\n");
        for name in volumes {
            out.push_str(&format!("  {}: {{}}\n", yaml(name)));
        }
    }
    if named {
        out.push_str(&format!("networks:\n  {}: {{external: true}}\n", yaml(&wish.network)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> CreateInstance {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_small_wish_is_one_line() {
        let small = wish(
            r#"{"image": "tiny", "name": "web", "start": true, "memory_bytes": 536870912, "ports": [{"port": 80, "host_port": 8080, "address": "127.0.0.1"}]}"#,
        );
        assert_eq!(texts(&small).command, "berth run -d --name web --memory 512m -p 127.0.0.1:8080:80 tiny");
    }

    #[test]
    fn hostile_words_stay_words() {
        let hostile =
            wish(r#"{"image": "x", "env": ["A='; rm -rf / #$HOME\n"], "command": ["sh", "-c", "echo \"$1\""]}"#);
        let all = texts(&hostile);
        assert!(all.command.contains(r"-e 'A='\''; rm -rf / #$HOME"), "{}", all.command);
        assert!(all.command.ends_with("x sh -c 'echo \"$1\"'"), "{}", all.command);
        assert!(all.compose.contains(r#"environment: ["A='; rm -rf / #$$HOME\n"]"#), "{}", all.compose);
    }

    #[test]
    fn a_shell_reads_every_quoted_word_back() {
        for word in ["", "a b", "'", "''", "$x", "`id`", "a\nb", "\\", "*", "é", "-n"] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output();
            // `printf %s -n` would be an option to nothing: printf takes its format first.
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word, "{word:?}");
        }
    }

    #[test]
    fn compose_names_its_volumes_and_networks() {
        let full = wish(
            r#"{"image": "db", "name": "pg", "network": "shop", "restart": "unless-stopped",
                "mounts": [{"kind": "volume", "source": "data", "target": "/var"}, {"kind": "tmpfs", "target": "/tmp"}],
                "health": {"command": "pg_isready", "interval_seconds": 5, "retries": 3}}"#,
        );
        let text = texts(&full).compose;
        for part in [
            "  \"pg\":\n    image: \"db\"",
            "volumes: [\"data:/var\"]",
            "tmpfs: [\"/tmp\"]",
            "healthcheck: {test: [\"CMD-SHELL\", \"pg_isready\"], interval: 5s, retries: 3}",
            "volumes:\n  \"data\": {}",
            "networks:\n  \"shop\": {external: true}",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
