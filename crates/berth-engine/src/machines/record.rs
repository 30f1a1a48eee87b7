//! What a container's record says more where the container is a machine.

use super::moments::{Moment, Resume};
use super::seed::Seed;
use berth_net::rate::Bandwidth;
use berth_vm::spec::{DiskKind, DiskLimits, Format};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Of the guest's firmware tables; another than the record's id, which others may see.
    pub uuid: String,
    pub cpus: u16,
    pub memory_bytes: u64,
    /// It can be given so much while it runs; 0: [`super::scale`] chooses.
    #[serde(default)]
    pub memory_max_bytes: u64,
    /// Of each network card.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    pub uefi: bool,
    pub kernel: Option<KernelFiles>,
    pub disks: Vec<DiskRecord>,
    pub display: bool,
    /// Only there to be cloned.
    #[serde(default)]
    pub template: bool,
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// The snapshot that what the disks hold now came after.
    #[serde(default)]
    pub at: Option<String>,
    /// Counts the files of disks, so that no name comes twice.
    #[serde(default)]
    pub files: u32,
    /// A template's that was running: what its forks begin with.
    #[serde(default)]
    pub moment: Option<Moment>,
    /// What its next start begins with, instead of its firmware.
    #[serde(default)]
    pub resume: Option<Resume>,
    /// Of a cloud image: what it is told.
    #[serde(default)]
    pub seed: Option<Seed>,
    /// It has a port for an agent of its guest's.
    #[serde(default)]
    pub agent: bool,
    /// No machine of a user's, but a job on disk images (`tool`).
    #[serde(default)]
    pub tool: bool,
}

/// What the disks held at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub name: String,
    pub parent: Option<String>,
    pub created_unix_nanos: i64,
    pub disks: Vec<SnapshotDisk>,
    /// State and memory at that moment, where they are part of it.
    #[serde(default)]
    pub moment: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotDisk {
    pub name: String,
    pub bases: Vec<Base>,
    pub size_bytes: u64,
    #[serde(default)]
    pub port: Option<u8>,
}

/// Files of the machine's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KernelFiles {
    pub initrd: bool,
    pub arguments: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRecord {
    /// `disk0`, `cdrom0`: the node's, and the device's serial number.
    pub name: String,
    /// In the machine's folder; `None` where it is the base itself, read-only.
    pub file: Option<String>,
    /// What it stands on, the nearest first.
    pub bases: Vec<Base>,
    pub size_bytes: u64,
    pub kind: DiskKind,
    /// The spare slot that it is plugged into; `None`: a built-in one, which it cannot leave while the machine runs.
    #[serde(default)]
    pub port: Option<u8>,
    #[serde(default)]
    pub limits: DiskLimits,
}

/// A file of the bases' folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Base {
    /// 64 hexadecimal digits: SHA-256 of the file as it was brought in, or random for what a machine wrote.
    pub digest: String,
    pub format: BaseFormat,
}

/// `berth_vm::spec::Format`, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BaseFormat {
    Raw,
    Qcow2,
}

impl From<BaseFormat> for Format {
    fn from(format: BaseFormat) -> Format {
        match format {
            BaseFormat::Raw => Format::Raw,
            BaseFormat::Qcow2 => Format::Qcow2,
        }
    }
}

impl Base {
    pub(crate) fn file_name(&self) -> String {
        format!("{}.{}", self.digest, Format::from(self.format).as_str())
    }

    /// The reverse of [`Base::file_name`].
    pub(crate) fn from_file_name(name: &str) -> Option<Base> {
        let (digest, format) = name.split_once('.')?;
        let hexadecimal = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let format = match format {
            "raw" => BaseFormat::Raw,
            "qcow2" => BaseFormat::Qcow2,
            _ => return None,
        };
        hexadecimal.then(|| Base { digest: digest.to_owned(), format })
    }
}

impl Record {
    pub(crate) fn of_a_tool() -> Record {
        Record {
            uuid: String::new(),
            cpus: 1,
            memory_bytes: 0,
            memory_max_bytes: 0,
            bandwidth: Bandwidth::default(),
            uefi: false,
            kernel: None,
            disks: Vec::new(),
            display: false,
            template: false,
            snapshots: Vec::new(),
            at: None,
            files: 0,
            moment: None,
            resume: None,
            seed: None,
            agent: false,
            tool: true,
        }
    }

    /// Saved moments that it can go to.
    pub(crate) fn moments(&self) -> impl Iterator<Item = &Moment> {
        let snapshots = self.snapshots.iter().filter_map(|snapshot| snapshot.moment.as_ref());
        let resume = self.resume.iter().map(|resume| &resume.moment);
        self.moment.iter().chain(snapshots).chain(resume)
    }

    pub(crate) fn bases(&self) -> impl Iterator<Item = &Base> {
        let snapshots = self.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
        self.disks.iter().flat_map(|disk| &disk.bases).chain(snapshots.flat_map(|disk| &disk.bases))
    }
}
