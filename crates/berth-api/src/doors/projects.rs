//! Projects with their members and quotas.

use super::Done;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::projects::{LABEL, Quota, of};
use crate::identity::{Role, Who};
use crate::quota::{Usage, usage};
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::networks::NetworkSpec;
use berth_types::spec::{ContainerSpec, EndpointSpec, MountKind, NetworkMode};
use berth_types::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

answers! {
    ProjectRow {
        name: String,
        about: String,
        created_unix_millis: i64,
        quota: QuotaView,
        used: Usage,
        /// Users and their roles here; absent for those who are no administrators.
        members: Option<BTreeMap<String, String>>,
        /// What the caller may do here.
        role: String,
    }
    /// 0 is no limit.
    QuotaView { instances: u64, cpus: f64, memory_bytes: u64, disk_bytes: u64 }
}

requests! {
    NewProject {
        /// Also the name of its network.
        name: String,
        about: String,
        quota: QuotaWish,
        /// Users and their roles: viewer or operator.
        members: BTreeMap<String, String>,
    }
    /// What is left out stays; members and quota are replaced whole.
    ChangeProject {
        about: Option<String>,
        quota: Option<QuotaWish>,
        members: Option<BTreeMap<String, String>>,
    }
    /// 0 is no limit.
    QuotaWish { instances: u64, cpus: f64, memory_bytes: u64, disk_bytes: u64 }
}

impl QuotaWish {
    fn quota(&self) -> Quota {
        Quota {
            instances: self.instances,
            cpus: self.cpus,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
        }
    }
}

fn roles(members: BTreeMap<String, String>) -> Result<BTreeMap<String, Role>> {
    members.into_iter().map(|(user, role)| Ok((user, Role::parse(&role)?))).collect()
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<ProjectRow>>> {
    let all = api.identity.projects();
    let mine: Vec<_> = all.into_iter().filter(|(name, _)| who.role_on(Some(name)) >= Role::Viewer).collect();
    let quotas: Vec<(&str, Quota)> = mine.iter().map(|(name, project)| (name.as_str(), project.quota)).collect();
    let mut used = usage(&api, &quotas).await?;
    let mut rows = Vec::with_capacity(mine.len());
    for (name, project) in mine {
        let Some(used) = used.remove(&name) else { continue };
        let Quota { instances, cpus, memory_bytes, disk_bytes } = project.quota;
        let names = |members: BTreeMap<String, Role>| {
            members.into_iter().map(|(user, role)| (user, role.as_str().to_owned())).collect()
        };
        rows.push(ProjectRow {
            role: who.role_on(Some(&name)).as_str().to_owned(),
            name,
            about: project.about,
            created_unix_millis: project.created_unix * 1000,
            quota: QuotaView { instances, cpus, memory_bytes, disk_bytes },
            used,
            members: (who.role == Role::Admin).then(|| names(project.members)),
        });
    }
    Ok(axum::Json(rows))
}

pub(crate) async fn create(State(api): State<Api>, Json(body): Json<NewProject>) -> ApiResult<Response> {
    let network = match api.engine.networks().inspect(&body.name) {
        Ok(there) if of(&there.network.labels) == Some(&body.name) => None,
        Ok(_) => {
            let message = format!("there is a network {} already, and a project's network has its name", body.name);
            return Err(Error::conflict(message).into());
        }
        Err(_) => Some(NetworkSpec {
            name: body.name.clone(),
            labels: BTreeMap::from([(LABEL.to_owned(), body.name.clone())]),
            ..NetworkSpec::default()
        }),
    };
    let (quota, members) = (body.quota.quota(), roles(body.members)?);
    api.identity.put_project(&body.name, true, Some(body.about), Some(quota), Some(members)).await?;
    if let Some(network) = network
        && let Err(error) = api.engine.networks().create(network).await
    {
        // Without its network it is no project: the next try begins anew.
        api.identity.remove_project(&body.name).await?;
        return Err(error.into());
    }
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(body.name));
    Ok(response)
}

pub(crate) async fn change(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(body): Json<ChangeProject>,
) -> ApiResult<Response> {
    let mut said = Vec::new();
    said.extend(body.quota.as_ref().map(|quota| {
        let QuotaWish { instances, cpus, memory_bytes, disk_bytes } = quota;
        format!("quota {instances} instances, {cpus} processors, {memory_bytes} bytes of memory, {disk_bytes} of disk")
    }));
    said.extend(body.members.as_ref().map(|members| {
        let all = members.iter().map(|(user, role)| format!("{user} as {role}"));
        format!("members {}", all.collect::<Vec<_>>().join(", "))
    }));
    let quota = body.quota.as_ref().map(QuotaWish::quota);
    api.identity.put_project(&name, false, body.about, quota, body.members.map(roles).transpose()?).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(said.join("; ")));
    Ok(response)
}

/// `labels` with the project's.
pub(crate) fn labelled(
    mut labels: BTreeMap<String, String>,
    project: Option<String>,
) -> Result<BTreeMap<String, String>> {
    match project {
        Some(project) => drop(labels.insert(LABEL.to_owned(), project)),
        None if of(&labels).is_some() => {
            return Err(Error::invalid(format!("the label {LABEL} is given by the project"))
                .with_hint("say the project instead of the label"));
        }
        None => {}
    }
    Ok(labels)
}

/// Puts `spec` into `project`: its label, its network where none is asked for, its volumes. Refuses what belongs to
/// a project in which `who` may change nothing.
pub(crate) async fn settle(api: &Api, who: &Who, spec: &mut ContainerSpec, project: Option<&str>) -> ApiResult<()> {
    spec.config.labels = labelled(std::mem::take(&mut spec.config.labels), project.map(str::to_owned))?;
    let Some(project) = project else { return Ok(()) };
    api.identity.project(project)?;
    if spec.host.network_mode == NetworkMode::Default && api.engine.networks().inspect(project).is_ok() {
        spec.host.network_mode = NetworkMode::Named(project.to_owned());
        spec.endpoints = BTreeMap::from([(project.to_owned(), EndpointSpec::default())]);
    }
    if who.role >= Role::Operator {
        return Ok(());
    }
    let strange = |what: String| -> ApiResult<()> {
        Err(Error::new(ErrorKind::Forbidden, format!("{what} is not in project {project}")).into())
    };
    match &spec.host.network_mode {
        NetworkMode::None | NetworkMode::Named(_) => {}
        NetworkMode::Default | NetworkMode::Host => return strange("the default network".to_owned()),
        NetworkMode::Container(other) => return strange(format!("the network of {other}")),
    }
    for network in spec.endpoints.keys() {
        let found = api.engine.networks().inspect(network)?;
        if of(&found.network.labels) != Some(project) {
            return strange(format!("network {network}"));
        }
    }
    if !spec.host.volumes_from.is_empty() {
        return strange("what volumes-from names".to_owned());
    }
    let bound = spec.host.binds.iter().filter_map(|bind| bind.split(':').next()).filter(|name| !name.starts_with('/'));
    let mounted = spec.host.mounts.iter().filter(|mount| mount.kind == MountKind::Volume);
    let named: Vec<String> = bound
        .chain(mounted.map(|mount| mount.source.as_str()))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    for name in named {
        match api.engine.volumes().inspect(&name).await {
            Ok(volume) if of(&volume.labels) == Some(project) => {}
            Ok(_) => return strange(format!("volume {name}")),
            // Made here, or the engine would make it without its label.
            Err(error) if error.kind == ErrorKind::NotFound => {
                let labels = BTreeMap::from([(LABEL.to_owned(), project.to_owned())]);
                let request = berth_engine::volumes::VolumeCreate { name, labels, ..Default::default() };
                api.engine.volumes().create(request).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
