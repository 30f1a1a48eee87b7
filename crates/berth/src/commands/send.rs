//! `image send IMAGE HOST`: an image to another host over ssh, without a registry.
//!
//! ```text
//! here                                          there: ssh HOST berth image receive
//! {"layers": [..]}            ──line──>         asks its engine which are missing
//!                             <──line──         {"missing": [..]}
//! offer and missing layers    ──bytes──>        into its engine         without our engine's marks (see `Marks`)
//!                             <──line──         {"id": ".."} or {"error": ".."}
//! ```

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use crate::progress::Line;
use crate::units::human_size3;
use crate::value::Value;
use hyper::Method;
use serde_json::{Value as Json, json};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Longest line of the other side.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// The program that reaches other hosts; one that takes ssh's arguments will do.
const PROGRAM_VARIABLE: &str = "BERTH_SSH";

/// The other host's end.
struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    host: String,
}

impl Peer {
    fn start(host: &str) -> Result<Peer> {
        let program = std::env::var(PROGRAM_VARIABLE).ok().filter(|text| !text.is_empty()).unwrap_or("ssh".to_owned());
        // What looks like an option to ssh is no host.
        if host.is_empty() || host.starts_with('-') {
            return Err(CliError::failed(format!("{host:?} is no host")));
        }
        let failed = |e| CliError::io(format!("cannot run {program}"), e);
        let mut child = Command::new(&program)
            .args([host, "berth", "image", "receive"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.ok_or_else(|| CliError::failed(format!("{program} has no output")))?;
        Ok(Peer { child, stdin, stdout: BufReader::new(stdout), host: host.to_owned() })
    }

    /// Sends bytes; false where the other side no longer listens, which then says why.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        match &mut self.stdin {
            Some(stdin) => stdin.write_all(bytes).await.is_ok(),
            None => false,
        }
    }

    /// Its next line, or its own reason for there being none.
    async fn line(&mut self) -> Result<Json> {
        let mut text = String::new();
        let read = (&mut self.stdout).take(LINE_BYTES_MAX).read_line(&mut text).await;
        read.map_err(|e| CliError::io(format!("no answer from {}", self.host), e))?;
        if text.is_empty() {
            self.stdin = None;
            let status = self.child.wait().await.map_err(|e| CliError::io("cannot wait for ssh", e))?;
            return Err(CliError::failed(format!("{} ended early: {status}", self.host))
                .with_hint(format!("is berth installed there? try: ssh {} berth version", self.host)));
        }
        let said: Json = serde_json::from_str(&text)?;
        match said["error"].as_str() {
            Some(error) => Err(CliError::failed(format!("{}: {error}", self.host))),
            None => Ok(said),
        }
    }
}

/// Takes out of the engine's stream what it says about how far it is: between two frames four bytes of ones, then bytes
/// of the layers that are packed, and of all layers (8 bytes each, big endian). An engine that says nothing is fine.
#[derive(Default)]
struct Marks {
    /// Of a frame's length, or of a mark.
    head: Vec<u8>,
    frame_left: usize,
    packed: u64,
    total: u64,
}

impl Marks {
    const BEGIN: [u8; 4] = [0xff; 4];
    const BYTES: usize = 20;

    /// Adds to `part` what of `chunk` is for the other host.
    fn take(&mut self, mut chunk: &[u8], part: &mut Vec<u8>) {
        while !chunk.is_empty() {
            if self.frame_left > 0 {
                let (now, later) = chunk.split_at(chunk.len().min(self.frame_left));
                part.extend_from_slice(now);
                self.frame_left -= now.len();
                chunk = later;
                continue;
            }
            let wanted = if self.head.starts_with(&Marks::BEGIN) { Marks::BYTES } else { 4 };
            let (now, later) = chunk.split_at(chunk.len().min(wanted - self.head.len()));
            self.head.extend_from_slice(now);
            chunk = later;
            if let Ok(length) = <[u8; 4]>::try_from(&self.head[..])
                && length != Marks::BEGIN
            {
                part.extend_from_slice(&length);
                self.frame_left = u32::from_be_bytes(length) as usize;
                self.head.clear();
            } else if let Some((packed, total)) = mark(&self.head) {
                (self.packed, self.total) = (packed, total);
                self.head.clear();
            }
        }
    }

    /// How many bytes it will be, as far as can be said when `sent` have gone.
    fn expected(&self, sent: u64) -> Option<u64> {
        let whole = (u128::from(sent) * u128::from(self.total)).checked_div(u128::from(self.packed))?;
        u64::try_from(whole).ok()
    }
}

fn mark(bytes: &[u8]) -> Option<(u64, u64)> {
    let number = |from: usize| Some(u64::from_be_bytes(*bytes.get(from..)?.first_chunk()?));
    Some((number(4)?, number(12)?))
}

pub(crate) async fn send(app: &'static App, args: Args) -> Result<u8> {
    let (image, host) = (args.words[0].as_str(), args.words[1].as_str());
    let quiet = args.on("quiet");
    let offer = app.client.get_value(&with_query("/api/v1/images/offer", &[("name", image)])).await?;
    let layers: Vec<String> = offer.get("layers").list().iter().map(|layer| layer.str().to_owned()).collect();
    let mut peer = Peer::start(host)?;
    peer.write(format!("{}\n", json!({"layers": layers})).as_bytes()).await;
    let answer = peer.line().await?;
    let missing: Vec<&str> = answer["missing"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let mut path = format!("/api/v1/images/send?marked=1&name={}", encode(image));
    for layer in &missing {
        path.push_str(&format!("&layer={}", encode(layer)));
    }
    let mut stream = app.client.send(Method::GET, &path, &[], Body::empty()).await?;
    let mut line = Line::new(!quiet);
    let (mut sent, mut marks, mut part) = (0, Marks::default(), Vec::new());
    let name = format!("{image} to {host}");
    while let Some(chunk) = stream.chunk().await? {
        part.clear();
        marks.take(&chunk, &mut part);
        let expected = marks.expected(sent);
        if !line.during(peer.write(&part), |line| line.bytes(&name, sent, expected)).await {
            break;
        }
        sent += part.len() as u64;
        line.bytes(&name, sent, marks.expected(sent));
    }
    // Its end of the stream.
    peer.stdin = None;
    let done = peer.line().await?;
    drop(line);
    let id = done["id"].as_str().unwrap_or_default();
    if quiet {
        app.line(id)?;
    } else {
        app.line(&format!(
            "Sent {image} to {host}: {} of {} layer{}, {}",
            missing.len(),
            layers.len(),
            if layers.len() == 1 { "" } else { "s" },
            human_size3(sent as f64)
        ))?;
    }
    let status = peer.child.wait().await.map_err(|e| CliError::io("cannot wait for ssh", e))?;
    Ok(u8::from(!status.success()))
}

/// The other end of [`send`].
pub(crate) async fn receive(app: &'static App, _args: Args) -> Result<u8> {
    match receive_now(app).await {
        Ok(id) => {
            app.line(&json!({"id": id}).to_string())?;
            Ok(0)
        }
        Err(error) => {
            // Whoever sends shows it.
            app.line(&json!({"error": error.to_string()}).to_string())?;
            Ok(1)
        }
    }
}

async fn receive_now(app: &App) -> Result<String> {
    // Byte by byte: what comes behind the line is the engine's.
    let mut text = Vec::new();
    let mut stdin = std::io::stdin().lock();
    let mut byte = [0];
    while text.last() != Some(&b'\n') {
        let count = std::io::Read::read(&mut stdin, &mut byte).map_err(|e| CliError::io("cannot read the offer", e))?;
        if count == 0 || text.len() as u64 > LINE_BYTES_MAX {
            return Err(CliError::failed("the offer is cut off"));
        }
        text.push(byte[0]);
    }
    drop(stdin);
    let offer: Json = serde_json::from_slice(&text)?;
    let missing = app.client.post_json("/api/v1/images/missing", &json!({"layers": offer["layers"]})).await?;
    let missing: Vec<&str> = missing.get("missing").list().iter().map(Value::str).collect();
    app.line(&json!({"missing": missing}).to_string())?;
    let body = Body::reader(std::io::stdin(), None);
    let answer = app.client.send(Method::POST, "/api/v1/images/receive", &[], body).await?;
    Ok(Value::parse(&answer.bytes().await?)?.text("id").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_out_wherever_the_stream_is_cut() {
        let frame = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let mark = |packed: u64| [&[0xff; 4][..], &packed.to_be_bytes(), &90_u64.to_be_bytes()].concat();
        // A frame may hold what looks like a mark.
        let frames = [frame(b"offer"), frame(&[0xff; 30]), frame(b""), frame(b"end")];
        let marked = [&frames[0][..], &mark(0), &frames[1], &mark(45), &frames[2], &mark(90), &frames[3]].concat();
        for size in 1..marked.len() {
            let (mut marks, mut out) = (Marks::default(), Vec::new());
            for chunk in marked.chunks(size) {
                marks.take(chunk, &mut out);
            }
            assert_eq!((out, marks.packed, marks.total), (frames.concat(), 90, 90), "{size}");
        }
        let half = Marks { packed: 45, total: 90, ..Marks::default() };
        assert_eq!((half.expected(20), Marks::default().expected(20)), (Some(40), None));
        let (mut silent, mut out) = (Marks::default(), Vec::new());
        silent.take(&frames.concat(), &mut out);
        assert_eq!((out, silent.total), (frames.concat(), 0));
    }
}
