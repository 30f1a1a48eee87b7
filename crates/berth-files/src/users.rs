//! Names of users and groups, as the container's own files have them.

use crate::{Found, Root, reopen};
use rustix::fs::FileType;
use std::io::Read;
use std::path::Path;

/// /etc/passwd and /etc/group of a container are read up to here.
const USERS_BYTES_MAX: u64 = 1 << 20;

/// A name that nobody has, in dockerd's words.
#[derive(Debug, thiserror::Error)]
#[error("unable to find {kind} {name}: no matching entries in {file} file")]
pub struct OwnerError {
    kind: &'static str,
    name: String,
    file: &'static str,
}

fn missing(kind: &'static str, name: &str, file: &'static str) -> OwnerError {
    OwnerError { kind, name: name.to_owned(), file }
}

/// With `cp -a` entries belong to the container's user, where it has one (Docker's `CopyUIDGID`).
pub fn owner(root: &Root, user: &str) -> Result<Option<(u32, u32)>, OwnerError> {
    if user.is_empty() {
        return Ok(None);
    }
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let passwd = table(root, "/etc/passwd");
    let entry = passwd.iter().find(|line| match name.parse::<u32>() {
        Ok(_) => line.get(2).is_some_and(|uid| uid == name),
        Err(_) => line.first().is_some_and(|first| first == name),
    });
    let number = |line: Option<&Vec<String>>, field: usize| line?.get(field)?.parse::<u32>().ok();
    let (mut uid, mut gid) = (0, 0);
    if !name.is_empty() {
        let known = number(entry, 2).or_else(|| name.parse().ok());
        uid = known.ok_or_else(|| missing("user", name, "passwd"))?;
        gid = number(entry, 3).unwrap_or(0);
    }
    if !group.is_empty() {
        let groups = table(root, "/etc/group");
        let known = group
            .parse()
            .ok()
            .or_else(|| number(groups.iter().find(|line| line.first().is_some_and(|first| first == group)), 2));
        gid = known.ok_or_else(|| missing("group", group, "group"))?;
    }
    Ok(Some((uid, gid)))
}

fn is_file(found: &Found) -> bool {
    found.kind() == FileType::RegularFile
}

/// Lines of a colon separated file inside, read by ourselves: no name service is asked (CVE-2019-14271).
fn table(root: &Root, path: &str) -> Vec<Vec<String>> {
    let Some(found) = root.find(Path::new(path)).ok().filter(is_file) else { return Vec::new() };
    let Ok(file) = reopen(&found) else { return Vec::new() };
    let mut bytes = Vec::new();
    if std::fs::File::from(file).take(USERS_BYTES_MAX).read_to_end(&mut bytes).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_types::mount::Rootfs;

    #[test]
    fn users_are_looked_up_inside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "root:x:0:0::/:\nweb:x:33:34::/:\n").unwrap();
        std::fs::write(folder.path().join("etc/group"), "staff:x:50:\n").unwrap();
        let root = Root::stopped(&Rootfs::Directory { path: folder.path().to_owned() }, &[], false).unwrap();
        assert_eq!(owner(&root, "").unwrap(), None);
        assert_eq!(owner(&root, "web").unwrap(), Some((33, 34)));
        assert_eq!(owner(&root, "33").unwrap(), Some((33, 34)));
        assert_eq!(owner(&root, "1234").unwrap(), Some((1234, 0)));
        assert_eq!(owner(&root, "web:staff").unwrap(), Some((33, 50)));
        assert_eq!(owner(&root, ":7").unwrap(), Some((0, 7)));
        assert!(owner(&root, "nobody").is_err() && owner(&root, "web:nope").is_err());
    }
}
