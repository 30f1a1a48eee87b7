//! Stacks: compose files that are edited, put up, updated and taken down here.

use super::Done;
use crate::Api;
use crate::error::ApiResult;
use crate::extract::{Json, Query};
use crate::guard::Target;
use crate::identity::projects::of;
use crate::identity::{Role, Who};
use crate::quota::room;
use crate::schema::{answers, requests};
use crate::stacks::git::Source;
use crate::stacks::model::{self, ServiceView};
use crate::stacks::{self, Compose, PROJECT, Stack};
use crate::tasks::Task;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_engine::containers::{ListOptions, Summary};
use berth_types::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

answers! {
    StackRow {
        name: String,
        project: Option<String>,
        /// Its text is kept here; else it was put up by `docker compose` on the host.
        kept: bool,
        who: Option<String>,
        changed_unix_millis: Option<i64>,
        instances: u64,
        running: u64,
    }
    StackDetail {
        name: String,
        project: Option<String>,
        kept: bool,
        /// The compose file; empty where it is not kept here.
        text: String,
        /// Where it comes from, if not from whoever put it up.
        git: Option<GitView>,
    }
    /// A compose file of a commit.
    GitView {
        url: String,
        branch: String,
        path: String,
        commit: String,
        /// The commit's first line.
        subject: String,
        committed_unix_millis: i64,
        /// A token is kept for it.
        token: bool,
    }
    GitText { git: GitView, text: String }
    /// What a compose file means.
    StackCheck {
        services: Vec<ServiceView>,
        volumes: Vec<String>,
        networks: Vec<String>,
        /// Of the plugin, and why only an administrator could put it up.
        warnings: Vec<String>,
        /// The caller may put it up.
        allowed: bool,
    }
}

requests! {
    CheckStack { name: String, text: String }
    /// Where in a repository.
    GitWish {
        /// https://...
        url: String,
        /// A branch or tag; empty: what the repository itself has as its first.
        branch: String,
        /// Of the compose file in it.
        path: String,
        /// 40 hexadecimal digits; empty: the newest of the branch.
        commit: String,
        /// For a repository that not everybody may read; empty: the one that is kept for the stack.
        token: String,
    }
    ReadGit {
        git: GitWish,
        /// The stack whose token is used; empty: none.
        stack: String,
    }
    PutStack {
        /// Not with git.
        text: String,
        /// Its text is this commit's.
        git: Option<GitWish>,
        /// Of a new stack; empty: in none, or in the only one that its maker has.
        project: String,
        /// One service after the other, new instances beside the old ones where two can run.
        rolling: bool,
    }
    ActOnStack {
        /// start, stop, restart, pull or scale.
        action: String,
        /// One service only; empty: all.
        service: String,
        /// With scale.
        replicas: u64,
    }
}

async fn members(api: &Api) -> Result<BTreeMap<String, Vec<Summary>>> {
    let options = ListOptions { all: true, ..ListOptions::default() };
    let mut stacks: BTreeMap<String, Vec<Summary>> = BTreeMap::new();
    for one in api.engine.containers().list(&options).await? {
        if let Some(name) = one.labels.get(PROJECT).cloned() {
            stacks.entry(name).or_default().push(one);
        }
    }
    Ok(stacks)
}

/// The project of those that it has; `None` too where they are in several.
fn project_of(members: &[Summary]) -> Option<String> {
    let first = of(&members.first()?.labels)?;
    members.iter().all(|one| of(&one.labels) == Some(first)).then(|| first.to_owned())
}

/// A stack and what `who` may do with it. One that is not there and one that they may not see look the same.
async fn find(
    api: &Api,
    who: &Who,
    name: &str,
    role: Role,
) -> ApiResult<(Option<Stack>, Option<String>, Vec<Summary>)> {
    stacks::check_name(name)?;
    let kept = api.stacks.get(name)?;
    let there = members(api).await?.remove(name).unwrap_or_default();
    let none = || Error::not_found(format!("there is no stack {name}"));
    if kept.is_none() && there.is_empty() {
        return Err(none().into());
    }
    let project = kept.as_ref().map_or_else(|| project_of(&there), |stack| stack.project.clone());
    let has = who.role_on(project.as_deref());
    if has < Role::Viewer {
        return Err(none().into());
    }
    // Instances of other projects under its name are not theirs to stop.
    let foreign = there.iter().any(|one| who.role_on(of(&one.labels)) < role);
    if has < role || foreign {
        let message =
            format!("{} is a {} of stack {name}, and this needs the role {}", who.user, has.as_str(), role.as_str());
        return Err(Error::new(ErrorKind::Forbidden, message).into());
    }
    Ok((kept, project, there))
}

pub(crate) async fn list(State(api): State<Api>, who: Who) -> ApiResult<axum::Json<Vec<StackRow>>> {
    let mut there = members(&api).await?;
    let mut rows = Vec::new();
    let running = |all: &[Summary]| all.iter().filter(|one| one.state.word().as_str() == "running").count() as u64;
    for (name, stack) in api.stacks.list()? {
        let all = there.remove(&name).unwrap_or_default();
        rows.push(StackRow {
            instances: all.len() as u64,
            running: running(&all),
            name,
            project: stack.project,
            kept: true,
            who: Some(stack.who),
            changed_unix_millis: Some(stack.changed_unix_millis),
        });
    }
    rows.extend(there.into_iter().map(|(name, all)| StackRow {
        instances: all.len() as u64,
        running: running(&all),
        project: project_of(&all),
        name,
        kept: false,
        who: None,
        changed_unix_millis: None,
    }));
    rows.retain(|row| who.role_on(row.project.as_deref()) >= Role::Viewer);
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(axum::Json(rows))
}

pub(crate) async fn inspect(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
) -> ApiResult<axum::Json<StackDetail>> {
    let (kept, project, _) = find(&api, &who, &name, Role::Viewer).await?;
    // Values of environment variables stand in the text.
    let text = match who.role_on(project.as_deref()) >= Role::Operator {
        true => kept.as_ref().map(|stack| stack.text.clone()).unwrap_or_default(),
        false => String::new(),
    };
    let git = kept.as_ref().and_then(|stack| stack.git.as_ref()).map(view);
    Ok(axum::Json(StackDetail { name, project, kept: kept.is_some(), text, git }))
}

fn view(source: &Source) -> GitView {
    GitView {
        url: source.url.clone(),
        branch: source.branch.clone(),
        path: source.path.clone(),
        commit: source.commit.clone(),
        subject: source.subject.clone(),
        committed_unix_millis: source.committed_unix_millis,
        token: !source.token.is_empty(),
    }
}

/// `wish` with the token that is kept for `stack`, which is for the same repository only.
fn source(wish: GitWish, stack: Option<&Stack>) -> Source {
    let GitWish { url, branch, path, commit, token } = wish;
    let kept = stack.and_then(|stack| stack.git.as_ref()).filter(|kept| token.is_empty() && kept.url == url);
    let token = kept.map_or(token, |kept| kept.token.clone());
    Source { url, branch, path, commit, token, ..Source::default() }
}

pub(crate) async fn read_git(
    State(api): State<Api>,
    who: Who,
    Json(body): Json<ReadGit>,
) -> ApiResult<axum::Json<GitText>> {
    let kept = match body.stack.as_str() {
        "" => None,
        name => find(&api, &who, name, Role::Operator).await?.0,
    };
    let read = source(body.git, kept.as_ref()).read().await?;
    Ok(axum::Json(GitText { git: view(&read.source), text: read.text }))
}

/// The plain model of a text, and why only an administrator may put it up.
async fn read(api: &Api, compose: &Compose, name: &str, text: &str) -> Result<(Value, Vec<String>, Vec<String>)> {
    stacks::check_name(name)?;
    let (model, warnings) = compose.read(name, text, &api.stacks.folder(name)).await?;
    if model::labelled(&model) {
        return Err(Error::invalid(format!("the label {} is given by the project", crate::identity::projects::LABEL))
            .with_hint("take the label out of the text and choose the project"));
    }
    let beyond = model::beyond(&model);
    Ok((model, warnings, beyond))
}

pub(crate) async fn check(
    State(api): State<Api>,
    who: Who,
    Json(body): Json<CheckStack>,
) -> ApiResult<axum::Json<StackCheck>> {
    let compose = Compose::find(api.engine_host.as_deref())?;
    let name = if body.name.is_empty() { "stack" } else { &body.name };
    let (model, mut warnings, beyond) = read(&api, &compose, name, &body.text).await?;
    warnings.extend(beyond.iter().map(|what| format!("only an administrator may put up: {what}")));
    Ok(axum::Json(StackCheck {
        services: model::services(&model),
        volumes: model::names(&model, "volumes"),
        networks: model::names(&model, "networks"),
        warnings,
        allowed: who.role == Role::Admin || beyond.is_empty(),
    }))
}

/// Volumes and networks that the text names and that are there already belong to whoever may use them here.
async fn own(api: &Api, who: &Who, name: &str, model: &Value, project: Option<&str>) -> ApiResult<()> {
    let mine = |labels: &BTreeMap<String, String>| {
        of(labels) == project && project.is_some() || who.role_on(of(labels)) >= Role::Operator
    };
    let strange = |what: String| -> ApiResult<()> {
        Err(Error::new(ErrorKind::Forbidden, format!("{what} of stack {name} belongs to somebody else")).into())
    };
    for service in model::services(model) {
        super::saved::check(api, who, &service.image)?;
    }
    for volume in model::names(model, "volumes") {
        match api.engine.volumes().inspect(&volume).await {
            Ok(there) if !mine(&there.labels) => return strange(format!("volume {volume}")),
            _ => {}
        }
    }
    for network in model::names(model, "networks") {
        match api.engine.networks().inspect(&network) {
            Ok(there) if !mine(&there.network.labels) => return strange(format!("network {network}")),
            _ => {}
        }
    }
    Ok(())
}

fn answer(task: Task, target: String) -> Response {
    let mut response = axum::Json(task).into_response();
    response.extensions_mut().insert(Target(target));
    response
}

pub(crate) async fn put(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Json(body): Json<PutStack>,
) -> ApiResult<Response> {
    let compose = Compose::find(api.engine_host.as_deref())?;
    let (known, project, there) = match find(&api, &who, &name, Role::Operator).await {
        Ok(found) => found,
        Err(error) if error.error.kind == ErrorKind::NotFound => {
            // Somebody else's may have that name: its label is the plugin's key.
            if api.stacks.get(&name)?.is_some() || members(&api).await?.contains_key(&name) {
                return Err(Error::conflict(format!("the name {name} is taken")).into());
            }
            (None, who.place(&body.project)?, Vec::new())
        }
        Err(error) => return Err(error),
    };
    let (text, git) = match body.git {
        None => (body.text, None),
        Some(_) if !body.text.is_empty() => {
            return Err(Error::invalid("a stack's text is given, or comes from a repository: not both").into());
        }
        Some(wish) => {
            let read = source(wish, known.as_ref()).read().await?;
            (read.text, Some(read.source))
        }
    };
    let (mut model, warnings, beyond) = read(&api, &compose, &name, &text).await?;
    if who.role != Role::Admin && !beyond.is_empty() {
        let message = format!("only an administrator may put up: {}", beyond.join(", "));
        return Err(Error::new(ErrorKind::Forbidden, message)
            .with_hint("use volumes instead of folders of the host, or ask an administrator")
            .into());
    }
    own(&api, &who, &name, &model, project.as_deref()).await?;
    if let Some(project) = &project {
        model::label(&mut model, project)?;
    }
    let without: Vec<String> = there.iter().map(|one| one.id.to_string()).collect();
    let ids: Vec<&str> = without.iter().map(String::as_str).collect();
    drop(room(&api, project.as_deref(), &model::needs(&model), &ids).await?);
    let mut target =
        format!("{}{}", if body.rolling { "rolling, " } else { "" }, if known.is_some() { "changed" } else { "new" });
    if let Some(git) = &git {
        target.push_str(&format!(", {git:?}"));
    }
    let (doing, of) = (api.clone(), name.clone());
    let stack = Stack {
        text,
        git,
        project: project.clone(),
        who: who.user.clone(),
        changed_unix_millis: berth_engine::events::now_unix_nanos() / 1_000_000,
    };
    // Kept from the beginning: a text whose instances did not start can be corrected.
    api.stacks.put(&name, &stack).await?;
    let task = api.tasks.start(&who.user, "stack.put", &name, move |progress| async move {
        let (api, name) = (doing, of);
        for warning in warnings {
            progress.line(&warning);
        }
        let next = api.stacks.write_next(&name, &model)?;
        let ids: Vec<&str> = without.iter().map(String::as_str).collect();
        let turn = room(&api, project.as_deref(), &model::needs(&model), &ids).await.map_err(|error| error.error)?;
        match body.rolling && !there.is_empty() {
            true => {
                let before = api.stacks.model_file(&name);
                stacks::roll(&api.engine, &compose, &name, &model, (&next, Some(&before)), &progress).await?;
            }
            false => compose.run(&name, &next, &["up", "-d", "--remove-orphans"], &progress).await?,
        }
        drop(turn);
        api.stacks.keep(&name, &next)
    })?;
    Ok(answer(task, target))
}

pub(crate) async fn act(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Json(body): Json<ActOnStack>,
) -> ApiResult<Response> {
    let (kept, project, there) = find(&api, &who, &name, Role::Operator).await?;
    let compose = Compose::find(api.engine_host.as_deref())?;
    let file = api.stacks.model_file(&name);
    if kept.is_none() || !file.exists() {
        return Err(Error::conflict(format!("stack {name} was not put up here"))
            .with_hint("put its compose file up here, or use docker compose on the host")
            .into());
    }
    let service = (!body.service.is_empty()).then_some(body.service.as_str());
    if service.is_some_and(|name| {
        !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) || name.starts_with('-')
    }) {
        return Err(Error::invalid(format!("{:?} is not a service's name", body.service)).into());
    }
    let bytes = std::fs::read(&file)
        .map_err(|cause| Error::because(ErrorKind::Internal, format!("cannot read {}", file.display()), &cause))?;
    let mut model: Value = serde_json::from_slice(&bytes)
        .map_err(|cause| Error::because(ErrorKind::Internal, format!("cannot read {}", file.display()), &cause))?;
    let mut words: Vec<String> = match body.action.as_str() {
        "start" | "stop" | "restart" => vec![body.action.clone()],
        "pull" => vec!["pull".to_owned(), "--ignore-buildable".to_owned()],
        "scale" => {
            let wanted = service.and_then(|service| model["services"].get_mut(service));
            let Some(wanted) = wanted else {
                return Err(Error::invalid("say which service of the stack to scale").into());
            };
            wanted["scale"] = body.replicas.into();
            if let Some(deploy) = wanted.get_mut("deploy").and_then(Value::as_object_mut) {
                deploy.insert("replicas".to_owned(), body.replicas.into());
            }
            let count = format!("{}={}", body.service, body.replicas);
            ["up", "-d", "--no-deps", "--no-recreate", "--scale", &count].map(str::to_owned).to_vec()
        }
        other => {
            return Err(Error::invalid(format!(
                "unknown action {other:?}: must be start, stop, restart, pull or scale"
            ))
            .into());
        }
    };
    words.extend(service.map(str::to_owned));
    let scales = body.action == "scale";
    let without: Vec<String> = there.iter().map(|one| one.id.to_string()).collect();
    let target = [body.action.as_str(), &body.service].join(" ").trim().to_owned();
    let (doing, of) = (api.clone(), name.clone());
    let task = api.tasks.start(&who.user, &format!("stack.{}", body.action), &name, move |progress| async move {
        let (api, name) = (doing, of);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if !scales {
            return compose.run(&name, &file, &words, &progress).await;
        }
        let ids: Vec<&str> = without.iter().map(String::as_str).collect();
        let turn = room(&api, project.as_deref(), &model::needs(&model), &ids).await.map_err(|error| error.error)?;
        let next = api.stacks.write_next(&name, &model)?;
        compose.run(&name, &next, &words, &progress).await?;
        drop(turn);
        api.stacks.keep(&name, &next)
    })?;
    Ok(answer(task, target))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RemoveQuery {
    volumes: bool,
}

pub(crate) async fn remove(
    State(api): State<Api>,
    who: Who,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<Response> {
    let (kept, _, there) = find(&api, &who, &name, Role::Operator).await?;
    let file = api.stacks.model_file(&name);
    // One that never came up has nothing to take down.
    let compose = match there.is_empty() && !file.exists() {
        true => None,
        false => Some(Compose::find(api.engine_host.as_deref())?),
    };
    let model = match (file.exists(), &kept) {
        (true, _) => file,
        // By its labels alone: the plugin needs no text to take something down.
        (false, _) => std::path::PathBuf::from("/dev/null"),
    };
    let target = if query.volumes { "with its volumes" } else { "" };
    let (doing, of) = (api.clone(), name.clone());
    let task = api.tasks.start(&who.user, "stack.remove", &name, move |progress| async move {
        let (api, name) = (doing, of);
        if let Some(compose) = compose {
            let mut words = vec!["down", "--remove-orphans"];
            if query.volumes {
                words.push("--volumes");
            }
            compose.run(&name, &model, &words, &progress).await?;
        }
        api.stacks.forget(&name).await
    })?;
    Ok(answer(task, target.to_owned()))
}

/// Whether stacks can be used on this host; a page says so before anybody has typed a text.
pub(crate) async fn ready(State(api): State<Api>) -> ApiResult<axum::Json<Done>> {
    Compose::find(api.engine_host.as_deref())?;
    Ok(Done::plainly())
}
