//! A compose file out of a git repository.
//!
//! ```text
//! git init --bare            in a new folder of nobody's, gone afterwards
//! git fetch --depth 1 URL    one commit, no tags, no submodules; nothing is checked out
//! git cat-file blob          the one file, as it is in that commit
//! ```
//!
//! A repository is a stranger's: the program runs as `nobody` with an environment of its own, so that no configuration,
//! hook, key or helper of the host's is used; over http(s) only; what it may write, use and take is limited. Nothing of a
//! repository is ever run or laid out as files: the text goes the way of every other one ([`super`]).

use super::TEXT_BYTES_MAX;
use base64::Engine as _;
use berth_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

const NOBODY: u32 = 65_534;
const SECONDS_MAX: u64 = 60;
const URL_BYTES_MAX: usize = 1000;
const NAME_BYTES_MAX: usize = 250;
const TOKEN_BYTES_MAX: usize = 500;
/// Of one file of it, which is where all that was fetched comes to lie.
const FILE_BYTES_MAX: u64 = 128 << 20;
const MEMORY_BYTES_MAX: u64 = 2 << 30;
const SAID_BYTES_MAX: u64 = 16 << 10;
const LINES_MAX: usize = 8;
const GIT_HINT: &str = "install git on the engine's host (Debian: apt-get install git)";

/// Where a stack's text comes from.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) url: String,
    /// A branch or tag; empty: what the repository itself has as its first.
    pub(crate) branch: String,
    /// Of the compose file in it.
    pub(crate) path: String,
    /// For a repository that not everybody may read. Never shown.
    pub(crate) token: String,
    /// The commit that is up.
    pub(crate) commit: String,
    pub(crate) subject: String,
    pub(crate) committed_unix_millis: i64,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} of {} at {}", self.path, self.url, self.commit)
    }
}

/// A compose file, and the commit that it is of.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) text: String,
    pub(crate) source: Source,
}

fn plain(text: &str, more: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

impl Source {
    pub(crate) fn check(&self) -> Result<()> {
        let Some(rest) = self.url.strip_prefix("https://").or_else(|| self.url.strip_prefix("http://")) else {
            return Err(Error::invalid(format!("{:?} is no repository that can be read", self.url))
                .with_hint("its address begins with https:// (or http://)"));
        };
        let host = rest.split('/').next().unwrap_or_default();
        if host.is_empty() || self.url.len() > URL_BYTES_MAX || self.url.chars().any(|c| c.is_control() || c == ' ') {
            return Err(Error::invalid("this is no address of a repository"));
        }
        if host.contains('@') {
            return Err(Error::invalid("an address has no name and password in it, since it is shown to others")
                .with_hint("give an access token beside it"));
        }
        let branch_good = plain(&self.branch, "._/-+") && !self.branch.starts_with('-') && !self.branch.contains("..");
        if !branch_good || self.branch.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!("{:?} is no branch or tag", self.branch)));
        }
        let parts_good = self.path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !parts_good || self.path.len() > NAME_BYTES_MAX || self.path.contains(['\n', '\0']) {
            return Err(Error::invalid(format!("{:?} is no path in a repository", self.path))
                .with_hint("compose.yaml, for example"));
        }
        if self.token.len() > TOKEN_BYTES_MAX || !self.token.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::invalid("this is no access token"));
        }
        let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let here = matches!(bare, "localhost" | "127.0.0.1" | "[::1]");
        if !self.token.is_empty() && !self.url.starts_with("https://") && !here {
            return Err(Error::invalid("an access token is not sent where everybody on the way can read it")
                .with_hint("use the repository's https:// address"));
        }
        if !(self.commit.is_empty() || self.commit.len() == 40 && plain(&self.commit, "")) {
            return Err(Error::invalid(format!("{:?} is no commit", self.commit)));
        }
        Ok(())
    }

    /// The file as it is in `commit`, or where that is empty in the newest one of the branch.
    pub(crate) async fn read(&self) -> Result<Read> {
        self.check()?;
        let folder = Folder::make()?;
        let work = async {
            let git = Git { folder: &folder.path, token: &self.token };
            git.run(&["init", "-q", "--bare", "."], SAID_BYTES_MAX).await?;
            let what = match (self.commit.as_str(), self.branch.as_str()) {
                ("", "") => "HEAD",
                ("", branch) => branch,
                (commit, _) => commit,
            };
            let fetch = ["fetch", "-q", "--depth", "1", "--no-tags", "--no-recurse-submodules", "--", &self.url, what];
            git.run(&fetch, SAID_BYTES_MAX)
                .await
                .map_err(|error| error.context(format!("cannot read {}", self.url)))?;
            // Its commit, not the tag that names it.
            let about = git.run(&["log", "-1", "--format=%H%n%ct%n%s", "FETCH_HEAD"], SAID_BYTES_MAX).await?;
            let about = String::from_utf8_lossy(&about).into_owned();
            let mut lines = about.lines();
            let commit = lines.next().unwrap_or_default().to_owned();
            let seconds: i64 = lines.next().and_then(|text| text.parse().ok()).unwrap_or(0);
            let subject: String = lines.next().unwrap_or_default().chars().take(200).collect();
            let file = format!("{commit}:{}", self.path);
            let text = git.run(&["cat-file", "blob", &file], TEXT_BYTES_MAX as u64 + 1).await.map_err(|error| {
                error.context(format!(
                    "there is no file {} in commit {}",
                    self.path,
                    commit.get(..12).unwrap_or(&commit)
                ))
            })?;
            if text.len() > TEXT_BYTES_MAX {
                return Err(Error::invalid(format!("a compose file has at most {TEXT_BYTES_MAX} bytes")));
            }
            let text = String::from_utf8(text).map_err(|_| Error::invalid(format!("{} is no text", self.path)))?;
            let committed_unix_millis = seconds.saturating_mul(1000);
            Ok(Read { text, source: Source { commit, subject, committed_unix_millis, ..self.clone() } })
        };
        tokio::time::timeout(Duration::from_secs(SECONDS_MAX), work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("{} was not read within {SECONDS_MAX} s", self.url)))
        })
    }
}

/// A folder of nobody's, which goes with this.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make() -> Result<Folder> {
        let failed = |cause: &(dyn std::error::Error + 'static)| {
            Error::because(ErrorKind::Unavailable, "cannot make a folder for a repository", cause)
        };
        let name = format!("berth-git-{:016x}", u64::from_ne_bytes(crate::identity::random()?));
        let folder = Folder { path: std::env::temp_dir().join(name) };
        // One that is there already is refused.
        std::fs::DirBuilder::new().mode(0o700).create(&folder.path).map_err(|cause| failed(&cause))?;
        chown(&folder.path, Some(NOBODY), Some(NOBODY)).map_err(|cause| failed(&cause))?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(cause) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %cause, "what was read of a repository stays");
        }
    }
}

struct Git<'a> {
    folder: &'a Path,
    token: &'a str,
}

impl Git<'_> {
    /// What it writes to its output, of which `bytes_max` are read.
    async fn run(&self, words: &[&str], bytes_max: u64) -> Result<Vec<u8>> {
        let mut command = Command::new("/usr/bin/prlimit");
        command
            .arg(format!("--fsize={FILE_BYTES_MAX}"))
            .arg(format!("--as={MEMORY_BYTES_MAX}"))
            .args(["--core=0", "--"]);
        command.arg("git").args(words).current_dir(self.folder);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
        // Neither files of the host nor programs of anybody's are transports.
        command
            .env("GIT_ALLOW_PROTOCOL", "http:https")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_ASKPASS", "/bin/false");
        let mut settings = vec![
            ("core.hooksPath", "/dev/null".to_owned()),
            ("credential.helper", String::new()),
            ("fetch.fsckObjects", "true".to_owned()),
            ("fetch.recurseSubmodules", "false".to_owned()),
            ("gc.auto", "0".to_owned()),
            ("maintenance.auto", "false".to_owned()),
        ];
        if !self.token.is_empty() {
            let said = base64::engine::general_purpose::STANDARD.encode(format!("git:{}", self.token));
            settings.push(("http.extraHeader", format!("Authorization: Basic {said}")));
            // It is for that host and no other.
            settings.push(("http.followRedirects", "false".to_owned()));
        }
        // Not on the command line, which others on the host can read.
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (n, (key, value)) in settings.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{n}"), key).env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        command.uid(NOBODY).gid(NOBODY).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let failed = |cause: &std::io::Error| Error::because(ErrorKind::Unavailable, "cannot run git", cause);
        let mut child = command.spawn().map_err(|cause| failed(&cause).with_hint(GIT_HINT))?;
        let _group = Group(child.id());
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::internal("git has no pipes"));
        };
        let (mut out, mut said) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (stdout.take(bytes_max), stderr.take(SAID_BYTES_MAX));
        let (read, heard) = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut said));
        read.and(heard).map_err(|cause| failed(&cause))?;
        // What goes on writing more than is read ends by that.
        drop((stdout, stderr));
        let status = child.wait().await.map_err(|cause| failed(&cause))?;
        if status.success() || out.len() as u64 == bytes_max {
            return Ok(out);
        }
        if status.code() == Some(127) {
            return Err(Error::new(ErrorKind::Unavailable, "git is not there").with_hint(GIT_HINT));
        }
        let mut error = Error::invalid("git could not do it");
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines = said.lines().map(|line| line.chars().filter(|c| !c.is_control()).take(300).collect::<String>());
        error.causes = lines.filter(|line| !line.trim().is_empty()).take(LINES_MAX).collect();
        if error.causes.is_empty() {
            error.causes.push(format!("it ended with {status}: too large, or too slow, perhaps"));
        }
        Err(error)
    }
}

/// Git starts programs of its own, which go with it where nobody waits for it any more.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // Usually all of them have ended.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_mean_something_else_to_git_is_refused() {
        let good = Source { url: "https://host/a.git".into(), path: "deploy/compose.yaml".into(), ..Source::default() };
        assert!(good.check().is_ok());
        for url in [
            "",
            "file:///etc",
            "ext::sh -c id",
            "ssh://host/a",
            "git@host:a",
            "--upload-pack=id",
            "https://",
            "https:///a",
            "https://me:secret@host/a",
            "https://host/a b",
            "https://host/a\nb",
            "/etc",
            "../a",
        ] {
            assert!(Source { url: url.into(), ..good.clone() }.check().is_err(), "{url:?}");
        }
        for branch in ["-x", "a b", "a..b", "a:b", "+a^{}", "@{1}"] {
            assert!(Source { branch: branch.into(), ..good.clone() }.check().is_err(), "{branch:?}");
        }
        for path in ["", "/a", "a/../b", "..", "./a", "a//b", "a\nb"] {
            assert!(Source { path: path.into(), ..good.clone() }.check().is_err(), "{path:?}");
        }
        assert!(Source { commit: "abc".into(), ..good.clone() }.check().is_err());
        assert!(Source { token: "a\r\nHost: b".into(), ..good.clone() }.check().is_err());
        let open = Source { url: "http://host/a".into(), ..good.clone() };
        assert!(open.check().is_ok() && Source { token: "t".into(), ..open }.check().is_err());
        let here = Source { url: "http://127.0.0.1:80/a".into(), token: "t".into(), ..good.clone() };
        assert!(here.check().is_ok());
        assert!(!format!("{:?}", Source { token: "secret".into(), ..good }).contains("secret"));
    }
}
