//! Another engine's socket through an ssh program, with the keys of root here.

use super::Pipe;
use berth_types::{Error, Result};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

const CONNECT_SECONDS_MAX: u64 = 5;
/// Unanswered for twice so long, a connection ends.
const ALIVE_SECONDS: u64 = 5;
/// How long to wait for ssh's own words about a connection that has just ended.
const WORDS_WAIT: Duration = Duration::from_secs(1);
const WORDS_BYTES_MAX: usize = 400;
/// As the command line has it: ours, or docker's where only that is installed.
const REMOTE: &str =
    "if command -v berth >/dev/null; then exec berth system dial-stdio; else exec docker system dial-stdio; fi";

/// Bytes through an ssh program, which ends with them.
struct Ssh {
    output: ChildStdout,
    /// `None` once nothing more is to be written: only its end tells the other side so.
    input: Option<ChildStdin>,
    _child: Child,
}

impl Ssh {
    fn input(&mut self) -> std::io::Result<Pin<&mut ChildStdin>> {
        self.input.as_mut().map(Pin::new).ok_or_else(|| std::io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Ssh {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

impl AsyncWrite for Ssh {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.input()?.poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(context))?;
        self.input = None;
        Poll::Ready(Ok(()))
    }
}

/// What a connection's program says beside the bytes: why it could not connect.
#[derive(Default)]
pub(super) struct Words(Option<JoinHandle<String>>);

impl Words {
    /// Once the connection has ended; empty where nothing was said.
    pub(super) async fn read(self) -> String {
        let Some(reading) = self.0 else { return String::new() };
        tokio::time::timeout(WORDS_WAIT, reading).await.ok().and_then(std::result::Result::ok).unwrap_or_default()
    }
}

/// The last of what is said, on one line.
fn last_words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(2)..].join("; ");
    last.chars().filter(|c| !c.is_control()).collect()
}

/// Read to its end, or a full pipe would hold ssh up.
async fn listen(mut said: ChildStderr) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut chunk = [0; 512];
    while let Ok(count @ 1..) = said.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        kept.drain(..kept.len().saturating_sub(WORDS_BYTES_MAX));
    }
    last_words(&kept)
}

/// `target` is `[user@]host[:port]`.
pub(super) fn open(target: &str) -> Result<(Box<dyn Pipe>, Words)> {
    let (host, port) = match target.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, Some(port)),
        _ => (target, None),
    };
    let mut command = Command::new(std::env::var_os("BERTH_SSH").unwrap_or_else(|| "ssh".into()));
    if let Some(port) = port {
        command.args(["-p", port]);
    }
    // No question can be answered here.
    let options = [
        "BatchMode=yes".to_owned(),
        format!("ConnectTimeout={CONNECT_SECONDS_MAX}"),
        format!("ServerAliveInterval={ALIVE_SECONDS}"),
        "ServerAliveCountMax=2".to_owned(),
    ];
    for option in &options {
        command.args(["-o", option]);
    }
    // `--`: a host cannot be an option.
    command.args(["-T", "--", host, REMOTE]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|cause| Error::internal(format!("cannot start ssh: {cause}")))?;
    let (Some(input), Some(output), Some(said)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
        return Err(Error::internal("ssh has no pipes"));
    };
    let words = Words(Some(tokio::spawn(listen(said))));
    Ok((Box::new(Ssh { output, input: Some(input), _child: child }), words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_says_last_is_told_on_one_line() {
        let said = b"debug\r\nme@box: Permission denied (publickey).\r\n\x1b[31mbye\n\n";
        assert_eq!(last_words(said), "me@box: Permission denied (publickey).; [31mbye");
        assert_eq!(last_words(b""), "");
    }
}
