//! The one table of routes: method, path, who may, what it does, what it takes and answers, and the handler.
//!
//! Router, permission check, audit log and OpenAPI description are all made from it, so none of them can forget
//! a route or tell something else than the others. (That is why this is a table of our own and no derive
//! macros beside handlers: those describe a route, but do not guard it.)

use crate::guard::{Guarded, guard};
use crate::identity::Role;
use crate::schema::{Defs, Schema};
use crate::{Api, BODY_BYTES_MAX};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) const PREFIX: &str = "/api/v1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Before signing in.
    Public,
    /// Everywhere; on a path that names a thing ([`crate::guard::Thing`]): in the thing's project.
    AtLeast(Role),
    /// Everywhere or in some project: the handler looks at the projects of what it shows or makes.
    Somewhere(Role),
}

pub(crate) const SIGNED_IN: Access = Access::AtLeast(Role::Member);
pub(crate) const SOME_VIEWER: Access = Access::Somewhere(Role::Viewer);
pub(crate) const SOME_OPERATOR: Access = Access::Somewhere(Role::Operator);
pub(crate) const VIEWER: Access = Access::AtLeast(Role::Viewer);
pub(crate) const OPERATOR: Access = Access::AtLeast(Role::Operator);
pub(crate) const ADMIN: Access = Access::AtLeast(Role::Admin);

struct Route<S> {
    method: Method,
    path: &'static str,
    access: Access,
    act: &'static str,
    about: &'static str,
    takes: Option<Value>,
    /// It takes bytes of any kind.
    raw: bool,
    gives: Value,
    handler: MethodRouter<S>,
}

pub(crate) struct Table<S = Api> {
    routes: Vec<Route<S>>,
    defs: Defs,
}

impl<S> Default for Table<S> {
    fn default() -> Table<S> {
        Table { routes: Vec::new(), defs: Defs::default() }
    }
}

impl<S: Clone + Send + Sync + 'static> Table<S> {
    /// `act` is the audit log's word; empty for what changes nothing or writes its own entry.
    pub(crate) fn add<Q: Schema, A: Schema, H, T>(
        &mut self,
        method: Method,
        path: &'static str,
        access: Access,
        act: &'static str,
        about: &'static str,
        handler: H,
    ) where
        H: Handler<T, S>,
        T: 'static,
    {
        let takes = Q::schema(&mut self.defs);
        let takes = (takes != json!({})).then_some(takes);
        let gives = A::schema(&mut self.defs);
        let filter = MethodFilter::try_from(method.clone()).expect("the table names common methods only");
        self.routes.push(Route {
            method,
            path,
            access,
            act,
            about,
            takes,
            raw: false,
            gives,
            handler: on(filter, handler),
        });
    }

    /// As [`add`](Self::add) for a body of any kind and size: the handler streams it, and has a limit of its own.
    pub(crate) fn upload<A: Schema, H, T>(
        &mut self,
        method: Method,
        path: &'static str,
        access: Access,
        act: &'static str,
        about: &'static str,
        handler: H,
    ) where
        H: Handler<T, S>,
        T: 'static,
    {
        self.add::<(), A, H, T>(method, path, access, act, about, handler);
        if let Some(route) = self.routes.pop() {
            let handler = route.handler.layer(DefaultBodyLimit::disable());
            self.routes.push(Route { handler, raw: true, ..route });
        }
    }

    /// The router with its prefix and without any guard: for the engine's own socket, whose users are root.
    pub(crate) fn unguarded(self) -> Router<S> {
        let inner = self.routes.into_iter().fold(Router::new(), |inner, route| inner.route(route.path, route.handler));
        let root = axum::Extension(crate::identity::Who::local());
        Router::new().nest(PREFIX, inner.layer(root).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)))
    }
}

impl Table<Api> {
    /// The router without its prefix, and the description of it.
    pub(crate) fn finish(mut self, api: &Api) -> (Router<Api>, Value) {
        crate::error::Failure::schema(&mut self.defs);
        let mut router = Router::new();
        let mut paths: BTreeMap<String, serde_json::Map<String, Value>> = BTreeMap::new();
        for route in self.routes {
            let description = describe(&route);
            let path = format!("{PREFIX}{}", route.path.replace("{*", "{"));
            paths.entry(path).or_default().insert(route.method.as_str().to_ascii_lowercase(), description);
            let thing = crate::guard::Thing::of(route.path);
            let guarded = Guarded { api: api.clone(), access: route.access, act: route.act, thing };
            let handler = route.handler.layer(axum::middleware::from_fn_with_state(guarded, guard));
            router = router.route(route.path, handler);
        }
        let description = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "berth",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "The engine's own API. Sign in with POST /session for a cookie, or send an API token as a bearer token. Requests by cookie that change something repeat the session's csrf value in x-berth-csrf.",
                "license": {"name": "Apache-2.0"},
            },
            "paths": paths,
            "components": {
                "schemas": self.defs.into_value(),
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer"},
                    "cookie": {"type": "apiKey", "in": "cookie", "name": crate::guard::COOKIE},
                },
            },
        });
        (router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)), description)
    }
}

fn describe<S>(route: &Route<S>) -> Value {
    let role = match route.access {
        Access::Public => "anybody",
        Access::AtLeast(role) | Access::Somewhere(role) => role.as_str(),
    };
    let parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}').map(|name| name.trim_start_matches('*')))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    let failure = json!({"description": "Refused or failed", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}});
    let mut description = json!({
        "summary": route.about,
        "x-role": role,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": route.gives}}},
            "default": failure,
        },
    });
    if !route.act.is_empty() {
        // One path stands for many there, with each method.
        description["operationId"] = match route.path.contains("{*") {
            true => json!(format!("{}.{}", route.act, route.method.as_str().to_ascii_lowercase())),
            false => json!(route.act),
        };
    }
    if let Some(takes) = &route.takes {
        description["requestBody"] = json!({"content": {"application/json": {"schema": takes}}});
    }
    if route.raw {
        description["requestBody"] =
            json!({"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}});
    }
    if route.access != Access::Public {
        description["security"] = json!([{"token": []}, {"cookie": []}]);
    }
    description
}
