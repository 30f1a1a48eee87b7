//! What is stored, compared with the digests that name it: disks rot, and people write where they should not.
//!
//! ```text
//! layer   read as its archive, whose digest it is   damaged: fetched again where it was seen in a registry, and put
//!                                                   right where it lies; else set aside, if no container stands on it
//! image   its configuration, whose digest is its id
//! blob    packed layers kept for pushes             damaged: removed, packed anew when they are wanted
//! ```

use super::known::KnownBlob;
use super::shared::Shared;
use super::{Images, Progress, ProgressStream, counted};
use berth_registry::{Access, Credentials, Descriptor};
use berth_snapshot::StagedLayer;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Messages to a slow client.
const MESSAGES_MAX: usize = 64;

/// What a repair needs beside the disk.
struct Repairer {
    runtime: tokio::runtime::Handle,
    logins: BTreeMap<String, Credentials>,
}

/// What one check has come to.
#[derive(Default)]
struct Outcome {
    bytes: u64,
    /// Damaged, and not repaired.
    layers: usize,
    images: usize,
    blobs: usize,
    repaired: usize,
}

impl Outcome {
    /// `1 layer and 2 blobs`; empty where all is right.
    fn damaged(&self) -> String {
        let counts = [(self.layers, "layer"), (self.images, "image"), (self.blobs, "blob")];
        let some = counts.iter().filter(|(count, _)| *count > 0);
        let words: Vec<String> = some.map(|(count, what)| counted(*count, what)).collect();
        words.join(" and ")
    }
}

impl Images {
    /// Reads every layer of every image and says which are not what their names say. With `repair`, a damaged layer
    /// is fetched again from where it came, and nothing else is; containers that stand on it go on. One that no
    /// registry has is set aside where no container stands on it, so that loading its image again makes it anew.
    /// Ends with an error where something is damaged and stays so. `logins` are by domain, as image names write it.
    pub async fn check(&self, repair: bool, logins: BTreeMap<String, Credentials>) -> Result<ProgressStream> {
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let images = self.clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let tell = |text: String| drop(sender.blocking_send(Ok(Progress::Line(text))));
            let repairer = repair.then_some(Repairer { runtime, logins });
            if let Err(error) = images.check_now(repairer.as_ref(), &tell) {
                drop(sender.blocking_send(Err(error)));
            }
        });
        Ok(ProgressStream { receiver })
    }

    fn check_now(&self, repairer: Option<&Repairer>, tell: &dyn Fn(String)) -> Result<()> {
        let shared = self.shared();
        let layers = shared.catalog().all_layers();
        let mut outcome = Outcome::default();
        for layer in layers.keys() {
            // One at a time: in between others may remove what they like.
            let at_work = shared.at_work();
            if !shared.catalog().all_layers().contains_key(layer) {
                continue;
            }
            let Err(error) = shared.disk.check(layer).map(|length| outcome.bytes += length) else { continue };
            drop(at_work);
            let users = self.users_of(layer).join(", ");
            tell(format!("{error} (of {users})"));
            let is_right = repairer.map_or(Ok(false), |repairer| self.repair(layer, &users, repairer, tell))?;
            match is_right {
                true => {
                    outcome.repaired += 1;
                    outcome.bytes += shared.disk.check(layer).unwrap_or(0);
                }
                false => outcome.layers += 1,
            }
        }
        self.check_configs(&mut outcome, tell);
        check_blobs(&shared, repairer.is_some(), &mut outcome, tell)?;
        let repaired = match outcome.repaired {
            0 => String::new(),
            count => format!(", {count} repaired"),
        };
        let damaged = outcome.damaged();
        if !damaged.is_empty() {
            let hint = match repairer.is_some() {
                true => "remove the containers that stand on what is damaged, then repair again",
                false => {
                    "berth system check --repair fetches damaged layers again, and sets aside those that no registry has"
                }
            };
            return Err(Error::new(ErrorKind::DataLoss, format!("damaged: {damaged}{repaired}")).with_hint(hint));
        }
        tell(format!("{}, {} bytes: checked{repaired}", counted(layers.len(), "layer"), outcome.bytes));
        Ok(())
    }

    /// Puts a damaged layer right, or out of the way; whether nothing damaged is left.
    fn repair(&self, layer: &Digest, users: &str, repairer: &Repairer, tell: &dyn Fn(String)) -> Result<bool> {
        let shared = self.shared();
        for blob in shared.known_blobs(layer)? {
            for (domain, path) in &blob.places {
                let from = format!("{domain}/{path}");
                let login = repairer.logins.get(domain).cloned();
                match repairer.runtime.block_on(fetch_again(&shared, layer, &blob, &from, login)) {
                    Ok(whole) => {
                        shared.mend(layer, whole)?;
                        // The disk that spoilt it may do so again.
                        if let Err(error) = shared.disk.check(layer) {
                            tell(format!("{error}, after its repair"));
                            return Ok(false);
                        }
                        tell(format!("layer {} is repaired: {} bytes from {from}", layer.short(), blob.size));
                        return Ok(true);
                    }
                    Err(error) => tell(format!("layer {}: {error}", layer.short())),
                }
            }
        }
        match shared.set_aside(layer)? {
            true => tell(format!("layer {} is set aside: load or pull {users} again", layer.short())),
            false => {
                tell(format!("layer {} stays: containers stand on it", layer.short()));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Images whose configuration is not what their id says.
    fn check_configs(&self, outcome: &mut Outcome, tell: &dyn Fn(String)) {
        let shared = self.shared();
        let all: Vec<Digest> = shared.catalog().images.keys().copied().collect();
        for id in all {
            // One that is gone meanwhile is not damaged.
            let is_right = match shared.config_bytes(&id) {
                Ok(text) => super::disk::digest_of(text.as_bytes()) == id,
                Err(_) => !shared.catalog().images.contains_key(&id),
            };
            if !is_right {
                outcome.images += 1;
                tell(format!(
                    "the configuration of image {} is damaged: remove the image and get it again",
                    id.short()
                ));
            }
        }
    }

    /// Names, or ids where they have none, of the images that have this layer.
    fn users_of(&self, layer: &Digest) -> Vec<String> {
        let shared = self.shared();
        let catalog = shared.catalog();
        let with = catalog.images.values().filter(|record| record.layers.contains(layer));
        with.map(|record| catalog.familiar_names(&record.id).0.into_iter().next().unwrap_or_else(|| record.id.short()))
            .collect()
    }
}

/// A layer once more, from the repository `from`.
async fn fetch_again(
    shared: &Arc<Shared>,
    layer: &Digest,
    blob: &KnownBlob,
    from: &str,
    login: Option<Credentials>,
) -> Result<StagedLayer> {
    let name: ImageName = from.parse().map_err(|cause| Error::internal(format!("{from} is no name: {cause}")))?;
    let repository = shared.registries.client.repository(&name, Access::Pull, login);
    let descriptor = Descriptor::new(&blob.media_type, blob.digest, blob.size);
    super::pull::fetch_layer(shared, &repository, &descriptor, *layer).await
}

fn check_blobs(shared: &Shared, repair: bool, outcome: &mut Outcome, tell: &dyn Fn(String)) -> Result<()> {
    for digest in shared.disk.damaged_blobs()? {
        match repair {
            true => {
                shared.disk.remove_blob(&digest)?;
                outcome.repaired += 1;
                tell(format!("blob {} was damaged and is removed: it is made anew when it is wanted", digest.short()));
            }
            false => {
                outcome.blobs += 1;
                tell(format!("blob {} is damaged", digest.short()));
            }
        }
    }
    Ok(())
}
