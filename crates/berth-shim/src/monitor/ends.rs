//! Ends: of the container, of its execs, and the shim's own.

use super::{Draining, Monitor, SIGKILL};
use crate::client::Client;
use crate::container::{ExecProcess, has_ended, now, status_of};
use crate::streams::Streams;
use berth_log::Stream;
use berth_shim_proto::{MADE, Notice, Target};

/// Streams that stay open after the container's end (somebody outside holds them) are left after this.
const DRAIN_NANOS_MAX: i64 = 2_000_000_000;
/// Ended execs that are remembered for an engine that comes later.
const EXECS_KEPT_MAX: usize = 64;

impl Monitor {
    pub(super) fn memory_ran_out(&mut self) {
        let Some(container) = &mut self.container else { return };
        if let Some(oom) = &container.oom
            && oom.clear().is_err()
        {
            container.oom = None;
            return;
        }
        let kills = container.cgroup.oom_kills();
        if kills > container.oom_kills {
            container.oom_kills = kills;
            self.tell(&Notice::OutOfMemory);
        }
    }

    pub(super) fn process_ended(&mut self) {
        let Some(container) = &mut self.container else { return };
        let status = container.reap();
        // Of a container that shares a pid namespace others may still be there.
        if !container.own_pids
            && let Err(error) = container.cgroup.kill_all(SIGKILL)
        {
            say!("{}: {error}", container.create.id);
        }
        self.draining = Some(Draining { status, deadline_nanos: now().saturating_add(DRAIN_NANOS_MAX) });
    }

    pub(super) fn exec_ended(&mut self, index: usize) {
        let Some(exec) = self.container.as_mut().and_then(|container| container.execs.get_mut(index)) else { return };
        let Some(pidfd) = exec.pidfd.take() else { return };
        let status = status_of(&pidfd);
        (exec.exit, exec.exited_nanos) = (Some(status), now());
        let notice = Notice::ExecExited { id: exec.id.clone(), pid: exec.pid, status };
        self.tell(&notice);
    }

    pub(super) fn finish_draining(&mut self) {
        let Some(draining) = &mut self.draining else { return };
        let Some(container) = &mut self.container else { return };
        if container.streams.output_is_open() {
            // A client that reads slowly is waited for: nothing it asked for is lost.
            if self.clients.iter().any(Client::is_slow) {
                draining.deadline_nanos = now().saturating_add(DRAIN_NANOS_MAX);
                return;
            }
            if now() < draining.deadline_nanos {
                return;
            }
        }
        let status = draining.status;
        self.draining = None;
        // Ends are told in their order: the container's takes those of its execs that nobody heard of for killed.
        let ended = |exec: &ExecProcess| exec.pidfd.as_ref().is_some_and(has_ended);
        for index in (0..container.execs.len()).filter(|&index| ended(&container.execs[index])).collect::<Vec<_>>() {
            self.exec_ended(index);
        }
        let Some(container) = &mut self.container else { return };
        if let Some(writer) = &mut container.log {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Err(error) = writer.end(stream, now()) {
                    say!("{}: {error}", container.create.id);
                }
            }
        }
        let record = container.record_exit(status);
        container.streams = Streams::default();
        container.oom = None;
        self.tell(&Notice::Exited(record));
        for client in &mut self.clients {
            if client.attached.as_ref().is_some_and(|attached| attached.target == Target::Init) {
                client.end();
            }
        }
        self.remove_cgroup();
    }

    pub(super) fn remove_cgroup(&self) {
        let Some(container) = &self.container else { return };
        let left = container.cgroup.pids().is_ok_and(|pids| !pids.is_empty());
        if left && let Err(error) = container.cgroup.kill_all(SIGKILL) {
            say!("{}: {error}", container.create.id);
        }
        let again = berth_cgroup::Hierarchy::detect()
            .and_then(|hierarchy| berth_cgroup::Cgroup::open(&hierarchy, container.cgroup.path()));
        if let Ok(cgroup) = again
            && let Err(error) = cgroup.remove()
        {
            say!("{}: {error}", container.create.id);
        }
    }

    /// An exec's clients hear the end once it has ended and its output is read, or a little later where a
    /// grandchild holds the pipe: what the process itself said is there at once.
    pub(super) fn end_execs(&mut self) {
        let nobody = !self.clients.iter().any(|client| client.subscribed);
        let Some(container) = &mut self.container else { return };
        let (over, now) = (container.exit.is_some(), now());
        for exec in &mut container.execs {
            // The engine that wanted to see its output is gone.
            exec.waits_for_client &= !nobody;
        }
        for exec in container.execs.iter_mut().filter(|exec| !exec.ended) {
            let drained = exec.exit.is_some() && !exec.streams.output_is_open();
            let late = drain_deadline(exec).is_some_and(|deadline| deadline <= now);
            if !(drained || late || over) {
                continue;
            }
            exec.ended = true;
            for client in &mut self.clients {
                if client.attached.as_ref().is_some_and(|attached| attached.target == Target::Exec(exec.id.clone())) {
                    client.end();
                }
            }
        }
        let finished = |exec: &ExecProcess| exec.ended && !exec.streams.output_is_open();
        let mut many = container.execs.iter().filter(|exec| finished(exec)).count().saturating_sub(EXECS_KEPT_MAX);
        // Oldest first: they stand in the order of their starts.
        container.execs.retain(|exec| {
            let forget = many > 0 && finished(exec);
            many -= usize::from(forget);
            !forget
        });
    }

    /// A container that could not be started.
    pub(super) fn drop_container(&mut self) {
        self.remove_cgroup();
        if let Some(container) = self.container.take() {
            // Left there it would say that the container ran and that its shim was killed.
            for name in [MADE, "shim.sock"] {
                std::fs::remove_file(container.create.dir.join(name)).ok();
            }
        }
    }

    pub(super) fn leave(&mut self) {
        if let Some(container) = &mut self.container
            && container.exit.is_none()
        {
            // Made by an engine that has gone, and never started.
            self.drop_container();
        }
        if let Some(container) = &self.container {
            // The engine removes the folder; a socket that nobody hears would only mislead.
            std::fs::remove_file(container.create.dir.join("shim.sock")).ok();
        }
        for client in &mut self.clients {
            client.write();
        }
    }
}

/// When the output of an exec that has ended is not waited for any more.
pub(super) fn drain_deadline(exec: &ExecProcess) -> Option<i64> {
    // Output that waits for its client is all still in the pipe.
    let waits = !exec.ended && exec.exit.is_some() && exec.streams.output_is_open() && !exec.waits_for_client;
    waits.then(|| exec.exited_nanos.saturating_add(DRAIN_NANOS_MAX))
}
