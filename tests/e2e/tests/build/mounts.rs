//! `RUN --mount`, and what of it must not be left in an image, in the store or on the host.

use crate::common::{Context, Door, build, build_with, doors, said, sh};
use berth_testkit::{Engine, wait_until};
use std::path::Path;
use std::process::Stdio;

#[test]
fn every_kind_of_mount_is_there_while_the_step_runs_and_only_then() {
    let Some(engine) = Engine::start("build-mounts") else { return };
    let context = Context::new(
        r#"FROM tiny AS tools
RUN mkdir -p /opt/deep && echo tool >/opt/deep/tool
RUN echo second >/opt/second
FROM tiny
WORKDIR /w
RUN --mount=type=bind,target=/src cat /src/sub/file >/bind && ! touch /src/x 2>/dev/null && ls /src >>/bind
RUN --mount=source=sub,target=rel,rw echo changed >rel/file && cat rel/file >>/bind
RUN --mount=from=tools,source=/opt,target=/opt cat /opt/deep/tool /opt/second >/from
RUN --mount=from=tools,target=/all,rw cat /all/opt/deep/tool >>/from && echo w >/all/written
RUN --mount=from=tools,source=/opt/deep/tool,target=/one cat /one >>/from
RUN --mount=type=tmpfs,target=/scratch,size=4m df -k /scratch | tail -1 | awk '{print $2}' >/tmpfs && echo x >/scratch/x
RUN --mount=type=cache,target=/cache echo $(cat /cache/count 2>/dev/null)+ >/cache/count && cp /cache/count /counted
RUN --mount=type=cache,id=mine,target=/c2,uid=5,gid=6,mode=0700 stat -c '%a %u:%g' /c2 >/owner
RUN --mount=type=cache,from=tools,source=/opt,target=/c3 cat /c3/deep/tool >/seeded
RUN find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /bin \) -prune -o -newer /bin/busybox -print >/tmp/all
"#,
        &[("sub/file", "context\n")],
    );
    said(build(&engine, Door::Berth, &context, &["-t", "mounts"]));
    let look = |command: &str| sh(&engine, "mounts", command);
    assert_eq!(look("cat /bind"), "context\nDockerfile\nsub\nchanged");
    assert_eq!(look("cat /from"), "tool\nsecond\ntool\ntool");
    assert_eq!(look("cat /tmpfs"), "4096");
    assert_eq!(look("cat /owner /seeded /counted"), "700 5:6\ntool\n+");
    // Neither contents nor mount points are left.
    assert_eq!(look("ls -d /src /w/rel /opt /all /one /scratch /cache /c2 /c3 2>/dev/null | wc -l"), "0");
    assert_eq!(std::fs::read_to_string(context.at("sub/file")).unwrap(), "context\n");
    // A cache mount's content is no part of a key, and is there in the next build.
    let again = said(build(&engine, Door::Berth, &context, &["-t", "mounts"]));
    assert!(!again.contains(" DONE ") || again.contains("CACHED"), "{again}");
    said(build(&engine, Door::Berth, &context, &["-t", "mounts", "--no-cache"]));
    assert_eq!(look("cat /counted"), "++");
    let wrong = Context::new("FROM tiny\nRUN --mount=target=/x,source=missing true\n", &[]);
    let text = build(&engine, Door::Berth, &wrong, &[]).failure(1);
    assert!(text.contains("missing") && text.contains(">>> RUN --mount"), "{text}");
}

#[test]
fn cache_mounts_are_shared_locked_or_private() {
    let Some(engine) = Engine::start("build-sharing") else { return };
    let step = |sharing: &str, name: &str| {
        format!(
            "FROM tiny AS {sharing}{name}\nRUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} \
             mkdir /c/in 2>/dev/null && echo alone >/r || echo together >/r; sleep 1; rmdir /c/in 2>/dev/null; true\n"
        )
    };
    let mut text: String = ["locked", "private"].iter().flat_map(|s| [step(s, "1"), step(s, "2")]).collect();
    text.push_str("FROM tiny\n");
    for stage in ["locked1", "locked2", "private1", "private2"] {
        text.push_str(&format!("COPY --from={stage} /r /{stage}\n"));
    }
    let context = Context::new(&text, &[]);
    said(build(&engine, Door::Berth, &context, &["-t", "sharing"]));
    assert_eq!(sh(&engine, "sharing", "cat /locked1 /locked2 /private1 /private2"), "alone\nalone\nalone\nalone");
}

/// Every file below `folder` that has `wanted` in it.
fn files_with(folder: &Path, wanted: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                if bytes.windows(wanted.len()).any(|window| window == wanted) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

#[test]
fn secrets_are_seen_by_their_step_and_found_nowhere_else() {
    let Some(engine) = Engine::start("build-secret") else { return };
    // Not in the Dockerfile, and never printed: only its length leaves the step.
    let secret = "c0rrect-h0rse-battery-5taple-9183";
    let context = Context::new(
        r#"FROM tiny
RUN --mount=type=secret,id=key,required test $(cat /run/secrets/key | wc -c) = 33 && stat -c '%a %u' /run/secrets/key >/mode
RUN --mount=type=secret,id=key,target=/root/.npmrc,uid=5,mode=0440 stat -c '%a %u' /root/.npmrc >>/mode
RUN --mount=type=secret,id=VAR,env=TOKEN test ${#TOKEN} = 33
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
"#,
        &[],
    );
    let file = engine.root().join("secret-file");
    std::fs::write(&file, secret).unwrap();
    let of_file = format!("id=key,src={}", file.display());
    let arguments = ["-t", "secret", "--secret", &of_file, "--secret", "id=VAR", "--progress", "plain"];
    let output = said(build_with(&engine, Door::Berth, &context, &arguments, &[("VAR", secret)]));
    assert!(!output.contains(secret));
    assert_eq!(sh(&engine, "secret", "cat /mode; ls -A /run/secrets /root 2>/dev/null; true"), "400 0\n440 5\n/root:");
    let history = engine.docker(["history", "--no-trunc", "secret"]).success();
    assert!(!history.contains(secret), "{history}");
    std::fs::remove_file(&file).unwrap();
    let saved = engine.root().join("saved.tar");
    engine.docker(["save", "-o", saved.to_str().unwrap(), "secret"]).success();
    // The whole of it: data root, exec root, the engine's log, the archive.
    assert_eq!(files_with(engine.root(), secret.as_bytes()), Vec::<String>::new());
    assert!(!files_with(engine.root(), b"root:x:0:0").is_empty(), "the search finds what is there");
    // Another value of it changes no key; a missing one that is required is refused.
    let again = said(build_with(
        &engine,
        Door::Berth,
        &context,
        &["--secret", "id=key,env=VAR", "--secret", "id=VAR"],
        &[("VAR", "other")],
    ));
    assert!(again.contains("CACHED") && !again.contains("DONE 1"), "{again}");
    let text = build(&engine, Door::Berth, &context, &["--no-cache"]).failure(1);
    assert!(text.contains("secret key: not found") && text.contains("--secret id=key,src=FILE"), "{text}");
}

/// Puts a program of this host and its libraries into the context; `false` where it is not there.
fn bring(context: &Context, program: &str) -> bool {
    let script = format!(
        "set -e; p=$(command -v {program}); cd {}; mkdir -p root; \
         cp --parents -L $p $(ldd $p | grep -o '/[^ ]*') root/; ln -s $p root/program",
        context.path().display()
    );
    std::process::Command::new("sh").args(["-c", &script]).status().is_ok_and(|status| status.success())
}

#[test]
fn an_agent_is_reached_through_its_socket() {
    let Some(engine) = Engine::start("build-ssh") else { return };
    let socket = engine.root().join("agent.sock");
    let agent = std::process::Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn();
    let context = Context::new(
        "FROM tiny\nCOPY root /\nRUN --mount=type=ssh,required /program -l >/answer; echo $SSH_AUTH_SOCK >/where\n\
         RUN --mount=type=ssh,uid=65534,mode=0600,target=/a.sock stat -c '%u %a' /a.sock >>/where\n\
         USER nobody\nRUN --mount=type=ssh,uid=65534 /program -l >/dev/shm/x; grep -q 'no identities' /dev/shm/x\n",
        &[],
    );
    let (Ok(mut agent), true) = (agent, bring(&context, "ssh-add")) else {
        return eprintln!("skipped: needs ssh-agent and ssh-add");
    };
    wait_until("the agent listens", || socket.exists());
    let given = format!("default={}", socket.display());
    // With buildx the agent is the client's: its conversations go through the session.
    for door in doors().into_iter().filter(|door| *door != Door::Docker) {
        said(build(&engine, door, &context, &["-t", "ssh", "--no-cache", "--ssh", &given]));
        let look = sh(&engine, "ssh", "cat /answer /where; ls -d /a.sock /run/buildkit 2>/dev/null; true");
        assert_eq!(look, "The agent has no identities.\n/run/buildkit/ssh_agent.3\n65534 600", "{door:?}");
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    let text = build(&engine, Door::Berth, &context, &["--no-cache"]).failure(1);
    assert!(text.contains("unset ssh forward key default"), "{text}");
}
