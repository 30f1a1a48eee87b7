//! What `system df` says, beside the disk.

use crate::Engine;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Bytes that a tree takes on the disk.
pub fn du(path: &Path) -> u64 {
    let output = Command::new("du").arg("-sB1").arg(path).output().expect("du runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("du: {output:?}"))
}

fn near(said: u64, there: u64, what: &str) {
    assert!(said.abs_diff(there) * 100 <= there, "{what}: df says {said}, the disk has {there}");
}

fn sum(list: &Value, size: impl Fn(&Value) -> &Value) -> u64 {
    list.as_array().into_iter().flatten().map(|one| size(one).as_u64().expect("a size")).sum()
}

fn of_each(folder: &Path, part: &str) -> u64 {
    // It is made for the first one.
    if !folder.exists() {
        return 0;
    }
    let entries = std::fs::read_dir(folder).expect("the engine's folder").flatten();
    entries.map(|entry| du(&entry.path().join(part))).sum()
}

impl Engine {
    /// `system df` equals the disk within one part in a hundred: layers with blobs, what containers wrote, volumes.
    /// For an engine that has built nothing.
    pub fn check_df(&self) {
        let df = self.api("GET", "/system/df", "").expect(200).json();
        let data = self.root().join("data");
        let layers = df["LayersSize"].as_u64().expect("a size");
        near(layers, du(&data.join("layers")) + du(&data.join("content")), "layers");
        near(sum(&df["Containers"], |one| &one["SizeRw"]), of_each(&data.join("snapshots"), "fs"), "containers");
        let volumes = sum(&df["Volumes"], |one| &one["UsageData"]["Size"]);
        near(volumes, of_each(&data.join("volumes"), ""), "volumes");
    }
}
