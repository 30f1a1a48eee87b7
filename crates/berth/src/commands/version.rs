//! `version`.

use crate::app::App;
use crate::cli::Args;
use crate::error::{CliError, Result};
use crate::template::Template;
use crate::value::Value;

fn client(app: &App) -> Value {
    let context = app.config.current_context().unwrap_or_else(|| "default".to_owned());
    let text = |k: &str, v: &str| (k.to_owned(), Value::from(v));
    Value::Map(vec![
        ("Platform".to_owned(), Value::Map(vec![text("Name", "berth")])),
        text("Version", env!("CARGO_PKG_VERSION")),
        text("ApiVersion", &app.client.api_version()),
        text("DefaultAPIVersion", "1.51"),
        text("GitCommit", ""),
        text("GoVersion", "none (Rust)"),
        text("Os", std::env::consts::OS),
        text("Arch", arch()),
        text("BuildTime", ""),
        text("Context", &context),
    ])
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) async fn version(app: &'static App, args: Args) -> Result<u8> {
    let (server, failure) = match app.client.get_value("/version").await {
        Ok(server) => (server, None),
        Err(error) => (Value::Null, Some(error)),
    };
    let client = client(app);
    let format = args.text("format");
    let data = Value::Map(vec![("Client".to_owned(), client), ("Server".to_owned(), server)]);
    match format {
        "" => app.print(&render(&data))?,
        "json" => app.line(&data.to_json())?,
        format => {
            let template = Template::parse(format).map_err(CliError::from)?;
            match (template.execute(&data), &failure) {
                (Ok(text), _) => app.line(&text)?,
                // Without a server the template's complaint would hide the reason.
                (Err(_), Some(_)) => {}
                (Err(error), None) => {
                    app.line("")?;
                    return Err(CliError::template("", error.about("system.versionInfo").named("version")));
                }
            }
        }
    }
    failure.map_or(Ok(0), Err)
}

fn render(data: &Value) -> String {
    let (client, server) = (data.get("Client"), data.get("Server"));
    let mut out = format!("Client: {}\n", client.at(&["Platform", "Name"]).str());
    let mut line = |label: &str, value: &str| out.push_str(&format!(" {label:<18} {value}\n"));
    line("Version:", client.text("Version"));
    line("API version:", client.text("ApiVersion"));
    line("OS/Arch:", &format!("{}/{}", client.text("Os"), client.text("Arch")));
    line("Context:", client.text("Context"));
    if server.is_null() {
        return out;
    }
    let platform = server.at(&["Platform", "Name"]).str();
    out.push_str(&format!("\nServer: {platform}\n"));
    let components = server.get("Components").list();
    for (i, component) in components.iter().enumerate() {
        out.push_str(&format!(" {}:\n", component.text("Name")));
        let mut line = |label: &str, value: &str| {
            if !value.is_empty() {
                out.push_str(&format!("  {label:<17} {value}\n"));
            }
        };
        line("Version:", component.text("Version"));
        let details = component.get("Details");
        if i == 0 {
            line(
                "API version:",
                &format!("{} (minimum version {})", server.text("ApiVersion"), server.text("MinAPIVersion")),
            );
            line("Git commit:", details.text("GitCommit"));
            line("Built:", details.text("BuildTime"));
            line("OS/Arch:", &format!("{}/{}", server.text("Os"), server.text("Arch")));
            line("Kernel:", server.text("KernelVersion"));
        } else {
            line("GitCommit:", details.text("GitCommit"));
        }
    }
    if components.is_empty() {
        out.push_str(&format!(" Version: {}\n API version: {}\n", server.text("Version"), server.text("ApiVersion")));
    }
    out
}
