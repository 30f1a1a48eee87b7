//! A bundle: the folder with `config.json`, read once and checked for what this runtime does not do.

use super::args::Parsed;
use super::error::CliError;
use super::state::read_bounded;
use oci_spec::runtime::Spec;
use std::path::{Path, PathBuf};

/// Docker's with a large profile is 20 kB; beyond this it is no configuration.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug)]
pub(crate) struct Bundle {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) spec: Spec,
    /// The configuration as it was read.
    pub(crate) text: Vec<u8>,
}

impl Bundle {
    pub(crate) fn load(flags: &Parsed) -> Result<Bundle, CliError> {
        if flags.has("no-pivot") {
            return Err(CliError::NotSupported {
                what: "--no-pivot",
                why: "without pivot_root a process can leave the root filesystem",
            });
        }
        let given = flags.path("bundle").unwrap_or_else(|| PathBuf::from("."));
        let path = given.canonicalize().map_err(CliError::file("open the bundle", &given))?;
        let file = path.join("config.json");
        let text = read_bounded(&file, CONFIG_BYTES_MAX).map_err(CliError::file("read", &file))?;
        let spec: Spec = serde_json::from_slice(&text).map_err(CliError::json(&file))?;
        let rootfs = check(&spec, &path)?;
        Ok(Bundle { path, rootfs, spec, text })
    }

    pub(crate) fn terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
    }
}

/// Refuses what would otherwise be ignored. Returns the root filesystem's absolute path.
fn check(spec: &Spec, bundle: &Path) -> Result<PathBuf, CliError> {
    let wrong = |what: &str| Err(CliError::Config(what.to_owned()));
    if !spec.version().starts_with("1.") {
        return wrong(&format!("ociVersion \"{}\" is not 1.x", spec.version()));
    }
    let Some(process) = spec.process() else { return wrong("process is missing") };
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return wrong("process.args is empty");
    }
    if !process.cwd().is_absolute() {
        return wrong("process.cwd is not an absolute path");
    }
    let Some(root) = spec.root() else { return wrong("root is missing") };
    let Some(linux) = spec.linux() else { return wrong("linux is missing") };
    if linux.intel_rdt().is_some() {
        return wrong("linux.intelRdt is not supported");
    }
    if spec.vm().is_some() || spec.windows().is_some() || spec.solaris().is_some() || spec.zos().is_some() {
        return wrong("vm, windows, solaris and zos are not for this runtime");
    }
    let joined = bundle.join(root.path());
    let rootfs = joined.canonicalize().map_err(CliError::file("open the root filesystem", &joined))?;
    if !rootfs.is_dir() {
        return wrong(&format!("root.path {} is not a folder", rootfs.display()));
    }
    Ok(rootfs)
}
