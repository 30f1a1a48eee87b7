//! How far something is: one line that rewrites itself on a terminal, nothing or plain lines elsewhere.
//!
//! ```text
//! web:1  45.2MB / 120MB  37%  31.4MB/s  2s left  unpacked 30%  layers 4/9
//! ```

use crate::units::human_size3;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Often enough to look alive, seldom enough to cost nothing.
const REDRAW: Duration = Duration::from_millis(100);

/// The rate is that of about the last seconds: what was long ago says nothing about what is left.
const WINDOW: Duration = Duration::from_secs(3);
/// What is left of a name that has no room.
const NAME_LETTERS_MIN: usize = 12;

/// How fast a number of bytes grows.
pub(crate) struct Rate {
    /// When, and bytes by then; never empty.
    marks: Vec<(Instant, u64)>,
}

impl Rate {
    pub(crate) fn new(began: Instant) -> Rate {
        Rate { marks: vec![(began, 0)] }
    }

    /// Bytes a second, now that there are `bytes` of them.
    pub(crate) fn at(&mut self, now: Instant, bytes: u64) -> f64 {
        self.marks.push((now, bytes));
        // One stays in any case: what comes in pieces further apart than that has a rate, too.
        let too_old = self.marks.iter().take_while(|(at, _)| now.duration_since(*at) > WINDOW).count();
        self.marks.drain(..too_old.min(self.marks.len() - 2));
        let (began, before) = self.marks[0];
        let seconds = now.duration_since(began).as_secs_f64();
        if seconds > 0.2 { bytes.saturating_sub(before) as f64 / seconds } else { 0.0 }
    }
}

/// `45.2MB / 120MB  37%  31.4MB/s  2s left`, as far as it is known.
pub(crate) fn amounts(done: u64, total: Option<u64>, rate: f64) -> String {
    let mut text = human_size3(done as f64);
    if let Some(total) = total {
        text.push_str(&format!(" / {}", human_size3(total as f64)));
        if let Some(percent) = (done * 100).checked_div(total) {
            text.push_str(&format!("  {percent}%"));
        }
    }
    if rate > 0.0 && total.is_none_or(|total| done < total) {
        text.push_str(&format!("  {}/s", human_size3(rate)));
        if let Some(total) = total {
            text.push_str(&format!("  {} left", duration((total - done) as f64 / rate)));
        }
    }
    text
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil().min(359_999.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// `name` and `rest` in `width` columns: a name without room loses its beginning, which is the registry's.
fn fitted(name: &str, rest: &str, width: usize) -> String {
    let (letters, room) = (name.chars().count(), width.saturating_sub(rest.chars().count() + 2));
    let text = match letters <= room.max(NAME_LETTERS_MIN) {
        true => format!("{name}  {rest}"),
        false => {
            let kept = room.max(NAME_LETTERS_MIN) - 1;
            format!("\u{2026}{}  {rest}", name.chars().skip(letters - kept).collect::<String>())
        }
    };
    text.chars().take(width).collect()
}

/// A line on stderr.
pub(crate) struct Line {
    shown: bool,
    drawn: Instant,
    rate: Rate,
}

impl Line {
    pub(crate) fn new(wanted: bool) -> Line {
        let now = Instant::now();
        Line { shown: wanted && crate::tty::stderr_is_terminal(), drawn: now, rate: Rate::new(now) }
    }

    pub(crate) fn is_shown(&self) -> bool {
        self.shown
    }

    /// Takes the line away, so that others can be written.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }

    pub(crate) fn update(&mut self, text: &str) {
        self.draw(|width| text.chars().take(width).collect());
    }

    /// What is moved, and how far it is.
    pub(crate) fn figures(&mut self, name: &str, figures: &str) {
        self.draw(|width| fitted(name, figures, width));
    }

    fn draw(&mut self, text: impl FnOnce(usize) -> String) {
        if self.shown && self.drawn.elapsed() >= REDRAW {
            self.drawn = Instant::now();
            let width = crate::tty::size().map_or(80, |(_, columns)| usize::from(columns));
            drop(write!(io::stderr(), "\r\x1b[K{}", text(width.saturating_sub(1))));
        }
    }

    /// Has it drawn again and again until `work` is done.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>, mut draw: impl FnMut(&mut Line)) -> T {
        let mut work = std::pin::pin!(work);
        if !self.shown {
            return work.await;
        }
        loop {
            match tokio::time::timeout(REDRAW, &mut work).await {
                Ok(done) => return done,
                Err(_) => draw(self),
            }
        }
    }

    pub(crate) fn bytes(&mut self, name: &str, done: u64, total: Option<u64>) {
        if self.shown && self.drawn.elapsed() >= REDRAW {
            let figures = amounts(done, total, self.rate.at(Instant::now(), done));
            self.figures(name, &figures);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}

/// Counts what is read through it.
pub(crate) struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Counted<R> {
    pub(crate) fn new(inner: R) -> (Counted<R>, Arc<AtomicU64>) {
        let count = Arc::new(AtomicU64::new(0));
        (Counted { inner, count: Arc::clone(&count) }, count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Bytes on their way to the engine, while it says what becomes of them.
pub(crate) struct Sending<'a> {
    line: Line,
    name: &'a str,
    total: Option<u64>,
    count: Arc<AtomicU64>,
    /// Bytes of them that are unpacked, where it says so.
    pub unpacked: u64,
}

impl<'a> Sending<'a> {
    pub(crate) fn new(name: &'a str, total: Option<u64>, count: Arc<AtomicU64>, wanted: bool) -> Sending<'a> {
        Sending { line: Line::new(wanted), name, total, count, unpacked: 0 }
    }

    /// Shows how far it is until `work` is done.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let draw = |line: &mut Line| {
            let done = self.count.load(Ordering::Relaxed);
            let mut figures = amounts(done, self.total, line.rate.at(Instant::now(), done));
            if self.unpacked > 0 {
                match self.total.and_then(|total| (self.unpacked * 100).checked_div(total)) {
                    Some(percent) => figures.push_str(&format!("  unpacked {}%", percent.min(100))),
                    None => figures.push_str(&format!("  unpacked {}", human_size3(self.unpacked as f64))),
                }
            }
            line.figures(self.name, &figures);
        };
        self.line.during(work, draw).await
    }

    /// Makes room for other lines.
    pub(crate) fn clear(&mut self) {
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!([duration(5.2), duration(125.0), duration(7300.0)], ["6s", "2m05s", "2h01m"]);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        assert_eq!(amounts(500, Some(1000), 250.0), "500B / 1kB  50%  250B/s  2s left");
        assert_eq!(amounts(500, None, 250.0), "500B  250B/s");
        assert_eq!(amounts(0, Some(0), 0.0), "0B / 0B");
        assert_eq!(amounts(1000, Some(1000), 250.0), "1kB / 1kB  100%");
        // More came than was said.
        assert_eq!(amounts(1500, Some(1000), 250.0), "1.5kB / 1kB  150%");
    }

    #[test]
    fn a_rate_is_of_the_last_seconds() {
        let began = Instant::now();
        let mut rate = Rate::new(began);
        let after = |seconds: u64| began + Duration::from_secs(seconds);
        assert_eq!([rate.at(began, 0), rate.at(after(1), 100), rate.at(after(2), 300)], [0.0, 100.0, 150.0]);
        assert_eq!(rate.at(after(5), 300), 0.0);
        assert_eq!(rate.at(after(9), 700), 100.0, "nothing was heard for longer than that");
    }

    #[test]
    fn a_long_name_leaves_room_for_the_figures() {
        assert_eq!(fitted("web:1", "50%", 20), "web:1  50%");
        assert_eq!(fitted("registry.example/team/web:1", "12kB / 34kB", 30), "\u{2026}ample/team/web:1  12kB / 34kB");
        assert_eq!(fitted("registry.example/web:1", "12kB / 34kB", 20), "\u{2026}ample/web:1  12kB /");
    }
}
