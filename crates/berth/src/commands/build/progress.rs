//! A build as it happens.
//!
//! ```text
//! plain   #3 [build 2/5] RUN make      every line with its step's number: for logs
//!         #3 0.412 cc -o main
//!         #3 DONE 1.3s
//! tty      => [build 1/5] COPY . .                      0.2s    what is done stays above
//!         [+] Building 4.1s (2 of 7 steps)                     what runs is redrawn below, ten times a second,
//!          => [build 2/5] RUN make                      3.9s    with its time and its last lines
//!          => => # cc -o main
//! json    the engine's own lines
//! ```

use crate::cli::Args;
use crate::error::{CliError, Result};
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

/// Lines of a running step's output on a terminal.
const TAIL_LINES: usize = 4;
pub(super) const REDRAW: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Tty,
    Json,
    Quiet,
}

struct Step {
    name: String,
    number: usize,
    began: Instant,
    announced: bool,
    /// The end of output that has no line end yet.
    open: String,
    lines: Vec<String>,
}

pub(super) struct Progress {
    kind: Kind,
    names: BTreeMap<i64, String>,
    /// Steps that run and copy nothing: they are not shown.
    silent: BTreeSet<i64>,
    steps: BTreeMap<i64, Step>,
    numbers: usize,
    ended: usize,
    began: Instant,
    drawn: Instant,
    drawn_lines: usize,
    out: std::io::Stderr,
}

impl Progress {
    pub(super) fn new(args: &Args) -> Result<Progress> {
        let kind = match args.text("progress") {
            _ if args.on("quiet") => Kind::Quiet,
            "" | "auto" if crate::tty::stderr_is_terminal() => Kind::Tty,
            "" | "auto" | "plain" => Kind::Plain,
            "tty" => Kind::Tty,
            "json" | "rawjson" => Kind::Json,
            "quiet" | "none" => Kind::Quiet,
            other => {
                return Err(CliError::usage(format!("invalid progress mode {other}: auto, plain, tty, json, quiet")));
            }
        };
        let now = Instant::now();
        Ok(Progress {
            kind,
            names: BTreeMap::new(),
            silent: BTreeSet::new(),
            steps: BTreeMap::new(),
            numbers: 0,
            ended: 0,
            began: now,
            drawn: now.checked_sub(REDRAW).unwrap_or(now),
            drawn_lines: 0,
            out: std::io::stderr(),
        })
    }

    pub(super) fn failed(&mut self, message: &Value) {
        if self.kind == Kind::Json {
            self.say(&format!("{}\n", message.to_plain_json()));
            return;
        }
        self.wipe();
        let running: Vec<i64> = self.steps.keys().copied().collect();
        let at = message.at(&["error", "step"]);
        for id in running {
            if !at.is_null() && at.int() == id {
                self.end(id, "ERROR");
            }
        }
    }

    pub(super) fn message(&mut self, message: &Value) {
        match self.kind {
            Kind::Quiet => return,
            Kind::Json => return self.say(&format!("{}\n", message.to_plain_json())),
            Kind::Plain | Kind::Tty => {}
        }
        if let Some(planned) = message.field("planned") {
            self.planned(planned);
        } else if let Some(text) = message.field("note") {
            self.wipe();
            self.say(&format!("{}\n", text.str()));
        } else if let Some(id) = message.field("started") {
            self.start(id.int());
        } else if let Some(output) = message.field("output") {
            self.output(output.get("id").int(), output.text("text"));
        } else if let Some(id) = message.field("cached") {
            self.start_quietly(id.int());
            self.end(id.int(), "CACHED");
        } else if let Some(id) = message.field("done") {
            self.end(id.int(), "DONE");
        } else if let Some(done) = message.field("finished") {
            self.finished(done);
        }
        if self.kind == Kind::Tty && self.drawn.elapsed() >= REDRAW {
            self.draw();
        }
    }

    fn say(&mut self, text: &str) {
        // A closed stderr is no reason to fail.
        drop(self.out.write_all(text.as_bytes()));
    }

    fn planned(&mut self, planned: &Value) {
        for step in planned.get("steps").list() {
            let id = step.get("id").int();
            match step.get("metadata").bool() {
                true => drop(self.silent.insert(id)),
                false => drop(self.names.insert(id, step.text("name").to_owned())),
            }
        }
        for warning in planned.get("warnings").list() {
            let (rule, line, text) = (warning.text("rule"), warning.get("line").int(), warning.text("message"));
            self.say(&format!("WARN: {rule}: {text} (line {line})\n"));
        }
    }

    /// A `FROM` of an earlier stage has that stage's last step, which has a name of its own.
    fn is_silent(&self, id: i64) -> bool {
        self.silent.contains(&id) && !self.names.contains_key(&id)
    }

    fn start_quietly(&mut self, id: i64) {
        if self.steps.contains_key(&id) || self.is_silent(id) {
            return;
        }
        self.numbers += 1;
        let name = self.names.get(&id).cloned().unwrap_or_else(|| "[internal]".to_owned());
        let step = Step {
            name: name.lines().next().unwrap_or_default().to_owned(),
            number: self.numbers,
            began: Instant::now(),
            announced: false,
            open: String::new(),
            lines: Vec::new(),
        };
        self.steps.insert(id, step);
    }

    fn start(&mut self, id: i64) {
        self.start_quietly(id);
        self.announce(id);
    }

    fn announce(&mut self, id: i64) {
        if self.kind != Kind::Plain {
            return;
        }
        if let Some(step) = self.steps.get_mut(&id).filter(|step| !step.announced) {
            step.announced = true;
            let text = format!("#{} {}\n", step.number, step.name);
            self.say(&text);
        }
    }

    fn output(&mut self, id: i64, text: &str) {
        self.start(id);
        let plain = self.kind == Kind::Plain;
        let Some(step) = self.steps.get_mut(&id) else { return };
        step.open.push_str(text);
        let mut said = String::new();
        while let Some(at) = step.open.find('\n') {
            let line: String = step.open.drain(..=at).collect();
            // What a program draws over itself: its last state.
            let line = line.trim_end_matches(['\n', '\r']).rsplit('\r').next().unwrap_or_default().to_owned();
            if plain {
                said.push_str(&format!("#{} {:.3} {line}\n", step.number, step.began.elapsed().as_secs_f64()));
            } else {
                step.lines.push(line);
                // A failed step shows more than a running one.
                if step.lines.len() > 10 * TAIL_LINES {
                    step.lines.remove(0);
                }
            }
        }
        self.say(&said);
    }

    fn end(&mut self, id: i64, how: &str) {
        self.announce(id);
        let Some(mut step) = self.steps.remove(&id) else { return };
        let seconds = step.began.elapsed().as_secs_f64();
        if !step.open.is_empty() {
            let rest = std::mem::take(&mut step.open);
            match self.kind {
                Kind::Plain => self.say(&format!("#{} {seconds:.3} {rest}\n", step.number)),
                _ => step.lines.push(rest),
            }
        }
        self.ended += 1;
        let width = width();
        let text = match (self.kind, how) {
            (Kind::Plain, "CACHED") => format!("#{} CACHED\n\n", step.number),
            (Kind::Plain, how) => format!("#{} {how} {seconds:.1}s\n\n", step.number),
            (_, "CACHED") => format!("{}\n", row(&format!("CACHED {}", step.name), None, width)),
            (_, "ERROR") => {
                let lines: String = step.lines.iter().map(|line| format!(" > {}\n", cut(line, width - 4))).collect();
                format!("{}\n{lines}", row(&format!("ERROR {}", step.name), Some(seconds), width))
            }
            _ => format!("{}\n", row(&step.name, Some(seconds), width)),
        };
        self.wipe();
        self.say(&text);
    }

    fn finished(&mut self, done: &Value) {
        let id = done.text("image");
        let seconds = self.began.elapsed().as_secs_f64();
        let names: Vec<&str> = done.get("tags").list().iter().map(Value::str).collect();
        self.wipe();
        let what = if id.is_empty() { "built".to_owned() } else { format!("made {id}") };
        let named = if names.is_empty() { String::new() } else { format!(" as {}", names.join(", ")) };
        self.say(&format!("{what}{named} in {seconds:.1}s\n"));
    }

    fn wipe(&mut self) {
        if self.drawn_lines > 0 {
            let text = format!("\x1b[{}A\r\x1b[J", self.drawn_lines);
            self.say(&text);
            self.drawn_lines = 0;
        }
    }

    /// Time goes on for what says nothing.
    pub(super) fn tick(&mut self) {
        if self.kind == Kind::Tty && !self.names.is_empty() && self.drawn.elapsed() >= REDRAW {
            self.draw();
        }
    }

    fn draw(&mut self) {
        self.wipe();
        let width = width();
        let height = crate::tty::size().map_or(24, |(rows, _)| usize::from(rows)).max(4);
        let seconds = self.began.elapsed().as_secs_f64();
        let mut lines = vec![format!("[+] Building {seconds:.1}s ({} of {} steps)", self.ended, self.names.len())];
        for step in self.steps.values() {
            lines.push(row(&step.name, Some(step.began.elapsed().as_secs_f64()), width));
            let from = step.lines.len().saturating_sub(TAIL_LINES);
            lines.extend(step.lines[from..].iter().map(|line| format!(" => => # {line}")));
        }
        lines.truncate(height - 2);
        let text: String = lines.iter().map(|line| format!("{}\n", cut(line, width - 1))).collect();
        self.drawn_lines = lines.len();
        self.drawn = Instant::now();
        self.say(&text);
    }
}

fn width() -> usize {
    crate::tty::size().map_or(80, |(_, columns)| usize::from(columns)).clamp(20, 160)
}

/// ` => name           1.2s`, the time at the right.
fn row(name: &str, seconds: Option<f64>, width: usize) -> String {
    let time = seconds.map(|seconds| format!(" {seconds:.1}s")).unwrap_or_default();
    let room = width.saturating_sub(5 + time.len());
    let name = cut(name, room);
    match seconds {
        Some(_) => format!(" => {name}{}{time}", " ".repeat(room - name.chars().count())),
        None => format!(" => {name}"),
    }
}

/// What a step prints must not move the cursor; what is longer than a line would break the redrawing.
fn cut(text: &str, room: usize) -> String {
    let plain: String = text.replace('\t', " ").chars().filter(|c| !c.is_control()).collect();
    if plain.chars().count() <= room {
        return plain;
    }
    plain.chars().take(room.saturating_sub(1)).chain(['\u{2026}']).collect()
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_time_at_the_right_and_never_break() {
        assert_eq!(row("RUN make", Some(1.25), 24), " => RUN make       1.2s");
        assert_eq!(row("RUN a long command line", Some(10.0), 24), " => RUN a long c\u{2026} 10.0s");
        assert_eq!(row("RUN make", None, 24), " => RUN make");
        assert_eq!(cut("a\x1b[2Kb\tc", 10), "a[2Kb c");
    }
}
