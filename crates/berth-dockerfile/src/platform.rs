//! `os/architecture[/variant]`, spelt as containerd spells it.

use std::fmt;

/// A platform with aliases resolved: `amd64`, `arm/v7`, `arm64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: String,
}

impl Platform {
    /// The machine that this was built for.
    pub fn host() -> Platform {
        normal("linux", std::env::consts::ARCH, "")
    }

    /// `host` fills in what `text` leaves open.
    pub fn parse(text: &str, host: &Platform) -> Result<Platform, String> {
        let invalid = |why: String| format!("{}: {why}: invalid argument", crate::quote(text));
        if text.contains('*') {
            return Err(invalid("wildcards not yet supported".to_owned()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        for part in &parts {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if part.is_empty() || !part.chars().all(plain) {
                let rule = "does not match platform specifier component regexp";
                return Err(format!(
                    "{} is an invalid component of {}: {rule}",
                    crate::quote(part),
                    crate::quote(text)
                ));
            }
        }
        const SYSTEMS: [&str; 9] =
            ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "plan9", "wasip1"];
        match parts.as_slice() {
            [one] => {
                let lower = one.to_lowercase();
                if SYSTEMS.contains(&lower.as_str()) {
                    return Ok(Platform { os: lower, ..host.clone() });
                }
                let platform = normal(&host.os, &lower, "");
                const MACHINES: [&str; 12] = [
                    "amd64", "arm64", "arm", "386", "ppc64le", "ppc64", "s390x", "riscv64", "mips64le", "mips64",
                    "loong64", "wasm",
                ];
                match MACHINES.contains(&platform.architecture.as_str()) {
                    true => Ok(platform),
                    false => Err(invalid("unknown operating system or architecture".to_owned())),
                }
            }
            [os, machine] => Ok(normal(&os.to_lowercase(), &machine.to_lowercase(), "")),
            [os, machine, variant] => Ok(normal(&os.to_lowercase(), &machine.to_lowercase(), &variant.to_lowercase())),
            _ => Err(invalid("cannot parse platform specifier".to_owned())),
        }
    }
}

fn normal(os: &str, machine: &str, variant: &str) -> Platform {
    let (machine, variant) = match (machine, variant) {
        ("i386" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64", _) => ("ppc64le", ""),
        other => other,
    };
    Platform { os: os.to_owned(), architecture: machine.to_owned(), variant: variant.to_owned() }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_and_parts_are_filled_in() {
        let host = Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() };
        for (text, shown) in [
            ("linux", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
        ] {
            assert_eq!(Platform::parse(text, &host).unwrap().to_string(), shown);
        }
        for bad in ["", "linux/", "a/b/c/d", "linux/a b", "nonsense", "*"] {
            assert!(Platform::parse(bad, &host).is_err(), "{bad}");
        }
    }
}
