//! A machine's disks for elsewhere: one file without a chain, or an appliance; and a chain made short.
//!
//! What is read are bases, which nobody writes: the disks are frozen first, as for a clone. So the machine runs on, and
//! needs not be held while gigabytes are converted.

use super::convert::adopt;
use super::history::random_name;
use super::record::{Base, BaseFormat, DiskRecord, Record};
use super::{Machines, create, start};
use crate::containers::{Container, blocking};
use berth_types::{Error, ErrorKind, Phase, Result};
use berth_vm::command;
use berth_vm::ova::{self, Packed};
use berth_vm::spec::{BASES, Disk, DiskFile, DiskKind, DiskLimits, MACHINE};
use serde_json::json;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const OUT: &str = "out";
/// A disk of zeros takes no room, one of random bytes a little more than it has.
const BESIDE_BYTES: u64 = 256 << 20;
const TAR_BLOCK: usize = 512;
/// Sizes in a tar header have eleven octal digits.
const TAR_BYTES_MAX: u64 = 0o77_777_777_777;
const STREAM_JOB: &str = "flatten";
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A question about a job's progress.
const ANSWER_SECONDS_MAX: u64 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    Qcow2,
    Raw,
    /// All disks as stream-optimized VMDK, with a descriptor.
    Ova,
}

/// A piece of what is exported, in order.
#[derive(Debug)]
pub enum Part {
    Bytes(Vec<u8>),
    /// From its beginning, so many bytes.
    File(File, u64),
}

/// What is exported. Its files have no names any more: dropped, they are gone.
#[derive(Debug)]
pub struct Export {
    pub file_name: String,
    pub length: u64,
    pub parts: Vec<Part>,
}

/// A disk's frozen chain as QEMU is to open it, in the jail.
fn chain(disk: &DiskRecord) -> String {
    let files = disk.bases.iter();
    let files = files
        .map(|base| DiskFile { path: Path::new(BASES).join(base.file_name()), format: base.format.into() })
        .collect();
    let node = command::node(&Disk {
        id: disk.name.clone(),
        node: disk.name.clone(),
        chain: files,
        kind: DiskKind::ReadOnly,
        port: None,
        limits: DiskLimits::default(),
    });
    format!("json:{node}")
}

fn disks(record: &Record) -> impl Iterator<Item = &DiskRecord> {
    record.disks.iter().filter(|disk| disk.kind == DiskKind::Disk)
}

impl Machines {
    /// Freezes the disks; the machine as it stands then, and what keeps it.
    async fn frozen(&self, container: &Arc<Container>) -> Result<(Record, Vec<super::bases::Pin>)> {
        let _ops = container.ops.lock().await;
        let record = self.machine_of(container)?;
        if record.template {
            return Ok((record, self.pin_all(container)?));
        }
        drop(self.freeze(container, record, None, |_| {}).await?);
        Ok((self.machine_of(container)?, self.pin_all(container)?))
    }

    /// `disk`: which one, where the format holds one; `None`: the only one.
    pub async fn export(&self, machine: &str, format: ExportFormat, disk: Option<&str>) -> Result<Export> {
        let found = self.get(machine)?;
        let (record, kept) = self.frozen(&found).await?;
        let name = found.name();
        let outcome = match format {
            ExportFormat::Ova => self.appliance(&name, &record).await,
            ExportFormat::Qcow2 | ExportFormat::Raw => {
                let one = one_disk(&record, disk, &name)?;
                let (word, ending) = if format == ExportFormat::Raw { ("raw", "img") } else { ("qcow2", "qcow2") };
                self.convert_chain(one, &["-O", word]).await.map(|(file, length)| Export {
                    file_name: format!("{name}-{}.{ending}", one.name),
                    length,
                    parts: vec![Part::File(file, length)],
                })
            }
        };
        drop(kept);
        outcome.map_err(|error| error.context(format!("cannot export machine {name}")))
    }

    async fn convert_chain(&self, disk: &DiskRecord, options: &[&str]) -> Result<(File, u64)> {
        let (input, output) = (chain(disk), format!("{MACHINE}/{OUT}"));
        let mut words = vec!["convert", "-q"];
        words.extend(options);
        words.extend([input.as_str(), output.as_str()]);
        let done = self.qemu_img(&words, disk.size_bytes.saturating_add(BESIDE_BYTES), |_| Ok(())).await?;
        let path = done.folder.join(OUT);
        let opened = blocking(move || {
            let file = start::open_own(&path)?;
            let length = file.metadata().map_err(|cause| start::cannot_write(&path, &cause))?.len();
            Ok((file, length))
        })
        .await;
        // Its folder goes; the open file stays until it is read.
        drop(done);
        opened
    }

    async fn appliance(&self, name: &str, record: &Record) -> Result<Export> {
        let mut packed = Vec::new();
        let mut files = Vec::new();
        for disk in disks(record) {
            let (file, length) = self.convert_chain(disk, &["-O", "vmdk", "-o", "subformat=streamOptimized"]).await?;
            if length > TAR_BYTES_MAX {
                return Err(Error::conflict(format!("{} is larger than an appliance can hold", disk.name))
                    .with_hint("export the disks one by one: --format qcow2 --disk NAME"));
            }
            let file_name = format!("{name}-{}.vmdk", disk.name);
            packed.push(Packed { file: file_name, file_bytes: length, size_bytes: disk.size_bytes });
            files.push((file, length));
        }
        if files.is_empty() {
            return Err(Error::conflict(format!("machine {name} has no disk")));
        }
        let text = ova::write(name, record.cpus, record.memory_bytes, record.uefi, &packed);
        // The descriptor comes first, by the standard.
        let mut parts = vec![Part::Bytes(member(&format!("{name}.ovf"), text.len() as u64)?)];
        parts.push(Part::Bytes(padded(text.into_bytes())));
        for (described, (file, length)) in packed.iter().zip(files) {
            parts.push(Part::Bytes(member(&described.file, length)?));
            parts.push(Part::File(file, length));
            let over = usize::try_from(length % TAR_BLOCK as u64).unwrap_or(0);
            parts.push(Part::Bytes(vec![0; (TAR_BLOCK - over) % TAR_BLOCK]));
        }
        parts.push(Part::Bytes(vec![0; 2 * TAR_BLOCK]));
        let length = parts.iter().map(|part| match part {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File(_, length) => *length,
        });
        Ok(Export { file_name: format!("{name}.ova"), length: length.sum(), parts })
    }

    /// Makes a machine's disks stand on nothing that others have: its space is its own then. Snapshots keep what they
    /// stand on.
    pub async fn flatten(&self, machine: &str) -> Result<()> {
        let found = self.get(machine)?;
        let outcome = match found.phase() {
            Phase::Running { .. } => self.flatten_running(&found).await,
            _ => self.flatten_stopped(&found).await,
        };
        self.collect_bases(false);
        outcome.map_err(|error| error.context(format!("cannot flatten machine {}", found.name())))
    }

    async fn flatten_stopped(&self, found: &Arc<Container>) -> Result<()> {
        let _ops = found.ops.lock().await;
        let template = self.machine_of(found)?.template;
        if template {
            return Err(Error::conflict("a template does not change").with_hint("flatten a clone of it"));
        }
        self.must_be_stopped(found, "be flattened so")?;
        let record = self.machine_of(found)?;
        drop(self.freeze(found, record, None, |_| {}).await?);
        let mut record = self.machine_of(found)?;
        let kept = self.pin_all(found)?;
        let shared = self.engine.machine_state().clone();
        let mut pins = Vec::new();
        for at in 0..record.disks.len() {
            let disk = record.disks[at].clone();
            if disk.kind != DiskKind::Disk || disk.bases.len() < 2 {
                continue;
            }
            let words = ["convert", "-q", "-O", "qcow2"];
            let (input, output) = (chain(&disk), format!("{MACHINE}/{OUT}"));
            let words: Vec<&str> = words.into_iter().chain([input.as_str(), output.as_str()]).collect();
            let done = self.qemu_img(&words, disk.size_bytes.saturating_add(BESIDE_BYTES), |_| Ok(())).await?;
            let base = Base { digest: random_name()?, format: BaseFormat::Qcow2 };
            pins.push(shared.pin(base.clone()));
            let (made, to, of) = (done.folder.join(OUT), shared.clone(), base.clone());
            blocking(move || adopt(&to, &made, &of)).await?;
            let next = super::history::next_file(&mut record, &disk.name);
            let (path, owner) = (start::folder(&self.engine, &found.id).join(&next), start::user(&found.id));
            let on = base.clone();
            blocking(move || {
                create::make_overlay(&path, disk.size_bytes, Some(&on))?;
                start::seal(&path, Some(owner))
            })
            .await?;
            let disk = &mut record.disks[at];
            (disk.bases, disk.file) = (vec![base], Some(next));
        }
        // The files that it had before are swept with the next start.
        self.store(found, record).await?;
        drop((kept, pins));
        Ok(())
    }

    /// QEMU copies what lies below into the machine's own files. Ended in the middle, the record still names what the
    /// files stand on, and nothing is lost.
    async fn flatten_running(&self, found: &Arc<Container>) -> Result<()> {
        let _ops = found.ops.lock().await;
        let record = self.machine_of(found)?;
        for disk in disks(&record).filter(|disk| !disk.bases.is_empty()) {
            let Some(file) = disk.file.as_deref() else { continue };
            let arguments = json!({"job-id": STREAM_JOB, "device": start::node_of(file), "auto-dismiss": false});
            self.ask(found, ANSWER_SECONDS_MAX, move |monitor| monitor.ask("block-stream", arguments).map(drop))
                .await?;
            loop {
                let state = self
                    .ask(found, ANSWER_SECONDS_MAX, |monitor| {
                        let jobs = monitor.ask("query-jobs", json!({}))?;
                        let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == STREAM_JOB).cloned();
                        if job.as_ref().is_some_and(|job| job["status"] == "concluded") {
                            monitor.ask("job-dismiss", json!({"id": STREAM_JOB}))?;
                        }
                        Ok(job)
                    })
                    .await?;
                match state {
                    None => return Err(Error::internal("the copying has vanished")),
                    Some(job) if job["status"] == "concluded" => {
                        if let Some(why) = job["error"].as_str() {
                            let why: String = why.chars().take(500).collect();
                            return Err(Error::new(ErrorKind::Unavailable, why));
                        }
                        break;
                    }
                    Some(_) => tokio::time::sleep(LOOK_AGAIN).await,
                }
            }
            let mut record = self.machine_of(found)?;
            if let Some(done) = record.disks.iter_mut().find(|one| one.name == disk.name) {
                done.bases.clear();
            }
            self.store(found, record).await?;
        }
        Ok(())
    }
}

fn one_disk<'a>(record: &'a Record, wanted: Option<&str>, name: &str) -> Result<&'a DiskRecord> {
    let all: Vec<&DiskRecord> = disks(record).collect();
    let names = || all.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(", ");
    match wanted {
        Some(wanted) => all.iter().copied().find(|disk| disk.name == wanted).ok_or_else(|| {
            Error::not_found(format!("machine {name} has no disk {wanted}")).with_hint(format!("it has {}", names()))
        }),
        None if all.len() == 1 => Ok(all[0]),
        None if all.is_empty() => Err(Error::conflict(format!("machine {name} has no disk"))),
        None => Err(Error::invalid(format!("machine {name} has several disks: {}", names()))
            .with_hint("name one with --disk, or take them all with --format ova")),
    }
}

/// A file's header in a tar archive (ustar).
fn member(name: &str, bytes: u64) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).map_err(|cause| {
        Error::because(ErrorKind::InvalidArgument, "the machine's name is too long for a file", &cause)
    })?;
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(TAR_BLOCK), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_chain_is_opened_for_reading_with_every_file_named() {
        let base = |digit: &str, format| Base { digest: digit.repeat(64), format };
        let disk = DiskRecord {
            name: "disk0".to_owned(),
            file: Some("disk0-1.qcow2".to_owned()),
            bases: vec![base("a", BaseFormat::Qcow2), base("b", BaseFormat::Raw)],
            size_bytes: 1 << 20,
            kind: DiskKind::Disk,
            port: None,
            limits: DiskLimits::default(),
        };
        let text = chain(&disk);
        let node: Value = serde_json::from_str(text.strip_prefix("json:").unwrap()).unwrap();
        assert_eq!(node["read-only"], true);
        assert!(node["file"]["filename"].as_str().unwrap().contains("/aaaa"));
        assert_eq!(node["backing"]["driver"], "raw");
        assert!(!text.contains("disk0-1"), "its own file is written to");
    }
}
