//! Disk images of other products become bases: VMDK, VDI, VHDX, and the disks of an OVA.
//!
//! ```text
//!  the file --copied, hashed--> the job's folder --qemu-img, jailed--> a qcow2 --checked--> bases/<digest>.qcow2
//! ```
//!
//! A base made so is known by the digest of what it was made from: the second machine from one file converts nothing.

use super::bases::{Brought, Shared, open_source, refused};
use super::record::{Base, BaseFormat};
use super::types::{CreateMachine, NewDisk};
use super::{Machines, start};
use crate::containers::blocking;
use berth_types::{Error, ErrorKind, Result};
use berth_vm::disk::{self, DiskError, Kind};
use berth_vm::ova;
use berth_vm::spec::DiskLimits;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SOURCE: &str = "source";
const TARGET: &str = "out.qcow2";
const COPY_BYTES: usize = 1 << 20;
/// What a compressed image may become: a lying one fills no disk.
const GROWTH_MAX: u64 = 64;
const GROWTH_BESIDE_BYTES: u64 = 64 << 20;
/// A VMDK's own description of itself lies in its first sectors.
const DESCRIPTION_BYTES_MAX: u64 = 64 << 10;
/// More entries has no appliance.
const ENTRIES_MAX: usize = 256;

/// A disk of a machine that is being made.
pub(super) struct NewlyBrought {
    /// `None`: an empty one.
    pub source: Option<Brought>,
    pub size_bytes: u64,
    pub limits: DiskLimits,
}

/// Bytes of a file that are an image.
#[derive(Debug, Clone)]
struct Extent {
    path: PathBuf,
    at: u64,
    bytes: u64,
    kind: Kind,
}

impl Machines {
    /// Brings in what a new machine's disks are made from. An appliance's processors and memory are taken where the wish
    /// leaves them open.
    pub(super) async fn bring(&self, wish: &mut CreateMachine) -> Result<Vec<NewlyBrought>> {
        let mut brought = Vec::new();
        for wanted in wish.disks.clone() {
            let asked = NewlyBrought { source: None, size_bytes: wanted.size_bytes, limits: wanted.limits };
            let Some(source) = wanted.source.clone() else {
                brought.push(asked);
                continue;
            };
            match kind_of(&wanted).await? {
                Kind::Raw | Kind::Qcow2 => {
                    let shared = self.engine.machine_state().clone();
                    let format = wanted.format.clone();
                    let done = blocking(move || shared.bring(&source, format.as_deref())).await?;
                    brought.push(NewlyBrought { source: Some(done), ..asked });
                }
                Kind::Ova => {
                    let (appliance, extents) = blocking(move || unpack(&source)).await?;
                    if wanted.size_bytes != 0 && extents.len() != 1 {
                        return Err(Error::invalid("an appliance of several disks takes no size"));
                    }
                    for extent in extents {
                        let done = self.convert(extent).await?;
                        brought.push(NewlyBrought { source: Some(done), ..asked });
                    }
                    wish.cpus = if wish.cpus == 0 { appliance.cpus } else { wish.cpus };
                    wish.memory_bytes = if wish.memory_bytes == 0 { appliance.memory_bytes } else { wish.memory_bytes };
                    super::create::check_size(wish.cpus, wish.memory_bytes)?;
                }
                kind @ (Kind::Vmdk | Kind::Vdi | Kind::Vhdx) => {
                    let whole = move || {
                        let bytes = open_source(&source)?.metadata().map_or(0, |meta| meta.len());
                        Ok(Extent { path: source, at: 0, bytes, kind })
                    };
                    let done = self.convert(blocking(whole).await?).await?;
                    brought.push(NewlyBrought { source: Some(done), ..asked });
                }
            }
        }
        if brought.len() + wish.cdroms.len() > berth_vm::spec::DISKS_MAX {
            return Err(Error::invalid(format!("more than {} disks", berth_vm::spec::DISKS_MAX)));
        }
        Ok(brought)
    }

    async fn convert(&self, extent: Extent) -> Result<Brought> {
        let shared = self.engine.machine_state().clone();
        let path = extent.path.clone();
        let of = extent.clone();
        let base = blocking(move || {
            describes_itself(&of)?;
            digest(&of)
        })
        .await?;
        let pin = shared.pin(base.clone());
        let known = shared.path(&base);
        if let Ok(mut file) = File::open(&known) {
            let size_bytes = disk::check_qcow2(&mut file).map_err(|error| refused(&path, &error))?;
            return Ok(Brought { pin, size_bytes });
        }
        let input = serde_json::json!({
            "driver": driver(extent.kind), "read-only": true,
            "file": {"driver": "file", "filename": format!("{}/{SOURCE}", berth_vm::spec::MACHINE), "read-only": true},
        });
        let input = format!("json:{input}");
        let output = format!("{}/{TARGET}", berth_vm::spec::MACHINE);
        let most = extent.bytes.saturating_mul(GROWTH_MAX).saturating_add(GROWTH_BESIDE_BYTES);
        let copy = move |folder: &Path| copy_out(&extent, &folder.join(SOURCE));
        let done = self
            .qemu_img(&["convert", "-q", "-O", "qcow2", &input, &output], most, copy)
            .await
            .map_err(|error| error.context(format!("cannot use {} as a disk", path.display())))?;
        let made = done.folder.join(TARGET);
        let size_bytes = blocking(move || adopt(&shared, &made, &base)).await?;
        Ok(Brought { pin, size_bytes })
    }
}

async fn kind_of(wanted: &NewDisk) -> Result<Kind> {
    let named = |format: &str| match format {
        "raw" => Ok(Kind::Raw),
        "qcow2" => Ok(Kind::Qcow2),
        "vmdk" => Ok(Kind::Vmdk),
        "vdi" => Ok(Kind::Vdi),
        "vhdx" => Ok(Kind::Vhdx),
        "ova" => Ok(Kind::Ova),
        other => Err(Error::invalid(format!("unknown disk format {other:?}"))
            .with_hint("raw, qcow2, vmdk, vdi, vhdx and ova are read")),
    };
    let format = wanted.format.as_deref().map(named).transpose()?;
    // Whoever says raw means the bytes as they are, and a wrong qcow2 is told of where it is brought in.
    if let Some(kind @ (Kind::Raw | Kind::Qcow2)) = format {
        return Ok(kind);
    }
    let source = wanted.source.clone().unwrap_or_default();
    blocking(move || {
        let mut file = open_source(&source)?;
        let found = disk::identify(&mut file).map_err(|error| refused(&source, &error))?;
        match format {
            Some(wanted) if wanted != found => {
                let error = DiskError::OtherFormat { found: found.as_str(), wanted: wanted.as_str() };
                Err(refused(&source, &error))
            }
            _ => Ok(found),
        }
    })
    .await
}

fn driver(kind: Kind) -> &'static str {
    match kind {
        Kind::Ova | Kind::Vmdk => "vmdk",
        Kind::Vdi => "vdi",
        Kind::Vhdx => "vhdx",
        Kind::Qcow2 => "qcow2",
        Kind::Raw => "raw",
    }
}

/// Refuses an image that is made of other files, or has lost its end. In the jail there are no others, but its words
/// would not say so; and what lies behind a VDI's end QEMU takes for zeros.
fn describes_itself(extent: &Extent) -> Result<()> {
    let file = open_source(&extent.path)?;
    if extent.kind == Kind::Vdi {
        let mut header = [0_u8; 0x188];
        file.read_exact_at(&mut header, extent.at).map_err(|cause| cannot_read(&extent.path, &cause))?;
        return match vdi_bytes(&header).is_some_and(|bytes| bytes <= extent.bytes) {
            true => Ok(()),
            false => Err(refused(&extent.path, &DiskError::Damaged("its end is missing"))),
        };
    }
    if extent.kind != Kind::Vmdk {
        return Ok(());
    }
    let mut first = vec![0; usize::try_from(extent.bytes.min(DESCRIPTION_BYTES_MAX)).unwrap_or(0)];
    file.read_exact_at(&mut first, extent.at).map_err(|cause| cannot_read(&extent.path, &cause))?;
    let text = String::from_utf8_lossy(&first);
    if text.starts_with("# Disk DescriptorFile") {
        return Err(Error::new(
            ErrorKind::DataLoss,
            format!("cannot use {} as a disk: it only names other files that hold the data", extent.path.display()),
        )
        .with_hint(format!("make one file of it: qemu-img convert -O qcow2 {} whole.qcow2", extent.path.display())));
    }
    let parent = text.split("parentFileNameHint=\"").nth(1).and_then(|rest| rest.split('"').next());
    match parent {
        Some(name) => Err(refused(&extent.path, &DiskError::BackingFile(name.chars().take(200).collect()))),
        None => Ok(()),
    }
}

/// How long a VDI has to be: where its data begins, and its allocated blocks.
fn vdi_bytes(header: &[u8; 0x188]) -> Option<u64> {
    let word = |at: usize| {
        let four = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        u64::from(u32::from_le_bytes(four))
    };
    word(0x178).checked_mul(word(0x184))?.checked_add(word(0x158))
}

fn cannot_read(path: &Path, cause: &std::io::Error) -> Error {
    Error::because(ErrorKind::Internal, format!("cannot read {}", path.display()), cause)
}

/// Calls `take` with all bytes of an extent.
fn each_part(extent: &Extent, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let file = open_source(&extent.path)?;
    let mut part = vec![0_u8; COPY_BYTES];
    let mut done = 0;
    while done < extent.bytes {
        let wanted = usize::try_from(extent.bytes - done).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let count =
            file.read_at(&mut part[..wanted], extent.at + done).map_err(|cause| cannot_read(&extent.path, &cause))?;
        if count == 0 {
            return Err(Error::new(ErrorKind::DataLoss, format!("{} ends too early", extent.path.display())));
        }
        take(&part[..count])?;
        done += count as u64;
    }
    Ok(())
}

fn digest(extent: &Extent) -> Result<Base> {
    let mut hash = Sha256::new();
    // Another name than the same bytes have as they are.
    hash.update(driver(extent.kind).as_bytes());
    each_part(extent, |part| {
        hash.update(part);
        Ok(())
    })?;
    Ok(Base { digest: berth_types::digest::hex(&hash.finalize()), format: BaseFormat::Qcow2 })
}

fn copy_out(extent: &Extent, target: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |cause: std::io::Error| start::cannot_write(target, &cause);
    let mut to = File::options().write(true).create_new(true).mode(0o444).open(target).map_err(failed)?;
    each_part(extent, |part| to.write_all(part).map_err(failed))
}

/// Takes a converted image over as a base: what made it has ended.
pub(super) fn adopt(shared: &Arc<Shared>, made: &Path, base: &Base) -> Result<u64> {
    let mut file = start::open_own(made)?;
    let size_bytes = disk::check_qcow2(&mut file).map_err(|error| refused(made, &error))?;
    file.sync_all().map_err(|cause| start::cannot_write(made, &cause))?;
    start::seal(made, None)?;
    let folder = shared.folder();
    std::fs::create_dir_all(&folder).map_err(|cause| start::cannot_write(&folder, &cause))?;
    let path = shared.path(base);
    std::fs::rename(made, &path).map_err(|cause| start::cannot_write(&path, &cause))?;
    Ok(size_bytes)
}

/// Where in an archive its disks lie, in the descriptor's order.
fn unpack(path: &Path) -> Result<(ova::Appliance, Vec<Extent>)> {
    let broken =
        |why: &str| Error::new(ErrorKind::DataLoss, format!("cannot use {} as an appliance: {why}", path.display()));
    let mut file = open_source(path)?;
    let length = file.metadata().map_err(|cause| cannot_read(path, &cause))?.len();
    file.seek(SeekFrom::Start(0)).map_err(|cause| cannot_read(path, &cause))?;
    let mut archive = tar::Archive::new(&mut file);
    let (mut descriptor, mut members) = (None, Vec::new());
    let entries = archive.entries_with_seek().map_err(|cause| cannot_read(path, &cause))?;
    for (count, entry) in entries.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(broken("it has more files than an appliance"));
        }
        let mut entry = entry.map_err(|cause| broken(&cause.to_string()))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let (at, bytes) = (entry.raw_file_position(), entry.size());
        if at.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(broken(&format!("{name} is longer than the archive")));
        }
        if name.ends_with(".ovf") && descriptor.is_none() {
            if bytes > ova::DESCRIPTOR_BYTES_MAX {
                return Err(broken("its descriptor is larger than a megabyte"));
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(|cause| cannot_read(path, &cause))?;
            descriptor = Some(ova::read(&String::from_utf8_lossy(&text)));
        } else {
            members.push((name, Extent { path: path.to_owned(), at, bytes, kind: Kind::Vmdk }));
        }
    }
    let appliance = descriptor.ok_or_else(|| broken("it has no descriptor (*.ovf)"))?;
    let mut extents = Vec::new();
    for name in &appliance.disks {
        let (_, extent) = members
            .iter()
            .find(|(member, _)| member == name)
            .ok_or_else(|| broken(&format!("its descriptor names {name:?}, which is not in it")))?;
        let mut extent = extent.clone();
        extent.kind = match name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).as_deref() {
            Some("vdi") => Kind::Vdi,
            Some("vhdx") => Kind::Vhdx,
            Some("vmdk") => Kind::Vmdk,
            _ => return Err(broken(&format!("{name:?} is neither vmdk, vdi nor vhdx"))),
        };
        extents.push(extent);
    }
    match extents.is_empty() {
        true => Err(broken("its descriptor names no disk")),
        false => Ok((appliance, extents)),
    }
}
