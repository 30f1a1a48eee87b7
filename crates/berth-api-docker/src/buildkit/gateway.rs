//! `LLBBridge`: the calls of a client that builds by calls, which buildx does for every build.
//!
//! A call of the frontend is only noted and answered with a reference; what the client returns in the end is built.

use super::promise::Asked;
use super::request::{check_frontend, unimplemented};
use super::solve::{Live, Returned};
use super::usage::worker;
use super::{Door, questions};
use berth_buildkit::grpc::{Call, Code, Status};
use berth_buildkit::proto::Empty;
use berth_buildkit::proto::gateway::{
    Capability, EvaluateRequest, InputsResponse, PongResponse, Ref, Result as Outcome, ReturnRequest, SolveRequest,
    SolveResponse,
};
use std::sync::Arc;

/// Whose call it is.
const BUILD: &str = "buildkit-controlapi-buildid";
/// What this end understands of the gateway's calls.
const FRONTEND: [&str; 10] = [
    "solve.base",
    "return",
    "returnmap",
    "proto.refarray",
    "importcaches",
    "gateway.solve.metadata",
    "reference.output",
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.solve.evaluate",
];
/// What clients ask for before they use it in a build's definition.
const LLB: [&str; 12] = [
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "constraints",
    "platform",
    "meta.description",
];

pub(super) async fn build_of(door: &Door, call: &Call) -> Result<Arc<Live>, Status> {
    match call.metadata(BUILD) {
        Some(reference) => door.builds.get(reference).await,
        None => Err(Status::new(Code::InvalidArgument, "no buildid found in context")),
    }
}

pub(super) fn pong(door: &Door) -> PongResponse {
    let capability = |id: &&str| Capability { id: (*id).to_owned(), enabled: true };
    PongResponse {
        frontend: FRONTEND.iter().map(capability).collect(),
        llb: LLB.iter().map(capability).collect(),
        workers: vec![worker(&door.engine)],
    }
}

pub(super) async fn solve(door: &Door, build: &Live, request: SolveRequest) -> Result<SolveResponse, Status> {
    if request.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
        return Err(unimplemented("this builder takes Dockerfiles, no definitions in LLB"));
    }
    if request.frontend.is_empty() {
        // What an empty definition comes to: nothing.
        return Ok(SolveResponse { result: Some(Outcome::default()) });
    }
    check_frontend(&request.frontend, &request.frontend_opt)?;
    if let Some(name) = request.frontend_opt.get("requestid") {
        let session = door.sessions.get(build.session()).await?;
        let metadata = questions::answer(door, &session, &build.progress, name, &request.frontend_opt).await?;
        return Ok(SolveResponse { result: Some(Outcome { metadata, ..Outcome::default() }) });
    }
    let asked = Asked {
        frontend: request.frontend,
        attrs: request.frontend_opt,
        inputs: door.promises.inputs(&request.frontend_inputs)?,
        entitlements: build.entitlements.clone(),
    };
    let promise = build.promise(door, asked)?;
    if request.evaluate {
        promise.image(door).await?;
    }
    let reference = Some(Ref { id: promise.name.clone(), definition: Some(promise.definition()) });
    Ok(SolveResponse { result: Some(Outcome { reference, ..Outcome::default() }) })
}

/// Builds what a reference stands for, before it is returned.
pub(super) async fn evaluate(door: &Door, request: EvaluateRequest) -> Result<Empty, Status> {
    door.promises.get(&request.reference)?.image(door).await.map(|_| Empty {})
}

pub(super) fn give_back(build: &Live, request: ReturnRequest) -> Result<Empty, Status> {
    let returned = match (request.error, request.result) {
        (Some(error), _) => Returned::Failed(Status::from_rpc(error)),
        (None, result) => {
            let result = result.unwrap_or_default();
            let refs = result.refs.unwrap_or_default().refs;
            if refs.len() > 1 {
                let status = unimplemented("a build for several platforms at once");
                build.give_back(Returned::Failed(status.clone()))?;
                return Err(status);
            }
            let one = result.reference.or_else(|| refs.into_values().next());
            let id = one.map(|one| one.id).or(result.ref_deprecated);
            Returned::Result(id.filter(|id| !id.is_empty()))
        }
    };
    build.give_back(returned).map(|()| Empty {})
}

pub(super) fn inputs() -> InputsResponse {
    InputsResponse::default()
}
