//! `save` and `load`: what goes in comes out, and hostile archives leave nothing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test program; clippy knows only #[test] functions as tests"
)]

use berth_image::{LayerArchive, LoadError, Loaded, ToSave, adopt_changes, load, save, unpack, unpack_changes};
use berth_snapshot::{LayerForm, OverlayDriver, Snapshotter};
use berth_types::Digest;
use sha2::Digest as _;
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

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(sha2::Sha256::digest(bytes).into())
}

/// A tar file of names and contents; a name that ends in `@` is a link to its content.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(0);
        match name.strip_suffix('@') {
            Some(name) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, name, std::str::from_utf8(bytes).unwrap()).unwrap();
            }
            None => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, name, *bytes).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer).to_string()).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": ids },
    }))
    .unwrap()
}

impl Place {
    fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>, LoadError> {
        load(&self.driver, archive, None, &|_| ())
    }

    fn layers(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("layers")).unwrap().count()
    }

    fn fs(&self, layer: &Digest) -> PathBuf {
        self.folder.path().join("layers").join(layer.hex()).join("fs")
    }
}

#[test]
fn images_survive_the_way_through_an_archive_into_another_store() {
    // From layers of one form to those of the other.
    let (Some(here), Some(there)) = (place(), place_of(LayerForm::Image)) else { return };
    let (a, b) = (tar(&[("etc/a", b"one")]), tar(&[("etc/b", b"two"), ("etc/.wh.a", b"")]));
    for layer in [&a, &b] {
        let unpacked = unpack(&here.driver, &layer[..], None).unwrap();
        here.driver.commit_layers(vec![unpacked.layer]).unwrap();
    }
    let (first, second) = (config(&[&a]), config(&[&a, &b]));
    let images = [
        ToSave {
            config: first.clone(),
            layers: vec![digest(&a)],
            names: vec!["base:1".parse().unwrap(), "base:latest".parse().unwrap()],
            parent: None,
        },
        ToSave {
            config: second.clone(),
            layers: vec![digest(&a), digest(&b)],
            names: vec!["example.org/team/app:2".parse().unwrap()],
            parent: Some(digest(&first)),
        },
    ];
    let mut archive = Vec::new();
    save(&here.driver, &images, &mut archive).unwrap();
    let mut again = Vec::new();
    save(&here.driver, &images, &mut again).unwrap();
    assert!(archive == again, "the same images give the same bytes");

    let loaded = there.load(&archive).unwrap();
    let names = |image: &Loaded| image.names.iter().map(|name| name.familiar()).collect::<Vec<_>>();
    assert_eq!((loaded[0].id, names(&loaded[0])), (digest(&first), vec!["base:1".into(), "base:latest".into()]));
    assert_eq!((loaded[1].id, names(&loaded[1])), (digest(&second), vec!["example.org/team/app:2".into()]));
    assert_eq!(loaded[1].parent, Some(digest(&first)));
    assert_eq!(loaded[1].layers, [digest(&a), digest(&b)]);
    let mut content = [0; 8];
    let file = there.driver.open_layer(&digest(&b)).unwrap().open(b"etc/b", None).unwrap();
    let length = file.read_at(&mut content, 0).unwrap();
    assert_eq!(&content[..length], b"two");
    assert_eq!(there.layers(), 2);
    // Loaded again, and only as an OCI layout: the same images.
    let oci = without(&archive, &["manifest.json", "repositories"]);
    let loaded = there.load(&oci).unwrap();
    assert_eq!(loaded.iter().map(|image| image.id).collect::<Vec<_>>(), [digest(&first), digest(&second)]);
    assert_eq!(names(&loaded[0]), ["base:1", "base:latest"]);
    assert_eq!(there.layers(), 2);
}

/// The archive without some of its files.
fn without(archive: &[u8], names: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if !names.iter().any(|name| path == Path::new(name)) {
            let header = entry.header().clone();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            builder.append(&header, &bytes[..]).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

#[test]
fn old_layouts_links_and_compressed_layers_are_read() {
    for place in places() {
        let layer = tar(&[("f", b"content")]);
        let config = config(&[&layer, &layer]);
        let id = digest(&config).hex();
        let name = format!("{id}.json");
        let packed = zstd::encode_all(&layer[..], 1).unwrap();
        let manifest = format!(r#"[{{"Config":"{name}","RepoTags":null,"Layers":["1/layer.tar","2/layer.tar"]}}]"#);
        let archive = tar(&[
            ("1/VERSION", b"1.0"),
            ("1/json", b"{}"),
            ("1/layer.tar", &packed),
            ("2/layer.tar@", b"../1/layer.tar"),
            (&name, &config),
            ("manifest.json", manifest.as_bytes()),
        ]);
        let loaded = place.load(&archive).unwrap();
        assert_eq!((loaded[0].id.hex(), loaded[0].names.len(), loaded[0].layers.len()), (id, 0, 2));
        assert_eq!(place.layers(), 1);
        // And the whole archive compressed.
        let loaded = place.load(&zstd::encode_all(&archive[..], 1).unwrap()).unwrap();
        assert_eq!(loaded.len(), 1);
    }
}

#[test]
fn of_an_index_with_several_platforms_the_wanted_one_is_loaded() {
    let Some(place) = place() else { return };
    let layer = tar(&[("f", b"content")]);
    let packed = zstd::encode_all(&layer[..], 1).unwrap();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digest(bytes).hex());
    let descriptor = |kind: &str, bytes: &[u8]| {
        serde_json::json!({ "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest(bytes).to_string(), "size": bytes.len() })
    };
    let mut files: Vec<(String, Vec<u8>)> = vec![(blob(&packed), packed.clone())];
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let config = String::from_utf8(config(&[&layer])).unwrap().replace("amd64", architecture).into_bytes();
        let manifest = serde_json::to_vec(&serde_json::json!({ "schemaVersion": 2,
            "config": descriptor("config.v1+json", &config),
            "layers": [descriptor("layer.v1.tar+zstd", &packed)] }))
        .unwrap();
        let mut one = descriptor("manifest.v1+json", &manifest);
        one["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        manifests.push(one);
        files.extend([(blob(&config), config), (blob(&manifest), manifest)]);
    }
    let inner = serde_json::to_vec(&serde_json::json!({ "schemaVersion": 2, "manifests": manifests })).unwrap();
    let mut outer = descriptor("index.v1+json", &inner);
    outer["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "multi:1" });
    let index = serde_json::to_vec(&serde_json::json!({ "schemaVersion": 2, "manifests": [outer] })).unwrap();
    files.extend([(blob(&inner), inner), ("index.json".to_owned(), index)]);
    let archive = tar(&files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect::<Vec<_>>());
    for architecture in ["amd64", "arm64"] {
        let loaded = load(&place.driver, &archive[..], Some(&format!("linux/{architecture}")), &|_| ()).unwrap();
        assert_eq!(loaded.len(), 1);
        assert!(String::from_utf8_lossy(&loaded[0].config).contains(architecture));
        assert_eq!(loaded[0].names[0].familiar(), "multi:1");
    }
    let none = load(&place.driver, &archive[..], Some("linux/s390x"), &|_| ());
    assert!(matches!(none, Err(LoadError::Platform(_))), "{none:?}");
}

/// A layer with a name that leaves it.
fn leaving() -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..7].copy_from_slice(b"../evil");
    header.set_size(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn hostile_archives_are_refused_and_leave_no_layer() {
    for place in places() {
        let layer = tar(&[("f", b"content")]);
        let good = config(&[&layer]);
        let lies = config(&[b"another layer"]);
        let manifest = |text: &str| text.replace('\'', "\"").into_bytes();
        let one = "[{'Config':'c.json','RepoTags':['a:1'],'Layers':['l']}]";
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
        let blob = format!("blobs/sha256/{}", digest(b"something else").hex());
        let link_loop: &[(&str, &[u8])] =
            &[("l@", b"m"), ("m@", b"l"), ("c.json", &good), ("manifest.json", one.as_bytes())];
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("nothing", Vec::new()),
            ("an empty archive", tar(&[])),
            ("no index", tar(&[("l", &layer)])),
            ("no archive at all", b"#!/bin/sh\necho hello\n".repeat(100)),
            ("a layer that is missing", tar(&[("c.json", &good), ("manifest.json", &manifest(one))])),
            ("a configuration that is missing", tar(&[("l", &layer), ("manifest.json", &manifest(one))])),
            ("another diff id", tar(&[("l", &layer), ("c.json", &lies), ("manifest.json", &manifest(one))])),
            (
                "too few layers",
                tar(&[
                    ("l", &layer),
                    ("c.json", &good),
                    ("manifest.json", &manifest("[{'Config':'c.json','RepoTags':['a:1'],'Layers':[]}]")),
                ]),
            ),
            ("null", tar(&[("l", &layer), ("manifest.json", b"null")])),
            ("no JSON", tar(&[("l", &layer), ("manifest.json", b"{{{{")])),
            ("another type", tar(&[("l", &layer), ("manifest.json", b"{\"a\":1}")])),
            ("deeply nested JSON", tar(&[("l", &layer), ("manifest.json", &deep)])),
            (
                "a bad tag",
                tar(&[
                    ("l", &layer),
                    ("c.json", &good),
                    ("manifest.json", &manifest("[{'Config':'c.json','RepoTags':['../../x y'],'Layers':['l']}]")),
                ]),
            ),
            (
                "a configuration outside",
                tar(&[
                    ("l", &layer),
                    ("manifest.json", &manifest("[{'Config':'../../../etc/passwd','RepoTags':null,'Layers':['l']}]")),
                ]),
            ),
            ("links in a circle", tar(link_loop)),
            ("a link that leaves", tar(&[("x@", b"../../etc/passwd"), ("l", &layer), ("manifest.json", b"[]")])),
            ("a blob with another digest", tar(&[(&blob, &layer), ("c.json", &good), ("manifest.json", b"[]")])),
            (
                "a compressed blob with another digest",
                tar(&[(&blob, &zstd::encode_all(&layer[..], 1).unwrap()), ("manifest.json", b"[]")]),
            ),
            (
                "a configuration for another system",
                tar(&[
                    ("l", &layer),
                    ("c.json", &String::from_utf8_lossy(&good).replace("linux", "plan9").into_bytes()),
                    ("manifest.json", &manifest(one)),
                ]),
            ),
            (
                "an index without its blobs",
                tar(&[(
                    "index.json",
                    &manifest(&format!(
                        "{{'schemaVersion':2,'manifests':[{{'mediaType':'x','digest':'{}','size':1}}]}}",
                        digest(b"x")
                    )),
                )]),
            ),
            ("a layer that is hostile", tar(&[("l", &leaving()), ("manifest.json", b"[]")])),
        ];
        for (what, archive) in cases {
            let loaded = place.load(&archive);
            let Err(error) = loaded else { panic!("{what}: loaded {loaded:?}") };
            assert!(error.is_archive(), "{what}: {error}");
            assert_eq!(place.layers(), 0, "{what}");
            // The same cut off anywhere is an error too, never a panic.
            for cut in (0..archive.len()).step_by(1 + archive.len() / 7) {
                assert!(place.load(&archive[..cut]).is_err(), "{what} cut at {cut}");
            }
            assert_eq!(place.layers(), 0, "{what}");
        }
    }
}

/// Writes all that the upper folder of an overlay can hold.
fn fill(upper: &Path) -> std::os::unix::net::UnixListener {
    let script = "mkdir -p d/sub opaque; echo new >d/f; ln d/f d/g; ln -s f d/l; mknod gone c 0 0; mkfifo p
        mknod null c 1 3; truncate -s 3M hole; echo x >>hole; chmod 2755 d; chown 5:6 d/f; mkdir etc; : >etc/hosts
        long=$(printf 'n%.0s' $(seq 150)); echo long >$long; ln -s $long$long way";
    let made = std::process::Command::new("sh").arg("-ec").arg(script).current_dir(upper).status().unwrap();
    assert!(made.success());
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::setxattr(upper.join(name), key, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("opaque", "trusted.overlay.opaque", b"y");
    set("d/f", "trusted.overlay.origin", b"x");
    set(
        "d/f",
        "security.capability",
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    );
    std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap()
}

#[test]
fn changes_of_a_container_become_a_layer() {
    let Some(place) = place() else { return };
    let upper = tempfile::tempdir().unwrap();
    let _socket = fill(upper.path());
    let leave_out = |path: &Path| path == Path::new("/etc/hosts");
    let made = unpack_changes(&place.driver, upper.path(), &leave_out).unwrap().unwrap();
    let id = made.diff_id;
    place.driver.commit_layers(vec![made.layer]).unwrap();
    let again = unpack_changes(&place.driver, upper.path(), &leave_out).unwrap().unwrap();
    assert_eq!(again.diff_id, id, "the same changes are the same layer");

    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let fs = place.fs(&id);
    let meta = |name: &str| std::fs::symlink_metadata(fs.join(name)).unwrap();
    assert_eq!(std::fs::read_to_string(fs.join("d/g")).unwrap(), "new\n");
    assert_eq!(meta("d/f").ino(), meta("d/g").ino());
    assert_eq!((meta("d").mode() & 0o7777, meta("d/f").uid(), meta("d/f").gid()), (0o2755, 5, 6));
    assert!(meta("gone").file_type().is_char_device() && meta("gone").rdev() == 0);
    assert!(meta("p").file_type().is_fifo() && !fs.join("socket").exists() && !fs.join("etc/hosts").exists());
    assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(meta("hole").len(), (3 << 20) + 2);
    assert!(meta("hole").blocks() < 64);
    assert_eq!(std::fs::read_link(fs.join("way")).unwrap().as_os_str().len(), 300);
    let xattr = |name: &str, key: &str| rustix::fs::getxattr(fs.join(name), key, &mut [0; 64][..]).is_ok();
    assert!(xattr("opaque", "trusted.overlay.opaque"));
    assert!(xattr("d/f", "security.capability"));
    assert!(!xattr("d/f", "trusted.overlay.origin"));

    let empty = tempfile::tempdir().unwrap();
    assert!(unpack_changes(&place.driver, empty.path(), &|_| false).unwrap().is_none());
}

#[test]
fn what_a_snapshot_has_becomes_the_same_layer_by_a_rename() {
    use std::os::unix::fs::MetadataExt;
    let Some(place) = place() else { return };
    place.driver.prepare("step", &[]).unwrap();
    let upper = place.folder.path().join("snapshots/step/fs");
    let _socket = fill(&upper);
    std::fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let copied = unpack_changes(&place.driver, &upper, &|_| false).unwrap().unwrap();
    let inode = std::fs::metadata(upper.join("d/f")).unwrap().ino();
    let moved = adopt_changes(&place.driver, "step").unwrap().unwrap();
    assert_eq!((moved.diff_id, moved.archive_bytes), (copied.diff_id, copied.archive_bytes));
    drop(copied);
    let id = moved.diff_id;
    place.driver.commit_layers(vec![moved.layer]).unwrap();
    let fs = place.fs(&id);
    let meta = |name: &str| std::fs::symlink_metadata(fs.join(name)).unwrap();
    assert_eq!(meta("d/f").ino(), inode, "moved, not copied");
    assert_eq!((meta("").mode() & 0o777, meta("d/f").mtime_nsec(), meta("etc").mtime_nsec()), (0o755, 0, 0));
    assert!(!fs.join("socket").exists() && fs.join("etc/hosts").exists());
    assert!(meta("hole").blocks() < 64);
    let mut archive = LayerArchive::open(&id, place.driver.open_layer(&id).unwrap()).unwrap();
    let mut bytes = Vec::new();
    // Compared with the digest at its end.
    archive.read_to_end(&mut bytes).unwrap();
    assert_eq!(archive.length(), bytes.len() as u64);
    // Of the snapshot the name is left; a second time there is nothing to take.
    assert!(adopt_changes(&place.driver, "step").is_err());
    place.driver.remove("step").unwrap();
    place.driver.prepare("empty", &[id]).unwrap();
    assert!(adopt_changes(&place.driver, "empty").unwrap().is_none());
    place.driver.remove("empty").unwrap();
    assert_eq!(std::fs::read_dir(place.folder.path().join("layers")).unwrap().count(), 1);
}
