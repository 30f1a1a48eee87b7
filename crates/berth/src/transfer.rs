//! How far a pull or push is: one line for the whole image on a terminal, plain lines elsewhere.
//!
//! ```text
//! web:1  45.2MB / 120MB  37%  31.4MB/s  2s left  unpacked 30%  layers 4/9
//! ```

use crate::app::App;
use crate::commands::archive::stream_error;
use crate::error::Result;
use crate::progress::{Line, Rate, amounts};
use crate::value::Value;
use std::collections::BTreeMap;
use std::time::Instant;

#[derive(Default)]
struct Layer {
    current: u64,
    total: u64,
    unpacked: u64,
    done: bool,
    /// `Retrying in 25 seconds`
    waits: String,
}

/// What is known of one image's transfer.
struct Sum {
    layers: BTreeMap<String, Layer>,
    rate: Rate,
}

impl Sum {
    fn take(&mut self, message: &Value) {
        let (id, status) = (message.text("id"), message.text("status"));
        let detail = message.get("progressDetail");
        if id.is_empty() || detail.is_null() {
            return;
        }
        let layer = self.layers.entry(id.to_owned()).or_default();
        layer.waits = if status.starts_with("Retrying in ") { status.to_owned() } else { String::new() };
        let number = |key: &str| u64::try_from(detail.get(key).int()).unwrap_or(0);
        match status {
            "Downloading" | "Pushing" => {
                (layer.current, layer.unpacked) = (number("current"), number("unpacked"));
                // How large a layer gets that is packed meanwhile is an estimate.
                layer.total = number("total").max(layer.current);
            }
            // All layers are told of before the first arrives: how much is left is right from the beginning.
            "Pulling fs layer" => layer.total = number("total"),
            "Extracting" => {
                layer.total = number("total");
                (layer.current, layer.unpacked) = (layer.total, number("current"));
            }
            "Pull complete" | "Already exists" => {
                (layer.current, layer.unpacked, layer.done) = (layer.total, layer.total, true);
            }
            "Pushed" | "Layer already exists" => (layer.current, layer.done) = (layer.total, true),
            status if status.starts_with("Mounted from") => layer.done = true,
            _ => {}
        }
    }

    fn figures(&mut self, now: Instant) -> String {
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).sum::<u64>();
        let (current, total, unpacked) = (sum(|l| l.current), sum(|l| l.total), sum(|l| l.unpacked));
        let done = self.layers.values().filter(|layer| layer.done).count();
        // A layer that is not packed yet may become anything: then nobody knows how much is left.
        let is_known = self.layers.values().all(|layer| layer.done || layer.total > 0);
        let mut text = amounts(current, is_known.then_some(total), self.rate.at(now, current));
        if unpacked > 0
            && let Some(percent) = (unpacked * 100).checked_div(total)
        {
            text.push_str(&format!("  unpacked {percent}%"));
        }
        text.push_str(&format!("  layers {done}/{}", self.layers.len()));
        if let Some(waits) = self.layers.values().map(|layer| &layer.waits).find(|waits| !waits.is_empty()) {
            text.push_str(&format!("  {}", waits.to_ascii_lowercase()));
        }
        text
    }
}

/// Shows a stream of messages.
pub(crate) struct Transfer<'a> {
    app: &'a App,
    name: String,
    quiet: bool,
    to_stderr: bool,
    line: Line,
    sum: Sum,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(app: &'a App, name: &str, quiet: bool, to_stderr: bool) -> Transfer<'a> {
        let sum = Sum { layers: BTreeMap::new(), rate: Rate::new(Instant::now()) };
        Transfer { app, name: name.to_owned(), quiet, to_stderr, line: Line::new(!quiet), sum }
    }

    pub(crate) fn show(&mut self, message: &Value) -> Result<()> {
        if let Some(error) = stream_error(message) {
            self.line.clear();
            return Err(error);
        }
        if self.line.is_shown() && !message.text("id").is_empty() && !message.get("progressDetail").is_null() {
            self.sum.take(message);
            let figures = self.sum.figures(Instant::now());
            self.line.figures(&self.name, &figures);
            return Ok(());
        }
        self.line.clear();
        crate::commands::registry::show_message(self.app, message, self.quiet, self.to_stderr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn layers_add_up_to_one_line() {
        let now = Instant::now();
        let mut sum = Sum { layers: BTreeMap::new(), rate: Rate::new(now) };
        let mut take = |text: &str| sum.take(&Value::parse(text.as_bytes()).unwrap());
        take(r#"{"status":"Pulling fs layer","progressDetail":{},"id":"a"}"#);
        take(r#"{"status":"Downloading","progressDetail":{"current":500,"total":1000,"unpacked":250},"id":"a"}"#);
        take(r#"{"status":"Pulling fs layer","progressDetail":{"total":3000},"id":"c"}"#);
        take(r#"{"status":"Already exists","progressDetail":{},"id":"b"}"#);
        take(r#"{"status":"Pulling from x","id":"latest"}"#);
        // The third one waits for its turn, and is part of what is left.
        assert_eq!(sum.figures(now), "500B / 4kB  12%  unpacked 6%  layers 1/3");
        sum.take(&Value::parse(br#"{"status":"Retrying in 9 seconds","progressDetail":{},"id":"a"}"#).unwrap());
        assert_eq!(sum.figures(now), "500B / 4kB  12%  unpacked 6%  layers 1/3  retrying in 9 seconds");
        sum.take(
            &Value::parse(br#"{"status":"Downloading","progressDetail":{"current":750,"total":1000},"id":"a"}"#)
                .unwrap(),
        );
        let text = sum.figures(now + Duration::from_secs(3));
        assert!(text.contains("250B/s  13s left"), "{text}");
        for id in ["a", "c"] {
            let text = format!(r#"{{"status":"Pull complete","progressDetail":{{}},"id":"{id}"}}"#);
            sum.take(&Value::parse(text.as_bytes()).unwrap());
        }
        assert!(sum.figures(now + Duration::from_secs(4)).ends_with("unpacked 100%  layers 3/3"));
    }

    #[test]
    fn what_is_not_packed_yet_has_no_size() {
        let now = Instant::now();
        let mut sum = Sum { layers: BTreeMap::new(), rate: Rate::new(now) };
        let mut take = |text: &str| sum.take(&Value::parse(text.as_bytes()).unwrap());
        take(r#"{"status":"Preparing","progressDetail":{},"id":"a"}"#);
        take(r#"{"status":"Preparing","progressDetail":{},"id":"b"}"#);
        take(r#"{"status":"Pushing","progressDetail":{"current":500,"total":1000},"id":"a"}"#);
        assert_eq!(sum.figures(now), "500B  layers 0/2");
        sum.take(&Value::parse(br#"{"status":"Layer already exists","progressDetail":{},"id":"b"}"#).unwrap());
        assert_eq!(sum.figures(now), "500B / 1kB  50%  layers 1/2");
    }
}
