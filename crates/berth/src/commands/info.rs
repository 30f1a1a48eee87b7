//! `info`.

use crate::app::App;
use crate::cli::Args;
use crate::error::{CliError, Result};
use crate::template::Template;
use crate::units::bytes_size;
use crate::value::Value;

pub(crate) async fn info(app: &'static App, args: Args) -> Result<u8> {
    let mut info = app.client.get_value("/info").await?;
    let context = app.config.current_context().unwrap_or_else(|| "default".to_owned());
    if let Value::Map(fields) = &mut info {
        let client = vec![
            ("Debug".to_owned(), Value::Bool(false)),
            ("Version".to_owned(), env!("CARGO_PKG_VERSION").into()),
            ("Context".to_owned(), context.into()),
            ("Plugins".to_owned(), Value::List(Vec::new())),
            ("Warnings".to_owned(), Value::Null),
        ];
        fields.push(("ClientInfo".to_owned(), Value::Map(client)));
    }
    match args.text("format") {
        "" => {
            app.print(&render(&info))?;
            for warning in info.get("Warnings").list() {
                app.note(warning.str());
            }
        }
        "json" => app.line(&info.to_json())?,
        format => match Template::parse(format)?.execute(&info) {
            Ok(text) => app.line(&text)?,
            Err(error) => {
                app.line("")?;
                return Err(CliError::template("", error.about("system.dockerInfo")));
            }
        },
    }
    Ok(0)
}

fn names(value: &Value) -> String {
    value.list().iter().map(Value::str).collect::<Vec<_>>().join(" ")
}

fn render(i: &Value) -> String {
    let mut out = String::new();
    out.push_str(&format!("Client: berth\n Version:    {}\n", env!("CARGO_PKG_VERSION")));
    out.push_str(&format!(" Context:    {}\n Debug Mode: false\n\nServer:\n", i.at(&["ClientInfo", "Context"]).str()));
    let mut line = |depth: usize, label: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{}{label}: {value}\n", " ".repeat(depth)));
        }
    };
    let number = |key: &str| i.get(key).int().to_string();
    line(1, "Containers", &number("Containers"));
    line(2, "Running", &number("ContainersRunning"));
    line(2, "Paused", &number("ContainersPaused"));
    line(2, "Stopped", &number("ContainersStopped"));
    line(1, "Images", &number("Images"));
    line(1, "Server Version", i.text("ServerVersion"));
    line(1, "Storage Driver", i.text("Driver"));
    for pair in i.get("DriverStatus").list() {
        if let [key, value] = pair.list() {
            line(2, key.str(), value.str());
        }
    }
    line(1, "Logging Driver", i.text("LoggingDriver"));
    line(1, "Cgroup Driver", i.text("CgroupDriver"));
    line(1, "Cgroup Version", i.text("CgroupVersion"));
    let plugins = i.get("Plugins");
    out.push_str(" Plugins:\n");
    let mut line = |depth: usize, label: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{}{label}: {value}\n", " ".repeat(depth)));
        }
    };
    line(2, "Volume", &names(plugins.get("Volume")));
    line(2, "Network", &names(plugins.get("Network")));
    line(2, "Log", &names(plugins.get("Log")));
    line(1, "Swarm", i.at(&["Swarm", "LocalNodeState"]).str());
    let mut runtimes: Vec<&str> = i.get("Runtimes").map().iter().map(|(k, _)| k.as_str()).collect();
    runtimes.sort_unstable();
    line(1, "Runtimes", &runtimes.join(" "));
    line(1, "Default Runtime", i.text("DefaultRuntime"));
    line(1, "Init Binary", i.text("InitBinary"));
    out.push_str(&security(i.get("SecurityOptions")));
    let mut line = |depth: usize, label: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{}{label}: {value}\n", " ".repeat(depth)));
        }
    };
    line(1, "Kernel Version", i.text("KernelVersion"));
    line(1, "Operating System", i.text("OperatingSystem"));
    line(1, "OSType", i.text("OSType"));
    line(1, "Architecture", i.text("Architecture"));
    line(1, "CPUs", &number("NCPU"));
    line(1, "Total Memory", &bytes_size(i.get("MemTotal").float()));
    line(1, "Name", i.text("Name"));
    line(1, "ID", i.text("ID"));
    line(1, "Docker Root Dir", i.text("DockerRootDir"));
    line(1, "Debug Mode", if i.get("Debug").bool() { "true" } else { "false" });
    line(1, "Experimental", if i.get("ExperimentalBuild").bool() { "true" } else { "false" });
    line(1, "Live Restore Enabled", if i.get("LiveRestoreEnabled").bool() { "true" } else { "false" });
    out.push('\n');
    out
}

/// `name=seccomp,profile=builtin` as a name with its properties below it.
fn security(options: &Value) -> String {
    if options.list().is_empty() {
        return String::new();
    }
    let mut out = String::from(" Security Options:\n");
    for option in options.list() {
        for pair in option.str().split(',') {
            match pair.split_once('=') {
                Some(("name", name)) => out.push_str(&format!("  {name}\n")),
                Some(("profile", profile)) => out.push_str(&format!("   Profile: {profile}\n")),
                Some((key, value)) => out.push_str(&format!("   {key}: {value}\n")),
                None => out.push_str(&format!("  {pair}\n")),
            }
        }
    }
    out
}
