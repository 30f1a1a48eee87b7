//! OpenSSH's server for one engine, and a client that leads to it.

use crate::{Engine, Output, programs, wait_until};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// OpenSSH's server on a port of its own, with keys of its own, for nobody but the test. The host is called `other`.
pub struct Sshd {
    child: Option<Child>,
    folder: PathBuf,
    port: u16,
}

impl Sshd {
    /// Sessions find `there`'s programs and engine. `None`, aloud, where there is no OpenSSH or root may not log in.
    pub fn start(folder: &Path, there: &Engine) -> Option<Sshd> {
        let is_there = |program: &str| Path::new(program).exists();
        if !["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/bin/unshare"].into_iter().all(is_there) {
            eprintln!("skipped: needs openssh-server and openssh-client");
            return None;
        }
        let shadow = std::fs::read_to_string("/etc/shadow").unwrap_or_default();
        if shadow.starts_with("root:!") {
            eprintln!("skipped: root's account is locked, so that sshd lets nobody in");
            return None;
        }
        std::fs::create_dir_all(folder).expect("scratch folder");
        for name in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            Output::of(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(name))).success();
        }
        let at = |name: &str| folder.join(name).display().to_string();
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             SetEnv PATH={}:/usr/bin:/bin BERTH_HOST=unix://{}\n",
            at("host"),
            at("authorized"),
            programs().display(),
            there.socket().display()
        );
        let client = format!(
            "Host other\n HostName 127.0.0.1\n Port {port}\n User root\n IdentityFile {}\n IdentitiesOnly yes\n \
             UserKnownHostsFile {}\n BatchMode yes\n HostKeyAlgorithms ssh-ed25519\n",
            at("user"),
            at("known_hosts")
        );
        let key = std::fs::read_to_string(folder.join("host.pub")).expect("its own key");
        std::fs::copy(folder.join("user.pub"), folder.join("authorized")).expect("its own key");
        std::fs::write(folder.join("known_hosts"), format!("[127.0.0.1]:{port} {key}")).expect("scratch folder");
        std::fs::write(folder.join("sshd_config"), server).expect("scratch folder");
        std::fs::write(folder.join("ssh_config"), client).expect("scratch folder");
        let text = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", at("ssh_config"));
        std::fs::write(folder.join("ssh"), text).expect("scratch folder");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.join("ssh"), mode).expect("scratch folder");
        let mut sshd = Sshd { child: None, folder: folder.to_owned(), port };
        sshd.launch();
        Some(sshd)
    }

    /// The program to be used as ssh: `ssh other` leads to it.
    pub fn client(&self) -> PathBuf {
        self.folder.join("ssh")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Lets nobody in any more.
    pub fn forget_keys(&self) {
        std::fs::write(self.folder.join("authorized"), "").expect("scratch folder");
    }

    /// Starts it, again after [`Sshd::stop`].
    pub fn launch(&mut self) {
        // It wants an empty folder of its own under /run, which the host need not have.
        let script = "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f \"$0\"";
        let log = std::fs::File::create(self.folder.join("log")).expect("scratch folder");
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(self.folder.join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare runs");
        wait_until("sshd listens", || {
            let ended = child.try_wait().expect("our own child");
            assert!(ended.is_none(), "sshd ended with {ended:?}: {}", self.log());
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
        self.child = Some(child);
    }

    /// Ends it; sessions that are open go on.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}
