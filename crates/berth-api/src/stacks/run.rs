//! The compose plugin, run as a program.

use super::TEXT_BYTES_MAX;
use crate::tasks::Progress;
use berth_types::{Error, ErrorKind, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

const PLUGIN_HINT: &str = "install the compose plugin on the engine's host (Debian: apt-get install docker-compose; \
     else put docker-compose into /usr/local/lib/docker/cli-plugins)";
/// Where Docker's own client looks.
const FOLDERS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
const NOBODY: u32 = 65_534;
const READ_SECONDS_MAX: u64 = 30;
const MODEL_BYTES_MAX: u64 = 8 << 20;
/// Lines of its output that a failure repeats.
const LINES_MAX: usize = 12;

/// The plugin and the engine that it works on.
#[derive(Debug, Clone)]
pub(crate) struct Compose {
    program: PathBuf,
    engine_host: String,
}

impl Compose {
    pub(crate) fn find(engine_host: Option<&str>) -> Result<Compose> {
        let own = std::env::var_os("DOCKER_CONFIG").map(|folder| PathBuf::from(folder).join("cli-plugins"));
        let folders = own.into_iter().chain(FOLDERS.iter().map(PathBuf::from));
        // Itself, not a link to it: whoever reads a text may not pass through root's folders.
        let program =
            folders.filter_map(|folder| folder.join("docker-compose").canonicalize().ok()).find(|path| path.is_file());
        let program = program.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "stacks need the compose plugin, and it is not there")
                .with_hint(PLUGIN_HINT)
        })?;
        let engine_host = engine_host
            .map(str::to_owned)
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "stacks need an engine that listens on a unix socket"))?;
        Ok(Compose { program, engine_host })
    }

    /// What `text` means, read by somebody who may nothing; and what the plugin warns of.
    pub(crate) async fn read(&self, name: &str, text: &str, folder: &Path) -> Result<(Value, Vec<String>)> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::invalid(format!("a compose file has at most {TEXT_BYTES_MAX} bytes")));
        }
        let mut command = Command::new(&self.program);
        command.args(["--ansi", "never", "--env-file", "/dev/null", "-p", name, "--project-directory"]);
        command.arg(folder).args(["-f", "-", "config", "--format", "json"]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent").current_dir("/");
        // Nor does a text fetch anything from elsewhere.
        command.env("COMPOSE_EXPERIMENTAL_GIT_REMOTE", "false").env("COMPOSE_EXPERIMENTAL_OCI_REMOTE", "false");
        command.uid(NOBODY).gid(NOBODY);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|cause| self.failed(&cause))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(Error::internal("the compose plugin has no pipes"));
        };
        let text = text.to_owned();
        let work = async {
            let (mut out, mut said) = (Vec::new(), Vec::new());
            let give = async {
                // One that ends early says on its stderr why.
                drop(stdin.write_all(text.as_bytes()).await);
                drop(stdin);
            };
            let (mut stdout, mut stderr) = (stdout.take(MODEL_BYTES_MAX), stderr.take(MODEL_BYTES_MAX));
            let ((), out_read, said_read) =
                tokio::join!(give, stdout.read_to_end(&mut out), stderr.read_to_end(&mut said));
            out_read.and(said_read)?;
            Ok::<_, std::io::Error>((child.wait().await?, out, said))
        };
        let ended = tokio::time::timeout(Duration::from_secs(READ_SECONDS_MAX), work).await;
        let (status, out, said) = ended
            .map_err(|_| {
                Error::new(ErrorKind::Timeout, format!("the compose file was not read within {READ_SECONDS_MAX} s"))
            })?
            .map_err(|cause| self.failed(&cause))?;
        let lines: Vec<String> =
            String::from_utf8_lossy(&said).lines().map(said_plainly).filter(|line| !line.is_empty()).collect();
        if !status.success() {
            let mut error = Error::invalid("this compose file cannot be used");
            error.causes = lines.into_iter().take(LINES_MAX).collect();
            return Err(error);
        }
        let model = serde_json::from_slice(&out)
            .map_err(|cause| Error::because(ErrorKind::Internal, "cannot read what the compose plugin says", &cause))?;
        Ok((model, lines))
    }

    /// Runs it on the model in `file` until it ends; its lines are the task's.
    pub(crate) async fn run(&self, name: &str, file: &Path, words: &[&str], progress: &Progress) -> Result<()> {
        self.lines(name, file, words, |line| progress.line(line)).await.map(drop)
    }

    /// Each service with the digest of what it is to be; a container carries that of what it was made for.
    pub(crate) async fn hashes(&self, name: &str, file: &Path) -> Result<Vec<(String, String)>> {
        let lines = self.lines(name, file, &["config", "--hash", "*"], |_| ()).await?;
        let pair =
            |line: &String| line.split_once(' ').map(|(service, hash)| (service.to_owned(), hash.trim().to_owned()));
        Ok(lines.iter().filter_map(pair).collect())
    }

    async fn lines(&self, name: &str, file: &Path, words: &[&str], mut told: impl FnMut(&str)) -> Result<Vec<String>> {
        let mut command = Command::new(&self.program);
        command.args(["--ansi", "never", "--progress", "plain", "-p", name, "-f"]).arg(file).args(words);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DOCKER_HOST", &self.engine_host);
        // Root's own sign-ins at registries hold for what root's engine pulls.
        for name in ["HOME", "DOCKER_CONFIG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|cause| self.failed(&cause))?;
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::internal("the compose plugin has no pipes"));
        };
        let (mut out, mut err) = (BufReader::new(out).lines(), BufReader::new(err).lines());
        let (mut all, mut said) = (Vec::new(), Vec::new());
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            tokio::select! {
                line = out.next_line(), if out_open => match line {
                    Ok(Some(line)) => {
                        told(&line);
                        all.push(line);
                    }
                    Ok(None) | Err(_) => out_open = false,
                },
                line = err.next_line(), if err_open => match line {
                    Ok(Some(line)) => {
                        let line = said_plainly(&line);
                        if !line.is_empty() {
                            told(&line);
                            said.push(line);
                        }
                    }
                    Ok(None) | Err(_) => err_open = false,
                },
            }
        }
        let status = child.wait().await.map_err(|cause| self.failed(&cause))?;
        if status.success() {
            return Ok(all);
        }
        let mut error = Error::new(ErrorKind::Conflict, format!("compose {} of stack {name} failed", words[0]));
        let skip = said.len().saturating_sub(LINES_MAX);
        error.causes = said.split_off(skip);
        Err(error)
    }

    fn failed(&self, cause: &(dyn std::error::Error + 'static)) -> Error {
        Error::because(ErrorKind::Unavailable, format!("cannot run {}", self.program.display()), cause)
    }
}

/// A log line of the plugin (`time="..." level=warning msg="..."`) as its message alone.
fn said_plainly(line: &str) -> String {
    let Some((_, rest)) = line.split_once(" msg=\"").filter(|_| line.starts_with("time=")) else {
        return line.trim().to_owned();
    };
    rest.strip_suffix('"').unwrap_or(rest).replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_become_sentences() {
        let line = r#"time="2026-01-01T00:00:00Z" level=warning msg="The \"X\" variable is not set.""#;
        assert_eq!(said_plainly(line), "The \"X\" variable is not set.");
        assert_eq!(said_plainly(" plain "), "plain");
    }
}
