//! Progress, as it happens.

use berth_dockerfile::Lines;
use berth_dockerfile::lint::Warning;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A step as people know it.
#[derive(Debug, Clone)]
pub struct StepInfo {
    /// Its place in the graph. A `FROM` of an earlier stage is where that ended.
    pub id: usize,
    /// Nothing is run or copied for it.
    pub metadata: bool,
    /// `[build 2/5] RUN make`
    pub name: String,
    /// The instruction alone.
    pub instruction: String,
    pub stage: String,
    pub lines: Option<Lines>,
}

#[derive(Debug, Clone)]
pub enum Event {
    /// All steps that the target needs, in the order of the file, and what is odd about it.
    Planned {
        steps: Vec<StepInfo>,
        warnings: Vec<Warning>,
    },
    Started(usize),
    Output(usize, Stream, Vec<u8>),
    Cached(usize),
    Done(usize),
    Failed(usize, String),
}

pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;
