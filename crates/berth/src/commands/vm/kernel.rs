//! `vm kernel`: kernels of containers in machines of their own.

use crate::app::App;
use crate::cli::Args;
use crate::error::Result;
use crate::table::align;
use crate::units;
use serde_json::json;

const KERNELS: &str = "/api/v1/machine-kernels";

pub(crate) async fn install(app: &'static App, args: Args) -> Result<u8> {
    let package = args.words.first().map(|path| super::absolute(path)).transpose()?;
    app.client.post_json(KERNELS, &json!({"package": package})).await?;
    let kernels = app.client.get_value(KERNELS).await?;
    for kernel in kernels.list().iter().filter(|kernel| kernel.get("default").bool()) {
        app.line(kernel.text("version"))?;
    }
    Ok(0)
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
