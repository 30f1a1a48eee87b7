//! `commit`.

use crate::app::App;
use crate::cli::Args;
use crate::client::with_query;
use crate::error::Result;
use crate::value::Value;

/// Splits `repository[:tag]`; a colon before the last slash belongs to a port.
pub(crate) fn split_reference(text: &str) -> (&str, &str) {
    match text.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (text, ""),
    }
}

pub(crate) async fn commit(app: &'static App, args: Args) -> Result<u8> {
    let id = app.container(&args.words[0]).await?;
    let (repository, tag) = args.words.get(1).map_or(("", ""), |r| split_reference(r));
    let tag = if tag.is_empty() && !repository.is_empty() { "latest" } else { tag };
    let mut path = with_query(
        "/commit",
        &[
            ("container", &id),
            ("repo", repository),
            ("tag", tag),
            ("author", args.text("author")),
            ("comment", args.text("message")),
            ("pause", if args.on("pause") { "1" } else { "0" }),
        ],
    );
    for change in args.list("change") {
        path.push_str(&format!("&changes={}", crate::client::encode(change)));
    }
    let answer = Value::parse(&app.client.post(&path).await?)?;
    app.line(answer.text("Id"))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_ports_colon_is_no_tags() {
        assert_eq!(super::split_reference("h:5000/a"), ("h:5000/a", ""));
        assert_eq!(super::split_reference("h:5000/a:1"), ("h:5000/a", "1"));
    }
}
