//! Build caches in registries, folders and images: what one engine did, another one need not do.

use crate::common::{Context, Door, build, doors, said, sh};
use berth_testkit::{Engine, Registry};

/// What the steps leave is never twice the same.
const APP: &str = "FROM tiny AS made\nWORKDIR /m\nRUN head -c 3000 /dev/urandom >big; cat /proc/sys/kernel/random/uuid >id\n\
    FROM tiny\nENV A=1\nCOPY --from=made /m/id /id\nCOPY file /\nRUN cat /proc/sys/kernel/random/uuid >/when\nCMD [\"true\"]\n";

/// An engine that has the base image of `of`, and nothing else.
fn beside(of: &Engine, name: &str) -> Engine {
    let engine = Engine::start(name).expect("the first one started");
    let base = of.root().join("base.tar");
    if !base.exists() {
        of.docker(["save", "-o", base.to_str().unwrap(), "tiny"]).success();
    }
    engine.docker(["rmi", "tiny"]).success();
    engine.docker(["load", "-i", base.to_str().unwrap()]).success();
    engine
}

fn layers(engine: &Engine) -> usize {
    std::fs::read_dir(engine.root().join("data/layers")).unwrap().count()
}

fn plain(engine: &Engine, context: &Context, arguments: &[&str]) -> String {
    said(build(engine, Door::Berth, context, &[&["-t", "app", "--progress", "plain"], arguments].concat()))
}

#[test]
fn what_one_engine_did_another_one_knows_from_a_registry_a_folder_or_the_image() {
    let Some(one) = Engine::start("build-cache-to") else { return };
    let Some(registry) = Registry::plain() else { return };
    let context = Context::new(APP, &[("file", "x")]);
    let at = |name: &str| format!("{}/{name}", registry.address());
    let folder = one.root().join("cache");
    let (min, max, image) = (at("cache:min"), at("cache:max"), at("app:1"));
    let (to_min, to_max) = (format!("type=registry,ref={min}"), format!("type=registry,ref={max},mode=max"));
    let to_folder = format!("type=local,dest={},mode=max", folder.display());
    let first = plain(
        &one,
        &context,
        &[
            "-t",
            &image,
            "--cache-to",
            &to_min,
            "--cache-to",
            &to_max,
            "--cache-to",
            &to_folder,
            "--cache-to",
            "type=inline",
        ],
    );
    assert!(first.contains(&format!("cache written to {max} (5 layers)")), "{first}");
    one.docker(["push", "-q", &image]).success();
    let made = sh(&one, "app", "cat /id /when");
    let size = |engine: &Engine| engine.docker(["image", "inspect", "-f", "{{.Size}}", "app"]).success();
    let whole = size(&one);
    let more = Context::new(&APP.replace("CMD", "COPY --from=made /m/big /big\nCMD"), &[("file", "x")]);
    plain(&one, &more, &["-t", "more"]);
    let big = sh(&one, "more", "md5sum /big");
    let from_folder = format!("type=local,src={}", folder.display());
    for (name, from, has_all) in [
        ("build-from-min", min.as_str(), false),
        ("build-from-max", &max, true),
        ("build-from-folder", &from_folder, true),
        ("build-from-image", &image, false),
    ] {
        let two = beside(&one, name);
        let before = layers(&two);
        let output = plain(&two, &context, &["--cache-from", from]);
        assert_eq!(output.matches("CACHED").count(), 5, "{from}: {output}");
        assert_eq!(sh(&two, "app", "cat /id /when"), made, "{from}");
        assert_eq!(layers(&two) - before, 3, "{from}: the first stage's layers are not fetched");
        assert_eq!(size(&two), whole, "{from}");
        // Files of the first stage are needed now.
        let output = plain(&two, &more, &["--cache-from", from]);
        assert_eq!(sh(&two, "app", "md5sum /big") == big, has_all, "{from}: {output}");
        assert_eq!(sh(&two, "app", "cat /id /when"), made, "{from}");
        two.clear();
    }
}

#[test]
fn dockers_client_takes_an_images_own_cache_and_nothing_where_there_is_none() {
    let Some(one) = Engine::start("build-inline") else { return };
    let Some(registry) = Registry::plain() else { return };
    let context = Context::new("FROM tiny\nRUN cat /proc/sys/kernel/random/uuid >/when\nENV A=1\n", &[]);
    let image = format!("{}/inline:1", registry.address());
    let given = ["-t", &image, "--build-arg", "BUILDKIT_INLINE_CACHE=1"];
    said(build(&one, Door::Docker, &context, &given));
    one.docker(["push", "-q", &image]).success();
    let two = beside(&one, "build-inline2");
    let none = format!("{}/none", registry.address());
    let cached = |engine: &Engine, from: &str| {
        let output = said(build(engine, Door::Docker, &context, &["-t", "app", "--cache-from", from]));
        output.matches("Using cache").count()
    };
    assert_eq!(cached(&two, &image), 2);
    assert_eq!(sh(&two, "app", "cat /when"), sh(&one, &image, "cat /when"));
    assert_eq!(cached(&two, &none), 0, "nothing but what the named images were made of");
    assert_eq!(cached(&one, &image), 2, "an image of its own");
}

#[test]
fn a_cache_that_cannot_be_read_is_told_and_the_build_goes_on() {
    let Some(engine) = Engine::start("build-cache-bad") else { return };
    let Some(registry) = Registry::plain() else { return };
    let context = Context::new("FROM tiny\nRUN echo x >/x\n", &[]);
    let folder = engine.root().join("cache");
    std::fs::create_dir_all(&folder).unwrap();
    let from_folder = format!("type=local,src={}", folder.display());
    let bare = format!("{}/bare:1", registry.address());
    engine.docker(["tag", "tiny", &bare]).success();
    engine.docker(["push", "-q", &bare]).success();
    engine.docker(["rmi", &bare]).success();
    for (from, index, words) in [
        (format!("{}/none", registry.address()), "", "not found"),
        (bare, "", "carries no cache"),
        ("127.0.0.1:1/x".to_owned(), "", "not used"),
        (from_folder.clone(), "{", "index.json"),
        (from_folder.clone(), r#"{"manifests":[]}"#, "names nothing"),
        (
            from_folder.clone(),
            r#"{"manifests":[{"digest":"sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef","size":1}]}"#,
            "cannot read",
        ),
    ] {
        std::fs::write(folder.join("index.json"), index).unwrap();
        let output = plain(&engine, &context, &["--no-cache", "--cache-from", &from]);
        assert!(output.contains("not used") && output.contains(words), "{from}: {output}");
    }
    // What would make the reader wait, or lead out, is not opened.
    std::fs::remove_file(folder.join("index.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.join("index.json")).unwrap();
    assert!(plain(&engine, &context, &["--cache-from", &from_folder]).contains("not used"));
    std::fs::remove_file(folder.join("index.json")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("index.json"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(plain(&engine, &context, &["--cache-from", &from_folder]).contains("is no file"));
    // A cache that was asked for and cannot be written is an error.
    let text = build(&engine, Door::Berth, &context, &["--cache-to", "127.0.0.1:1/x"]).failure(1);
    assert!(text.contains("cannot write the build cache"), "{text}");
    for bad in ["type=gha", "type=local", "type=inline,mode=max"] {
        build(&engine, Door::Berth, &context, &["--cache-to", bad]).failure(125);
    }
}

#[test]
fn a_layer_of_a_cache_that_is_damaged_is_made_again() {
    let Some(one) = Engine::start("build-cache-damaged") else { return };
    let context = Context::new(APP, &[("file", "x")]);
    let folder = one.root().join("cache");
    let to = format!("type=local,dest={}", folder.display());
    plain(&one, &context, &["--cache-to", &to]);
    let blobs = folder.join("blobs/sha256");
    for entry in std::fs::read_dir(&blobs).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let last = bytes.len() / 2;
            std::fs::write(entry.path(), &bytes[..last]).unwrap();
        }
    }
    let two = beside(&one, "build-cache-damaged2");
    let output = plain(&two, &context, &["--cache-from", &format!("type=local,src={}", folder.display())]);
    assert!(output.contains("of a cache not used"), "{output}");
    assert_ne!(sh(&two, "app", "cat /when"), sh(&one, "app", "cat /when"));
    for door in doors() {
        said(build(&two, door, &context, &["-t", "again"]));
        assert_eq!(sh(&two, "again", "cat /when"), sh(&two, "app", "cat /when"));
    }
}
