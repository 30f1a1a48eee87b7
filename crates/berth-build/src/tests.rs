//! The solver with a worker that only takes notes.

use super::*;
use berth_dockerfile::platform::Platform;
use berth_types::spec::Config;
use berth_types::{Digest, Error, ExitStatus, Result};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Notes {
    cache: Mutex<BTreeMap<Digest, Known>>,
    done: Mutex<Vec<String>>,
    context: Mutex<MemTree>,
    triggers: Vec<String>,
    running: Mutex<(usize, usize)>,
    /// What a RUN leaves does not depend on what it ran on.
    same_output: bool,
    /// Layers that are known, and lie elsewhere; `true` where they can be fetched.
    away: Mutex<BTreeMap<Digest, bool>>,
}

fn layer(text: &str) -> Layer {
    use sha2::Digest as _;
    Layer { diff_id: Digest::from_bytes(sha2::Sha256::digest(text).into()), bytes: 1 }
}

impl Notes {
    fn note(&self, text: String) {
        self.done.lock().unwrap().push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().unwrap())
    }
}

impl Images for Notes {
    fn image<'a>(&'a self, name: &'a str, _: &'a Platform, _: bool) -> BoxFuture<'a, Result<BaseImage>> {
        Box::pin(async move {
            if name.starts_with("no") {
                return Err(Error::not_found(format!("No such image: {name}")));
            }
            let config = Config {
                env: vec!["PATH=/bin".into()],
                on_build: Some(self.triggers.clone()).filter(|list| !list.is_empty()),
                ..Config::default()
            };
            Ok(BaseImage {
                id: None,
                config,
                platform: Platform::host(),
                author: String::new(),
                layers: vec![layer(name)],
                history: Vec::new(),
            })
        })
    }
}

impl Worker for Notes {
    fn context<'a>(&'a self, _: Option<&'a str>) -> BoxFuture<'a, Result<Arc<dyn Tree>>> {
        let tree: Arc<dyn Tree> = Arc::new(self.context.lock().unwrap().clone());
        Box::pin(async move { Ok(tree) })
    }

    fn tree<'a>(&'a self, layers: &'a [Layer]) -> BoxFuture<'a, Result<Arc<dyn Tree>>> {
        let _ = layers;
        let tree: Arc<dyn Tree> = Arc::new(MemTree::one("out", b"same".to_vec()));
        Box::pin(async move { Ok(tree) })
    }

    fn fetch<'a>(&'a self, what: &'a Remote) -> BoxFuture<'a, Result<Arc<dyn Tree>>> {
        let Remote::Http { name, .. } = what else { panic!() };
        let tree: Arc<dyn Tree> = Arc::new(MemTree::one(name, b"fetched".to_vec()));
        Box::pin(async move { Ok(tree) })
    }

    fn run(&self, step: RunStep, output: Output) -> BoxFuture<'_, Result<Ran>> {
        Box::pin(async move {
            let text = step.args.last().unwrap().clone();
            {
                let mut running = self.running.lock().unwrap();
                running.0 += 1;
                running.1 = running.1.max(running.0);
            }
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            self.running.lock().unwrap().0 -= 1;
            output(Stream::Stdout, format!("doing {text}\n").as_bytes());
            self.note(format!("run {text}"));
            let code = u8::from(text.contains("fail"));
            let made = if self.same_output { layer(&text) } else { layer(&format!("{text}{:?}", step.layers)) };
            Ok(Ran { status: ExitStatus::Code(code), out_of_memory: false, layer: Some(made) })
        })
    }

    fn copy(&self, step: CopyStep) -> BoxFuture<'_, Result<Option<Layer>>> {
        Box::pin(async move {
            self.note(format!("copy {}", step.destination));
            Ok(Some(layer(&format!("copy{}", step.destination))))
        })
    }

    fn mkdir(&self, step: MkdirStep) -> BoxFuture<'_, Result<Option<Layer>>> {
        Box::pin(async move {
            self.note(format!("mkdir {}", step.path));
            Ok(None)
        })
    }

    fn lookup(&self, key: &Digest) -> Option<Known> {
        self.cache.lock().unwrap().get(key).copied()
    }

    fn remember(&self, key: &Digest, known: Known, _: &str) {
        self.cache.lock().unwrap().insert(*key, known);
    }

    fn is_elsewhere(&self) -> bool {
        !self.away.lock().unwrap().is_empty()
    }

    fn ready<'a>(&'a self, layers: &'a [Layer]) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let away = self.away.lock().unwrap();
            Ok(layers.iter().all(|layer| match away.get(&layer.diff_id) {
                None => true,
                Some(false) => false,
                Some(true) => {
                    self.note(format!("fetch {}", layer.diff_id.short()));
                    true
                }
            }))
        })
    }
}

fn options(dockerfile: &str) -> BuildOptions {
    BuildOptions { dockerfile: dockerfile.as_bytes().to_vec(), ..BuildOptions::default() }
}

async fn run(notes: &Notes, options: &BuildOptions) -> Outcome {
    build(options, notes, Arc::new(|_| {})).await
}

async fn fails(dockerfile: &str) -> BuildError {
    run(&Notes::default(), &options(dockerfile)).await.unwrap_err()
}

const TWO: &str = "FROM base AS a\nRUN one\nFROM base AS b\nRUN two\nFROM base AS unneeded\nRUN never\nFROM base\n\
    COPY --from=a /out /a\nCOPY --from=b /out /b\nRUN last\n";

#[tokio::test]
async fn what_lies_elsewhere_is_fetched_only_where_its_files_are_needed() {
    let notes = Notes::default();
    let first = run(&notes, &options(TWO)).await.unwrap();
    notes.take();
    // Of another engine: the target's own layers can be had, those of the stages before it not.
    let target: Vec<Digest> = first.layers.iter().skip(1).map(|layer| layer.diff_id).collect();
    let all: Vec<Digest> = first.records.iter().filter_map(|record| record.known.layer).map(|l| l.diff_id).collect();
    *notes.away.lock().unwrap() = all.iter().map(|layer| (*layer, target.contains(layer))).collect();
    let second = run(&notes, &options(TWO)).await.unwrap();
    assert_eq!(second.layers, first.layers);
    let mut done = notes.take();
    done.dedup();
    assert_eq!(done.len(), 3, "{done:?}");
    assert!(done.iter().all(|line| line.starts_with("fetch")), "nothing is run: {done:?}");
    // One of the target's is lost: what it is made of is made again, as far as that is needed.
    let copied = first.layers[1].diff_id;
    notes.away.lock().unwrap().insert(copied, false);
    let third = run(&notes, &options(TWO)).await.unwrap();
    assert_eq!(third.layers, first.layers);
    let done: Vec<String> = notes.take().into_iter().filter(|line| !line.starts_with("fetch")).collect();
    assert_eq!(done[..2], ["run one", "copy /a"], "{done:?}");
}

#[tokio::test]
async fn independent_stages_run_side_by_side_and_unneeded_ones_never() {
    let notes = Notes::default();
    let built = run(&notes, &options(TWO)).await.unwrap();
    let mut done = notes.take();
    assert_eq!(done.pop().as_deref(), Some("run last"));
    done.sort();
    assert_eq!(done, ["copy /a", "copy /b", "run one", "run two"]);
    assert_eq!(notes.running.lock().unwrap().1, 2, "two at the same time");
    assert_eq!(built.layers.len(), 4);
    assert_eq!(built.history.iter().filter(|step| !step.empty_layer).count(), 3);
    assert_eq!(built.history.last().unwrap().created_by, "RUN /bin/sh -c last # buildkit");

    assert_eq!(run(&notes, &options(TWO)).await.unwrap().layers, built.layers);
    assert!(notes.take().is_empty(), "everything is known");
}

#[tokio::test]
async fn shared_steps_run_once() {
    let notes = Notes::default();
    let text = "FROM base AS common\nRUN shared\nFROM common AS x\nRUN x\nFROM common AS y\nRUN y\nFROM base\n\
        COPY --from=x /out /x\nCOPY --from=y /out /y\n";
    run(&notes, &options(text)).await.unwrap();
    assert_eq!(notes.take().iter().filter(|step| *step == "run shared").count(), 1);
}

#[tokio::test]
async fn a_changed_file_runs_only_what_sees_it() {
    let text = "FROM base\nCOPY package.json /\nRUN install\nCOPY . /src/\nRUN build\n";
    let notes = Notes::default();
    let files = |main: &str, mtime: i64| {
        let mut tree = MemTree::default();
        for (name, data) in [("package.json", "{}"), ("main.c", main)] {
            let meta = Meta { mtime_nanos: mtime, ..Meta::file(data.len() as u64, 0o644) };
            tree.add(name, meta, data.as_bytes().to_vec());
        }
        *notes.context.lock().unwrap() = tree;
    };
    files("1", 1);
    run(&notes, &options(text)).await.unwrap();
    assert_eq!(notes.take().len(), 4);
    files("1", 2);
    run(&notes, &options(text)).await.unwrap();
    assert!(notes.take().is_empty(), "times do not count");
    files("2", 2);
    run(&notes, &options(text)).await.unwrap();
    // The layer that the fake copy makes has the same digest: what follows it is known.
    assert_eq!(notes.take(), ["copy /src/"]);
}

#[tokio::test]
async fn a_step_done_again_with_the_same_result_leaves_later_ones_cached() {
    let notes = Notes { same_output: true, ..Notes::default() };
    let text = |arg: &str| format!("FROM base AS a\nRUN same\nFROM base\nCOPY --from=a /out /\nRUN {arg}\n");
    run(&notes, &options(&text("x"))).await.unwrap();
    notes.take();
    let mut again = options(&text("x"));
    again.no_cache_stages.insert("a".into());
    run(&notes, &again).await.unwrap();
    assert_eq!(notes.take(), ["run same"]);
}

#[tokio::test]
async fn arguments_count_where_they_are_declared_and_proxies_never() {
    let text = "ARG TAG=1\nFROM base:$TAG\nRUN early\nARG NAME=x\nRUN $NAME-late\n";
    let notes = Notes::default();
    run(&notes, &options(text)).await.unwrap();
    notes.take();
    let mut with = options(text);
    with.build_args.insert("HTTP_PROXY".into(), "http://proxy".into());
    run(&notes, &with).await.unwrap();
    assert!(notes.take().is_empty());
    with.build_args.insert("NAME".into(), "y".into());
    let built = run(&notes, &with).await.unwrap();
    assert_eq!(notes.take(), ["run $NAME-late"]);
    let made = &built.history.last().unwrap().created_by;
    assert_eq!(made, "RUN |1 NAME=y /bin/sh -c $NAME-late # buildkit");
    assert!(!built.history.iter().any(|step| step.created_by.contains("proxy")));
}

#[tokio::test]
async fn configuration_comes_from_the_stage_and_its_base() {
    let text = "FROM base AS one\nENV A=1 B=${A}x\nUSER www\nWORKDIR /srv\nCMD echo\nFROM one\nWORKDIR sub\n\
        EXPOSE 80 53/udp\nLABEL k=v\nENTRYPOINT [\"run\"]\nVOLUME /data\nSTOPSIGNAL SIGINT\n\
        HEALTHCHECK --interval=5s CMD true\nONBUILD RUN later\n";
    let mut with = options(text);
    with.labels.insert("from".into(), "outside".into());
    let built = run(&Notes::default(), &with).await.unwrap();
    let config = built.config;
    assert_eq!(config.env, ["PATH=/bin", "A=1", "B=x"], "values of the same ENV are not seen yet");
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("www", "/srv/sub"));
    assert_eq!((config.entrypoint.unwrap(), config.cmd), (vec!["run".to_owned()], None));
    assert_eq!(config.exposed_ports.len(), 2);
    assert_eq!(config.labels.len(), 2);
    assert_eq!(config.on_build.unwrap(), ["RUN later"]);
    let health = built.history.iter().find(|step| step.created_by.starts_with("HEALTHCHECK")).unwrap();
    let shown = "HEALTHCHECK {Test:[CMD-SHELL true] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}";
    assert_eq!(health.created_by, shown);
}

#[tokio::test]
async fn triggers_of_the_base_come_first() {
    let notes = Notes { triggers: vec!["RUN trigger".into()], ..Notes::default() };
    let built = run(&notes, &options("FROM base\nRUN own\n")).await.unwrap();
    assert_eq!(notes.take(), ["run trigger", "run own"]);
    assert_eq!(built.config.on_build, None);
}

#[tokio::test]
async fn a_failed_step_shows_its_lines_its_command_and_its_output() {
    let error = fails("FROM base\nRUN good\nRUN fail \\\n  now\n").await;
    assert_eq!(error.lines, Some(berth_dockerfile::Lines::new(3, 4)));
    assert!(error.snippet.contains("   3 | >>> RUN fail \\\n   4 | >>>   now"), "{}", error.snippet);
    assert!(error.error.message.contains("\"/bin/sh -c fail   now\" did not complete successfully: exit code: 1"));
    assert!(error.error.causes[0].contains("doing fail"));
    assert_eq!(error.exit.as_ref().unwrap().1, 1);
}

#[tokio::test]
async fn mistakes_have_words_and_hints() {
    for (text, message, hint) in [
        ("FROM base\nCOPY nofile /\n", "failed to compute cache key: \"/nofile\": not found", "context"),
        ("FROM base AS a\nCOPY --from=a /x /\n", "circular dependency detected on stage: a", ""),
        (
            "FROM base AS a\nCOPY --from=b /x /\nFROM base AS b\nFROM a\n",
            "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
            "",
        ),
        ("FROM base\nCOPY --from=7 /x /\n", "invalid stage index 7", ""),
        ("FROM base\nCOPY a b /c\n", "destination must be a directory and end with a /", ""),
        ("FROM base\nCOPY http://x/y /\n", "source can't be a URL for COPY", "ADD"),
        ("FROM base\nADD --checksum=sha256:aa x /\n", "checksum requires HTTP(S) or Git sources", ""),
        ("FROM base\nCOPY --chmod=9 x /\n", "invalid chmod parameter: '9'", ""),
        ("FROM base\nRUN --security=insecure x\n", "security.insecure is not allowed", "--allow"),
        ("FROM base\nRUN --network=host x\n", "network.host is not allowed", "--allow"),
        ("FROM base\nRUN --mount=type=cache,target=/ x\n", "invalid mount target", ""),
        ("FROM base\nSTOPSIGNAL SIGNOPE\n", "invalid signal: SIGNOPE", ""),
        (
            "FROM base\nRUN --mount=type=bind,from=later,target=/x x\nFROM base AS later\nFROM base\nCOPY --from=0 /out /\n",
            "cannot mount from stage \"later\"",
            "",
        ),
        ("ARG X\nFROM $X\n", "base name ($X) should not be blank", "--build-arg"),
        ("FROM nothere\n", "nothere: No such image", ""),
        ("FROM base\nENV A=\"${B:?is needed}\"\n", "B: is needed", ""),
    ] {
        let error = fails(text).await;
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert!(error.error.hint.clone().unwrap_or_default().contains(hint), "{text}: {:?}", error.error.hint);
        assert!(error.lines.is_some(), "{text}");
    }
    let mut with = options("FROM base AS one\nFROM base AS two\n");
    with.target = "tow".into();
    let error = run(&Notes::default(), &with).await.unwrap_err();
    assert_eq!(error.to_string(), "target stage \"tow\" could not be found (did you mean two?)");
    assert_eq!(error.error.hint.as_deref(), Some("stages: one, two"));
}

#[tokio::test]
async fn the_nearest_file_of_the_context_is_named() {
    let notes = Notes::default();
    *notes.context.lock().unwrap() = MemTree::one("src/Main.c", Vec::new());
    let error = run(&notes, &options("FROM base\nCOPY src/main.c /\n")).await.unwrap_err();
    assert_eq!(error.error.hint.as_deref(), Some("did you mean src/Main.c?"));
}

#[test]
fn a_selection_follows_links_only_within_the_tree() {
    use crate::select::{digest, select};
    let mut tree = MemTree::default();
    let link = |to: &str| Meta { kind: FileKind::Link, link: Some(to.into()), ..Meta::file(0, 0o777) };
    tree.add("a/real.txt", Meta::file(1, 0o644), b"x".to_vec());
    tree.add("a/other.md", Meta::file(1, 0o644), b"y".to_vec());
    tree.add("up", link("../../../a/real.txt"), Vec::new());
    tree.add("loop", link("loop"), Vec::new());
    let none = berth_dockerfile::ignore::Matcher::default();
    let pick = |source: &str| select(&tree, source, false, &none);
    let Shape::File(item) = &pick("up").unwrap()[0] else { panic!() };
    assert_eq!((item.from.as_path(), item.to.as_path()), (Path::new("a/real.txt"), Path::new("up")));
    assert!(pick("loop").is_err());
    assert_eq!(pick("a/*.txt").unwrap().len(), 1);
    assert_eq!(pick("a/*.zip").unwrap().len(), 0);
    let without = berth_dockerfile::ignore::Matcher::new(&["*.md".to_owned()]).unwrap();
    let Shape::Folder(items) = &select(&tree, "a", false, &without).unwrap()[0] else { panic!() };
    assert_eq!(items.len(), 2, "the folder and one file");
    let Shape::Folder(items) = &select(&tree, "./a/./*.txt", true, &none).unwrap()[0] else { panic!() };
    assert_eq!(items.last().unwrap().to, Path::new("real.txt"));
    let Shape::Folder(items) = &select(&tree, "a/*.txt", true, &none).unwrap()[0] else { panic!() };
    assert_eq!(items.last().unwrap().to, Path::new("a/real.txt"));
    let (one, two) = (pick("a").unwrap(), pick("a/real.txt").unwrap());
    assert_ne!(digest(&tree, &one[0]).unwrap(), digest(&tree, &two[0]).unwrap());
}
