//! Docker Compose against this engine: one project from up to down.
//!
//! Needs the compose plugin: where `BERTH_COMPOSE` says, or in one of Docker's plugin folders; else skipped, aloud.

use berth_testkit::{Engine, Output};
use std::path::{Path, PathBuf};

const PROJECT: &str = r#"
name: shop
services:
  db:
    image: tiny
    command: ["sh", "-c", "mkdir -p /www; echo data > /www/index.html; exec httpd -f -p 5432 -h /www"]
    stop_signal: SIGKILL
    volumes: ["data:/data"]
    healthcheck: { test: ["CMD", "wget", "-qO-", "http://127.0.0.1:5432/"], interval: 100ms, retries: 100 }
    secrets: [password]
    configs: [{ source: settings, target: /etc/app.conf }]
  setup:
    image: tiny
    command: ["sh", "-c", "echo setup done"]
    depends_on: { db: { condition: service_healthy } }
  web:
    image: tiny
    command: ["sh", "-c", "wget -qO- http://db:5432/; exec sleep 600"]
    stop_signal: SIGKILL
    depends_on:
      setup: { condition: service_completed_successfully }
      db: { condition: service_healthy }
    networks: [default, back]
  extra:
    image: tiny
    command: ["true"]
    profiles: [more]
networks:
  back: {}
volumes:
  data: {}
secrets:
  password: { file: ./password.txt }
configs:
  settings: { content: "colour=red" }
"#;

fn plugin() -> Option<PathBuf> {
    let folders = ["/usr/libexec/docker", "/usr/lib/docker", "/usr/local/lib/docker", "/usr/local/libexec/docker"];
    let standard = folders.iter().map(|folder| Path::new(folder).join("cli-plugins/docker-compose"));
    std::env::var_os("BERTH_COMPOSE").map(PathBuf::from).into_iter().chain(standard).find(|path| path.exists())
}

struct Compose<'a> {
    engine: &'a Engine,
    plugin: PathBuf,
    folder: PathBuf,
}

impl Compose<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.engine.command(&self.plugin);
        command.current_dir(&self.folder).args(["--progress", "quiet"]).args(arguments);
        let shown = format!("{command:?}");
        let output = command.stdin(std::process::Stdio::null()).output().expect("the plugin starts");
        Output {
            command: shown,
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn services(&self, arguments: &[&str]) -> Vec<String> {
        let mut all = vec!["ps", "--format", "{{.Name}}"];
        all.extend_from_slice(arguments);
        let mut names: Vec<String> = self.run(&all).success().lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

#[test]
fn a_project_comes_up_in_order_works_and_leaves_nothing() {
    let Some(plugin) = plugin() else {
        eprintln!("skipped: needs the compose plugin (docker-compose, or BERTH_COMPOSE)");
        return;
    };
    let Some(engine) = Engine::start("compose") else { return };
    let folder = engine.root().join("project");
    std::fs::create_dir(&folder).expect("scratch folder");
    std::fs::write(folder.join("compose.yaml"), PROJECT).expect("scratch folder");
    std::fs::write(folder.join("password.txt"), "secret").expect("scratch folder");
    let compose = Compose { engine: &engine, plugin, folder };

    compose.run(&["up", "-d"]).success();
    assert_eq!(compose.services(&[]), ["shop-db-1", "shop-web-1"]);
    assert_eq!(compose.services(&["-a"]), ["shop-db-1", "shop-setup-1", "shop-web-1"]);
    // Names of services resolve, and what must be over was over first.
    assert_eq!(compose.run(&["logs", "--no-log-prefix", "setup"]).success(), "setup done");
    berth_testkit::wait_until("web has read from db", || {
        compose.run(&["logs", "--no-log-prefix", "web"]).success() == "data"
    });
    let files = compose.run(&["exec", "-T", "db", "cat", "/run/secrets/password", "/etc/app.conf"]).success();
    assert_eq!(files, "secretcolour=red");
    assert_eq!(compose.run(&["run", "--rm", "-T", "--no-deps", "web", "echo", "once"]).success(), "once");
    assert!(compose.run(&["top", "web"]).success().contains("sleep 600"));
    compose.run(&["cp", "password.txt", "web:/tmp/p"]).success();
    assert_eq!(compose.run(&["exec", "-T", "web", "cat", "/tmp/p"]).success(), "secret");

    compose.run(&["up", "-d", "--scale", "db=2", "db"]).success();
    assert_eq!(compose.services(&["db"]), ["shop-db-1", "shop-db-2"]);
    compose.run(&["--profile", "more", "up", "-d", "extra"]).success();
    assert!(compose.services(&["-a", "--all", "extra"]).contains(&"shop-extra-1".to_owned()));
    for arguments in
        [&["pause", "web"][..], &["unpause", "web"], &["restart", "web"], &["stop", "web"], &["start", "web"]]
    {
        compose.run(arguments).success();
    }
    compose.run(&["--profile", "more", "down", "-v"]).success();
    assert_eq!(engine.docker(["ps", "-aq"]).success(), "");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "");
    assert_eq!(engine.docker(["network", "ls", "-q", "--filter", "type=custom"]).success(), "");
}
