//! Health probes: when one is due, how it ends, who hears of it.

use super::{Monitor, SIGKILL, part};
use crate::container::{Container, has_ended, now, status_of};
use crate::health::{OUTPUT_BYTES_MAX, Probing};
use crate::streams::Streams;
use berth_runtime::{Running, Stdio};
use berth_shim_proto::{Notice, ProbeResult};
use berth_types::Result;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::time::Duration;

impl Monitor {
    pub(super) fn look_after_health(&mut self) {
        if self.draining.is_some() {
            return;
        }
        let Some(container) = self.container.as_mut().filter(|container| container.is_running() && !container.paused)
        else {
            return;
        };
        let at = now();
        let Some(health) = &mut container.health else { return };
        if let Some(running) = &health.running
            && at >= running.deadline_nanos
        {
            // It ends by this, and is heard of as ended.
            berth_sys::signals::pidfd_send_signal(running.process.pidfd.as_fd(), SIGKILL).ok();
            let text =
                format!("Health check exceeded timeout ({:?})", Duration::from_nanos(health.probe.timeout_nanos));
            self.finish_probe(-1, Some(text));
            return;
        }
        if !health.is_due(at) {
            return;
        }
        match Self::start_probe(container) {
            Ok((process, output)) => {
                if let Some(health) = &mut container.health {
                    let deadline_nanos = health.deadline(at);
                    let output = Some(output);
                    health.running =
                        Some(Probing { process, output, text: Vec::new(), started_nanos: at, deadline_nanos });
                }
            }
            Err(error) => {
                let result = ProbeResult {
                    started_unix_nanos: at,
                    finished_unix_nanos: now(),
                    exit_code: -1,
                    output: error.to_string(),
                };
                self.verdict(result);
            }
        }
    }

    pub(super) fn start_probe(container: &Container) -> Result<(Running, OwnedFd)> {
        let make = || -> std::result::Result<_, Errno> {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&reader, true)?;
            let second = rustix::io::fcntl_dupfd_cloexec(&writer, 3)?;
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
            Ok((reader, Stdio::Files { stdin: null, stdout: writer, stderr: second }))
        };
        let (reader, stdio) = make().map_err(|errno| part("make a pipe", &std::io::Error::from(errno)))?;
        let process = container.health.as_ref().map(|health| health.probe.process.clone()).unwrap_or_default();
        Self::launch(container, &process, stdio).map(|running| (running, reader))
    }

    pub(super) fn probe_output(&mut self) {
        let probing = self.container.as_mut().and_then(|container| container.health.as_mut()?.running.as_mut());
        let Some(probing) = probing else { return };
        if let Some(bytes) = Streams::read(&mut probing.output) {
            let room = OUTPUT_BYTES_MAX.saturating_sub(probing.text.len());
            probing.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    pub(super) fn probe_ended(&mut self) {
        self.probe_output();
        let probing = self.container.as_ref().and_then(|container| container.health.as_ref()?.running.as_ref());
        let Some(probing) = probing else { return };
        let status = status_of(&probing.process.pidfd);
        self.finish_probe(i32::from(status.shell_code()), None);
    }

    /// Its check goes, or is exchanged for another: what it finds counts for nothing any more.
    pub(super) fn leave_probe(container: &mut Container) {
        let Some(probing) = container.health.as_mut().and_then(|health| health.running.take()) else { return };
        // Ended already is as good. A container that is paused lets it end when it goes on.
        berth_sys::signals::pidfd_send_signal(probing.process.pidfd.as_fd(), SIGKILL).ok();
        container.probes_left.push(probing.process.pidfd);
    }

    pub(super) fn reap_probes_left(&mut self) {
        let Some(container) = &mut self.container else { return };
        container.probes_left.retain(|pidfd| {
            let ended = has_ended(pidfd);
            if ended {
                status_of(pidfd);
            }
            !ended
        });
    }

    pub(super) fn finish_probe(&mut self, exit_code: i32, text: Option<String>) {
        let Some(health) = self.container.as_mut().and_then(|container| container.health.as_mut()) else { return };
        let Some(probing) = health.running.take() else { return };
        if exit_code == -1 {
            // Killed a moment ago: no zombie stays.
            status_of(&probing.process.pidfd);
        }
        let output = text.unwrap_or_else(|| String::from_utf8_lossy(&probing.text).into_owned());
        self.verdict(ProbeResult {
            started_unix_nanos: probing.started_nanos,
            finished_unix_nanos: now(),
            exit_code,
            output,
        });
    }

    pub(super) fn verdict(&mut self, result: ProbeResult) {
        let Some(health) = self.container.as_mut().and_then(|container| container.health.as_mut()) else { return };
        health.ended(result.clone(), now());
        let state = health.state.clone();
        self.tell(&Notice::Probe(result));
        self.tell(&Notice::Health(state));
    }
}
