//! Who the program runs as: numbers, or names looked up inside the container's root.
//!
//! Called after pivot_root: the files read are the container's own, so they are bounded and never trusted
//! further than that. No library is asked (nsswitch plug-ins of the container's would be code: CVE-2019-14271).

use crate::error::{LaunchError, Step};
use oci_spec::runtime::User;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};
use std::io::Read as _;

/// Of /etc/passwd and /etc/group each.
const FILE_MAX: u64 = 4 << 20;
/// As many groups as the kernel takes (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// `user` as the configuration has it; `username` holds Docker's `user[:group]` and decides where it is set.
pub(crate) fn resolve(user: &User, more_groups: &[String]) -> Result<Identity, LaunchError> {
    let listed = user.additional_gids().clone().unwrap_or_default();
    resolve_in(user, listed, more_groups, &read("/etc/passwd"), &read("/etc/group"))
}

fn read(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else { return String::new() };
    let regular =
        rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let mut bytes = Vec::new();
    if !regular || std::fs::File::from(fd).take(FILE_MAX).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(text: &str) -> impl Iterator<Item = Account<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

/// Name, number, members.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some((name, fields.next()?.parse().ok()?, fields.next().unwrap_or("")))
    })
}

fn resolve_in(
    user: &User,
    mut listed: Vec<u32>,
    more_groups: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, LaunchError> {
    let home = |account: Option<&Account<'_>>| match account {
        Some(account) if !account.home.is_empty() => account.home.to_owned(),
        _ => "/".to_owned(),
    };
    let Some(words) = user.username() else {
        let account = accounts(passwd).find(|account| account.uid == user.uid());
        let home = home(account.as_ref());
        return Ok(Identity { uid: user.uid(), gid: user.gid(), groups: listed, home });
    };
    let (name, group_name) = match words.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (words.as_str(), None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok().filter(|&uid| uid <= i32::MAX as u32);
    // A name that looks like a number is a name first, as in chown(1).
    let account = accounts(passwd)
        .find(|account| account.name == name)
        .or_else(|| number.and_then(|number| accounts(passwd).find(|account| account.uid == number)));
    let uid = match (&account, number) {
        (Some(account), _) => account.uid,
        (None, Some(number)) => number,
        (None, None) => {
            return Err(LaunchError::configuration(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
    };
    let group_number = |wanted: &str| -> Result<u32, LaunchError> {
        let found = groups(group).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid);
        found.or_else(|| wanted.parse().ok().filter(|&gid| gid <= i32::MAX as u32)).ok_or_else(|| {
            LaunchError::configuration(format!("unable to find group {wanted}: no matching entries in group file"))
        })
    };
    let mut all = Vec::new();
    let gid = match group_name {
        Some(group_name) => group_number(group_name)?,
        None => {
            let own = account.as_ref().map_or("", |account| account.name);
            let member =
                |(_, _, members): &(&str, u32, &str)| !own.is_empty() && members.split(',').any(|m| m.trim() == own);
            all.extend(groups(group).filter(member).map(|(_, gid, _)| gid));
            account.as_ref().map_or(0, |account| account.gid)
        }
    };
    // The primary group is among the supplementary ones, so that giving it up gains nothing (CVE-2022-36109).
    all.insert(0, gid);
    all.append(&mut listed);
    for name in more_groups {
        all.push(group_number(name)?);
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    all.truncate(GROUPS_MAX);
    Ok(Identity { uid, gid, groups: all, home: home(account.as_ref()) })
}

impl Identity {
    /// Lets the program's user write to its own standard streams, which a pipe of ours would refuse.
    pub(crate) fn own_streams(&self) {
        if self.uid == 0 {
            return;
        }
        let null = rustix::fs::makedev(1, 3);
        let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        for stream in streams {
            let shared = rustix::fs::fstat(stream).map_or(true, |stat| stat.st_rdev == null);
            if !shared {
                // Some files cannot change hands (a socket, a read-only mount): the program has them open anyway.
                rustix::fs::fchown(stream, Some(Uid::from_raw(self.uid)), None).ok();
            }
        }
    }

    /// Groups, then group, then user; capabilities survive where the caller asked to keep them.
    pub(crate) fn assume(&self) -> Result<(), LaunchError> {
        let groups: Vec<Gid> = self.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
        let (gid, uid) = (Gid::from_raw(self.gid), Uid::from_raw(self.uid));
        match rustix::thread::set_thread_groups(&groups) {
            // A user namespace whose maker may not set groups (/proc/PID/setgroups says deny).
            Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
            set => set.step(|| "set supplementary groups".to_owned())?,
        }
        rustix::thread::set_thread_res_gid(gid, gid, gid).step(|| format!("change to group {}", self.gid))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).step(|| format!("change to user {}", self.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:www:/var/www:/bin/false\nbroken\n7:x:70:71::/seven:\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:web,other\naudio:x:29:root, web\n";

    fn of(words: &str) -> Result<Identity, String> {
        let mut user = User::default();
        user.set_username(Some(words.to_owned()));
        resolve_in(&user, Vec::new(), &[], PASSWD, GROUP).map_err(|error| error.text)
    }

    #[test]
    fn names_and_numbers_mean_what_they_mean_to_docker() {
        let all = |words| of(words).map(|id| (id.uid, id.gid, id.groups, id.home)).unwrap();
        assert_eq!(all(""), (0, 0, vec![0, 29], "/root".to_owned()));
        assert_eq!(all("web"), (33, 44, vec![44, 50, 29], "/var/www".to_owned()));
        assert_eq!(all("33"), (33, 44, vec![44, 50, 29], "/var/www".to_owned()));
        assert_eq!(all("web:staff"), (33, 50, vec![50], "/var/www".to_owned()));
        assert_eq!(all("web:123"), (33, 123, vec![123], "/var/www".to_owned()));
        assert_eq!(all("4000"), (4000, 0, vec![0], "/".to_owned()));
        assert_eq!(all("7").0, 70, "a name that looks like a number");
        assert_eq!(of("ghost").unwrap_err(), "unable to find user ghost: no matching entries in passwd file");
        assert_eq!(of("web:ghosts").unwrap_err(), "unable to find group ghosts: no matching entries in group file");
        assert!(of("-1").is_err());
    }

    #[test]
    fn more_groups_are_added_once_each() {
        let mut user = User::default();
        user.set_username(Some("web".to_owned()));
        let id = resolve_in(&user, vec![29, 99], &["staff".to_owned(), "1234".to_owned()], PASSWD, GROUP).unwrap();
        assert_eq!(id.groups, [44, 50, 29, 99, 1234]);
    }
}
