//! `vm kernel`: kernels of containers in machines of their own.

use crate::app::App;
use crate::cli::Args;
use crate::error::{CliError, Result};
use crate::table::align;
use crate::units;
use crate::value::Value;
use serde_json::json;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const KERNELS: &str = "/api/v1/machine-kernels";
const ASK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) async fn install(app: &'static App, args: Args) -> Result<u8> {
    let package = args.words.first().map(|path| super::absolute(path)).transpose()?;
    let task = app.client.post_json(KERNELS, &json!({"package": package})).await?;
    wait(app, &task).await?;
    let kernels = app.client.get_value(KERNELS).await?;
    for kernel in kernels.list().iter().filter(|kernel| kernel.get("default").bool()) {
        app.line(kernel.text("version"))?;
    }
    Ok(0)
}

/// Until the task has ended, saying its steps; an interrupt cancels it.
async fn wait(app: &'static App, task: &Value) -> Result<()> {
    let path = format!("/api/v1/tasks/{}", task.get("id").int());
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|cause| CliError::io("cannot watch SIGINT", cause))?;
    let mut said = 0;
    loop {
        let now = app.client.get_value(&path).await?;
        let lines = now.get("lines").list();
        for line in lines.iter().skip(said) {
            app.note(line.str());
        }
        said = lines.len();
        match now.text("state") {
            "running" => {}
            "done" => return Ok(()),
            "cancelled" => return Err(CliError::failed("it was cancelled; no kernel is installed")),
            _ => return Err(failure(now.get("error"))),
        }
        tokio::select! {
            _ = interrupts.recv() => drop(app.client.delete(&path).await?),
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
}

/// Why a task failed, in the words of a refused call.
fn failure(error: &Value) -> CliError {
    let causes = error.get("causes").list().iter().map(Value::str);
    let message = std::iter::once(error.text("message")).chain(causes).collect::<Vec<_>>().join(": ");
    let failed = CliError::failed(message);
    match error.text("hint") {
        "" => failed,
        hint => failed.with_hint(hint),
    }
}

pub(crate) async fn list(app: &'static App, _args: Args) -> Result<u8> {
    let kernels = app.client.get_value(KERNELS).await?;
    let mut text = "KERNEL\tSIZE\tDEFAULT\n".to_owned();
    for kernel in kernels.list() {
        let size = units::bytes_size(kernel.get("bytes").float());
        let default = if kernel.get("default").bool() { "yes" } else { "" };
        text.push_str(&format!("{}\t{size}\t{default}\n", kernel.text("version")));
    }
    app.print(&align(&text))?;
    Ok(0)
}
