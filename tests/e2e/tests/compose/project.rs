//! Docker Compose against this engine: one project from up to down.

use crate::plugin::{self, Compose};
use berth_testkit::Engine;

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

#[test]
fn a_project_comes_up_in_order_works_and_leaves_nothing() {
    if !plugin::found() {
        return;
    }
    let Some(engine) = Engine::start("compose") else { return };
    let folder = engine.root().join("project");
    std::fs::create_dir(&folder).expect("scratch folder");
    std::fs::write(folder.join("compose.yaml"), PROJECT).expect("scratch folder");
    std::fs::write(folder.join("password.txt"), "secret").expect("scratch folder");
    let compose = Compose::new(&engine, folder);

    compose.ok(&["up", "-d"]);
    assert_eq!(compose.containers(&[]), ["shop-db-1", "shop-web-1"]);
    assert_eq!(compose.containers(&["-a"]), ["shop-db-1", "shop-setup-1", "shop-web-1"]);
    // Names of services resolve, and what must be over was over first.
    assert_eq!(compose.ok(&["logs", "--no-log-prefix", "setup"]), "setup done");
    berth_testkit::wait_until("web has read from db", || compose.ok(&["logs", "--no-log-prefix", "web"]) == "data");
    let files = compose.ok(&["exec", "-T", "db", "cat", "/run/secrets/password", "/etc/app.conf"]);
    assert_eq!(files, "secretcolour=red");
    assert_eq!(compose.ok(&["run", "--rm", "-T", "--no-deps", "web", "echo", "once"]), "once");
    assert!(compose.ok(&["top", "web"]).contains("sleep 600"));
    compose.ok(&["cp", "password.txt", "web:/tmp/p"]);
    assert_eq!(compose.ok(&["exec", "-T", "web", "cat", "/tmp/p"]), "secret");

    compose.ok(&["up", "-d", "--scale", "db=2", "db"]);
    assert_eq!(compose.containers(&["db"]), ["shop-db-1", "shop-db-2"]);
    compose.ok(&["--profile", "more", "up", "-d", "extra"]);
    assert!(compose.containers(&["-a", "--all", "extra"]).contains(&"shop-extra-1".to_owned()));
    for arguments in
        [&["pause", "web"][..], &["unpause", "web"], &["restart", "web"], &["stop", "web"], &["start", "web"]]
    {
        compose.ok(arguments);
    }
    compose.ok(&["--profile", "more", "down", "-v"]);
    assert_eq!(engine.docker(["ps", "-aq"]).success(), "");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).success(), "");
    assert_eq!(engine.docker(["network", "ls", "-q", "--filter", "type=custom"]).success(), "");
}
