//! What every driver must do, as tests that a driver's own crate runs.
//!
//! ```ignore
//! berth_snapshot::snapshot_contract_tests!(|folder: &std::path::Path| OverlayDriver::open(folder).unwrap());
//! ```

/// Makes a test of each check for the driver that the closure opens in an empty folder.
#[macro_export]
macro_rules! snapshot_contract_tests {
    ($open:expr) => {
        $crate::snapshot_contract_tests!(@each $open;
            a_layer_is_visible_only_after_its_commit,
            an_abandoned_layer_leaves_nothing,
            content_comes_back_as_it_went_in,
            replaced_content_is_kept_for_the_archive,
            nothing_leaves_the_layer,
            links_of_the_layer_are_followed_within_it,
            a_second_name_needs_a_file_of_the_same_layer,
            the_same_layer_twice_is_one,
            what_was_written_is_adopted_as_a_layer,
            a_damaged_layer_is_put_right_where_it_lies,
            a_snapshot_answers_the_same_after_reopening,
            a_layer_that_is_there_twice_is_mounted_once,
            unknown_things_are_told_apart_from_failures);
    };
    (@each $open:expr; $($name:ident),*) => {
        $(#[test]
        fn $name() {
            if !$crate::checks::can_run() {
                eprintln!("skipped: needs root");
                return;
            }
            let folder = tempfile::tempdir().expect("a scratch folder");
            let open = $open;
            $crate::checks::$name(&|| Box::new(open(folder.path())));
        })*
    };
}

/// The checks behind [`snapshot_contract_tests!`].
pub mod checks {
    use crate::{Entry, LayerWriter, Meta, SnapshotError, Snapshotter};
    use berth_types::Digest;
    use berth_types::mount::{Lower, Rootfs};
    use bytes::Bytes;

    type Open<'a> = &'a dyn Fn() -> Box<dyn Snapshotter>;

    /// Devices and whiteouts need rights.
    pub fn can_run() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn id(byte: u8) -> Digest {
        Digest::from_bytes([byte; 32])
    }

    fn meta(mode: u32) -> Meta {
        Meta { mode, mtime_seconds: 1_000_000_000, ..Meta::default() }
    }

    fn file(writer: &mut dyn LayerWriter, path: &str, text: &'static str) -> Result<(), SnapshotError> {
        writer.entry(path.as_bytes(), Entry::File { size: text.len() as u64 }, &meta(0o644))?;
        writer.write(0, Bytes::from_static(text.as_bytes()))
    }

    fn layer(driver: &dyn Snapshotter, byte: u8, fill: impl FnOnce(&mut dyn LayerWriter)) {
        let mut writer = driver.begin_layer().expect("a layer begins");
        fill(&mut *writer);
        writer.settle().expect("it settles");
        let staged = writer.finish(id(byte)).expect("it is whole");
        driver.commit_layers(vec![staged]).expect("it is committed");
    }

    fn text(driver: &dyn Snapshotter, byte: u8, path: &str, displaced: Option<u32>) -> String {
        let reader = driver.open_layer(&id(byte)).expect("the layer is there");
        let content = reader.open(path.as_bytes(), displaced).expect("the file is there");
        let mut buffer = [0; 64];
        let count = content.read_at(&mut buffer, 0).expect("it can be read");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    pub fn a_layer_is_visible_only_after_its_commit(open: Open<'_>) {
        let driver = open();
        let mut writer = driver.begin_layer().unwrap_or_else(|error| panic!("{error}"));
        file(&mut *writer, "a", "one").expect("a file");
        writer.settle().expect("it settles");
        let staged = writer.finish(id(1)).expect("it is whole");
        assert!(driver.layers().expect("a list").is_empty());
        assert!(driver.open_layer(&id(1)).is_err());
        let bytes = staged.bytes;
        driver.commit_layers(vec![staged]).expect("it is committed");
        assert_eq!(driver.layers().expect("a list"), [id(1)]);
        assert_eq!(driver.layer_bytes(&id(1)).expect("a size"), Some(bytes));
        assert_eq!(text(&*open(), 1, "a", None), "one");
    }

    pub fn an_abandoned_layer_leaves_nothing(open: Open<'_>) {
        let driver = open();
        let mut writer = driver.begin_layer().expect("a layer begins");
        file(&mut *writer, "a/b", "one").expect("a file");
        drop(writer);
        let mut writer = driver.begin_layer().expect("a layer begins");
        file(&mut *writer, "a/b", "one").expect("a file");
        writer.settle().expect("it settles");
        drop(writer.finish(id(1)).expect("it is whole"));
        assert!(driver.layers().expect("a list").is_empty());
    }

    pub fn content_comes_back_as_it_went_in(open: Open<'_>) {
        let driver = open();
        layer(&*driver, 1, |writer| {
            let big = Bytes::from(vec![7; 300_000]);
            writer.entry(b"deep/er/big", Entry::File { size: 1 << 20 }, &meta(0o600)).expect("a file");
            writer.write(500_000, big).expect("content");
            file(writer, "deep/small", "small").expect("a file");
            writer.entry(b"deep", Entry::Directory, &meta(0o700)).expect("a folder");
            writer.entry(b"deep/link", Entry::HardLink { to: b"deep/small" }, &Meta::default()).expect("a link");
            writer.entry(b"gone", Entry::Whiteout, &Meta::default()).expect("a whiteout");
            writer.entry(b"deep/er", Entry::Opaque, &Meta::default()).expect("an opaque folder");
        });
        assert_eq!(text(&*driver, 1, "deep/link", None), "small");
        let reader = driver.open_layer(&id(1)).expect("the layer is there");
        let content = reader.open(b"deep/er/big", None).expect("the file is there");
        let mut buffer = vec![1; 2 << 20];
        let mut length = 0;
        while let Ok(count @ 1..) = content.read_at(&mut buffer[length..], length as u64) {
            length += count;
        }
        assert_eq!(length, 1 << 20);
        assert!(buffer[..length].iter().enumerate().all(|(at, &byte)| (byte == 7) == (500_000..800_000).contains(&at)));
    }

    /// Where a layer lies: its folder of files, or its image.
    fn place(driver: &dyn Snapshotter, byte: u8) -> Lower {
        match driver.view(&[id(byte)]) {
            Rootfs::Overlay(overlay) => overlay.lower.into_iter().next().expect("one layer"),
            Rootfs::Directory { path } => Lower::Folder(path),
        }
    }

    pub fn a_damaged_layer_is_put_right_where_it_lies(open: Open<'_>) {
        let driver = open();
        let fill = |writer: &mut dyn LayerWriter| {
            file(writer, "a", "right").expect("a file");
            file(writer, "d/gone", "there").expect("a file");
            file(writer, "d/other", "other").expect("a file");
            writer.entry(b"link", Entry::Symlink { target: b"a" }, &meta(0o777)).expect("a link");
            writer.entry(b"d", Entry::Directory, &meta(0o750)).expect("a folder");
        };
        layer(&*driver, 1, fill);
        // Who has a file open goes on with it.
        let reader = driver.open_layer(&id(1)).expect("the layer is there");
        let in_use = reader.open(b"a", None).expect("the file is there");
        match place(&*driver, 1) {
            Lower::Folder(files) => {
                std::fs::write(files.join("a"), "wrong").expect("our own file");
                std::fs::remove_file(files.join("d/gone")).expect("our own file");
                std::fs::write(files.join("d/more"), "more").expect("our own file");
                std::fs::write(files.join("d/other"), "shorter or longer").expect("our own file");
                std::fs::remove_file(files.join("link")).expect("our own file");
                std::fs::create_dir(files.join("link")).expect("our own folder");
            }
            Lower::Image { erofs, .. } => {
                let mut bytes = std::fs::read(&erofs).expect("our own file");
                let at = bytes.windows(5).position(|part| part == b"right").expect("it is in there");
                bytes[at..at + 5].copy_from_slice(b"wrong");
                std::fs::write(&erofs, bytes).expect("our own file");
            }
        }
        let read = |content: &dyn crate::Content| {
            let mut buffer = [0; 5];
            content.read_at(&mut buffer, 0).expect("it can be read");
            String::from_utf8_lossy(&buffer).into_owned()
        };
        assert_eq!(read(&*in_use), "wrong");
        let mut writer = driver.begin_layer().expect("a layer begins");
        fill(&mut *writer);
        writer.settle().expect("it settles");
        driver.mend_layer(writer.finish(id(1)).expect("it is whole")).expect("it is put right");
        assert_eq!(read(&*in_use), "right");
        for (path, expected) in [("a", "right"), ("d/gone", "there"), ("d/other", "other")] {
            assert_eq!(text(&*driver, 1, path, None), expected, "{path}");
        }
        let reader = driver.open_layer(&id(1)).expect("the layer is there");
        assert!(reader.open(b"d/more", None).is_err());
        if let Lower::Folder(files) = place(&*driver, 1) {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(std::fs::read_link(files.join("link")).expect("a link"), std::path::Path::new("a"));
            let folder = std::fs::symlink_metadata(files.join("d")).expect("a folder");
            assert_eq!((folder.mode() & 0o777, folder.mtime()), (0o750, 1_000_000_000));
        }
        // One that is missing altogether is made.
        drop(driver.remove_layer(&id(1)).expect("it goes"));
        let mut writer = driver.begin_layer().expect("a layer begins");
        fill(&mut *writer);
        writer.settle().expect("it settles");
        driver.mend_layer(writer.finish(id(1)).expect("it is whole")).expect("it is made");
        assert_eq!(text(&*driver, 1, "a", None), "right");
    }

    pub fn replaced_content_is_kept_for_the_archive(open: Open<'_>) {
        let driver = open();
        let mut writer = driver.begin_layer().expect("a layer begins");
        file(&mut *writer, "a", "one").expect("a file");
        file(&mut *writer, "a", "two").expect("a file");
        file(&mut *writer, "d/f", "three").expect("a file");
        file(&mut *writer, "d", "four").expect("a file");
        let displaced = writer.settle().expect("it settles");
        let numbers: Vec<(&[u8], u64)> = displaced.iter().map(|one| (&one.path[..], one.by)).collect();
        assert_eq!(numbers, [(&b"a"[..], 1), (&b"d"[..], 3)]);
        let (first, second) = (displaced[0].number, displaced[1].number);
        driver.commit_layers(vec![writer.finish(id(1)).expect("it is whole")]).expect("it is committed");
        assert_eq!(text(&*driver, 1, "a", None), "two");
        assert_eq!(text(&*driver, 1, "", Some(first)), "one");
        assert_eq!(text(&*driver, 1, "f", Some(second)), "three");
        assert_eq!(text(&*driver, 1, "d", None), "four");
    }

    pub fn nothing_leaves_the_layer(open: Open<'_>) {
        let driver = open();
        for path in ["..", "../a", "a/../../b", "a/..", "."] {
            let mut writer = driver.begin_layer().expect("a layer begins");
            let refused = writer.entry(path.as_bytes(), Entry::Directory, &meta(0o755));
            assert!(refused.is_err_and(|error| error.is_refusal()), "{path}");
        }
        let mut writer = driver.begin_layer().expect("a layer begins");
        let deep = "d/".repeat(300) + "f";
        let failed = writer.entry(deep.as_bytes(), Entry::Directory, &meta(0o755)).is_err();
        assert!(failed, "nesting is bounded");
    }

    pub fn links_of_the_layer_are_followed_within_it(open: Open<'_>) {
        let driver = open();
        let outside = tempfile_outside();
        layer(&*driver, 1, |writer| {
            let to = |target: &'static str| Entry::Symlink { target: target.as_bytes() };
            writer.entry(b"usr/lib", Entry::Directory, &meta(0o755)).expect("a folder");
            writer.entry(b"lib", to("/usr/lib"), &meta(0o777)).expect("a link");
            let moved = writer.entry(b"lib/x", Entry::File { size: 0 }, &meta(0o644)).expect("a file");
            assert_eq!(moved.as_deref(), Some(&b"usr/lib/x"[..]));
            // As root of the layer, `..` of the top is the top.
            writer.entry(b"up", to("../../../usr"), &meta(0o777)).expect("a link");
            let moved = writer.entry(b"up/y", Entry::File { size: 0 }, &meta(0o644)).expect("a file");
            assert_eq!(moved.as_deref(), Some(&b"usr/y"[..]));
        });
        // Where there is no such folder inside, nothing is made outside.
        let mut writer = driver.begin_layer().expect("a layer begins");
        let target = outside.as_os_str().as_encoded_bytes().to_vec();
        writer.entry(b"out", Entry::Symlink { target: &target }, &meta(0o777)).expect("a link");
        assert!(writer.entry(b"out/file", Entry::File { size: 0 }, &meta(0o644)).is_err());
        assert!(!outside.join("file").exists());
        std::fs::remove_dir(&outside).expect("it is empty");
    }

    fn tempfile_outside() -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("berth-contract-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a scratch folder");
        path
    }

    pub fn a_second_name_needs_a_file_of_the_same_layer(open: Open<'_>) {
        let driver = open();
        let mut writer = driver.begin_layer().expect("a layer begins");
        let made = writer.entry(b"a", Entry::HardLink { to: b"etc/passwd" }, &Meta::default());
        assert!(made.is_err_and(|error| error.is_refusal()));
        let mut writer = driver.begin_layer().expect("a layer begins");
        writer.entry(b"l", Entry::Symlink { target: b"/etc/passwd" }, &meta(0o777)).expect("a link");
        // The link itself gets a second name, not what it points to.
        writer.entry(b"m", Entry::HardLink { to: b"l" }, &Meta::default()).expect("a second name");
        writer.entry(b"n", Entry::HardLink { to: b"n" }, &Meta::default()).expect_err("nothing is there");
    }

    pub fn the_same_layer_twice_is_one(open: Open<'_>) {
        let driver = open();
        let staged: Vec<_> = ["one", "one"]
            .into_iter()
            .map(|text| {
                let mut writer = driver.begin_layer().expect("a layer begins");
                file(&mut *writer, "a", text).expect("a file");
                writer.settle().expect("it settles");
                writer.finish(id(1)).expect("it is whole")
            })
            .collect();
        driver.commit_layers(staged).expect("both are committed");
        assert_eq!(driver.layers().expect("a list"), [id(1)]);
        drop(driver.remove_layer(&id(1)).expect("it is removed"));
        drop(driver.remove_layer(&id(1)).expect("and that is not an error twice"));
        assert!(driver.layers().expect("a list").is_empty());
    }

    pub fn a_snapshot_answers_the_same_after_reopening(open: Open<'_>) {
        let driver = open();
        layer(&*driver, 1, |writer| file(writer, "a", "one").expect("a file"));
        layer(&*driver, 2, |writer| file(writer, "a", "two").expect("a file"));
        let first = driver.prepare("web", &[id(1), id(2)]).expect("a snapshot");
        assert_eq!(driver.prepare("web", &[id(1), id(2)]).expect("again"), first);
        assert_eq!(open().rootfs("web").expect("after reopening"), first);
        assert_eq!(open().layers_of("web").expect("after reopening"), [id(1), id(2)]);
        assert_eq!(driver.keys().expect("a list"), ["web"]);
        if let Rootfs::Overlay(overlay) = driver.view(&[id(1), id(2)]) {
            assert!(overlay.upper.is_none() && overlay.lower.len() == 2);
        }
        driver.remove("web").expect("it is removed");
        driver.remove("web").expect("and that is not an error twice");
        assert!(driver.keys().expect("a list").is_empty());
    }

    pub fn a_layer_that_is_there_twice_is_mounted_once(open: Open<'_>) {
        let driver = open();
        layer(&*driver, 1, |writer| file(writer, "a", "one").expect("a file"));
        layer(&*driver, 2, |writer| file(writer, "a", "two").expect("a file"));
        let layers = [id(1), id(2), id(1)];
        driver.prepare("web", &layers).expect("a snapshot");
        assert_eq!(driver.layers_of("web").expect("its layers"), layers);
        let Rootfs::Overlay(twice) = driver.view(&layers) else { return };
        let Rootfs::Overlay(once) = driver.view(&[id(2), id(1)]) else { return };
        assert_eq!(twice.lower, once.lower);
    }

    pub fn what_was_written_is_adopted_as_a_layer(open: Open<'_>) {
        let driver = open();
        let Rootfs::Overlay(overlay) = driver.prepare("step", &[]).expect("a snapshot") else { return };
        let upper = overlay.upper.expect("a place to write").upper;
        std::fs::write(upper.join("f"), "written").expect("it can be written to");
        let mut adopted = driver.adopt("step").expect("it is taken");
        assert!(adopted.files().join("f").exists() && !upper.exists());
        drop(adopted.record().expect("a record"));
        driver.commit_layers(vec![adopted.finish(id(7)).expect("it is whole")]).expect("it is committed");
        assert_eq!(text(&*driver, 7, "f", None), "written");
        assert!(matches!(driver.adopt("step").map(drop), Err(SnapshotError::NoSnapshot(_))));
        driver.remove("step").expect("what is left goes");
        driver.prepare("given-up", &[]).expect("a snapshot");
        drop(driver.adopt("given-up").expect("it is taken"));
        assert_eq!(driver.layers().expect("a list"), [id(7)]);
    }

    pub fn unknown_things_are_told_apart_from_failures(open: Open<'_>) {
        let driver = open();
        assert!(matches!(driver.open_layer(&id(9)).map(drop), Err(SnapshotError::NoLayer(_))));
        assert!(matches!(driver.rootfs("nobody"), Err(SnapshotError::NoSnapshot(_))));
        for key in ["", "..", "a/b", "new-1", ".x"] {
            assert!(matches!(driver.prepare(key, &[]), Err(SnapshotError::Key(_))), "{key:?}");
        }
        assert_eq!(driver.layer_bytes(&id(9)).expect("no failure"), None);
    }
}
