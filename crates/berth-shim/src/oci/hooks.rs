//! Hooks: programs of the configuration run at points of a container's life.
//!
//! ```text
//! prestart, createRuntime   host's namespaces; namespaces exist, nothing pivoted   failing ends create
//! createContainer           container's namespaces, before pivot_root              failing ends create
//! startContainer            in the container, just before the program              failing ends start
//! poststart                 host's namespaces, after the program started           a failure is a warning
//! poststop                  host's namespaces, after everything is gone            a failure is a warning
//! ```
//!
//! Each gets the container's state as JSON on its standard input (runtime-spec, config.md "POSIX-platform
//! hooks"). A hook that outlives its timeout is killed. Those of the second and third line are run by the
//! runtime's child with the same function.

use super::error::CliError;
use oci_spec::runtime::Hook;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What of a hook's standard error is kept for the message.
const OUTPUT_BYTES_MAX: u64 = 4096;

/// Runs hooks in order; stops at the first that fails.
pub(crate) fn run(kind: &'static str, hooks: &[Hook], state: &serde_json::Value) -> Result<(), CliError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = state.to_string();
    hooks.iter().try_for_each(|hook| {
        run_one(hook, &state).map_err(|what| CliError::Hook { kind, path: hook.path().clone(), what })
    })
}

fn run_one(hook: &Hook, state: &str) -> Result<(), String> {
    let mut command = Command::new(hook.path());
    if let Some((first, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(first).args(rest);
    }
    command.env_clear();
    for entry in hook.env().iter().flatten() {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(key, value);
    }
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
    let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let status = loop {
        let Some(deadline) = deadline else { break child.wait().map_err(|error| error.to_string())? };
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().map_err(|error| error.to_string())?;
            child.wait().map_err(|error| error.to_string())?;
            return Err(format!("killed after {} s", timeout.unwrap_or_default()));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // Not to the end of file: a process that the hook left behind may keep it open.
        nonblocking_read(stderr, &mut said);
    }
    let said = String::from_utf8_lossy(&said);
    Err(format!("{status}{}{}", if said.is_empty() { "" } else { ": " }, said.trim_end()))
}

fn nonblocking_read(stderr: std::process::ChildStderr, into: &mut Vec<u8>) {
    if rustix::io::ioctl_fionbio(&stderr, true).is_ok() {
        // Ends with WouldBlock or at the end of file; what was read by then is kept in either case.
        stderr.take(OUTPUT_BYTES_MAX).read_to_end(into).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::HookBuilder;

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let args: Vec<String> = ["sh", "-c", script].map(str::to_owned).into();
        let mut hook = HookBuilder::default().path("/bin/sh").args(args).env(vec!["A=b".to_owned()]).build().unwrap();
        hook.set_timeout(timeout);
        hook
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment() {
        let state = serde_json::json!({ "id": "c1" });
        let script = r#"read state; [ "$state" = '{"id":"c1"}' ] && [ "$A" = b ] && [ -z "$HOME" ]"#;
        run("prestart", &[shell(script, None)], &state).unwrap();
    }

    #[test]
    fn a_failing_hook_says_so_with_its_words() {
        let error = run("prestart", &[shell("echo no luck >&2; exit 3", None)], &serde_json::json!({})).unwrap_err();
        assert_eq!(error.to_string(), "prestart hook /bin/sh failed: exit status: 3: no luck");
    }

    #[test]
    fn a_hook_is_killed_at_its_timeout() {
        let error = run("poststop", &[shell("exec sleep 60", Some(1))], &serde_json::json!({})).unwrap_err();
        assert!(error.to_string().ends_with("killed after 1 s"), "{error}");
    }

    #[test]
    fn a_hook_that_ignores_its_input_is_fine() {
        run("poststart", &[shell("exec <&-; exit 0", None)], &serde_json::json!({})).unwrap();
    }
}
