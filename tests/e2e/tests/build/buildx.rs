//! BuildKit's door with the real buildx plugin: what only this door has.

use crate::common::{Context, Door, buildx, client, id, said, sh};
use berth_testkit::{Engine, Output};
use std::path::Path;
use std::process::Stdio;

#[expect(clippy::print_stderr, reason = "a test says that it is skipped")]
fn start(name: &str) -> Option<Engine> {
    if buildx().is_none() {
        eprintln!("skipped: needs the buildx plugin (docker-buildx, or BERTH_BUILDX)");
        return None;
    }
    Engine::start(name)
}

fn run(engine: &Engine, arguments: &[&str]) -> Output {
    Output::of(client(engine, Door::Buildx).args(arguments).stdin(Stdio::null()))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn what_a_build_came_to_is_told_in_every_form() {
    let Some(engine) = start("buildx-told") else { return };
    let context = Context::new("FROM tiny\nRUN echo said; echo loud >&2\n", &[]);
    let at = |name: &str| context.path().with_extension(name).to_str().unwrap().to_owned();
    let (iid, meta, path) = (at("iid"), at("meta"), context.path().to_str().unwrap());
    let output = run(&engine, &["build", "-t", "told:1", "--iidfile", &iid, "--metadata-file", &meta, path]);
    let shown = said(output);
    for part in [
        "[internal] load build definition from Dockerfile",
        "[2/2] RUN echo said",
        "said\n",
        "loud\n",
        "naming to docker.io/library/told:1",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let image = id(&engine, "told:1");
    assert_eq!(text(Path::new(&iid)), image);
    let meta: serde_json::Value = serde_json::from_str(&text(Path::new(&meta))).unwrap();
    assert_eq!(meta["containerimage.config.digest"], image.as_str());
    assert_eq!(meta["image.name"], "docker.io/library/told:1");
    // Once more: nothing is run, and the same comes out.
    let quiet = run(&engine, &["build", "-q", path]);
    assert_eq!(said(quiet).trim(), image);
    assert!(said(run(&engine, &["build", path])).contains("CACHED"));
    for file in ["iid", "meta"] {
        std::fs::remove_file(at(file)).unwrap();
    }
}

#[test]
fn questions_are_answered_without_building() {
    let Some(engine) = start("buildx-asks") else { return };
    let file = "# VERSION of what is built\nARG VERSION=1\nFROM registry.invalid/nowhere:$VERSION AS base\n\
                # prod what goes out\nFROM base AS prod\nRUN --mount=type=secret,id=key,required=true exit 7\ncmd sleep 1\n";
    let context = Context::new(file, &[]);
    let path = context.path().to_str().unwrap();
    let ask = |arguments: &[&str]| run(&engine, &[&["build"], arguments, &[path]].concat());
    let found = ask(&["--check"]);
    assert_eq!(found.code, 1, "{} {}", found.stdout, found.stderr);
    for part in [
        "Check complete, 2 warnings have been found!",
        "WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
        "WARNING: ConsistentInstructionCasing",
        "   7 | >>> cmd sleep 1",
    ] {
        assert!(found.stdout.contains(part), "{part}: {}", found.stdout);
    }
    let json = ask(&["--call=check,format=json,ignorestatus=true"]);
    assert_eq!(json.code, 0, "{} {}", json.stdout, json.stderr);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["warnings"].as_array().map(Vec::len), Some(2), "{json}");
    let outline = ask(&["--call=outline", "--build-arg", "VERSION=2"]).success();
    for part in
        ["TARGET:      prod", "DESCRIPTION: what goes out", "VERSION     2       of what is built", "key      true"]
    {
        assert!(outline.contains(part), "{part}: {outline}");
    }
    let targets = ask(&["--call=targets"]).success();
    assert!(targets.contains("base") && targets.contains("prod (default) what goes out"), "{targets}");
    context.write("Dockerfile", "FROM scratch\nNOPE\n");
    let broken = ask(&["--check"]);
    assert!(broken.code != 0 && broken.stderr.contains("unknown instruction: NOPE"), "{}", broken.stderr);
    context.write("Dockerfile", "FROM scratch\nCMD [\"a\"]\n");
    assert!(ask(&["--check"]).success().contains("Check complete, no warnings found."));
    let history = run(&engine, &["history", "ls"]);
    assert!(history.stderr.contains("this builder keeps no history of its builds"), "{}", history.stderr);
    // Nothing was built, and nothing fetched.
    assert_eq!(engine.docker(["images", "-aq"]).success().lines().count(), 1);
}

#[test]
fn a_step_that_fails_shows_its_output_and_its_line() {
    let Some(engine) = start("buildx-fails") else { return };
    let context = Context::new("FROM tiny\n\nRUN echo before; exit 7\n", &[]);
    let path = context.path().to_str().unwrap();
    let output = run(&engine, &["build", path]);
    assert_eq!(output.code, 1, "{}", output.stderr);
    for part in ["before", ">>> RUN echo before; exit 7", "Dockerfile:3", "did not complete successfully: exit code: 7"]
    {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    context.write("Dockerfile", "FROM tiny\nFETCH x\n");
    let output = run(&engine, &["build", path]);
    assert!(
        output.stderr.contains("dockerfile parse error on line 2: unknown instruction: FETCH"),
        "{}",
        output.stderr
    );
    context.write("Dockerfile", "# syntax=acme/own-frontend:2\nFROM tiny\n");
    let output = run(&engine, &["build", path]);
    assert!(
        output.code == 1 && output.stderr.contains("the frontend acme/own-frontend:2 is an image"),
        "{}",
        output.stderr
    );
    // What our own frontend speaks is not pulled.
    context.write("Dockerfile", "# syntax=docker/dockerfile:1\nFROM tiny\nRUN true\n");
    said(run(&engine, &["build", path]));
}

#[test]
fn secrets_and_agents_come_from_the_client_while_the_build_runs() {
    let Some(engine) = start("buildx-secrets") else { return };
    let context = Context::new(
        "FROM tiny\n\
         RUN --mount=type=secret,id=file cat /run/secrets/file >/file\n\
         RUN --mount=type=secret,id=var,env=GIVEN echo $GIVEN >/given\n\
         RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n",
        &[("secret", "from a file")],
    );
    let path = context.path().to_str().unwrap();
    let file = format!("id=file,src={}", context.at("secret").display());
    let mut command = client(&engine, Door::Buildx);
    command.args(["build", "-t", "secrets", "--secret", &file, "--secret", "id=var,env=SOME", path]);
    said(Output::of(command.env("SOME", "of a variable").stdin(Stdio::null())));
    assert_eq!(sh(&engine, "secrets", "cat /file; cat /given"), "from a fileof a variable");
    context.write("Dockerfile", "FROM tiny\nRUN --mount=type=secret,id=gone,required=true true\n");
    let output = run(&engine, &["build", path]);
    assert!(output.stderr.contains("secret gone: not found"), "{}", output.stderr);
    context.write("Dockerfile", "FROM tiny\nRUN --mount=type=ssh,required=true true\n");
    let output = run(&engine, &["build", path]);
    assert!(output.stderr.contains("unset ssh forward key default"), "{}", output.stderr);
}

#[test]
fn results_go_into_the_clients_folders() {
    let Some(engine) = start("buildx-outputs") else { return };
    let context = Context::new(
        "FROM tiny AS made\nRUN mkdir -p /out/deep && echo one >/out/deep/one && ln -s one /out/deep/link && chmod 750 /out/deep/one\n\
         FROM scratch\nCOPY --from=made /out /\n",
        &[],
    );
    let path = context.path().to_str().unwrap();
    let to = tempfile::tempdir_in("/var/tmp").unwrap();
    let dest = |kind: &str, name: &str| format!("type={kind},dest={}", to.path().join(name).display());
    said(run(&engine, &["build", "-o", &dest("local", "folder"), path]));
    let file = to.path().join("folder/deep/one");
    assert_eq!(text(&file), "one\n");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777, 0o750);
    assert_eq!(std::fs::read_link(to.path().join("folder/deep/link")).unwrap(), Path::new("one"));
    said(run(&engine, &["build", "-o", &dest("tar", "files.tar"), path]));
    let mut names: Vec<String> = tar::Archive::new(std::fs::File::open(to.path().join("files.tar")).unwrap())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["deep/", "deep/link", "deep/one"]);
    let refused = run(&engine, &["build", "-o", &dest("oci", "x.tar"), path]);
    assert!(refused.code == 1 && refused.stderr.contains("OCI exporter"), "{}", refused.stderr);
}

#[test]
fn the_builder_lists_itself_and_what_its_cache_has() {
    let Some(engine) = start("buildx-lists") else { return };
    let context = Context::new("FROM tiny\nRUN echo kept >/kept\n", &[]);
    said(run(&engine, &["build", context.path().to_str().unwrap()]));
    let listed = said(run(&engine, &["ls"]));
    assert!(listed.contains("docker") && listed.contains("running"), "{listed}");
    assert!(said(run(&engine, &["inspect"])).contains("linux/"));
    assert!(said(run(&engine, &["du", "--verbose"])).contains("RUN echo kept"));
    said(run(&engine, &["prune", "--all", "--force"]));
    assert!(!said(run(&engine, &["du", "--verbose"])).contains("RUN echo kept"));
}

#[test]
fn bake_builds_its_targets_side_by_side() {
    let Some(engine) = start("buildx-bake") else { return };
    let context = Context::new(
        "ARG WHAT\nFROM tiny\nARG WHAT\nRUN echo $WHAT >/what\n",
        &[(
            "docker-bake.hcl",
            "group \"default\" { targets = [\"a\", \"b\"] }\n\
            target \"a\" {\n  tags = [\"baked:a\"]\n  args = { WHAT = \"one\" }\n}\n\
            target \"b\" {\n  tags = [\"baked:b\"]\n  args = { WHAT = \"two\" }\n}\n",
        )],
    );
    let mut command = client(&engine, Door::Buildx);
    let output = Output::of(command.arg("bake").current_dir(context.path()).stdin(Stdio::null()));
    said(output);
    assert_eq!(sh(&engine, "baked:a", "cat /what") + &sh(&engine, "baked:b", "cat /what"), "onetwo");
}

#[test]
fn a_target_of_bake_is_another_ones_base_and_both_share_the_clients_folder() {
    let Some(engine) = start("buildx-linked") else { return };
    let context = Context::new(
        "FROM base\nRUN cp /a /b\nCOPY --from=base /a /c\nCOPY docker-bake.hcl /\n",
        &[
            ("Base", "FROM tiny\nENV MADE=here\nRUN echo once >/a\nCOPY Base /\n"),
            (
                "docker-bake.hcl",
                "target \"default\" {\n  tags = [\"linked:1\"]\n  contexts = { base = \"target:base\" }\n}\n\
                 target \"base\" {\n  dockerfile = \"Base\"\n}\n",
            ),
        ],
    );
    for _ in 0..2 {
        let mut command = client(&engine, Door::Buildx);
        said(Output::of(command.arg("bake").current_dir(context.path()).stdin(Stdio::null())));
        assert_eq!(sh(&engine, "linked:1", "cat /a /b /c; echo $MADE"), "once\nonce\nonce\nhere");
    }
}

#[test]
fn a_file_that_is_as_it_was_does_not_travel_again_and_one_that_is_not_does() {
    let Some(engine) = start("buildx-known") else { return };
    let context = Context::new("FROM tiny\nCOPY . /c/\n", &[("a", "one")]);
    let path = context.path().to_str().unwrap();
    // A time that says something: not of this moment, and not of a whole second.
    let since = |file: &str, seconds: u64| {
        let time = std::time::SystemTime::now() - std::time::Duration::new(seconds, 7);
        std::fs::File::options().write(true).open(context.at(file)).unwrap().set_modified(time).unwrap();
    };
    let sent = |output: &str| {
        let line = output.lines().rfind(|line| line.contains("transferring context:")).unwrap().to_owned();
        line.split("transferring context: ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    since("a", 100);
    since("Dockerfile", 100);
    let first = said(run(&engine, &["build", "-t", "known", path]));
    assert!(sent(&first).ends_with('B'), "{first}");
    let again = said(run(&engine, &["build", "-t", "known", path]));
    assert!(again.contains("CACHED") && !sent(&again).ends_with('B'), "{again}");
    context.write("a", "two");
    since("a", 50);
    let changed = said(run(&engine, &["build", "-t", "known", path]));
    assert!(!changed.contains("[2/2] COPY . /c/\n#5 CACHED"), "{changed}");
    assert_eq!(sh(&engine, "known", "cat /c/a"), "two");
}
