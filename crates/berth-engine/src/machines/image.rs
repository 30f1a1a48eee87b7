//! A machine from an image that has a kernel and a first process: its files become a disk, which that kernel boots.
//!
//! ```text
//!  image ── mke2fs -d ── root.raw (sparse) ── qemu-img ── root.qcow2 ── brought in as any disk
//!     |                     '-- debugfs: berth-agent and its unit, the host name, where the image has systemd
//!     '-- /boot/vmlinuz-..., /boot/initrd.img-... ── the machine's kernel, booted directly
//! ```
//!
//! No boot loader and no partition: the kernel is the one that the image has when the machine is made.

use super::types::{CreateMachine, DirectKernel, NewDisk};
use super::{Machines, start};
use crate::Engine;
use crate::containers::blocking;
use crate::files::{self, FilesError, Found, Root};
use berth_types::{Error, ErrorKind, Result};
use rustix::fs::{Dir, FileType};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Of a root that nobody gave a size; it takes what is written.
const SIZE_BYTES_DEFAULT: u64 = 10 << 30;
const KERNEL_BYTES_MAX: u64 = 512 << 20;
/// `vda` is the first disk's name in every Linux, whatever was brought beside it. `no_timer_check`: an emulated timer may
/// not tick on a busy host in the moment in which the kernel looks whether it does, and panics; under KVM it does not look.
const ARGUMENTS: &str = "root=/dev/vda rw console=ttyS0 no_timer_check";
const PREFIX: &str = "from-image-";
/// Where the agent goes, and what starts it.
const AGENT: &str = "/usr/local/sbin/berth-agent";
const UNITS: &str = "/etc/systemd/system";
const UNIT: &str = "[Unit]\nDescription=The host's way into this machine\n\n[Service]\n\
    ExecStart=/usr/local/sbin/berth-agent --service\nRestart=always\n\n[Install]\nWantedBy=multi-user.target\n";

/// The files that the machine is made of, until it is made.
pub(super) struct Prepared {
    _folder: Folder,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a folder stays");
        }
    }
}

impl Machines {
    /// Turns the wish for an image into one for a disk and a kernel.
    pub(super) async fn prepare(&self, wish: &mut CreateMachine) -> Result<Option<Prepared>> {
        let Some(image) = wish.image.clone() else { return Ok(None) };
        if wish.kernel.is_some() || wish.firmware == super::FirmwareKind::Uefi {
            return Err(Error::invalid(
                "a machine from an image boots the image's own kernel: leave out --kernel and --uefi",
            ));
        }
        let (engine, size, name) = (self.engine.clone(), wish.image_bytes, wish.name.clone());
        let made = blocking(move || make(&engine, &image, size, name.as_deref())).await?;
        let (folder, disk, kernel) = made;
        wish.disks.insert(0, disk);
        wish.kernel = Some(kernel);
        Ok(Some(Prepared { _folder: folder }))
    }
}

fn make(engine: &Engine, reference: &str, size: u64, name: Option<&str>) -> Result<(Folder, NewDisk, DirectKernel)> {
    let failed = |error: Error| error.context(format!("cannot make a disk of image {reference}"));
    let images = engine.images();
    let image = images.resolve(reference)?;
    let rootfs = images.mounted(images.view(&image.id)?)?;
    let root = Root::of_image(&rootfs).map_err(|cause| failed(unread(&cause)))?;
    let (kernel, initrd) = boot_files(&root, reference)?;
    let random = berth_types::digest::hex(&crate::containers::random_bytes()?);
    let path = engine.machine_state().root().join(format!("{PREFIX}{}", &random[..16]));
    std::fs::create_dir_all(&path).map_err(|cause| start::cannot_write(&path, &cause))?;
    let folder = Folder(path);
    let at = |name: &str| folder.0.join(name);
    copy_out(&kernel, &at("kernel")).map_err(failed)?;
    if let Some(initrd) = &initrd {
        copy_out(initrd, &at("initrd")).map_err(failed)?;
    }
    let raw = at("root.raw");
    let top = root.find(Path::new("/")).map_err(|cause| failed(unread(&cause)))?;
    file_system(&top, &raw, if size == 0 { SIZE_BYTES_DEFAULT } else { size }).map_err(failed)?;
    if root.find(Path::new(UNITS)).is_ok_and(|found| found.is_dir()) {
        put_agent(engine, &folder.0, &raw, name).map_err(failed)?;
    }
    let disk = at("root.qcow2");
    run(Command::new("qemu-img").args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).args([&raw, &disk]), "qemu-utils")
        .map_err(failed)?;
    let kernel = DirectKernel {
        image: at("kernel"),
        initrd: initrd.is_some().then(|| at("initrd")),
        arguments: ARGUMENTS.to_owned(),
    };
    let disk = NewDisk { source: Some(disk), format: Some("qcow2".to_owned()), ..NewDisk::default() };
    Ok((folder, disk, kernel))
}

fn unread(cause: &FilesError) -> Error {
    Error::because(ErrorKind::Internal, "cannot read the image's files", cause)
}

/// The newest kernel of /boot with the first file system that belongs to it.
fn boot_files(root: &Root, reference: &str) -> Result<(Found, Option<Found>)> {
    let none = || {
        Error::invalid(format!("image {reference} has no kernel (/boot/vmlinuz-VERSION)"))
            .with_hint("install one in it: apt-get install linux-image-cloud-amd64 (Debian)")
    };
    let boot = root.find(Path::new("/boot")).map_err(|_| none())?;
    let opened = boot.open_folder().map_err(|_| none())?;
    let mut versions = Vec::new();
    for entry in Dir::read_from(opened).map_err(|errno| unread(&FilesError::step("read", "/boot", errno)))? {
        let entry = entry.map_err(|errno| unread(&FilesError::step("read", "/boot", errno)))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        versions.extend(name.strip_prefix("vmlinuz-").map(str::to_owned));
    }
    // Numbers count as numbers.
    let order = |version: &String| -> (Vec<u64>, String) {
        let numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
        (numbers.collect(), version.clone())
    };
    let version = versions.into_iter().max_by_key(order).ok_or_else(none)?;
    let file = |name: String| {
        let found = root.find(&Path::new("/boot").join(name)).ok();
        found.filter(|found| found.kind() == FileType::RegularFile)
    };
    let initrd = file(format!("initrd.img-{version}")).or_else(|| file(format!("initramfs-{version}.img")));
    Ok((file(format!("vmlinuz-{version}")).ok_or_else(none)?, initrd))
}

fn copy_out(found: &Found, to: &Path) -> Result<()> {
    if found.stat.st_size.unsigned_abs() > KERNEL_BYTES_MAX {
        return Err(Error::invalid(format!("{} is larger than {KERNEL_BYTES_MAX} bytes", found.path.display())));
    }
    let from = std::fs::File::from(files::reopen(found).map_err(|cause| unread(&cause))?);
    let mut file = std::fs::File::create(to).map_err(|cause| start::cannot_write(to, &cause))?;
    std::io::copy(&mut from.take(KERNEL_BYTES_MAX), &mut file)
        .map(drop)
        .map_err(|cause| start::cannot_write(to, &cause))
}

/// What it complained about though it did its work.
fn run(command: &mut Command, package: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().map_err(|cause| {
        Error::because(ErrorKind::Unavailable, format!("cannot start {name}"), &cause)
            .with_hint(format!("apt-get install {package}"))
    })?;
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(words),
        false => Err(Error::new(ErrorKind::Unavailable, format!("{name} failed: {words}"))),
    }
}

/// All of the image's files in a file system of that size.
fn file_system(top: &Found, to: &Path, size: u64) -> Result<()> {
    let file = std::fs::File::create(to).map_err(|cause| start::cannot_write(to, &cause))?;
    file.set_len(size).map_err(|cause| start::cannot_write(to, &cause))?;
    let folder = top.open_folder().map_err(|cause| unread(&cause))?;
    // The image is mounted nowhere: our descriptor is the way to it.
    let tree = format!("/proc/{}/fd/{}", std::process::id(), folder.as_raw_fd());
    let mut command = Command::new("mke2fs");
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "1",
        "-L",
        "root",
        "-E",
        "lazy_itable_init=1,nodiscard",
        "-d",
        &tree,
    ]);
    run(command.arg(to), "e2fsprogs").map(drop)
}

/// The agent, started by systemd; and the machine's name, where an image has that of the host that it was made on.
fn put_agent(engine: &Engine, folder: &Path, disk: &Path, name: Option<&str>) -> Result<()> {
    let agent = engine.config().shim_program.with_file_name("berth-agent");
    if !agent.exists() {
        return Ok(());
    }
    let (unit, commands, hostname) = (folder.join("unit"), folder.join("commands"), folder.join("hostname"));
    let service = "berth-agent.service";
    let mut script = String::new();
    // One that is there already is complained about and left.
    for path in ["/usr/local", "/usr/local/sbin", &format!("{UNITS}/multi-user.target.wants")] {
        script.push_str(&format!("mkdir {path}\n"));
    }
    script.push_str(&format!("rm {AGENT}\nwrite {} {AGENT}\nsif {AGENT} mode 0100755\n", agent.display()));
    script.push_str(&format!("rm {UNITS}/{service}\nwrite {} {UNITS}/{service}\n", unit.display()));
    script.push_str(&format!("symlink {UNITS}/multi-user.target.wants/{service} ../{service}\n"));
    if name.is_some() {
        let (path, from) = ("/etc/hostname", hostname.display());
        script.push_str(&format!("rm {path}\nwrite {from} {path}\nsif {path} mode 0100644\n"));
    }
    let name = name.map_or(String::new(), |name| format!("{name}\n"));
    for (path, text) in [(&unit, UNIT), (&commands, script.as_str()), (&hostname, name.as_str())] {
        std::fs::write(path, text).map_err(|cause| start::cannot_write(path, &cause))?;
    }
    let words = run(Command::new("debugfs").args(["-w", "-f"]).arg(&commands).arg(disk), "e2fsprogs")?;
    // It goes on behind what fails, and says so.
    match words.lines().find(|line| line.starts_with("write:") || line.contains("while writing")) {
        None => Ok(()),
        Some(line) => Err(Error::new(ErrorKind::Unavailable, format!("cannot put the agent onto the disk: {line}"))),
    }
}

/// What an engine that was killed meanwhile left.
pub(super) fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            drop(Folder(entry.path()));
        }
    }
}
