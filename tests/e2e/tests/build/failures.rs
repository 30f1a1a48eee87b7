//! What is said when a build cannot go on.

use crate::common::{Context, Door, build, build_with, doors, said};
use berth_testkit::Engine;

#[test]
fn a_step_that_fails_shows_its_lines_command_output_and_exit() {
    let Some(engine) = Engine::start("build-fail") else { return };
    let context =
        Context::new("FROM tiny\nENV A=1\nRUN echo before && \\\n    echo the last words >&2; exit 7\nRUN true\n", &[]);
    let text = build(&engine, Door::Berth, &context, &[]).failure(1);
    for wanted in [
        "the last words",
        "Dockerfile:3",
        "   3 | >>> RUN echo before && \\",
        "   4 | >>>     echo the last words >&2; exit 7",
        "   5 |     RUN true",
        "exit code: 7",
    ] {
        assert!(text.contains(wanted), "{wanted:?} not in {text}");
    }
    assert_eq!(text.matches("the last words\n").count(), 1, "once: {text}");
    let docker = build(&engine, Door::Docker, &context, &[]);
    assert_eq!(docker.code, 7, "docker's client ends as the step did: {docker:?}");
    assert!(
        docker.stderr.contains("returned a non-zero code: 7") && docker.stdout.contains("the last words"),
        "{docker:?}"
    );
    assert!(docker.stderr.contains(">>> RUN echo before"), "{docker:?}");
}

#[test]
fn hints_are_given_where_they_are_sure() {
    let Some(engine) = Engine::start("build-hints") else { return };
    let files = [("requirements.txt", "x"), ("src/main.rs", "x"), ("elf", "\x7fELF\x02\x01\x01")];
    for (lines, words) in [
        ("COPY requirement.txt /", vec!["did you mean requirements.txt?", ">>> COPY requirement.txt /"]),
        ("COPY Src/main.rs /", vec!["did you mean src/main.rs?"]),
        ("COPY ../secret /", vec!["a build sees only what is below its context"]),
        ("COPY --from=bulid /x /", vec!["bulid", "there is a stage \"build\": is that meant?"]),
        ("COPY --from=2 /x /", vec!["circular dependency detected on stage"]),
        ("COPY --from=build /none /", vec!["/none", "not found"]),
        ("RUN nosuchprogram", vec!["code: 127", "127: the shell did not find the command"]),
        ("RUN [\"/no/such/program\"]", vec!["/no/such/program is not in the image at this step"]),
        ("RUN --network=none ping -c 1 192.0.2.1", vec!["this step has no network (--network=none)"]),
        ("COPY --chmod=755 elf /bin/elf\nRUN [\"/bin/elf\"]", vec!["another architecture"]),
        ("RUN sh -c 'kill -9 $$'; exit $?", vec!["137"]),
        ("USER nosuchuser\nRUN true", vec!["nosuchuser"]),
        ("COPY --chown=nosuchuser elf /", vec!["unable to find user nosuchuser"]),
        ("RUNN true", vec!["unknown instruction: RUNN", "did you mean RUN?"]),
        ("RUN --mount=type=cach,target=/x true", vec!["cach", "cache"]),
        ("ENV", vec!["ENV"]),
        ("FROM", vec!["FROM requires"]),
    ] {
        let context =
            Context::new(&format!("FROM tiny AS build\nFROM tiny AS other\nFROM tiny AS last\n{lines}\n"), &files);
        for door in doors() {
            let output = build(&engine, door, &context, &[]);
            assert_ne!(output.code, 0, "{lines}");
            for word in &words {
                let all = format!("{}{}", output.stdout, output.stderr);
                assert!(all.contains(word), "{door:?} {lines}: {word:?} not in\n{all}");
            }
        }
    }
    let text = Context::new("RUN true\n", &[]);
    let text = build(&engine, Door::Berth, &text, &[]).failure(1);
    assert!(text.contains("no build stage in current context"), "{text}");
    let empty = Context::new("# nothing\n", &[]);
    assert!(build(&engine, Door::Berth, &empty, &[]).failure(1).contains("file with no instructions"));
    let none = Context::new("", &[]);
    std::fs::remove_file(none.at("Dockerfile")).unwrap();
    assert!(build(&engine, Door::Berth, &none, &[]).failure(1).contains("cannot find a Dockerfile"));
}

#[test]
fn a_step_within_limits_says_what_ended_it() {
    let Some(engine) = Engine::start("build-limits") else { return };
    let context = Context::new("FROM tiny\nRUN head -c 200000000 /dev/zero | tail -c 190000000 >/dev/null\n", &[]);
    let text = build(&engine, Door::Berth, &context, &["--memory", "32m"]).failure(1);
    assert!(text.contains("memory limit was reached"), "{text}");
}

#[test]
fn buildkit_is_answered_so_that_its_user_knows_what_to_do() {
    let Some(engine) = Engine::start("build-buildkit") else { return };
    let context = Context::new("FROM tiny\nRUN echo x >/x\n", &[]);
    // What docker's client does by itself, without a word about BuildKit.
    let output = build_with(&engine, Door::Docker, &context, &["-t", "plain"], &[("DOCKER_BUILDKIT", "")]);
    said(output);
}
