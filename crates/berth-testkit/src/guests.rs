//! A kernel for containers in machines of their own.

use crate::{Engine, programs};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs one in the engine; `false` after saying why where that cannot be.
pub fn ready(engine: &Engine) -> bool {
    let missing = match package() {
        Err(why) => Some(why),
        Ok(_) if !programs().join("berth-agent").exists() => {
            Some("needs the built programs: cargo build --workspace --bins".to_owned())
        }
        Ok(package) => {
            engine.berth(["vm", "kernel", "install", &package.to_string_lossy()]).success();
            None
        }
    };
    if let Some(why) = &missing {
        eprintln!("skipped: {why}");
    }
    missing.is_none()
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
    let temporary = folder.join(format!("new-{}", std::process::id()));
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::copy(&package, &temporary).map(drop))
        .and_then(|()| std::fs::rename(&temporary, &target))
        .map_err(|cause| format!("cannot keep {}: {cause}", target.display()))?;
    Ok(target)
}

fn deb_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|ending| ending == "deb"))
}
