//! What each instruction does.

use crate::common::{Context, Door, build, config, doors, id, said, sh};
use berth_testkit::Engine;

#[test]
fn instructions_make_the_configuration_and_both_doors_the_same_image() {
    let Some(engine) = Engine::start("build-config") else { return };
    let context = Context::new(
        r#"# syntax=docker/dockerfile:1
# escape=`
FROM tiny
MAINTAINER somebody
ENV A=1 B="two words" `
    C=$A
ENV D old
LABEL one=1 "two three"="4 5"
EXPOSE 80 53/udp 8000-8001
VOLUME /data [not-json]
VOLUME ["/json", "/other"]
WORKDIR /srv
WORKDIR app
USER nobody:nogroup
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --timeout=2s --start-period=1m --start-interval=100ms --retries=4 CMD wget -q localhost
SHELL ["/bin/sh", "-ec"]
RUN id -un >/dev/shm/who; pwd >>/dev/shm/who; echo "$B" >>/dev/shm/who; test "$(cat /dev/shm/who)" = "$(printf 'nobody\n/srv/app\ntwo words')"
ENTRYPOINT ["/bin/echo", "entry"]
CMD sleep 1
"#,
        &[],
    );
    for door in doors() {
        said(build(&engine, door, &context, &["-t", &format!("made:{door:?}").to_lowercase()]));
    }
    assert_eq!(id(&engine, "made:berth"), id(&engine, "made:docker"), "the steps were cached: one image");
    let made = config(&engine, "made:berth");
    let env: Vec<&str> = made["Env"].as_array().unwrap().iter().filter_map(|entry| entry.as_str()).collect();
    assert!(env.contains(&"A=1") && env.contains(&"B=two words") && env.contains(&"C=") && env.contains(&"D=old"));
    assert_eq!(made["Labels"], serde_json::json!({"one": "1", "two three": "4 5"}));
    let ports: Vec<&String> = made["ExposedPorts"].as_object().unwrap().keys().collect();
    assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]);
    let volumes: Vec<&String> = made["Volumes"].as_object().unwrap().keys().collect();
    assert_eq!(volumes, ["/data", "/json", "/other", "[not-json]"]);
    assert_eq!(made["WorkingDir"], "/srv/app");
    assert_eq!(made["User"], "nobody:nogroup");
    assert_eq!(made["StopSignal"], "SIGQUIT");
    let health = &made["Healthcheck"];
    assert_eq!(health["Test"], serde_json::json!(["CMD-SHELL", "wget -q localhost"]));
    assert_eq!((health["Interval"].as_i64(), health["Retries"].as_i64()), (Some(5_000_000_000), Some(4)));
    assert_eq!(health["StartInterval"].as_i64(), Some(100_000_000));
    assert_eq!(made["Shell"], serde_json::json!(["/bin/sh", "-ec"]));
    assert_eq!(made["Entrypoint"], serde_json::json!(["/bin/echo", "entry"]));
    assert_eq!(made["Cmd"], serde_json::json!(["/bin/sh", "-ec", "sleep 1"]));
    let history = engine.docker(["history", "--no-trunc", "--format", "{{.CreatedBy}}", "made:berth"]).success();
    assert!(
        history.contains("WORKDIR /srv/app") && history.contains("ENTRYPOINT [\"/bin/echo\" \"entry\"]"),
        "{history}"
    );
}

#[test]
fn only_stages_that_the_target_needs_are_built() {
    let Some(engine) = Engine::start("build-stages") else { return };
    let context = Context::new(
        r#"ARG FROM_WHERE=tiny
FROM ${FROM_WHERE} AS base
RUN echo base >/base
FROM base AS Left
RUN echo left >/left
FROM base AS right
RUN echo right >/right
FROM tiny AS broken
RUN echo never built; false
FROM scratch AS files
COPY --from=left /left /base /
COPY --from=2 /right /r
COPY --from=tiny /bin/busybox /bin/cat
FROM files AS last
RUN ["/bin/cat", "/left", "/r"]
"#,
        &[],
    );
    for door in doors() {
        let all = said(build(&engine, door, &context, &["-t", "last", "--no-cache"]));
        assert!(!all.contains("never built"), "{all}");
        let files = engine.docker(["run", "--rm", "--entrypoint", "/bin/cat", "last", "/left", "/base", "/r"]);
        assert_eq!(files.success(), "left\nbase\nright");
        said(build(&engine, door, &context, &["-t", "one", "--target", "LEFT"]));
        assert_eq!(sh(&engine, "one", "cat /left; ls /right 2>&1 | wc -l"), "left\n1");
        let stderr = build(&engine, door, &context, &["--target", "lefd"]).failure(1);
        assert!(stderr.contains("did you mean left") || stderr.contains("stages: base, left"), "{door:?}: {stderr}");
    }
}

#[test]
fn arguments_have_the_scopes_that_buildkit_gives_them() {
    let Some(engine) = Engine::start("build-args") else { return };
    let context = Context::new(
        r#"ARG GLOBAL=outer TAG=latest
FROM tiny:$TAG AS one
RUN echo "[$GLOBAL]" >/unseen
ARG GLOBAL
ARG GIVEN=default EMPTY
ARG TARGETARCH BUILDPLATFORM
RUN echo "[$GLOBAL][$GIVEN][${EMPTY-unset}][$TARGETARCH][${BUILDPLATFORM%%/*}]" >/seen
ENV GIVEN=env
RUN echo "[$GIVEN]" >>/seen
FROM one AS two
RUN echo "[$GLOBAL]" >>/seen
FROM tiny
ARG GIVEN=x.tar.gz
ENV E1=${GIVEN%.*} E2=${GIVEN%%.*} E3=${GIVEN#*.} E4=${GIVEN##*.} E5=${GIVEN/tar/zip} E6=${GIVEN//r/R} \
    E7=${NONE:-none} E8=${GIVEN:+is} E9=\$GIVEN E10='$GIVEN'
COPY --from=two /seen /unseen /
RUN echo "$E1 $E2 $E3 $E4 $E5 $E6 $E7 $E8 $E9 $E10" >>/seen
"#,
        &[],
    );
    for door in doors() {
        said(build(&engine, door, &context, &["-t", "args"]));
        let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let seen = format!("[]\n[outer][default][unset][{arch}][linux]\n[env]\n[outer]\n");
        let words = "x.tar x tar.gz gz x.zip.gz x.taR.gz none is $GIVEN $GIVEN";
        assert_eq!(sh(&engine, "args", "cat /unseen /seen"), seen + words);
        let given = ["-t", "args", "--build-arg", "GIVEN=a.b", "--build-arg", "GLOBAL=flag", "--build-arg", "EMPTY="];
        said(build(&engine, door, &context, &given));
        let text = sh(&engine, "args", "cat /seen");
        assert!(text.starts_with(&format!("[flag][a.b][][{arch}][linux]\n[env]\n[flag]\n")), "{text}");
        // A proxy needs no declaration, and what it is called changes no step.
        let all = said(build(&engine, door, &context, &["-t", "args", "--build-arg", "http_proxy=http://nowhere:1"]));
        assert!(all.to_lowercase().contains("cache"), "{all}");
        let why = build(&engine, door, &context, &["--build-arg", "TAG=missing"]).failure(1);
        assert!(why.contains("tiny:missing") && why.contains(">>> FROM tiny:$TAG"), "{door:?}: {why}");
    }
}

#[test]
fn triggers_of_a_base_run_in_the_stage_that_builds_on_it() {
    let Some(engine) = Engine::start("build-onbuild") else { return };
    let base = "FROM tiny\nONBUILD COPY app /app\nONBUILD RUN cat /app >/ran && echo $WHO >>/ran\nONBUILD ENV LATE=1\n";
    let context =
        Context::new("FROM trigger\nENV WHO=me\nRUN echo own >>/ran\n", &[("app", "the app\n"), ("Base", base)]);
    for door in doors() {
        let file = context.at("Base");
        said(build(&engine, door, &context, &["-t", "trigger", "-f", file.to_str().unwrap()]));
        assert_eq!(config(&engine, "trigger")["OnBuild"].as_array().unwrap().len(), 3);
        said(build(&engine, door, &context, &["-t", "triggered"]));
        assert_eq!(sh(&engine, "triggered", "cat /ran; echo $LATE"), "the app\n\nown\n1");
        assert!(config(&engine, "triggered")["OnBuild"].as_array().is_none_or(Vec::is_empty));
    }
}

#[test]
fn commands_run_as_shell_words_lists_and_here_documents() {
    let Some(engine) = Engine::start("build-run") else { return };
    let context = Context::new(
        r#"FROM tiny
RUN echo shell | tr a-z A-Z >/a && \
    # a comment in between
    echo more >>/a
RUN ["/bin/sh", "-c", "echo \"exec $HOME\" >>/a"]
RUN <<EOF
set -e
echo "here $HOME" >>/a
echo two >>/a
EOF
RUN <<'SCRIPT'
#!/bin/awk -f
BEGIN { print "awk $HOME" >> "/a" }
SCRIPT
RUN cat <<ONE >>/a && cat <<-TWO >>/a
first
ONE
	tabs are gone
	TWO
COPY <<file.txt <<"raw" /etc/conf/
value=$PATH
file.txt
raw=$PATH
raw
ENV V=expanded
COPY --chmod=640 <<EOF /one
$V
EOF
"#,
        &[],
    );
    for door in doors() {
        said(build(&engine, door, &context, &["-t", "run", "--no-cache"]));
        let expected = "SHELL\nmore\nexec /root\nhere /root\ntwo\nawk $HOME\nfirst\ntabs are gone";
        assert_eq!(sh(&engine, "run", "cat /a"), expected);
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(sh(&engine, "run", "cat /etc/conf/file.txt /etc/conf/raw"), format!("value={path}\nraw=$PATH"));
        let left = sh(&engine, "run", "cat /one; stat -c %a /one; ls /dev/pipes 2>&1; true");
        assert_eq!(left, "expanded\n640\nls: /dev/pipes: No such file or directory");
    }
}

#[test]
fn steps_have_the_network_that_they_ask_for() {
    let Some(engine) = Engine::start("build-network") else { return };
    let context = Context::new(
        "FROM tiny\nRUN --network=none ls /sys/class/net | sort | tr '\\n' ' ' >/none\n\
         RUN ls /sys/class/net | sort | tr '\\n' ' ' >/default; cat /etc/hosts >/hosts; hostname >/name\n\
         RUN --network=host readlink /proc/self/ns/net >/host\n",
        &[],
    );
    let refused = build(&engine, Door::Berth, &context, &[]).failure(1);
    assert!(refused.contains("network.host is not allowed") && refused.contains("--allow network.host"), "{refused}");
    let given = ["-t", "net", "--allow", "network.host", "--add-host", "elsewhere:192.0.2.9"];
    said(build(&engine, Door::Berth, &context, &given));
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(sh(&engine, "net", "cat /host"), host.to_str().unwrap());
    assert_eq!(sh(&engine, "net", "cat /none").trim(), "lo");
    assert_eq!(sh(&engine, "net", "cat /default").trim(), "eth0 lo");
    let hosts = sh(&engine, "net", "cat /hosts /name");
    assert!(hosts.contains("192.0.2.9\telsewhere") && hosts.ends_with("buildkitsandbox"), "{hosts}");
    // The whole build's network.
    let plain = Context::new("FROM tiny\nRUN ls /sys/class/net | tr '\\n' ' ' >/net\n", &[]);
    for door in doors() {
        said(build(&engine, door, &plain, &["-t", "off", "--network", "none"]));
        assert_eq!(sh(&engine, "off", "cat /net").trim(), "lo", "{door:?}");
    }
}
