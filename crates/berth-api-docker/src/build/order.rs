//! Steps that ran side by side, told one after the other as the classic builder does.
//!
//! The first step that has not ended is told as it goes; what later ones say is kept until it is their turn.

use berth_engine::builds::build::{Event, StepInfo};
use std::collections::BTreeMap;

#[derive(Default)]
struct Vertex {
    output: Vec<u8>,
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
    /// What is to be shown now.
    pub(super) fn event(&mut self, event: Event) -> String {
        let mut out = String::new();
        match event {
            Event::Planned { steps, warnings } => {
                for warning in warnings {
                    let rule = format!("{:?}", warning.rule);
                    out.push_str(&format!("[Warning] {rule}: {} (line {})\n", warning.message, warning.lines.first));
                }
                self.steps = steps;
            }
            Event::Started(id) => self.vertices.entry(id).or_default().started = true,
            Event::Output(id, _, bytes) => self.vertices.entry(id).or_default().output.extend_from_slice(&bytes),
            Event::Cached(id) => {
                let vertex = self.vertices.entry(id).or_default();
                (vertex.cached, vertex.ended) = (true, true);
            }
            Event::Done(id) => self.vertices.entry(id).or_default().ended = true,
            Event::Failed(id, _) => {
                let at = self.steps.iter().position(|step| step.id == id && !step.metadata);
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

    fn advance(&mut self, out: &mut String) {
        while let Some(step) = self.steps.get(self.at) {
            let vertex = self.vertices.entry(step.id).or_default();
            if !step.metadata && !vertex.started && !vertex.ended {
                return;
            }
            if !self.told_head {
                self.told_head = true;
                out.push_str(&format!("Step {}/{} : {}\n", self.at + 1, self.steps.len(), step.instruction));
                if vertex.cached && !step.metadata {
                    out.push_str(" ---> Using cache\n");
                }
            }
            if !step.metadata {
                // Half a character waits for its other half.
                let whole = match std::str::from_utf8(&vertex.output) {
                    Err(error) if error.error_len().is_none() && !vertex.ended => error.valid_up_to(),
                    _ => vertex.output.len(),
                };
                let rest = vertex.output.split_off(whole);
                out.push_str(&String::from_utf8_lossy(&std::mem::replace(&mut vertex.output, rest)));
                if !vertex.ended {
                    return;
                }
            }
            self.at += 1;
            self.told_head = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_engine::builds::build::Stream;

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
            vec![step(0, "FROM a", false), step(1, "RUN x", false), step(1, "ENV a=1", true), step(2, "RUN y", false)];
        assert_eq!(order.event(Event::Planned { steps, warnings: Vec::new() }), "");
        assert_eq!(order.event(Event::Started(0)), "Step 1/4 : FROM a\n");
        assert_eq!(order.event(Event::Done(0)), "");
        assert_eq!(order.event(Event::Started(2)), "");
        assert_eq!(order.event(Event::Output(2, Stream::Stdout, b"from y\n".to_vec())), "");
        assert_eq!(order.event(Event::Started(1)), "Step 2/4 : RUN x\n");
        assert_eq!(order.event(Event::Output(1, Stream::Stdout, b"from x \xc3".to_vec())), "from x ");
        assert_eq!(order.event(Event::Output(1, Stream::Stdout, b"\xbc\n".to_vec())), "ü\n");
        assert_eq!(order.event(Event::Done(1)), "Step 3/4 : ENV a=1\nStep 4/4 : RUN y\nfrom y\n");
        assert_eq!(order.event(Event::Failed(2, String::new())), "");
    }
}
