//! Layers and snapshots: the one place that knows the crates they come from.

use super::Progress;
use berth_types::mount::{Overlay, Rootfs, Upper};
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use sha2::Digest as _;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// An unpacked layer and what it takes on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    pub diff_id: Digest,
    pub bytes: u64,
}

/// An image whose layers are on the disk and that no record knows yet.
#[derive(Debug)]
pub(super) struct Loaded {
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
    pub names: Vec<ImageName>,
}

pub(super) struct ToSave {
    pub config: Vec<u8>,
    pub layers: Vec<Digest>,
    pub names: Vec<ImageName>,
}

pub(super) struct Disk {
    root: PathBuf,
}

fn failed(action: &str, path: &Path, cause: &std::io::Error) -> Error {
    Error::because(ErrorKind::Unavailable, format!("cannot {action} {}", path.display()), cause)
}

impl Disk {
    pub(super) fn open(data_root: &Path) -> Result<Disk> {
        for name in ["layers", "snapshots"] {
            let path = data_root.join(name);
            std::fs::create_dir_all(&path).map_err(|cause| failed("make", &path, &cause))?;
        }
        Ok(Disk { root: data_root.to_owned() })
    }

    fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    fn snapshot(&self, key: &str) -> PathBuf {
        self.root.join("snapshots").join(key)
    }

    pub(super) fn prepare(&self, key: &str, layers: &[Digest]) -> Result<Rootfs> {
        let folder = self.snapshot(key);
        if !folder.exists() {
            for name in ["fs", "work"] {
                let path = folder.join(name);
                std::fs::create_dir_all(&path).map_err(|cause| failed("make", &path, &cause))?;
            }
            let text = serde_json::to_vec(layers).expect("digests always serialise");
            let path = folder.join("layers.json");
            std::fs::write(&path, text).map_err(|cause| failed("write", &path, &cause))?;
        }
        self.rootfs(key)
    }

    pub(super) fn rootfs(&self, key: &str) -> Result<Rootfs> {
        let folder = self.snapshot(key);
        let layers = self.layers_of(key)?;
        match self.view(&layers) {
            Rootfs::Overlay(overlay) => Ok(Rootfs::Overlay(Overlay {
                upper: Some(Upper { upper: folder.join("fs"), work: folder.join("work") }),
                ..overlay
            })),
            other => Ok(other),
        }
    }

    fn layers_of(&self, key: &str) -> Result<Vec<Digest>> {
        let path = self.snapshot(key).join("layers.json");
        let text = std::fs::read(&path).map_err(|cause| failed("read", &path, &cause))?;
        serde_json::from_slice(&text).map_err(|cause| Error::because(ErrorKind::DataLoss, "damaged snapshot", &cause))
    }

    /// The layers alone, read-only.
    pub(super) fn view(&self, layers: &[Digest]) -> Rootfs {
        let lower = layers.iter().rev().map(|layer| self.layer(layer).join("fs")).collect();
        Rootfs::Overlay(Overlay { lower, upper: None, options: Vec::new() })
    }

    pub(super) fn remove(&self, key: &str) -> Result<()> {
        let path = self.snapshot(key);
        match std::fs::remove_dir_all(&path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", &path, &cause)),
            _ => Ok(()),
        }
    }

    pub(super) fn keys(&self) -> Result<Vec<String>> {
        let path = self.root.join("snapshots");
        let read = || -> std::io::Result<Vec<String>> {
            std::fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        read().map_err(|cause| failed("read", &path, &cause))
    }

    pub(super) fn usage(&self, key: &str) -> Result<u64> {
        Ok(crate::files::disk_bytes(&self.snapshot(key).join("fs")))
    }

    /// Removes the layers that neither `needed` names nor a snapshot stands on.
    pub(super) fn sweep(&self, needed: &BTreeSet<Digest>) -> Result<()> {
        let mut needed: BTreeSet<String> = needed.iter().map(Digest::hex).collect();
        for key in self.keys()? {
            needed.extend(self.layers_of(&key)?.iter().map(Digest::hex));
        }
        let path = self.root.join("layers");
        let read = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                if !needed.contains(&*entry.file_name().to_string_lossy()) {
                    std::fs::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        };
        read().map_err(|cause| failed("clean", &path, &cause))
    }

    pub(super) fn unpack(&self, archive: &mut dyn Read) -> Result<Layer> {
        let temporary = self.root.join("layers").join(format!("new-{}", crate::events::now_unix_nanos()));
        let folder = temporary.join("fs");
        std::fs::create_dir_all(&folder).map_err(|cause| failed("make", &folder, &cause))?;
        let mut hashed = Hashed { inner: archive, hash: sha2::Sha256::new() };
        let broken = |cause: &(dyn std::error::Error + 'static)| {
            Error::because(ErrorKind::DataLoss, "cannot unpack the archive", cause)
        };
        let rootfs = Rootfs::Directory { path: folder.clone() };
        let root = crate::files::Root::stopped(&rootfs, &[], false).map_err(|cause| broken(&cause))?;
        let top = root.find(Path::new("/")).map_err(|cause| broken(&cause))?;
        let options = crate::files::UnpackOptions::default();
        crate::files::unpack(&root, &top, &mut hashed, options).map_err(|cause| broken(&cause))?;
        std::io::copy(&mut hashed, &mut std::io::sink()).map_err(|cause| broken(&cause))?;
        let diff_id = Digest::from_bytes(hashed.hash.finalize().into());
        let target = self.layer(&diff_id);
        if !target.exists() {
            std::fs::rename(&temporary, &target).map_err(|cause| failed("rename", &temporary, &cause))?;
        }
        Ok(Layer { diff_id, bytes: crate::files::disk_bytes(&target.join("fs")) })
    }

    pub(super) fn load(
        &self,
        _archive: &mut dyn Read,
        _platform: Option<&str>,
        _tell: &dyn Fn(Progress),
    ) -> Result<Vec<Loaded>> {
        Err(Error::not_implemented("load"))
    }

    pub(super) fn save(&self, images: &[ToSave], _to: &mut dyn Write) -> Result<()> {
        Err(Error::not_implemented(format!(
            "save {:?}",
            images.iter().map(|i| (i.config.len(), i.layers.len(), &i.names)).next()
        )))
    }

    /// A container's changes as a layer; `None` where there are none.
    pub(super) fn commit(&self, _key: &str) -> Result<Option<Layer>> {
        Err(Error::not_implemented("commit"))
    }
}

struct Hashed<'a> {
    inner: &'a mut dyn Read,
    hash: sha2::Sha256,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}
