//! Networks, who is on them, and who can reach what is published.

use super::Done;
use super::projects::labelled;
use crate::Api;
use crate::error::{ApiError, ApiResult};
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::{Role, Who, projects};
use crate::schema::{answers, requests};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::Filters;
use berth_engine::networks::{BlockSpec, NetworkSpec};
use berth_types::Error;
use berth_types::spec::EndpointSpec;
use std::collections::BTreeMap;

answers! {
    NetworkRow {
        id: String,
        name: String,
        driver: String,
        /// Its interface on the host.
        bridge: String,
        subnets: Vec<String>,
        gateways: Vec<String>,
        /// No way out of it.
        internal: bool,
        /// bridge, host and none are always there.
        predefined: bool,
        created_unix_millis: i64,
        labels: BTreeMap<String, String>,
        /// Instances that run on it.
        members: Vec<Member>,
    }
    Member { id: String, name: String, ipv4: Option<String>, ipv6: Option<String> }
}

requests! {
    NewNetwork {
        /// Empty: in none, or in the only one that its maker has.
        project: String,
        name: String,
        /// For example 10.20.0.0/24; empty: chosen so that it meets no route of the host.
        subnet: String,
        internal: bool,
        ipv6: bool,
        labels: BTreeMap<String, String>,
    }
    Join { instance: String, aliases: Vec<String> }
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<NetworkRow>>> {
    let networks = api.engine.networks().list(&Filters::default())?;
    let seen = networks.into_iter().filter(|view| who.sees(&view.network.labels));
    let rows = seen.map(|view| NetworkRow {
        id: view.network.id.to_string(),
        predefined: view.network.is_predefined(),
        name: view.network.name,
        driver: view.network.driver.as_str().to_owned(),
        bridge: view.network.bridge,
        subnets: view.network.blocks.iter().map(|block| block.subnet.to_string()).collect(),
        gateways: view
            .network
            .blocks
            .iter()
            .filter_map(|block| block.gateway.map(|address| address.to_string()))
            .collect(),
        internal: view.network.internal,
        created_unix_millis: view.network.created_unix_nanos / 1_000_000,
        labels: view.network.labels,
        members: (view.containers.into_iter())
            .map(|(id, name, endpoint)| Member {
                id: id.to_string(),
                name,
                ipv4: endpoint.ipv4.map(|(address, _)| address.to_string()),
                ipv6: endpoint.ipv6.map(|(address, _)| address.to_string()),
            })
            .collect(),
    });
    Ok(axum::Json(rows.collect()))
}

pub(crate) async fn create(State(api): State<Api>, who: Who, Json(body): Json<NewNetwork>) -> ApiResult<Response> {
    let project = who.place(&body.project)?;
    if let Some(project) = &project {
        api.identity.project(project)?;
    }
    let labels = labelled(body.labels, project)?;
    let mut blocks = Vec::new();
    if !body.subnet.is_empty() {
        let subnet = body.subnet.parse().map_err(|_| {
            Error::invalid(format!("{:?} is not a subnet", body.subnet)).with_hint("write it as 10.20.0.0/24")
        });
        blocks.push(BlockSpec { subnet: Some(subnet?), ..BlockSpec::default() });
    }
    let target = body.name.clone();
    let spec = NetworkSpec {
        name: body.name,
        blocks,
        internal: body.internal,
        enable_ipv6: body.ipv6.then_some(true),
        labels,
        ..NetworkSpec::default()
    };
    api.engine.networks().create(spec).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(target));
    Ok(response)
}

pub(crate) async fn remove(State(api): State<Api>, Path(name): Path<String>) -> ApiResult<axum::Json<Done>> {
    api.engine.networks().remove(&name).await?;
    Ok(Done::plainly())
}

/// Both ends are in one project, or `who` may change both wherever they are.
async fn both(api: &Api, who: &Who, network: &str, instance: &str) -> ApiResult<()> {
    let found = api.engine.containers().inspect(instance, false).await;
    let project = found.as_ref().ok().and_then(|found| projects::of(&found.spec.config.labels));
    if who.role_on(project) < Role::Viewer {
        return Err(Error::not_found(format!("there is nothing called {instance} here")).into());
    }
    if who.role_on(project) < Role::Operator {
        return Err(ApiError::forbidden(format!("{} may not change {instance}", who.user)));
    }
    let there = api.engine.networks().inspect(network)?;
    let there = projects::of(&there.network.labels);
    match there == project || there.is_none() || project.is_none() {
        true => Ok(()),
        false => Err(Error::conflict(format!("{instance} and network {network} are in different projects")).into()),
    }
}

pub(crate) async fn join(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Json(body): Json<Join>,
) -> ApiResult<Response> {
    both(&api, &who, &name, &body.instance).await?;
    let spec = EndpointSpec { aliases: body.aliases, ..EndpointSpec::default() };
    api.engine.networks().connect(&body.instance, &name, spec).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(body.instance));
    Ok(response)
}

pub(crate) async fn leave(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Json(body): Json<Join>,
) -> ApiResult<Response> {
    both(&api, &who, &name, &body.instance).await?;
    api.engine.networks().disconnect(&body.instance, &name, false).await?;
    let mut response = Done::plainly().into_response();
    response.extensions_mut().insert(Target(body.instance));
    Ok(response)
}
