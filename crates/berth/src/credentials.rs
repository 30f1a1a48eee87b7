//! Who we are to registries, by Docker's own configuration file: `auths`, `credsStore`, `credHelpers`.
//!
//! A helper is a program `docker-credential-NAME` that reads a server on stdin and answers JSON; the user name
//! `<token>` says that the secret is an identity token.

use crate::app::App;
use crate::commands::context;
use crate::error::{CliError, Result};
use crate::value::Value;
use base64::Engine as _;
use serde_json::json;
use std::io::Write;
use std::process::{Command, Stdio};

/// What the public registry is called in the file.
pub(crate) const PUBLIC: &str = "https://index.docker.io/v1/";
const TOKEN_USER: &str = "<token>";

/// One login.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identity_token: String,
}

impl Login {
    pub(crate) fn is_empty(&self) -> bool {
        self.username.is_empty() && self.identity_token.is_empty()
    }

    pub(crate) fn json(&self, server: &str) -> serde_json::Value {
        match (self.is_empty(), self.identity_token.is_empty()) {
            (true, _) => json!({}),
            (false, true) => {
                json!({"username": self.username, "password": self.password, "serveraddress": server})
            }
            (false, false) => {
                json!({"username": self.username, "identitytoken": self.identity_token, "serveraddress": server})
            }
        }
    }
}

/// The server that an image's name leads to.
pub(crate) fn server_of(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => server_key(first),
        _ => PUBLIC.to_owned(),
    }
}

/// What a server is called in the file: the host, without scheme and path.
pub(crate) fn server_key(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://");
    match bare.split('/').next().unwrap_or_default() {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => PUBLIC.to_owned(),
        host => host.to_owned(),
    }
}

/// All servers that the file names; a login of each may lie in a helper.
pub(crate) fn servers(app: &App) -> Vec<String> {
    let file = app.config.file();
    let mut servers: Vec<String> = ["auths", "credHelpers"]
        .iter()
        .flat_map(|name| file.get(name).map())
        .map(|(server, _)| server.clone())
        .collect();
    servers.sort();
    servers.dedup();
    servers
}

/// The helper in charge of `server`, if one is.
fn helper(app: &App, server: &str) -> Option<String> {
    let file = app.config.file();
    let name = match file.get("credHelpers").text(server) {
        "" => file.text("credsStore"),
        name => name,
    };
    (!name.is_empty()).then(|| name.to_owned())
}

fn run_helper(name: &str, action: &str, input: &str) -> Result<String> {
    let program = format!("docker-credential-{name}");
    if name.contains('/') {
        return Err(CliError::failed(format!("credential helper {name:?} is no program name")));
    }
    let failed = |e| CliError::io(format!("cannot run the credential helper {program}"), e);
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it says why by its exit code.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(text);
    }
    let said = if text.is_empty() { String::from_utf8_lossy(&output.stderr).trim().to_owned() } else { text };
    Err(CliError::failed(format!("the credential helper {program} failed to {action}: {said}")))
}

/// The login for `server`; an empty one where there is none.
pub(crate) fn find(app: &App, server: &str) -> Result<Login> {
    let Some(name) = helper(app, server) else { return Ok(in_file(app.config.file(), server)) };
    let text = match run_helper(&name, "get", server) {
        Ok(text) => text,
        // The helpers' own words for "nothing there".
        Err(error) if error.to_string().contains("credentials not found in native keychain") => {
            return Ok(Login::default());
        }
        Err(error) => return Err(error),
    };
    let answer = Value::parse(text.as_bytes())?;
    let (username, secret) = (answer.text("Username").to_owned(), answer.text("Secret").to_owned());
    Ok(match username == TOKEN_USER {
        true => Login { identity_token: secret, ..Login::default() },
        false => Login { username, password: secret, ..Login::default() },
    })
}

fn in_file(file: &Value, server: &str) -> Login {
    let auths = file.get("auths");
    let mut entry = auths.get(server);
    if entry.is_null()
        && let Value::Map(entries) = auths
        && let Some((_, found)) = entries.iter().find(|(key, _)| server_key(key) == server)
    {
        // Older clients wrote whole URLs.
        entry = found;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry.text("auth")).unwrap_or_default();
    let decoded = String::from_utf8(decoded).unwrap_or_default();
    let (user, password) = decoded.split_once(':').unwrap_or((entry.text("username"), entry.text("password")));
    Login {
        username: user.to_owned(),
        password: password.trim_end_matches('\0').to_owned(),
        identity_token: entry.text("identitytoken").to_owned(),
    }
}

/// The login for `server`. Where its helper fails, that is said, and nobody asks: a helper that was installed once, and
/// that the file still names, must not keep anybody from what is public.
pub(crate) fn or_nobody(app: &App, server: &str) -> Login {
    find(app, server).unwrap_or_else(|error| {
        app.note(&format!("WARNING: no login for {server}: {error}"));
        Login::default()
    })
}

/// All logins, by the servers that the file names.
pub(crate) fn all(app: &App) -> serde_json::Value {
    let login = |server: String| {
        let login = or_nobody(app, &server);
        (!login.is_empty()).then(|| (server.clone(), login.json(&server)))
    };
    serde_json::Value::Object(servers(app).into_iter().filter_map(login).collect())
}

/// Value of `X-Registry-Config`: all of them, for whatever may be asked.
pub(crate) fn header_for_all(app: &App) -> String {
    base64::engine::general_purpose::URL_SAFE.encode(all(app).to_string())
}

/// Value of `X-Registry-Auth` for an image.
pub(crate) fn header_for(app: &App, image: &str) -> Result<String> {
    let server = server_of(image);
    let login = or_nobody(app, &server);
    Ok(base64::engine::general_purpose::URL_SAFE.encode(login.json(&server).to_string()))
}

/// Keeps a login; whether it now stands in the file for everybody who can read that.
pub(crate) fn store(app: &App, server: &str, login: &Login) -> Result<bool> {
    let Some(name) = helper(app, server) else {
        context::store_login(app, server, &login.username, &login.password, &login.identity_token)?;
        return Ok(true);
    };
    let (user, secret) = match login.identity_token.is_empty() {
        true => (login.username.as_str(), login.password.as_str()),
        false => (TOKEN_USER, login.identity_token.as_str()),
    };
    let input = json!({"ServerURL": server, "Username": user, "Secret": secret});
    run_helper(&name, "store", &input.to_string())?;
    context::note_login(app, server)?;
    Ok(false)
}

/// Forgets a login; whether there was one.
pub(crate) fn forget(app: &App, server: &str) -> Result<bool> {
    if let Some(name) = helper(app, server) {
        run_helper(&name, "erase", server)?;
    }
    context::forget_login(app, server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_servers() {
        for (image, server) in [
            ("debian", PUBLIC),
            ("me/debian:1", PUBLIC),
            ("localhost/x", "localhost"),
            ("r.example:5000/x/y", "r.example:5000"),
            ("docker.io/library/x", PUBLIC),
        ] {
            assert_eq!(server_of(image), server, "{image}");
        }
        assert_eq!(server_key("https://r.example/v2/"), "r.example");
    }

    #[test]
    fn logins_are_found_in_all_their_spellings() {
        let file = Value::parse(
            br#"{"auths":{"a.example":{"auth":"dTpwOnE="},"https://b.example/v1/":{"auth":"dTpw"},
                "c.example":{"auth":"dTo=","identitytoken":"t"},"d.example":{}}}"#,
        )
        .unwrap();
        let login =
            |u: &str, p: &str, t: &str| Login { username: u.into(), password: p.into(), identity_token: t.into() };
        assert_eq!(in_file(&file, "a.example"), login("u", "p:q", ""));
        assert_eq!(in_file(&file, "b.example"), login("u", "p", ""));
        assert_eq!(in_file(&file, "c.example"), login("u", "", "t"));
        assert!(in_file(&file, "d.example").is_empty() && in_file(&file, "e.example").is_empty());
        assert_eq!(login("u", "", "t").json("s")["identitytoken"], "t");
        assert_eq!(Login::default().json("s"), json!({}));
    }
}
