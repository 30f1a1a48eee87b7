//! `--env`, `--env-file`, `--label`, `--label-file`.

use std::path::Path;

/// Files first, then flags, so that a flag overrides a file. A flag without a value takes it from the
/// environment of this command; without one there it is sent bare, which unsets the image's.
pub(crate) fn environment(files: &[&str], flags: &[&str]) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for file in files {
        for line in lines(Path::new(file), "variable")? {
            match (line.contains('='), std::env::var(&line)) {
                (true, _) => out.push(line),
                (false, Ok(value)) => out.push(format!("{line}={value}")),
                (false, Err(_)) => {}
            }
        }
    }
    for flag in flags {
        if flag.is_empty() || flag.starts_with('=') {
            return Err(format!(
                "invalid argument {flag:?} for \"-e, --env\" flag: invalid environment variable: {flag}"
            ));
        }
        match (flag.contains('='), std::env::var(flag)) {
            (false, Ok(value)) => out.push(format!("{flag}={value}")),
            _ => out.push((*flag).to_owned()),
        }
    }
    Ok(out)
}

pub(crate) fn labels(files: &[&str], flags: &[&str]) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    for file in files {
        // As in an env file, a bare name stands for the environment's value.
        for line in lines(Path::new(file), "label")? {
            match (line.contains('='), std::env::var(&line)) {
                (true, _) => out.push(super::key_value(&line)),
                (false, Ok(value)) => out.push((line, value)),
                (false, Err(_)) => {}
            }
        }
    }
    for flag in flags {
        if flag.is_empty() || flag.starts_with('=') {
            return Err(format!("invalid label: {flag:?}: empty name"));
        }
        out.push(super::key_value(flag));
    }
    Ok(out)
}

fn lines(path: &Path, what: &str) -> Result<Vec<String>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("open {}: {}", path.display(), crate::error::plain(&e)))?;
    parse_lines(&text, what).map_err(|e| format!("invalid env file ({}): {e}", path.display()))
}

fn parse_lines(text: &str, what: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for line in text.strip_prefix('\u{feff}').unwrap_or(text).lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return Err(format!("no {what} name on line '{line}'"));
        }
        if line.contains('=') && name.contains(char::is_whitespace) {
            return Err(format!("{what} '{name}' contains whitespaces"));
        }
        out.push(if line.contains('=') { line.to_owned() } else { line.trim().to_owned() });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_values_whole_and_skip_comments() {
        let text = "\u{feff}# c\n\nA=1\n  B=two words \nC='q'\nBARE\n";
        assert_eq!(parse_lines(text, "variable").unwrap(), ["A=1", "B=two words ", "C='q'", "BARE"]);
        assert!(parse_lines("=x", "variable").is_err());
        assert!(parse_lines("A B=x", "variable").is_err());
    }

    #[test]
    fn a_bare_name_takes_its_value_from_here() {
        let path = std::env::var("PATH").unwrap();
        let got = environment(&[], &["PATH", "BERTH_SURELY_NOT_SET", "A=b=c", "E="]).unwrap();
        assert_eq!(got, [format!("PATH={path}"), "BERTH_SURELY_NOT_SET".into(), "A=b=c".into(), "E=".into()]);
        assert!(environment(&[], &["=x"]).is_err());
    }
}
