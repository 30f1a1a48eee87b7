//! Base images from a distribution's own signed packages, by `mmdebstrap`.
//!
//! Reproducible: files that the installation writes get the day on which the suite came out
//! (`SOURCE_DATE_EPOCH`), files are in the order of their names, and the image's own dates are that day too. The
//! same set of packages gives the same id.

use super::config::{ImageConfig, Step, rfc3339};
use super::{Bootstrap, Images, Progress, ProgressStream};
use crate::events::now_unix_nanos;
use berth_types::spec::Config;
use berth_types::{Digest, Error, ErrorKind, ImageName, Result};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Lines of mmdebstrap kept for an error's text.
const LINES_KEPT_MAX: usize = 8;
/// A word of a request: longer ones are no suites or packages.
const WORD_BYTES_MAX: usize = 256;
const PACKAGES_MAX: usize = 1000;
/// A line of progress; longer ones are cut.
const LINE_BYTES_MAX: u64 = 4096;

/// Suites, what else they are called, and the day they came out (midnight, seconds since 1970).
const SUITES: &[(&str, &str, &[&str], i64)] = &[
    ("debian", "buster", &["10"], 1_562_371_200),
    ("debian", "bullseye", &["11"], 1_628_899_200),
    ("debian", "bookworm", &["12"], 1_686_355_200),
    ("debian", "trixie", &["13"], 1_754_697_600),
    ("debian", "forky", &["14", "testing"], 1_754_697_600),
    ("debian", "sid", &["unstable", "latest"], 1_754_697_600),
    ("debian", "stable", &[], 1_754_697_600),
    ("ubuntu", "focal", &["20.04"], 1_587_600_000),
    ("ubuntu", "jammy", &["22.04"], 1_650_499_200),
    ("ubuntu", "noble", &["24.04", "latest"], 1_713_974_400),
    ("ubuntu", "plucky", &["25.04"], 1_744_848_000),
    ("ubuntu", "questing", &["25.10"], 1_759_968_000),
];
/// For suites that are not in the table.
const UNKNOWN_SUITES_DAY: i64 = 1_754_697_600;

/// Suites whose systemd brings its own resolver; in later ones that is a package.
const RESOLVER_INSIDE: &[&str] = &["buster", "bullseye", "focal", "jammy"];
/// What a machine boots beside its kernel: the first process, its bus (power button), and a network.
const BOOTABLE: &[&str] = &["systemd-sysv", "dbus", "iproute2"];
/// Addresses and names as the machine's network tells them; containers have names of one word. mmdebstrap runs it with the
/// root's folder behind it.
const NETWORK_HOOK: &str = r#"set -e
printf '[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n' > "$1/etc/systemd/network/80-dhcp.network"
mkdir -p "$1/etc/systemd/resolved.conf.d"
printf '[Resolve]\nResolveUnicastSingleLabel=yes\n' > "$1/etc/systemd/resolved.conf.d/names.conf"
chroot "$1" systemctl enable systemd-networkd systemd-resolved
ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf""#;

/// A request that has been checked.
#[derive(Debug, PartialEq)]
struct Plan {
    name: ImageName,
    /// Of the archive.
    suite: String,
    packages: Vec<String>,
    mirror: Option<String>,
    variant: String,
    epoch_seconds: i64,
    /// With a kernel and a first process.
    bootable: bool,
}

/// What `--bootable` installs: Debian's kernel for clouds is there for two processors.
fn bootable_packages(ubuntu: bool, suite: &str) -> Vec<String> {
    let kernel = match (ubuntu, std::env::consts::ARCH) {
        (true, _) => "linux-image-virtual",
        (false, "x86_64") => "linux-image-cloud-amd64",
        (false, "aarch64") => "linux-image-cloud-arm64",
        (false, other) => return bootable_with(&format!("linux-image-{other}"), suite),
    };
    bootable_with(kernel, suite)
}

fn bootable_with(kernel: &str, suite: &str) -> Vec<String> {
    let resolver = (!RESOLVER_INSIDE.contains(&suite)).then_some("systemd-resolved");
    BOOTABLE.iter().copied().chain([kernel]).chain(resolver).map(str::to_owned).collect()
}

/// Words go onto a command line: nothing that could be an option, a path or a shell's business.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= WORD_BYTES_MAX
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:=~_".contains(&b))
}

fn plan(request: &Bootstrap) -> Result<Plan> {
    let text = request.suite.as_str();
    let (family, suite) = match text.split_once(':') {
        Some((family @ ("debian" | "ubuntu"), suite)) => (Some(family), suite),
        Some((other, _)) => {
            return Err(Error::invalid(format!("cannot bootstrap {other}: only debian, ubuntu and busybox are known"))
                .with_hint("for example: berth image bootstrap debian:bookworm"));
        }
        None if matches!(text, "debian" | "ubuntu") => (Some(text), if text == "debian" { "stable" } else { "latest" }),
        None => (None, text),
    };
    if !is_word(suite) {
        return Err(Error::invalid(format!("invalid suite {suite:?}")).with_hint("for example debian:bookworm"));
    }
    let known = SUITES.iter().find(|(of, name, others, _)| {
        family.is_none_or(|family| family == *of) && (*name == suite || others.contains(&suite))
    });
    for package in &request.packages {
        if !is_word(package) {
            return Err(Error::invalid(format!("invalid package name {package:?}")));
        }
    }
    if request.packages.len() > PACKAGES_MAX {
        return Err(Error::invalid(format!("more than {PACKAGES_MAX} packages")));
    }
    let mirror = request.mirror.clone().or_else(|| {
        (known.map(|(of, ..)| *of).or(family) == Some("ubuntu")).then(|| "http://archive.ubuntu.com/ubuntu".to_owned())
    });
    let mirror_fits = |mirror: &String| {
        ["http://", "https://", "file:/", "copy:/", "deb http"].iter().any(|scheme| mirror.starts_with(scheme))
            && !mirror.contains('\n')
    };
    if let Some(mirror) = &mirror
        && !mirror_fits(mirror)
    {
        return Err(Error::invalid(format!("invalid mirror {mirror:?}: a URL is needed")));
    }
    let variant = request.variant.clone().unwrap_or_else(|| "minbase".to_owned());
    let variants = [
        "extract",
        "custom",
        "essential",
        "apt",
        "required",
        "minbase",
        "buildd",
        "important",
        "debootstrap",
        "standard",
    ];
    if !variants.contains(&variant.as_str()) {
        return Err(Error::invalid(format!("invalid variant {variant:?}: one of {}", variants.join(", "))));
    }
    let called = request.name.as_deref().unwrap_or(text);
    let name: ImageName = match (request.name.as_deref(), family) {
        (None, None) => format!("{}:{suite}", known.map_or("debian", |(of, ..)| of)).parse(),
        _ => called.parse(),
    }
    .map_err(|cause: berth_types::reference::InvalidReference| Error::invalid(format!("{cause}: {called:?}")))?;
    if name.digest().is_some() {
        return Err(Error::invalid(format!("an image cannot be named by its digest: {called:?}")));
    }
    let mut packages = request.packages.clone();
    let suite = known.map_or(suite, |(_, name, ..)| name);
    if request.bootable {
        if ["extract", "custom"].contains(&variant.as_str()) {
            return Err(Error::invalid(format!("variant {variant} sets nothing up: no machine boots it")));
        }
        packages.extend(bootable_packages(known.map(|(of, ..)| *of).or(family) == Some("ubuntu"), suite));
    }
    packages.sort();
    packages.dedup();
    Ok(Plan {
        name: name.or_latest(),
        suite: suite.to_owned(),
        packages,
        mirror,
        variant,
        epoch_seconds: known.map_or(UNKNOWN_SUITES_DAY, |(.., day)| *day),
        bootable: request.bootable,
    })
}

impl Images {
    /// Makes a base image from a distribution's packages.
    pub async fn bootstrap(&self, request: Bootstrap) -> Result<ProgressStream> {
        let (sender, receiver) = mpsc::channel(64);
        let images = self.clone();
        if request.suite.split(':').next() == Some("busybox") {
            if request.bootable {
                return Err(Error::invalid("busybox has no kernel that a machine could boot")
                    .with_hint("for example: berth image bootstrap debian:bookworm --bootable"));
            }
            let name = request.name.as_deref().unwrap_or(&request.suite);
            let name =
                name.parse::<ImageName>().map_err(|cause| Error::invalid(format!("{cause}: {name:?}")))?.or_latest();
            let archive = super::busybox::archive()?;
            tokio::task::spawn_blocking(move || {
                let outcome =
                    images.finish(&mut &archive[..], name, super::busybox::config(), 1_686_355_200, "busybox-static");
                drop(sender.blocking_send(outcome.map(Progress::Made)));
            });
            return Ok(ProgressStream { receiver });
        }
        let plan = plan(&request)?;
        tokio::task::spawn_blocking(move || {
            let outcome = images.bootstrap_now(&plan, &sender);
            drop(sender.blocking_send(outcome.map(Progress::Made)));
        });
        Ok(ProgressStream { receiver })
    }

    fn bootstrap_now(&self, plan: &Plan, sender: &mpsc::Sender<Result<Progress>>) -> Result<Digest> {
        drop(sender.blocking_send(Ok(Progress::Line(format!("Installing {} from packages", plan.suite)))));
        let mut running = Running::start(plan)?;
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let (lines, to) = (kept.clone(), sender.clone());
        let stderr = running.child.stderr.take().ok_or_else(|| Error::internal("mmdebstrap has no stderr"))?;
        let reader = std::thread::spawn(move || tell_lines(stderr, &lines, &to));
        let mut stdout = running.child.stdout.take().ok_or_else(|| Error::internal("mmdebstrap has no stdout"))?;
        let inner = Config { cmd: Some(vec!["bash".to_owned()]), env: super::busybox::path_env(), ..Config::default() };
        let mut by = format!("mmdebstrap --variant={} {}", plan.variant, plan.suite);
        if !plan.packages.is_empty() {
            by += &format!(" --include={}", plan.packages.join(","));
        }
        // The archive's end decides nothing: only mmdebstrap's own word makes it an image.
        let mut whole = Whole { inner: &mut stdout, running: &mut running };
        let made = self.finish(&mut whole, plan.name.clone(), inner, plan.epoch_seconds, &by);
        let ended = running.child.wait();
        drop(reader.join());
        match ended {
            Ok(status) if status.success() => made,
            Ok(_) => Err(failed(plan, &kept.lock().unwrap_or_else(PoisonError::into_inner))),
            Err(cause) => Err(Error::because(ErrorKind::Internal, "cannot wait for mmdebstrap", &cause)),
        }
    }

    /// Unpacks the archive and names the image.
    fn finish(
        &self,
        archive: &mut dyn Read,
        name: ImageName,
        inner: Config,
        epoch_seconds: i64,
        by: &str,
    ) -> Result<Digest> {
        let mut made = super::transfer::new_config(None, epoch_seconds * 1_000_000_000)?;
        // The same packages give the same image, whichever engine made it.
        made.docker_version.clear();
        made.history = vec![Step { created: made.created.clone(), created_by: by.to_owned(), ..Step::default() }];
        ImageConfig::set_inner(&mut made, &inner);
        debug_assert_eq!(made.created, rfc3339(epoch_seconds * 1_000_000_000));
        let id = self.import_now(archive, made, Some(name), now_unix_nanos())?;
        self.event("import", &id, &id.to_string());
        Ok(id)
    }
}

/// The program; ended with this value.
struct Running {
    child: Child,
}

impl Running {
    fn start(plan: &Plan) -> Result<Running> {
        let mut command = Command::new("mmdebstrap");
        command
            .arg("--format=tar")
            .arg(format!("--variant={}", plan.variant))
            .args(["--aptopt=Acquire::Retries \"3\"", "--dpkgopt=path-exclude=/usr/share/doc/*"])
            .args(["--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=path-exclude=/usr/share/man/*"])
            .env("SOURCE_DATE_EPOCH", plan.epoch_seconds.to_string())
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        if !plan.packages.is_empty() {
            command.arg(format!("--include={}", plan.packages.join(",")));
        }
        if plan.bootable {
            command.arg(format!("--customize-hook={NETWORK_HOOK}"));
        }
        command.args([plan.suite.as_str(), "-"]).args(plan.mirror.as_deref());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => Ok(Running { child }),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
                ErrorKind::Unavailable,
                "cannot make an image from packages: mmdebstrap is not installed",
            )
            .with_hint("apt install mmdebstrap")),
            Err(cause) => Err(Error::because(ErrorKind::Unavailable, "cannot start mmdebstrap", &cause)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It cleans up after itself on SIGTERM; one that has ended needs none.
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = rustix::process::Pid::from_child(&self.child);
            // It may have ended just now.
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            drop(self.child.wait());
        }
    }
}

/// The archive, whose end is an error unless the program says that all went well.
struct Whole<'a> {
    inner: &'a mut dyn Read,
    running: &'a mut Running,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !buffer.is_empty() && !self.running.child.wait()?.success() {
            return Err(std::io::Error::other("mmdebstrap failed"));
        }
        Ok(count)
    }
}

/// Passes on what mmdebstrap says, and keeps the last lines.
fn tell_lines(from: impl Read, kept: &Mutex<VecDeque<String>>, to: &mpsc::Sender<Result<Progress>>) {
    let mut reader = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => (),
        }
        let text = String::from_utf8_lossy(&line);
        // "done" and bars of a terminal's progress come with carriage returns.
        let text = text.trim().rsplit('\r').next().unwrap_or("").trim();
        if text.is_empty() {
            continue;
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == LINES_KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(text.to_owned());
        drop(kept);
        let shown = text.strip_prefix("I: ").unwrap_or(text);
        // Nobody may be listening any more; reading on keeps the program from blocking.
        drop(to.blocking_send(Ok(Progress::Line(shown.to_owned()))));
    }
}

fn failed(plan: &Plan, lines: &VecDeque<String>) -> Error {
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    let said = lines.iter().rev().find(|line| line.starts_with("E: ") && !line.contains("apt-get update"));
    let said = said.or(lines.back()).map_or("it did not say why", String::as_str);
    let why = said.strip_prefix("E: ").unwrap_or(said);
    let message = format!("cannot make an image of {}: {why}", plan.suite);
    let hint = if has("does not have a Release file") || has("404") {
        "is there such a suite on that mirror? For example: berth image bootstrap debian:bookworm"
    } else if has("NO_PUBKEY") || has("not signed") {
        "install the archive's keys: apt install debian-archive-keyring ubuntu-keyring"
    } else if has("Unable to locate package") || has("has no installation candidate") {
        "that suite has no such package: look for it on packages.debian.org"
    } else if has("Temporary failure resolving") || has("Could not connect") || has("Could not resolve") {
        "the mirror cannot be reached: set http_proxy for berthd, or name another one with --mirror"
    } else {
        return Error::new(ErrorKind::Unavailable, message);
    };
    Error::new(ErrorKind::Unavailable, message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(suite: &str) -> Result<Plan> {
        plan(&Bootstrap { suite: suite.to_owned(), ..Bootstrap::default() })
    }

    #[test]
    fn suites_are_known_by_all_their_names() {
        for (text, name, suite) in [
            ("debian:bookworm", "debian:bookworm", "bookworm"),
            ("debian:12", "debian:12", "bookworm"),
            ("bookworm", "debian:bookworm", "bookworm"),
            ("debian", "debian:latest", "stable"),
            ("ubuntu:24.04", "ubuntu:24.04", "noble"),
            ("debian:new-one", "debian:new-one", "new-one"),
        ] {
            let plan = planned(text).unwrap();
            assert_eq!((plan.name.familiar().as_str(), plan.suite.as_str()), (name, suite));
        }
        assert!(planned("ubuntu:noble").unwrap().mirror.unwrap().contains("ubuntu"));
    }

    #[test]
    fn words_that_could_be_options_are_refused() {
        for bad in ["--customize-hook=x", "debian:--x", "debian:a b", "", "fedora:40", "debian:a/b"] {
            assert!(planned(bad).is_err(), "{bad}");
        }
        let request = Bootstrap { suite: "bookworm".into(), packages: vec!["--x".into()], ..Bootstrap::default() };
        assert!(plan(&request).is_err());
        let request = Bootstrap { suite: "bookworm".into(), mirror: Some("--x".into()), ..Bootstrap::default() };
        assert!(plan(&request).is_err());
    }

    #[test]
    fn the_order_of_packages_does_not_matter() {
        let of = |packages: &[&str]| {
            let packages = packages.iter().map(|&name| name.to_owned()).collect();
            plan(&Bootstrap { suite: "bookworm".into(), packages, ..Bootstrap::default() }).unwrap().packages
        };
        assert_eq!(of(&["b", "a", "b"]), of(&["a", "b"]));
    }

    #[test]
    fn what_boots_has_a_kernel_a_first_process_and_a_resolver() {
        let of = |suite: &str, variant: Option<&str>| {
            let variant = variant.map(str::to_owned);
            plan(&Bootstrap { suite: suite.to_owned(), bootable: true, variant, ..Bootstrap::default() })
        };
        let has =
            |suite: &str, package: &str| of(suite, None).unwrap().packages.iter().any(|one| one.starts_with(package));
        for suite in ["bookworm", "bullseye", "ubuntu:24.04"] {
            assert!(has(suite, "systemd-sysv") && has(suite, "linux-image-"), "{suite}");
        }
        assert!(has("bookworm", "systemd-resolved") && has("ubuntu:noble", "systemd-resolved"));
        assert!(!has("bullseye", "systemd-resolved") && !has("ubuntu:22.04", "systemd-resolved"));
        assert!(has("ubuntu:24.04", "linux-image-virtual"));
        assert!(of("bookworm", Some("extract")).unwrap_err().message.contains("no machine boots it"));
        assert!(planned("bookworm").unwrap().packages.is_empty());
    }

    #[test]
    fn an_unknown_suite_is_told_with_a_hint() {
        let lines = VecDeque::from(["E: The repository 'http://x y Release' does not have a Release file.".to_owned()]);
        let error = failed(&planned("debian:nope").unwrap(), &lines);
        assert!(error.message.starts_with("cannot make an image of nope: The repository"), "{}", error.message);
        assert!(error.hint.unwrap().contains("such a suite"));
    }
}
