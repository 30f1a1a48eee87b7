//! What snapshots of machines take on the disk.

use super::bases::Shared;
use super::record::{Base, Record};
use super::{Machines, types};
use crate::containers::blocking;
use berth_types::{ContainerId, Result};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const BLOCK_BYTES: u64 = 512;

impl Machines {
    /// By machine: what its snapshots keep beside its disks, in bytes on the disk. A machine without any is left out.
    pub async fn kept_bytes(&self) -> Result<Vec<(ContainerId, u64)>> {
        let shared = self.engine.machine_state().clone();
        let machines: Vec<_> = self.engine.table().all();
        let records = machines.iter().filter(|one| types::view(one).is_some_and(|view| view.snapshots > 0));
        let all: Vec<(ContainerId, Vec<PathBuf>)> =
            records.filter_map(|one| Some((one.id.clone(), kept(&shared, one.record().machine.as_ref()?)))).collect();
        let sum = |files: Vec<PathBuf>| files.iter().map(|path| on_disk(path)).sum();
        blocking(move || Ok(all.into_iter().map(|(id, files)| (id, sum(files))).collect())).await
    }
}

/// Files that only its snapshots keep.
fn kept(shared: &Shared, record: &Record) -> Vec<PathBuf> {
    let moments = record.snapshots.iter().filter_map(|one| one.moment.as_ref());
    let folders = moments.flat_map(|moment| {
        let entries = std::fs::read_dir(shared.moment_folder(&moment.name));
        entries.into_iter().flatten().flatten().map(|entry| entry.path())
    });
    layers(record).into_iter().map(|base| shared.path(base)).chain(folders).collect()
}

/// What the machine wrote until each snapshot since the one before: what it began with is not its own.
fn layers(record: &Record) -> BTreeSet<&Base> {
    let mut all = BTreeSet::new();
    for snapshot in &record.snapshots {
        let parent = record.snapshots.iter().find(|one| Some(&one.name) == snapshot.parent.as_ref());
        for disk in &snapshot.disks {
            let before = parent.and_then(|parent| parent.disks.iter().find(|one| one.name == disk.name));
            match before {
                Some(before) => all.extend(disk.bases.iter().take_while(|base| !before.bases.contains(base))),
                None => all.extend(disk.bases.first()),
            }
        }
    }
    all
}

fn on_disk(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.blocks() * BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::super::record::{BaseFormat, Snapshot, SnapshotDisk};
    use super::*;

    #[test]
    fn a_layer_counts_once_and_what_a_machine_began_with_not_at_all() {
        let base = |name: &str| Base { digest: name.to_owned(), format: BaseFormat::Qcow2 };
        let snapshot = |name: &str, parent: Option<&str>, chain: &[&str]| Snapshot {
            name: name.to_owned(),
            parent: parent.map(str::to_owned),
            created_unix_nanos: 0,
            disks: vec![SnapshotDisk {
                name: "disk0".to_owned(),
                bases: chain.iter().map(|name| base(name)).collect(),
                size_bytes: 1,
                port: None,
            }],
            moment: None,
        };
        let mut record: Record = serde_json::from_value(serde_json::json!({
            "uuid": "u", "cpus": 1, "memory_bytes": 1, "uefi": false, "kernel": null, "disks": [], "display": false
        }))
        .unwrap();
        record.snapshots = vec![
            snapshot("one", None, &["b", "image"]),
            // In between it was cloned: that layer is kept for this snapshot.
            snapshot("two", Some("one"), &["d", "c", "b", "image"]),
            snapshot("again", Some("one"), &["d", "c", "b", "image"]),
        ];
        let (b, c, d) = (base("b"), base("c"), base("d"));
        assert_eq!(layers(&record), BTreeSet::from([&b, &c, &d]));
    }
}
