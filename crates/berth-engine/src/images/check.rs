//! Layers compared with the digests that name them: disks rot, and people write where they should not.

use super::{Images, Progress, ProgressStream};
use berth_types::{Digest, Error, ErrorKind, Result};
use tokio::sync::mpsc;

/// Messages to a slow client.
const MESSAGES_MAX: usize = 64;

impl Images {
    /// Reads every layer of every image and says which are not what their names say. With `repair`, a damaged layer
    /// is set aside where no container stands on it, so that loading or pulling its image again makes it anew.
    /// Ends with an error where something is damaged and stays so.
    pub async fn check(&self, repair: bool) -> Result<ProgressStream> {
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let images = self.clone();
        tokio::task::spawn_blocking(move || {
            let tell = |text: String| drop(sender.blocking_send(Ok(Progress::Line(text))));
            if let Err(error) = images.check_now(repair, &tell) {
                drop(sender.blocking_send(Err(error)));
            }
        });
        Ok(ProgressStream { receiver })
    }

    fn check_now(&self, repair: bool, tell: &dyn Fn(String)) -> Result<()> {
        let shared = self.shared();
        let layers = shared.catalog().all_layers();
        let (mut bytes, mut damaged) = (0, 0);
        for layer in layers.keys() {
            // One at a time: in between others may remove what they like.
            let at_work = shared.at_work();
            if !shared.catalog().all_layers().contains_key(layer) {
                continue;
            }
            let Err(error) = shared.disk.check(layer).map(|length| bytes += length) else { continue };
            drop(at_work);
            let users = self.users_of(layer).join(", ");
            tell(format!("{error} (of {users})"));
            if !repair {
                damaged += 1;
                continue;
            }
            match shared.set_aside(layer)? {
                true => tell(format!("layer {} is set aside: load or pull {users} again", layer.short())),
                false => {
                    damaged += 1;
                    tell(format!("layer {} stays: containers stand on it", layer.short()));
                }
            }
        }
        if damaged > 0 {
            let hint = match repair {
                true => "remove the containers that stand on them, then check again",
                false => "berth system check --repair sets them aside; then load or pull their images again",
            };
            let message = format!("{damaged} of {} layers are damaged", layers.len());
            return Err(Error::new(ErrorKind::DataLoss, message).with_hint(hint));
        }
        tell(format!("{} layers, {bytes} bytes: checked", layers.len()));
        Ok(())
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
