//! Links the shim and the runtime as static programs at a fixed address, where the C library's static form is there.
//!
//! One shim stands beside every container, and the runtime is started several times for each. A position-independent
//! program has all its pointers written at every start: 300 KB that no two shims share. A dynamic one maps four
//! libraries, with page tables, private pages and a millisecond for each start. Cargo has no switch for a single
//! program's linking: `crt-static` would hold for the whole build, procedural macros too.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=../berth-shim/build.rs");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    if var("CARGO_CFG_TARGET_OS") != "linux" || var("CARGO_CFG_TARGET_ENV") != "gnu" || var("HOST") != var("TARGET") {
        return;
    }
    println!("cargo:rustc-link-arg-bins=-no-pie");
    if var("CARGO_PKG_NAME") == "berth-agent" {
        // It is in the memory of every guest.
        println!("cargo:rustc-link-arg-bins=-Wl,-s");
    }
    let (Some(c), Some(m)) = (archive("libc.a"), archive("libm.a")) else { return };
    if archive("libgcc_eh.a").is_none() {
        return;
    }
    // rustc asks the linker for the shared libraries by name; in this folder, searched first, it finds others.
    let folder = PathBuf::from(var("OUT_DIR"));
    let stand_ins = [
        ("libgcc_s.a", "INPUT(-lgcc_eh -lgcc)".to_owned()),
        ("libc.a", format!("INPUT({})", c.display())),
        ("libm.a", format!("INPUT({})", m.display())),
    ];
    for (name, text) in stand_ins {
        if std::fs::write(folder.join(name), text).is_err() {
            return;
        }
    }
    println!("cargo:rustc-link-arg-bins=-L{}", folder.display());
    println!("cargo:rustc-link-arg-bins=-static");
}

/// Where the C compiler has it; it answers the bare name when it has not.
fn archive(name: &str) -> Option<PathBuf> {
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    let path = Path::new(path.trim());
    path.is_absolute().then(|| path.to_owned())
}
