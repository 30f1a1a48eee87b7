//! Contexts on disk, in Docker's own layout.
//!
//! ```text
//! contexts/meta/<sha256 of the name>/meta.json          name, description, endpoint
//! contexts/tls/<sha256 of the name>/docker/*.pem         its certificates and key, if it has any
//! ```
//!
//! A context made here works with Docker's client and the other way round. Files appear by rename.

use crate::error::{CliError, Result, plain};
use crate::value::Value;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A certificate or key is far smaller; a larger file is a mistake.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// Entries of an imported archive and their size.
const ENTRIES_MAX: usize = 32;

/// What a context says, without its name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Context {
    pub(crate) description: String,
    pub(crate) host: String,
    pub(crate) skip_verify: bool,
    /// `ca.pem`, `cert.pem`, `key.pem`, in this order.
    pub(crate) pems: Vec<(String, Vec<u8>)>,
}

pub(crate) struct Store {
    folder: PathBuf,
}

pub(crate) fn id(name: &str) -> String {
    Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store {
    pub(crate) fn new(config_folder: &Path) -> Store {
        Store { folder: config_folder.join("contexts") }
    }

    pub(crate) fn meta_folder(&self, name: &str) -> PathBuf {
        self.folder.join("meta").join(id(name))
    }

    pub(crate) fn tls_folder(&self, name: &str) -> PathBuf {
        self.folder.join("tls").join(id(name))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.meta_folder(name).join("meta.json").exists()
    }

    pub(crate) fn load(&self, name: &str) -> Result<Context> {
        let path = self.meta_folder(name).join("meta.json");
        let bytes = fs::read(&path).map_err(|e| {
            CliError::failed(format!("context {name:?}: context not found: open {}: {}", path.display(), plain(&e)))
        })?;
        let meta = Value::parse(&bytes)?;
        let endpoint = meta.at(&["Endpoints", "docker"]);
        let mut pems = Vec::new();
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            let path = self.tls_folder(name).join("docker").join(file);
            match read_pem(&path) {
                Ok(bytes) => pems.push((file.to_owned(), bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(CliError::io(format!("cannot read {}", path.display()), e)),
            }
        }
        Ok(Context {
            description: meta.at(&["Metadata", "Description"]).str().to_owned(),
            host: endpoint.text("Host").to_owned(),
            skip_verify: endpoint.get("SkipTLSVerify").bool(),
            pems,
        })
    }

    pub(crate) fn save(&self, name: &str, context: &Context) -> Result<()> {
        let tls = self.tls_folder(name).join("docker");
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            match context.pems.iter().find(|(n, _)| n == file) {
                Some((_, bytes)) => write(&tls.join(file), bytes)?,
                None => absent(fs::remove_file(tls.join(file)), &tls.join(file))?,
            }
        }
        write(&self.meta_folder(name).join("meta.json"), meta(name, context).to_string().as_bytes())
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        for folder in [self.meta_folder(name), self.tls_folder(name)] {
            absent(fs::remove_dir_all(&folder), &folder)?;
        }
        Ok(())
    }

    /// `meta.json` and `tls/` as a tar archive.
    pub(crate) fn export(&self, name: &str) -> Result<Vec<u8>> {
        let context = self.load(name)?;
        let failed = |e| CliError::io("cannot write the archive", e);
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8], mode: u32| {
            let mut header = tar::Header::new_ustar();
            header.set_mode(mode);
            header.set_size(bytes.len() as u64);
            let kind = if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
            header.set_entry_type(kind);
            archive.append_data(&mut header, path, bytes)
        };
        add("meta.json", meta(name, &context).to_string().as_bytes(), 0o644).map_err(failed)?;
        add("tls/", &[], 0o700).map_err(failed)?;
        if !context.pems.is_empty() {
            add("tls/docker/", &[], 0o700).map_err(failed)?;
        }
        for (file, bytes) in &context.pems {
            add(&format!("tls/docker/{file}"), bytes, 0o600).map_err(failed)?;
        }
        archive.into_inner().map_err(failed)
    }
}

/// The context in an archive; its old name is of no interest.
pub(crate) fn import(archive: &[u8]) -> Result<Context> {
    let failed = |e: std::io::Error| CliError::failed(format!("invalid context: {}", plain(&e)));
    let (mut context, mut found) = (Context::default(), false);
    for (count, entry) in tar::Archive::new(archive).entries().map_err(failed)?.enumerate() {
        let mut entry = entry.map_err(failed)?;
        if count >= ENTRIES_MAX {
            return Err(CliError::failed("invalid context: too many files"));
        }
        let path = entry.path().map_err(failed)?.to_string_lossy().into_owned();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut entry, PEM_BYTES_MAX), &mut bytes).map_err(failed)?;
        match path.as_str() {
            "meta.json" => {
                let meta = Value::parse(&bytes)?;
                let endpoint = meta.at(&["Endpoints", "docker"]);
                meta.at(&["Metadata", "Description"]).str().clone_into(&mut context.description);
                endpoint.text("Host").clone_into(&mut context.host);
                context.skip_verify = endpoint.get("SkipTLSVerify").bool();
                found = true;
            }
            "tls/docker/ca.pem" | "tls/docker/cert.pem" | "tls/docker/key.pem" => {
                let name = path.rsplit('/').next().unwrap_or_default().to_owned();
                context.pems.push((name, bytes));
            }
            other => return Err(CliError::failed(format!("invalid context: unexpected file {other}"))),
        }
    }
    if found { Ok(context) } else { Err(CliError::failed("invalid context: no metadata found")) }
}

pub(crate) fn read_pem(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(fs::File::open(path)?, PEM_BYTES_MAX), &mut bytes)?;
    Ok(bytes)
}

pub(crate) fn meta(name: &str, context: &Context) -> Json {
    json!({
        "Name": name,
        "Metadata": metadata(context),
        "Endpoints": {"docker": {"Host": context.host, "SkipTLSVerify": context.skip_verify}},
    })
}

pub(crate) fn metadata(context: &Context) -> Json {
    if context.description.is_empty() { json!({}) } else { json!({"Description": context.description}) }
}

fn absent(result: std::io::Result<()>, path: &Path) -> Result<()> {
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::io(format!("cannot remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// Keys stand in these files: nobody else reads them.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| CliError::io(format!("cannot write {}", path.display()), e);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let partial = path.with_extension(format!("{}.part", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exported_context_is_imported_as_it_was() {
        let folder = std::env::temp_dir().join(format!("berth-contexts-{}", std::process::id()));
        let store = Store::new(&folder);
        let context = Context {
            description: "the build host".into(),
            host: "tcp://h:2376".into(),
            skip_verify: false,
            pems: vec![("ca.pem".into(), b"A".to_vec()), ("key.pem".into(), b"K".to_vec())],
        };
        store.save("far", &context).unwrap();
        assert_eq!(store.load("far").unwrap(), context);
        assert_eq!(import(&store.export("far").unwrap()).unwrap(), context);
        store.remove("far").unwrap();
        assert!(store.load("far").unwrap_err().to_string().starts_with("context \"far\": context not found: open "));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn foreign_archives_are_refused() {
        assert_eq!(import(b"").unwrap_err().to_string(), "invalid context: no metadata found");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        archive.append_data(&mut header, "etc/passwd", &b"x"[..]).unwrap();
        let error = import(&archive.into_inner().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "invalid context: unexpected file etc/passwd");
    }
}
