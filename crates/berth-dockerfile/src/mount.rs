//! `RUN --mount=type=cache,target=/x,...`

use crate::Expander;
use crate::suggest;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountType {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl MountType {
    pub fn as_str(self) -> &'static str {
        match self {
            MountType::Bind => "bind",
            MountType::Cache => "cache",
            MountType::Tmpfs => "tmpfs",
            MountType::Secret => "secret",
            MountType::Ssh => "ssh",
        }
    }
}

const TYPES: [MountType; 5] = [MountType::Bind, MountType::Cache, MountType::Tmpfs, MountType::Secret, MountType::Ssh];

/// Who may have a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Any number of steps.
    #[default]
    Shared,
    /// Each its own while they overlap.
    Private,
    /// One after the other.
    Locked,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    pub kind: MountType,
    pub from: String,
    pub source: String,
    pub target: String,
    pub read_only: bool,
    /// Of a tmpfs; 0 for no limit of its own.
    pub size_bytes: u64,
    pub id: String,
    pub sharing: Option<Sharing>,
    pub required: bool,
    /// A secret's environment variable.
    pub env: Option<String>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Without an expander only what cannot depend on variables is checked.
pub(crate) fn parse(text: &str, mut expander: Option<Expander<'_>>) -> Result<Mount, String> {
    let mut mount = Mount::default();
    let mut read_only: Option<bool> = None;
    let fields = csv(text).map_err(|cause| format!("failed to parse csv mounts: {cause}"))?;
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let unexpected = |mount: &Mount| format!("unexpected key '{key}' for mount type '{}'", mount.kind.as_str());
        let has_required = |mount: &Mount| matches!(mount.kind, MountType::Secret | MountType::Ssh);
        let Some(value) = value else {
            if expander.is_none() {
                continue;
            }
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(true),
                "readwrite" | "rw" => read_only = Some(false),
                "required" if has_required(&mount) => mount.required = true,
                "required" => return Err(unexpected(&mount)),
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            continue;
        };
        let value = match &mut expander {
            Some(expander) => expander(value).map_err(|error| error.to_string())?,
            None if key == "from" => {
                if value.find('$').is_some_and(|at| at != value.len() - 1) {
                    return Err("'from' doesn't support variable expansion, define alias stage instead".to_owned());
                }
                value.to_owned()
            }
            None => continue,
        };
        let invalid = || format!("invalid value for {key}: {value}");
        match key.as_str() {
            "type" => {
                let lower = value.to_lowercase();
                mount.kind = *TYPES.iter().find(|kind| kind.as_str() == lower).ok_or_else(|| {
                    let message = format!("unsupported mount type {}", crate::quote(&lower));
                    suggest::with_suggestion(message, &value, TYPES.iter().map(|kind| kind.as_str()), true)
                })?;
            }
            "from" => mount.from = value,
            "source" | "src" => mount.source = value,
            "target" | "dst" | "destination" => mount.target = value,
            "readonly" | "ro" => read_only = Some(bool_of(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => read_only = Some(!bool_of(&value).ok_or_else(invalid)?),
            "required" if has_required(&mount) => mount.required = bool_of(&value).ok_or_else(invalid)?,
            "size" if mount.kind == MountType::Tmpfs => mount.size_bytes = size(&value).ok_or_else(invalid)?,
            "required" | "size" => return Err(unexpected(&mount)),
            "id" => mount.id = value,
            "sharing" => {
                mount.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => {
                        let message = format!("unsupported sharing value {}", crate::quote(other));
                        return Err(suggest::with_suggestion(message, &value, ["shared", "private", "locked"], true));
                    }
                });
            }
            "mode" => {
                let mode = u32::from_str_radix(&value, 8).map_err(|_| format!("invalid value {value} for mode"))?;
                mount.mode = Some(mode);
            }
            "uid" => mount.uid = Some(value.parse().map_err(|_| format!("invalid value {value} for uid"))?),
            "gid" => mount.gid = Some(value.parse().map_err(|_| format!("invalid value {value} for gid"))?),
            "env" => mount.env = Some(value),
            _ => {
                let known = [
                    "type",
                    "from",
                    "source",
                    "target",
                    "readonly",
                    "id",
                    "sharing",
                    "required",
                    "size",
                    "mode",
                    "uid",
                    "gid",
                    "src",
                    "dst",
                    "destination",
                    "ro",
                    "rw",
                    "readwrite",
                    "env",
                ];
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(suggest::with_suggestion(message, &key, known, true));
            }
        }
    }
    check(&mount)?;
    mount.read_only = read_only.unwrap_or(!matches!(mount.kind, MountType::Cache | MountType::Tmpfs));
    Ok(mount)
}

fn check(mount: &Mount) -> Result<(), String> {
    let has_owner = matches!(mount.kind, MountType::Secret | MountType::Ssh | MountType::Cache);
    let owner = [("mode", mount.mode.is_some()), ("uid", mount.uid.is_some()), ("gid", mount.gid.is_some())];
    for (what, given) in owner {
        if given && !has_owner {
            return Err(format!("{what} not allowed for {} type mounts", crate::quote(mount.kind.as_str())));
        }
    }
    if mount.kind == MountType::Secret {
        if !mount.from.is_empty() {
            return Err("secret mount should not have a from".to_owned());
        }
        if mount.sharing.is_some() {
            return Err("secret mount should not define sharing".to_owned());
        }
        if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
            return Err("invalid secret mount. one of source, target required".to_owned());
        }
        if !mount.source.is_empty() && !mount.id.is_empty() {
            return Err("both source and id can't be set".to_owned());
        }
    }
    if mount.sharing.is_some() && mount.kind != MountType::Cache {
        return Err(format!("invalid cache sharing set for {} mount", mount.kind.as_str()));
    }
    Ok(())
}

/// One CSV record: `a,"b,c",d`.
fn csv(text: &str) -> Result<Vec<String>, &'static str> {
    let (mut fields, mut rest) = (Vec::new(), text);
    loop {
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("bare \" in non-quoted-field");
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let at = quoted.find('"').ok_or("extraneous or missing \" in quoted-field")?;
            field.push_str(&quoted[..at]);
            quoted = &quoted[at + 1..];
            match quoted.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    quoted = after;
                }
                None => break,
            }
        }
        fields.push(field);
        match quoted.strip_prefix(',') {
            Some(after) => rest = after,
            None if quoted.is_empty() => return Ok(fields),
            None => return Err("extraneous or missing \" in quoted-field"),
        }
    }
}

/// Go's `ParseBool`.
pub(crate) fn bool_of(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `64m`, `1.5 GiB`, `100`: binary units, as docker/go-units reads memory sizes.
fn size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim_start().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    Some((number * 1024_f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mount, String> {
        parse(text, Some(&mut |word: &str| Ok(word.to_owned())))
    }

    #[test]
    fn each_kind_has_its_keys() {
        let cache = read("type=cache,target=/c,id=x,sharing=locked,uid=5,mode=0700").unwrap();
        assert_eq!((cache.kind, cache.sharing, cache.mode), (MountType::Cache, Some(Sharing::Locked), Some(0o700)));
        assert!(!cache.read_only && read("target=/x").unwrap().read_only);
        assert!(!read("target=/x,rw").unwrap().read_only);
        assert_eq!(read("type=tmpfs,size=64m,target=/t").unwrap().size_bytes, 64 << 20);
        assert!(read("type=secret,id=a,required").unwrap().required);
        assert_eq!(read("type=secret,id=a,\"target=/a,b\"").unwrap().target, "/a,b");
    }

    #[test]
    fn mistakes_are_named_in_buildkits_words() {
        for (text, message) in [
            ("type=cahce,target=/x", "unsupported mount type \"cahce\" (did you mean cache?)"),
            ("tpye=cache", "unexpected key 'tpye' in 'tpye=cache' (did you mean type?)"),
            ("type=bind,uid=1", "uid not allowed for \"bind\" type mounts"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,source=b", "both source and id can't be set"),
            ("type=bind,sharing=shared", "invalid cache sharing set for bind mount"),
            ("type=bind,required=true", "unexpected key 'required' for mount type 'bind'"),
            ("bind", "invalid field 'bind' must be a key=value pair"),
            ("type=cache,ro=maybe", "invalid value for ro: maybe"),
        ] {
            assert_eq!(read(text).unwrap_err(), message, "{text}");
        }
        let later = parse("from=$x", None).unwrap_err();
        assert_eq!(later, "'from' doesn't support variable expansion, define alias stage instead");
    }
}
