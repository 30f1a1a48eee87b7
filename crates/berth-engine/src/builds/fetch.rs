//! `ADD` and contexts from elsewhere: files by HTTP, repositories by the host's `git`.
//!
//! What comes is somebody else's: a file goes into one without a name and is counted and hashed on the way; a
//! repository is fetched into the build's own folder by a `git` that knows no configuration of the host's, runs no
//! hook, asks nobody for a password and speaks no protocol but http(s), git and ssh. A folder in it is opened
//! without following its links. Both go with the build, also when it is cancelled.

use super::Caller;
use super::folder::FolderTree;
use super::spool::{SpoolTree, unnamed};
use crate::Engine;
use berth_build::{Meta, Remote, Tree};
use berth_dockerfile::ignore::Matcher;
use berth_types::{Digest, Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};
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

/// What a fetch may use: of a build, before it has a context.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) scratch: &'a Path,
    pub(crate) secrets: &'a BTreeMap<String, Vec<u8>>,
    pub(crate) ssh: &'a BTreeMap<String, PathBuf>,
    pub(crate) caller: Option<&'a dyn Caller>,
}

impl Means<'_> {
    pub(crate) async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        match (self.secrets.get(id), self.caller) {
            (Some(data), _) => Ok(Some(data.clone())),
            (None, Some(caller)) => caller.secret(id).await,
            (None, None) => Ok(None),
        }
    }
}

/// The source of an `ADD`.
pub(crate) async fn fetch(means: Means<'_>, what: &Remote) -> Result<Arc<dyn Tree>> {
    match what {
        Remote::Http { url, checksum, name } => {
            let file = download(means, url).await?;
            if let Some(expected) = checksum.as_ref().filter(|expected| **expected != file.digest()) {
                let found = file.digest();
                return Err(Error::invalid(format!("digest mismatch of {url}: it is {found}, not {expected}")));
            }
            Ok(Arc::new(SpoolTree::one(file.file, Path::new(name), file.meta, file.hash)))
        }
        Remote::Git { .. } => Ok(Arc::new(checkout(means, what).await?.open(&[])?)),
    }
}

/// A file that is here now, read from its beginning.
pub(crate) struct Downloaded {
    pub(crate) file: File,
    meta: Meta,
    hash: [u8; 32],
}

impl Downloaded {
    fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash)
    }
}

pub(crate) async fn download(means: Means<'_>, url: &str) -> Result<Downloaded> {
    let action = || format!("cannot fetch {url}");
    let broken = |cause: &berth_registry::RegistryError| Error::because(ErrorKind::Unavailable, action(), cause);
    let written = |cause: io::Error| Error::because(ErrorKind::Unavailable, action(), &cause);
    let mut download = means.engine.images().download(url).await.map_err(|cause| broken(&cause))?;
    if !(200..300).contains(&download.status()) {
        return Err(Error::invalid(format!("{}: the server answers {}", action(), download.status())));
    }
    let mut meta = Meta::file(0, FILE_MODE);
    meta.mtime_nanos = download.last_modified().and_then(http_date).unwrap_or(0).saturating_mul(1_000_000_000);
    let mut file = unnamed(means.scratch).map_err(written)?;
    let mut hash = Sha256::new();
    while let Some(bytes) = download.chunk().await.map_err(|cause| broken(&cause))? {
        meta.size += bytes.len() as u64;
        if meta.size > FILE_BYTES_MAX {
            return Err(Error::invalid(format!("{}: it is larger than {FILE_BYTES_MAX} bytes", action())));
        }
        hash.update(&bytes);
        file.write_all(&bytes).map_err(written)?;
    }
    file.rewind().map_err(written)?;
    Ok(Downloaded { file, meta, hash: hash.finalize().into() })
}

/// A repository, in the build's own folder.
pub(crate) struct Checkout {
    url: String,
    place: PathBuf,
    folder: String,
    keep_git_dir: bool,
}

impl Checkout {
    /// Its files without those that `ignore` names.
    pub(crate) fn open(&self, ignore: &[String]) -> Result<FolderTree> {
        let mut patterns = ignore.to_vec();
        if !self.keep_git_dir {
            patterns.push("**/.git".to_owned());
        }
        let matcher = || Matcher::new(&patterns).map_err(Error::invalid);
        let tree = FolderTree::open(&self.place, matcher()?, Arc::default());
        let tree = tree.map_err(|cause| failed(&self.url, &cause))?;
        if self.folder.is_empty() {
            return Ok(tree);
        }
        tree.within(Path::new(&self.folder), matcher()?).map_err(|cause| {
            let action = format!("cannot open folder {} of {}", self.folder, self.url);
            Error::because(ErrorKind::InvalidArgument, action, &cause)
        })
    }
}

/// Fetches a repository; a file is none.
pub(crate) async fn checkout(means: Means<'_>, what: &Remote) -> Result<Checkout> {
    let Remote::Git { url, reference, folder, keep_git_dir, checksum } = what else {
        return Err(Error::internal("a file was taken for a repository"));
    };
    let place = means.scratch.join(format!("git-{:x}", crate::events::now_unix_nanos()));
    Git { means, url, place: place.clone() }.fetch(reference, checksum).await?;
    Ok(Checkout { url: url.clone(), place, folder: folder.clone(), keep_git_dir: *keep_git_dir })
}

fn failed(url: &str, cause: &io::Error) -> Error {
    let failed = Error::because(ErrorKind::Unavailable, format!("cannot fetch {url}"), cause);
    match cause.kind() {
        io::ErrorKind::NotFound => failed.with_hint("the engine's host needs the program git"),
        _ => failed,
    }
}

/// Seconds since 1970 of `Wed, 21 Oct 2015 07:28:00 GMT`.
fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second())
}

struct Git<'a> {
    means: Means<'a>,
    url: &'a str,
    place: PathBuf,
}

impl Git<'_> {
    async fn fetch(&self, reference: &str, checksum: &str) -> Result<()> {
        if reference.starts_with('-') || reference.contains(char::is_whitespace) || reference.contains("..") {
            return Err(Error::invalid(format!("invalid git reference {reference:?}")));
        }
        std::fs::create_dir_all(&self.place).map_err(|cause| failed(self.url, &cause))?;
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
        Ok(())
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

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.place).args(arguments).env_clear().kill_on_drop(true).stdin(Stdio::null());
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        command.env("PATH", path).env("HOME", self.means.scratch).env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh");
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new");
        if let Some(agent) = self.means.ssh.get("default") {
            command.env("SSH_AUTH_SOCK", agent);
        }
        let mut settings = vec![("core.hooksPath".to_owned(), "/dev/null".to_owned())];
        settings.extend(self.login().await?);
        // In the environment and not among the arguments, where everybody on the host sees them.
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        let output = command.output().await.map_err(|cause| failed(self.url, &cause))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = &output.stderr[output.stderr.len().saturating_sub(GIT_SAID_BYTES_MAX)..];
        let said = String::from_utf8_lossy(said).trim().replace('\n', ": ");
        Err(Error::invalid(format!("cannot fetch {}: {said}", self.url)))
    }

    /// A token of the caller's for this repository's server, and no other.
    async fn login(&self) -> Result<Option<(String, String)>> {
        use base64::Engine as _;
        let Some(rest) = self.url.strip_prefix("https://") else { return Ok(None) };
        let host = rest.split('/').next().unwrap_or_default();
        let mut token = self.means.secret(&format!("{TOKEN}.{host}")).await?;
        if token.is_none() {
            token = self.means.secret(TOKEN).await?;
        }
        let Some(token) = token else { return Ok(None) };
        let token = std::str::from_utf8(&token).map_err(|_| Error::invalid(format!("secret {TOKEN} is no text")))?;
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
