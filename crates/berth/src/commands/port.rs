//! `port`.

use crate::app::App;
use crate::cli::Args;
use crate::client::encode;
use crate::error::{CliError, Result};

pub(crate) async fn port(app: &'static App, args: Args) -> Result<u8> {
    let id = app.container(&args.words[0]).await?;
    let info = app.client.get_value(&format!("/containers/{}/json", encode(&id))).await?;
    if let Some(word) = args.words.get(1) {
        let number = word.split('/').next().unwrap_or_default();
        if number.parse::<u16>().is_err() {
            return Err(CliError::failed(format!(
                "Error: invalid port ({number}): strconv.ParseUint: parsing {number:?}: invalid syntax"
            )));
        }
    }
    let wanted = args.words.get(1).map(|w| if w.contains('/') { w.clone() } else { format!("{w}/tcp") });
    let mut lines: Vec<(u32, String)> = Vec::new();
    for (key, bindings) in info.at(&["NetworkSettings", "Ports"]).map() {
        if wanted.as_ref().is_some_and(|w| w != key) {
            continue;
        }
        let number = key.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        for b in bindings.list() {
            let ip = if b.text("HostIp").contains(':') {
                format!("[{}]", b.text("HostIp"))
            } else {
                b.text("HostIp").to_owned()
            };
            let address = format!("{ip}:{}", b.text("HostPort"));
            lines.push((number, if wanted.is_some() { address } else { format!("{key} -> {address}") }));
        }
    }
    if wanted.is_some() && lines.is_empty() {
        return Err(CliError::failed(format!(
            "Error: No public port '{}' published for {}",
            args.words[1], args.words[0]
        )));
    }
    lines.sort();
    for (_, line) in lines {
        app.line(&line)?;
    }
    Ok(0)
}
