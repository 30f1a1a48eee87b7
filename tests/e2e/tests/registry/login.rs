//! Logins: passwords over TLS, tokens, helpers; by the real client and by ours.

use crate::common::make_image;
use berth_testkit::{Engine, Registry, TokenServer};
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_password_opens_a_registry_until_the_logout() {
    let Some(registry) = Registry::secured() else { return };
    let Some(engine) = Engine::start("registry-login") else { return };
    let name = format!("{}/private:1", registry.address());
    make_image(&engine, &name, 0, 1);
    let refused = engine.docker(["push", &name]).failure(1);
    assert!(refused.contains("authentication required"), "{refused}");
    let login = |program: &str, password: &str| {
        let arguments = ["login", "-u", Registry::USER, "--password-stdin", registry.address()];
        let output = engine.command(&match program {
            "docker" => "docker".into(),
            _ => berth_testkit::programs().join("berth"),
        });
        let mut command = output;
        command.args(arguments).stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), password.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    for program in ["docker", "berth"] {
        let wrong = login(program, "wrong");
        assert!(!wrong.status.success(), "{program}");
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("unauthorized"), "{wrong:?}");
        let right = login(program, Registry::PASSWORD);
        assert!(right.status.success(), "{right:?}");
        assert!(String::from_utf8_lossy(&right.stdout).contains("Login Succeeded"), "{right:?}");
        let run = |arguments: &[&str]| match program {
            "docker" => engine.docker(arguments),
            _ => engine.berth(arguments),
        };
        run(&["push", &name]).success();
        engine.docker(["rmi", &name]).success();
        run(&["pull", &name]).success();
        run(&["logout", registry.address()]).success();
        let refused = run(&["pull", &name]).failure(1);
        assert!(refused.contains("authentication required") && refused.contains("log in first"), "{refused}");
    }
}

#[test]
fn a_helper_keeps_what_the_file_must_not() {
    let Some(registry) = Registry::secured() else { return };
    let Some(engine) = Engine::start("registry-helper") else { return };
    let folder = engine.root().join("helpers");
    std::fs::create_dir(&folder).expect("scratch folder");
    let kept = engine.root().join("kept.json");
    let script = format!(
        "#!/bin/sh\ncase $1 in\n store) cat > {0};;\n erase) rm -f {0};;\n get) [ -e {0} ] && exec cat {0}; echo 'credentials not found in native keychain'; exit 1;;\nesac\n",
        kept.display()
    );
    let helper = folder.join("docker-credential-scratch");
    std::fs::write(&helper, script).expect("scratch folder");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("scratch folder");
    std::fs::create_dir_all(engine.root().join("client")).expect("scratch folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let berth = |arguments: &[&str]| {
        let mut command = engine.command(&berth_testkit::programs().join("berth"));
        let output = command.args(arguments).env("PATH", &path).output().expect("berth runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let name = format!("{}/helped:1", registry.address());
    make_image(&engine, &name, 0, 2);
    // One for all registries, and one for this one alone, where another is for all.
    let alone = format!(r#"{{"credsStore":"missing","credHelpers":{{"{}":"scratch"}}}}"#, registry.address());
    for config in [r#"{"credsStore":"scratch"}"#, &alone] {
        std::fs::write(engine.root().join("client/config.json"), config).expect("scratch folder");
        let (fine, said) = berth(&["login", "-u", Registry::USER, "-p", Registry::PASSWORD, registry.address()]);
        assert!(fine && !said.contains("stored unencrypted"), "{said}");
        let file = std::fs::read_to_string(engine.root().join("client/config.json")).expect("it is there");
        assert!(!file.contains("\"auth\"") && kept.exists(), "{file}");
        let (fine, said) = berth(&["push", &name]);
        assert!(fine, "{said}");
        assert!(berth(&["logout", registry.address()]).0 && !kept.exists());
    }
}

#[test]
fn tokens_are_asked_for_by_scope() {
    let tokens = TokenServer::start();
    let Some(registry) = Registry::with_tokens(&tokens) else { return };
    let Some(engine) = Engine::start("registry-token") else { return };
    let name = format!("{}/tok:1", registry.address());
    make_image(&engine, &name, 0, 3);
    let denied = engine.docker(["push", &name]).failure(1);
    assert!(denied.contains("denied") || denied.contains("authentication required"), "{denied}");
    let login = ["login", "-u", Registry::USER, "-p", Registry::PASSWORD, registry.address()];
    engine.docker(login).success();
    // The token server gave an identity, which is kept instead of the password.
    let file = std::fs::read_to_string(engine.root().join("client/config.json")).expect("it is there");
    assert!(file.contains("identitytoken"), "{file}");
    engine.docker(["push", &name]).success();
    engine.docker(["rmi", &name]).success();
    engine.docker(["logout", registry.address()]).success();
    engine.docker(["pull", &name]).success();
    let scopes: Vec<String> = tokens.requests().iter().map(|request| request.target.clone()).collect();
    assert!(scopes.iter().any(|target| target.contains("scope=repository:tok:pull")), "{scopes:#?}");
}

#[test]
fn what_is_wrong_with_the_clients_own_file_is_said_and_keeps_nobody_from_what_is_public() {
    let Some(registry) = Registry::plain() else { return };
    let Some(engine) = Engine::start("registry-helpless") else { return };
    let name = format!("{}/public:1", registry.address());
    make_image(&engine, &name, 0, 4);
    engine.docker(["push", &name]).success();
    let file = engine.root().join("client/config.json");
    std::fs::create_dir_all(engine.root().join("client")).expect("scratch folder");
    for (text, words) in [
        (r#"{"credsStore":"of-long-ago"}"#, "cannot run the credential helper docker-credential-of-long-ago"),
        (r#"{"auths":{"#, "WARNING: Error loading config file: "),
    ] {
        engine.docker(["rmi", &name]).success();
        std::fs::write(&file, text).expect("scratch folder");
        let pulled = engine.berth(["pull", &name]);
        std::fs::write(&file, "{}").expect("scratch folder");
        assert!(pulled.code == 0 && pulled.stderr.contains(words), "{pulled:?}");
    }
}
