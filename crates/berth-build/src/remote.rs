//! What lies elsewhere: files by HTTP, repositories of git; as sources of `ADD`, and as contexts.

use crate::error::BuildError;
use crate::key::Key;
use berth_dockerfile::ignore::clean;
use berth_types::Digest;

/// What to fetch from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    Http { url: String, checksum: Option<Digest>, name: String },
    Git { url: String, reference: String, folder: String, keep_git_dir: bool, checksum: String },
}

pub(crate) fn is_http(path: &str) -> bool {
    (path.starts_with("http://") || path.starts_with("https://")) && !is_git(path)
}

/// `git@host:path`, `git://`, `ssh://`, and `https://host/path.git`, each with `#ref:folder`.
pub(crate) fn is_git(path: &str) -> bool {
    let bare = path.split('#').next().unwrap_or(path).split('?').next().unwrap_or(path);
    path.starts_with("git@")
        || path.starts_with("git://")
        || path.starts_with("ssh://")
        || (path.starts_with("http://") || path.starts_with("https://")) && bare.ends_with(".git")
}

impl Remote {
    pub(crate) fn git(address: &str, checksum: &str, keep_git_dir: bool) -> Result<Remote, BuildError> {
        let (url, fragment) = address.split_once('#').unwrap_or((address, ""));
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        if !checksum.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(BuildError::invalid(format!("invalid checksum {checksum:?} for a Git source")));
        }
        Ok(Remote::Git {
            url: url.to_owned(),
            reference: reference.to_owned(),
            folder: clean(&format!("/{folder}")).trim_start_matches('/').to_owned(),
            keep_git_dir,
            checksum: checksum.to_owned(),
        })
    }

    /// And the name that the file gets.
    pub(crate) fn http(url: &str, checksum: &str) -> Result<(Remote, String), BuildError> {
        let checksum: Option<Digest> = match checksum {
            "" => None,
            text => {
                Some(text.parse().map_err(|_| BuildError::invalid(format!("invalid checksum digest format: {text}")))?)
            }
        };
        let bare = url.split(['?', '#']).next().unwrap_or(url);
        let after_host = bare.splitn(4, '/').nth(3).unwrap_or_default();
        let name = match after_host.rsplit('/').next().unwrap_or_default() {
            "" | "." | ".." => "__unnamed__",
            name => name,
        };
        Ok((Remote::Http { url: url.to_owned(), checksum, name: name.to_owned() }, name.to_owned()))
    }

    /// A context that is an address; `None`: it is none.
    pub fn context(address: &str, keep_git_dir: bool) -> Result<Option<Remote>, BuildError> {
        let hub = address.starts_with("github.com/").then(|| format!("https://{address}"));
        match hub.as_deref().unwrap_or(address) {
            git if is_git(git) || hub.is_some() => Remote::git(git, "", keep_git_dir).map(Some),
            http if is_http(http) => Remote::http(http, "").map(|(remote, _)| Some(remote)),
            _ => Ok(None),
        }
    }

    /// What it is known by without being fetched: what it says can only be one content.
    pub(crate) fn identity(&self) -> Option<Digest> {
        match self {
            Remote::Http { checksum, name, .. } => Some(Key::new("http").digest(checksum.as_ref()?).text(name).end()),
            Remote::Git { url, reference, folder, keep_git_dir, checksum } => {
                let is_commit = reference.len() >= 40 && reference.bytes().all(|byte| byte.is_ascii_hexdigit());
                let key = Key::new("git").text(url).text(reference).text(folder).text(checksum);
                is_commit.then(|| key.number(i64::from(*keep_git_dir)).end())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_contexts_as_dockers_clients_take_them() {
        let git = |url: &str, reference: &str, folder: &str| Remote::Git {
            url: url.to_owned(),
            reference: reference.to_owned(),
            folder: folder.to_owned(),
            keep_git_dir: false,
            checksum: String::new(),
        };
        for (address, wanted) in [
            ("https://host/a.git#v1:docker", Some(git("https://host/a.git", "v1", "docker"))),
            ("https://host/a.git#:../../x", Some(git("https://host/a.git", "", "x"))),
            ("git@host:a/b", Some(git("git@host:a/b", "", ""))),
            ("github.com/a/b#main", Some(git("https://github.com/a/b", "main", ""))),
            ("./folder", None),
            ("ftp://host/a.tar", None),
        ] {
            assert_eq!(Remote::context(address, false).unwrap(), wanted, "{address}");
        }
        let file = Remote::context("http://host/dir/a.tar.gz?x=1", false).unwrap();
        assert!(matches!(file, Some(Remote::Http { name, .. }) if name == "a.tar.gz"), "a file");
    }
}
