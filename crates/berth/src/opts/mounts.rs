//! `-v`, `--mount` and `--tmpfs`.

use super::csv;
use crate::units::parse_bytes;
use serde_json::{Map, Value as Json, json};
use std::path::Path;

/// `-v`: an anonymous volume's path, or a bind as the API spells it.
#[derive(Debug, PartialEq)]
pub(crate) enum Volume {
    Anonymous(String),
    Bind(String),
}

pub(crate) fn volume(spec: &str, here: &Path) -> Result<Volume, String> {
    if spec.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    if spec.len() <= 2 {
        return Ok(Volume::Anonymous(spec.to_owned()));
    }
    let parts = parts(spec);
    if parts.iter().any(String::is_empty) {
        return Err(format!("invalid spec: {spec}: empty section between colons"));
    }
    if parts.len() == 1 {
        return Ok(Volume::Anonymous(spec.to_owned()));
    }
    if parts.len() > 3 {
        return Err(format!("invalid spec: {spec}: too many colons"));
    }
    // A relative host path is relative to whoever typed it.
    Ok(Volume::Bind(match spec.split_once(':') {
        Some((source, rest)) if source.starts_with('.') => format!("{}:{rest}", absolute(source, here)),
        _ => spec.to_owned(),
    }))
}

/// The parts between colons; a single letter keeps its colon (`C:`), in Docker's client on every system.
fn parts(spec: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in spec.chars() {
        let part = parts.last_mut().expect("starts with one");
        let drive = part.len() == 1 && part.starts_with(|c: char| c.is_ascii_alphabetic());
        if c == ':' && !drive { parts.push(String::new()) } else { part.push(c) }
    }
    parts
}

/// Makes a path absolute and tidy without asking the file system, as Go's `filepath.Abs` does.
pub(crate) fn absolute(path: &str, here: &Path) -> String {
    let mut out = std::path::PathBuf::new();
    for part in here.join(path).components() {
        match part {
            std::path::Component::ParentDir => drop(out.pop()),
            std::path::Component::CurDir => {}
            part => out.push(part),
        }
    }
    out.to_string_lossy().into_owned()
}

/// `--mount type=bind,source=/a,target=/b,readonly`.
pub(crate) fn mount(spec: &str, here: &Path) -> Result<Json, String> {
    let mut mount = Map::new();
    let mut kind = "volume".to_owned();
    let (mut bind, mut volume, mut tmpfs, mut image) = (Map::new(), Map::new(), Map::new(), Map::new());
    let mut file = Map::new();
    let (mut source, mut target) = (String::new(), String::new());
    let (mut labels, mut driver, mut driver_options) = (Map::new(), String::new(), Map::new());
    for field in csv(spec)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let flag = || match value {
            None | Some("1" | "true" | "TRUE" | "True" | "t") => Ok(true),
            Some("0" | "false" | "FALSE" | "False" | "f") => Ok(false),
            Some(other) => Err(format!("invalid value for {key}: {other}")),
        };
        match (key.as_str(), value) {
            ("readonly" | "ro", _) => drop(mount.insert("ReadOnly".into(), json!(flag()?))),
            ("volume-nocopy", _) => drop(volume.insert("NoCopy".into(), json!(flag()?))),
            ("bind-nonrecursive", _) => drop(bind.insert("NonRecursive".into(), json!(flag()?))),
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
            ("type", Some(v)) => kind = v.to_ascii_lowercase(),
            ("source" | "src", Some(v)) => v.clone_into(&mut source),
            ("target" | "dst" | "destination", Some(v)) => v.clone_into(&mut target),
            ("consistency", Some(v)) => drop(mount.insert("Consistency".into(), json!(v.to_ascii_lowercase()))),
            ("bind-propagation", Some(v)) => drop(bind.insert("Propagation".into(), json!(v.to_ascii_lowercase()))),
            ("bind-create-src" | "bind-create-mountpoint", _) => {
                drop(bind.insert("CreateMountpoint".into(), json!(flag()?)))
            }
            ("bind-recursive", Some(v)) => match v {
                "enabled" => {}
                "disabled" => drop(bind.insert("NonRecursive".into(), json!(true))),
                "writable" => drop(bind.insert("ReadOnlyNonRecursive".into(), json!(true))),
                "readonly" => drop(bind.insert("ReadOnlyForceRecursive".into(), json!(true))),
                v => {
                    return Err(format!(
                        "invalid value for {key}: {v} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    ));
                }
            },
            ("volume-subpath", Some(v)) => drop(volume.insert("Subpath".into(), json!(v))),
            ("image-subpath", Some(v)) => drop(image.insert("Subpath".into(), json!(v))),
            ("volume-label", Some(v)) => {
                let (k, v) = super::key_value(v);
                labels.insert(k, json!(v));
            }
            ("volume-driver", Some(v)) => v.clone_into(&mut driver),
            ("volume-opt", Some(v)) => {
                let (k, v) = super::key_value(v);
                driver_options.insert(k, json!(v));
            }
            ("tmpfs-size", Some(v)) => {
                let bytes = parse_bytes(v).map_err(|_| format!("invalid value for {key}: {v}"))?;
                tmpfs.insert("SizeBytes".into(), json!(bytes));
            }
            ("tmpfs-mode", Some(v)) => {
                let mode = u32::from_str_radix(v, 8).map_err(|_| format!("invalid value for {key}: {v}"))?;
                tmpfs.insert("Mode".into(), json!(mode));
            }
            ("uid" | "gid", Some(v)) => {
                let id: u32 = v.parse().map_err(|_| format!("invalid value for {key}: {v}"))?;
                file.insert(key.to_ascii_uppercase(), json!(id));
            }
            ("mode", Some(v)) => {
                let mode = u32::from_str_radix(v, 8).map_err(|_| format!("invalid value for {key}: {v}"))?;
                file.insert("Mode".into(), json!(mode));
            }
            ("tmpfs-options", Some(_)) | (_, Some(_)) => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    let is_file = matches!(kind.as_str(), "secret" | "config");
    if target.is_empty() && !is_file {
        return Err("target is required".to_owned());
    }
    if !file.is_empty() && !is_file {
        return Err(format!("cannot mix 'uid', 'gid' and 'mode' options with mount type '{kind}'"));
    }
    for (options, name, wanted) in [
        (&bind, "bind-*", "bind"),
        (&volume, "volume-*", "volume"),
        (&tmpfs, "tmpfs-*", "tmpfs"),
        (&image, "image-*", "image"),
    ] {
        if !options.is_empty() && kind != wanted {
            return Err(format!("cannot mix '{name}' options with mount type '{kind}'"));
        }
    }
    if kind == "bind" && source.starts_with('.') {
        source = absolute(&source, here);
    }
    if !labels.is_empty() {
        volume.insert("Labels".into(), Json::Object(labels));
    }
    if !driver.is_empty() || !driver_options.is_empty() {
        let mut config = Map::new();
        if !driver.is_empty() {
            config.insert("Name".into(), json!(driver));
        }
        if !driver_options.is_empty() {
            config.insert("Options".into(), Json::Object(driver_options));
        }
        volume.insert("DriverConfig".into(), Json::Object(config));
    }
    mount.insert("Type".into(), json!(kind));
    mount.insert("Target".into(), json!(target));
    if !source.is_empty() {
        mount.insert("Source".into(), json!(source));
    }
    let options = [
        ("BindOptions", bind),
        ("VolumeOptions", volume),
        ("TmpfsOptions", tmpfs),
        ("ImageOptions", image),
        ("FileOptions", file),
    ];
    for (name, options) in options {
        if !options.is_empty() {
            mount.insert(name.into(), Json::Object(options));
        }
    }
    Ok(Json::Object(mount))
}

/// `--tmpfs /run:rw,size=64m`.
pub(crate) fn tmpfs(spec: &str) -> (String, String) {
    let (path, options) = spec.split_once(':').unwrap_or((spec, ""));
    (path.to_owned(), options.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> &'static Path {
        Path::new("/home/me")
    }

    #[test]
    fn volumes_are_anonymous_named_or_paths() {
        assert_eq!(volume("/data", here()), Ok(Volume::Anonymous("/data".into())));
        assert_eq!(volume("db:/data:ro", here()), Ok(Volume::Bind("db:/data:ro".into())));
        assert_eq!(volume("./src:/src", here()), Ok(Volume::Bind("/home/me/src:/src".into())));
        assert_eq!(volume("../x:/src:z", here()), Ok(Volume::Bind("/home/x:/src:z".into())));
        assert_eq!(volume(".:/src", here()), Ok(Volume::Bind("/home/me:/src".into())));
        assert!(volume(":/x", here()).is_err());
        assert!(volume("abc:", here()).is_err());
        assert!(volume("ab:/c:ro:x", here()).is_err());
    }

    #[test]
    fn mounts_are_read_with_their_options() {
        for (spec, expected) in [
            ("type=bind,src=/a,dst=/b,ro", r#"{"ReadOnly":true,"Source":"/a","Target":"/b","Type":"bind"}"#),
            ("target=/b", r#"{"Target":"/b","Type":"volume"}"#),
            ("type=secret,src=db", r#"{"Source":"db","Target":"","Type":"secret"}"#),
            (
                "type=config,src=c,dst=/etc/c,uid=7,gid=8,mode=440",
                r#"{"FileOptions":{"GID":8,"Mode":288,"UID":7},"Source":"c","Target":"/etc/c","Type":"config"}"#,
            ),
            (
                "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
                r#"{"Target":"/t","TmpfsOptions":{"Mode":1016,"SizeBytes":1048576},"Type":"tmpfs"}"#,
            ),
            (
                "type=bind,src=./a,target=/b,bind-propagation=rslave,bind-recursive=disabled",
                r#"{"BindOptions":{"NonRecursive":true,"Propagation":"rslave"},"Source":"/home/me/a","Target":"/b","Type":"bind"}"#,
            ),
            (
                r#"type=volume,src=v,dst=/v,volume-nocopy,"volume-opt=o=a,b",volume-driver=local"#,
                r#"{"Source":"v","Target":"/v","Type":"volume","VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"o":"a,b"}},"NoCopy":true}}"#,
            ),
        ] {
            let expected: Json = serde_json::from_str(expected).unwrap();
            assert_eq!(mount(spec, here()).unwrap(), expected, "{spec}");
        }
        for bad in ["type=bind,src=/a", "type=tmpfs,dst=/a,volume-nocopy", "dst=/a,nope=1", "dst", "dst=/a,ro=maybe"] {
            assert!(mount(bad, here()).is_err(), "{bad}");
        }
    }
}
