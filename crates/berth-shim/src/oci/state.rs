//! A container as the command line remembers it between two commands.
//!
//! ```text
//! <root>/<id>/state.json    this record, written last: a folder without it is a create that never ended
//! <root>/<id>/config.json   the bundle's configuration as it was at create (for exec)
//! <root>/<id>/start.sock    the created container listens here for `start`; gone once started
//! <root>/seccomp/           compiled filters by the digest of their profile
//! ```
//!
//! The record holds what cannot be asked of the kernel; whether the container runs is asked each time: the
//! process with this pid *and* this start time, so a recycled pid is nobody's container.

use super::error::CliError;
use oci_spec::runtime::Hook;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Bumped when an older program could misread the record.
const VERSION: u32 = 1;
/// A record larger than this is not ours.
const RECORD_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) id: String,
    pub(crate) oci_version: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) owner: u32,
    pub(crate) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub(crate) pid_start_ticks: u64,
    pub(crate) created: String,
    /// Below each hierarchy's mount.
    pub(crate) cgroup: Option<String>,
    #[serde(default)]
    pub(crate) annotations: HashMap<String, String>,
    #[serde(default)]
    pub(crate) poststart: Vec<Hook>,
    #[serde(default)]
    pub(crate) poststop: Vec<Hook>,
}

/// What [`Record::new`] cannot find out by itself.
#[derive(Debug)]
pub(crate) struct About<'a> {
    pub(crate) id: &'a str,
    pub(crate) oci_version: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) rootfs: PathBuf,
    pub(crate) cgroup: Option<String>,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) poststart: Vec<Hook>,
    pub(crate) poststop: Vec<Hook>,
}

/// Where a container is in its life, as the OCI specification says it (`paused` is runc's word).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// A container's folder below `--root`.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

/// An id that is safe as a name of a folder.
pub(crate) fn check_id(id: &str) -> Result<(), CliError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(allowed) {
        return Err(CliError::BadId(id.to_owned()));
    }
    Ok(())
}

impl Folder {
    /// Makes the folder of a new container. Fails if there is one.
    pub(crate) fn create(root: &Path, id: &str) -> Result<Folder, CliError> {
        check_id(id)?;
        let path = root.join(id);
        let made = match rustix::fs::mkdir(&path, Mode::RWXU) {
            Err(rustix::io::Errno::NOENT) => {
                std::fs::create_dir_all(root).map_err(CliError::file("create the folder", root))?;
                rustix::fs::mkdir(&path, Mode::RWXU)
            }
            made => made,
        };
        match made {
            Ok(()) => Folder::open_path(path),
            Err(rustix::io::Errno::EXIST) => Err(CliError::Exists(id.to_owned())),
            Err(errno) => Err(CliError::File { step: "create the folder", path, source: errno.into() }),
        }
    }

    pub(crate) fn open(root: &Path, id: &str) -> Result<Folder, CliError> {
        check_id(id)?;
        match Folder::open_path(root.join(id)) {
            Err(CliError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(CliError::NotFound(id.to_owned()))
            }
            opened => opened,
        }
    }

    fn open_path(path: PathBuf) -> Result<Folder, CliError> {
        let folder = Folder { path };
        folder.directory().map(|_| folder)
    }

    /// Its descriptor, for a moment: a container's process must find no folder of the host open (CVE-2024-21626).
    pub(crate) fn directory(&self) -> Result<OwnedFd, CliError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|errno| CliError::File {
            step: "open the folder",
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    /// The record; `NotFound` also when the create that made the folder never ended.
    pub(crate) fn load(&self, id: &str) -> Result<Record, CliError> {
        let path = self.path.join("state.json");
        let bytes = match read_bounded(&path, RECORD_BYTES_MAX) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(CliError::NotFound(id.to_owned()));
            }
            read => read.map_err(CliError::file("read", &path))?,
        };
        let record: Record = serde_json::from_slice(&bytes).map_err(CliError::json(&path))?;
        if record.version != VERSION {
            return Err(CliError::Config(format!("{}: format {} is not ours", path.display(), record.version)));
        }
        Ok(record)
    }

    /// Writes the record whole or not at all. Not synced: like the process it describes, it does not outlive
    /// the kernel.
    pub(crate) fn save(&self, record: &Record) -> Result<(), CliError> {
        let (new, path) = (self.path.join("state.json.new"), self.path.join("state.json"));
        let bytes = serde_json::to_vec(record).map_err(CliError::json(&path))?;
        std::fs::write(&new, bytes).map_err(CliError::file("write", &new))?;
        std::fs::rename(&new, &path).map_err(CliError::file("write", &path))
    }

    /// Whether the container still waits for `start`.
    pub(crate) fn waits_for_start(&self) -> bool {
        std::fs::symlink_metadata(self.path.join("start.sock")).is_ok()
    }

    pub(crate) fn remove(&self) -> Result<(), CliError> {
        let folder = match self.directory() {
            Err(CliError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        for name in ["start.sock", "state.json", "config.json", "state.json.new"] {
            match rustix::fs::unlinkat(&folder, name, rustix::fs::AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => {
                    return Err(CliError::File { step: "remove", path: self.path.join(name), source: errno.into() });
                }
            }
        }
        match std::fs::remove_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(CliError::file("remove", &self.path)),
        }
    }
}

impl Record {
    pub(crate) fn new(about: About<'_>, pid: i32) -> Record {
        Record {
            version: VERSION,
            id: about.id.to_owned(),
            oci_version: about.oci_version.to_owned(),
            bundle: about.bundle.to_owned(),
            rootfs: about.rootfs,
            owner: rustix::process::getuid().as_raw(),
            pid,
            pid_start_ticks: process_stat(pid).map_or(0, |stat| stat.start_ticks),
            created: super::log::rfc3339(std::time::SystemTime::now()),
            cgroup: about.cgroup,
            annotations: about.annotations,
            poststart: about.poststart,
            poststop: about.poststop,
        }
    }

    /// Whether the container's first process is still there and no zombie.
    pub(crate) fn is_alive(&self) -> bool {
        process_stat(self.pid).is_some_and(|stat| stat.start_ticks == self.pid_start_ticks && !stat.dead)
    }

    /// The state that the OCI specification defines, as hooks get it and `state` prints it.
    pub(crate) fn oci_state(&self, status: Status) -> serde_json::Value {
        let mut state = serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "pid": if status == Status::Stopped { 0 } else { self.pid },
            "status": status.word(),
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "owner": owner_name(self.owner),
        });
        if !self.annotations.is_empty() {
            state["annotations"] = serde_json::json!(self.annotations);
        }
        state
    }
}

/// Two fields of `/proc/<pid>/stat`.
struct ProcessStat {
    start_ticks: u64,
    dead: bool,
}

fn process_stat(pid: i32) -> Option<ProcessStat> {
    if pid <= 0 {
        return None;
    }
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&text))
}

/// proc_pid_stat(5): the name in field 2 may hold anything, so fields count from the last parenthesis.
fn parse_stat(text: &str) -> Option<ProcessStat> {
    let mut fields = text.rsplit_once(") ")?.1.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X" | "x");
    Some(ProcessStat { start_ticks: fields.nth(18)?.parse().ok()?, dead })
}

/// `root`, or the number: names would need the host's user database.
fn owner_name(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { uid.to_string() }
}

/// Reads a whole file unless it is larger than `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::with_capacity(16 << 10);
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(std::io::Error::other(format!("larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_the_root() {
        for good in ["a", "web-1", "0.1+x_", &"f".repeat(64)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "ä", "a\n", &"f".repeat(1025)] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_process_name_with_parentheses_is_no_obstacle() {
        let tail: Vec<String> = (4..30).map(|n| n.to_string()).collect();
        let stat = parse_stat(&format!("7 (a) Z (b) S {}", tail.join(" "))).unwrap();
        assert_eq!((stat.start_ticks, stat.dead), (22, false));
        assert!(parse_stat(&format!("7 (x) Z {}", tail.join(" "))).unwrap().dead);
        assert!(parse_stat("7 (x").is_none());
    }

    #[test]
    fn a_folder_without_a_record_is_no_container() {
        let root = std::env::temp_dir().join(format!("berth-state-{}", std::process::id()));
        let folder = Folder::create(&root, "half").unwrap();
        assert!(matches!(folder.load("half"), Err(CliError::NotFound(_))));
        assert!(matches!(Folder::create(&root, "half"), Err(CliError::Exists(_))));
        folder.remove().unwrap();
        assert!(matches!(Folder::open(&root, "half"), Err(CliError::NotFound(_))));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_recycled_pid_is_not_the_container() {
        let about = About {
            id: "x",
            oci_version: "1.2.0",
            bundle: Path::new("/b"),
            rootfs: "/b/rootfs".into(),
            cgroup: None,
            annotations: HashMap::new(),
            poststart: Vec::new(),
            poststop: Vec::new(),
        };
        let mut record = Record::new(about, std::process::id() as i32);
        assert!(record.is_alive());
        record.pid_start_ticks += 1;
        assert!(!record.is_alive());
        assert_eq!(record.oci_state(Status::Stopped)["pid"], 0);
    }
}
