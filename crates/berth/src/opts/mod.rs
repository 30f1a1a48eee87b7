//! Values of flags that are small languages of their own.
//!
//! Each parser takes text and gives JSON of the Engine API or a message in Docker's wording; none of
//! them reads anything but what it is given, except where a flag names a file.

pub(crate) mod create;
pub(crate) mod env;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod ports;
pub(crate) mod security;

/// `a=b` to a pair; a word without `=` has an empty value.
pub(crate) fn key_value(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// Fields of a line of comma-separated values; a field in double quotes may hold commas.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    None => return Err(format!("unterminated quote in {text:?}")),
                    Some('"') if chars.peek() == Some(&'"') => field.extend(chars.next()),
                    Some('"') => break,
                    Some(c) => field.push(c),
                }
            }
        }
        while let Some(c) = chars.next_if(|c| *c != ',') {
            if c == '"' {
                return Err(format!("parse error on line 1: bare \" in non-quoted field in {text:?}"));
            }
            field.push(c);
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

/// `key=a` filters as the JSON that the API takes.
pub(crate) fn filters(given: &[&str]) -> Result<String, String> {
    let mut map: std::collections::BTreeMap<String, std::collections::BTreeMap<String, bool>> = Default::default();
    for filter in given {
        let Some((key, value)) = filter.split_once('=') else {
            return Err("bad format of filter (expected name=value)".to_owned());
        };
        map.entry(key.trim().to_lowercase()).or_default().insert(value.trim().to_owned(), true);
    }
    if map.is_empty() { Ok(String::new()) } else { serde_json::to_string(&map).map_err(|e| e.to_string()) }
}

/// Refuses a `--platform` that names neither a system nor an architecture.
pub(crate) fn platform(text: &str) -> crate::error::Result<()> {
    const SYSTEMS: &[&str] = &[
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "illumos",
        "ios",
        "js",
        "linux",
        "macos",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasip1",
        "windows",
        "zos",
    ];
    const ARCHITECTURES: &[&str] = &[
        "386", "amd64", "x86_64", "x86-64", "arm", "armhf", "armel", "arm64", "aarch64", "loong64", "mips", "mips64",
        "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x", "sparc64", "wasm", "i386",
    ];
    let lower = text.to_ascii_lowercase();
    if text.is_empty()
        || text.contains('/')
        || SYSTEMS.contains(&lower.as_str())
        || ARCHITECTURES.contains(&lower.as_str())
    {
        return Ok(());
    }
    Err(crate::error::CliError::failed(format!(
        "error parsing specified platform: {text:?}: unknown operating system or architecture: invalid argument"
    )))
}

/// `--filter` as the API's JSON; a filter without `=` is a wrong flag.
pub(crate) fn filter_flag(args: &crate::cli::Args) -> crate::error::Result<String> {
    for text in args.list("filter") {
        filters(&[text]).map_err(|why| args.because("filter", text, &why))?;
    }
    filters(&args.list("filter")).map_err(crate::error::CliError::usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_may_hold_commas() {
        assert_eq!(csv(r#"a=1,"b=x,y",c"#).unwrap(), ["a=1", "b=x,y", "c"]);
        assert_eq!(csv(r#""a=""q""""#).unwrap(), [r#"a="q""#]);
        assert!(csv("\"a").is_err());
    }

    #[test]
    fn filters_gather_by_key() {
        assert_eq!(
            filters(&["label=a", "label=b=c", "Name=x"]).unwrap(),
            r#"{"label":{"a":true,"b=c":true},"name":{"x":true}}"#
        );
        assert!(filters(&["bad"]).is_err());
    }
}
