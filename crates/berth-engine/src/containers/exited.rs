//! A run's end: what is recorded, who hears of it, what is cleaned away, and whether it starts again.

use super::record::{Container, Paths, Record};
use super::{Containers, RemoveOptions, WaitCondition, WaitOutcome};
use crate::Engine;
use crate::networks::Attachment;
use crate::shim::Shim;
use berth_shim_proto::{Body, ExitRecord, HealthState, HealthStatus, Notice};
use berth_types::phase::Event;
use berth_types::spec::{ContainerSpec, RestartPolicy};
use berth_types::{ExitStatus, Phase};
use std::sync::Arc;
use std::time::Duration;

/// Docker's pauses before a restart: doubled each time, forgotten after a good run.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
const GOOD_RUN_NANOS: i64 = 10_000_000_000;

/// How we know.
pub(super) enum Ended {
    Told(ExitRecord),
    ShimGone,
}

/// A container with a probe starts with its health unknown.
pub(super) fn health_at_start(spec: &ContainerSpec) -> Option<HealthState> {
    let probe = spec.config.healthcheck.as_ref().filter(|check| check.test.first().is_some_and(|kind| kind != "NONE"));
    probe.map(|_| HealthState { status: HealthStatus::Starting, failing_streak: 0, log: Vec::new() })
}

impl Containers {
    pub(super) async fn exited(
        &self,
        container: &Arc<Container>,
        ended: Ended,
        shim: Option<Arc<Shim>>,
        cleaning: tokio::sync::watch::Sender<bool>,
    ) {
        let record = container.record();
        let paths = Paths::new(self.engine.config(), &record.id);
        let (exit, why) = match ended {
            Ended::Told(exit) => (exit, ""),
            Ended::ShimGone => match read_exit(&paths) {
                Some(exit) => (exit, ""),
                None => {
                    kill_left(&record);
                    (unknown_exit(container), "its shim was killed")
                }
            },
        };
        let code = i64::from(exit.status.shell_code());
        let (run, attachment, restart, auto_remove) = {
            let mut live = container.live();
            let event = Event::Exited { status: exit.status, oom_killed: exit.oom_killed };
            match live.run.phase.after(event) {
                Ok(phase) => live.run.phase = phase,
                // It has been recorded already.
                Err(_) => {
                    cleaning.send_replace(true);
                    return;
                }
            }
            live.run.finished_unix_nanos = exit.finished_unix_nanos;
            live.run.exit_code = code;
            live.run.error = why.to_owned();
            live.run.last_exit = Some(exit.clone());
            live.shim = None;
            // What its probes said is kept; nobody says that it is well any more.
            if let Some(health) = &mut live.health {
                health.status = HealthStatus::Unhealthy;
            }
            for exec in live.execs.values_mut() {
                exec.exit_code.get_or_insert(137);
            }
            let restart = self.restart_after(&mut live, &record, &exit);
            let outcome = WaitOutcome { exit_code: code, error: None };
            let waiters = std::mem::take(&mut live.waiters);
            for (condition, waiter) in waiters {
                let over = condition == WaitCondition::NextExit
                    || (condition == WaitCondition::NotRunning && restart.is_none() && !live.held);
                if over {
                    // Whoever waited may have gone.
                    waiter.send(outcome.clone()).ok();
                } else {
                    live.waiters.push((condition, waiter));
                }
            }
            let attachment = std::mem::take(&mut live.run.attachment);
            let auto_remove = record.spec.host.auto_remove && !live.held && !live.removing;
            (live.run.clone(), attachment, restart, auto_remove)
        };
        container.live().exits.send_modify(|count| *count += 1);
        let seconds = run.finished_unix_nanos.saturating_sub(run.started_unix_nanos) / 1_000_000_000;
        self.tell(container, "die", &[("execDuration", seconds.to_string()), ("exitCode", code.to_string())]);
        if auto_remove {
            // One that goes at once: nobody waits for the record of its end, and after a crash it goes all the same.
            self.save(&record.id, &run);
        } else {
            self.save_durably(&record.id, &run).await;
        }

        if let Some(shim) = &shim {
            // A shim that cannot hear it any more has gone by itself.
            shim.tell(Body::Forget).await.ok();
        }
        sweep_run(&self.engine, &record, Some(&attachment), None).await;
        self.tell_networks("disconnect", &record, &attachment);
        cleaning.send_replace(true);
        if auto_remove {
            let options = RemoveOptions { force: false, volumes: true };
            if let Err(error) = self.remove_inner(container, options).await {
                tracing::warn!(container = record.id.short(), %error, "not removed after its end");
            }
        } else if let Some(pause) = restart {
            self.restart_later(container, pause);
        }
    }

    /// Written before the shim is let go: from then on only the record knows.
    async fn save_durably(&self, id: &berth_types::ContainerId, run: &super::record::Run) {
        let mut batch = berth_store::Batch::new();
        let written = match super::create::put(&mut batch, super::record::TABLE_RUN, id, run) {
            Ok(()) => self.engine.commit(batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::error!(container = id.short(), %error, "a container's end was not written");
        }
    }

    /// How long until it is started again by its policy.
    fn restart_after(&self, live: &mut super::record::Live, record: &Record, exit: &ExitRecord) -> Option<Duration> {
        if live.held || live.removing || live.stop_asked || self.engine.is_closing() {
            return None;
        }
        let wanted = match record.spec.host.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { maximum_retries } => {
                exit.status != ExitStatus::Code(0)
                    && (maximum_retries == 0 || live.run.restart_count < u64::from(maximum_retries))
            }
        };
        if !wanted {
            return None;
        }
        let ran = exit.finished_unix_nanos.saturating_sub(exit.started_unix_nanos);
        live.backoff = match live.backoff {
            _ if ran >= GOOD_RUN_NANOS => BACKOFF_MIN,
            Duration::ZERO => BACKOFF_MIN,
            before => (before * 2).min(BACKOFF_MAX),
        };
        live.run.restart_count += 1;
        Some(live.backoff)
    }

    pub(super) fn restart_later(&self, container: &Arc<Container>, pause: Duration) {
        let (containers, of) = (self.clone(), container.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ops = of.ops.lock().await;
            if of.live().restarting.take().is_none() {
                return;
            }
            if let Err(error) = containers.start_locked(&of).await {
                tracing::warn!(container = of.id.short(), %error, "not restarted");
            }
        });
        container.live().restarting = Some(task.abort_handle());
    }

    /// Everything else that a shim tells.
    pub(super) fn noticed(&self, container: &Arc<Container>, notice: Notice) {
        match notice {
            Notice::Exited(_) => {}
            Notice::ExecExited { id, status, .. } => {
                let code = i64::from(status.shell_code());
                let known = {
                    let mut live = container.live();
                    live.execs.get_mut(&id).map(|exec| exec.exit_code = Some(code)).is_some()
                };
                if known {
                    self.tell(container, "exec_die", &[("execID", id.to_string()), ("exitCode", code.to_string())]);
                }
            }
            Notice::OutOfMemory => self.tell(container, "oom", &[]),
            Notice::Health(health) => {
                let before = container.live().health.replace(health.clone()).map(|health| health.status);
                if before != Some(health.status) {
                    let word = match health.status {
                        HealthStatus::Starting => "starting",
                        HealthStatus::Healthy => "healthy",
                        HealthStatus::Unhealthy => "unhealthy",
                    };
                    self.tell(container, &format!("health_status: {word}"), &[]);
                }
            }
            // Probes are in the health's log; rotated logs are bounded as they are.
            Notice::Probe(_) | Notice::LogRotated { .. } => {}
        }
    }
}

pub(super) fn read_exit(paths: &Paths) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(paths.shim.join("exit.json")).ok()?).ok()
}

pub(super) fn unknown_exit(container: &Container) -> ExitRecord {
    ExitRecord {
        status: ExitStatus::Unknown,
        oom_killed: false,
        started_unix_nanos: container.live().run.started_unix_nanos,
        finished_unix_nanos: crate::events::now_unix_nanos(),
        memory_limit_bytes: None,
        memory_peak_bytes: None,
        last_signal_sent: None,
    }
}

/// Processes of a container whose shim is gone would run without anybody's knowledge.
fn kill_left(record: &Record) {
    const SIGKILL: i32 = 9;
    let Ok(hierarchy) = super::stats::hierarchy() else { return };
    if let Ok(cgroup) = berth_cgroup::Cgroup::open(hierarchy, &record.cgroup)
        && let Err(error) = cgroup.kill_all(SIGKILL)
    {
        tracing::warn!(container = record.id.short(), %error, "processes not killed");
    }
}

/// Everything that a run leaves: network, shim's folder, cgroup. Goes on after a failure; what is gone is done.
pub(super) async fn sweep_run(engine: &Engine, record: &Record, attached: Option<&Attachment>, _shim: Option<i32>) {
    if let Some(attached) = attached
        && let Err(error) = engine.networks().detach(&record.id, attached).await
    {
        tracing::warn!(container = record.id.short(), %error, "network not given back");
    }
    let (folder, cgroup, id) = (Paths::new(engine.config(), &record.id).shim, record.cgroup.clone(), record.id.clone());
    let sweep = move || {
        if let Ok(hierarchy) = super::stats::hierarchy()
            && let Ok(cgroup) = berth_cgroup::Cgroup::open(hierarchy, &cgroup)
            && let Err(error) = cgroup.remove()
        {
            tracing::warn!(container = id.short(), %error, "cgroup not removed");
        }
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(container = id.short(), %error, "shim's folder not removed");
        }
        Ok(())
    };
    super::archive::blocking(sweep).await.ok();
}

/// Whether it ran when the engine or the host went down, as far as its record knows.
pub(super) fn was_running(phase: Phase) -> bool {
    phase.pid().is_some()
}
