//! `COPY`, `ADD` and what the ignore file leaves of the context.

use crate::common::{Context, Door, Repository, build, doors, said, sh};
use berth_testkit::{Engine, Reply, Server};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

#[test]
fn files_are_copied_as_every_flag_says() {
    let Some(engine) = Engine::start("build-copy") else { return };
    let context = Context::new(
        r#"FROM tiny AS from
RUN mkdir -p /srv/deep && echo "from a stage" >/srv/deep/file && ln -s deep/file /srv/link && chown 33:44 /srv/deep/file
FROM tiny
RUN echo 'web:x:77:' >>/etc/group && echo 'web:x:55:77::/:/bin/sh' >>/etc/passwd && ln -s /real /through && mkdir /real
COPY one /plain
COPY one two* /folder/
COPY --chown=web one /chown/name
COPY --chown=12:34 --chmod=u=rwx,go=r one /chown/number
COPY --chown=:web one /chown/group
COPY --chmod=0711 sub /chmod
COPY --link one /linked/one
COPY --from=from /srv /stage/
COPY --from=from --chown=9 /srv/deep/file /stage-file
COPY --exclude=*.log --exclude=deep/skip sub /excluded/
COPY --parents sub/deep/*.txt one /parents/
COPY --parents sub/./deep/a.txt /pivot/
COPY ["two words", "/a name/"]
COPY one /through/
COPY . /all/
WORKDIR /work
COPY one .
COPY one ./renamed
"#,
        &[
            ("one", "1"),
            ("two-a", "a"),
            ("two-b", "b"),
            ("two words", "w"),
            ("sub/x.log", "log"),
            ("sub/keep", "k"),
            ("sub/deep/skip", "s"),
            ("sub/deep/a.txt", "a"),
            ("sub/deep/b.md", "b"),
        ],
    );
    std::fs::set_permissions(context.at("one"), PermissionsExt::from_mode(0o4750)).unwrap();
    symlink("one", context.at("link")).unwrap();
    symlink("/etc/passwd", context.at("sub/out")).unwrap();
    for door in doors() {
        said(build(&engine, door, &context, &["-t", "copy", "--no-cache"]));
        let look = |command: &str| sh(&engine, "copy", command);
        assert_eq!(
            look("cat /plain; stat -c ' %a %u:%g' /plain; ls /folder"),
            "1 4750 0:0\none\ntwo words\ntwo-a\ntwo-b"
        );
        assert_eq!(
            look("cd /chown; stat -c '%n %u:%g %a' name number group"),
            "name 55:77 4750\nnumber 12:34 744\ngroup 0:77 4750"
        );
        assert_eq!(look("stat -c '%a' /chmod /chmod/keep /chmod/deep/a.txt"), "711\n711\n711");
        assert_eq!(look("cat /linked/one; ls -A /linked"), "1one");
        assert_eq!(look("cat /stage/link; stat -c %u:%g /stage/deep/file /stage-file"), "from a stage\n33:44\n9:9");
        assert_eq!(
            look("cd /excluded; find . | sort | tr '\\n' ' '"),
            ". ./deep ./deep/a.txt ./deep/b.md ./keep ./out "
        );
        assert_eq!(
            look("cd /parents; find . -type f | sort | tr '\\n' ' '; find /pivot -type f"),
            "./one ./sub/deep/a.txt /pivot/deep/a.txt"
        );
        assert_eq!(look("cat '/a name/two words'; cat /real/one; cat /work/one /work/renamed"), "w111");
        // A link is a link; what it points at on the host is not looked at.
        assert_eq!(look("readlink /all/link; readlink /all/sub/out"), "one\n/etc/passwd");
    }
}

#[test]
fn the_ignore_file_has_gos_rules_also_through_both_doors() {
    let Some(engine) = Engine::start("build-ignore") else { return };
    let files = [
        (
            ".dockerignore",
            "# comment\n*.log\n**/*.tmp\ndocs\n!docs/README.md\n/build/\n!important.log\nsrc/*/gen\n.git\n",
        ),
        ("a.log", ""),
        ("important.log", ""),
        ("x.tmp", ""),
        ("src/deep/y.tmp", ""),
        ("src/z.log", ""),
        ("docs/README.md", ""),
        ("docs/other.md", ""),
        ("build/out", ""),
        ("src/lib/gen/file", ""),
        ("src/lib/kept", ""),
        (".git/HEAD", ""),
        ("Other", "FROM scratch\nCOPY . /\n"),
        ("Other.dockerignore", "*\n!a.log\n"),
    ];
    let context = Context::new("FROM scratch\nCOPY . /\n", &files);
    for door in doors() {
        said(build(&engine, door, &context, &["-t", "ignore"]));
        let listed = |image: &str| {
            let check = Context::new(
                &format!("FROM tiny\nCOPY --from={image} / /i/\nRUN cd /i; find . -type f | sort >/list\n"),
                &[],
            );
            said(build(&engine, Door::Berth, &check, &["-t", "check"]));
            sh(&engine, "check", "cat /list").replace('\n', " ")
        };
        let expected = "./.dockerignore ./Dockerfile ./Other ./Other.dockerignore ./docs/README.md ./important.log \
            ./src/lib/kept ./src/z.log";
        assert_eq!(listed("ignore"), expected, "{door:?}");
        if door == Door::Berth {
            said(build(&engine, door, &context, &["-t", "other", "-f", context.at("Other").to_str().unwrap()]));
            assert_eq!(listed("other"), "./a.log");
        }
        let why = Context::new("FROM scratch\nCOPY secret.log /\n", &[("secret.log", ""), (".dockerignore", "*.log")]);
        let text = build(&engine, door, &why, &[]).failure(1);
        // Docker's client leaves the file out of what it sends: only we can tell why.
        assert!(door != Door::Berth || text.contains("secret.log is left out by .dockerignore"), "{text}");
        assert!(text.contains(">>> COPY secret.log /"), "{text}");
    }
}

/// A tar file of one file and one link, by the program `tar`.
fn archive(folder: &Path, name: &str, option: &str) {
    let inside = folder.join("inside");
    std::fs::create_dir_all(inside.join("d")).unwrap();
    std::fs::write(inside.join("d/file"), "unpacked").unwrap();
    if !inside.join("d/link").is_symlink() {
        symlink("file", inside.join("d/link")).unwrap();
    }
    let status = Command::new("tar").arg("-C").arg(&inside).arg(option).arg(folder.join(name)).arg("d").status();
    assert!(status.unwrap().success(), "{name}");
}

#[test]
fn archives_are_unpacked_by_add_and_kept_by_copy() {
    let Some(engine) = Engine::start("build-tar") else { return };
    let context = Context::new(
        "FROM tiny\nADD a.tar /plain/\nADD a.tgz /gzip/\nADD a.txz /xz/\nADD a.tbz /bz2/\nADD a.tzst /zstd/\n\
         ADD --chown=5:6 a.tar /owned/\nADD --unpack=false a.tar /kept/\nCOPY a.tgz /copied/\nADD no.tar.gz /no/\n",
        &[("no.tar.gz", "this is no archive")],
    );
    for (name, option) in [("a.tar", "-cf"), ("a.tgz", "-czf"), ("a.txz", "-cJf"), ("a.tbz", "-cjf")] {
        archive(context.path(), name, option);
    }
    let zstd = Command::new("zstd").args(["-qf", "-o"]).arg(context.at("a.tzst")).arg(context.at("a.tar")).status();
    if !zstd.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: needs zstd");
    }
    for door in doors() {
        said(build(&engine, door, &context, &["-t", "tar", "--no-cache"]));
        for place in ["plain", "gzip", "xz", "bz2", "zstd", "owned"] {
            assert_eq!(sh(&engine, "tar", &format!("cat /{place}/d/link")), "unpacked", "{place}");
        }
        assert_eq!(
            sh(&engine, "tar", "stat -c %u:%g /owned/d/file; ls /kept /copied; cat /no/no.tar.gz"),
            "5:6\n/copied:\na.tgz\n\n/kept:\na.tar\nthis is no archive"
        );
    }
}

#[test]
fn archives_cannot_leave_the_stage_they_are_unpacked_in() {
    let Some(engine) = Engine::start("build-hostile") else { return };
    let context = Context::new("FROM tiny\nRUN ln -s / /etc/up\nADD evil.tar /into/\n", &[]);
    let mut builder = tar::Builder::new(std::fs::File::create(context.at("evil.tar")).unwrap());
    let victim = engine.root().join("victim");
    let mut link = |name: &str, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, name, target).unwrap();
    };
    link("out", "../../../../../../../../../..");
    link("abs", "/");
    for name in ["out", "abs"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        let path = format!("{name}{}", victim.display());
        builder.append_data(&mut header, path, &b"evil"[..]).unwrap();
    }
    builder.into_inner().unwrap().flush().unwrap();
    for door in doors() {
        let output = build(&engine, door, &context, &["-t", "evil", "--no-cache"]);
        assert!(!victim.exists(), "an archive wrote outside: {output:?}");
    }
}

#[test]
fn urls_are_added_and_checked() {
    let Some(engine) = Engine::start("build-url") else { return };
    let archive_folder = tempfile::tempdir().unwrap();
    archive(archive_folder.path(), "a.tgz", "-czf");
    let packed = std::fs::read(archive_folder.path().join("a.tgz")).unwrap();
    let server = Server::start(move |request| match request.target.as_str() {
        "/dir/file.txt" => Reply::new(200, "from afar").with("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        "/moved" => Reply::new(302, "").with("Location", "/dir/file.txt"),
        "/a.tgz" => Reply::new(200, packed.clone()),
        "/named" => Reply::new(200, "n").with("Content-Disposition", "attachment; filename=\"given.txt\""),
        "/loop" => Reply::new(302, "").with("Location", "/loop"),
        "/short" => Reply { cut_after: Some(3), ..Reply::new(200, "too short") },
        _ => Reply::new(404, "gone"),
    });
    let address = server.address();
    let good = "sha256:1b9eb72c2a2f7a5d41fbb5ad5ad5c5ea5bd2c5b6ba0f5b6d2fa8bd6d1c2ba8b9";
    let digest = hex("from afar");
    let context = Context::new(
        &format!(
            "FROM tiny\nADD http://{address}/dir/file.txt /into/\nADD --chmod=755 --chown=7:8 http://{address}/moved /name\n\
             ADD --checksum=sha256:{digest} http://{address}/dir/file.txt /checked\nADD http://{address}/a.tgz /kept/\n\
             ADD --unpack=true http://{address}/a.tgz /unpacked/\n"
        ),
        &[],
    );
    for door in doors() {
        said(build(&engine, door, &context, &["-t", "url", "--no-cache"]));
        let look = "cat /into/file.txt /name /checked; stat -c ' %a %u:%g' /name /into/file.txt; ls /kept; cat /unpacked/d/file";
        assert_eq!(sh(&engine, "url", look), "from afarfrom afarfrom afar 755 7:8\n 600 0:0\na.tgz\nunpacked");
        assert_eq!(sh(&engine, "url", "stat -c %Y /into/file.txt"), "1445412480");
        let again = said(build(&engine, door, &context, &["-t", "url"]));
        assert!(again.to_lowercase().contains("cache"), "{again}");
        for (line, words) in [
            (format!("ADD --checksum={good} http://{address}/dir/file.txt /"), "digest mismatch"),
            (format!("ADD http://{address}/missing /"), "404"),
            (format!("ADD http://{address}/loop /"), "redirect"),
            (format!("ADD http://{address}/short /"), "/short"),
            ("ADD http://127.0.0.1:1/x /".to_owned(), "127.0.0.1:1"),
        ] {
            let bad = Context::new(&format!("FROM tiny\n{line}\n"), &[]);
            let text = build(&engine, door, &bad, &[]).failure(1);
            assert!(text.contains(words) && text.contains(&format!(">>> {line}")), "{door:?} {line}: {text}");
        }
    }
}

fn hex(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn git_repositories_are_added() {
    let Some(engine) = Engine::start("build-git") else { return };
    let repository = Repository::new(&[("sub/inner", "inner")]);
    let (url, first) = (repository.url(), &repository.first);
    let context = Context::new(
        &format!(
            "FROM tiny\nADD {url} /head/\nADD {url}#v1 /tag\nADD --keep-git-dir=true {url}#main:sub /folder/\n\
             ADD --checksum={first} {url}#v1 /checked/\nADD {url}#{first} /commit/\n"
        ),
        &[],
    );
    for door in doors() {
        said(build(&engine, door, &context, &["-t", "git", "--no-cache"]));
        let look = "cat /head/file /tag/file /folder/inner /checked/file /commit/file; ls -A /head";
        assert_eq!(sh(&engine, "git", look), "secondfirstinnerfirstfirstfile\nsub");
        for (line, words) in [
            (format!("ADD {url}#nowhere /x/"), "nowhere"),
            (format!("ADD {url}#main:none /x/"), "none"),
            (format!("ADD --checksum=abcdef12 {url}#v1 /x/"), "abcdef12"),
            (format!("ADD {} /x/", url.replace("repo.git", "other.git")), "other.git"),
        ] {
            let bad = Context::new(&format!("FROM tiny\n{line}\n"), &[]);
            let text = build(&engine, door, &bad, &[]).failure(1);
            assert!(text.contains(words) && text.contains(">>> ADD"), "{door:?} {line}: {text}");
        }
    }
}
