//! Naming and removing images.

use super::catalog::{Catalog, conflict, is_id_prefix, is_single, no_such};
use super::shared::Changes;
use super::{Images, Pruned, RemoveOptions, Removed};
use crate::Filters;
use crate::containers::{ListOptions, Summary};
use crate::events::{EventKind, now_unix_nanos};
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A container as far as removing images cares.
struct User {
    id: String,
    image: Digest,
    running: bool,
}

impl User {
    fn of(container: &Summary) -> impl Iterator<Item = User> {
        container.image_id.into_iter().chain(container.template).map(|image| User {
            id: container.id.to_string(),
            image,
            running: container.state.phase.pid().is_some(),
        })
    }

    fn short(&self) -> &str {
        &self.id[..12]
    }
}

impl Images {
    /// Gives it one more name, taking that from whichever image had it.
    pub async fn tag(&self, reference: &str, name: ImageName) -> Result<()> {
        let name = name.or_latest();
        let images = self.clone();
        let reference = reference.to_owned();
        super::blocking(move || {
            let id = images.shared().change(|catalog, changes| {
                let id = catalog.find(&reference)?;
                changes.name(catalog, name.clone(), id);
                Ok(id)
            })?;
            images.event("tag", &id, &name.familiar());
            Ok(())
        })
        .await
    }

    pub(super) fn event(&self, action: &str, id: &Digest, name: &str) {
        let mut attributes: BTreeMap<String, String> =
            self.shared().catalog().images.get(id).map(|record| record.labels.clone()).unwrap_or_default();
        attributes.insert("name".to_owned(), name.to_owned());
        self.engine.events().publish(EventKind::Image, action, id.to_string(), attributes);
    }

    async fn users(&self) -> Result<Vec<User>> {
        let all = ListOptions { all: true, ..ListOptions::default() };
        Ok(self.engine.containers().list(&all).await?.iter().flat_map(User::of).collect())
    }

    /// It is here, and nothing but its id means it.
    pub(crate) fn is_nameless(&self, id: &Digest) -> bool {
        let shared = self.shared();
        let catalog = shared.catalog();
        catalog.images.contains_key(id) && catalog.names_of(id).is_empty()
    }

    /// Takes a name away, and the image with its last one.
    pub async fn remove(&self, reference: &str, options: RemoveOptions) -> Result<Vec<Removed>> {
        let users = self.users().await?;
        let (images, reference) = (self.clone(), reference.to_owned());
        super::blocking(move || {
            let shared = images.shared();
            let mut said = Vec::new();
            let (removed, failed) = shared.change(|catalog, changes| {
                let mut removal = Removal { catalog, changes, users: &users, removed: Vec::new(), said: &mut said };
                // A name that was taken away stays away, even where the image must then stay.
                let outcome = removal.remove(&reference, options);
                match outcome {
                    Err(cause) if removal.removed.is_empty() => Err(cause),
                    outcome => Ok((removal.removed, outcome.err())),
                }
            })?;
            for (action, id, name) in said {
                images.event(action, &id, &name);
            }
            shared.sweep_if_due();
            failed.map_or(Ok(removed), Err)
        })
        .await
    }

    /// Removes images without a name, or with `dangling=false` all that no container uses.
    pub async fn prune(&self, filters: &Filters) -> Result<Pruned> {
        filters.only(&["dangling", "label", "label!", "until"])?;
        let dangling_only = filters.boolean("dangling")?.unwrap_or(true);
        let until = super::look::until(filters)?;
        let users = self.users().await?;
        let (images, filters) = (self.clone(), filters.clone());
        super::blocking(move || {
            let shared = images.shared();
            let before: BTreeMap<Digest, (u64, usize)> = shared.catalog().all_layers();
            let mut said = Vec::new();
            let removed = shared.change(|catalog, changes| {
                let mut removal = Removal { catalog, changes, users: &users, removed: Vec::new(), said: &mut said };
                for record in catalog.images.values() {
                    let names = catalog.names_of(&record.id);
                    let used = users.iter().any(|user| user.image == record.id);
                    let wanted = !used
                        && (!dangling_only || names.is_empty())
                        && until.is_none_or(|until| record.created_unix_nanos <= until)
                        && filters.labels(&record.labels);
                    let only_parent = dangling_only && catalog.children(&record.id).next().is_some();
                    if wanted && !only_parent && !removal.changes.deleted.contains(&record.id) {
                        removal.untag_all(&record.id);
                        // One that others stand on stays.
                        drop(removal.delete(&record.id, false, true, true));
                    }
                }
                Ok(removal.removed)
            })?;
            for (action, id, name) in said {
                images.event(action, &id, &name);
            }
            shared.sweep_if_due();
            let after = shared.catalog().all_layers();
            let gone = before.iter().filter(|(layer, _)| !after.contains_key(*layer));
            let mut space_reclaimed_bytes: u64 = gone.map(|(_, (bytes, _))| bytes).sum();
            // What pulls that ended early left, and layers packed for pushes: those of images that are here spare the
            // next push its work, and go when all that can be made again is to go.
            if !["until", "label", "label!"].iter().any(|chosen| filters.contains(chosen)) {
                let packed = match dangling_only {
                    true => shared.forms_of(after.keys().copied())?,
                    false => BTreeSet::new(),
                };
                space_reclaimed_bytes += shared.disk.prune_blobs(|blob| packed.contains(blob))?;
            }
            let attributes = BTreeMap::from([("reclaimed".to_owned(), space_reclaimed_bytes.to_string())]);
            images.engine.events().publish(EventKind::Image, "prune", "", attributes);
            Ok(Pruned { removed, space_reclaimed_bytes })
        })
        .await
    }
}

impl Changes {
    /// Gives `id` the name, and remembers when.
    pub(super) fn name(&mut self, catalog: &Catalog, name: ImageName, id: Digest) {
        if let Some(record) = catalog.images.get(&id) {
            let mut record = (**record).clone();
            record.last_tagged_unix_nanos = now_unix_nanos();
            self.images.push((Arc::new(record), None));
        }
        self.names.push((name, id));
    }
}

/// One removal as it is decided; nothing happens before all of it is.
struct Removal<'a> {
    catalog: &'a Catalog,
    changes: &'a mut Changes,
    users: &'a [User],
    removed: Vec<Removed>,
    /// Events to publish afterwards: action, id, name.
    said: &'a mut Vec<(&'static str, Digest, String)>,
}

impl Removal<'_> {
    /// The names that are left.
    fn names(&self, id: &Digest) -> Vec<ImageName> {
        let left = |name: &&ImageName| !self.changes.untagged.contains(name);
        self.catalog.names_of(id).into_iter().filter(left).cloned().collect()
    }

    fn untag(&mut self, id: &Digest, name: ImageName) {
        self.removed.push(Removed::Untagged(name.familiar()));
        self.said.push(("untag", *id, id.to_string()));
        self.changes.untagged.push(name);
    }

    fn untag_all(&mut self, id: &Digest) {
        for name in self.names(id) {
            self.untag(id, name);
        }
    }

    fn has_children(&self, id: &Digest) -> bool {
        self.catalog.children(id).any(|child| !self.changes.deleted.contains(child))
    }

    /// What dockerd does for `rmi reference`.
    fn remove(&mut self, reference: &str, options: RemoveOptions) -> Result<()> {
        let id = self.catalog.find(reference)?;
        let names = self.names(&id);
        let single = is_single(&names.iter().collect::<Vec<_>>());
        let mut by_name = false;
        if !is_id_prefix(&id, reference) {
            if !options.force
                && single
                && let Some(user) = self.users.iter().find(|user| user.image == id)
            {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "conflict: unable to remove repository reference {reference:?} (must force) - container {} is \
                         using its referenced image {}",
                        user.short(),
                        id.short()
                    ),
                ));
            }
            let named: ImageName = reference.parse().map_err(|_| no_such(reference))?;
            let named = match named.digest().copied() {
                Some(digest) => named.pinned(digest),
                None => named.or_latest(),
            };
            let repository = named.familiar_repository();
            let pinned = named.digest().is_some();
            self.untag(&id, named);
            let left = self.names(&id);
            // The last tag of a repository takes the repository's digests along.
            if !pinned && !left.iter().any(|name| name.digest().is_none() && name.familiar_repository() == repository) {
                for name in left.into_iter().filter(|name| name.familiar_repository() == repository) {
                    self.untag(&id, name);
                }
            }
            if !self.names(&id).is_empty() {
                return Ok(());
            }
            by_name = true;
        } else if single {
            self.check(&id, options.force, false)?;
            self.untag_all(&id);
        }
        self.delete(&id, options.force, !options.no_prune, by_name)
    }

    /// Deletes it, and with `prune` its nameless unused parents. `quiet`: one that is in use merely stays.
    fn delete(&mut self, id: &Digest, force: bool, prune: bool, quiet: bool) -> Result<()> {
        let used = self.users.iter().any(|user| user.image == *id);
        if let Err(conflict) = self.check(id, force, true) {
            // As dockerd: what others have or stand on has merely lost a name.
            let needed = used || !self.names(id).is_empty() || self.has_children(id);
            return if quiet && needed { Ok(()) } else { Err(conflict) };
        }
        self.untag_all(id);
        let record = self.catalog.images.get(id).cloned();
        let gone: BTreeSet<Digest> = self.changes.deleted.iter().copied().chain([*id]).collect();
        let still: BTreeSet<Digest> = self
            .catalog
            .images
            .values()
            .filter(|other| !gone.contains(&other.id))
            .flat_map(|other| other.layers.iter().copied())
            .collect();
        self.changes.deleted.push(*id);
        self.removed.push(Removed::Deleted(id.to_string()));
        self.said.push(("delete", *id, id.to_string()));
        let Some(record) = record else { return Ok(()) };
        let layers: Vec<&Digest> = record.layers.iter().rev().filter(|layer| !still.contains(layer)).collect();
        self.removed.extend(layers.into_iter().map(|layer| Removed::Deleted(layer.to_string())));
        match record.parent {
            // A parent without a name goes too, unless it is needed: then it just stays.
            Some(parent) if prune && self.catalog.images.contains_key(&parent) => {
                drop(self.delete_unneeded_parent(&parent));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn delete_unneeded_parent(&mut self, parent: &Digest) -> Result<()> {
        match self.names(parent).is_empty() {
            true => self.delete(parent, false, true, true),
            false => Ok(()),
        }
    }

    /// Whether something keeps it here. `names` too where the caller does not take them away itself.
    fn check(&self, id: &Digest, force: bool, names: bool) -> Result<()> {
        let user = |running: bool| self.users.iter().find(|user| user.image == *id && user.running == running);
        if self.has_children(id) {
            return Err(conflict(id, true, "image has dependent child images"));
        }
        if let Some(user) = user(true) {
            return Err(conflict(id, true, &format!("image is being used by running container {}", user.short())));
        }
        if force {
            return Ok(());
        }
        if names && !self.names(id).is_empty() {
            return Err(conflict(id, false, "image is referenced in multiple repositories"));
        }
        match user(false) {
            Some(user) => {
                Err(conflict(id, false, &format!("image is being used by stopped container {}", user.short())))
            }
            None => Ok(()),
        }
    }
}
