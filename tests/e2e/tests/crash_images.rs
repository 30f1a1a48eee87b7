//! The engine is killed at random moments of pulls, loads and removals: what was answered stays true, nothing that is not
//! whole can be seen, nothing is left, and `system df` says what the disk has.
//!
//! Every run has another seed, and prints it: `BERTH_SEED` plays one again, as far as time can be. `BERTH_KILLS` sets
//! the number of kills; 200 take a minute, and are part of the nightly run.

use berth_testkit::{Engine, Link, Random, Registry, Remote, Response, du, setting, wait_until};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KILLS: u64 = 60;
const WORKERS: usize = 3;
const IMAGES: usize = 4;
/// Slow enough that a kill finds a layer on its way.
const MEGABYTES_PER_SECOND: u32 = 60;
/// An engine that does not come back within this is lost.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a worker whose answer is waited for may take.
const LULL: Duration = Duration::from_secs(2);

/// One of the images that come and go, all on the same first layer.
struct Image {
    id: String,
    /// As `docker save` writes it.
    archive: Vec<u8>,
}

/// One client with tags of its own, of images that the others have too.
struct Worker<'a> {
    number: usize,
    remote: Remote,
    random: Random,
    repository: &'a str,
    images: &'a [Image],
    stop: &'a AtomicBool,
    answers: &'a AtomicU64,
}

impl Worker<'_> {
    /// Asks until somebody answers whole.
    fn until_answered(&self, what: &str, ask: impl Fn() -> Option<Response>) -> Response {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask() {
                let text = answer.text();
                assert!(!text.contains("errorDetail") && answer.status < 500, "{what}: {} {text}", answer.status);
                self.answers.fetch_add(1, Ordering::AcqRel);
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: nobody answers");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn ask(&self, method: &str, path: &str) -> Response {
        self.until_answered(path, || self.remote.try_api(method, path, ""))
    }

    /// The image has its id under `name`, or is not there.
    fn check(&self, name: &str, image: Option<&Image>) {
        let answer = self.ask("GET", &format!("/images/{name}/json"));
        match image {
            Some(image) => assert_eq!((answer.status, answer.json()["Id"].as_str()), (200, Some(&*image.id)), "{name}"),
            None => assert_eq!(answer.status, 404, "{name} was removed: {}", answer.text()),
        }
    }

    fn work(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let which = usize::try_from(self.random.below(IMAGES as u64)).expect("a small number");
            let image = &self.images[which];
            let pulled = format!("{}{which}:{}", self.repository, self.number);
            match self.random.below(8) {
                0..3 => {
                    let path = format!("/images/create?fromImage={}{which}&tag={}", self.repository, self.number);
                    let answer = self.ask("POST", &path);
                    assert!(answer.text().contains("Status: "), "{}", answer.text());
                    self.check(&pulled, Some(image));
                }
                3 => {
                    let load = || self.remote.try_archive("POST", "/images/load", &image.archive);
                    let answer = self.until_answered("load", load);
                    assert!(answer.text().contains("Loaded image"), "{}", answer.text());
                }
                // More often than it comes, so that it has to come again.
                _ => {
                    for name in [&*pulled, &format!("saved{which}:1")] {
                        // A 404: somebody else was faster, or the answer was cut off.
                        let answer = self.ask("DELETE", &format!("/images/{name}"));
                        assert!(matches!(answer.status, 200 | 404), "{name}: {} {}", answer.status, answer.text());
                    }
                    self.check(&pulled, None);
                }
            }
        }
    }
}

/// Makes the image and gives it to the registry under a tag for each worker; nothing of it stays here.
fn make(engine: &Engine, registry: &Registry, number: usize) -> Image {
    let saved = format!("saved{number}:1");
    let noise = format!("busybox head -c {} /dev/urandom >/noise", 2_000_000 + 1_000_000 * number);
    engine.docker(["run", "--name", "maker", "base", "sh", "-c", &noise]).success();
    engine.docker(["commit", "maker", &saved]).success();
    engine.docker(["rm", "maker"]).success();
    let id = engine.docker(["inspect", "--type", "image", "-f", "{{.Id}}", &saved]).success();
    for worker in 0..WORKERS {
        let name = format!("{}/image{number}:{worker}", registry.address());
        engine.docker(["tag", &saved, &name]).success();
        engine.docker(["push", "-q", &name]).success();
        engine.docker(["rmi", &name]).success();
    }
    let file = engine.root().join("saved.tar");
    engine.docker(["save", "-o", file.to_str().expect("our own path"), &saved]).success();
    engine.docker(["rmi", &saved]).success();
    Image { id, archive: std::fs::read(file).expect("just written") }
}

/// Makes `base`: a shell, and a layer that all images share.
fn make_base(engine: &Engine) {
    let folder = engine.root().join("base");
    std::fs::create_dir_all(folder.join("bin")).expect("scratch folder");
    std::fs::copy("/bin/busybox", folder.join("bin/busybox")).expect("busybox is readable");
    std::os::unix::fs::symlink("busybox", folder.join("bin/sh")).expect("scratch folder");
    let archive = folder.with_extension("tar");
    let packed = Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&archive).arg(".").status();
    assert!(packed.is_ok_and(|status| status.success()), "tar");
    engine.docker(["import", archive.to_str().expect("our own path"), "base"]).success();
}

/// Kills at moments that `random` chooses: any, or just after an answer to a worker that it chooses, so that on a slow
/// machine everybody gets on.
fn kill_again_and_again(
    engine: &mut Engine,
    kills: u64,
    random: &mut Random,
    answers: &[AtomicU64],
    stop: &AtomicBool,
) -> u64 {
    for kill in 0..kills {
        let whose = &answers[usize::try_from(random.below(WORKERS as u64)).expect("a small number")];
        let (enough, until) = (whose.load(Ordering::Acquire) + random.below(4), Instant::now() + LULL);
        while whose.load(Ordering::Acquire) < enough && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        engine.kill();
        let launched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.launch()));
        if let Err(cause) = launched {
            stop.store(true, Ordering::Release);
            std::panic::resume_unwind(cause);
        }
        if stop.load(Ordering::Acquire) {
            return kill;
        }
    }
    stop.store(true, Ordering::Release);
    kills
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

#[test]
fn pulls_loads_and_removals_that_are_killed_leave_a_store_that_df_tells_the_truth_of() {
    let Some(registry) = Registry::plain() else { return };
    let Some(mut engine) = Engine::start("crash-images") else { return };
    let (mut random, kills) = (Random::of_this_run(), setting("BERTH_KILLS", KILLS));
    make_base(&engine);
    let images: Vec<Image> = (0..IMAGES).map(|number| make(&engine, &registry, number)).collect();
    engine.docker(["rmi", "base"]).success();
    engine.docker(["image", "prune", "-f"]).success();
    let data = engine.root().join("data");
    let on_disk = || du(&data.join("layers")) + du(&data.join("content"));
    let before = on_disk();
    let link = Link::slow(registry.address(), MEGABYTES_PER_SECOND);
    let repository = format!("{}/image", link.address());
    let (stop, answers) = (&AtomicBool::new(false), &[const { AtomicU64::new(0) }; WORKERS]);
    let done = std::thread::scope(|scope| {
        for (number, answers) in answers.iter().enumerate() {
            let random = Random(random.0.wrapping_add(number as u64 + 1));
            let (repository, images) = (&*repository, &*images);
            let worker = Worker { number, remote: engine.remote(), random, repository, images, stop, answers };
            scope.spawn(move || {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.work()));
                if let Err(cause) = ended {
                    stop.store(true, Ordering::Release);
                    std::panic::resume_unwind(cause);
                }
            });
        }
        kill_again_and_again(&mut engine, kills, &mut random, answers, stop)
    });
    let all: u64 = answers.iter().map(|answers| answers.load(Ordering::Acquire)).sum();
    println!("{done} kills, {all} answers, {} MB pulled", link.bytes_down() / 1_000_000);
    assert!(all * 4 > kills, "the workers came to next to nothing");
    // What a kill left on its way, and what is there, is all counted.
    engine.docker(["pull", "-q", &format!("{repository}0:0")]).success();
    engine.check_df();
    assert!(engine.berth(["system", "check"]).success().contains("checked"));
    let noise = engine.docker(["run", "--rm", &format!("{repository}0:0"), "sh", "-c", "busybox wc -c </noise"]);
    assert_eq!(noise.success(), "2000000");
    // And gone, when it is no longer wanted.
    let names = engine.docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]).success();
    for name in names.lines().filter(|name| !name.starts_with("tiny:")) {
        engine.docker(["rmi", name]).success();
    }
    engine.docker(["image", "prune", "-f"]).success();
    assert_eq!(engine.docker(["images", "-aq"]).success().lines().count(), 1, "only tiny is left");
    wait_until("nothing is half there", || files_below(&data.join("content")) == 0);
    let folders = std::fs::read_dir(data.join("layers")).expect("its folder").count();
    wait_until("the disk is as it was", || on_disk().abs_diff(before) <= 64 << 10);
    assert_eq!(folders, 1, "{:?}", std::fs::read_dir(data.join("layers")).map(Iterator::collect::<Vec<_>>));
}
