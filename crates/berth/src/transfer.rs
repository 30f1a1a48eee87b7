//! How far a pull or push is: one line for the whole image on a terminal, plain lines elsewhere.
//!
//! ```text
//! web:1  45.2MB / 120MB  37%  31.4MB/s  2s left  unpacked 30%  layers 4/9
//! ```

use crate::app::App;
use crate::commands::archive::stream_error;
use crate::error::Result;
use crate::progress::Line;
use crate::units::human_size3;
use crate::value::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The rate is that of about the last seconds: what was long ago says nothing about what is left.
const WINDOW: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Layer {
    current: u64,
    total: u64,
    unpacked: u64,
    done: bool,
}

/// What is known of one image's transfer.
struct Sum {
    layers: BTreeMap<String, Layer>,
    /// When, and bytes by then.
    marks: Vec<(Instant, u64)>,
}

impl Sum {
    fn take(&mut self, message: &Value) {
        let (id, status) = (message.text("id"), message.text("status"));
        let detail = message.get("progressDetail");
        if id.is_empty() || detail.is_null() {
            return;
        }
        let layer = self.layers.entry(id.to_owned()).or_default();
        let number = |key: &str| u64::try_from(detail.get(key).int()).unwrap_or(0);
        match status {
            "Downloading" | "Pushing" => {
                (layer.current, layer.total, layer.unpacked) = (number("current"), number("total"), number("unpacked"));
            }
            "Extracting" => {
                layer.total = number("total");
                (layer.current, layer.unpacked) = (layer.total, number("current"));
            }
            "Pull complete" | "Pushed" | "Already exists" | "Layer already exists" => {
                (layer.current, layer.unpacked, layer.done) = (layer.total, layer.total, true);
            }
            status if status.starts_with("Mounted from") => layer.done = true,
            _ => {}
        }
    }

    fn line(&mut self, name: &str, now: Instant) -> String {
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).sum::<u64>();
        let (current, total, unpacked) = (sum(|l| l.current), sum(|l| l.total), sum(|l| l.unpacked));
        let done = self.layers.values().filter(|layer| layer.done).count();
        self.marks.push((now, current));
        self.marks.retain(|(at, _)| now.duration_since(*at) <= WINDOW);
        let (began, before) = self.marks[0];
        let seconds = now.duration_since(began).as_secs_f64();
        let rate = if seconds > 0.2 { current.saturating_sub(before) as f64 / seconds } else { 0.0 };
        let mut text = format!("{name}  {} / {}", human_size3(current as f64), human_size3(total as f64));
        if let Some(percent) = (current * 100).checked_div(total) {
            text.push_str(&format!("  {percent}%"));
        }
        if rate > 0.0 && current < total {
            let left = (total - current) as f64 / rate;
            text.push_str(&format!("  {}/s  {} left", human_size3(rate), duration(left)));
        }
        if unpacked > 0
            && let Some(percent) = (unpacked * 100).checked_div(total)
        {
            text.push_str(&format!("  unpacked {percent}%"));
        }
        text.push_str(&format!("  layers {done}/{}", self.layers.len()));
        text
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil().min(359_999.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
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
        let sum = Sum { layers: BTreeMap::new(), marks: Vec::new() };
        Transfer { app, name: name.to_owned(), quiet, to_stderr, line: Line::new(!quiet), sum }
    }

    pub(crate) fn show(&mut self, message: &Value) -> Result<()> {
        if let Some(error) = stream_error(message) {
            self.line.clear();
            return Err(error);
        }
        if self.line.is_shown() && !message.text("id").is_empty() && !message.get("progressDetail").is_null() {
            self.sum.take(message);
            let text = self.sum.line(&self.name, Instant::now());
            self.line.update(&text);
            return Ok(());
        }
        self.line.clear();
        crate::commands::registry::show_message(self.app, message, self.quiet, self.to_stderr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up_to_one_line() {
        let mut sum = Sum { layers: BTreeMap::new(), marks: Vec::new() };
        let mut take = |text: &str| sum.take(&Value::parse(text.as_bytes()).unwrap());
        take(r#"{"status":"Pulling fs layer","progressDetail":{},"id":"a"}"#);
        take(r#"{"status":"Downloading","progressDetail":{"current":500,"total":1000,"unpacked":250},"id":"a"}"#);
        take(r#"{"status":"Already exists","progressDetail":{},"id":"b"}"#);
        take(r#"{"status":"Pulling from x","id":"latest"}"#);
        let now = Instant::now();
        assert_eq!(sum.line("x:1", now), "x:1  500B / 1kB  50%  unpacked 25%  layers 1/2");
        sum.take(
            &Value::parse(br#"{"status":"Downloading","progressDetail":{"current":750,"total":1000},"id":"a"}"#)
                .unwrap(),
        );
        let text = sum.line("x:1", now + Duration::from_secs(1));
        assert!(text.contains("250B/s  1s left"), "{text}");
        sum.take(&Value::parse(br#"{"status":"Pull complete","progressDetail":{},"id":"a"}"#).unwrap());
        assert!(sum.line("x:1", now + Duration::from_secs(2)).ends_with("unpacked 100%  layers 2/2"));
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([duration(5.2), duration(125.0), duration(7300.0)], ["6s", "2m05s", "2h01m"]);
    }
}
