//! `cargo xtask syscalls HEADERS`: the syscall tables of the seccomp compiler, made from the kernel's headers.
//!
//! HEADERS is a folder that the Debian packages `linux-libc-dev-{amd64,arm64,armhf}-cross` were unpacked to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// File of the table, header, what it is.
const SOURCES: &[(&str, &str, &str)] = &[
    ("x86_64", "usr/x86_64-linux-gnu/include/asm/unistd_64.h", "x86-64"),
    ("x32", "usr/x86_64-linux-gnu/include/asm/unistd_x32.h", "x32, without its bit 30"),
    ("x86", "usr/x86_64-linux-gnu/include/asm/unistd_32.h", "32-bit x86"),
    ("aarch64", "usr/aarch64-linux-gnu/include/asm/unistd_64.h", "64-bit Arm"),
    ("arm", "usr/arm-linux-gnueabihf/include/asm/unistd-eabi.h", "32-bit Arm, EABI"),
];

pub(crate) fn run(root: &Path, headers: Option<String>) -> Result<(), Vec<String>> {
    let headers = headers.ok_or_else(|| vec!["usage: cargo xtask syscalls HEADERS".to_owned()])?;
    let tables = root.join("crates/berth-runtime/src/seccomp/tables");
    for (name, header, what) in SOURCES {
        let path = Path::new(&headers).join(header);
        let text = std::fs::read_to_string(&path).map_err(|error| vec![format!("{}: {error}", path.display())])?;
        let mut numbers = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some("#define"), Some(symbol)) = (words.next(), words.next()) else { continue };
            let Some(syscall) = symbol.strip_prefix("__NR_") else { continue };
            let value: String = words.collect();
            // `(__X32_SYSCALL_BIT + 512)`, `(__NR_SYSCALL_BASE + 12)`, `12`
            let digits = value.trim_matches(['(', ')']).rsplit('+').next().unwrap_or_default();
            if let Ok(number) = digits.parse::<u16>() {
                numbers.insert(syscall.to_owned(), number);
            }
        }
        if numbers.len() < 300 {
            return Err(vec![format!("{}: only {} syscalls found", path.display(), numbers.len())]);
        }
        let mut out = format!("//! Syscalls of {what}, sorted by name. Made by `cargo xtask syscalls`.\n\n");
        out.push_str("pub(in crate::seccomp) const TABLE: &[(&str, u16)] = &[\n");
        for (syscall, number) in &numbers {
            writeln!(out, "    (\"{syscall}\", {number}),").expect("a String takes all text");
        }
        out.push_str("];\n");
        let target = tables.join(format!("{name}.rs"));
        std::fs::write(&target, out).map_err(|error| vec![format!("{}: {error}", target.display())])?;
    }
    Ok(())
}
