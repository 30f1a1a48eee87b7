//! A bundle of its own for each test, and the commands on it.

use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing here takes longer, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

pub(crate) struct Bundle {
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    pub(crate) config: Value,
    pub(crate) runtime: PathBuf,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    #[track_caller]
    pub(crate) fn failure(self) -> String {
        assert_ne!(self.code, 0, "{self:?}");
        self.err
    }
}

pub(crate) fn program() -> PathBuf {
    std::env::var_os("RUNTIME").map_or_else(|| env!("CARGO_BIN_EXE_berth-runtime").into(), PathBuf::from)
}

/// Whether the program under test is ours.
pub(crate) fn ours() -> bool {
    std::env::var_os("RUNTIME").is_none()
}

pub(crate) fn skipped() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return true;
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: needs /bin/busybox");
        return true;
    }
    false
}

impl Bundle {
    /// `None` where the test is to be skipped.
    pub(crate) fn new(name: &str) -> Option<Bundle> {
        if skipped() {
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("bt-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(&id);
        let rootfs = path.join("rootfs");
        for folder in ["bin", "proc", "sys", "dev", "etc", "tmp", "data"] {
            std::fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "true", "false", "cat", "echo", "sleep", "ls", "id", "stat", "mount", "umount", "mkdir", "touch",
            "grep", "readlink", "test", "kill", "ps", "head", "wc", "hostname", "chmod", "tty", "stty", "nproc", "dd",
            "mknod", "env", "pwd", "ln", "rm", "awk", "chroot", "nc", "printf", "sysctl", "find", "usleep", "date",
            "tr", "cut", "sort", "unshare",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let config = config(&id);
        Some(Bundle { id, path, config, runtime: program() })
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// The program of the container.
    pub(crate) fn args(&mut self, args: &[&str]) -> &mut Bundle {
        self.config["process"]["args"] = json!(args);
        self
    }

    pub(crate) fn script(&mut self, script: &str) -> &mut Bundle {
        self.args(&["sh", "-c", script])
    }

    pub(crate) fn mount(&mut self, mount: Value) -> &mut Bundle {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub(crate) fn namespaces(&mut self, kinds: &[&str]) -> &mut Bundle {
        self.config["linux"]["namespaces"] = kinds.iter().map(|kind| json!({ "type": kind })).collect();
        self
    }

    pub(crate) fn cgroup(&self) -> String {
        self.config["linux"]["cgroupsPath"].as_str().unwrap().to_owned()
    }

    fn write(&self) {
        std::fs::write(self.path.join("config.json"), self.config.to_string()).unwrap();
    }

    /// A command with the state folder of this test.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.write();
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.path.join("state")).args(words).current_dir(&self.path);
        command
    }

    /// Runs a command; output goes to files, as a container that lives on would keep a pipe open.
    pub(crate) fn call(&self, words: &[&str]) -> Said {
        let mut command = self.command(words);
        self.finish(&mut command)
    }

    pub(crate) fn finish(&self, command: &mut Command) -> Said {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.path.join(format!("{name}.{number}"));
        let create = |name| std::fs::File::create(file(name)).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(create("out")).stderr(create("err")).spawn().unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > DEADLINE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{command:?} did not end; stderr: {}", std::fs::read_to_string(file("err")).unwrap());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let read = |name| String::from_utf8_lossy(&std::fs::read(file(name)).unwrap()).into_owned();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
        Said { code, out: read("out"), err: read("err") }
    }

    /// The same with descriptor 3 open on `passed`.
    pub(crate) fn call_with_three(&self, passed: &Path, words: &[&str]) -> Said {
        let command = self.command(words);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 3<\"$0\"; exec \"$@\""]).arg(passed);
        shell.arg(command.get_program()).args(command.get_args()).current_dir(&self.path);
        self.finish(&mut shell)
    }

    /// `run` in the foreground.
    pub(crate) fn run(&self) -> Said {
        self.call(&["run", &self.id])
    }

    /// Runs a script as the container's program and returns what it printed.
    #[track_caller]
    pub(crate) fn prints(&mut self, script: &str) -> String {
        self.script(script);
        self.run().success()
    }

    #[track_caller]
    pub(crate) fn create(&self) {
        self.call(&["create", &self.id]).success();
    }

    #[track_caller]
    pub(crate) fn start(&self) {
        self.call(&["start", &self.id]).success();
    }

    /// A container that runs `sleep` until it is deleted.
    #[track_caller]
    pub(crate) fn sleeping(&mut self) -> &mut Bundle {
        self.args(&["sleep", "1000"]);
        self.create();
        self.start();
        self
    }

    pub(crate) fn exec(&self, words: &[&str]) -> Said {
        let words: Vec<&str> = ["exec", &self.id].into_iter().chain(words.iter().copied()).collect();
        self.call(&words)
    }

    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state", &self.id]).success()).unwrap()
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().unwrap() as i32
    }

    #[track_caller]
    pub(crate) fn wait_for_status(&self, wanted: &str) {
        wait_until(&format!("{} {wanted}", self.id), || self.status() == wanted);
    }

    /// Cgroup folders of this container that are still there.
    pub(crate) fn cgroups_left(&self) -> Vec<PathBuf> {
        let top = Path::new("/sys/fs/cgroup");
        let mut places: Vec<PathBuf> = std::fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()).collect();
        places.push(top.to_owned());
        let below = self.cgroup();
        places.into_iter().map(|place| place.join(&below[1..])).filter(|folder| folder.is_dir()).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.call(&["delete", "--force", &self.id]);
        let left = self.cgroups_left();
        for folder in &left {
            std::fs::remove_dir(folder).ok();
        }
        std::fs::remove_dir_all(&self.path).unwrap();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "cgroups left behind: {left:?}");
        }
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Docker's default, without a syscall filter.
fn config(id: &str) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["true"],
            "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        },
        "root": { "path": "rootfs" },
        "hostname": "box",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [{ "type": "mount" }, { "type": "network" }, { "type": "uts" }, { "type": "pid" }, { "type": "ipc" }],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// Output of a host program, for comparing.
pub(crate) fn host(words: &[&str]) -> Output {
    Command::new(words[0]).args(&words[1..]).output().unwrap()
}
