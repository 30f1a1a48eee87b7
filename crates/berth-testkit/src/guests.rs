//! A kernel for containers in machines of their own.

use crate::{Engine, programs};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs one in the engine; `false` after saying why where that cannot be.
pub fn ready(engine: &Engine) -> bool {
    let kernels = engine.root().join("data/guests/kernels");
    if std::fs::read_dir(&kernels).is_ok_and(|mut entries| entries.next().is_some()) {
        return true;
    }
    let missing = match package() {
        Err(why) => Some(why),
        Ok(_) if !programs().join("berth-agent").exists() => {
            Some("needs the built programs: cargo build --workspace --bins".to_owned())
        }
        Ok(package) => {
            let kept = programs().join("machine-kernel/installed");
            if !kept.exists() {
                engine.berth(["vm", "kernel", "install", &package.to_string_lossy()]).success();
                keep(&kernels, &kept);
            } else {
                // As the engine would: unpacking takes seconds, and there are many engines.
                std::fs::create_dir_all(kernels.parent().expect("a folder above")).expect("the engine's folder");
                copy(&kept, &kernels);
            }
            None
        }
    };
    if let Some(why) = &missing {
        eprintln!("skipped: {why}");
    }
    missing.is_none()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "{} cannot be copied", from.display());
}

/// For the next engine; others may be at it too, also in this program.
fn keep(installed: &Path, kept: &Path) {
    let work = new_folder(kept.parent().expect("a folder above"));
    let temporary = work.path().join("kernels");
    copy(installed, &temporary);
    // Whoever was first has kept the same.
    if let Err(cause) = std::fs::rename(&temporary, kept) {
        assert!(kept.exists(), "cannot keep {}: {cause}", kept.display());
    }
}

/// Nobody else's, and gone with the value.
fn new_folder(within: &Path) -> tempfile::TempDir {
    tempfile::Builder::new().prefix("new-").tempdir_in(within).expect("a folder beside the programs")
}

/// Debian's cloud kernel, fetched once for all tests.
fn package() -> Result<PathBuf, String> {
    for program in ["/usr/bin/qemu-system-x86_64", "/usr/sbin/mkfs.ext4", "/usr/bin/dpkg-deb"] {
        if !Path::new(program).exists() {
            return Err(format!("needs {program}"));
        }
    }
    let folder = programs().join("machine-kernel");
    if let Some(found) = deb_in(&folder) {
        return Ok(found);
    }
    let said = Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output();
    let said = said.map_err(|cause| format!("needs apt-cache: {cause}"))?.stdout;
    let text = String::from_utf8_lossy(&said).into_owned();
    let name =
        text.lines().find_map(|line| line.trim().strip_prefix("Depends: ").filter(|n| n.starts_with("linux-image-")));
    let name = name.ok_or("needs Debian's cloud kernel: apt knows none")?;
    let work =
        tempfile::Builder::new().prefix("berth-kernel-").tempdir_in("/var/tmp").map_err(|cause| cause.to_string())?;
    let fetched = Command::new("apt-get").args(["-q", "download", name]).current_dir(work.path()).output();
    let fetched = fetched.map_err(|cause| format!("needs apt-get: {cause}"))?;
    let Some(package) = deb_in(work.path()) else {
        return Err(format!("needs the package {name}: {}", String::from_utf8_lossy(&fetched.stderr).trim()));
    };
    // Others may be at it too: the last one wins, with the same bytes.
    let target = folder.join(package.file_name().unwrap_or_default());
    let failed = |cause: std::io::Error| format!("cannot keep {}: {cause}", target.display());
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let work = new_folder(&folder);
    let temporary = work.path().join("package");
    std::fs::copy(&package, &temporary).and_then(|_| std::fs::rename(&temporary, &target)).map_err(failed)?;
    Ok(target)
}

fn deb_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|ending| ending == "deb"))
}
