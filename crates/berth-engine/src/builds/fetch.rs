//! `ADD` from elsewhere: files by HTTP, repositories by the host's `git`.
//!
//! What comes is somebody else's: a file goes into one without a name and is counted and hashed on the way; a
//! repository is fetched into the build's own folder by a `git` that knows no configuration of the host's, runs no
//! hook, asks nobody for a password and speaks no protocol but http(s), git and ssh. A folder in it is opened
//! without following its links. Both go with the build, also when it is cancelled.

use super::folder::FolderTree;
use super::spool::{SpoolTree, unnamed};
use super::worker::Job;
use berth_build::{Meta, Remote, Tree};
use berth_dockerfile::ignore::Matcher;
use berth_types::{Digest, Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::process::Command;

/// A file larger than this is no part of an image.
const FILE_BYTES_MAX: u64 = 64 << 30;
/// What a file from elsewhere may be done with, as BuildKit has it.
const FILE_MODE: u32 = 0o600;
/// The end of what git said, for an error.
const GIT_SAID_BYTES_MAX: usize = 2 << 10;
/// Secret with a token for repositories, as BuildKit calls it.
const TOKEN: &str = "GIT_AUTH_TOKEN";

pub(crate) async fn fetch(job: &Job, what: &Remote) -> Result<Arc<dyn Tree>> {
    match what {
        Remote::Http { url, checksum, name } => file(job, url, checksum.as_ref(), name).await,
        Remote::Git { url, reference, folder, keep_git_dir, checksum } => {
            let place = job.scratch.path().join(format!("git-{:x}", crate::events::now_unix_nanos()));
            let git = Git { job, url, place };
            git.fetch(reference, folder, *keep_git_dir, checksum).await
        }
    }
}

async fn file(job: &Job, url: &str, checksum: Option<&Digest>, name: &str) -> Result<Arc<dyn Tree>> {
    let action = || format!("cannot fetch {url}");
    let broken = |cause: &berth_registry::RegistryError| Error::because(ErrorKind::Unavailable, action(), cause);
    let written = |cause: io::Error| Error::because(ErrorKind::Unavailable, action(), &cause);
    let mut download = job.engine.images().download(url).await.map_err(|cause| broken(&cause))?;
    if !(200..300).contains(&download.status()) {
        return Err(Error::invalid(format!("{}: the server answers {}", action(), download.status())));
    }
    let mut meta = Meta::file(0, FILE_MODE);
    meta.mtime_nanos = download.last_modified().and_then(http_date).unwrap_or(0).saturating_mul(1_000_000_000);
    let mut file = unnamed(job.scratch.path()).map_err(written)?;
    let mut hash = Sha256::new();
    while let Some(bytes) = download.chunk().await.map_err(|cause| broken(&cause))? {
        meta.size += bytes.len() as u64;
        if meta.size > FILE_BYTES_MAX {
            return Err(Error::invalid(format!("{}: it is larger than {FILE_BYTES_MAX} bytes", action())));
        }
        hash.update(&bytes);
        file.write_all(&bytes).map_err(written)?;
    }
    let digest: [u8; 32] = hash.finalize().into();
    let found = Digest::from_bytes(digest);
    if let Some(expected) = checksum.filter(|expected| **expected != found) {
        return Err(Error::invalid(format!("digest mismatch of {url}: it is {found}, not {expected}")));
    }
    Ok(Arc::new(SpoolTree::one(file, Path::new(name), meta, digest)))
}

/// Seconds since 1970 of `Wed, 21 Oct 2015 07:28:00 GMT`.
fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second())
}

struct Git<'a> {
    job: &'a Job,
    url: &'a str,
    place: PathBuf,
}

impl Git<'_> {
    async fn fetch(&self, reference: &str, folder: &str, keep: bool, checksum: &str) -> Result<Arc<dyn Tree>> {
        if reference.starts_with('-') || reference.contains(char::is_whitespace) || reference.contains("..") {
            return Err(Error::invalid(format!("invalid git reference {reference:?}")));
        }
        std::fs::create_dir_all(&self.place).map_err(|cause| self.failed(&cause))?;
        self.run(&["init", "-q", "--template="]).await?;
        let wanted = if reference.is_empty() { "HEAD" } else { reference };
        let commit = match self.run(&["fetch", "-q", "--depth=1", "--no-tags", "--", self.url, wanted]).await {
            Ok(_) => "FETCH_HEAD".to_owned(),
            // A server that gives out whole histories only, or no commit by its digest.
            Err(_) => self.fetch_all(wanted).await?,
        };
        self.run(&["checkout", "-q", "--detach", &commit]).await?;
        let head = self.run(&["rev-parse", "HEAD"]).await?;
        if !head.trim().starts_with(checksum) {
            return Err(Error::invalid(format!("{} is at {}, not at {checksum}", self.url, head.trim())));
        }
        if self.place.join(".gitmodules").is_file() {
            self.run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"]).await?;
        }
        let tree = FolderTree::open(&self.place, self.ignore(keep)?, Arc::default());
        let tree = tree.map_err(|cause| self.failed(&cause))?;
        if folder.is_empty() {
            return Ok(Arc::new(tree));
        }
        let within = tree.within(Path::new(folder), self.ignore(keep)?).map_err(|cause| {
            let action = format!("cannot open folder {folder} of {}", self.url);
            Error::because(ErrorKind::InvalidArgument, action, &cause)
        })?;
        Ok(Arc::new(within))
    }

    /// All branches and tags; what `reference` is among them.
    async fn fetch_all(&self, reference: &str) -> Result<String> {
        let all = ["+HEAD:refs/all/HEAD", "+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*"];
        let fetch = ["fetch", "-q", "--no-tags", "--", self.url];
        self.run(&[&fetch[..], &all[..]].concat()).await?;
        for name in [format!("refs/all/tags/{reference}"), format!("refs/all/heads/{reference}"), reference.to_owned()]
        {
            let name = if name == "HEAD" { "refs/all/HEAD".to_owned() } else { name };
            let commit = format!("{name}^{{commit}}");
            if let Ok(found) = self.run(&["rev-parse", "-q", "--verify", "--end-of-options", &commit]).await {
                return Ok(found.trim().to_owned());
            }
        }
        Err(Error::invalid(format!("{} has no branch, tag or commit {reference}", self.url)))
    }

    fn ignore(&self, keep: bool) -> Result<Matcher> {
        let patterns: &[String] = if keep { &[] } else { &["**/.git".to_owned()] };
        Matcher::new(patterns).map_err(Error::invalid)
    }

    fn failed(&self, cause: &io::Error) -> Error {
        let failed = Error::because(ErrorKind::Unavailable, format!("cannot fetch {}", self.url), cause);
        match cause.kind() {
            io::ErrorKind::NotFound => failed.with_hint("the engine's host needs the program git"),
            _ => failed,
        }
    }

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.place).args(arguments).env_clear().kill_on_drop(true).stdin(Stdio::null());
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        command.env("PATH", path).env("HOME", self.job.scratch.path()).env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh");
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new");
        if let Some(agent) = self.job.ssh.get("default") {
            command.env("SSH_AUTH_SOCK", agent);
        }
        let mut settings = vec![("core.hooksPath".to_owned(), "/dev/null".to_owned())];
        settings.extend(self.login()?);
        // In the environment and not among the arguments, where everybody on the host sees them.
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        let output = command.output().await.map_err(|cause| self.failed(&cause))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = &output.stderr[output.stderr.len().saturating_sub(GIT_SAID_BYTES_MAX)..];
        let said = String::from_utf8_lossy(said).trim().replace('\n', ": ");
        Err(Error::invalid(format!("cannot fetch {}: {said}", self.url)))
    }

    /// A token of the caller's for this repository's server, and no other.
    fn login(&self) -> Result<Option<(String, String)>> {
        use base64::Engine as _;
        let Some(rest) = self.url.strip_prefix("https://") else { return Ok(None) };
        let host = rest.split('/').next().unwrap_or_default();
        let secrets = &self.job.secrets;
        let Some(token) = secrets.get(&format!("{TOKEN}.{host}")).or_else(|| secrets.get(TOKEN)) else {
            return Ok(None);
        };
        let token = std::str::from_utf8(token).map_err(|_| Error::invalid(format!("secret {TOKEN} is no text")))?;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{}", token.trim()));
        Ok(Some((format!("http.https://{host}/.extraHeader"), format!("Authorization: basic {basic}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_servers_are_read() {
        assert_eq!(http_date("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(http_date("soon"), None);
    }
}
