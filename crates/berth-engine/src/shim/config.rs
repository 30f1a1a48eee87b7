//! A container's configuration, as its shim reads it.
//!
//! ```text
//! <exec-root>/shims/<id>/config.json     without the profile of its filter
//! <exec-root>/shims/<id>/seccomp.json    the profile
//! <exec-root>/profiles/<digest>.json     the same file: a name in the folder of each container that has this profile
//! ```
//!
//! The execution root is memory, a page at least for each file, and the profile is more than half of a configuration:
//! nearly all containers have the same. What no container has any more is removed when another profile comes.

use crate::full;
use berth_types::digest::hex;
use berth_types::{ErrorKind, Result};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use sha2::{Digest as _, Sha256};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Two starts with a new profile may get in each other's way; nobody does so often.
const TRIES_MAX: u32 = 100;

/// Writes it into `folder`. Answers where the profile is, when it is apart. Blocks.
pub(crate) fn write_config(exec_root: &Path, folder: &Path, mut spec: Spec) -> Result<Option<PathBuf>> {
    let failed = |path: &Path, cause: io::Error| {
        full::or(ErrorKind::Internal, format!("cannot write {}", path.display()), &cause)
    };
    let profile = take_profile(&mut spec);
    let path = folder.join("config.json");
    let text = serde_json::to_vec(&spec).map_err(|cause| failed(&path, cause.into()))?;
    std::fs::write(&path, text).map_err(|cause| failed(&path, cause))?;
    let Some(profile) = profile else { return Ok(None) };
    let path = folder.join("seccomp.json");
    let text = serde_json::to_vec(&profile).map_err(|cause| failed(&path, cause.into()))?;
    share(&exec_root.join("profiles"), &text, &path).map_err(|cause| failed(&path, cause))?;
    Ok(Some(path))
}

/// One that asks somebody about calls says in the configuration whom.
fn take_profile(spec: &mut Spec) -> Option<LinuxSeccomp> {
    spec.linux_mut().as_mut()?.seccomp_mut().take_if(|profile| profile.listener_path().is_none())
}

/// Makes `path` a name of the file of `folder` that holds `text`.
fn share(folder: &Path, text: &[u8], path: &Path) -> io::Result<()> {
    let shared = folder.join(format!("{}.json", hex(&Sha256::digest(text))));
    for _ in 0..TRIES_MAX {
        // Read, not believed: a write may have been cut off.
        if std::fs::read(&shared).is_ok_and(|there| there == text) {
            match std::fs::hard_link(&shared, path) {
                // Collected just now.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::exists) => {}
                Err(cause) if is_no_place_for_links(&cause) => break,
                linked => return linked,
            }
        }
        std::fs::create_dir_all(folder)?;
        collect(folder);
        // Nobody else writes into this folder.
        std::fs::write(path, text)?;
        std::fs::rename(path, &shared)?;
    }
    std::fs::write(path, text)
}

/// A file system without links, or a file that has as many as it may.
fn is_no_place_for_links(cause: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = cause.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK))
}

/// Removes profiles that no container has.
pub(crate) fn collect_profiles(exec_root: &Path) {
    collect(&exec_root.join("profiles"));
}

fn collect(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.metadata().is_ok_and(|file| file.nlink() == 1)
            && let Err(error) = std::fs::remove_file(entry.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %entry.path().display(), %error, "a profile that no container has was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str) -> LinuxSeccomp {
        let rule = serde_json::json!({"names": [name], "action": "SCMP_ACT_ALLOW"});
        serde_json::from_value(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]})).unwrap()
    }

    fn config(root: &Path, id: &str, profile: Option<LinuxSeccomp>) -> (PathBuf, Option<PathBuf>) {
        let folder = root.join("shims").join(id);
        std::fs::create_dir_all(&folder).unwrap();
        let mut spec = Spec::default();
        spec.linux_mut().as_mut().unwrap().set_seccomp(profile);
        let apart = write_config(root, &folder, spec).unwrap();
        (folder, apart)
    }

    fn profiles(root: &Path) -> usize {
        std::fs::read_dir(root.join("profiles")).map_or(0, Iterator::count)
    }

    #[test]
    fn containers_with_the_same_profile_have_one_file() {
        let root = tempfile::tempdir().unwrap();
        let (folder, one) = config(root.path(), "one", Some(profile("read")));
        let (_, two) = config(root.path(), "two", Some(profile("read")));
        let (one, two) = (one.unwrap(), two.unwrap());
        let file = |path: &Path| std::fs::metadata(path).unwrap();
        assert_eq!((file(&one).ino(), file(&one).nlink()), (file(&two).ino(), 3));
        assert_eq!(std::fs::read(&one).unwrap(), serde_json::to_vec(&profile("read")).unwrap());
        let spec: Spec = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        assert!(spec.linux().as_ref().unwrap().seccomp().is_none());
    }

    #[test]
    fn a_profile_goes_after_its_last_container() {
        let root = tempfile::tempdir().unwrap();
        let (gone, _) = config(root.path(), "gone", Some(profile("read")));
        let (_, kept) = config(root.path(), "kept", Some(profile("write")));
        assert_eq!(profiles(root.path()), 2);
        std::fs::remove_dir_all(gone).unwrap();
        let (_, new) = config(root.path(), "new", Some(profile("open")));
        assert_eq!(profiles(root.path()), 2);
        assert!(kept.unwrap().exists() && new.unwrap().exists());
    }

    #[test]
    fn a_profile_that_was_cut_off_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        config(root.path(), "one", Some(profile("read")));
        let shared = std::fs::read_dir(root.path().join("profiles")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&shared, "{").unwrap();
        let (_, two) = config(root.path(), "two", Some(profile("read")));
        assert_eq!(std::fs::read(two.unwrap()).unwrap(), serde_json::to_vec(&profile("read")).unwrap());
    }

    #[test]
    fn a_profile_that_asks_somebody_stays_in_the_configuration() {
        let root = tempfile::tempdir().unwrap();
        let mut asking = profile("read");
        asking.set_listener_path(Some("/run/agent.sock".into()));
        let (folder, apart) = config(root.path(), "one", Some(asking));
        assert!(apart.is_none() && !folder.join("seccomp.json").exists());
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        assert!(text.contains("/run/agent.sock"), "{text}");
        assert!(config(root.path(), "none", None).1.is_none());
    }

    #[test]
    fn many_at_once_with_new_profiles_all_get_theirs() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let root = root.path();
                scope.spawn(move || {
                    for turn in 0..20 {
                        let own = profile(["read", "write", "open"][(number + turn) % 3]);
                        let (folder, apart) = config(root, &format!("{number}-{turn}"), Some(own.clone()));
                        assert_eq!(std::fs::read(apart.unwrap()).unwrap(), serde_json::to_vec(&own).unwrap());
                        std::fs::remove_dir_all(folder).unwrap();
                    }
                });
            }
        });
    }
}
