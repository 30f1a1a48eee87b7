//! A build as it happens.
//!
//! ```text
//! plain   #3 [build 2/5] RUN make      every line with its step's number: for logs
//!         #3 0.412 cc -o main
//!         #3 DONE 1.3s
//! tty     what is done stays above; what runs is redrawn below, with its time and its last lines
//! json    the engine's own lines
//! ```

use crate::cli::Args;
use crate::error::{CliError, Result};
use crate::value::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// Lines of a running step's output on a terminal.
const TAIL_LINES: usize = 4;
const REDRAW: Duration = Duration::from_millis(100);

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
    steps: BTreeMap<i64, Step>,
    numbers: usize,
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
            steps: BTreeMap::new(),
            numbers: 0,
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
            if !step.get("metadata").bool() {
                self.names.insert(step.get("id").int(), step.text("name").to_owned());
            }
        }
        for warning in planned.get("warnings").list() {
            let (rule, line, text) = (warning.text("rule"), warning.get("line").int(), warning.text("message"));
            self.say(&format!("WARN: {rule}: {text} (line {line})\n"));
        }
    }

    fn start_quietly(&mut self, id: i64) {
        if self.steps.contains_key(&id) {
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
        let text = match (self.kind, how) {
            (Kind::Plain, "CACHED") => format!("#{} CACHED\n\n", step.number),
            (Kind::Plain, how) => format!("#{} {how} {seconds:.1}s\n\n", step.number),
            (_, "CACHED") => format!(" => CACHED {}\n", step.name),
            (_, "ERROR") => {
                let lines: String = step.lines.iter().map(|line| format!(" > {line}\n")).collect();
                format!(" => ERROR {}  {seconds:.1}s\n{lines}", step.name)
            }
            _ => format!(" => {}  {seconds:.1}s\n", step.name),
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

    fn draw(&mut self) {
        self.wipe();
        let width = crate::tty::size().map_or(80, |(_, columns)| usize::from(columns)).max(20);
        let height = crate::tty::size().map_or(24, |(rows, _)| usize::from(rows)).max(4);
        let mut lines: Vec<String> = Vec::new();
        for step in self.steps.values() {
            lines.push(format!(" => {}  {:.1}s", step.name, step.began.elapsed().as_secs_f64()));
            let from = step.lines.len().saturating_sub(TAIL_LINES);
            lines.extend(step.lines[from..].iter().map(|line| format!(" => => # {line}")));
        }
        lines.truncate(height - 2);
        let text: String = lines
            .iter()
            .map(|line| {
                let shown: String = line.chars().filter(|c| !c.is_control()).take(width - 1).collect();
                format!("{shown}\n")
            })
            .collect();
        self.drawn_lines = lines.len();
        self.drawn = Instant::now();
        self.say(&text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.wipe();
    }
}
