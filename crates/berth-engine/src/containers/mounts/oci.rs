//! Planned mounts in OCI's words, at each start.

use super::{clean, owners};
use crate::containers::{FileSystem, MountPoint};
use crate::oci::HostFacts;
use berth_types::mount::Lower;
use berth_types::spec::{ContainerSpec, MountKind};
use berth_types::{Error, ErrorKind, Result};
use oci_spec::runtime::Mount;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::path::{Path, PathBuf};

/// The caller's mounts, and what they need of the root's propagation.
#[derive(Debug, Default)]
pub(crate) struct OciMounts {
    pub mounts: Vec<Mount>,
    pub root_propagation: Option<&'static str>,
}

/// Makes missing sources where that was asked for.
pub(crate) fn oci_mounts(points: &[MountPoint], spec: &ContainerSpec, label: Option<&String>) -> Result<OciMounts> {
    let host = &spec.host;
    let mut all = OciMounts::default();
    for (target, options) in &host.tmpfs {
        all.mounts.push(mount(&clean(target), "tmpfs", Path::new("tmpfs"), tmpfs_options(options)?));
    }
    for point in points {
        // A tmpfs of the caller's covers what an image or another container has there.
        if host.tmpfs.keys().any(|target| clean(target) == point.target) {
            continue;
        }
        let mut mount = match point.kind {
            MountKind::Tmpfs => {
                mount(&point.target, "tmpfs", Path::new("tmpfs"), tmpfs_options(&point.detail.tmpfs_options)?)
            }
            MountKind::Image => image(point)?,
            MountKind::Secret | MountKind::Config => in_memory(point)?,
            MountKind::Volume => volume(point)?,
            MountKind::Bind => {
                ensure_source(point)?;
                let (source, options) = (point.source.clone(), bind_options(point));
                mount(&point.target, "bind", &source, options)
            }
        };
        if matches!(point.kind, MountKind::Bind | MountKind::Volume) {
            relabel(point, label)?;
            propagate(point, &mut all.root_propagation)?;
        }
        if let (Some(owners), Some(source)) = (&point.detail.owners, mount.source().clone()) {
            let (uids, gids) = owners::maps(owners, &source, &spec.config.user)?;
            mount.set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
        }
        all.mounts.push(mount);
    }
    Ok(all)
}

fn mount(target: &str, typ: &str, source: &Path, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

fn bind_options(point: &MountPoint) -> Vec<String> {
    let mut options = vec![if point.detail.non_recursive { "bind" } else { "rbind" }.to_owned()];
    if !point.read_write {
        // Without `rro` a mount below the source would stay writable.
        options.push(if point.detail.read_only_non_recursive { "ro" } else { "rro" }.to_owned());
    }
    options.push(if point.propagation.is_empty() { "rprivate" } else { &point.propagation }.to_owned());
    options
}

/// The source of a bind must be there; `-v` makes a folder where it is not.
fn ensure_source(point: &MountPoint) -> Result<()> {
    if std::fs::symlink_metadata(&point.source).is_ok() && point.source.exists() {
        return Ok(());
    }
    if !point.detail.create_source {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            point.source.display()
        )));
    }
    std::fs::create_dir_all(&point.source).map_err(|cause| {
        let what = format!("error while creating mount source path '{}'", point.source.display());
        Error::because(ErrorKind::Internal, what, &cause)
    })
}

fn volume(point: &MountPoint) -> Result<Mount> {
    if let Some(fs) = &point.detail.file_system {
        return file_system(point, fs);
    }
    let mut options = bind_options(point);
    let source = contained(&point.source, &point.detail.subpath, &mut options)?;
    Ok(mount(&point.target, "bind", &source, options))
}

/// A volume of the local driver's options: mounted in the container, so that nothing stays behind.
fn file_system(point: &MountPoint, fs: &FileSystem) -> Result<Mount> {
    let mut options = fs.options.clone();
    let bind = options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    if !point.read_write && !options.iter().any(|option| option == "ro") {
        options.push("ro".to_owned());
    }
    if bind {
        if !Path::new(&fs.device).exists() {
            let what = format!("failed to mount local volume: mount {}:{}", fs.device, point.source.display());
            return Err(Error::invalid("no such file or directory").context(what));
        }
        return Ok(mount(&point.target, "bind", Path::new(&fs.device), options));
    }
    Ok(mount(&point.target, &fs.kind, Path::new(&fs.device), options))
}

/// `subpath` within `folder`. A process with the volume in its hands may swap a link in at any time: what is
/// there now is looked at for the sake of a clear error, and the runtime is told to stay beneath the folder.
fn contained(folder: &Path, subpath: &str, options: &mut Vec<String>) -> Result<PathBuf> {
    if subpath.is_empty() {
        return Ok(folder.to_owned());
    }
    let fail = |errno: rustix::io::Errno| {
        let what = format!("cannot access path {}", folder.join(subpath).display());
        let kind = if errno == rustix::io::Errno::NOENT { ErrorKind::NotFound } else { ErrorKind::InvalidArgument };
        Error::because(kind, what, &std::io::Error::from(errno))
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags | OFlags::DIRECTORY, Mode::empty()).map_err(fail)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(&opened, subpath, flags, Mode::empty(), resolve).map_err(fail)?;
    options.push(format!("berth.beneath={}", folder.display()));
    Ok(folder.join(subpath))
}

/// A copy of the file that only this container has (`berth.memory` of the runtime).
fn in_memory(point: &MountPoint) -> Result<Mount> {
    if !point.source.exists() {
        let kind = point.kind.as_str();
        return Err(Error::not_found(format!("{kind} {} is not there any more", point.name)));
    }
    let file = point.detail.file.clone().unwrap_or_default();
    let mut options: Vec<String> = ["bind", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned).into();
    options.push(format!("berth.memory={}:{}:{:o}", file.uid, file.gid, file.mode));
    Ok(mount(&point.target, "bind", &point.source, options))
}

fn image(point: &MountPoint) -> Result<Mount> {
    match &point.detail.layers[..] {
        [] => Err(Error::internal(format!("image mount {} has no layers", point.target))),
        [Lower::Folder(only)] => {
            let mut options = bind_options(point);
            let source = contained(only, &point.detail.subpath, &mut options)?;
            Ok(mount(&point.target, "bind", &source, options))
        }
        layers => {
            let mut options = vec!["ro".to_owned()];
            if !point.detail.subpath.is_empty() {
                options.push(format!("berth.subpath={}", point.detail.subpath));
            }
            if let [only] = layers {
                return Ok(mount(&point.target, "erofs", only.path(), options));
            }
            // One word each: a list of all would pass what a mount option may be long.
            options.extend(layers.iter().map(|layer| format!("lowerdir+={}", layer.path().display())));
            Ok(mount(&point.target, "overlay", Path::new("overlay"), options))
        }
    }
}

/// Docker's defaults for a tmpfs and the caller's words over them; of two that contradict, the later wins.
pub(super) fn tmpfs_options(text: &str) -> Result<Vec<String>> {
    const VALUES: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];
    // Each group: the words that contradict one another.
    const FLAGS: [&[&str]; 9] = [
        &["ro", "rw"],
        &["exec", "noexec"],
        &["suid", "nosuid"],
        &["dev", "nodev"],
        &["sync", "async"],
        &["atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime"],
        &["diratime", "nodiratime"],
        &["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"],
        &["defaults", "mand", "nomand", "dirsync", "noswap"],
    ];
    let mut all: Vec<String> = ["noexec", "nosuid", "nodev", "rprivate"].map(str::to_owned).to_vec();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let key = word.split('=').next().unwrap_or_default();
        if word.contains('=') {
            if !VALUES.contains(&key) {
                return Err(Error::invalid(format!("invalid tmpfs option [\"{word}\"]")));
            }
            all.retain(|have| have.split('=').next() != Some(key));
        } else {
            let Some(group) = FLAGS.iter().find(|group| group.contains(&word)) else {
                return Err(Error::invalid(format!("invalid tmpfs option [\"{word}\"]")));
            };
            all.retain(|have| !group.contains(&have.as_str()));
        }
        all.push(word.to_owned());
    }
    Ok(all)
}

/// Shared and slave mounts need a source that takes part, and a root that lets events through.
fn propagate(point: &MountPoint, root: &mut Option<&'static str>) -> Result<()> {
    let (wanted, tags): (&str, &[&str]) = match point.propagation.as_str() {
        "shared" | "rshared" => ("shared", &["shared:"]),
        "slave" | "rslave" => ("shared or slave", &["shared:", "master:"]),
        _ => return Ok(()),
    };
    let source = std::fs::canonicalize(&point.source).unwrap_or_else(|_| point.source.clone());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (mounted_on, fields) = mount_of(&table, &source).unwrap_or_default();
    if !tags.iter().any(|tag| fields.iter().any(|field| field.starts_with(tag))) {
        return Err(Error::invalid(format!(
            "path {} is mounted on {} but it is not a {wanted} mount",
            point.source.display(),
            mounted_on.display()
        )));
    }
    if wanted == "shared" {
        *root = Some("shared");
    } else {
        root.get_or_insert("rslave");
    }
    Ok(())
}

/// The mount that `path` is on (proc(5), mountinfo), with its optional fields.
fn mount_of(table: &str, path: &Path) -> Option<(PathBuf, Vec<String>)> {
    let mut best: Option<(PathBuf, Vec<String>)> = None;
    for line in table.lines() {
        let mut words = line.split(' ').skip(4);
        let target = PathBuf::from(words.next()?.replace("\\040", " "));
        let longer = best.as_ref().is_none_or(|(have, _)| target.as_os_str().len() >= have.as_os_str().len());
        if path.starts_with(&target) && longer {
            best = Some((target, words.skip(1).take_while(|word| *word != "-").map(str::to_owned).collect()));
        }
    }
    best
}

/// `z` and `Z`: the files get the container's label, without its categories where they are shared.
fn relabel(point: &MountPoint, label: Option<&String>) -> Result<()> {
    let (Some(kind), Some(label), true) = (point.detail.relabel, label, HostFacts::get().selinux) else {
        return Ok(());
    };
    // Relabelling these would lock everybody out.
    const NEVER: [&str; 13] =
        ["/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/sbin", "/sys", "/usr"];
    if NEVER.iter().any(|path| point.source == Path::new(path)) {
        return Err(Error::invalid(format!("SELinux relabeling of {} is not allowed", point.source.display())));
    }
    let label = match (kind, label.rsplit_once(":c")) {
        ('z', Some((shared, _))) => shared.to_owned(),
        _ => label.clone(),
    };
    relabel_tree(&point.source, &label, 0)
}

fn relabel_tree(path: &Path, label: &str, depth: usize) -> Result<()> {
    const DEPTH_MAX: usize = 256;
    match rustix::fs::lsetxattr(path, "security.selinux", label.as_bytes(), rustix::fs::XattrFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(errno) => {
            let what = format!("error setting label on mount source '{}'", path.display());
            return Err(Error::because(ErrorKind::Internal, what, &std::io::Error::from(errno)));
        }
    }
    if depth < DEPTH_MAX && std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            relabel_tree(&entry.path(), label, depth + 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_words_that_contradict_the_later_wins() {
        let options = tmpfs_options("exec,size=1m,size=2m,mode=700").unwrap();
        assert_eq!(options, ["nosuid", "nodev", "rprivate", "exec", "size=2m", "mode=700"]);
        assert!(tmpfs_options("size").is_err() && tmpfs_options("upperdir=/x").is_err());
    }

    #[test]
    fn a_path_is_on_its_longest_mount() {
        let table =
            "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n2 1 8:2 / /srv rw,nosuid master:3 - ext4 /dev/sdb rw\n";
        assert_eq!(mount_of(table, Path::new("/srv/x")).unwrap().1, ["master:3"]);
        assert_eq!(mount_of(table, Path::new("/srvx")).unwrap().1, ["shared:1"]);
    }

    #[test]
    fn a_subpath_that_leads_out_by_a_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../../..", folder.path().join("up")).unwrap();
        let mut options = Vec::new();
        contained(folder.path(), "in", &mut options).unwrap();
        for bad in ["out", "up", "missing", "out/passwd"] {
            assert!(contained(folder.path(), bad, &mut options).is_err(), "{bad}");
        }
        assert_eq!(options, [format!("berth.beneath={}", folder.path().display())]);
    }
}
