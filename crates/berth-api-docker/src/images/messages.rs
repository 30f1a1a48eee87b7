//! The stream of JSON messages that long operations answer with, as dockerd's `streamformatter` writes it.

use axum::body::Body;
use axum::response::IntoResponse;
use axum::response::Response;
use berth_engine::images::{Progress, ProgressStream, TransferMessage, TransferStream};
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

/// A message of a pull or push as dockerd writes it; `extended` for our own command line, which shows more.
fn transfer(message: &TransferMessage, extended: bool) -> Bytes {
    line(&match message {
        TransferMessage::Status { id: None, text } => json!({ "status": text }),
        TransferMessage::Status { id: Some(id), text } => json!({"status": text, "id": id}),
        TransferMessage::Wanted { id, size_bytes } => {
            let detail = if extended { json!({ "total": size_bytes }) } else { json!({}) };
            json!({"status": "Pulling fs layer", "progressDetail": detail, "id": id})
        }
        TransferMessage::Retrying { id, seconds } => {
            let status = format!("Retrying in {seconds} second{}", if *seconds == 1 { "" } else { "s" });
            json!({"status": status, "progressDetail": {}, "id": id})
        }
        TransferMessage::Layer { id, status, progress: None } => {
            json!({"status": status, "progressDetail": {}, "id": id})
        }
        TransferMessage::Layer { id, status, progress: Some(progress) } => {
            let (current, total) = (progress.current_bytes, progress.total_bytes);
            let mut detail = json!({});
            if current > 0 {
                detail["current"] = json!(current);
            }
            if total > 0 {
                detail["total"] = json!(total);
            }
            if extended {
                detail["unpacked"] = json!(progress.unpacked_bytes);
            }
            let mut value = json!({"status": status, "progressDetail": detail, "progress": bar(current, total)});
            // An import has no layers to tell apart.
            if !id.is_empty() {
                value["id"] = json!(id);
            }
            value
        }
        TransferMessage::Pushed { tag, digest, size_bytes } => {
            json!({"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size_bytes}})
        }
    })
}

/// Sends a transfer message by message, as [`answer`] does.
pub(super) async fn answer_transfer(mut stream: TransferStream, extended: bool) -> Result<Response, Error> {
    let first = match stream.next().await {
        None => None,
        Some(message) => Some(transfer(&message?, extended)),
    };
    let body = crate::containers::stream_body(async move |sender| {
        if let Some(first) = first
            && sender.send(first).await.is_err()
        {
            return;
        }
        loop {
            // A client that has gone is noticed at once, not with the next message: its transfer ends then.
            let message = tokio::select! {
                message = stream.next() => message,
                () = sender.closed() => return,
            };
            let bytes = match &message {
                None => return,
                Some(Ok(message)) => transfer(message, extended),
                Some(Err(error)) => failure(error),
            };
            if sender.send(bytes).await.is_err() {
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
    fn messages_of_a_transfer_are_dockerds() {
        use berth_engine::images::TransferProgress;
        let text = |message| String::from_utf8(transfer(&message, false).to_vec()).unwrap();
        let status = |id: Option<&str>, said: &str| {
            text(TransferMessage::Status { id: id.map(str::to_owned), text: said.to_owned() })
        };
        assert_eq!(
            status(Some("latest"), "Pulling from a/b"),
            "{\"status\":\"Pulling from a/b\",\"id\":\"latest\"}\r\n"
        );
        assert_eq!(status(None, "Digest: x"), "{\"status\":\"Digest: x\"}\r\n");
        let layer = |progress| TransferMessage::Layer { id: "a1".into(), status: "Downloading".into(), progress };
        assert_eq!(text(layer(None)), "{\"status\":\"Downloading\",\"progressDetail\":{},\"id\":\"a1\"}\r\n");
        let wanted = || TransferMessage::Wanted { id: "a1".into(), size_bytes: 7 };
        assert_eq!(text(wanted()), "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"a1\"}\r\n");
        assert!(String::from_utf8(transfer(&wanted(), true).to_vec()).unwrap().contains("{\"total\":7}"));
        let progress = TransferProgress { current_bytes: 1, total_bytes: 2, unpacked_bytes: 0 };
        let shown = text(layer(Some(progress)));
        assert!(shown.starts_with(
            "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":2},\"progress\":\"[====="
        ));
        let digest = berth_types::Digest::from_bytes([0; 32]);
        let pushed = text(TransferMessage::Pushed { tag: "1".into(), digest, size_bytes: 5 });
        assert_eq!(
            pushed,
            format!("{{\"progressDetail\":{{}},\"aux\":{{\"Tag\":\"1\",\"Digest\":\"{digest}\",\"Size\":5}}}}\r\n")
        );
    }

    #[test]
    fn quiet_keeps_only_the_result() {
        assert!(progress(&Progress::Line("x".into()), true).is_none());
        let loaded = progress(&Progress::Loaded("Loaded image: a:1".into()), true).unwrap();
        assert_eq!(&loaded[..], b"{\"stream\":\"Loaded image: a:1\\n\"}\r\n");
    }
}
