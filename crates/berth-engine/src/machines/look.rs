//! What a file is that somebody sent as a disk or a CD: found out before a machine is made from it.
//!
//! Any bytes are a raw disk. So what the file's name promises is held against what its first bytes say: half a download,
//! a page of a web server in an image's place, and an archive that was not unpacked are told apart from a disk.

use super::Machines;
use super::bases::{open_source, refused};
use crate::containers::blocking;
use berth_types::{Error, ErrorKind, Result};
use berth_vm::disk::{self, Kind};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Where an ISO 9660 or UDF volume names itself.
const VOLUME_AT: u64 = 32_769;
const SECTOR_BYTES: u64 = 512;
const PACKED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gunzip"), (b"\xfd7zXZ\0", "unxz"), (b"\x28\xb5\x2f\xfd", "unzstd"), (b"PK\x03\x04", "unzip")];

impl Machines {
    /// `qcow2`, `vmdk`, `vdi`, `vhdx`, `ova`, `iso` or `raw`; refused where it is not what `name` ends with.
    pub async fn look_at(&self, path: PathBuf, name: &str) -> Result<&'static str> {
        let name = name.to_owned();
        blocking(move || {
            let mut file = open_source(&path)?;
            let found = disk::identify(&mut file).map_err(|error| refused(&path, &error))?;
            if found == Kind::Qcow2 {
                disk::check_qcow2(&mut file).map_err(|error| refused(&path, &error))?;
            }
            named(&file, found, &name)
        })
        .await
    }
}

fn bad(name: &str, why: &str, hint: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("{name} {why}")).with_hint(hint.to_owned())
}

fn named(file: &File, found: Kind, name: &str) -> Result<&'static str> {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    let read = |at: u64| {
        let mut bytes = [0_u8; 8];
        let count = file.read_at(&mut bytes, at).unwrap_or(0);
        bytes[..count].to_vec()
    };
    let volume = read(VOLUME_AT);
    let iso = [b"CD001".as_slice(), b"BEA01"].iter().any(|magic| volume.starts_with(magic));
    if ending == "iso" {
        return match iso {
            true => Ok("iso"),
            false => Err(bad(name, "is no ISO image", "it may be half of one, or a page that was sent in its place")),
        };
    }
    let promised = ["qcow2", "vmdk", "vdi", "vhdx", "ova"].contains(&ending.as_str());
    if promised && found.as_str() != ending {
        let why = format!("is no {ending} image: it begins as {} does", found.as_str());
        return Err(bad(name, &why, "it may be half of one, or a page that was sent in its place"));
    }
    if found != Kind::Raw {
        return Ok(found.as_str());
    }
    let first = read(0);
    if let Some((_, program)) = PACKED.iter().find(|(magic, _)| first.starts_with(magic)) {
        return Err(bad(name, "is compressed: no machine boots from it", &format!("unpack it first: {program}")));
    }
    if iso {
        return Ok("iso");
    }
    let bytes = file.metadata().map_or(0, |meta| meta.len());
    match bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES) {
        true => Ok("raw"),
        false => Err(bad(
            name,
            "is no disk image: it has no format that is known, and no whole number of sectors",
            "qcow2, vmdk, vdi, vhdx, ova, iso and raw disks can be sent",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn look(name: &str, content: &[u8]) -> Result<&'static str> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let found = disk::identify(&mut file).unwrap();
        named(&file, found, name)
    }

    #[test]
    fn a_file_is_what_its_name_says_or_it_is_refused() {
        let mut iso = vec![0; 40_960];
        iso[32_769..32_774].copy_from_slice(b"CD001");
        assert_eq!(look("debian.ISO", &iso).unwrap(), "iso");
        assert_eq!(look("debian", &iso).unwrap(), "iso");
        assert_eq!(look("disk.img", &[0; 1024]).unwrap(), "raw");
        for (name, content, why) in [
            ("debian.iso", b"<html>not found</html>".as_slice(), "is no ISO image"),
            ("disk.qcow2", b"<html>", "is no qcow2 image"),
            ("disk.vmdk", &[0; 512], "is no vmdk image"),
            ("disk.img.gz", b"\x1f\x8b\x08\0 and more", "is compressed"),
            ("disk.img", b"half a sector", "is no disk image"),
            ("", b"", "is no disk image"),
        ] {
            let refused = look(name, content).unwrap_err();
            assert!(refused.message.contains(why) && refused.hint.is_some(), "{name}: {refused}");
        }
    }
}
