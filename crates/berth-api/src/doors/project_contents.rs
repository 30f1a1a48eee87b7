//! What is in a project, and what becomes of it when the project is removed.
//!
//! Instances must be gone first. Volumes, backups, snapshots, networks, uploads and texts of stacks hold somebody's
//! work: whoever removes the project says whether they go with it or stay. What stays keeps the project's label.

use crate::Api;
use crate::error::ApiResult;
use crate::extract::Query;
use crate::guard::Target;
use crate::identity::Who;
use crate::identity::projects::of;
use crate::schema::answers;
use crate::tasks::Progress;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::Filters;
use berth_engine::containers::ListOptions;
use berth_engine::images::RemoveOptions;
use berth_types::{Error, Result};
use serde::Deserialize;

/// So many names are said in a refusal.
const NAMED_MAX: usize = 5;

answers! {
    /// What is in a project.
    ProjectContents {
        /// They must be removed before it, by themselves.
        instances: Vec<String>,
        volumes: Vec<String>,
        backups: Vec<ProjectBackup>,
        /// Names of images.
        snapshots: Vec<String>,
        /// Beside the one of its name, which always goes with it.
        networks: Vec<String>,
        /// Names of disk images and ISOs that were sent.
        uploads: Vec<String>,
        /// Compose files that are not up.
        stacks: Vec<String>,
        /// API tokens that are good in it only; they always go with it.
        tokens: u64,
    }
    ProjectBackup { volume: String, id: String, bytes: u64 }
}

impl ProjectContents {
    /// In words, where there is anything that may go or stay.
    fn said(&self) -> Option<String> {
        let kinds = [
            ("volume", self.volumes.len()),
            ("backup", self.backups.len()),
            ("snapshot", self.snapshots.len()),
            ("network", self.networks.len()),
            ("upload", self.uploads.len()),
            ("stack", self.stacks.len()),
        ];
        let there = kinds.iter().filter(|(_, count)| *count > 0);
        let words: Vec<String> =
            there.map(|(kind, count)| format!("{count} {kind}{}", if *count == 1 { "" } else { "s" })).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

async fn contents(api: &Api, project: &str) -> Result<ProjectContents> {
    let own = |labels: &std::collections::BTreeMap<String, String>| of(labels) == Some(project);
    let options = ListOptions { all: true, ..ListOptions::default() };
    let containers = api.engine.containers().list(&options).await?.into_iter();
    let machines = api.engine.machines().list().into_iter().filter(|one| own(&one.labels)).map(|one| one.name);
    let volumes = api.engine.volumes().list(&Filters::default()).await?.into_iter();
    let backups = api.engine.volumes().backups().await?.into_iter().filter(|one| own(&one.labels));
    let images = api.engine.images().list(&berth_engine::images::ListOptions::default()).await?.into_iter();
    let snapshots = images.filter(|image| image.labels.contains_key(super::saved::OF) && own(&image.labels));
    let networks = api.engine.networks().list(&Filters::default())?.into_iter().map(|view| view.network);
    let uploads = api.uploads.list()?.into_iter().map(|(_, one)| one);
    let stacks = api.stacks.list()?.into_iter();
    Ok(ProjectContents {
        instances: containers.filter(|one| own(&one.labels)).map(|one| one.name).chain(machines).collect(),
        volumes: volumes.filter(|one| own(&one.labels)).map(|one| one.name).collect(),
        backups: backups.map(|one| ProjectBackup { volume: one.volume, id: one.id, bytes: one.bytes }).collect(),
        snapshots: snapshots
            .flat_map(|image| if image.repo_tags.is_empty() { vec![image.id.to_string()] } else { image.repo_tags })
            .collect(),
        networks: networks.filter(|one| own(&one.labels) && one.name != project).map(|one| one.name).collect(),
        uploads: uploads.filter(|one| one.project.as_deref() == Some(project)).map(|one| one.name).collect(),
        stacks: stacks.filter(|(_, one)| one.project.as_deref() == Some(project)).map(|(name, _)| name).collect(),
        tokens: api.identity.tokens().iter().filter(|(_, one)| one.project.as_deref() == Some(project)).count() as u64,
    })
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<ProjectContents>> {
    api.identity.project(&name)?;
    Ok(axum::Json(contents(&api, &name).await?))
}

/// What becomes of volumes and all else that is in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Keep,
    Remove,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveQuery {
    contents: Option<Wanted>,
}

pub(crate) async fn remove(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<Response> {
    api.identity.project(&name)?;
    // Whoever makes something in it meanwhile waits, and then finds no project.
    let turn = api.making.of(&name).await;
    let there = contents(&api, &name).await?;
    if !there.instances.is_empty() {
        let some = there.instances.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Error::conflict(format!("project {name} still has instances: {some}"))
            .with_hint("remove them first")
            .into());
    }
    let said = there.said();
    if let (None, Some(said)) = (query.contents, &said) {
        return Err(Error::conflict(format!("project {name} still has {said}"))
            .with_hint("?contents=remove removes them too; ?contents=keep leaves them, with the project's label")
            .into());
    }
    let (doing, project, removes) = (api.clone(), name.clone(), query.contents == Some(Wanted::Remove));
    let task = api.tasks.start(&who.user, "project.remove", &name, move |progress| async move {
        let (api, name, _turn) = (doing, project, turn);
        if removes {
            empty(&api, &name, &there, &progress).await?;
        }
        if let Ok(network) = api.engine.networks().inspect(&name)
            && of(&network.network.labels) == Some(&name)
        {
            api.engine.networks().remove(&name).await?;
        }
        api.identity.remove_project(&name).await
    })?;
    let mut response = axum::Json(task).into_response();
    if let Some(said) = said {
        let fate = if query.contents == Some(Wanted::Remove) { "removed" } else { "kept" };
        response.extensions_mut().insert(Target(format!("{said} {fate}")));
    }
    Ok(response)
}

/// Ends at the first that cannot be removed, with the project and the rest as they were: the next try goes on there.
async fn empty(api: &Api, project: &str, there: &ProjectContents, progress: &Progress) -> Result<()> {
    let all =
        [&there.stacks, &there.volumes, &there.snapshots, &there.networks].iter().map(|list| list.len()).sum::<usize>()
            + there.backups.len();
    let mut count = 0;
    let mut done = |what: &str, name: &str| {
        count += 1;
        progress.line(&format!("{what} {name} is removed"));
        progress.part(count, all as u64);
    };
    for stack in &there.stacks {
        api.stacks.forget(stack).await?;
        done("stack", stack);
    }
    for volume in &there.volumes {
        api.engine.volumes().remove(volume, false).await?;
        api.schedules.forget(volume).await?;
        done("volume", volume);
    }
    for backup in &there.backups {
        api.engine.volumes().remove_backup(&backup.volume, &backup.id).await?;
        done("backup", &format!("{} of {}", backup.id, backup.volume));
    }
    for snapshot in &there.snapshots {
        api.engine.images().remove(snapshot, RemoveOptions { force: false, no_prune: false }).await?;
        done("snapshot", snapshot);
    }
    for network in &there.networks {
        api.engine.networks().remove(network).await?;
        done("network", network);
    }
    for (id, upload) in api.uploads.list()? {
        if upload.project.as_deref() == Some(project) {
            api.uploads.remove(&id).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_counted_in_words() {
        let mut some = ProjectContents {
            instances: vec!["web".into()],
            volumes: Vec::new(),
            backups: Vec::new(),
            snapshots: Vec::new(),
            networks: Vec::new(),
            uploads: Vec::new(),
            stacks: Vec::new(),
            tokens: 3,
        };
        assert_eq!(some.said(), None, "instances and tokens are not asked about");
        some.volumes = vec!["a".into(), "b".into()];
        some.networks = vec!["n".into()];
        assert_eq!(some.said().as_deref(), Some("2 volumes, 1 network"));
    }
}
