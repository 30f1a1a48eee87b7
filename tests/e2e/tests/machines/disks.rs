//! Disks from other products and for them.

use crate::guests::disk;
use crate::{boots, clear, start, view, wait_for_text};
use berth_testkit::Engine;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `None` and said where qemu-img is missing.
#[expect(clippy::print_stderr, reason = "a test says that it is skipped")]
fn with_qemu_img(name: &str) -> Option<Engine> {
    if !Path::new("/usr/bin/qemu-img").exists() {
        eprintln!("skipped: needs qemu-img (qemu-utils)");
        return None;
    }
    start(name)
}

#[track_caller]
fn qemu_img(words: &[&str]) {
    let output = Command::new("qemu-img").args(words).output().expect("qemu-img");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn path(engine: &Engine, name: &str) -> String {
    engine.root().join(name).to_str().unwrap().to_owned()
}

fn bases(engine: &Engine) -> usize {
    std::fs::read_dir(engine.root().join("data/machines/bases")).map_or(0, Iterator::count)
}

fn create(engine: &Engine, disk: &str, name: &str) {
    engine.berth(["vm", "create", "--disk", disk, "-m", "64m", name]).success();
}

#[test]
fn images_of_other_products_are_read_once_and_boot() {
    let Some(engine) = with_qemu_img("vm-formats") else { return };
    let raw = disk(&engine);
    for (format, options) in [("vmdk", "subformat=streamOptimized"), ("vdi", ""), ("vhdx", "")] {
        let image = path(&engine, &format!("disk.{format}"));
        let mut words = vec!["convert", "-q", "-f", "raw", "-O", format];
        if !options.is_empty() {
            words.extend(["-o", options]);
        }
        words.extend([raw.to_str().unwrap(), &image]);
        qemu_img(&words);
        create(&engine, &image, format);
        boots(&engine, format, "boot A");
        let before = bases(&engine);
        create(&engine, &format!("{image},format={format},size=16M"), "again");
        assert_eq!(bases(&engine), before, "{format}: converted once");
        assert_eq!(view(&engine, "again")["disks"][0]["size_bytes"].as_u64(), Some(16 << 20));
        boots(&engine, "again", "boot A");
        engine.berth(["vm", "rm", "again"]).success();
    }
    // The jobs that did it are in no list, and gone.
    assert_eq!(engine.berth(["vm", "ls", "-q"]).success().lines().count(), 3);
    assert_eq!(engine.docker(["ps", "-aq"]).success(), "");
    clear(&engine);
}

/// A tar archive of these files.
fn archive(target: &str, files: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(std::fs::File::create(target).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.finish().unwrap();
}

#[test]
fn an_appliance_comes_in_with_its_hardware() {
    let Some(engine) = with_qemu_img("vm-ova") else { return };
    let raw = disk(&engine);
    let vmdk = path(&engine, "disk.vmdk");
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw.to_str().unwrap(), &vmdk]);
    let vmdk = std::fs::read(vmdk).unwrap();
    let packed = |file: &str| berth_vm::ova::Packed { file: file.to_owned(), file_bytes: 1, size_bytes: 1 << 20 };
    let descriptor = |files: &[&str]| {
        let disks: Vec<_> = files.iter().map(|file| packed(file)).collect();
        berth_vm::ova::write("x", 2, 96 << 20, false, &disks).into_bytes()
    };
    let ova = path(&engine, "two.ova");
    let two = descriptor(&["a.vmdk", "b.vmdk"]);
    archive(&ova, &[("x.ovf", &two), ("x.mf", b"SHA256(a)= 0"), ("b.vmdk", &vmdk), ("a.vmdk", &vmdk)]);
    engine.berth(["vm", "create", "--disk", &ova, "two"]).success();
    let seen = view(&engine, "two");
    assert_eq!((seen["cpus"].as_u64(), seen["memory_bytes"].as_u64()), (Some(2), Some(96 << 20)));
    assert_eq!(seen["disks"].as_array().unwrap().len(), 2);
    engine.berth(["vm", "create", "--disk", &ova, "-c", "1", "-m", "64m", "--start", "said"]).success();
    wait_for_text(&engine, "said", "boot A", 1);
    assert_eq!(view(&engine, "said")["memory_bytes"].as_u64(), Some(64 << 20));

    let (one, iso) = (descriptor(&["a.vmdk"]), descriptor(&["a.iso"]));
    let wrong = [
        ("absent", vec![("x.ovf", &one[..])], "which is not in it"),
        ("mute", vec![("a.vmdk", &vmdk[..])], "no descriptor"),
        ("empty", vec![("x.ovf", &b"<Envelope/>"[..])], "names no disk"),
        ("other", vec![("x.ovf", &iso[..]), ("a.iso", b"")], "neither vmdk"),
    ];
    for (name, files, says) in wrong {
        let ova = path(&engine, &format!("{name}.ova"));
        archive(&ova, &files);
        let refused = engine.berth(["vm", "create", "--disk", &ova, "bad"]).failure(1);
        assert!(refused.contains(says), "{name}: {refused}");
    }
    // Cut off in the middle of its disk.
    let whole = std::fs::read(&ova).unwrap();
    std::fs::write(&ova, &whole[..whole.len() / 2]).unwrap();
    let refused = engine.berth(["vm", "create", "--disk", &ova, "bad"]).failure(1);
    assert!(refused.contains("longer than the archive"), "{refused}");
    clear(&engine);
}

#[test]
fn images_that_lie_or_name_other_files_are_refused_and_leave_nothing() {
    let Some(engine) = with_qemu_img("vm-liars") else { return };
    let raw = disk(&engine);
    let make = |format: &str| {
        let image = path(&engine, &format!("good.{format}"));
        qemu_img(&["convert", "-f", "raw", "-O", format, raw.to_str().unwrap(), &image]);
        std::fs::read(image).unwrap()
    };
    let (vmdk, vdi, vhdx) = (make("vmdk"), make("vdi"), make("vhdx"));
    let refused = |name: &str, bytes: &[u8], says: &str| {
        let image = path(&engine, name);
        std::fs::write(&image, bytes).unwrap();
        let refused = engine.berth(["vm", "create", "--disk", &image, "bad"]).failure(1);
        assert!(refused.contains(says), "{name}: {refused}");
    };
    refused("cut.vmdk", &vmdk[..4096.min(vmdk.len())], "cannot use");
    refused("cut.vdi", &vdi[..600], "cannot use");
    refused("cut.vhdx", &vhdx[..1 << 16], "cannot use");
    let extent = b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 20480 FLAT \"/etc/shadow\" 0\n";
    refused("extent.vmdk", extent, "only names other files");
    // A parent: any file of the host could be meant.
    let at = vmdk.windows(9).position(|window| window == b"parentCID").unwrap();
    let mut child = vmdk.clone();
    let end = child[at..].iter().position(|byte| *byte == 0).unwrap() + at;
    let hint = b"parentFileNameHint=\"/etc/shadow\"\n";
    child[end..end + hint.len()].copy_from_slice(hint);
    refused("child.vmdk", &child, "/etc/shadow");
    // A size of exabytes: VDI's at 0x170, little-endian.
    let mut large = vdi.clone();
    large[0x170..0x178].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    refused("large.vdi", &large, "cannot use");
    let refused =
        engine.berth(["vm", "create", "--disk", &format!("{},format=vdi", path(&engine, "good.vhdx")), "bad"]);
    assert!(refused.failure(1).contains("vhdx"));
    assert_eq!(engine.berth(["vm", "ls", "-q"]).success(), "");
    clear(&engine);
}

#[test]
fn a_machine_is_exported_running_or_not_and_comes_back() {
    let Some(engine) = with_qemu_img("vm-export") else { return };
    let raw = disk(&engine);
    create(&engine, raw.to_str().unwrap(), "one");
    boots(&engine, "one", "boot A");
    let qcow2 = path(&engine, "one.qcow2");
    engine.berth(["vm", "export", "-o", &qcow2, "one"]).success();
    create(&engine, &qcow2, "again");
    boots(&engine, "again", "boot B");
    // Running: what its disk holds.
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "boot B", 1);
    let image = path(&engine, "one.img");
    engine.berth(["vm", "export", "--format", "raw", "-o", &image, "one"]).success();
    let (before, after) = (std::fs::read(&raw).unwrap(), std::fs::read(&image).unwrap());
    assert_eq!((after.len(), before[512], after[512]), (before.len(), 0, 2));
    let ova = path(&engine, "one.ova");
    engine.berth(["vm", "export", "--format", "ova", "-o", &ova, "one"]).success();
    engine.berth(["vm", "create", "--disk", &ova, "packed"]).success();
    assert_eq!(view(&engine, "packed")["memory_bytes"].as_u64(), Some(64 << 20));
    boots(&engine, "packed", "boot C");
    engine.berth(["vm", "reset", "one"]).success();
    wait_for_text(&engine, "one", "boot C", 1);

    engine.berth(["vm", "create", "--disk", "size=1M", "--disk", "size=1M", "-m", "64m", "both"]).success();
    let refused = engine.berth(["vm", "export", "-o", &qcow2, "both"]).failure(1);
    assert!(refused.contains("disk0, disk1") && refused.contains("--format ova"), "{refused}");
    engine.berth(["vm", "export", "-o", &qcow2, "--disk", "disk1", "both"]).success();
    engine.berth(["vm", "export", "-o", &qcow2, "--disk", "disk7", "both"]).failure(1);
    engine.berth(["vm", "export", "-o", &qcow2, "--format", "iso", "one"]).failure(1);
    clear(&engine);
}

#[test]
fn a_flattened_machine_stands_on_nothing() {
    let Some(mut engine) = with_qemu_img("vm-flat") else { return };
    let raw: PathBuf = disk(&engine);
    create(&engine, raw.to_str().unwrap(), "one");
    boots(&engine, "one", "boot A");
    engine.berth(["vm", "clone", "one", "linked"]).success();
    engine.berth(["vm", "clone", "--full", "one", "whole"]).success();
    engine.berth(["vm", "start", "one"]).success();
    wait_for_text(&engine, "one", "boot B", 1);
    engine.berth(["vm", "snapshot", "one", "at-b"]).success();
    // Running: QEMU draws it together, and does not lose a write.
    engine.berth(["vm", "flatten", "one"]).success();
    assert!(view(&engine, "one")["disks"][0]["base"].is_null());
    engine.berth(["vm", "reset", "one"]).success();
    wait_for_text(&engine, "one", "boot C", 1);
    engine.restart_after_kill();
    engine.berth(["vm", "restart", "-t", "0", "one"]).success();
    wait_for_text(&engine, "one", "boot D", 1);
    engine.berth(["vm", "stop", "-t", "0", "one"]).success();
    engine.berth(["vm", "revert", "one", "at-b"]).success();
    boots(&engine, "one", "boot C");
    engine.berth(["vm", "rm", "one"]).success();
    boots(&engine, "linked", "boot B");
    engine.berth(["vm", "flatten", "linked"]).success();
    boots(&engine, "linked", "boot C");
    engine.berth(["vm", "rm", "linked"]).success();
    // One base of its own, and nobody else's.
    boots(&engine, "whole", "boot B");
    assert_eq!(bases(&engine), 1);
    clear(&engine);
}
