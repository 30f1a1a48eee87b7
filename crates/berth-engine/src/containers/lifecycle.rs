//! Stop, kill, restart, pause, wait, rename: what is done to a container that is there.

use super::record::{Cleaning, Container, Paths, TABLE_CONTAINER, not_running};
use super::{Containers, Outcome, StopOptions, WaitCondition, WaitOutcome, Waiter, create};
use crate::oci;
use crate::shim::{Hold, Shim};
use berth_shim_proto::{Body, Target};
use berth_types::phase::Event;
use berth_types::{Error, Phase, Result};
use std::sync::Arc;
use std::time::Duration;

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
const GRACE_SECONDS: i64 = 10;
/// A killed process that does not end hangs in the kernel.
const KILLED_SECONDS_MAX: u64 = 30;

impl Containers {
    /// Notes that a user wants it stopped. From here on no policy starts it again, also not one of a later
    /// engine. `None`: it does not run. The caller holds the container's lock, so no start is on its way.
    fn stop_asked(&self, container: &Arc<Container>) -> Option<tokio::sync::watch::Receiver<u64>> {
        let mut live = container.live();
        live.stop_asked = true;
        live.run.stopped_by_user = true;
        let was_due = std::mem::take(&mut live.run.restart_due);
        if let Some(pending) = live.restarting.take() {
            pending.abort();
        }
        let running = live.is_running();
        if was_due && !running {
            // Its last end was the last one.
            live.answer_waiters(|condition| matches!(condition, WaitCondition::NotRunning | WaitCondition::LastExit));
        }
        drop(self.save(&live));
        running.then(|| live.exits.subscribe())
    }

    fn stop_signal(container: &Container, options: &StopOptions) -> Result<i32> {
        let record = container.record();
        match options.signal.as_deref().or(record.spec.config.stop_signal.as_deref()) {
            Some(text) => oci::signal_number(text).ok_or_else(|| Error::invalid(format!("invalid signal: {text}"))),
            None => Ok(SIGTERM),
        }
    }

    /// The caller holds the container's lock.
    pub(super) async fn stop_inner(&self, container: &Arc<Container>, options: &StopOptions) -> Result<Outcome> {
        let signal = Self::stop_signal(container, options)?;
        match self.stop_asked(container) {
            Some(exits) => self.end(container, options, signal, exits).await,
            None => Ok(Outcome::Already),
        }
    }

    /// Sends the signal, waits for the grace, kills.
    async fn end(
        &self,
        container: &Arc<Container>,
        options: &StopOptions,
        signal: i32,
        mut exits: tokio::sync::watch::Receiver<u64>,
    ) -> Result<Outcome> {
        let record = container.record();
        let grace = options.timeout_seconds.or(record.spec.config.stop_timeout_seconds).unwrap_or(GRACE_SECONDS);
        let Ok(shim) = container.shim() else {
            // It has ended since.
            return Ok(Outcome::Done);
        };
        if matches!(container.phase(), Phase::Paused { .. }) {
            shim.tell(Body::Resume).await?;
        }
        self.tell(container, "kill", &[("signal", signal.to_string())]);
        // An end between looking and asking is what was wanted.
        self.send(container, &shim, signal).await.ok();
        let over = match u64::try_from(grace) {
            Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), exits.changed()).await.is_ok(),
            Err(_) => exits.changed().await.is_ok(),
        };
        if !over {
            self.tell(container, "kill", &[("signal", SIGKILL.to_string())]);
            self.send(container, &shim, SIGKILL).await.ok();
            if tokio::time::timeout(Duration::from_secs(KILLED_SECONDS_MAX), exits.changed()).await.is_err() {
                return Err(Error::internal(format!("container {} did not end after SIGKILL", record.id)));
            }
        }
        self.tell(container, "stop", &[]);
        Ok(Outcome::Done)
    }

    /// A signal to its first process. SIGKILL is the guest's affair where it has one: then it has ended when this returns.
    pub(super) async fn send(&self, container: &Arc<Container>, shim: &Shim, signal: i32) -> Result<()> {
        if signal == SIGKILL && self.killed_by_guest(container, shim).await {
            return Ok(());
        }
        shim.tell(Body::Signal { target: Target::Init, signal }).await
    }

    /// What is removed anyway has nothing to write.
    async fn killed_by_guest(&self, container: &Arc<Container>, shim: &Shim) -> bool {
        let (mut exits, paused) = {
            let mut live = container.live();
            if live.removing || !live.is_running() || !crate::guests::is_guest(&live.record.spec) {
                return false;
            }
            live.guest_killed_unix_nanos = Some(crate::events::now_unix_nanos());
            (live.exits.subscribe(), matches!(live.run.phase, Phase::Paused { .. }))
        };
        if paused && shim.tell(Body::Resume).await.is_err() {
            return false;
        }
        crate::guests::kill(&self.engine, &container.id).await
            && tokio::time::timeout(crate::guests::WRITES, exits.changed()).await.is_ok()
    }

    /// Asks it to stop, and kills it after the grace.
    pub async fn stop(&self, container: &str, options: StopOptions) -> Result<Outcome> {
        let container = self.get(container)?;
        let signal = Self::stop_signal(&container, &options)?;
        let exits = {
            // A start on its way is waited for and then stopped; others may act during the grace.
            let _ops = container.ops.lock().await;
            self.stop_asked(&container)
        };
        let Some(exits) = exits else { return Ok(Outcome::Already) };
        let outcome = self.end(&container, &options, signal, exits).await?;
        self.cleaned(&container).await;
        Ok(outcome)
    }

    /// Until nothing of the last run is left, or its end cannot be written.
    pub(super) async fn cleaned(&self, container: &Container) {
        let mut cleaned = container.live().cleaned.clone();
        // The sender's end is as good as its word.
        cleaned.wait_for(|state| *state != Cleaning::Due).await.ok();
    }

    /// Sends a signal (`SIGTERM`, `TERM`, `15`; `None`: SIGKILL).
    pub async fn kill(&self, container: &str, signal: Option<&str>) -> Result<()> {
        let found = self.get(container)?;
        let number = match signal {
            None => SIGKILL,
            Some(text) => oci::signal_number(text).ok_or_else(|| {
                let words = match text.parse::<i64>() {
                    Ok(number) if number != 0 => format!("the linux daemon does not support signal {number}"),
                    _ => format!("invalid signal: {text}"),
                };
                Error::invalid(words)
            })?,
        };
        let refuse = |error: Error| error.context(format!("cannot kill container: {container}"));
        let shim = found.shim().map_err(refuse)?;
        // The signals that end it by its user's wish.
        let stop = Self::stop_signal(&found, &StopOptions::default())?;
        if number == SIGKILL || number == SIGTERM || number == stop {
            let mut live = found.live();
            live.stop_asked = true;
            live.run.stopped_by_user = true;
            drop(self.save(&live));
        }
        let tell = || self.tell(&found, "kill", &[("signal", number.to_string())]);
        // Its end is told of while its guest is waited for.
        let guest = number == SIGKILL && crate::guests::is_guest(&found.record().spec);
        if guest {
            tell();
        }
        self.send(&found, &shim, number).await.map_err(refuse)?;
        if !guest {
            tell();
        }
        Ok(())
    }

    /// Stops and starts it.
    pub async fn restart(&self, container: &str, options: StopOptions) -> Result<()> {
        let container = self.get(container)?;
        let _ops = container.ops.lock().await;
        self.restart_locked(&container, &options).await
    }

    /// The caller holds the container's lock.
    pub(super) async fn restart_locked(&self, container: &Arc<Container>, options: &StopOptions) -> Result<()> {
        container.live().held = true;
        let stopped = self.stop_inner(container, options).await;
        // One that was not stopped (no such signal) has no end to wait for.
        if stopped.is_ok() {
            self.cleaned(container).await;
        }
        container.live().held = false;
        stopped?;
        self.start_locked(container).await?;
        self.tell(container, "restart", &[]);
        Ok(())
    }

    /// Freezes all its processes.
    pub async fn pause(&self, container: &str) -> Result<()> {
        let ask = async |container: &Container| container.shim()?.tell(Body::Pause).await;
        self.freeze(container, Event::Froze, "pause", ask).await
    }

    /// The same for as long as the answer and this engine are there; then [`Containers::unpause`].
    pub(super) async fn hold(&self, container: &str) -> Result<Hold> {
        let ask = async |container: &Container| {
            container.shim()?;
            Shim::hold(&Paths::new(self.engine.config(), &container.id).shim).await
        };
        self.freeze(container, Event::Froze, "pause", ask).await
    }

    /// Thaws them.
    pub async fn unpause(&self, container: &str) -> Result<()> {
        let ask = async |container: &Container| container.shim()?.tell(Body::Resume).await;
        self.freeze(container, Event::Thawed, "unpause", ask).await
    }

    async fn freeze<T>(
        &self,
        container: &str,
        event: Event,
        action: &str,
        ask: impl AsyncFnOnce(&Container) -> Result<T>,
    ) -> Result<T> {
        let container = self.get(container)?;
        let _ops = container.ops.lock().await;
        let refuse = |refusal: berth_types::phase::Refusal| {
            // dockerd's own inconsistency: only "is not running" begins in lower case.
            let word = if refusal == berth_types::phase::Refusal::NotRunning { "container" } else { "Container" };
            Error::conflict(refusal.to_string().replace("container", &format!("{word} {}", container.id)))
        };
        container.phase().after(event).map_err(refuse)?;
        let answer = ask(&container).await?;
        {
            let mut live = container.live();
            live.run.phase = live.run.phase.after(event).map_err(refuse)?;
            drop(self.save(&live));
        }
        self.tell(&container, action, &[]);
        Ok(answer)
    }

    /// Registers for `condition`; the answer resolves when it holds.
    pub async fn wait(&self, container: &str, condition: WaitCondition) -> Result<Waiter> {
        let container = self.get(container)?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        {
            let mut live = container.live();
            let over = matches!(condition, WaitCondition::NotRunning | WaitCondition::LastExit)
                && !live.is_running()
                && !live.is_restarting();
            if over {
                let outcome = WaitOutcome { exit_code: live.run.exit_code, error: None };
                return Ok(Box::pin(std::future::ready(Ok(outcome))));
            }
            live.waiters.push((condition, sender));
        }
        Ok(Box::pin(async move {
            receiver
                .await
                .map_err(|_| Error::internal(format!("nobody can tell the end of container {}", container.id)))
        }))
    }

    /// Gives it another name.
    pub async fn rename(&self, container: &str, name: &str) -> Result<()> {
        let found = self.get(container)?;
        let _ops = found.ops.lock().await;
        let name = name.strip_prefix('/').unwrap_or(name);
        if name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        create::check_name(name)?;
        let before = found.name();
        if before == name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        self.engine.table().reserve(name, &found.id)?;
        let mut record = (*found.record()).clone();
        name.clone_into(&mut record.name);
        if let Err(error) = self.store_record(&record).await {
            self.engine.table().release(name, &found.id);
            return Err(error);
        }
        found.live().record = Arc::new(record);
        self.engine.table().release(&before, &found.id);
        if let Err(error) = self.engine.networks().renamed(&found.id, name).await {
            tracing::warn!(container = found.id.short(), %error, "its new name is not answered for");
        }
        self.tell(&found, "rename", &[("oldName", format!("/{before}"))]);
        Ok(())
    }

    pub(crate) async fn store_record(&self, record: &super::record::Record) -> Result<()> {
        let mut batch = berth_store::Batch::new();
        create::put(&mut batch, TABLE_CONTAINER, &record.id, record)?;
        self.engine.commit(batch).await
    }

    /// Sets its terminal's size.
    pub async fn resize(&self, container: &str, rows: u16, columns: u16) -> Result<()> {
        let found = self.get(container)?;
        let shim = found.shim().map_err(|_| not_running(&found.id))?;
        shim.tell(Body::Resize { target: Target::Init, rows, columns }).await
    }
}
