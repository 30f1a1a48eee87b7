//! Archives become layers and archives again.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program; clippy knows only #[test] functions as tests"
)]

use berth_image::{LayerArchive, UnpackError, unpack};
use berth_snapshot::{LayerForm, OverlayDriver, Snapshotter};
use berth_types::Digest;
use std::io::Read;
use std::path::{Path, PathBuf};

struct Place {
    folder: tempfile::TempDir,
    driver: OverlayDriver,
}

fn place_of(form: LayerForm) -> Option<Place> {
    if !berth_snapshot::checks::can_run() {
        eprintln!("skipped: needs root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = OverlayDriver::open(folder.path(), form).unwrap();
    Some(Place { folder, driver })
}

fn place() -> Option<Place> {
    place_of(LayerForm::Folder)
}

/// One for each form of layers.
fn places() -> impl Iterator<Item = Place> {
    [LayerForm::Folder, LayerForm::Image].into_iter().filter_map(place_of)
}

impl Place {
    fn fs(&self, id: &Digest) -> PathBuf {
        self.folder.path().join("layers").join(id.hex()).join("fs")
    }

    fn unpack(&self, archive: &[u8]) -> Result<Digest, UnpackError> {
        let unpacked = unpack(&self.driver, archive, None)?;
        let id = unpacked.diff_id;
        self.driver.commit_layers(vec![unpacked.layer]).unwrap();
        Ok(id)
    }

    fn again(&self, id: &Digest) -> Vec<u8> {
        let mut archive = LayerArchive::open(id, self.driver.open_layer(id).unwrap()).unwrap();
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).unwrap();
        assert_eq!(archive.length(), bytes.len() as u64);
        // Whatever it is, it is as it should be.
        self.check(id).unwrap();
        bytes
    }

    fn check(&self, id: &Digest) -> Result<u64, berth_image::RecordError> {
        berth_image::check(id, self.driver.open_layer(id).unwrap())
    }

    fn is_empty(&self) -> bool {
        let names = std::fs::read_dir(self.folder.path().join("layers")).unwrap();
        names.count() == 0
    }
}

/// What GNU tar makes of a shell script's folder.
fn tar_of(script: &str, options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("sh").arg("-ec").arg(script).current_dir(folder.path()).status().unwrap();
    assert!(made.success());
    let file = folder.path().join("a/f");
    if file.exists() {
        // Not every scratch folder's file system has them.
        rustix::fs::setxattr(&file, "user.k", b"v", rustix::fs::XattrFlags::empty()).ok();
    }
    let output = std::process::Command::new("tar")
        .args(options)
        .args(["-cf", "-", "-C"])
        .arg(folder.path())
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const SCRIPT: &str = "mkdir -p a/b; echo one >a/f; ln a/f a/b/g; ln -s ../f a/b/l; mkfifo p; mknod null c 1 3
    long=$(printf 'n%.0s' $(seq 200)); mkdir -p $long/$long; echo deep >$long/$long/file; ln -s $long/$long/file link
    truncate -s 5M sparse; echo x | dd of=sparse bs=1 seek=3000000 conv=notrunc 2>/dev/null
    head -c 700000 /dev/urandom >random; chmod 4755 a/f; chown 33:44 a/b; : >empty";

#[test]
fn every_kind_of_archive_comes_back_bit_for_bit() {
    for place in places() {
        for format in ["gnu", "pax", "ustar-like", "sparse-old", "sparse-0.0", "sparse-0.1", "sparse-1.0"] {
            let options: Vec<&str> = match format {
                "gnu" => vec!["--format=gnu"],
                "pax" => vec!["--format=pax", "--xattrs"],
                "ustar-like" => vec!["--format=oldgnu"],
                "sparse-old" => vec!["--format=gnu", "--sparse"],
                "sparse-0.0" => vec!["--format=pax", "--sparse", "--sparse-version=0.0"],
                "sparse-0.1" => vec!["--format=pax", "--sparse", "--sparse-version=0.1"],
                _ => vec!["--format=pax", "--sparse", "--sparse-version=1.0"],
            };
            let archive = tar_of(SCRIPT, &options);
            let id = place.unpack(&archive).unwrap_or_else(|error| panic!("{format}: {error}"));
            assert!(place.again(&id) == archive, "{format}");
            let fs = place.fs(&id);
            if !fs.exists() {
                // An image, whose files berth-snapshot's tests compare with a folder's.
                continue;
            }
            use std::os::unix::fs::MetadataExt;
            let meta = |name: &str| std::fs::symlink_metadata(fs.join(name)).unwrap();
            assert_eq!(meta("a/f").mode() & 0o7777, 0o4755, "{format}");
            assert_eq!(meta("a/f").ino(), meta("a/b/g").ino(), "{format}");
            assert_eq!((meta("a/b").uid(), meta("a/b").gid()), (33, 44), "{format}");
            assert_eq!(meta("sparse").len(), 5 << 20, "{format}");
            assert!(meta("sparse").blocks() < 64, "{format}");
            let sparse = std::fs::read(fs.join("sparse")).unwrap();
            assert_eq!(sparse.iter().position(|&byte| byte != 0), Some(3_000_000), "{format}");
            assert_eq!(std::fs::read_to_string(fs.join("link")).unwrap(), "deep\n", "{format}");
            drop(place.driver.remove_layer(&id).unwrap());
        }
    }
}

#[test]
fn compressed_archives_have_the_digest_of_what_is_in_them() {
    for place in places() {
        let plain = tar_of("mkdir d; seq 100000 >d/f", &[]);
        let id = place.unpack(&plain).unwrap();
        for program in [&["gzip"][..], &["zstd", "-q"], &["bzip2"], &["xz"]] {
            let path = place.folder.path().join("plain");
            std::fs::write(&path, &plain).unwrap();
            let output = std::process::Command::new(program[0]).args(&program[1..]).arg("-c").arg(&path).output();
            let Ok(output) = output else {
                eprintln!("skipped: there is no {}", program[0]);
                continue;
            };
            let packed = output.stdout;
            assert_eq!(unpack(&place.driver, &packed[..], Some(&id)).unwrap().diff_id, id, "{program:?}");
            // Two members one after the other are one stream; cut off, it is an error.
            let cut = unpack(&place.driver, &packed[..packed.len() / 2], None);
            assert!(cut.is_err_and(|error| error.is_archive()), "{program:?}");
        }
        let wrong = unpack(&place.driver, &plain[..], Some(&Digest::from_bytes([1; 32])));
        assert!(matches!(wrong, Err(UnpackError::Digest { .. })));
    }
}

#[test]
fn entries_that_replace_one_another_come_back_too() {
    for place in places() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |kind: tar::EntryType, name: &str, link: &str, text: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(text.len() as u64);
            header.set_mode(0o755);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name(link).unwrap();
            }
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        };
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        add(Regular, "a", "", "first");
        add(Regular, "a", "", "second, longer");
        add(Directory, "d/", "", "");
        add(Regular, "d/in", "", "in a folder");
        add(Regular, "d/deep/er", "", "deeper");
        add(Regular, "d", "", "a file now");
        add(Directory, "d/", "", "");
        add(Regular, "d/in", "", "again");
        add(Regular, "l", "", "content");
        add(Link, "m", "l", "");
        add(Symlink, "l", "m", "");
        add(Regular, ".wh.m", "", "");
        add(Directory, "real/", "", "");
        add(Symlink, "link", "real", "");
        add(Regular, "link/f", "", "through a link");
        let archive = builder.into_inner().unwrap();
        let id = place.unpack(&archive).unwrap();
        assert!(place.again(&id) == archive);
        let reader = place.driver.open_layer(&id).unwrap();
        let text = |name: &str| {
            let mut buffer = [0; 64];
            let count = reader.open(name.as_bytes(), None).unwrap().read_at(&mut buffer, 0).unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        };
        assert_eq!(text("a"), "second, longer");
        assert_eq!(text("d/in"), "again");
        assert_eq!(text("real/f"), "through a link");
    }
}

#[test]
fn a_damaged_layer_is_noticed_when_its_archive_is_made_again() {
    let Some(place) = place() else { return };
    let archive = tar_of("seq 1000 >f", &[]);
    let id = place.unpack(&archive).unwrap();
    let check = || berth_image::check(&id, place.driver.open_layer(&id).unwrap());
    assert_eq!(check().unwrap(), archive.len() as u64);
    std::fs::write(place.fs(&id).join("f"), "x".repeat(3893)).unwrap();
    assert!(matches!(check(), Err(berth_image::RecordError::Digest { .. })));
    let read = |id| {
        let mut again = LayerArchive::open(id, place.driver.open_layer(id).unwrap()).unwrap();
        again.read_to_end(&mut Vec::new())
    };
    let error = read(&id).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    std::fs::write(place.fs(&id).join("f"), "short").unwrap();
    let error = read(&id).unwrap_err().to_string();
    assert!(error.contains("f cannot be read whole"), "{error}");
    assert!(matches!(check(), Err(berth_image::RecordError::File { .. })));
}

/// Names, owners, rights, times and links of a layer that is a folder.
#[test]
fn what_is_said_of_files_is_compared_with_the_archive_too() {
    let Some(place) = place() else { return };
    let script =
        "mkdir -p a/b c; seq 9 >a/b/f; ln -s b/f a/l; ln a/b/f a/h; mkfifo a/p; touch -d @1000 a/b; chmod 1777 c";
    let id = place.unpack(&tar_of(script, &[])).unwrap();
    place.check(&id).unwrap();
    let fs = place.fs(&id);
    let shell = |script: &str| {
        let made = std::process::Command::new("sh").arg("-ec").arg(script).current_dir(&fs).status().unwrap();
        assert!(made.success(), "{script}");
    };
    // None of them changes the time of a folder, or it is put back.
    for (harm, undo, words) in [
        ("chmod 600 a/b/f", "chmod 644 a/b/f", "a/b/f has other rights"),
        ("chown 7 a/h", "chown 0 a/h", "a/b/f has another owner"),
        ("chmod 755 c", "chmod 1777 c", "c has other rights"),
        ("touch -d @5 a/b", "touch -d @1000 a/b", "a/b has another time"),
        ("chown -h 7 a/l", "chown -h 0 a/l", "a/l has another owner"),
        ("touch a/b/new; touch -d @1000 a/b", "rm a/b/new; touch -d @1000 a/b", "a/b/new is not part of it"),
    ] {
        shell(harm);
        let error = place.check(&id).unwrap_err().to_string();
        assert!(error.ends_with(words), "{harm}: {error}");
        shell(undo);
        place.check(&id).unwrap();
    }
    shell("ln -sfn elsewhere a/l");
    assert!(place.check(&id).is_err());
}

/// A byte of an inode of an image.
#[test]
fn a_flipped_byte_that_is_no_content_is_found_in_an_image() {
    let Some(place) = place_of(LayerForm::Image) else { return };
    let id = place.unpack(&tar_of("seq 9 >f; chown 4242:7 f; ln -s where-it-leads l", &[])).unwrap();
    place.check(&id).unwrap();
    let file = place.folder.path().join("layers").join(id.hex()).join("image.erofs");
    let right = std::fs::read(&file).unwrap();
    for (bytes, words) in
        [(&4242_u32.to_le_bytes()[..], "f has another owner"), (b"where-it-leads", "l leads elsewhere")]
    {
        let mut wrong = right.clone();
        let at = right.windows(bytes.len()).position(|part| part == bytes).unwrap();
        wrong[at] ^= 1;
        std::fs::write(&file, &wrong).unwrap();
        let error = place.check(&id).unwrap_err().to_string();
        assert!(error.ends_with(words), "{error}");
    }
    std::fs::write(&file, &right).unwrap();
    place.check(&id).unwrap();
}

type Forge = fn(&mut tar::Builder<Vec<u8>>);

fn put(builder: &mut tar::Builder<Vec<u8>>, kind: u8, name: &[u8], link: &[u8], text: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    builder.append(&header, text).unwrap();
}

/// Archives that must be refused, whole: nothing of them stays, inside or outside.
#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    for place in places() {
        let cases: &[(&str, Forge)] = &[
            ("leaves by dots", |b| put(b, b'0', b"../evil", b"", b"x")),
            ("leaves in the middle", |b| put(b, b'0', b"a/../../evil", b"", b"x")),
            ("leaves by an absolute name with dots", |b| put(b, b'0', b"/../evil", b"", b"x")),
            ("a hard link to a file of the host", |b| put(b, b'1', b"passwd", b"/etc/passwd", b"")),
            ("a hard link that leaves", |b| put(b, b'1', b"passwd", b"../../../../etc/passwd", b"")),
            ("a hard link through a link that leaves", |b| {
                put(b, b'2', b"out", b"/etc", b"");
                put(b, b'1', b"passwd", b"out/passwd", b"");
            }),
            ("a file through a link that leaves", |b| {
                put(b, b'2', b"dev", b"/tmp", b"");
                put(b, b'0', b"dev/evil", b"", b"x");
            }),
            ("a file through a relative link that leaves", |b| {
                put(b, b'2', b"up", b"../../../../../tmp", b"");
                put(b, b'0', b"up/evil", b"", b"x");
            }),
            ("a file through a magic link", |b| {
                put(b, b'2', b"self", b"/proc/self/cwd", b"");
                put(b, b'0', b"self/evil", b"", b"x");
            }),
            ("a file as the top", |b| put(b, b'0', b"./", b"", b"x")),
            ("a whiteout of the parent", |b| put(b, b'0', b".wh...", b"", b"")),
            ("a whiteout of nothing", |b| put(b, b'0', b".wh.", b"", b"")),
            ("an unknown kind", |b| put(b, b'Q', b"x", b"", b"")),
            ("a file below a file", |b| {
                put(b, b'0', b"a", b"", b"x");
                put(b, b'0', b"a/b", b"", b"x");
            }),
            ("a link to nothing", |b| put(b, b'2', b"a", b"", b"")),
            ("a sparse map beyond the file", |b| {
                put(
                    b,
                    b'x',
                    b"p",
                    b"",
                    b"22 GNU.sparse.major=0\n22 GNU.sparse.minor=1\n23 GNU.sparse.size=100\n24 GNU.sparse.map=500,1\n",
                );
                put(b, b'0', b"s", b"", b"x");
            }),
            ("a pax record that lies about its length", |b| put(b, b'x', b"p", b"", b"99999999 path=x\n")),
            ("a negative size", |b| {
                put(b, b'x', b"p", b"", b"11 size=-1\n");
                put(b, b'0', b"s", b"", b"x");
            }),
            ("a size of sixteen exabytes", |b| {
                put(b, b'x', b"p", b"", b"29 size=18446744073709551615\n");
                put(b, b'0', b"s", b"", b"x");
            }),
            ("an owner that is no number of the kernel's", |b| {
                put(b, b'x', b"p", b"", b"18 uid=4294967296\n");
                put(b, b'0', b"s", b"", b"x");
            }),
        ];
        std::fs::remove_file("/tmp/evil").ok();
        for (what, forge) in cases {
            let mut builder = tar::Builder::new(Vec::new());
            put(&mut builder, b'0', b"first", b"", b"content");
            forge(&mut builder);
            let archive = builder.into_inner().unwrap();
            let error = unpack(&place.driver, &archive[..], None).map(drop).expect_err(what);
            assert!(error.is_archive(), "{what}: {error}");
            assert!(place.is_empty(), "{what}");
            for outside in
                [place.folder.path().join("evil"), place.folder.path().join("layers/evil"), "/tmp/evil".into()]
            {
                assert!(!outside.exists(), "{what}: {}", outside.display());
            }
        }
    }
}

#[test]
fn a_truncated_archive_leaves_nothing_wherever_it_is_cut() {
    for place in places() {
        let archive = tar_of("mkdir d; seq 500 >d/f; ln -s f d/l; seq 300 >g", &["--format=pax"]);
        let id = place.unpack(&archive).unwrap();
        drop(place.driver.remove_layer(&id).unwrap());
        for cut in (1..archive.len()).step_by(317) {
            // A cut between entries cannot be seen but by the digest.
            let cut_off = unpack(&place.driver, &archive[..cut], Some(&id));
            assert!(cut_off.is_err_and(|error| error.is_archive()), "{cut}");
            assert!(place.is_empty(), "{cut}");
        }
    }
}

#[test]
fn random_damage_never_panics_or_escapes() {
    for place in places() {
        let archive =
            tar_of("mkdir -p d/e; seq 50 >d/f; ln -s f d/l; ln d/f d/e/g; truncate -s 1M s", &["--format=pax", "-S"]);
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap()
        };
        for _ in 0..150 {
            let mut damaged = archive.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() % damaged.len();
                damaged[at] = random() as u8;
                // A right checksum lets the damage through to the next check.
                let block = at / 512 * 512;
                if damaged[block + 257..block + 262] == *b"ustar" {
                    let sum: u32 = (0..512)
                        .map(|n| if (148..156).contains(&n) { 32 } else { u32::from(damaged[block + n]) })
                        .sum();
                    damaged[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
            if let Ok(unpacked) = unpack(&place.driver, &damaged[..], None) {
                let id = unpacked.diff_id;
                place.driver.commit_layers(vec![unpacked.layer]).unwrap();
                assert!(place.again(&id) == damaged);
                drop(place.driver.remove_layer(&id).unwrap());
            }
            assert!(place.is_empty());
        }
    }
}

/// A tiny archive of an enormous file takes neither memory nor disk (CVE-2017-14992).
#[test]
fn a_bomb_of_zeros_becomes_a_hole() {
    let Some(place) = place() else { return };
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(1 << 27);
    header.set_mode(0o644);
    header.set_cksum();
    let packed = {
        let mut encoder = packer();
        std::io::Write::write_all(&mut encoder, header.as_bytes()).unwrap();
        std::io::copy(&mut std::io::repeat(0).take((1 << 27) + 1024), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    assert!(packed.len() < 1 << 15, "{}", packed.len());
    let unpacked = unpack(&place.driver, &packed[..], None).unwrap();
    assert!(unpacked.layer.bytes < 1 << 20, "{}", unpacked.layer.bytes);
}

fn packer() -> zstd::stream::write::Encoder<'static, Vec<u8>> {
    zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap()
}

#[test]
fn whiteouts_of_the_archive_become_overlayfs_own() {
    let Some(place) = place() else { return };
    let archive = tar_of(
        "mkdir -p d/sub; : >d/.wh.gone; : >d/sub/.wh..wh..opq; : >d/sub/new; mkdir .wh..wh.plnk; : >.wh..wh.plnk/x",
        &[],
    );
    let id = place.unpack(&archive).unwrap();
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let fs = place.fs(&id);
    let gone = std::fs::symlink_metadata(fs.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0; 4];
    let length = rustix::fs::getxattr(fs.join("d/sub"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
    let names: Vec<_> = std::fs::read_dir(&fs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["d"]);
    assert!(place.again(&id) == archive);
    assert!(Path::new(&fs).join("d/sub/new").exists());
}
