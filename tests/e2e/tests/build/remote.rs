//! Contexts that the engine fetches: repositories, archives and Dockerfiles by HTTP.

use crate::common::{Context, Door, Repository, build, client, doors, said, sh};
use berth_testkit::{Engine, Output, Reply, Server};
use std::process::Stdio;

/// Builds from an address; docker's own client would fetch it by itself, so that door is the API's.
fn from(engine: &Engine, door: Door, address: &str, tag: &str) -> Result<(), String> {
    if door == Door::Docker {
        let encoded: String = address.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = engine.api("POST", &format!("/build?remote={encoded}&t={tag}"), "");
        let text = answer.text();
        return if answer.status == 200 && !text.contains("errorDetail") { Ok(()) } else { Err(text) };
    }
    let output = Output::of(client(engine, door).args(["build", "-t", tag, address]).stdin(Stdio::null()));
    if output.code == 0 { Ok(()) } else { Err(output.stdout + &output.stderr) }
}

#[test]
fn a_repository_is_a_context() {
    let Some(engine) = Engine::start("build-from-git") else { return };
    let repository = Repository::new(&[
        ("Dockerfile", "FROM tiny\nCOPY . /all\nRUN test ! -e /all/.git\n"),
        (".dockerignore", "secret\n"),
        ("secret", "not for the image"),
        ("sub/Dockerfile", "FROM tiny\nCOPY inner /inner\n"),
        ("sub/inner", "inner"),
    ]);
    let url = repository.url();
    for door in doors() {
        for (address, look, wanted) in [
            (url.clone(), "cat /all/file; ls /all/secret 2>/dev/null", "second"),
            (format!("{url}#v1"), "cat /all/file", "first"),
            (format!("{url}#{}", repository.first), "cat /all/file", "first"),
            (format!("{url}#main:sub"), "cat /inner", "inner"),
        ] {
            from(&engine, door, &address, "fetched").unwrap_or_else(|text| panic!("{door:?} {address}: {text}"));
            assert_eq!(sh(&engine, "fetched", &format!("{look}; true")), wanted, "{door:?} {address}");
        }
        for (address, words) in [(format!("{url}#nowhere"), "nowhere"), (format!("{url}#main:none"), "none")] {
            let text = from(&engine, door, &address, "none").unwrap_err();
            assert!(text.contains(words), "{door:?} {address}: {text}");
        }
    }
    // A repository under a name.
    let context = Context::new("FROM tiny\nCOPY --from=code file /file\n", &[]);
    let named = format!("code={url}#v1");
    for door in doors().into_iter().filter(|door| *door != Door::Docker) {
        said(build(&engine, door, &context, &["-t", "named", "--build-context", &named]));
        assert_eq!(sh(&engine, "named", "cat /file"), "first", "{door:?}");
    }
}

#[test]
fn what_an_address_gives_is_an_archive_or_a_dockerfile() {
    let Some(engine) = Engine::start("build-from-http") else { return };
    let context = Context::new("FROM tiny\nCOPY file /file\n", &[("file", "in the archive")]);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", context.path()).unwrap();
    let archive = archive.into_inner().unwrap();
    let server = Server::start(move |request| match request.target.as_str() {
        "/context.tar" => Reply::new(200, archive.clone()),
        "/words" => Reply::new(200, "FROM tiny\nRUN echo of words >/file\n"),
        _ => Reply::new(404, "nothing"),
    });
    let at = |path: &str| format!("http://{}{path}", server.address());
    for door in doors() {
        for (path, wanted) in [("/context.tar", "in the archive"), ("/words", "of words")] {
            from(&engine, door, &at(path), "fetched").unwrap_or_else(|text| panic!("{door:?} {path}: {text}"));
            assert_eq!(sh(&engine, "fetched", "cat /file"), wanted, "{door:?} {path}");
        }
        let text = from(&engine, door, &at("/gone"), "none").unwrap_err();
        assert!(text.contains("404"), "{door:?}: {text}");
    }
}
