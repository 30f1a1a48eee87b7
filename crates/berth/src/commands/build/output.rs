//! `--output`: an image, an archive of it, or its files.

use crate::app::App;
use crate::cli::Args;
use crate::client::body::Body;
use crate::error::{CliError, Result};
use crate::value::Value;
use hyper::Method;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq)]
enum Output {
    Image,
    /// `docker load` reads it; it is an OCI layout too.
    Archive(String),
    Folder(PathBuf),
    Tar(String),
    Nothing,
}

pub(super) struct Outputs {
    list: Vec<Output>,
}

pub(super) fn parse(args: &Args) -> Result<Outputs> {
    let mut list = Vec::new();
    for word in args.list("output") {
        list.push(one(word)?);
    }
    let files = list.iter().filter(|output| matches!(output, Output::Folder(_) | Output::Tar(_))).count();
    if files > 1 || files == 1 && list.len() > 1 {
        return Err(CliError::usage("files of the result can be the only --output"));
    }
    Ok(Outputs { list })
}

fn one(word: &str) -> Result<Output> {
    if word == "-" {
        return Ok(Output::Tar("-".to_owned()));
    }
    if !word.contains('=') {
        return Ok(Output::Folder(word.into()));
    }
    let (mut kind, mut dest) = ("", "");
    for part in word.split(',') {
        match part.split_once('=') {
            Some(("type", value)) => kind = value,
            Some(("dest", value)) => dest = value,
            Some(("name" | "push" | "tar" | "compression" | "oci-mediatypes" | "rewrite-timestamp", _)) => {}
            _ => return Err(CliError::usage(format!("unexpected part {part:?} in --output {word}"))),
        }
    }
    let needs = |what: &str| CliError::usage(format!("--output type={what} needs dest="));
    Ok(match kind {
        "image" => Output::Image,
        "docker" if dest.is_empty() => Output::Image,
        "docker" | "oci" if dest.is_empty() => return Err(needs(kind)),
        "docker" | "oci" => Output::Archive(dest.to_owned()),
        "local" if dest.is_empty() => return Err(needs(kind)),
        "local" => Output::Folder(dest.into()),
        "tar" => Output::Tar(if dest.is_empty() { "-" } else { dest }.to_owned()),
        "cacheonly" => Output::Nothing,
        other => {
            return Err(CliError::usage(format!(
                "unknown output type {other:?}: image, docker, oci, local, tar, cacheonly"
            )));
        }
    })
}

impl Outputs {
    /// The engine's word for what it is to make.
    pub(super) fn wanted(&self) -> &'static str {
        match self.list.first() {
            Some(Output::Folder(_) | Output::Tar(_)) => "files",
            Some(Output::Nothing) if self.list.len() == 1 => "none",
            _ => "image",
        }
    }

    /// Takes the result's files as they come.
    pub(super) fn files(&self) -> Result<Option<Files>> {
        match self.list.first() {
            Some(Output::Tar(dest)) => Ok(Some(Files::Tar(sink(dest)?))),
            Some(Output::Folder(folder)) => Files::folder(folder).map(Some),
            _ => Ok(None),
        }
    }

    /// Saves archives of the image that was made.
    pub(super) async fn images(&self, app: &App, done: &Value) -> Result<()> {
        for output in &self.list {
            let Output::Archive(dest) = output else { continue };
            let name = done.get("tags").list().first().map_or_else(|| done.text("image"), Value::str);
            let mut query = String::new();
            for byte in name.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => query.push(char::from(byte)),
                    _ => query.push_str(&format!("%{byte:02X}")),
                }
            }
            let mut answer =
                app.client.send(Method::GET, &format!("/images/get?names={query}"), &[], Body::empty()).await?;
            let mut to = sink(dest)?;
            while let Some(chunk) = answer.chunk().await? {
                to.write_all(&chunk).map_err(|e| CliError::io(format!("cannot write {dest}"), e))?;
            }
            to.flush().map_err(|e| CliError::io(format!("cannot write {dest}"), e))?;
        }
        Ok(())
    }
}

fn sink(dest: &str) -> Result<Box<dyn Write>> {
    if dest == "-" {
        if crate::tty::stdout_is_terminal() {
            return Err(
                CliError::failed("refusing to write an archive to a terminal").with_hint("dest=FILE, or | tar t")
            );
        }
        return Ok(Box::new(std::io::stdout()));
    }
    let file = File::create(Path::new(dest)).map_err(|e| CliError::io(format!("cannot write {dest}"), e))?;
    Ok(Box::new(std::io::BufWriter::new(file)))
}

pub(super) enum Files {
    Tar(Box<dyn Write>),
    Folder { writer: std::io::PipeWriter, unpacking: std::thread::JoinHandle<std::io::Result<()>>, folder: PathBuf },
}

impl Files {
    /// An archive that is unpacked into a folder.
    pub(super) fn folder(folder: &Path) -> Result<Files> {
        let fail = |e| CliError::io(format!("cannot make {}", folder.display()), e);
        std::fs::create_dir_all(folder).map_err(fail)?;
        let (reader, writer) = std::io::pipe().map_err(fail)?;
        let to = folder.to_owned();
        let unpacking = std::thread::spawn(move || {
            let mut archive = tar::Archive::new(reader);
            archive.set_preserve_permissions(true);
            archive.set_overwrite(true);
            // Names that leave the folder are skipped by it.
            archive.unpack(&to)
        });
        Ok(Files::Folder { writer, unpacking, folder: folder.to_owned() })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let done = match self {
            Files::Tar(to) => to.write_all(bytes),
            Files::Folder { writer, .. } => writer.write_all(bytes),
        };
        done.map_err(|e| CliError::io("cannot write the result", e))
    }

    pub(super) fn finish(self) -> Result<()> {
        match self {
            Files::Tar(mut to) => to.flush().map_err(|e| CliError::io("cannot write the result", e)),
            Files::Folder { writer, unpacking, folder } => {
                drop(writer);
                let unpacked = unpacking.join().map_err(|_| CliError::failed("unpacking the result ended early"))?;
                unpacked.map_err(|e| CliError::io(format!("cannot write {}", folder.display()), e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_in_all_their_forms() {
        assert_eq!(one("out").unwrap(), Output::Folder("out".into()));
        assert_eq!(one("-").unwrap(), Output::Tar("-".into()));
        assert_eq!(one("type=oci,dest=x.tar").unwrap(), Output::Archive("x.tar".into()));
        assert_eq!(one("type=local,dest=d").unwrap(), Output::Folder("d".into()));
        assert_eq!(one("type=cacheonly").unwrap(), Output::Nothing);
        assert!(one("type=oci").is_err() && one("type=x,dest=y").is_err() && one("type=tar,foo=1").is_err());
    }
}
