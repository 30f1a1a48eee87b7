use super::*;
use crate::pack::{pack, pack_content};
use berth_types::mount::Rootfs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

struct Place {
    _folder: tempfile::TempDir,
    outside: PathBuf,
    root: Root,
    inside: PathBuf,
}

/// A container's root with a folder beside it that nobody may reach.
fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("root"), folder.path().join("host"));
    std::fs::create_dir_all(inside.join("data")).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("secret"), "untouched").unwrap();
    let root = Root::stopped(&Rootfs::Directory { path: inside.clone() }, &[], false).unwrap();
    Place { _folder: folder, outside, root, inside }
}

enum Kind<'a> {
    File(&'a str),
    Folder,
    Link(&'a str),
    Hard(&'a str),
}

fn archive(entries: &[(&str, Kind<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o640);
        let (typ, data, target) = match kind {
            Kind::File(text) => (tar::EntryType::Regular, *text, ""),
            Kind::Folder => (tar::EntryType::Directory, "", ""),
            Kind::Link(target) => (tar::EntryType::Symlink, "", *target),
            Kind::Hard(target) => (tar::EntryType::Link, "", *target),
        };
        header.set_entry_type(typ);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn put(place: &Place, to: &str, entries: &[(&str, Kind<'_>)]) -> Result<(), UnpackError> {
    let folder = place.root.find(Path::new(to)).unwrap();
    let owner = std::fs::metadata(&place.inside).unwrap();
    let options = UnpackOptions { owner: Some((owner.uid(), owner.gid())), ..UnpackOptions::default() };
    unpack(&place.root, &folder, &archive(entries)[..], options)
}

fn untouched(place: &Place) {
    let names: Vec<_> = std::fs::read_dir(&place.outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(std::fs::read_to_string(place.outside.join("secret")).unwrap(), "untouched");
}

#[test]
fn names_that_leave_the_destination_are_refused() {
    let place = place();
    for name in ["../x", "a/../../x", "../../host/secret"] {
        assert!(matches!(put(&place, "/data", &[(name, Kind::File("evil"))]), Err(UnpackError::Leaves(_))), "{name}");
    }
    // An absolute name is below the destination, like Docker's.
    put(&place, "/data", &[("/host/secret", Kind::File("mine"))]).unwrap();
    assert_eq!(std::fs::read_to_string(place.inside.join("data/host/secret")).unwrap(), "mine");
    untouched(&place);
}

#[test]
fn a_link_in_the_archive_leads_nowhere_outside() {
    let place = place();
    let host = place.outside.to_str().unwrap().to_owned();
    let entries = [("out", Kind::Link(host.as_str())), ("out/secret", Kind::File("evil"))];
    // Followed inside of the root, where that path does not exist: made below it or refused, never outside.
    put(&place, "/data", &entries).ok();
    let up = [("up", Kind::Link("../../host")), ("up/secret", Kind::File("evil")), ("up/new", Kind::File("evil"))];
    put(&place, "/data", &up).ok();
    let hard = [("hard", Kind::Hard("../../host/secret"))];
    assert!(put(&place, "/data", &hard).is_err());
    untouched(&place);
}

#[test]
fn a_link_of_the_container_leads_nowhere_outside() {
    let place = place();
    symlink(&place.outside, place.inside.join("data/out")).unwrap();
    symlink("../../host", place.inside.join("data/up")).unwrap();
    put(&place, "/data", &[("out/secret", Kind::File("evil"))]).ok();
    put(&place, "/data", &[("up/secret", Kind::File("evil"))]).ok();
    // A link at the end is replaced, not written through.
    put(&place, "/data", &[("up", Kind::File("mine"))]).unwrap();
    assert!(std::fs::symlink_metadata(place.inside.join("data/up")).unwrap().is_file());
    untouched(&place);
}

#[test]
fn a_link_swapped_in_while_we_unpack_leads_nowhere_outside() {
    let place = place();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (victim, aside) = (place.inside.join("data/dir"), place.inside.join("data/aside"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::create_dir_all(&victim).ok();
                std::fs::rename(&victim, &aside).ok();
                symlink(&place.outside, &victim).ok();
                std::fs::remove_file(&victim).ok();
                std::fs::remove_dir_all(&aside).ok();
            }
        });
        for _ in 0..500 {
            put(
                &place,
                "/data",
                &[("dir", Kind::Folder), ("dir/secret", Kind::File("evil")), ("dir/new", Kind::File("x"))],
            )
            .ok();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    untouched(&place);
}

#[test]
fn folders_and_files_replace_each_other_only_where_allowed() {
    let place = place();
    put(&place, "/data", &[("a", Kind::File("x")), ("b", Kind::Folder), ("b/c", Kind::File("y"))]).unwrap();
    let folder = place.root.find(Path::new("/data")).unwrap();
    let strict = UnpackOptions { no_overwrite_dir_non_dir: true, owner: Some((0, 0)) };
    let file_by_folder = archive(&[("a", Kind::Folder)]);
    assert!(matches!(unpack(&place.root, &folder, &file_by_folder[..], strict), Err(UnpackError::FileByFolder(..))));
    let folder_by_file = archive(&[("b", Kind::File("z"))]);
    assert!(matches!(unpack(&place.root, &folder, &folder_by_file[..], strict), Err(UnpackError::FolderByFile(..))));
    put(&place, "/data", &[("b", Kind::File("z"))]).unwrap();
    assert_eq!(std::fs::read_to_string(place.inside.join("data/b")).unwrap(), "z");
}

/// CVE-2017-14992, through `cp`.
#[test]
fn what_an_archive_says_is_zeros_takes_no_disk() {
    const ZEROS: usize = 8 << 20;
    let place = place();
    let zeros = "\0".repeat(ZEROS);
    for (name, text) in [("end", zeros.clone()), ("middle", format!("a{zeros}b"))] {
        put(&place, "/data", &[(name, Kind::File(&text))]).unwrap();
        let path = place.inside.join("data").join(name);
        let blocks = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(blocks < ZEROS as u64 / 8, "{name}: {blocks} bytes on the disk");
        assert!(std::fs::read(&path).unwrap() == text.as_bytes(), "{name}: another content");
    }
}

#[test]
fn a_truncated_archive_is_an_error() {
    let place = place();
    let whole = archive(&[("a", Kind::File(&"x".repeat(5000)))]);
    let folder = place.root.find(Path::new("/data")).unwrap();
    let cut = &whole[..2000];
    assert!(unpack(&place.root, &folder, cut, UnpackOptions::default()).is_err());
    assert!(
        unpack(&place.root, &folder, &b"not an archive at all, not even nearly"[..], UnpackOptions::default()).is_err()
    );
}

#[test]
fn what_is_packed_is_unpacked_the_same() {
    let place = place();
    let long = format!("data/{}/{}", "d".repeat(120), "f".repeat(200));
    std::fs::create_dir_all(place.inside.join(&long).parent().unwrap()).unwrap();
    std::fs::write(place.inside.join(&long), "long").unwrap();
    std::fs::write(place.inside.join("data/tool"), "#!").unwrap();
    std::fs::set_permissions(place.inside.join("data/tool"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::hard_link(place.inside.join("data/tool"), place.inside.join("data/same")).unwrap();
    symlink("/etc/passwd", place.inside.join("data/link")).unwrap();

    let mut bytes = Vec::new();
    let found = place.root.find(Path::new("/data")).unwrap();
    pack(&place.root, &found, OsStr::new("data"), &mut bytes).unwrap();
    let other = self::place();
    let top = other.root.find(Path::new("/")).unwrap();
    unpack(&other.root, &top, &bytes[..], UnpackOptions::default()).unwrap();
    let meta = |name: &str| std::fs::symlink_metadata(other.inside.join(name)).unwrap();
    assert_eq!(std::fs::read_to_string(other.inside.join(&long)).unwrap(), "long");
    assert_eq!(meta("data/tool").mode() & 0o7777, 0o4755);
    assert_eq!(meta("data/tool").ino(), meta("data/same").ino());
    assert_eq!(std::fs::read_link(other.inside.join("data/link")).unwrap(), Path::new("/etc/passwd"));

    let mut again = Vec::new();
    pack_content(&place.root, &place.root.find(Path::new("/")).unwrap(), &mut again).unwrap();
    let names: Vec<_> = tar::Archive::new(&again[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().into_owned())
        .collect();
    assert_eq!(names[0], Path::new("data/"));
}
