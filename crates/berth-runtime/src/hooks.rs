//! Hooks: programs of the configuration that run at points of a container's life (runtime-spec, config.md).
//!
//! ```text
//! prestart, createRuntime   host's namespaces; namespaces exist, nothing pivoted   failing ends the launch
//! createContainer           container's namespaces, before pivot_root              failing ends the launch
//! startContainer            in the container, just before the program              failing ends the launch
//! poststart, poststop       the caller's, by [`run`]                               a failure is a warning
//! ```
//!
//! Each gets the container's state as JSON on its standard input. One that outlives its timeout is killed.

use crate::error::LaunchError;
use oci_spec::runtime::{Hook, Spec};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What of a hook's standard error is kept for the message.
const OUTPUT_MAX: u64 = 4096;

/// The OCI state (runtime-spec, runtime.md "State") of a container.
pub fn state(spec: &Spec, id: &str, status: &str, pid: i32, bundle: &Path) -> String {
    let mut state = serde_json::json!({
        "ociVersion": spec.version(), "id": id, "status": status, "pid": pid, "bundle": bundle,
    });
    if let (Some(annotations), Some(object)) = (spec.annotations(), state.as_object_mut()) {
        object.insert("annotations".to_owned(), serde_json::json!(annotations));
    }
    state.to_string()
}

/// Runs them in order; stops at the first that fails.
pub fn run(kind: &str, hooks: Option<&Vec<Hook>>, state: &str) -> Result<(), LaunchError> {
    for hook in hooks.into_iter().flatten() {
        run_one(hook, state)
            .map_err(|what| LaunchError::host(format!("{kind} hook {} failed: {what}", hook.path().display())))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str) -> Result<(), String> {
    let mut command = Command::new(hook.path());
    if let Some((first, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(first).args(rest);
    }
    command.env_clear();
    command.envs(hook.env().iter().flatten().map(|entry| entry.split_once('=').unwrap_or((entry, ""))));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook may end, or close its input, without reading it. The state fits the pipe's buffer.
        match stdin.write_all(state.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.to_string()),
            _ => {}
        }
    }
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let status = match timeout {
        None => child.wait().map_err(|error| error.to_string())?,
        Some(seconds) => wait_until(&mut child, Instant::now() + Duration::from_secs(seconds))
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("still running after {seconds} s; it was killed"))?,
    };
    if status.success() {
        return Ok(());
    }
    let mut output = String::new();
    if let Some(stderr) = child.stderr.take() {
        // Words for the message; without them the status has to do.
        stderr.take(OUTPUT_MAX).read_to_string(&mut output).ok();
    }
    let output = output.trim();
    Err(if output.is_empty() { status.to_string() } else { format!("{status}: {output}") })
}

fn wait_until(child: &mut Child, deadline: Instant) -> std::io::Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
