//! Kernels for guests: a distribution's, taken out of its package.
//!
//! ```text
//!  <guests>/kernels/<version>/vmlinux         the kernel itself, which QEMU boots directly (PVH)
//!                             modules/*.ko    those that a guest needs, and what they need
//!                             modules/order   in which order they are loaded
//!                             initrd-<agent>  they and the agent, as the guest's first file system; made when needed
//! ```
//!
//! A package is a stranger's archive: it is unpacked by `dpkg-deb` into a folder of its own, and only files with the
//! expected names are taken from there.

use super::{KERNEL, folder};
use crate::Engine;
use berth_types::spec::ContainerSpec;
use berth_types::{Error, ErrorKind, Result};
use berth_vm::initramfs::Archive;
use berth_vm::kernel::{self, KERNEL_BYTES_MAX, Packing};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::process::Command;

pub(super) const IMAGE: &str = "vmlinux";
/// Debian's for virtual machines: everything that a guest has is built in or a module of it.
const PACKAGE: &str = "linux-image-cloud-amd64";
const MODULES: &str = "modules";
const ORDER: &str = "order";
const NEW: &str = "new-";
/// What a guest needs, where the kernel does not have it built in.
const WANTED: [&str; 13] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtiofs",
    "erofs",
    "overlay",
    "ext4",
    "crc32c_generic",
    "virtio_mem",
    "af_packet",
];
const FILE_BYTES_MAX: u64 = 512 << 20;

/// One change of what is installed at a time.
static CHANGING: Mutex<()> = Mutex::new(());
/// One installation at a time: they have one folder to work in.
static INSTALLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Which kernel to install.
#[derive(Debug, Clone, Default)]
pub struct InstallKernel {
    /// A Debian package's file; empty: [`PACKAGE`] of the configured sources.
    pub package: Option<PathBuf>,
}

/// An installed kernel.
#[derive(Debug, Clone)]
pub struct KernelView {
    pub version: String,
    pub bytes: u64,
    /// New containers get it.
    pub default: bool,
}

/// The installed ones.
#[derive(Clone)]
pub struct Kernels {
    engine: Engine,
}

impl Kernels {
    pub(crate) fn new(engine: Engine) -> Kernels {
        Kernels { engine }
    }

    /// Newest first.
    pub fn list(&self) -> Vec<KernelView> {
        list(&self.engine)
    }

    /// What machines run on, in words, where a guest has been asked already.
    pub fn acceleration(&self) -> std::collections::BTreeMap<String, String> {
        let mut words = std::collections::BTreeMap::new();
        let known = crate::machines::known();
        let accelerator = known.as_ref().map_or("not asked yet", |(accelerator, _)| accelerator.as_str());
        words.insert("berth.accelerator".to_owned(), accelerator.to_owned());
        if let Some((_, Some(why))) = known {
            words.insert("berth.no-kvm".to_owned(), why);
        }
        words
    }

    /// Answers the version; `tell` hears of each step. Whoever does not wait for the answer ends it: what was started
    /// is killed, and nothing is installed.
    pub async fn install(&self, wish: InstallKernel, tell: impl Fn(&str)) -> Result<String> {
        let root = root(&self.engine);
        install(root, wish, &tell).await.map_err(|error| error.context("cannot install a kernel for machines"))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) folder: PathBuf,
    /// Name of the first file system in the folder; empty until [`ready`].
    pub(super) initrd: String,
}

fn root(engine: &Engine) -> PathBuf {
    folder(engine).join("kernels")
}

fn unwritten(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |cause| {
        let kind = if cause.raw_os_error() == Some(28) { ErrorKind::Unavailable } else { ErrorKind::Internal };
        Error::because(kind, format!("cannot write {}", path.display()), &cause)
    }
}

fn unread(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::because(ErrorKind::InvalidArgument, format!("cannot read {}", path.display()), &cause)
}

/// Numbers in a version count as numbers.
fn order_of(version: &str) -> (Vec<u64>, String) {
    let numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
    (numbers.collect(), version.to_owned())
}

/// Installed versions, newest first.
fn versions(engine: &Engine) -> Vec<String> {
    let entries = std::fs::read_dir(root(engine)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut all: Vec<String> = names.filter(|name| !name.starts_with(NEW)).collect();
    all.sort_by_key(|version| std::cmp::Reverse(order_of(version)));
    all
}

fn list(engine: &Engine) -> Vec<KernelView> {
    let size = |version: &str| std::fs::metadata(root(engine).join(version).join(IMAGE)).map_or(0, |meta| meta.len());
    let all = versions(engine).into_iter().enumerate();
    all.map(|(place, version)| KernelView { bytes: size(&version), default: place == 0, version }).collect()
}

/// The one that a container asks for, else the newest.
pub(super) fn of(engine: &Engine, spec: &ContainerSpec) -> Result<Kernel> {
    let all = versions(engine);
    let hint = "berth vm kernel install";
    let version = match spec.host.annotations.get(KERNEL) {
        None => all.into_iter().next().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "--isolation vm: no kernel for machines is installed").with_hint(hint)
        })?,
        Some(wanted) => all.into_iter().find(|version| version == wanted).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("--isolation vm: kernel {wanted} is not installed"))
                .with_hint("berth vm kernel ls shows those that are")
        })?,
    };
    Ok(Kernel { folder: root(engine).join(version), initrd: String::new() })
}

/// With its first file system, made for the agent that is installed now.
pub(super) fn ready(engine: &Engine, mut kernel: Kernel) -> Result<Kernel> {
    let _one = CHANGING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let program = engine.config().shim_program.with_file_name("berth-agent");
    let meta = std::fs::metadata(&program)
        .map_err(|_| Error::new(ErrorKind::Unavailable, format!("--isolation vm: {} is missing", program.display())))?;
    kernel.initrd = format!("initrd-{}-{}.{:09}", meta.len(), meta.mtime(), meta.mtime_nsec());
    let path = kernel.folder.join(&kernel.initrd);
    if path.exists() {
        return Ok(kernel);
    }
    let agent = std::fs::read(&program).map_err(unread(&program))?;
    if agent.windows(15).any(|window| window == b"/lib64/ld-linux") {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("--isolation vm: {} needs libraries, which a guest's first file system has not", program.display()),
        )
        .with_hint("build it where the C library's static form is installed: apt-get install libc6-dev"));
    }
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "root", MODULES] {
        archive.folder(folder);
    }
    archive.file("init", &agent);
    let modules = kernel.folder.join(MODULES);
    let order = modules.join(ORDER);
    let text = std::fs::read_to_string(&order).map_err(unread(&order))?;
    for name in text.lines() {
        let path = modules.join(name);
        archive.file(&format!("{MODULES}/{name}"), &std::fs::read(&path).map_err(unread(&path))?);
    }
    archive.file(&format!("{MODULES}/{ORDER}"), text.as_bytes());
    let temporary = kernel.folder.join(format!("{NEW}initrd"));
    std::fs::write(&temporary, archive.finish()).map_err(unwritten(&temporary))?;
    // Of earlier agents; a machine that still has one open keeps it.
    for entry in std::fs::read_dir(&kernel.folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("initrd-") {
            std::fs::remove_file(entry.path()).ok();
        }
    }
    std::fs::rename(&temporary, &path).map_err(unwritten(&path))?;
    Ok(kernel)
}

/// Where a package is unpacked; gone with whoever has it last, which may be a thread that nobody waits for any more.
struct Work {
    folder: PathBuf,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl Work {
    fn new(root: &Path, turn: tokio::sync::MutexGuard<'static, ()>) -> Result<Work> {
        std::fs::create_dir_all(root).map_err(unwritten(root))?;
        let work = Work { folder: root.join(format!("{NEW}package")), _turn: turn };
        // Of an engine that was killed meanwhile.
        std::fs::remove_dir_all(&work.folder).ok();
        std::fs::create_dir(&work.folder).map_err(unwritten(&work.folder))?;
        Ok(work)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Whoever waits has gone.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Installs a kernel; the version. One that is there already is replaced: machines that run keep what they have open.
async fn install(root: PathBuf, wish: InstallKernel, tell: &impl Fn(&str)) -> Result<String> {
    let turn = INSTALLING.lock().await;
    let place = root.clone();
    let work = crate::containers::blocking(move || Work::new(&place, turn)).await?;
    let packages = match wish.package {
        Some(file) => vec![file],
        None => fetch(&work.folder, tell).await?,
    };
    let unpacked = work.folder.join("unpacked");
    for package in &packages {
        let name = package.file_name().unwrap_or(package.as_os_str()).to_string_lossy();
        tell(&format!("unpacking {name}"));
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&unpacked), "apt-get install dpkg").await?;
    }
    tell("taking the kernel and the modules that a guest needs");
    let gone = Gone(Arc::default());
    let unwanted = gone.0.clone();
    crate::containers::blocking(move || take(&work, &root, &unwanted)).await
}

/// Of what was unpacked only files with the expected names.
fn take(work: &Work, root: &Path, unwanted: &AtomicBool) -> Result<String> {
    let unpacked = work.folder.join("unpacked");
    let (version, image) = find_image(&unpacked)?;
    let made = work.folder.join("made");
    let modules = made.join(MODULES);
    std::fs::create_dir_all(&modules).map_err(unwritten(&modules))?;
    let bytes = read_bounded(&image)?;
    let kernel = unpack_kernel(&bytes).map_err(|error| error.context(format!("{}", image.display())))?;
    std::fs::write(made.join(IMAGE), kernel).map_err(unwritten(&made))?;
    let files = module_files(&unpacked, &version);
    let mut order = String::new();
    for (name, content) in needed(&files)? {
        let path = modules.join(format!("{name}.ko"));
        std::fs::write(&path, content).map_err(unwritten(&path))?;
        order.push_str(&format!("{name}.ko\n"));
    }
    std::fs::write(modules.join(ORDER), order).map_err(unwritten(&modules))?;
    let _one = CHANGING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if unwanted.load(Ordering::Relaxed) {
        return Err(Error::conflict("the installation was cancelled"));
    }
    let target = root.join(&version);
    match std::fs::remove_dir_all(&target) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(unwritten(&target)(cause)),
        _ => {}
    }
    std::fs::rename(&made, &target).map_err(unwritten(&target))?;
    Ok(version)
}

async fn run(command: &mut Command, hint: &str) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let command = command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|cause| {
        Error::because(ErrorKind::Unavailable, format!("cannot start {name}"), &cause).with_hint(hint)
    })?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::new(
            ErrorKind::Unavailable,
            format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
        )),
    }
}

/// The newest package of the configured sources, whose signatures apt checks.
async fn fetch(work: &Path, tell: &impl Fn(&str)) -> Result<Vec<PathBuf>> {
    const HINT: &str = "elsewhere: berth vm kernel install FILE.deb";
    tell(&format!("asking apt for {PACKAGE}"));
    let text = run(Command::new("apt-cache").args(["depends", "--no-recommends", PACKAGE]), HINT).await?;
    let named: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).collect();
    // Newer ones keep kernel and modules in packages of their own, which the first depends on.
    let mut wanted: Vec<String> =
        named.iter().filter(|name| name.starts_with("linux-")).map(|name| (*name).to_owned()).collect();
    for name in wanted.clone() {
        let text = run(Command::new("apt-cache").args(["depends", "--no-recommends", &name]), HINT).await?;
        let more = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        wanted.extend(
            more.filter(|n| n.starts_with("linux-binary") || n.starts_with("linux-modules")).map(str::to_owned),
        );
    }
    if wanted.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable, format!("apt knows no {PACKAGE}")).with_hint("apt-get update"));
    }
    tell(&format!("downloading {}", wanted.join(", ")));
    run(Command::new("apt-get").args(["-q", "download"]).args(&wanted).current_dir(work), HINT).await?;
    let files = std::fs::read_dir(work).map_err(unread(work))?.flatten().map(|entry| entry.path());
    Ok(files.filter(|path| path.extension().is_some_and(|ending| ending == "deb")).collect())
}

fn is_version(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_' | '~');
    !name.is_empty() && name.len() < 128 && name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(good)
}

fn find_image(unpacked: &Path) -> Result<(String, PathBuf)> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let boot = unpacked.join("boot");
    for name in names(&boot) {
        if let Some(version) = name.strip_prefix("vmlinuz-").filter(|version| is_version(version)) {
            return Ok((version.to_owned(), boot.join(&name)));
        }
    }
    for prefix in ["usr/lib/modules", "lib/modules"] {
        let folder = unpacked.join(prefix);
        for version in names(&folder) {
            let image = folder.join(&version).join("vmlinuz");
            if is_version(&version) && image.exists() {
                return Ok((version, image));
            }
        }
    }
    Err(Error::invalid("the package has no kernel (boot/vmlinuz-... or lib/modules/.../vmlinuz)"))
}

/// A regular file of the package, and of a bounded size.
fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let meta = std::fs::symlink_metadata(path).map_err(unread(path))?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return Err(Error::invalid(format!("{} is no file, or too large", path.display())));
    }
    std::fs::read(path).map_err(unread(path))
}

fn unpack_kernel(file: &[u8]) -> Result<Vec<u8>> {
    let wrong =
        |cause: kernel::KernelError| Error::because(ErrorKind::InvalidArgument, "cannot use the kernel", &cause);
    let (range, packing) = kernel::find(file).map_err(wrong)?;
    let mut bytes = unpack(&file[range], packing)?;
    // zstd and others pad what they unpack to nothing; an ELF says itself how long it is.
    if !bytes.starts_with(b"\x7fELF") {
        return Err(wrong(kernel::KernelError::NoKernel));
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

fn unpack(packed: &[u8], packing: Packing) -> Result<Vec<u8>> {
    let failed = |cause: &(dyn std::error::Error + 'static)| {
        Error::because(ErrorKind::InvalidArgument, "cannot unpack it", cause)
    };
    let reader: Box<dyn Read + '_> = match packing {
        Packing::None => return Ok(packed.to_vec()),
        Packing::Lz4 => return kernel::unpack_lz4(packed).map_err(|cause| failed(&cause)),
        Packing::Gzip => Box::new(flate2::read::GzDecoder::new(packed)),
        Packing::Zstd => Box::new(zstd::Decoder::new(packed).map_err(|cause| failed(&cause))?.single_frame()),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new(packed, false)),
    };
    let mut bytes = Vec::new();
    reader.take(KERNEL_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|cause| failed(&cause))?;
    match bytes.len() > KERNEL_BYTES_MAX {
        true => Err(failed(&kernel::KernelError::Large)),
        false => Ok(bytes),
    }
}

/// All modules of the package by their names.
fn module_files(unpacked: &Path, version: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![unpacked.join("lib/modules").join(version), unpacked.join("usr/lib/modules").join(version)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let Ok(name) = entry.file_name().into_string() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if let Some((module, ending)) = name.split_once(".ko")
                && kind.is_file()
                && matches!(ending, "" | ".xz" | ".zst" | ".gz")
            {
                found.insert(module.replace('-', "_"), entry.path());
            }
        }
    }
    found
}

/// Those that a guest needs with their contents, each behind what it needs itself.
fn needed(files: &BTreeMap<String, PathBuf>) -> Result<Vec<(String, Vec<u8>)>> {
    let (mut done, mut list) = (std::collections::BTreeSet::new(), Vec::new());
    fn visit(
        name: &str,
        files: &BTreeMap<String, PathBuf>,
        done: &mut std::collections::BTreeSet<String>,
        list: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<()> {
        // Built in where there is no file.
        let Some(path) = files.get(name).filter(|_| done.insert(name.to_owned())) else { return Ok(()) };
        let packed = read_bounded(path)?;
        let packing = kernel::packing(&packed)
            .ok_or_else(|| Error::invalid(format!("{} is packed in a way that is not known", path.display())))?;
        let content = unpack(&packed, packing).map_err(|error| error.context(format!("{}", path.display())))?;
        for below in kernel::depends(&content) {
            visit(&below, files, done, list)?;
        }
        list.push((name.to_owned(), content));
        Ok(())
    }
    for name in WANTED {
        visit(name, files, &mut done, &mut list)?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first() {
        let mut all = ["6.1.0-9-cloud-amd64", "6.12.1-cloud-amd64", "6.1.0-56-cloud-amd64"];
        all.sort_by_key(|version| std::cmp::Reverse(order_of(version)));
        assert_eq!(all, ["6.12.1-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-9-cloud-amd64"]);
    }

    #[test]
    fn a_version_is_a_folders_name_and_nothing_else() {
        assert!(is_version("6.1.0-56-cloud-amd64"));
        for wrong in ["", "..", "../6.1", "6/1", "amd64"] {
            assert!(!is_version(wrong), "{wrong}");
        }
    }

    #[test]
    fn modules_come_behind_what_they_need() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = BTreeMap::new();
        let parts =
            [("virtio_pci", "virtio,virtio-ring"), ("virtio", ""), ("virtio_ring", "virtio"), ("unrelated", "")];
        for (name, needs) in parts {
            let path = folder.path().join(format!("{name}.ko"));
            std::fs::write(&path, format!("\x7fELF\0depends={needs}\0")).unwrap();
            files.insert(name.to_owned(), path);
        }
        let names: Vec<String> = needed(&files).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["virtio", "virtio_ring", "virtio_pci"]);
    }
}
