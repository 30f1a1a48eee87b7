//! Dockerfiles that want out: BuildKit's flaws of 2024, each once more.

use crate::common::{Context, Door, build, doors, said, sh};
use berth_testkit::Engine;

/// A folder of the host that no build may read or change, with something empty in it.
fn victim(engine: &Engine) -> std::path::PathBuf {
    let victim = engine.root().join("victim");
    std::fs::create_dir_all(victim.join("empty")).unwrap();
    std::fs::write(victim.join("file"), "").unwrap();
    std::fs::write(victim.join("secret"), "of the host").unwrap();
    victim
}

/// CVE-2024-23651: what a mount takes from a cache or a stage may be a link by the time it is mounted.
#[test]
fn a_mounts_source_that_is_a_link_does_not_show_the_host() {
    let Some(engine) = Engine::start("build-23651") else { return };
    let victim = victim(&engine);
    let victim = victim.display();
    let begin = format!(
        "FROM scratch AS single\nCOPY link /\nFROM tiny AS evil\nRUN ln -s {victim} /link && mkdir /deep && ln -s / /deep/up\n\
         RUN --mount=type=cache,id=c,target=/c ln -sfn {victim} /c/link && ln -sfn ../../../../.. /c/up\nFROM tiny\nCOPY --from=evil /deep /done\n"
    );
    let link = |context: &Context| std::os::unix::fs::symlink(victim.to_string(), context.at("link")).unwrap();
    let first = Context::new(&begin, &[]);
    link(&first);
    said(build(&engine, Door::Berth, &first, &[]));
    for mount in [
        "type=cache,id=c,source=link",
        "type=cache,id=c,source=link/empty",
        &format!("type=cache,id=c,source=up{victim}"),
        "type=bind,source=link",
        "type=bind,from=single,source=/link",
        "type=bind,from=single,source=/link,rw",
        "type=bind,from=evil,source=/link",
        "type=bind,from=evil,source=/link/empty,rw",
        &format!("type=bind,from=evil,source=/deep/up{victim}"),
    ] {
        let step = format!(
            "{begin}RUN --mount={mount},target=/m ls -A /m; cat /m/secret; touch /m/written; ls -A /m | grep -q secret && exit 9; true\n"
        );
        let context = Context::new(&step, &[]);
        link(&context);
        let output = build(&engine, Door::Berth, &context, &["--no-cache-filter", "none"]);
        let all = format!("{}{}", output.stdout, output.stderr);
        assert!(!all.contains("of the host") && !all.contains("exit code: 9"), "{mount}: {all}");
        let left: Vec<_> =
            std::fs::read_dir(engine.root().join("victim")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{mount}: {left:?}");
        assert_eq!(std::fs::read_dir(engine.root().join("victim/empty")).unwrap().count(), 0, "{mount}");
    }
}

/// CVE-2024-23652: a step puts a link where the folder of a mount point was, which is then cleaned up on the host.
#[test]
fn cleaning_up_after_mounts_removes_nothing_of_the_host() {
    let Some(engine) = Engine::start("build-23652") else { return };
    let victim = victim(&engine);
    let text = format!(
        "FROM tiny\nRUN --mount=type=cache,target=/a/empty --mount=type=tmpfs,target=/b/file mv /a /moved && ln -s {v} /a && mv /b /c && ln -s {v} /b\n\
         RUN --mount=type=tmpfs,target=/x/y/empty mv /x /w && mkdir /x && ln -s {v} /x/y\nRUN mv /etc /other && ln -s {v} /etc\n",
        v = victim.display()
    );
    let context = Context::new(&text, &[]);
    for door in doors() {
        // Whether it may do so is the kernel's business; that the host's folder stays is ours.
        build(&engine, door, &context, &["-t", "moved", "--no-cache"]);
        assert!(victim.join("empty").is_dir() && victim.join("file").is_file() && victim.join("secret").is_file());
    }
}

/// CVE-2024-23653: rights beyond a container's are given only to who allowed them, whichever way a step comes in.
#[test]
fn no_step_gets_more_rights_than_were_allowed() {
    let Some(engine) = Engine::start("build-23653") else { return };
    let step = "RUN --security=insecure mount -t tmpfs none /mnt && echo privileged >/p";
    let trigger = Context::new(&format!("FROM tiny\nRUN mkdir /mnt\nONBUILD {step}\n"), &[]);
    said(build(&engine, Door::Berth, &trigger, &["-t", "trigger"]));
    for text in [format!("FROM tiny\nRUN mkdir /mnt\n{step}\n"), "FROM trigger\n".to_owned()] {
        let context = Context::new(&text, &[]);
        for door in doors() {
            let refused = build(&engine, door, &context, &[]).failure(1);
            assert!(refused.contains("security.insecure is not allowed"), "{door:?}: {refused}");
        }
        said(build(&engine, Door::Berth, &context, &["-t", "given", "--allow", "security.insecure"]));
        assert_eq!(sh(&engine, "given", "cat /p"), "privileged");
    }
    // Without them a step is as any container.
    let plain =
        Context::new("FROM tiny\nRUN mkdir /mnt; ! mount -t tmpfs none /mnt && ! test -w /proc/sysrq-trigger\n", &[]);
    for door in doors() {
        said(build(&engine, door, &plain, &["--no-cache"]));
    }
}
