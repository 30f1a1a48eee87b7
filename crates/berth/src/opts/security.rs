//! `--security-opt`: files it names are read here, because the engine may be on another host.

use std::path::Path;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Security {
    pub(crate) options: Vec<String>,
    /// `systempaths=unconfined`: nothing is masked or read-only.
    pub(crate) paths_unconfined: bool,
}

/// A profile larger than this is no seccomp profile.
const PROFILE_BYTES_MAX: u64 = 4 << 20;

pub(crate) fn parse(given: &[&str]) -> Result<Security, String> {
    let mut out = Security::default();
    for option in given {
        let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some(pair) => pair,
            None if *option == "no-new-privileges" => (*option, ""),
            None => return Err(format!("Invalid --security-opt: {option:?}")),
        };
        match (key, value) {
            ("systempaths", "unconfined") => out.paths_unconfined = true,
            ("seccomp", profile) if !matches!(profile, "unconfined" | "builtin") => {
                out.options.push(format!("seccomp={}", read_profile(Path::new(profile))?));
            }
            ("no-new-privileges", "") => out.options.push("no-new-privileges".to_owned()),
            _ => out.options.push((*option).to_owned()),
        }
    }
    Ok(out)
}

fn read_profile(path: &Path) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("opening seccomp profile ({}) failed: {e}", path.display());
    let opened = |e: &std::io::Error| format!("open {}: {}", path.display(), crate::error::plain(e));
    let size = std::fs::metadata(path).map_err(|e| failed(&opened(&e)))?.len();
    if size > PROFILE_BYTES_MAX {
        return Err(failed(&"larger than 4 MiB"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(&e))?;
    let parsed = crate::value::Value::parse(text.as_bytes())
        .map_err(|e| format!("compacting json for seccomp profile ({}) failed: {e}", path.display()))?;
    Ok(parsed.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_sent_as_its_text() {
        let file = tempfile_in_target("{ \"defaultAction\" : \"SCMP_ACT_ALLOW\" }");
        let got = parse(&[
            &format!("seccomp={}", file.display()),
            "label:disable",
            "no-new-privileges",
            "systempaths=unconfined",
        ]);
        let got = got.unwrap();
        assert_eq!(
            got.options,
            ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}", "label:disable", "no-new-privileges"]
        );
        assert!(got.paths_unconfined);
        assert!(parse(&["seccomp=/none/such"]).is_err());
        assert!(parse(&["junk"]).is_err());
        assert_eq!(parse(&["seccomp=unconfined"]).unwrap().options, ["seccomp=unconfined"]);
    }

    fn tempfile_in_target(text: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("berth-seccomp-{}.json", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }
}
