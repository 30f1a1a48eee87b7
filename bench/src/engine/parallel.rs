//! Fifty clients at once, by the API: create, start, inspect, remove.

use crate::cycle::{self, Rate};
use crate::engines::{Engine, Kind};
use crate::http::Connection;
use crate::{Options, Outcome};

const CLIENTS: usize = 50;

pub(crate) fn parallel(options: &Options, engines: &mut [Engine]) -> Outcome<()> {
    println!("\n## {CLIENTS} clients in parallel: create, start, inspect, remove by API, per second\n");
    let rate = Rate { clients: CLIENTS, target: 0.2 };
    cycle::rates(
        options,
        engines,
        rate,
        |engine| engine.kind != Kind::Podman,
        |engine| {
            let mut connection = None;
            move || {
                let connection = match &mut connection {
                    Some(connection) => connection,
                    none => none.insert(Connection::open(&engine.socket())?),
                };
                let body = r#"{"Image":"tiny:1","Cmd":["/bin/sleep","100000"]}"#;
                let id = connection.create(body)?;
                connection.call("POST", &format!("/v1.41/containers/{id}/start"), None)?;
                let seen: serde_json::Value =
                    serde_json::from_slice(&connection.call("GET", &format!("/v1.41/containers/{id}/json"), None)?)?;
                if seen["State"]["Running"] != true {
                    return Err(format!("{id} does not run: {}", seen["State"]).into());
                }
                connection.call("DELETE", &format!("/v1.41/containers/{id}?force=1"), None).map(drop)
            }
        },
    )
}
