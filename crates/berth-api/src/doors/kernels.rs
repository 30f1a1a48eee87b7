//! Kernels for containers in machines of their own.

use crate::error::ApiResult;
use crate::extract::Json;
use crate::guard::Target;
use crate::identity::Who;
use crate::routes::{ADMIN, Table, VIEWER};
use crate::schema::{answers, requests};
use crate::tasks::{Task, Tasks};
use axum::extract::{FromRef, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use berth_engine::Engine;
use berth_engine::guests::InstallKernel;
use std::path::PathBuf;
use std::sync::Arc;

answers! {
    /// A kernel that containers with `--isolation vm` can have.
    MachineKernel {
        version: String,
        bytes: u64,
        /// New containers get it.
        default: bool,
    }
}

requests! {
    /// A kernel that is to be installed.
    NewMachineKernel {
        /// A Debian package, a path on the engine's host; none: the cloud kernel of apt's sources.
        package: Option<String>,
    }
}

#[rustfmt::skip]
pub(crate) fn add<S>(t: &mut Table<S>)
where
    S: Clone + Send + Sync + 'static,
    Engine: FromRef<S>,
    Arc<Tasks>: FromRef<S>,
{
    t.add::<(), Vec<MachineKernel>, _, _>(Method::GET, "/machine-kernels", VIEWER, "", "Kernels for containers in machines of their own", list);
    t.add::<NewMachineKernel, Task, _, _>(Method::POST, "/machine-kernels", ADMIN, "machine.kernel.install", "Installs a distribution's kernel for them, as a task", install);
}

async fn list(State(engine): State<Engine>) -> axum::Json<Vec<MachineKernel>> {
    let view = |one: berth_engine::guests::KernelView| MachineKernel {
        version: one.version,
        bytes: one.bytes,
        default: one.default,
    };
    axum::Json(engine.kernels().list().into_iter().map(view).collect())
}

async fn install(
    State(engine): State<Engine>,
    State(tasks): State<Arc<Tasks>>,
    who: Who,
    Json(body): Json<NewMachineKernel>,
) -> ApiResult<Response> {
    let package: Option<PathBuf> = body.package.filter(|path| !path.is_empty()).map(Into::into);
    let target = package.as_ref().map_or_else(|| "of apt's sources".to_owned(), |path| path.display().to_string());
    let task = tasks.start(&who.user, "machine.kernel.install", &target, move |progress| async move {
        let version = engine.kernels().install(InstallKernel { package }, |step| progress.line(step)).await?;
        progress.line(&format!("kernel {version} is installed"));
        tracing::info!(version, "a kernel for machines was installed");
        Ok(())
    })?;
    let mut response = axum::Json(task).into_response();
    response.extensions_mut().insert(Target(target));
    Ok(response)
}
