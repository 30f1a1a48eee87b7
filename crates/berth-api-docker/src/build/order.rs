//! Steps that ran side by side, told one after the other as the classic builder does.
//!
//! The first step that has not ended is told as it goes; what later ones say is kept until it is their turn. What a
//! step says as an error is red, as dockerd's.

use berth_engine::builds::build::{Event, StepInfo, Stream};
use std::collections::BTreeMap;

#[derive(Default)]
struct Vertex {
    /// Not told yet, in pieces of one stream each.
    output: Vec<(Stream, Vec<u8>)>,
    started: bool,
    cached: bool,
    ended: bool,
}

#[derive(Default)]
pub(super) struct Order {
    steps: Vec<StepInfo>,
    vertices: BTreeMap<usize, Vertex>,
    at: usize,
    told_head: bool,
}

impl Order {
    /// What is to be shown now, message by message.
    pub(super) fn event(&mut self, event: Event) -> Vec<String> {
        let mut out = Vec::new();
        match event {
            Event::Planned { steps, warnings } => {
                for warning in warnings {
                    let rule = format!("{:?}", warning.rule);
                    out.push(format!("[Warning] {rule}: {} (line {})\n", warning.message, warning.lines.first));
                }
                self.steps = steps;
            }
            Event::Started(id) => self.vertices.entry(id).or_default().started = true,
            Event::Output(id, stream, bytes) => {
                let output = &mut self.vertices.entry(id).or_default().output;
                match output.last_mut() {
                    Some((last, kept)) if *last == stream => kept.extend_from_slice(&bytes),
                    _ => output.push((stream, bytes)),
                }
            }
            Event::Cached(id) => {
                let vertex = self.vertices.entry(id).or_default();
                (vertex.cached, vertex.ended) = (true, true);
            }
            Event::Done(id) => self.vertices.entry(id).or_default().ended = true,
            Event::Failed(id, _) => {
                let at = self.steps.iter().position(|step| step.id == id);
                if let Some(at) = at.filter(|at| *at != self.at || !self.told_head) {
                    // Its turn has not come; nothing after it will.
                    self.at = at;
                    self.told_head = false;
                }
                self.vertices.entry(id).or_default().started = true;
            }
        }
        self.advance(&mut out);
        out
    }

    fn advance(&mut self, out: &mut Vec<String>) {
        while let Some(step) = self.steps.get(self.at) {
            let vertex = self.vertices.entry(step.id).or_default();
            if !vertex.started && !vertex.ended {
                return;
            }
            if !self.told_head {
                self.told_head = true;
                out.push(format!("Step {}/{} : {}\n", self.at + 1, self.steps.len(), step.instruction));
                // A stage that goes on from another one did nothing itself.
                let goes_on = step.metadata && self.steps[..self.at].iter().any(|other| other.id == step.id);
                if vertex.cached && !goes_on {
                    out.push(" ---> Using cache\n".to_owned());
                }
            }
            vertex.tell(out);
            if !vertex.ended {
                return;
            }
            self.at += 1;
            self.told_head = false;
        }
    }
}

impl Vertex {
    fn tell(&mut self, out: &mut Vec<String>) {
        let pieces = std::mem::take(&mut self.output);
        let count = pieces.len();
        for (index, (stream, mut bytes)) in pieces.into_iter().enumerate() {
            // Half a character waits for its other half.
            let whole = match std::str::from_utf8(&bytes) {
                Err(error) if error.error_len().is_none() && index + 1 == count && !self.ended => error.valid_up_to(),
                _ => bytes.len(),
            };
            let rest = bytes.split_off(whole);
            let text = String::from_utf8_lossy(&bytes);
            match stream {
                _ if text.is_empty() => {}
                Stream::Stdout => out.push(text.into_owned()),
                Stream::Stderr => out.push(format!("\u{1b}[91m{text}\u{1b}[0m")),
            }
            if !rest.is_empty() {
                self.output.push((stream, rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(order: &mut Order, event: Event) -> String {
        order.event(event).concat()
    }

    #[test]
    fn what_runs_side_by_side_is_told_in_the_files_order() {
        let step = |id, instruction: &str, metadata| StepInfo {
            id,
            metadata,
            name: String::new(),
            instruction: instruction.to_owned(),
            stage: String::new(),
            lines: None,
        };
        let mut order = Order::default();
        let steps =
            vec![step(0, "FROM a", false), step(1, "RUN x", false), step(3, "ENV a=1", true), step(2, "RUN y", false)];
        assert_eq!(told(&mut order, Event::Planned { steps, warnings: Vec::new() }), "");
        assert_eq!(told(&mut order, Event::Started(0)), "Step 1/4 : FROM a\n");
        assert_eq!(told(&mut order, Event::Done(0)), "");
        assert_eq!(told(&mut order, Event::Started(2)), "");
        assert_eq!(told(&mut order, Event::Output(2, Stream::Stdout, b"from y\n".to_vec())), "");
        assert_eq!(told(&mut order, Event::Started(1)), "Step 2/4 : RUN x\n");
        assert_eq!(told(&mut order, Event::Output(1, Stream::Stdout, b"from x \xc3".to_vec())), "from x ");
        assert_eq!(told(&mut order, Event::Output(1, Stream::Stdout, b"\xbc\n".to_vec())), "ü\n");
        assert_eq!(told(&mut order, Event::Done(1)), "");
        assert_eq!(
            told(&mut order, Event::Cached(3)),
            "Step 3/4 : ENV a=1\n ---> Using cache\nStep 4/4 : RUN y\nfrom y\n"
        );
        assert_eq!(told(&mut order, Event::Failed(2, String::new())), "");
    }
}
