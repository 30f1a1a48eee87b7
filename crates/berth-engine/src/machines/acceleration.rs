//! What machines run on: KVM where a guest has shown that it works, emulation elsewhere.
//!
//! The verdict is kept for the host's kernel in `<data-root>/machines/acceleration.json`: a guest that gets stuck
//! takes ten seconds, which nobody wants to wait for twice.

use berth_vm::spec::Accelerator;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

const KVM: &str = "/dev/kvm";
const FILE: &str = "acceleration.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Verdict {
    /// Release and version of the host's kernel, and QEMU's file: another one is asked again.
    of: String,
    /// Why not.
    refused: Option<String>,
}

/// Where it is kept; told once, before anybody asks.
static PLACE: OnceLock<PathBuf> = OnceLock::new();
static FOUND: Mutex<Option<Verdict>> = Mutex::new(None);

pub(crate) fn keep_in(machines: &Path) {
    // Several engines of one process (tests) share a host, and so a verdict.
    PLACE.set(machines.join(FILE)).ok();
}

fn subject() -> String {
    use std::os::unix::fs::MetadataExt;
    let uname = rustix::system::uname();
    let qemu = std::fs::metadata(berth_vm::command::PROGRAM).map_or(0, |meta| meta.mtime());
    format!("{} {} {qemu}", uname.release().to_string_lossy(), uname.version().to_string_lossy())
}

/// Asks a guest, once for each kernel of the host. May take some seconds: for threads that may block.
fn verdict() -> Verdict {
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(verdict) = &*found {
        return verdict.clone();
    }
    let of = subject();
    let kept = PLACE.get().and_then(|path| serde_json::from_slice::<Verdict>(&std::fs::read(path).ok()?).ok());
    if let Some(kept) = kept.filter(|kept| kept.of == of) {
        return found.insert(kept).clone();
    }
    let verdict = Verdict { of, refused: ask().err() };
    match &verdict.refused {
        None => tracing::info!("machines run under KVM"),
        Some(why) => tracing::info!(why, "machines are emulated"),
    }
    // Not there yet or without QEMU: the next engine asks again, at no cost.
    if Path::new(KVM).exists()
        && Path::new(berth_vm::command::PROGRAM).exists()
        && let Some(path) = PLACE.get()
        && let Ok(text) = serde_json::to_vec(&verdict)
    {
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, text));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "the verdict on KVM is not kept");
        }
    }
    found.insert(verdict).clone()
}

fn ask() -> Result<(), String> {
    if let Err(cause) = std::fs::File::options().read(true).write(true).open(KVM) {
        return Err(format!("{KVM}: {cause}"));
    }
    berth_vm::probe::kvm(berth_vm::command::PROGRAM)
}

pub(crate) fn accelerator() -> Accelerator {
    match verdict().refused {
        None => Accelerator::Kvm,
        Some(_) => Accelerator::Tcg,
    }
}

/// What is known of it without asking: the accelerator, and why it is not KVM.
pub(crate) fn known() -> Option<(Accelerator, Option<String>)> {
    // Somebody is asking just now.
    let found = FOUND.try_lock().ok()?.clone();
    let kept = || serde_json::from_slice::<Verdict>(&std::fs::read(PLACE.get()?).ok()?).ok();
    let verdict = found.or_else(kept).filter(|verdict| verdict.of == subject())?;
    let accelerator = if verdict.refused.is_none() { Accelerator::Kvm } else { Accelerator::Tcg };
    Some((accelerator, verdict.refused))
}
