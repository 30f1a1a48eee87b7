//! Rules of the house as a check: layers, `unsafe`, unfinished code, paths named in documents.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates by layer. A crate uses lower layers only; crates of one layer do not use each other, except
/// that programs and tests stand above everything.
const LAYERS: &[&[&str]] = &[
    &["berth-types", "berth-agent-proto"],
    &["berth-sys"],
    &[
        "berth-cgroup",
        "berth-files",
        "berth-log",
        "berth-runtime",
        "berth-content",
        "berth-snapshot",
        "berth-net",
        "berth-registry",
        "berth-dns",
        "berth-dockerfile",
        "berth-vm",
        "berth-buildkit",
    ],
    &["berth-image", "berth-build", "berth-shim-proto", "berth-store"],
    &["berth-engine"],
    &["berth-api-docker", "berth-api"],
    &["berth", "berthd", "berth-shim", "berth-agent", "berth-bench"],
];

/// Arrows that the layers would allow and the design forbids, with the reason.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("berth-engine", "berth-runtime", "the engine reaches a process only through the shim"),
    ("berth-shim", "tokio", "the shim is single-threaded"),
    ("berth-runtime", "tokio", "a process that clones has one thread"),
    ("berth-dns", "tokio", "it enters network namespaces and has one thread"),
    ("berth", "berth-engine", "the command line knows only the API"),
    ("berth-types", "rustix", "types do no IO"),
    ("berth-agent-proto", "rustix", "a language does no IO"),
    ("berth-agent", "tokio", "a guest's first process has one thread, and clones"),
];

pub(crate) fn run(root: &Path) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    check_arrows(root, &mut problems);
    let sources = files(root, &["rs"]);
    check_sources(root, &sources, &mut problems);
    check_documents(root, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn check_arrows(root: &Path, problems: &mut Vec<String>) {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output();
    let metadata: Value = match output {
        Ok(output) if output.status.success() => match serde_json::from_slice(&output.stdout) {
            Ok(metadata) => metadata,
            Err(error) => return problems.push(format!("cargo metadata: {error}")),
        },
        Ok(output) => return problems.push(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => return problems.push(format!("cannot start cargo: {error}")),
    };
    let layer_of: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(layer, names)| names.iter().map(move |name| (*name, layer))).collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let normal = package["dependencies"].as_array().into_iter().flatten().filter(|d| d["kind"].is_null());
        for dependency in normal {
            let used = dependency["name"].as_str().unwrap_or_default();
            if let (Some(mine), Some(theirs)) = (layer_of.get(name), layer_of.get(used))
                && theirs >= mine
            {
                problems.push(format!("{name} (layer {mine}) uses {used} (layer {theirs}): arrows point down"));
            }
            if let Some((_, _, why)) = FORBIDDEN.iter().find(|(from, to, _)| (*from, *to) == (name, used)) {
                problems.push(format!("{name} uses {used}: {why}"));
            }
        }
        if name.starts_with("berth") && !layer_of.contains_key(name) && !["berth-testkit", "berth-e2e"].contains(&name)
        {
            problems.push(format!("{name} stands in no layer: add it to xtask/src/tidy.rs and ARCHITECTURE.md"));
        }
    }
}

fn check_sources(root: &Path, sources: &[PathBuf], problems: &mut Vec<String>) {
    // Built from pieces so that this file does not find itself.
    let unfinished = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "XX".to_owned() + "X:"];
    let unsafe_block = "unsa".to_owned() + "fe ";
    for path in sources {
        let Ok(text) = std::fs::read_to_string(path) else {
            problems.push(format!("{}: not readable as UTF-8", path.display()));
            continue;
        };
        let shown = path.strip_prefix(root).unwrap_or(path);
        let in_sys = shown.starts_with("crates/berth-sys");
        for (number, line) in text.lines().enumerate() {
            let at = || format!("{}:{}", shown.display(), number + 1);
            let code = line.split("//").next().unwrap_or_default();
            if !in_sys && code.trim_start().contains(&unsafe_block) && !code.contains('"') {
                problems.push(format!("{}: {}outside berth-sys", at(), unsafe_block));
            }
            if let Some(word) = unfinished.iter().find(|word| line.contains(word.as_str())) {
                problems.push(format!("{}: {word} left in code", at()));
            }
        }
        if !text.starts_with("//!") && shown.file_name().is_some_and(|name| name == "lib.rs" || name == "mod.rs") {
            problems.push(format!("{}: a module opens with its doc comment", shown.display()));
        }
    }
}

/// Paths in backquotes that look like ours must exist.
fn check_documents(root: &Path, problems: &mut Vec<String>) {
    for path in files(root, &["md"]) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for quoted in text.split('`').skip(1).step_by(2) {
            let ours = ["crates/", "docs/", "tests/", "bench/", "xtask/", "examples/", "dist/", "web/"];
            let is_path =
                ours.iter().any(|start| quoted.starts_with(start)) && !quoted.contains(['*', '<', ' ', '{', '\n']);
            let file = quoted.split(':').next().unwrap_or(quoted);
            if is_path && !root.join(file).exists() {
                let shown = path.strip_prefix(root).unwrap_or(&path);
                problems.push(format!("{}: names `{quoted}`, which does not exist", shown.display()));
            }
        }
    }
}

fn files(root: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let skipped = name.to_str().is_none_or(|n| n.starts_with('.') || n == "target" || n == "node_modules");
            if skipped {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
