//! What follows when its probes find a container unwell: nothing, unless its label says so, with podman's words.

use super::record::Container;
use super::{Containers, StopOptions};
use berth_shim_proto::HealthStatus;
use berth_types::spec::ContainerSpec;
use berth_types::{Error, Result};
use std::sync::Arc;

/// `none`, `kill`, `restart` or `stop`. A label, so that every client of Docker's API can say it.
const LABEL: &str = "berth.health.on-failure";

const SIGKILL: i32 = 9;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    None,
    /// It ends as if by itself: its restart policy decides what follows.
    Kill,
    Restart,
    Stop,
}

fn action(spec: &ContainerSpec) -> Result<Action> {
    match spec.config.labels.get(LABEL).map(String::as_str) {
        None | Some("" | "none") => Ok(Action::None),
        Some("kill") => Ok(Action::Kill),
        Some("restart") => Ok(Action::Restart),
        Some("stop") => Ok(Action::Stop),
        Some(other) => Err(Error::invalid(format!("invalid value {other:?} of the label {LABEL}"))
            .with_hint("none, kill, restart and stop are possible")),
    }
}

/// Refuses a label that says something else.
pub(super) fn check(spec: &ContainerSpec) -> Result<()> {
    action(spec).map(drop)
}

impl Containers {
    /// Acts where the container asks for it. Called when it has become unwell, and after an engine's start.
    pub(super) fn look_after_unhealthy(&self, container: &Arc<Container>) {
        let Ok(action) = action(&container.record().spec) else { return };
        if action == Action::None {
            return;
        }
        let (containers, of) = (self.clone(), container.clone());
        let run = container.live().run.started_unix_nanos;
        tokio::spawn(async move {
            let acted = containers.act(&of, run, action).await;
            if let Err(error) = acted {
                tracing::warn!(container = of.id.short(), %error, "unhealthy, and nothing could be done");
            }
        });
    }

    async fn act(&self, container: &Arc<Container>, run: i64, action: Action) -> Result<()> {
        let _ops = container.ops.lock().await;
        // Whoever held the lock may have stopped it, or started it again.
        {
            let live = container.live();
            let unwell = live.health.as_ref().is_some_and(|health| health.status == HealthStatus::Unhealthy);
            if !live.is_running() || live.run.started_unix_nanos != run || !unwell || live.stop_asked {
                return Ok(());
            }
        }
        tracing::info!(container = container.id.short(), "unhealthy");
        match action {
            Action::None => Ok(()),
            Action::Kill => {
                let shim = container.shim()?;
                self.send(container, &shim, SIGKILL).await
            }
            Action::Restart => self.restart_locked(container, &StopOptions::default()).await,
            Action::Stop => {
                self.stop_inner(container, &StopOptions::default()).await?;
                self.cleaned(container).await;
                Ok(())
            }
        }
    }
}
