//! The file that remembers networks: `<data-root>/networks.json`.
//!
//! Written whole under a temporary name, synced and renamed, so a crash leaves the old or the new one. The
//! default bridge is in it too: its subnet stays the same over restarts as long as the host allows.

use super::types::Network;
use berth_types::{Error, ErrorKind, Result};
use std::io::Write;
use std::path::Path;

/// A thousand networks take about half a megabyte.
const FILE_BYTES_MAX: u64 = 64 << 20;

pub(super) fn load(path: &Path) -> Result<Vec<Network>> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::DataLoss, format!("cannot read networks from {}", path.display()), error)
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
        Ok(file) if file.len() > FILE_BYTES_MAX => {
            return Err(Error::new(ErrorKind::DataLoss, format!("{} is too large", path.display())));
        }
        Ok(_) => (),
    }
    let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(&error))
}

pub(super) fn save(path: &Path, networks: &[&Network]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = path.with_extension("json.new");
        let mut file = std::fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(networks)?)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        match path.parent() {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|error| {
        Error::because(ErrorKind::Unavailable, format!("cannot write networks to {}", path.display()), &error)
    })
}
