//! The calls, one table.

use super::{Door, gateway, session, solve, usage};
use berth_buildkit::grpc::{Call, Code, Reply, Status, reply, stream};
use berth_buildkit::proto::control::{InfoResponse, ListWorkersResponse, SolveRequest, StatusRequest};
use berth_buildkit::proto::{Empty, HealthResponse};
use std::sync::Arc;

const CONTROL: &str = "/moby.buildkit.v1.Control/";
const GATEWAY: &str = "/moby.buildkit.v1.frontend.LLBBridge/";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

pub(super) async fn answer(door: Arc<Door>, mut call: Call) -> Reply {
    let path = call.path().to_owned();
    if let Some(name) = path.strip_prefix(CONTROL) {
        return control(door, name, call).await;
    }
    match path.strip_prefix(GATEWAY) {
        Some(name) => bridge(&door, name, &mut call).await,
        None if path == HEALTH => reply(Ok(HealthResponse { status: HealthResponse::SERVING })),
        None => unknown(&path),
    }
}

fn unknown(path: &str) -> Reply {
    reply::<Empty>(Err(Status::new(Code::Unimplemented, format!("unknown method {path}"))))
}

async fn control(door: Arc<Door>, name: &str, mut call: Call) -> Reply {
    match name {
        "Solve" => {
            let solved = async {
                let request: SolveRequest = call.only().await?;
                solve::Begun::new(&door, &request)?.run(&door, request, None).await
            };
            reply(solved.await)
        }
        "Status" => {
            let found = async {
                let request: StatusRequest = call.only().await?;
                door.builds.get(&request.reference).await
            };
            match found.await {
                Ok(build) => {
                    stream(|answers| async move { build.progress.tell(|message| answers.send(message)).await })
                }
                Err(status) => reply::<Empty>(Err(status)),
            }
        }
        "Session" => match session::tunnel(&door.sessions, call) {
            Ok(answer) => answer,
            Err(error) => reply::<Empty>(Err(solve::plain(&error))),
        },
        "ListWorkers" => reply(Ok(ListWorkersResponse { record: vec![usage::worker(&door.engine)] })),
        "Info" => reply(Ok(InfoResponse { version: Some(usage::version()) })),
        "DiskUsage" => reply(async { usage::disk_usage(&door.engine, call.only().await?).await }.await),
        "Prune" => match async { usage::prune(&door.engine, call.only().await?).await }.await {
            Ok(gone) => stream(|answers| async move {
                for record in gone {
                    answers.send(record).await?;
                }
                Ok(())
            }),
            Err(status) => reply::<Empty>(Err(status)),
        },
        "ListenBuildHistory" | "UpdateBuildHistory" => {
            reply::<Empty>(Err(super::request::unimplemented("this builder keeps no history of its builds")))
        }
        _ => unknown(call.path()),
    }
}

async fn bridge(door: &Door, name: &str, call: &mut Call) -> Reply {
    let build = match gateway::build_of(door, call).await {
        Ok(build) => build,
        Err(status) => return reply::<Empty>(Err(status)),
    };
    match name {
        "Ping" => reply(Ok(gateway::pong(door))),
        "Inputs" => reply(Ok(gateway::inputs())),
        "Solve" => reply(async { gateway::solve(door, &build, call.only().await?).await }.await),
        "Evaluate" => reply(async { gateway::evaluate(door, call.only().await?).await }.await),
        "Return" => reply(call.only().await.and_then(|request| gateway::give_back(&build, request))),
        _ => unknown(call.path()),
    }
}
