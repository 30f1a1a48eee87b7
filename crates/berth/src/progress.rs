//! How far something is: one line that rewrites itself on a terminal, nothing or plain lines elsewhere.

use crate::units;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Often enough to look alive, seldom enough to cost nothing.
const REDRAW: Duration = Duration::from_millis(100);

/// A line on stderr.
pub(crate) struct Line {
    shown: bool,
    drawn: Instant,
    began: Instant,
}

impl Line {
    pub(crate) fn new(wanted: bool) -> Line {
        let now = Instant::now();
        Line { shown: wanted && crate::tty::stderr_is_terminal(), drawn: now, began: now }
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
        if self.shown && self.drawn.elapsed() >= REDRAW {
            self.drawn = Instant::now();
            let width = crate::tty::size().map_or(80, |(_, columns)| usize::from(columns));
            let text: String = text.chars().take(width.saturating_sub(1)).collect();
            drop(write!(io::stderr(), "\r\x1b[K{text}"));
        }
    }

    pub(crate) fn bytes(&mut self, what: &str, done: u64, total: Option<u64>) {
        let rate = done as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let of = total.map(|t| format!(" / {}", units::human_size3(t as f64))).unwrap_or_default();
        self.update(&format!("{what} {}{of}  {}/s", units::human_size3(done as f64), units::human_size3(rate)));
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

/// Shows `count` growing until `work` is done.
pub(crate) async fn while_counting<T>(
    what: &str,
    total: Option<u64>,
    count: &AtomicU64,
    work: impl Future<Output = T>,
) -> T {
    let mut line = Line::new(true);
    let mut work = std::pin::pin!(work);
    if !line.is_shown() {
        return work.await;
    }
    loop {
        match tokio::time::timeout(REDRAW, &mut work).await {
            Ok(done) => return done,
            Err(_) => line.bytes(what, count.load(Ordering::Relaxed), total),
        }
    }
}
