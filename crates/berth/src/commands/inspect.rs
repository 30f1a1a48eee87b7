//! `inspect` and its siblings for one type of object.

use super::archive::image_path;
use crate::app::App;
use crate::cli::Args;
use crate::client::{encode, with_query};
use crate::error::{CliError, Result};
use crate::template::Template;
use crate::value::{self, Value};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Type {
    Container,
    Image,
    Volume,
    Network,
    Secret,
    Config,
}

impl Type {
    /// `more`: with the sizes of a container, or all that a network knows.
    fn path(self, name: &str, more: bool) -> String {
        match self {
            Type::Container => {
                with_query(&format!("/containers/{}/json", encode(name)), &[("size", if more { "1" } else { "" })])
            }
            Type::Image => image_path(name, "/json"),
            Type::Volume => format!("/volumes/{}", encode(name)),
            Type::Secret => format!("/secrets/{}", encode(name)),
            Type::Config => format!("/configs/{}", encode(name)),
            Type::Network => {
                with_query(&format!("/networks/{}", encode(name)), &[("verbose", if more { "true" } else { "" })])
            }
        }
    }
}

pub(crate) async fn container(app: &'static App, args: Args) -> Result<u8> {
    let size = args.on("size");
    inspect(app, &args, &[Type::Container], size).await
}

pub(crate) async fn image(app: &'static App, args: Args) -> Result<u8> {
    super::images::one_platform(&args)?;
    inspect(app, &args, &[Type::Image], false).await
}

pub(crate) async fn volume(app: &'static App, args: Args) -> Result<u8> {
    inspect(app, &args, &[Type::Volume], false).await
}

pub(crate) async fn secret(app: &'static App, args: Args) -> Result<u8> {
    inspect(app, &args, &[Type::Secret], false).await
}

pub(crate) async fn config(app: &'static App, args: Args) -> Result<u8> {
    inspect(app, &args, &[Type::Config], false).await
}

pub(crate) async fn network(app: &'static App, args: Args) -> Result<u8> {
    let verbose = args.on("verbose");
    inspect(app, &args, &[Type::Network], verbose).await
}

pub(crate) async fn any(app: &'static App, args: Args) -> Result<u8> {
    let types: &[Type] = match args.text("type") {
        "" => &[Type::Container, Type::Image, Type::Network, Type::Volume],
        "container" => &[Type::Container],
        "image" => &[Type::Image],
        "volume" => &[Type::Volume],
        "network" => &[Type::Network],
        "secret" => &[Type::Secret],
        "config" => &[Type::Config],
        other => {
            return Err(CliError::failed(format!(
                "unknown type: {other:?}: must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\""
            )));
        }
    };
    let size = args.on("size");
    inspect(app, &args, types, size).await
}

async fn inspect(app: &App, args: &Args, types: &[Type], size: bool) -> Result<u8> {
    let format = args.text("format");
    let template = match format {
        "" | "json" => None,
        // Docker's exit code for a template that cannot be read.
        format => Some(Template::parse(format).map_err(|e| CliError::from(e).with_code(64))?),
    };
    let (mut found, mut out, mut code) = (Vec::new(), String::new(), 0);
    for name in &args.words {
        match one(app, types, name, size).await {
            Ok(json) => match &template {
                Some(template) => match template.execute(&Value::parse(json.as_bytes())?) {
                    Ok(text) => {
                        out.push_str(&text);
                        out.push('\n');
                    }
                    Err(error) => {
                        app.print(&(out + "\n"))?;
                        return Err(error.into());
                    }
                },
                None => found.push(json),
            },
            Err(error) => {
                // What was found is printed before what was not.
                crate::report(app, &error).await;
                code = 1;
            }
        }
    }
    if template.is_none() {
        let whole = format!("[{}]", found.iter().map(|f| f.trim()).collect::<Vec<_>>().join(","));
        out = if format == "json" { value::compact(&whole) } else { value::indent(&whole, 0) };
        out.push('\n');
    }
    if out.is_empty() {
        out.push('\n');
    }
    app.print(&out)?;
    Ok(code)
}

/// The object's JSON as the engine sent it.
async fn one(app: &App, types: &[Type], name: &str, size: bool) -> Result<String> {
    let name = if types.contains(&Type::Container) { app.container(name).await? } else { name.to_owned() };
    if name.is_empty() {
        return Err(CliError::failed("no such object: \"\""));
    }
    for kind in types {
        match app.client.get(&kind.path(&name, size)).await {
            Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            // An image's name is no legal name of other things, so they may answer 400.
            Err(error) if types.len() > 1 && matches!(error.status(), Some(400 | 404)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(CliError::failed(format!("Error: No such object: {name}")))
}
