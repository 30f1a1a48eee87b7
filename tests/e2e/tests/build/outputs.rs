//! What becomes of a result.

use crate::common::{Context, Door, build, build_with, client, config, doors, id, said, sh};
use berth_testkit::Engine;
use std::os::unix::fs::MetadataExt as _;

#[test]
fn results_go_where_output_says() {
    let Some(engine) = Engine::start("build-output") else { return };
    let text = "FROM tiny AS made\nRUN mkdir -p /o/d && echo x >/o/d/file && chmod 640 /o/d/file && ln -s d/file /o/link\n\
        FROM scratch\nCOPY --from=made /o /\n";
    let context = Context::new(text, &[]);
    let place = engine.root().join("out");
    let at = |name: &str| place.join(name).display().to_string();
    std::fs::create_dir_all(&place).unwrap();
    said(build(&engine, Door::Berth, &context, &["-o", &at("folder")]));
    assert_eq!(std::fs::read_to_string(place.join("folder/link")).unwrap(), "x\n");
    assert_eq!(std::fs::metadata(place.join("folder/d/file")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(engine.docker(["images", "-q"]).success().lines().count(), 1, "only tiny");
    said(build(&engine, Door::Berth, &context, &["--output", &format!("type=tar,dest={}", at("files.tar"))]));
    let mut names: Vec<String> = tar::Archive::new(std::fs::File::open(place.join("files.tar")).unwrap())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["d/", "d/file", "link"]);
    let piped = build(&engine, Door::Berth, &context, &["-o", "-"]);
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    assert!(piped.stdout.contains("d/file"));
    for (kind, name) in [("oci", "oci.tar"), ("docker", "docker.tar")] {
        let output = format!("type={kind},dest={}", at(name));
        said(build(&engine, Door::Berth, &context, &["-t", &format!("{kind}:1"), "--output", &output]));
        let archive = std::fs::File::open(place.join(name)).unwrap();
        let names: Vec<String> = tar::Archive::new(archive)
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let wanted = if kind == "oci" { "index.json" } else { "manifest.json" };
        assert!(names.iter().any(|name| name == wanted), "{names:?}");
        let loaded = Engine::start("build-load").unwrap();
        let text = loaded.docker(["load", "-i", &at(name)]).success();
        assert!(text.contains(&format!("{kind}:1")), "{text}");
    }
    said(build(&engine, Door::Berth, &context, &["--output", "type=cacheonly"]));
    for bad in ["type=nothing", "type=oci", "type=local"] {
        build(&engine, Door::Berth, &context, &["--output", bad]).failure(125);
    }
}

#[test]
fn flags_that_name_and_describe_the_image() {
    let Some(engine) = Engine::start("build-flags") else { return };
    let context = Context::new("FROM tiny\nLABEL a=file b=file\nRUN echo $V >/v\nARG V\n", &[]);
    let (iid, metadata) = (engine.root().join("iid"), engine.root().join("metadata"));
    for door in doors() {
        let arguments =
            ["-t", "one:1", "-t", "two", "--label", "b=flag", "--label", "c=new", "--iidfile", iid.to_str().unwrap()];
        said(build(&engine, door, &context, &arguments));
        assert_eq!(config(&engine, "one:1")["Labels"], serde_json::json!({"a": "file", "b": "flag", "c": "new"}));
        assert_eq!(id(&engine, "one:1"), id(&engine, "two:latest"));
        assert_eq!(std::fs::read_to_string(&iid).unwrap(), id(&engine, "two"));
        let quiet = build(&engine, door, &context, &["-q"]);
        assert_eq!(quiet.code, 0, "{}", quiet.stderr);
        assert!(quiet.stdout.trim().starts_with("sha256:") && quiet.stdout.lines().count() == 1, "{quiet:?}");
    }
    said(build(&engine, Door::Berth, &context, &["-t", "meta", "--metadata-file", metadata.to_str().unwrap()]));
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(written["containerimage.config.digest"], id(&engine, "meta").as_str());
    // The Dockerfile from standard input, without and with a context.
    let piped = engine.berth_with_input(["build", "-t", "piped", "-"], b"FROM tiny\nRUN echo piped >/p\n");
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    assert_eq!(sh(&engine, "piped", "cat /p"), "piped");
    let path = context.path().to_str().unwrap();
    let piped = engine.berth_with_input(["build", "-t", "piped", "-f", "-", path], b"FROM tiny\nCOPY Dockerfile /p\n");
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    assert!(sh(&engine, "piped", "cat /p").contains("LABEL a=file"));
    // A context that is an archive, packed.
    let packed = std::process::Command::new("tar").arg("-C").arg(context.path()).args(["-cz", "."]).output().unwrap();
    for door in doors() {
        let mut command = client(&engine, door);
        let file = engine.root().join("context.tgz");
        std::fs::write(&file, &packed.stdout).unwrap();
        command.args(["build", "-t", "archived", "-"]);
        let output = command.stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
        assert!(output.status.success(), "{door:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(config(&engine, "archived")["Labels"]["a"], "file");
    }
    // Another folder and an image as named contexts.
    let other = Context::new("", &[("named", "from afar")]);
    let named = Context::new("FROM base\nCOPY --from=other named /n\n", &[]);
    let given = format!("other={}", other.path().display());
    let arguments = ["-t", "named", "--build-context", &given, "--build-context", "base=docker-image://tiny"];
    said(build(&engine, Door::Berth, &named, &arguments));
    assert_eq!(sh(&engine, "named", "cat /n"), "from afar");
    let variable = build_with(&engine, Door::Berth, &context, &["-t", "v", "--build-arg", "V"], &[("V", "outside")]);
    said(variable);
}
