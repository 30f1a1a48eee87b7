//! Layers as EROFS images: the contract, and each image beside the folder that the same entries make, read by the
//! kernel and by erofs-utils.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program; clippy knows only #[test] functions as tests"
)]

use berth_snapshot::{
    Displaced, Entry, LayerForm, LayerWriter, Meta, OverlayDriver, Snapshotter, snapshot_contract_tests,
};
use berth_types::Digest;
use berth_types::mount::{Lower, Rootfs};
use bytes::Bytes;
use rustix::fd::AsRawFd;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

snapshot_contract_tests!(|folder: &Path| OverlayDriver::open(folder, LayerForm::Image).unwrap());

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

fn meta(mode: u32, owner: (u32, u32)) -> Meta {
    Meta { mode, uid: owner.0, gid: owner.1, mtime_seconds: 1_500_000_000, mtime_nanos: 77, xattrs: vec![] }
}

/// Writes a file in pieces of `piece` bytes.
fn file(writer: &mut dyn LayerWriter, path: &str, content: &[u8], meta: &Meta, piece: usize) {
    writer.entry(path.as_bytes(), Entry::File { size: content.len() as u64 }, meta).unwrap();
    for (n, part) in content.chunks(piece).enumerate() {
        writer.write((n * piece) as u64, Bytes::copy_from_slice(part)).unwrap();
    }
}

/// Bytes that repeat nowhere near.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(length)
    .collect()
}

/// A layer of everything that an archive can have.
fn fill(writer: &mut dyn LayerWriter, piece: usize) -> Vec<Displaced> {
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
    let plain = meta(0o755, (0, 0));
    writer.entry(b"", Entry::Directory, &meta(0o755, (5, 6))).unwrap();
    writer.entry(b"bin", Entry::Directory, &plain).unwrap();
    let mut special = meta(0o4755, (33, 70_000));
    special.xattrs.push((b"security.capability".to_vec(), capability));
    special.xattrs.push((b"user.note".to_vec(), noise(3000, 5)));
    special.xattrs.push((b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()));
    file(writer, "bin/ping", &noise(70_001, 3), &special, piece);
    // Ends at, just before and just behind a block, and behind an inode that hardly has room.
    for size in [0, 1, 4000, 4032, 4033, 4095, 4096, 4097, 8192, 12_345, 131_071, 131_072, 131_073, 1_000_003] {
        file(writer, &format!("sizes/{size}"), &noise(size, 9), &meta(0o640, (1, 2)), piece);
    }
    let mut holes = noise(3_000_000, 11);
    holes[..700_000].fill(0);
    holes[1_000_000..2_500_000].fill(0);
    file(writer, "holes", &holes, &plain, piece);
    file(writer, "zeros", &vec![0; 5_000_000], &plain, piece);
    writer.entry(b"vast", Entry::File { size: 1 << 40 }, &plain).unwrap();
    writer.write((1 << 39) + 5, Bytes::from_static(b"here")).unwrap();
    // Several blocks of names, some of which sort before a folder's own two.
    for n in 0..2000 {
        file(writer, &format!("many/{}{n}", "name-".repeat(n % 20)), format!("{n}").as_bytes(), &plain, piece);
    }
    for name in ["!first", "-", ".-", ".hidden", "..more", "..."] {
        file(writer, &format!("many/{name}"), name.as_bytes(), &plain, piece);
    }
    writer.entry(b"many", Entry::Directory, &meta(0o1777, (0, 0))).unwrap();
    for (name, target) in [("short", "bin/ping".to_owned()), ("long", "x/".repeat(2000))] {
        writer.entry(name.as_bytes(), Entry::Symlink { target: target.as_bytes() }, &meta(0o777, (7, 8))).unwrap();
    }
    writer.entry(b"second", Entry::HardLink { to: b"bin/ping" }, &Meta::default()).unwrap();
    writer.entry(b"deep/er/third", Entry::HardLink { to: b"second" }, &Meta::default()).unwrap();
    writer.entry(b"dev/null", Entry::CharDevice { major: 1, minor: 3 }, &meta(0o666, (0, 0))).unwrap();
    writer.entry(b"dev/disk", Entry::BlockDevice { major: 259, minor: 70_000 }, &meta(0o660, (0, 6))).unwrap();
    writer.entry(b"dev/pipe", Entry::Fifo, &meta(0o600, (0, 0))).unwrap();
    writer.entry(b"gone", Entry::Whiteout, &Meta::default()).unwrap();
    writer.entry(b"again", Entry::Whiteout, &Meta::default()).unwrap();
    writer.entry(b"again", Entry::Directory, &plain).unwrap();
    writer.entry(b"hidden", Entry::Directory, &plain).unwrap();
    writer.entry(b"hidden", Entry::Opaque, &Meta::default()).unwrap();
    // What a later entry replaced.
    file(writer, "twice", b"first", &plain, piece);
    file(writer, "twice", b"second", &plain, piece);
    file(writer, "tree/in/it", &noise(200_000, 21), &plain, piece);
    file(writer, "tree", b"a file now", &plain, piece);
    writer.settle().unwrap()
}

fn made(form: LayerForm, piece: usize) -> (tempfile::TempDir, OverlayDriver, Vec<Displaced>) {
    let folder = tempfile::tempdir().unwrap();
    let driver = OverlayDriver::open(folder.path(), form).unwrap();
    let mut writer = driver.begin_layer().unwrap();
    let displaced = fill(&mut *writer, piece);
    driver.commit_layers(vec![writer.finish(id()).unwrap()]).unwrap();
    (folder, driver, displaced)
}

fn layer(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("layers").join(id().hex())
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = String::from_utf8(names[..count].to_vec()).unwrap();
    let value = |name: &str| {
        let mut value = vec![0; 65_536];
        let count = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value[..count].to_vec()
    };
    names.split('\0').filter(|name| !name.is_empty()).map(|name| (name.to_owned(), value(name))).collect()
}

/// Everything that can be seen of a tree.
fn seen(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let at = if path.as_os_str().is_empty() { top.to_owned() } else { top.join(&path) };
        let meta = std::fs::symlink_metadata(&at).unwrap();
        let mut said = format!(
            "{:o} {}:{} {}.{} rdev {:x}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.rdev()
        );
        if meta.mode() & 0o170_000 == 0o020_000 && meta.rdev() == 0 {
            // A whiteout has the moment's time in a folder.
            said = format!("{:o} whiteout", meta.mode());
        }
        if !meta.is_dir() {
            said += &format!(" size {} links {}", meta.size(), meta.nlink());
        } else if !["", "sizes", "deep", "deep/er", "dev"].contains(&path.to_str().unwrap()) {
            // Folders that only a path named have the moment's time in a folder.
            said += &format!(" folder of {} links", meta.nlink());
        } else {
            said = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        }
        said += &format!(" {:?}", attributes(&at));
        if meta.is_symlink() {
            said += &format!(" -> {}", std::fs::read_link(&at).unwrap().display());
        }
        if meta.is_file() && meta.size() < 10_000_000 {
            use std::hash::{DefaultHasher, Hash, Hasher};
            let mut hasher = DefaultHasher::new();
            std::fs::read(&at).unwrap().hash(&mut hasher);
            said += &format!(" content {:x}", hasher.finish());
        }
        if meta.is_dir() {
            let entries = std::fs::read_dir(&at).unwrap();
            todo.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
        }
        all.insert(path, said);
    }
    all
}

/// The image as the kernel shows it; `None`, said aloud, where it cannot mount files.
fn mounted(folder: &tempfile::TempDir) -> Option<(rustix::fd::OwnedFd, PathBuf)> {
    match berth_sys::images::mount_image(&layer(folder).join("image.erofs")) {
        Ok(fd) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())).join(".");
            Some((fd, path))
        }
        Err(errno) => {
            eprintln!("skipped: this kernel does not mount an EROFS image: {errno}");
            None
        }
    }
}

#[test]
fn an_image_shows_what_a_folder_shows() {
    if skip() {
        return;
    }
    let (as_folder, _, displaced) = made(LayerForm::Folder, 65_536);
    let (as_image, _, also_displaced) = made(LayerForm::Image, 65_536);
    assert_eq!(displaced, also_displaced);
    let Some((_fd, top)) = mounted(&as_image) else { return };
    let (folder, image) = (seen(&layer(&as_folder).join("fs")), seen(&top));
    for (path, said) in &folder {
        assert_eq!(image.get(path), Some(said), "{}", path.display());
    }
    assert_eq!(folder.len(), image.len());
    // A vast file is read where something is in it; the rest is a hole for who copies it.
    let vast = std::fs::File::open(top.join("vast")).unwrap();
    let mut here = [0; 8];
    std::os::unix::fs::FileExt::read_at(&vast, &mut here, (1 << 39) + 3).unwrap();
    assert_eq!(&here, b"\0\0here\0\0");
    let told = std::fs::metadata(layer(&as_image).join("image.erofs")).unwrap();
    assert!(told.blocks() * 512 < 12 << 20, "zeros take no disk: {}", told.blocks() * 512);
}

#[test]
fn a_mount_that_is_held_is_shared_and_nothing_else_is_taken_for_it() {
    if skip() {
        return;
    }
    let (folder, ..) = made(LayerForm::Image, 65_536);
    let Some((fd, top)) = mounted(&folder) else { return };
    let image = layer(&folder).join("image.erofs");
    let device = |fd: &rustix::fd::OwnedFd| rustix::fs::fstat(fd).unwrap().st_dev;
    let open = |held: i32| berth_sys::images::open_image(&image, Some((std::process::id(), held))).unwrap();
    let shared = open(fd.as_raw_fd());
    assert!(shared.is_shared);
    assert_eq!(device(&shared.fd), device(&fd), "one file system, one copy in memory");
    // Numbers are used again: a folder of the same image, another layer, a file, nothing.
    let inside = std::fs::File::open(top.join("many")).unwrap();
    let other = made_without_vast(65_536);
    let path = layer(&other).join("image.erofs");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1024 + 48] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let other = berth_sys::images::mount_image(&path).unwrap();
    let file = std::fs::File::open(&image).unwrap();
    for held in [inside.as_raw_fd(), other.as_raw_fd(), file.as_raw_fd(), 999_999] {
        let opened = open(held);
        assert!(!opened.is_shared);
        let opened = opened.fd;
        assert!(![device(&fd), device(&other)].contains(&device(&opened)));
        assert!(rustix::fs::statat(&opened, "many", rustix::fs::AtFlags::empty()).is_ok(), "mounted anew, whole");
    }
    // What an engine asks before it writes layers so, and what is left where overlayfs takes no such mount.
    let fd = rustix::fd::AsFd::as_fd(&fd);
    berth_sys::images::stack_on(fd).unwrap();
    let apart = berth_sys::images::mount_image(&image).unwrap();
    let apart = rustix::fd::AsFd::as_fd(&apart);
    berth_sys::images::in_own_namespace(|| {
        berth_sys::images::attach(apart, &image)?;
        berth_sys::images::stack_on(apart)
    })
    .unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(folder.path().to_str().unwrap()), "nobody else sees it");
}

#[test]
fn a_layer_says_what_it_takes_and_images_take_less() {
    if skip() {
        return;
    }
    let bytes = |form| {
        let (folder, driver, _) = made(form, 65_536);
        let du = Command::new("du").arg("-sB1").arg(layer(&folder)).output().unwrap();
        let counted: u64 = String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        let told = driver.layer_bytes(&id()).unwrap().unwrap();
        assert!(told.abs_diff(counted) <= told / 100, "{told} told, {counted} there");
        told
    };
    let (folder, image) = (bytes(LayerForm::Folder), bytes(LayerForm::Image));
    assert!(image < folder * 3 / 4, "{image} bytes as an image, {folder} as a folder");
}

#[test]
fn the_same_entries_make_the_same_image_however_they_arrive() {
    if skip() {
        return;
    }
    let image = |piece| std::fs::read(layer(&made_without_vast(piece)).join("image.erofs")).unwrap();
    assert!(image(262_144) == image(7_777), "the pieces of a stream are seen in the image");
}

/// Without a terabyte that nobody can compare.
fn made_without_vast(piece: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let driver = OverlayDriver::open(folder.path(), LayerForm::Image).unwrap();
    let mut writer = driver.begin_layer().unwrap();
    let mut holes = noise(3_000_000, 11);
    holes[1_000_000..2_500_000].fill(0);
    for size in [1, 4000, 4097, 131_071, 131_072, 1_000_003] {
        file(&mut *writer, &format!("sizes/{size}"), &noise(size, 9), &meta(0o640, (1, 2)), piece);
    }
    file(&mut *writer, "holes", &holes, &meta(0o600, (0, 0)), piece);
    file(&mut *writer, "zeros", &vec![0; 600_000], &meta(0o600, (0, 0)), piece);
    writer.settle().unwrap();
    driver.commit_layers(vec![writer.finish(id()).unwrap()]).unwrap();
    folder
}

#[test]
fn erofs_utils_finds_nothing_wrong() {
    if skip() {
        return;
    }
    let (folder, ..) = made(LayerForm::Image, 65_536);
    let image = layer(&folder).join("image.erofs");
    let Ok(checked) = Command::new("fsck.erofs").arg(&image).output() else {
        eprintln!("skipped: needs fsck.erofs");
        return;
    };
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn damaged_images_are_errors_and_nothing_else() {
    if skip() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = OverlayDriver::open(folder.path(), LayerForm::Image).unwrap();
    let mut writer = driver.begin_layer().unwrap();
    for size in [1, 4097, 140_000] {
        file(&mut *writer, &format!("sizes/{size}"), &noise(size, 9), &meta(0o640, (1, 2)), 65_536);
    }
    let holes = [noise(70_000, 3), vec![0; 130_000]].concat();
    file(&mut *writer, "holes", &holes, &meta(0o600, (0, 0)), 65_536);
    driver.commit_layers(vec![writer.finish(id()).unwrap()]).unwrap();
    let path = layer(&folder).join("image.erofs");
    let whole = std::fs::read(&path).unwrap();
    let names = ["sizes/1", "sizes/4097", "sizes/140000", "holes", "sizes", "nothing"];
    let (mut state, mut errors) = (7u32, 0);
    let mut buffer = vec![0; 64 << 10];
    for _ in 0..400 {
        let mut broken = whole.clone();
        // Names and inodes are in the last blocks and in the first.
        for _ in 0..8 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = (state >> 8) as usize % 16_384;
            let place = if state & 1 == 0 { place } else { broken.len() - 1 - place };
            broken[place] = (state >> 3) as u8;
        }
        broken.truncate(broken.len() - (state as usize >> 5) % 3 * 4096);
        std::fs::write(&path, &broken).unwrap();
        let reader = driver.open_layer(&id()).unwrap();
        for name in names {
            let Ok(content) = reader.open(name.as_bytes(), None) else {
                errors += 1;
                continue;
            };
            for offset in [0, 4095, 100_000, u64::MAX - 5] {
                errors += usize::from(content.read_at(&mut buffer, offset).is_err());
            }
        }
    }
    assert!(errors > 800, "{errors}");
}

#[test]
fn names_that_no_file_system_takes_are_refused() {
    if skip() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = OverlayDriver::open(folder.path(), LayerForm::Image).unwrap();
    let mut writer = driver.begin_layer().unwrap();
    let long = [b'n'; 256];
    for path in [&long[..], &[&long[..], b"/x"].concat()] {
        let refused = writer.entry(path, Entry::File { size: 0 }, &Meta::default());
        assert!(refused.is_err_and(|error| error.is_refusal()));
    }
    let target = vec![b'x'; 5000];
    let refused = writer.entry(b"l", Entry::Symlink { target: &target }, &Meta::default());
    assert!(refused.is_err_and(|error| error.is_refusal()));
    let refused = writer.entry(b"f", Entry::File { size: u64::MAX }, &Meta::default());
    assert!(refused.is_err_and(|error| error.is_refusal()));
    assert!(std::ffi::OsStr::from_bytes(&long).len() == 256);
}

#[test]
fn a_damaged_layer_is_mended_in_the_other_form_too() {
    if skip() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open = |form| OverlayDriver::open(folder.path(), form).unwrap();
    let staged = |driver: &OverlayDriver| {
        let mut writer = driver.begin_layer().unwrap();
        file(&mut *writer, "word", b"right", &meta(0o644, (0, 0)), 5);
        writer.settle().unwrap();
        writer.finish(id()).unwrap()
    };
    let is = |driver: &OverlayDriver| {
        let mut buffer = [0; 5];
        driver.open_layer(&id()).unwrap().open(b"word", None).unwrap().read_at(&mut buffer, 0).unwrap();
        buffer
    };
    let is_image = |rootfs: &Rootfs| match rootfs {
        Rootfs::Overlay(overlay) => matches!(overlay.lower[0], Lower::Image { .. }),
        Rootfs::Directory { .. } => false,
    };
    let folders = open(LayerForm::Folder);
    folders.commit_layers(vec![staged(&folders)]).unwrap();
    let mut rootfs = folders.prepare("user", &[id()]).unwrap();
    std::fs::write(layer(&folder).join("fs/word"), "wrong").unwrap();
    let images = open(LayerForm::Image);
    images.mend_layer(staged(&images)).unwrap();
    images.refresh(&mut rootfs);
    assert_eq!((is(&images), is_image(&rootfs)), (*b"right", true));
    let folders = open(LayerForm::Folder);
    folders.mend_layer(staged(&folders)).unwrap();
    folders.refresh(&mut rootfs);
    assert_eq!((is(&folders), is_image(&rootfs)), (*b"right", false));
}
