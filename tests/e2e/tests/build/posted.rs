//! `POST /build?version=2`: BuildKit's builder for clients without gRPC calls, as bollard and testcontainers use it.

use crate::common::{Context, Repository, id, sh};
use crate::wire::{Client, Files, run};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_buildkit::Message as _;
use berth_buildkit::proto::control::StatusResponse;
use berth_testkit::Engine;
use serde_json::Value;

/// What a build answers: its status, the names of its finished steps, and what is not progress.
async fn post(engine: &Engine, query: &str, body: String) -> (u16, Vec<String>, Vec<Value>) {
    let (remote, path) = (engine.remote(), format!("/build?version=2&{query}"));
    let answer =
        tokio::task::spawn_blocking(move || remote.try_api("POST", &path, &body)).await.unwrap().expect("an answer");
    let (mut steps, mut rest) = (Vec::new(), Vec::new());
    for line in answer.text().lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if line["id"] == "moby.buildkit.trace" {
            let told =
                StatusResponse::decode(STANDARD.decode(line["aux"].as_str().unwrap()).unwrap().as_slice()).unwrap();
            steps.extend(told.vertexes.into_iter().filter(|one| one.completed.is_some()).map(|one| one.name));
        } else {
            rest.push(line);
        }
    }
    (answer.status, steps, rest)
}

/// Small texts in an archive are one text.
fn archive(context: &Context) -> String {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", context.path()).unwrap();
    String::from_utf8(archive.into_inner().unwrap()).unwrap()
}

#[test]
fn a_posted_build_tells_its_steps_and_comes_to_an_image() {
    let Some(engine) = Engine::start("build-posted") else { return };
    let context = Context::new("FROM tiny\nARG WHAT\nCOPY file /file\nRUN echo $WHAT >/what\n", &[("file", "posted")]);
    let repository = Repository::new(&[("Dockerfile", "FROM tiny\nCOPY file /file\n")]);
    run(async {
        let client = Client::new(&engine, Files::of(&context, &["Dockerfile", "file"])).await;
        let session = client.session.clone();
        let query = format!("session={session}&t=posted:1&buildargs=%7B%22WHAT%22%3A%22given%22%7D");
        let (status, steps, rest) = post(&engine, &query, archive(&context)).await;
        assert_eq!(status, 200, "{rest:?}");
        assert!(steps.iter().any(|step| step == "[3/3] RUN echo given >/what"), "{steps:?}");
        assert_eq!((rest.len(), &rest[0]["id"]), (1, &Value::from("moby.image.id")), "{rest:?}");
        assert_eq!(rest[0]["aux"]["ID"], id(&engine, "posted:1").as_str());
        assert_eq!(sh(&engine, "posted:1", "cat /file /what"), "postedgiven");
        // The context from the session's folder, from an address, and the files instead of an image.
        for (query, tag, wanted) in [
            (format!("session={session}&remote=client-session&t=posted:2"), "posted:2", "posted"),
            (format!("session={session}&remote={}&t=posted:3", repository.url()), "posted:3", "second"),
        ] {
            let (_, _, rest) = post(&engine, &query, String::new()).await;
            assert_eq!(rest[0]["id"], "moby.image.id", "{rest:?}");
            assert_eq!(sh(&engine, tag, "cat /file"), wanted);
        }
        let query = format!("session={session}&outputs=%5B%7B%22type%22%3A%22tar%22%7D%5D");
        let (_, _, rest) = post(&engine, &query, archive(&context)).await;
        assert!(rest.is_empty(), "{rest:?}");
        assert!(String::from_utf8_lossy(&client.files.received.lock().unwrap()).contains("posted"));
    });
}

#[test]
fn a_posted_build_that_fails_says_why_and_one_without_a_session_is_refused() {
    let Some(engine) = Engine::start("build-posted-bad") else { return };
    let context = Context::new("FROM tiny\nRUN exit 7\n", &[]);
    run(async {
        let client = Client::new(&engine, Files::default()).await;
        let session = client.session.clone();
        let (status, _, rest) = post(&engine, &format!("session={session}"), archive(&context)).await;
        let error = rest.last().map(|line| line["errorDetail"]["message"].to_string()).unwrap_or_default();
        assert!(status == 200 && error.contains("exit code: 7"), "{status} {rest:?}");
        for (query, words) in [
            ("t=a", "needs a session"),
            (&format!("session={session}&networkmode=mine"), "not supported by buildkit"),
            (&format!("session={session}&outputs=x"), "error reading outputs"),
        ] {
            let (status, _, rest) = post(&engine, query, archive(&context)).await;
            let message = rest.first().map(|line| line["message"].to_string()).unwrap_or_default();
            assert!(status == 400 && message.contains(words), "{query}: {status} {rest:?}");
        }
    });
}
