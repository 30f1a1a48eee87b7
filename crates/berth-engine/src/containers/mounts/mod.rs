//! What is mounted into a container besides its root: binds, volumes, tmpfs, images.
//!
//! ```text
//!  binds, mounts, volumes_from, config.volumes --plan--> Vec<MountPoint>      stored in the record
//!  image content at a fresh volume's target --populate--> the volume          once, before the first start
//!  Vec<MountPoint> + host.tmpfs --oci_mounts--> OCI mounts                    at each start
//! ```
//!
//! Later sources win where two name one target, in the order above read from right to left, but two binds
//! or mounts for one target are refused. Words of refusals are Docker's.

mod oci;
mod owners;
mod parse;
mod populate;

pub(crate) use oci::oci_mounts;
pub use owners::Owners;
pub(crate) use parse::{check_mount, check_tmpfs};
pub use populate::populate;

use super::{MountDetail, MountPoint};
use crate::Engine;
use crate::secrets::{self, SecretKind};
use crate::volumes::{Pin, Volume, VolumeCreate};
use berth_types::spec::{ContainerSpec, MountKind};
use berth_types::{ContainerId, Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The planned mounts, and what undoes the plan.
pub struct Planned {
    /// In the order to mount them: a folder before what is inside of it.
    pub mounts: Vec<MountPoint>,
    /// Drop it without [`Pins::keep`] and the anonymous volumes made here are removed again.
    pub pins: Pins,
}

/// Keeps the volumes of a plan from being pruned until the container's record names them.
#[derive(Default)]
pub struct Pins {
    volumes: Vec<Pin>,
}

impl Pins {
    /// The record is stored: from now on it keeps the volumes.
    pub fn keep(mut self) {
        self.volumes.iter_mut().for_each(Pin::keep);
    }
}

/// Reads all that the (merged) specification says about mounts, makes the volumes that it needs, and
/// refuses what cannot be mounted. `id` is the new container's.
pub async fn plan(engine: &Engine, id: &ContainerId, spec: &ContainerSpec) -> Result<Planned> {
    // Docker's client takes "not found" to mean the container's image, and would pull it.
    plan_all(engine, id, spec).await.map_err(|error| match error.kind {
        ErrorKind::NotFound => error.with_kind(ErrorKind::InvalidArgument),
        _ => error,
    })
}

async fn plan_all(engine: &Engine, id: &ContainerId, spec: &ContainerSpec) -> Result<Planned> {
    let host = &spec.host;
    let mut pins = Pins::default();
    let mut points: BTreeMap<String, MountPoint> = BTreeMap::new();
    for text in &host.volumes_from {
        for point in taken_over(engine, text).await? {
            if point.kind == MountKind::Volume {
                pins.volumes.push(engine.volumes().pin(&point.name));
            }
            points.insert(point.target.clone(), point);
        }
    }
    let mut taken: BTreeSet<String> = host.tmpfs.keys().map(|target| clean(target)).collect();
    let binds = host.binds.iter().map(|text| parse::bind(text, &host.volume_driver));
    let binds = binds.collect::<Result<Vec<_>>>()?;
    let labelled = spec.config.labels.get(secrets::LABEL).map_or_else(Vec::new, |text| secrets::mounts_of_label(text));
    let mounts = host.mounts.iter().chain(&labelled).map(|mount| parse::mount(mount, true));
    let mounts = mounts.collect::<Result<Vec<_>>>()?;
    for parsed in binds.into_iter().chain(mounts) {
        let mut point = parsed.point;
        if !taken.insert(point.target.clone()) {
            return Err(Error::invalid(format!("Duplicate mount point: {}", point.target)));
        }
        if let Some(owners) = &point.detail.owners {
            owners::check(owners, &spec.config.user)?;
        }
        match point.kind {
            MountKind::Volume => {
                let request = VolumeCreate { made_for: Some(id.clone()), ..parsed.volume };
                let (volume, pin) = engine.volumes().create_pinned(request).await?;
                pins.volumes.push(pin);
                use_volume(&mut point, volume);
            }
            MountKind::Image => use_image(engine, id, &mut point, points.len())?,
            MountKind::Secret => use_secret(engine, SecretKind::Secret, &mut point).await?,
            MountKind::Config => use_secret(engine, SecretKind::Config, &mut point).await?,
            MountKind::Bind | MountKind::Tmpfs => {}
        }
        points.insert(point.target.clone(), point);
    }
    for target in &spec.config.volumes {
        let target = clean(target);
        if target == "/" {
            return Err(Error::invalid("invalid volume specification: destination can't be '/'"));
        }
        if points.contains_key(&target) || taken.contains(&target) {
            continue;
        }
        let request =
            VolumeCreate { driver: host.volume_driver.clone(), made_for: Some(id.clone()), ..VolumeCreate::default() };
        let (volume, pin) = engine.volumes().create_pinned(request).await?;
        pins.volumes.push(pin);
        let mut point = blank(MountKind::Volume, &target);
        point.anonymous = true;
        point.detail.copy_up = true;
        use_volume(&mut point, volume);
        point.mode = String::new();
        points.insert(target, point);
    }
    let mut mounts: Vec<MountPoint> = points.into_values().collect();
    mounts.sort_by_key(|point| Path::new(&point.target).components().count());
    Ok(Planned { mounts, pins })
}

/// A mount of this kind with nothing said about it.
fn blank(kind: MountKind, target: &str) -> MountPoint {
    MountPoint {
        kind,
        name: String::new(),
        source: PathBuf::new(),
        target: clean(target),
        driver: String::new(),
        mode: String::new(),
        read_write: true,
        propagation: String::new(),
        anonymous: false,
        detail: MountDetail::default(),
    }
}

fn clean(target: &str) -> String {
    crate::oci::clean(Path::new(target)).to_string_lossy().into_owned()
}

fn use_volume(point: &mut MountPoint, volume: Volume) {
    point.detail.file_system = volume.file_system();
    point.name = volume.name;
    point.driver = volume.driver;
    point.source = volume.mountpoint;
    if point.mode.is_empty() {
        // What Docker's inspect shows for a volume without options.
        "z".clone_into(&mut point.mode);
    }
}

/// By its id from now on: another one may get its name.
async fn use_secret(engine: &Engine, kind: SecretKind, point: &mut MountPoint) -> Result<()> {
    let all = match kind {
        SecretKind::Secret => engine.secrets(),
        SecretKind::Config => engine.configs(),
    };
    let found = all.inspect(&point.name).await?;
    point.name = found.name;
    point.driver = found.id;
    point.source = found.data;
    Ok(())
}

/// The image's layers, kept by a snapshot of the container's own.
fn use_image(engine: &Engine, id: &ContainerId, point: &mut MountPoint, number: usize) -> Result<()> {
    let reference = point.source.to_string_lossy().into_owned();
    let image = engine.images().resolve(&reference)?;
    let key = format!("{id}-image-{number}");
    let rootfs = engine.images().prepare_rootfs(&key, &image.id)?;
    point.detail.layers = match rootfs {
        berth_types::mount::Rootfs::Overlay(overlay) => overlay.lower,
        berth_types::mount::Rootfs::Directory { path } => vec![berth_types::mount::Lower::Folder(path)],
    };
    point.name = reference;
    point.driver = key;
    point.read_write = false;
    "rprivate".clone_into(&mut point.propagation);
    Ok(())
}

/// `name[:mode]` of `--volumes-from`: the mounts of that container.
async fn taken_over(engine: &Engine, text: &str) -> Result<Vec<MountPoint>> {
    let (name, writable) = parse::volumes_from(text)?;
    let from = engine.containers().inspect(name, false).await;
    let from = from.map_err(|error| error.with_kind(ErrorKind::InvalidArgument))?;
    let mut mounts = from.mounts;
    for point in &mut mounts {
        point.read_write &= writable;
        point.detail.copy_up = false;
        // An image's snapshot belongs to the other container.
        if point.kind == MountKind::Image {
            point.driver.clear();
        }
    }
    Ok(mounts)
}

/// A mount as the caller wrote it, and the volume that it asks for.
struct Parsed {
    point: MountPoint,
    volume: VolumeCreate,
}

impl Parsed {
    fn of(point: MountPoint) -> Parsed {
        Parsed { point, volume: VolumeCreate::default() }
    }
}

/// The plan without an engine: volumes are folders that nobody makes.
#[cfg(test)]
pub(crate) fn plan_for_tests(spec: &ContainerSpec) -> Vec<MountPoint> {
    let binds = spec.host.binds.iter().map(|text| parse::bind(text, "").expect("a good bind"));
    let mounts = spec.host.mounts.iter().map(|mount| parse::mount(mount, true).expect("a good mount"));
    let mut points: Vec<MountPoint> = binds.chain(mounts).map(|parsed| parsed.point).collect();
    for point in points.iter_mut().filter(|point| point.kind == MountKind::Volume) {
        point.source = PathBuf::from("/volumes/_data");
    }
    points
}
