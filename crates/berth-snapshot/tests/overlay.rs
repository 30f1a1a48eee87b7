//! The overlay driver against the contract, and what only it promises.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program; clippy knows only #[test] functions as tests"
)]

use berth_snapshot::{Entry, LayerForm, Meta, OverlayDriver, SnapshotError, Snapshotter, snapshot_contract_tests};
use berth_types::Digest;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

snapshot_contract_tests!(|folder: &Path| OverlayDriver::open(folder, LayerForm::Folder).unwrap());

fn id() -> Digest {
    Digest::from_bytes([3; 32])
}

fn skip() -> bool {
    let skip = !berth_snapshot::checks::can_run();
    if skip {
        eprintln!("skipped: needs root");
    }
    skip
}

#[test]
fn whiteouts_opaque_folders_owners_rights_and_capabilities_are_as_overlayfs_wants_them() {
    if skip() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = OverlayDriver::open(folder.path(), LayerForm::Folder).unwrap();
    let mut writer = driver.begin_layer().unwrap();
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
    let meta = Meta {
        mode: 0o4755,
        uid: 33,
        gid: 44,
        mtime_seconds: 1_000_000_000,
        mtime_nanos: 5,
        xattrs: vec![
            (b"security.capability".to_vec(), capability.clone()),
            (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
        ],
    };
    let plain = Meta { xattrs: vec![], ..meta.clone() };
    writer.entry(b"d/file", Entry::File { size: 200 << 20 }, &meta).unwrap();
    writer.entry(b"d", Entry::Directory, &Meta { mode: 0o1555, ..plain.clone() }).unwrap();
    writer.entry(b"null", Entry::CharDevice { major: 1, minor: 3 }, &Meta { mode: 0o666, ..plain.clone() }).unwrap();
    writer.entry(b"pipe", Entry::Fifo, &plain).unwrap();
    writer.entry(b"gone", Entry::Whiteout, &Meta::default()).unwrap();
    writer.entry(b"again", Entry::Whiteout, &Meta::default()).unwrap();
    writer.entry(b"again", Entry::Directory, &plain).unwrap();
    writer.entry(b"d", Entry::Opaque, &Meta::default()).unwrap();
    assert_eq!(writer.settle().unwrap(), []);
    let staged = writer.finish(id()).unwrap();
    let told = staged.bytes;
    driver.commit_layers(vec![staged]).unwrap();

    let at = |name: &str| folder.path().join("layers").join(id().hex()).join("fs").join(name);
    let meta = |name: &str| std::fs::symlink_metadata(at(name)).unwrap();
    let file = meta("d/file");
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o4755, 33, 44));
    assert_eq!((file.mtime(), file.mtime_nsec(), file.len()), (1_000_000_000, 5, 200 << 20));
    assert!(file.blocks() < 64, "a file that nothing was written to is a hole: {}", file.blocks());
    assert_eq!((meta("d").mode() & 0o7777, meta("d").mtime()), (0o1555, 1_000_000_000));
    let xattr = |name: &str, key: &str| {
        let mut value = vec![0; 64];
        let length = rustix::fs::lgetxattr(at(name), key, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    };
    assert_eq!(xattr("d/file", "security.capability"), Some(capability));
    assert_eq!(xattr("d/file", "trusted.overlay.redirect"), None);
    assert_eq!(xattr("d", "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(xattr("again", "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!((meta("null").rdev(), meta("null").mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
    assert!(meta("gone").file_type().is_char_device() && meta("gone").rdev() == 0);
    assert!(meta("pipe").file_type().is_fifo());
    let du = std::process::Command::new("du").arg("-sB1").arg(at("..")).output().unwrap();
    let counted: u64 = String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(told, counted);
    let rights = std::fs::metadata(folder.path().join("layers")).unwrap().permissions().mode() & 0o777;
    assert_eq!(rights, 0o700, "set-user-id files of images are for containers only");
}

#[test]
fn what_a_crash_left_goes_when_the_driver_is_opened_next() {
    if skip() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    drop(OverlayDriver::open(folder.path(), LayerForm::Folder).unwrap());
    for left in ["layers/new-7/fs/a", "layers/gone-9/fs", "snapshots/new-2/fs", "snapshots/gone-1"] {
        std::fs::create_dir_all(folder.path().join(left)).unwrap();
    }
    let driver = OverlayDriver::open(folder.path(), LayerForm::Folder).unwrap();
    assert!(driver.layers().unwrap().is_empty() && driver.keys().unwrap().is_empty());
    // A layer that begins meanwhile is none of the leftovers.
    let writer = driver.begin_layer().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let names = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    loop {
        let left: Vec<_> = names(&folder.path().join("layers"));
        let snapshots: Vec<_> = names(&folder.path().join("snapshots"));
        if left == ["new-10"] && snapshots.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{left:?} {snapshots:?}");
        std::thread::yield_now();
    }
    drop(writer);
}

#[test]
fn a_snapshot_of_three_hundred_layers_names_them_all_and_forgotten_chains_go() {
    if skip() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = OverlayDriver::open(folder.path(), LayerForm::Folder).unwrap();
    let layers: Vec<Digest> = (0..300u16)
        .map(|n| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            Digest::from_bytes(bytes)
        })
        .collect();
    assert!(matches!(driver.prepare("many", &layers), Err(SnapshotError::NoLayer(_))));
    let empty = |layer: &Digest| driver.begin_layer().unwrap().finish(*layer).unwrap();
    driver.commit_layers(layers.iter().map(empty).collect()).unwrap();
    driver.prepare("many", &layers).unwrap();
    let reopened = OverlayDriver::open(folder.path(), LayerForm::Folder).unwrap();
    assert_eq!(reopened.layers_of("many").unwrap(), layers);
    reopened.tidy().unwrap();
    assert_eq!(reopened.layers_of("many").unwrap(), layers);
    reopened.remove("many").unwrap();
    reopened.tidy().unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("chains")).unwrap().count(), 0);
    reopened.prepare("many", &layers[..1]).unwrap();
    assert_eq!(reopened.layers_of("many").unwrap().len(), 1);
}
