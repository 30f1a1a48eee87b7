//! Puts the console's built files into the binary: a table of names and bytes in `OUT_DIR/console.rs`.
//!
//! Without `web/dist/app` (nobody ran `make console`) the table is empty and the crate builds all the same.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../web/dist");
    // The folder is always there (its .gitignore is kept), so that cargo does not rebuild on every call.
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root.join("app"), "", &mut files);
    files.sort();
    let mut code = String::from("static FILES: &[(&str, &[u8])] = &[\n");
    for (name, path) in files {
        let path = path.canonicalize().expect("it was listed just now");
        writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string()).expect("memory suffices");
    }
    code.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("console.rs");
    std::fs::write(out, code).expect("OUT_DIR is writable");
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else { continue };
        match entry.path() {
            path if path.is_dir() => collect(&path, &format!("{name}/"), files),
            path => files.push((name, path)),
        }
    }
}
