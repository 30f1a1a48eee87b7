//! A run's end: what is recorded, who hears of it, what is cleaned away, and whether it starts again.

use super::record::{Cleaning, Container, Paths, Record};
use super::{Containers, RemoveOptions, WaitCondition};
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

/// How soon an end that could not be written is written again.
const RECORD_AGAIN: Duration = Duration::from_millis(500);

/// The code of an exec that went with its container.
const KILLED: i64 = 137;

const SIGKILL: u8 = 9;

/// Why an end is unknown.
pub(super) const SHIM_KILLED: &str = "its shim was killed";

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

/// A run's end that everybody can see, with what is still to be done for it.
pub(super) struct End {
    record: Arc<Record>,
    written: tokio::sync::oneshot::Receiver<bool>,
    attachment: Attachment,
    restart: Option<Duration>,
    auto_remove: bool,
}

impl Containers {
    /// How a run ended whose shim may be gone, and everything that follows.
    pub(super) async fn exited(
        &self,
        container: &Arc<Container>,
        ended: Ended,
        shim: Option<Arc<Shim>>,
        cleaning: tokio::sync::watch::Sender<Cleaning>,
    ) {
        let (exit, why) = match ended {
            Ended::Told(exit) => (exit, ""),
            Ended::ShimGone => {
                let record = container.record();
                match read_exit(&Paths::new(self.engine.config(), &record.id).shim) {
                    Some(exit) => (exit, ""),
                    None => {
                        kill_left(&record).await;
                        (unknown_exit(container), SHIM_KILLED)
                    }
                }
            }
        };
        match self.end_run(container, exit, why) {
            Some(end) => self.after_end(container, end, shim, cleaning).await,
            // It has been recorded already.
            None => drop(cleaning.send_replace(Cleaning::Done)),
        }
    }

    /// The container's phase, its waiters and the events: all at once, so that whoever hears from the shim that the
    /// container does not run finds it so here. `None`: it has been recorded already.
    pub(super) fn end_run(&self, container: &Arc<Container>, exit: ExitRecord, why: &str) -> Option<End> {
        let record = container.record();
        let mut exit = exit;
        exit.oom_killed |= crate::guests::ran_out_of_memory(&self.engine, &record);
        let code = i64::from(exit.status.shell_code());
        let (end, started) = {
            let mut live = container.live();
            if crate::guests::is_guest(&record.spec) {
                exit = of_guest(exit, live.run.started_unix_nanos, live.guest_killed_unix_nanos);
            }
            live.guest_killed_unix_nanos = None;
            let event = Event::Exited { status: exit.status, oom_killed: exit.oom_killed };
            live.run.phase = live.run.phase.after(event).ok()?;
            live.run.finished_unix_nanos = exit.finished_unix_nanos;
            live.run.exit_code = code;
            live.run.error = why.to_owned();
            live.run.last_exit = Some(exit.clone());
            live.shim = None;
            // What its probes said is kept; nobody says that it is well any more.
            if let Some(health) = &mut live.health {
                health.status = HealthStatus::Unhealthy;
            }
            let cut_off: Vec<_> = live.execs.values().filter(|exec| exec.exit_code.is_none()).collect();
            for id in cut_off.into_iter().map(|exec| exec.id.clone()).collect::<Vec<_>>() {
                live.exec_ended(&id, KILLED);
            }
            let restart = self.restart_after(&mut live, &record, &exit);
            live.run.restart_due = restart.is_some();
            let last = restart.is_none() && !live.held;
            // As dockerd: who waits for its end hears of this one, also where it is started again.
            live.answer_waiters(|condition| match condition {
                WaitCondition::NextExit | WaitCondition::NotRunning => true,
                WaitCondition::LastExit => last,
                WaitCondition::Removed => false,
            });
            let attachment = std::mem::take(&mut live.run.attachment);
            let auto_remove = record.spec.host.auto_remove && !live.held && !live.removing;
            let written = self.save(&live);
            live.exits.send_modify(|count| *count += 1);
            (End { record: record.clone(), written, attachment, restart, auto_remove }, live.run.started_unix_nanos)
        };
        let seconds = exit.finished_unix_nanos.saturating_sub(started) / 1_000_000_000;
        self.tell_volumes("unmount", &record);
        self.tell(container, "die", &[("execDuration", seconds.to_string()), ("exitCode", code.to_string())]);
        Some(end)
    }

    /// Lets the shim go, cleans away, and removes or starts again.
    pub(super) async fn after_end(
        &self,
        container: &Arc<Container>,
        end: End,
        shim: Option<Arc<Shim>>,
        cleaning: tokio::sync::watch::Sender<Cleaning>,
    ) {
        let End { record, written, attachment, restart, auto_remove } = end;
        // Durable before the shim is let go: from then on only the record knows. Nobody waits for it of one that
        // goes at once: after a crash it goes all the same.
        if !auto_remove && !self.recorded(container, written, &cleaning).await {
            return;
        }

        self.clean_up(container, Some(&attachment), shim, &cleaning).await;
        if auto_remove {
            let options = RemoveOptions { force: false, volumes: true };
            if let Err(error) = self.remove_inner(container, options).await {
                tracing::warn!(container = record.id.short(), %error, "not removed after its end");
            }
        } else if let Some(pause) = restart {
            self.restart_later(container, pause);
        }
    }

    /// Lets the shim of a run go that has ended and is recorded, and removes what it had.
    pub(super) async fn clean_up(
        &self,
        container: &Container,
        attachment: Option<&Attachment>,
        shim: Option<Arc<Shim>>,
        cleaning: &tokio::sync::watch::Sender<Cleaning>,
    ) {
        let record = container.record();
        super::recover::unmade(&Paths::new(self.engine.config(), &record.id).shim);
        if let Some(shim) = &shim {
            // A shim that cannot hear it any more has gone by itself.
            shim.tell(Body::Forget).await.ok();
        }
        sweep_run(&self.engine, &record, attachment).await;
        if let Some(attachment) = attachment {
            self.tell_networks("disconnect", &record, attachment);
        }
        cleaning.send_replace(Cleaning::Done);
    }

    /// Until the record has its end. On a disk that is full only the shim and its folder know of it: they stay.
    /// `false`: this engine ends first, and the next one asks the shim.
    async fn recorded(
        &self,
        container: &Container,
        mut written: tokio::sync::oneshot::Receiver<bool>,
        cleaning: &tokio::sync::watch::Sender<Cleaning>,
    ) -> bool {
        while written.await == Ok(false) {
            cleaning.send_replace(Cleaning::Unwritten);
            tokio::time::sleep(RECORD_AGAIN).await;
            if self.engine.is_closing() {
                return false;
            }
            let live = container.live();
            if live.removing {
                return true;
            }
            written = self.save(&live);
        }
        true
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
        // Held until the handle is in its place: the task looks for it.
        let mut live = container.live();
        if live.removing || !live.run.restart_due {
            // Somebody removed or stopped it between its end and now.
            return;
        }
        let task = tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            containers.await_dependencies(&of).await;
            let _ops = of.ops.lock().await;
            if of.live().restarting.take().is_none() {
                return;
            }
            if let Err(error) = containers.start_locked(&of).await {
                tracing::warn!(container = of.id.short(), %error, "not restarted");
                // Nobody tries again: this was its end.
                of.live().answer_waiters(|condition| condition != WaitCondition::Removed);
            }
        });
        live.restarting = Some(task.abort_handle());
    }

    /// Everything else that a shim tells.
    pub(super) fn noticed(&self, container: &Arc<Container>, notice: Notice) {
        match notice {
            Notice::Exited(_) => {}
            Notice::ExecExited { id, status, .. } => {
                let code = i64::from(status.shell_code());
                let (known, forgotten) = {
                    let mut live = container.live();
                    (live.exec_ended(&id, code), live.forget_old_execs())
                };
                for old in &forgotten {
                    self.engine.table().drop_exec(old);
                }
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
                    if health.status == HealthStatus::Unhealthy {
                        self.look_after_unhealthy(container);
                    }
                }
            }
            // Probes are in the health's log; rotated logs are bounded as they are.
            Notice::Probe(_) | Notice::LogRotated { .. } => {}
        }
    }
}

/// What the shim of `folder` wrote at the end.
pub(super) fn read_exit(folder: &std::path::Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(folder.join("exit.json")).ok()?).ok()
}

/// What the shim has seen of a machine, as the run of the container in it: it began when its guest had started, a kill through
/// the guest is one, and the memory is the machine's.
fn of_guest(exit: ExitRecord, started_unix_nanos: i64, killed_unix_nanos: Option<i64>) -> ExitRecord {
    let started =
        started_unix_nanos.clamp(exit.started_unix_nanos.min(exit.finished_unix_nanos), exit.finished_unix_nanos);
    let by_guest =
        ExitRecord { started_unix_nanos: started, memory_limit_bytes: None, memory_peak_bytes: None, ..exit };
    let killed = by_guest.status.shell_code() == 128 + SIGKILL;
    match killed_unix_nanos.filter(|_| killed) {
        Some(at) => {
            let sent = Some((i32::from(SIGKILL), at));
            ExitRecord { status: ExitStatus::Signal(SIGKILL), last_signal_sent: sent, ..by_guest }
        }
        None => by_guest,
    }
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
pub(super) async fn kill_left(record: &Record) {
    const SIGKILL: i32 = 9;
    let (id, path) = (record.id.clone(), record.cgroup.clone());
    let kill = move || {
        if let Ok(hierarchy) = super::stats::hierarchy()
            && let Ok(cgroup) = berth_cgroup::Cgroup::open(hierarchy, &path)
            && let Err(error) = cgroup.kill_all(SIGKILL)
        {
            tracing::warn!(container = id.short(), %error, "processes not killed");
        }
        Ok(())
    };
    super::archive::blocking(kill).await.ok();
}

/// Everything that a run leaves: network, shim's folder, cgroup. Goes on after a failure; what is gone is done.
pub(super) async fn sweep_run(engine: &Engine, record: &Record, attached: Option<&Attachment>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_end_is_its_containers() {
        let exit = |code| ExitRecord {
            status: ExitStatus::Code(code),
            oom_killed: false,
            started_unix_nanos: 5,
            finished_unix_nanos: 90,
            memory_limit_bytes: Some(1 << 30),
            memory_peak_bytes: Some(1 << 20),
            last_signal_sent: None,
        };
        let killed = of_guest(exit(137), 70, Some(80));
        assert_eq!((killed.status, killed.last_signal_sent), (ExitStatus::Signal(9), Some((9, 80))));
        // A machine that is emulated may take longer to start than a good run.
        assert_eq!((killed.started_unix_nanos, killed.memory_limit_bytes, killed.memory_peak_bytes), (70, None, None));
        assert_eq!(of_guest(exit(137), 70, None).status, ExitStatus::Code(137));
        assert_eq!(of_guest(exit(3), 100, Some(80)).status, ExitStatus::Code(3));
        assert_eq!(of_guest(exit(3), 100, None).started_unix_nanos, 90);
    }
}
