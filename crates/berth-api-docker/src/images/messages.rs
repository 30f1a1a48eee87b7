//! The stream of JSON messages that long operations answer with, as dockerd's `streamformatter` writes it.

use axum::body::Body;
use axum::response::IntoResponse;
use axum::response::Response;
use berth_engine::images::{Progress, ProgressStream};
use berth_types::Error;
use bytes::Bytes;
use serde_json::{Value, json};

/// One message with dockerd's line end.
fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

/// `{"status": text}`
pub(super) fn status(text: &str) -> Bytes {
    line(&json!({ "status": text }))
}

/// A failure after the head has gone out.
pub(super) fn failure(error: &Error) -> Bytes {
    let text = crate::error::message(error);
    line(&json!({"errorDetail": {"message": text}, "error": text}))
}

fn progress(item: &Progress, quiet: bool) -> Option<Bytes> {
    match item {
        Progress::Line(text) if !quiet => Some(line(&json!({"stream": format!("{text}\n")}))),
        Progress::Step { id, action, current_bytes, total_bytes } if !quiet => {
            let mut detail = json!({"current": current_bytes});
            if *total_bytes > 0 {
                detail["total"] = json!(total_bytes);
            }
            Some(line(&json!({
                "status": action, "progressDetail": detail, "progress": bar(*current_bytes, *total_bytes), "id": id,
            })))
        }
        Progress::Line(_) | Progress::Step { .. } => None,
        Progress::Loaded(name) => Some(line(&json!({"stream": format!("{name}\n")}))),
        Progress::Made(id) => Some(line(&json!({"aux": {"ID": id}}))),
    }
}

/// The bar that old clients print: 50 wide, with both sizes.
fn bar(current: u64, total: u64) -> String {
    if total == 0 {
        return format!("{:>8}", human(current));
    }
    let filled = usize::try_from(current.saturating_mul(50) / total).unwrap_or(50).min(50);
    let sizes = match current > total {
        true => format!("{:>8}", human(current)),
        false => format!("{:>8}/{}", human(current), human(total)),
    };
    format!("[{}>{}] {sizes}", "=".repeat(filled), " ".repeat(50 - filled))
}

/// Go's `units.HumanSize`: four significant digits.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1000.0 && unit < UNITS.len() - 1 {
        size /= 1000.0;
        unit += 1;
    }
    let decimals = match size {
        s if s >= 999.95 => 0,
        s if s >= 99.995 => 1,
        s if s >= 9.9995 => 2,
        _ => 3,
    };
    let text = format!("{size:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

/// Sends `stream` message by message. A failure before the first message is the answer itself, with its status.
pub(super) async fn answer(mut stream: ProgressStream, quiet: bool) -> Result<Response, Error> {
    let first = loop {
        match stream.next().await {
            None => break None,
            Some(item) => match progress(&item?, quiet) {
                Some(bytes) => break Some(bytes),
                None => continue,
            },
        }
    };
    let body = crate::containers::stream_body(async move |sender| {
        if let Some(first) = first
            && sender.send(first).await.is_err()
        {
            return;
        }
        while let Some(item) = stream.next().await {
            let bytes = match &item {
                Ok(item) => progress(item, quiet),
                Err(error) => Some(failure(error)),
            };
            if let Some(bytes) = bytes
                && sender.send(bytes).await.is_err()
            {
                return;
            }
        }
    });
    Ok(whole(body))
}

/// A body of messages with its head.
pub(super) fn whole(body: Body) -> Response {
    ([("content-type", "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bars_are_dockerds() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(32768), "32.77kB");
        assert_eq!(human(4_404_000), "4.404MB");
        assert_eq!(human(123_456_789), "123.5MB");
        assert_eq!(bar(1, 2), format!("[{}>{}]       1B/2B", "=".repeat(25), " ".repeat(25)));
    }

    #[test]
    fn quiet_keeps_only_the_result() {
        assert!(progress(&Progress::Line("x".into()), true).is_none());
        let loaded = progress(&Progress::Loaded("Loaded image: a:1".into()), true).unwrap();
        assert_eq!(&loaded[..], b"{\"stream\":\"Loaded image: a:1\\n\"}\r\n");
    }
}
