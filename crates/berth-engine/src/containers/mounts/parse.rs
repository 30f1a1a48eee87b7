//! The three ways to write a mount: `-v source:target:options`, `--mount`, `--volumes-from`. Pure but for
//! looking whether a bind's source is there.

use super::owners::{self, Owners};
use super::{Parsed, blank};
use crate::volumes::VolumeCreate;
use berth_types::spec::{BindOptions, MountKind, MountSpec, TmpfsOptions};
use berth_types::{Error, Result};
use std::path::{Component, Path};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// The options after the second colon of `-v`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mode<'a> {
    read_only: bool,
    label: Option<char>,
    owners: Option<Owners>,
    propagation: Option<&'a str>,
    no_copy: bool,
    copy_said: bool,
}

/// `None` where a word is unknown, or said twice in one group.
fn mode(text: &str) -> Option<Mode<'_>> {
    let mut mode = Mode::default();
    if text.is_empty() {
        return Some(mode);
    }
    let (mut rights, mut consistency) = (false, false);
    for word in text.split(',') {
        let again = match word {
            "ro" | "rw" => {
                mode.read_only = word == "ro";
                std::mem::replace(&mut rights, true)
            }
            "z" | "Z" => mode.label.replace(if word == "z" { 'z' } else { 'Z' }).is_some(),
            "nocopy" => {
                mode.no_copy = true;
                std::mem::replace(&mut mode.copy_said, true)
            }
            "consistent" | "cached" | "delegated" => std::mem::replace(&mut consistency, true),
            word if word.starts_with("idmap") => mode.owners.replace(owners::parse(&word["idmap".len()..])?).is_some(),
            word if PROPAGATIONS.contains(&word) => mode.propagation.replace(word).is_some(),
            _ => return None,
        };
        if again {
            return None;
        }
    }
    Some(mode)
}

/// `source:target[:options]` of `-v`, or a target alone.
pub(super) fn bind(text: &str, driver: &str) -> Result<Parsed> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    let (source, target, options) = match parts[..] {
        [""] | ["", ..] => return Err(invalid()),
        [target] => ("", target, ""),
        [_, second] if !second.is_empty() && mode(second).is_some() => return Err(invalid()),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(invalid()),
    };
    let Some(mode) = mode(options) else { return Err(Error::invalid(format!("invalid mode: {options}"))) };
    let kind = if source.starts_with('/') { MountKind::Bind } else { MountKind::Volume };
    let spec = MountSpec {
        kind,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: mode.read_only,
        consistency: String::new(),
        bind: None,
        volume: None,
        tmpfs: None,
        image_subpath: String::new(),
        file: None,
    };
    let refuse = |why: String| Err(Error::invalid(why).context(format!("invalid volume specification: '{text}'")));
    if kind == MountKind::Volume && mode.propagation.is_some() {
        return refuse(format!("BindOptions must not be specified on mount type {:?}", spec.kind.as_str()));
    }
    if kind == MountKind::Bind && mode.copy_said {
        return refuse(format!("VolumeOptions must not be specified on mount type {:?}", spec.kind.as_str()));
    }
    let mut parsed =
        mount(&spec, false).map_err(|error| error.context(format!("invalid volume specification: '{text}'")))?;
    options.clone_into(&mut parsed.point.mode);
    parsed.point.detail.relabel = mode.label;
    parsed.point.detail.owners = mode.owners;
    match kind {
        MountKind::Bind => {
            mode.propagation.unwrap_or("rprivate").clone_into(&mut parsed.point.propagation);
            parsed.point.detail.create_source = true;
        }
        _ => {
            parsed.point.detail.copy_up = !mode.no_copy;
            driver.clone_into(&mut parsed.volume.driver);
        }
    }
    Ok(parsed)
}

/// One `--mount`. `look`: the source of a bind must be there.
pub(super) fn mount(spec: &MountSpec, look: bool) -> Result<Parsed> {
    check(spec, look)
        .map_err(|why| Error::invalid(format!("invalid mount config for type {:?}: {why}", spec.kind.as_str())))?;
    let mut point = blank(spec.kind, &spec.target);
    point.read_write = !spec.read_only;
    let mut parsed = match spec.kind {
        MountKind::Bind => {
            let default = BindOptions::default();
            let options = spec.bind.as_ref().unwrap_or(&default);
            point.source = crate::oci::clean(Path::new(&spec.source));
            let propagation = if options.propagation.is_empty() { "rprivate" } else { &options.propagation };
            propagation.clone_into(&mut point.propagation);
            point.detail.non_recursive = options.non_recursive;
            point.detail.read_only_non_recursive = options.read_only_non_recursive;
            point.detail.create_source = options.create_mountpoint;
            Parsed::of(point)
        }
        MountKind::Volume => {
            let options = spec.volume.clone().unwrap_or_default();
            point.anonymous = spec.source.is_empty();
            point.detail.copy_up = !options.no_copy;
            point.detail.subpath = options.subpath;
            let volume = VolumeCreate {
                name: spec.source.clone(),
                driver: options.driver,
                driver_options: options.driver_options,
                labels: options.labels,
                made_for: None,
            };
            Parsed { point, volume }
        }
        MountKind::Tmpfs => {
            point.detail.tmpfs_options = tmpfs_data(spec.tmpfs.as_ref(), spec.read_only).map_err(Error::invalid)?;
            Parsed::of(point)
        }
        MountKind::Secret | MountKind::Config => {
            point.name.clone_from(&spec.source);
            point.target = file_target(spec);
            point.read_write = false;
            point.detail.file = Some(spec.file.clone().unwrap_or_default());
            Parsed::of(point)
        }
        MountKind::Image => {
            point.source = spec.source.clone().into();
            point.read_write = false;
            point.detail.subpath.clone_from(&spec.image_subpath);
            Parsed::of(point)
        }
    };
    if spec.kind == MountKind::Bind {
        parsed.point.detail.copy_up = false;
    }
    Ok(parsed)
}

/// Where a secret or configuration is seen: as Swarm has it, below `/run/secrets` or `/` where the target is no path.
fn file_target(spec: &MountSpec) -> String {
    let name = if spec.target.is_empty() { &spec.source } else { &spec.target };
    let folder = if spec.kind == MountKind::Secret { "/run/secrets" } else { "/" };
    Path::new(folder).join(name).to_string_lossy().into_owned()
}

/// Refuses a `--mount` that cannot be.
pub(crate) fn check_mount(spec: &MountSpec) -> Result<()> {
    mount(spec, true).map(drop)
}

/// Refuses a `--tmpfs` target or options that cannot be.
pub(crate) fn check_tmpfs(target: &str, options: &str) -> Result<()> {
    target_ok(target).map_err(Error::invalid)?;
    super::oci::tmpfs_options(options).map(drop)
}

fn target_ok(target: &str) -> Result<(), String> {
    if crate::oci::clean(Path::new(target)) == Path::new("/") {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    if !target.starts_with('/') {
        return Err(format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    Ok(())
}

fn check(spec: &MountSpec, look: bool) -> Result<(), String> {
    let only = |set: bool, field: &str| if set { Err(format!("field {field} must not be specified")) } else { Ok(()) };
    only(spec.kind != MountKind::Bind && spec.bind.is_some(), "BindOptions")?;
    only(spec.kind != MountKind::Volume && spec.volume.is_some(), "VolumeOptions")?;
    only(spec.kind != MountKind::Image && !spec.image_subpath.is_empty(), "ImageOptions")?;
    only(spec.kind != MountKind::Tmpfs && spec.tmpfs.is_some(), "TmpfsOptions")?;
    let is_file = matches!(spec.kind, MountKind::Secret | MountKind::Config);
    only(!is_file && spec.file.is_some(), "FileOptions")?;
    if spec.target.is_empty() && !is_file {
        return Err("field Target must not be empty".to_owned());
    }
    let file_target = is_file.then(|| file_target(spec));
    target_ok(file_target.as_deref().unwrap_or(&spec.target))?;
    if !matches!(spec.consistency.as_str(), "" | "default" | "consistent" | "cached" | "delegated") {
        return Err(format!("invalid consistency: {}", spec.consistency));
    }
    let missing = || Err("field Source must not be empty".to_owned());
    match spec.kind {
        MountKind::Bind => {
            if spec.source.is_empty() {
                return missing();
            }
            let options = spec.bind.clone().unwrap_or_default();
            if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str()) {
                return Err(format!("invalid propagation mode: {}", options.propagation));
            }
            for (set, name) in [
                (options.read_only_non_recursive, "ReadOnlyNonRecursive"),
                (options.read_only_force_recursive, "ReadOnlyForceRecursive"),
            ] {
                if set && !spec.read_only {
                    return Err(format!("mount options conflict: !ReadOnly && BindOptions.{name}"));
                }
            }
            if options.read_only_non_recursive && options.read_only_force_recursive {
                return Err(
                    "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive".to_owned()
                );
            }
            if !spec.source.starts_with('/') {
                return Err(format!("invalid mount path: '{}' mount path must be absolute", spec.source));
            }
            if look && !options.create_mountpoint && !Path::new(&spec.source).exists() {
                return Err(format!("bind source path does not exist: {}", spec.source));
            }
        }
        MountKind::Volume => {
            let subpath = spec.volume.as_ref().map_or("", |options| options.subpath.as_str());
            if !subpath.is_empty() && spec.source.is_empty() {
                return Err("must not set Subpath when using anonymous volumes".to_owned());
            }
            local(subpath)?;
        }
        MountKind::Tmpfs => {
            only(!spec.source.is_empty(), "Source")?;
            tmpfs_data(spec.tmpfs.as_ref(), spec.read_only)?;
        }
        MountKind::Secret | MountKind::Config => {
            if spec.source.is_empty() {
                return missing();
            }
            if spec.file.as_ref().is_some_and(|file| file.mode > 0o7777) {
                return Err("a file's mode is at most 7777".to_owned());
            }
        }
        MountKind::Image => {
            if spec.source.is_empty() {
                return missing();
            }
            local(&spec.image_subpath)?;
        }
    }
    Ok(())
}

/// A path that stays below where it starts, by its words alone; links are dealt with when it is opened.
fn local(subpath: &str) -> Result<(), String> {
    let mut depth = 0_i32;
    for part in Path::new(subpath).components() {
        depth += match part {
            Component::Normal(_) => 1,
            Component::CurDir => 0,
            Component::ParentDir => -1,
            Component::RootDir | Component::Prefix(_) => i32::MIN / 2,
        };
        if depth < 0 {
            return Err("subpath must be a relative path within the volume".to_owned());
        }
    }
    Ok(())
}

/// Options of a tmpfs as `mount -o` has them.
fn tmpfs_data(options: Option<&TmpfsOptions>, read_only: bool) -> Result<String, String> {
    let mut words = Vec::new();
    if read_only {
        words.push("ro".to_owned());
    }
    if let Some(options) = options {
        if options.mode != 0 {
            words.push(format!("mode={:o}", options.mode));
        }
        if options.size_bytes < 0 {
            return Err(format!("invalid tmpfs size: {}", options.size_bytes));
        }
        if options.size_bytes > 0 {
            let units = [(1_i64 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"), (1, "")];
            let even = units.into_iter().find(|(unit, _)| options.size_bytes % unit == 0);
            let (unit, suffix) = even.unwrap_or((1, ""));
            words.push(format!("size={}{suffix}", options.size_bytes / unit));
        }
        for option in &options.options {
            match &option[..] {
                [key] | [key, _] if !matches!(key.as_str(), "exec" | "noexec") => {
                    return Err(format!("invalid option: {key}"));
                }
                [key] => words.push(key.clone()),
                [key, value] => words.push(format!("{key}={value}")),
                _ => return Err("invalid option array length".to_owned()),
            }
        }
    }
    Ok(words.join(","))
}

/// `name[:mode]`: the container, and whether its mounts stay writable.
pub(super) fn volumes_from(text: &str) -> Result<(&str, bool)> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(Error::invalid("volumes-from specification cannot be an empty string"));
    }
    match mode(options) {
        Some(Mode { read_only, propagation: None, copy_said: false, owners: None, .. }) => Ok((name, !read_only)),
        _ => Err(Error::invalid(format!("invalid mode: {options}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_types::spec::VolumeOptions;

    fn words(text: &str) -> String {
        bind(text, "").map(|_| String::new()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn a_path_is_a_bind_and_a_name_is_a_volume() {
        let of = |text: &str| bind(text, "").unwrap();
        let bound = of("/srv/../data/:/in:ro,Z,rslave").point;
        assert_eq!((bound.kind, bound.source.to_str(), bound.target.as_str()), (MountKind::Bind, Some("/data"), "/in"));
        assert!(!bound.read_write && bound.detail.create_source && bound.detail.relabel == Some('Z'));
        assert_eq!((bound.propagation.as_str(), bound.mode.as_str()), ("rslave", "ro,Z,rslave"));
        let named = of("data:/in:nocopy");
        assert_eq!((named.point.kind, named.volume.name.as_str()), (MountKind::Volume, "data"));
        assert!(!named.point.detail.copy_up && named.point.read_write);
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_dockers_words() {
        for bad in ["", ":/x", "/a:", "/a:ro", "a:b:c:d"] {
            assert!(words(bad).starts_with(&format!("invalid volume specification: '{bad}'")), "{bad}: {}", words(bad));
        }
        assert_eq!(words("/a:/b:rw,ro"), "invalid mode: rw,ro");
        assert_eq!(words("/a:/b:fast"), "invalid mode: fast");
        assert_eq!(
            words("/a:/"),
            "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'"
        );
        assert!(words("v:b").ends_with("invalid mount path: 'b' mount path must be absolute"));
        assert!(words("v:/b:rslave").contains("BindOptions") && words("/v:/b:nocopy").contains("VolumeOptions"));
    }

    #[test]
    fn a_subpath_stays_inside_of_its_volume() {
        let spec = |subpath: &str| MountSpec {
            kind: MountKind::Volume,
            source: "data".to_owned(),
            target: "/in".to_owned(),
            read_only: false,
            consistency: String::new(),
            bind: None,
            volume: Some(VolumeOptions { subpath: subpath.to_owned(), ..VolumeOptions::default() }),
            tmpfs: None,
            image_subpath: String::new(),
            file: None,
        };
        check_mount(&spec("a/../b")).unwrap();
        for bad in ["../a", "/a", "a/../../b"] {
            assert!(check_mount(&spec(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_from_takes_rights_only() {
        assert_eq!(volumes_from("db").unwrap(), ("db", true));
        assert_eq!(volumes_from("db:ro").unwrap(), ("db", false));
        for bad in ["", ":ro", "db:nocopy", "db:rslave", "db:x"] {
            assert!(volumes_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_source_is_an_error_for_mount_and_not_for_bind() {
        let spec = MountSpec {
            kind: MountKind::Bind,
            source: "/no/such/place".to_owned(),
            target: "/in".to_owned(),
            read_only: false,
            consistency: String::new(),
            bind: None,
            volume: None,
            tmpfs: None,
            image_subpath: String::new(),
            file: None,
        };
        assert_eq!(
            check_mount(&spec).unwrap_err().to_string(),
            "invalid mount config for type \"bind\": bind source path does not exist: /no/such/place"
        );
        bind("/no/such/place:/in", "").unwrap();
    }
}
