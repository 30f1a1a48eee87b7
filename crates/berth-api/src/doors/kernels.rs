//! Kernels for containers in machines of their own.

use super::Done;
use crate::error::ApiResult;
use crate::extract::Json;
use crate::routes::{ADMIN, Table, VIEWER};
use crate::schema::{answers, requests};
use axum::extract::{FromRef, State};
use axum::http::Method;
use berth_engine::Engine;
use berth_engine::guests::InstallKernel;

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
{
    t.add::<(), Vec<MachineKernel>, _, _>(Method::GET, "/machine-kernels", VIEWER, "", "Kernels for containers in machines of their own", list);
    t.add::<NewMachineKernel, Done, _, _>(Method::POST, "/machine-kernels", ADMIN, "machine.kernel.install", "Installs a distribution's kernel for them", install);
}

async fn list(State(engine): State<Engine>) -> axum::Json<Vec<MachineKernel>> {
    let view = |one: berth_engine::guests::KernelView| MachineKernel {
        version: one.version,
        bytes: one.bytes,
        default: one.default,
    };
    axum::Json(engine.kernels().list().into_iter().map(view).collect())
}

async fn install(State(engine): State<Engine>, Json(body): Json<NewMachineKernel>) -> ApiResult<axum::Json<Done>> {
    let package = body.package.filter(|path| !path.is_empty()).map(Into::into);
    let version = engine.kernels().install(InstallKernel { package }).await?;
    tracing::info!(version, "a kernel for machines was installed");
    Ok(Done::plainly())
}
