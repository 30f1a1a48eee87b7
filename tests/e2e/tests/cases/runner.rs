//! Runs cases against an engine, beside a plain container that they are compared with.

use super::{Case, Check, Kind, Trial, merge};
use berth_testkit::Engine;
use regex::Regex;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For what takes a moment to be so.
fn patience() -> Duration {
    berth_testkit::deadline() / 3
}

pub(crate) struct Runner<'a> {
    engine: &'a Engine,
    plain: String,
    scratch: PathBuf,
    port: u16,
    disk: String,
}

/// The container that checks are about.
struct Subject {
    name: &'static str,
    id: String,
    pid: i32,
    /// Of the answer to create.
    warnings: String,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(engine: &'a Engine) -> Runner<'a> {
        engine.docker(["run", "-d", "--name", "plain", "tiny", "sleep", "1000"]).success();
        let plain = engine.inspect("plain")["Id"].as_str().expect("an id").to_owned();
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let runner = Runner {
            engine,
            plain,
            scratch: engine.root().join("scratch"),
            port: free.expect("a free port").port(),
            disk: berth_testkit::disk().expect("a disk"),
        };
        runner.tidy();
        runner
    }

    pub(crate) fn run(&self, case: &Case<'_>) -> Result<(), String> {
        let mut failures = Vec::new();
        for trial in &case.trials {
            let one = trial.in_machine.filter(|_| berth_testkit::in_machines());
            match one {
                Some(Check { kind: Kind::Left, wanted, .. }) => {
                    berth_testkit::not_in_a_machine(&format!("{}: {wanted}", case.fields.join(" ")));
                }
                Some(check) => failures.extend(self.trial(trial, &[check]).err()),
                None => failures.extend(self.trial(trial, &trial.checks).err()),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
    }

    /// Takes the scratch folder away, and the cgroup that a case asked for: it is the asker's.
    pub(crate) fn end(&self) {
        self.tidy();
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let asked = hierarchy.join(self.engine.cgroup_parent().trim_start_matches('/')).join("deeper");
            if asked.exists() {
                std::fs::remove_dir(&asked).expect("an empty cgroup");
            }
        }
        std::fs::remove_dir_all(&self.scratch).expect("scratch folder");
    }

    /// Removes what a trial made, but for networks and volumes.
    fn tidy(&self) {
        for id in self.engine.containers() {
            if id != self.plain {
                // Some are on their way out already.
                self.engine.api("DELETE", &format!("/containers/{id}?force=1&v=1"), "");
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        for place in below.iter().rev().filter(|place| Path::new(place).starts_with(&self.scratch)) {
            rustix::mount::unmount(*place, rustix::mount::UnmountFlags::DETACH).expect("our own mount");
        }
        if self.scratch.exists() {
            std::fs::remove_dir_all(&self.scratch).expect("scratch folder");
        }
        std::fs::create_dir(&self.scratch).expect("scratch folder");
    }

    fn filled(&self, text: &str) -> String {
        text.replace("$ROOT", &self.scratch.display().to_string())
            .replace("$PORT", &self.port.to_string())
            .replace("$DISK", &self.disk)
            .replace("$PARENT", self.engine.cgroup_parent())
            .replace("$BRIDGE", self.engine.bridge())
    }

    fn shell(&self, line: &str) -> (bool, String) {
        let output = self.engine.command(Path::new("sh")).args(["-c", line]).output().expect("sh is there");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
    }

    fn trial(&self, trial: &Trial<'_>, checks: &[Check<'_>]) -> Result<(), String> {
        for line in &trial.before {
            let (good, said) = self.shell(&self.filled(line));
            if !good {
                return Err(format!("  {line}\n    {said}"));
            }
        }
        let outcome = self.checked(trial, checks).map_err(|why| format!("  body {}\n    {why}", trial.body));
        self.tidy();
        outcome
    }

    fn checked(&self, trial: &Trial<'_>, checks: &[Check<'_>]) -> Result<(), String> {
        let mut body = json!({"Image": "tiny", "Cmd": ["sleep", "1000"]});
        let more = serde_json::from_str(&self.filled(trial.body)).map_err(|error| format!("not JSON: {error}"))?;
        merge(&mut body, more);
        // Before 1.44 the fields that are gone now were in use.
        let created = self.engine.api("POST", "/v1.51/containers/create?name=box", &body.to_string());
        if let [check] = checks
            && check.kind == Kind::Refused
        {
            return refusal("create", check, created.status, &created.text());
        }
        if created.status != 201 {
            return Err(format!("create answers {}: {}", created.status, created.text()));
        }
        let warnings: Value = created.json()["Warnings"].clone();
        let started = self.engine.api("POST", "/containers/box/start", "");
        if let [check] = checks
            && check.kind == Kind::Unstarted
        {
            return refusal("start", check, started.status, &started.text());
        }
        if started.status != 204 {
            return Err(format!("start answers {}: {}", started.status, started.text()));
        }
        let subject = |name: &'static str, id: &str, warnings: String| Subject {
            name,
            id: id.to_owned(),
            pid: self.engine.api("GET", &format!("/containers/{name}/json"), "").json()["State"]["Pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok())
                .unwrap_or_default(),
            warnings,
        };
        let id = created.json()["Id"].as_str().expect("an id").to_owned();
        let asked = subject("box", &id, warnings.to_string());
        for check in checks {
            self.hold(&asked, check)?;
        }
        let plain = subject("plain", &self.plain, "[]".to_owned());
        match checks.iter().all(|check| self.once(&plain, check).is_ok()) {
            true => Err("a plain container passes as well: the case shows nothing".to_owned()),
            false => Ok(()),
        }
    }

    /// Until it holds.
    fn hold(&self, subject: &Subject, check: &Check<'_>) -> Result<(), String> {
        let deadline = Instant::now() + patience();
        loop {
            match self.once(subject, check) {
                Err(why) if Instant::now() > deadline => return Err(why),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn once(&self, subject: &Subject, check: &Check<'_>) -> Result<(), String> {
        let (what, wanted) = (self.filled(check.what), self.filled(check.wanted));
        let said = match check.kind {
            Kind::Inside => {
                let output = self.engine.berth(["exec", subject.name, "sh", "-c", &what]);
                format!("{}{}", output.stdout, output.stderr)
            }
            Kind::Logs => self.engine.berth(["logs", subject.name]).stdout,
            // Of its processes the guest's kernel knows.
            Kind::Host if berth_testkit::in_machines() && what.contains("$PID") => {
                let line = what.replace("$PID", "1");
                let output = self.engine.docker(["exec", "-u", "0:0", subject.name, "sh", "-c", &line]);
                format!("{}{}", output.stdout, output.stderr)
            }
            Kind::Host | Kind::Docker => {
                let line = if check.kind == Kind::Docker { format!("docker {what}") } else { what.clone() };
                let line = line.replace("$PID", &subject.pid.to_string()).replace("$ID", &subject.id);
                let word = Regex::new(r"\bbox\b").expect("a good pattern");
                self.shell(&word.replace_all(&line, subject.name)).1
            }
            Kind::Cgroup => {
                let (v1, v2) = what.split_once(' ').ok_or("two files, of v1 and of v2")?;
                match self.engine.cgroup(subject.name, v1, v2) {
                    Some(said) => said,
                    // What this host cannot keep is at least said.
                    None if subject.warnings == "[]" => return Err(format!("{what}: not here, and nobody was warned")),
                    None => return Ok(()),
                }
            }
            Kind::Shown => {
                let inspected = self.engine.api("GET", &format!("/containers/{}/json", subject.name), "").json();
                let shown = inspected.pointer(&what).cloned().unwrap_or_default();
                let wanted: Value = serde_json::from_str(&wanted).map_err(|error| format!("not JSON: {error}"))?;
                return if shown == wanted { Ok(()) } else { Err(format!("inspect {what}: {shown}, not {wanted}")) };
            }
            Kind::Warns => subject.warnings.clone(),
            Kind::Refused | Kind::Unstarted | Kind::Left => {
                return Err(format!("was expected to be refused: {wanted}"));
            }
        };
        let pattern = Regex::new(&wanted).map_err(|error| error.to_string())?;
        match pattern.is_match(said.trim()) {
            true => Ok(()),
            false => Err(format!("{:?} {what} => {wanted}\n    said: {}", check.kind, said.trim())),
        }
    }
}

fn refusal(what: &str, check: &Check<'_>, status: u16, text: &str) -> Result<(), String> {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    let message = message["message"].as_str().unwrap_or(text);
    let (wanted, pattern) = (Regex::new(&format!("^{}$", check.what)), Regex::new(check.wanted));
    let (wanted, pattern) = (wanted.map_err(|e| e.to_string())?, pattern.map_err(|e| e.to_string())?);
    match wanted.is_match(&status.to_string()) && status >= 400 && pattern.is_match(message) {
        true => Ok(()),
        false => Err(format!("{what} answers {status}: {message}\n    not {} {}", check.what, check.wanted)),
    }
}
