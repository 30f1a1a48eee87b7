//! Clients at a container's standard streams, and processes of `exec`.

use super::record::{Container, Exec, PendingAttach, random_bytes};
use super::{
    AttachInput, AttachOptions, AttachOutput, AttachStream, Containers, ExecInspect, ExecSpec, ExecStart, LogOptions,
};
use crate::oci;
use crate::shim::{Streams, parse_detach_keys};
use berth_shim_proto::{Answer, Attach, Body, Target};
use berth_types::{Error, ErrorKind, ExecId, Phase, Result};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

const CHUNKS_MAX: usize = 16;
/// The end of streams and the exit of their process come together; more means that the exit is lost.
pub(super) const EXIT_SECONDS_MAX: std::time::Duration = std::time::Duration::from_secs(2);
/// As dockerd waits for an exec that somebody resizes.
const LAUNCH_SECONDS_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// Docker's words for it, which scripts search for.
const EXEC_FAILED: &str = "OCI runtime exec failed: exec failed: unable to start container process";

/// A stream that says one thing and ends.
fn said(tty: bool, text: String) -> Result<AttachStream> {
    let (output, chunks) = mpsc::channel(1);
    let full = |_| Error::internal("a new channel holds no text");
    output.try_send((super::OutputStream::Stdout, Bytes::from(text))).map_err(full)?;
    Ok(AttachStream { tty, output: AttachOutput { chunks }, input: None })
}

/// A stream that ended before it said anything.
/// A command in dockerd's events: program, space, arguments, also without any.
fn told(command: &[String]) -> String {
    let (program, arguments) = command.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    format!("{program} {}", arguments.join(" "))
}

fn ended(tty: bool) -> AttachStream {
    let (_, chunks) = mpsc::channel(1);
    AttachStream { tty, output: AttachOutput { chunks }, input: None }
}

pub(super) fn wanted(options: &AttachOptions, target: Target) -> Attach {
    Attach { target, stdin: options.stdin, stdout: options.stdout, stderr: options.stderr }
}

/// Moves bytes in a task of its own until somebody ends it.
pub(super) fn run(
    containers: &Containers,
    container: &Arc<Container>,
    streams: Streams,
    options: AttachOptions,
    output: mpsc::Sender<(super::OutputStream, Bytes)>,
    input: Option<mpsc::Receiver<Bytes>>,
) {
    let config = container.record().spec.config.clone();
    let keys = (config.tty && options.stdin).then(|| parse_detach_keys(&options.detach_keys).ok()).flatten();
    let (containers, container) = (containers.clone(), container.clone());
    tokio::spawn(async move {
        let left = streams.run(output, input, keys, config.stdin_once).await;
        if left == crate::shim::Left::Detached {
            containers.tell(&container, "detach", &[]);
        }
    });
}

/// While something holds of an exec, which it does of none that is forgotten.
async fn exec_while(container: &Container, id: &ExecId, holds: impl Fn(&Exec) -> bool) {
    let mut changes = container.live().exec_changes.subscribe();
    while container.live().execs.get(id).is_some_and(&holds) {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Until the code of an exec is known.
async fn exec_end(container: &Container, id: &ExecId) {
    exec_while(container, id, |exec| exec.exit_code.is_none()).await;
}

/// Whether a machine's guest may have an agent that runs processes.
fn has_agent(record: &super::Record) -> bool {
    record.machine.as_ref().is_some_and(|machine| machine.agent)
}

/// The process as its container runs it; in a machine as any of its first user's, with all rights.
fn process_of(
    record: &super::Record,
    attachment: &crate::networks::Attachment,
    spec: &ExecSpec,
) -> Result<oci_spec::runtime::Process> {
    if record.machine.is_none() {
        return oci::exec_process(&record.told(attachment), spec);
    }
    let mut system = berth_types::spec::ContainerSpec::default();
    system.host.privileged = true;
    oci::exec_process(&system, &ExecSpec { privileged: true, ..spec.clone() })
}

impl Containers {
    /// Connects to its standard streams; one that does not run yet is waited for.
    pub async fn attach(&self, container: &str, options: AttachOptions) -> Result<AttachStream> {
        let container = self.get(container)?;
        let config = container.record().spec.config.clone();
        parse_detach_keys(&options.detach_keys)?;
        let (output, chunks) = mpsc::channel(CHUNKS_MAX);
        let wants_input = options.stdin && config.open_stdin && options.stream;
        let (input_sender, input) = mpsc::channel(CHUNKS_MAX);
        let stream = AttachStream {
            tty: config.tty,
            output: AttachOutput { chunks },
            input: wants_input.then_some(AttachInput { chunks: input_sender }),
        };
        let input = wants_input.then_some(input);
        if matches!(container.phase(), Phase::Paused { .. }) {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before attach",
                container.id
            )));
        }
        if options.logs {
            let from = LogOptions { stdout: options.stdout, stderr: options.stderr, ..LogOptions::default() };
            let mut logs = self.logs(container.id.as_str(), from).await?;
            let (containers, of) = (self.clone(), container.clone());
            tokio::spawn(async move {
                while let Some(Ok(record)) = logs.next().await {
                    if output.send((record.stream, record.line)).await.is_err() {
                        return;
                    }
                }
                if options.stream {
                    containers.connect(&of, options, output, input).await.ok();
                }
            });
        } else if options.stream {
            self.connect(&container, options, output, input).await?;
        }
        self.tell(&container, "attach", &[]);
        Ok(stream)
    }

    async fn connect(
        &self,
        container: &Arc<Container>,
        options: AttachOptions,
        output: mpsc::Sender<(super::OutputStream, Bytes)>,
        input: Option<mpsc::Receiver<Bytes>>,
    ) -> Result<()> {
        let paths = super::record::Paths::new(self.engine.config(), &container.id);
        loop {
            let mut exits = {
                let mut live = container.live();
                if !live.is_running() {
                    live.attaches.push(PendingAttach { options, output, input });
                    return Ok(());
                }
                live.exits.subscribe()
            };
            match crate::shim::attach(&paths.shim, wanted(&options, Target::Init)).await {
                Ok(streams) => {
                    run(self, container, streams, options, output, input);
                    return Ok(());
                }
                // It ended since we looked, and took its streams along: the next start is waited for, as by
                // somebody who asked a moment later.
                Err(error) => {
                    if !matches!(tokio::time::timeout(EXIT_SECONDS_MAX, exits.changed()).await, Ok(Ok(()))) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Prepares a process inside a running container.
    pub async fn exec_create(&self, container: &str, spec: ExecSpec) -> Result<ExecId> {
        let found = self.get(container)?;
        if !has_agent(&found.record()) {
            super::not_a_machine(&found.record(), "run a process in")?;
        }
        match found.phase() {
            Phase::Running { .. } => {}
            _ if found.live().is_restarting() => {
                return Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    found.id
                )));
            }
            Phase::Paused { .. } => {
                return Err(Error::conflict(format!(
                    "Container {container} is paused, unpause the container before exec"
                )));
            }
            _ => return Err(Error::conflict(format!("container {} is not running", found.id))),
        }
        parse_detach_keys(&spec.detach_keys)?;
        let mut spec = spec;
        // A whole system's own first user, where nobody else is named.
        if spec.user.is_empty() && found.record().machine.is_none() {
            spec.user.clone_from(&found.record().spec.config.user);
        }
        let (record, attachment) = {
            let live = found.live();
            (live.record.clone(), live.run.attachment.clone())
        };
        process_of(&record, &attachment, &spec)?;
        let guest = crate::guests::is_guest(&record.spec) || record.machine.is_some();
        // In a machine the runtime itself finds out.
        if let Some(pid) =
            found.phase().pid().filter(|_| !guest && spec.user.contains(|c: char| !c.is_ascii_digit() && c != ':'))
        {
            super::archive::check_user(pid, &spec.user).await?;
        }
        let id = ExecId::from_bytes(random_bytes()?);
        let command = told(&spec.cmd);
        let exec = Exec { id: id.clone(), spec, pid: 0, started: false, exit_code: None, ended: None };
        found.live().execs.insert(id.clone(), exec);
        self.engine.table().add_exec(&id, &found.id);
        self.tell(&found, &format!("exec_create: {command}"), &[("execID", id.to_string())]);
        Ok(id)
    }

    /// Runs it; `None` where detached.
    pub async fn exec_start(&self, exec: &str, options: ExecStart) -> Result<Option<AttachStream>> {
        let (container, id) = self.engine.table().of_exec(exec)?;
        let spec = {
            let mut live = container.live();
            let Some(exec) = live.execs.get_mut(&id) else {
                return Err(Error::not_found(format!("No such exec instance: {exec}")));
            };
            if exec.started {
                return Err(Error::conflict(format!("exec command {id} has already run")));
            }
            exec.started = true;
            exec.spec.clone()
        };
        let result = self.exec_run(&container, &id, spec, options).await;
        if let Err(error) = &result {
            container.live().exec_ended(&id, super::start::failure_code(error));
        }
        result
    }

    async fn exec_run(
        &self,
        container: &Arc<Container>,
        id: &ExecId,
        spec: ExecSpec,
        options: ExecStart,
    ) -> Result<Option<AttachStream>> {
        let shim = container.shim()?;
        if matches!(container.phase(), Phase::Paused { .. }) {
            return Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.id
            )));
        }
        let mut spec = spec;
        if let Some(size) = options.console_size {
            spec.console_size = size;
        }
        let attaches = !options.detach && (spec.attach_stdin || spec.attach_stdout || spec.attach_stderr);
        let process = {
            let live = container.live();
            let process = process_of(&live.record, &live.run.attachment, &spec)?;
            match crate::guests::is_guest(&live.record.spec) || live.record.machine.is_some() {
                true => {
                    let stdin = attaches && spec.attach_stdin;
                    crate::guests::wrapped(&live.record, process, spec.tty, spec.console_size, stdin)?
                }
                false => process,
            }
        };
        let process = serde_json::to_value(process)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the process", &cause))?;
        let memo = serde_json::to_value(&spec)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot write the process", &cause))?;
        let body = berth_shim_proto::Exec {
            id: id.clone(),
            process,
            memo,
            tty: spec.tty,
            console_size: spec.console_size,
            stdin: attaches && spec.attach_stdin,
            output: attaches,
        };
        let command = told(&spec.cmd);
        let answer = match shim.request(Body::Exec(Box::new(body))).await {
            Ok(answer) => answer,
            Err(error) => {
                container.live().exec_ended(id, super::start::failure_code(&error));
                let error = error.context(EXEC_FAILED);
                // Whoever is attached reads it where the program would have spoken, and finds the code in `inspect`.
                return if attaches { said(spec.tty, format!("{error}\r\n")).map(Some) } else { Err(error) };
            }
        };
        if let Answer::Started { pid } = answer {
            container.live().exec_launched(id, pid);
        }
        self.tell(container, &format!("exec_start: {command}"), &[("execID", id.to_string())]);
        if !attaches {
            return Ok(None);
        }
        let paths = super::record::Paths::new(self.engine.config(), &container.id);
        let attach = Attach {
            target: Target::Exec(id.clone()),
            stdin: spec.attach_stdin,
            stdout: spec.attach_stdout,
            stderr: spec.attach_stderr,
        };
        let streams = match crate::shim::attach(&paths.shim, attach).await {
            Ok(streams) => streams,
            Err(error) => {
                // It went with its container since: its end is all that is left to hear of it.
                let over = tokio::time::timeout(EXIT_SECONDS_MAX, exec_end(container, id)).await;
                return if over.is_ok() { Ok(Some(ended(spec.tty))) } else { Err(error) };
            }
        };
        let (output, chunks) = mpsc::channel(CHUNKS_MAX);
        let (input_sender, input) = mpsc::channel(CHUNKS_MAX);
        let keys = (spec.tty && spec.attach_stdin).then(|| parse_detach_keys(&spec.detach_keys)).transpose()?;
        let input = spec.attach_stdin.then_some(input);
        let (of, id) = (container.clone(), id.clone());
        tokio::spawn(async move {
            // The client's stream ends with this: it then asks for the code at once.
            let held = output.clone();
            if streams.run(output, input, keys, true).await == crate::shim::Left::End {
                // The shim tells both at the same time, on two connections.
                tokio::time::timeout(EXIT_SECONDS_MAX, exec_end(&of, &id)).await.ok();
            }
            drop(held);
        });
        Ok(Some(AttachStream {
            tty: spec.tty,
            output: AttachOutput { chunks },
            input: spec.attach_stdin.then_some(AttachInput { chunks: input_sender }),
        }))
    }

    /// What became of it; remembered while its container runs.
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecInspect> {
        let (container, id) = self.engine.table().of_exec(exec)?;
        let live = container.live();
        let Some(found) = live.execs.get(&id) else {
            return Err(Error::not_found(format!("No such exec instance: {exec}")));
        };
        Ok(ExecInspect {
            id,
            container_id: container.id.clone(),
            spec: found.spec.clone(),
            running: found.started && found.exit_code.is_none(),
            exit_code: found.exit_code,
            pid: found.pid,
            can_remove: found.exit_code.is_some(),
        })
    }

    /// Sends a signal to its process; one that has ended takes none and that is no error.
    pub async fn exec_signal(&self, exec: &str, signal: i32) -> Result<()> {
        let (container, id) = self.engine.table().of_exec(exec)?;
        if container.live().execs.get(&id).is_none_or(|exec| exec.exit_code.is_some()) {
            return Ok(());
        }
        container.shim()?.tell(Body::Signal { target: Target::Exec(id), signal }).await
    }

    /// Sets its terminal's size. One that is just being launched is waited for, as clients resize at once.
    pub async fn exec_resize(&self, exec: &str, rows: u16, columns: u16) -> Result<()> {
        let (container, id) = self.engine.table().of_exec(exec)?;
        let launching = exec_while(&container, &id, |exec| exec.pid == 0 && exec.exit_code.is_none());
        if tokio::time::timeout(LAUNCH_SECONDS_MAX, launching).await.is_err() {
            return Err(Error::conflict(format!("exec {id} has not been started")));
        }
        container.shim()?.tell(Body::Resize { target: Target::Exec(id), rows, columns }).await
    }
}
