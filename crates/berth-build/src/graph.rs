//! Operations and what they need of one another.

use crate::remote::Remote;
use crate::tree::Tree;
use crate::types::{Layer, NetworkChoice};
use crate::worker::{CacheMount, OwnMount};
use crate::{Chmod, StepInfo};
use berth_dockerfile::Lines;
use berth_types::Digest;
use std::sync::Arc;

/// A place in the graph; needs lower ones only, so there are no cycles.
pub(crate) type Id = usize;

pub(crate) struct Vertex {
    pub op: Op,
    /// `[stage 2/5] RUN make`
    pub name: String,
    pub lines: Option<Lines>,
    pub no_cache: bool,
}

pub(crate) enum Op {
    /// Layers that are there: an image's, or none.
    State(Vec<Layer>),
    Run(Box<RunOp>),
    Copy(Box<CopyOp>),
    Mkdir {
        base: Id,
        path: String,
        user: String,
    },
    /// Changes no file. `known_by`: what the configuration has come to.
    Config {
        base: Id,
        known_by: Digest,
    },
}

pub(crate) struct RunOp {
    pub base: Id,
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// Given to the process and not counted: what a proxy is called changes no result.
    pub proxy_env: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub network: NetworkChoice,
    pub insecure: bool,
    pub extra_hosts: Vec<String>,
    pub mounts: Vec<MountOp>,
    /// As people wrote it, for errors.
    pub shown: String,
}

pub(crate) struct MountOp {
    pub target: String,
    pub kind: MountOpKind,
}

pub(crate) enum MountOpKind {
    Bind { from: From, source: String, read_only: bool },
    Cache { mount: CacheMount, from: Option<Id> },
    Own(OwnMount),
}

/// Where files come from.
#[derive(Clone)]
pub(crate) enum From {
    State(Id),
    /// The context, or a named one.
    Context(Option<String>),
    Memory(Arc<dyn Tree>),
    Remote(Remote),
}

pub(crate) struct CopyOp {
    pub base: Id,
    pub link: bool,
    pub sources: Vec<SourceOp>,
    pub destination: String,
    pub chown: String,
    pub chmod: Option<Chmod>,
    pub parents: bool,
    pub exclude: Vec<String>,
}

pub(crate) struct SourceOp {
    pub from: From,
    pub path: String,
    pub unpack: bool,
}

impl Op {
    /// What its layer lies on.
    pub(crate) fn base(&self) -> Option<Id> {
        match self {
            Op::State(_) => None,
            Op::Run(run) => Some(run.base),
            Op::Copy(copy) => Some(copy.base),
            Op::Mkdir { base, .. } | Op::Config { base, .. } => Some(*base),
        }
    }

    /// What it needs before it can begin.
    pub(crate) fn inputs(&self) -> Vec<Id> {
        let of = |from: &From| match from {
            From::State(id) => Some(*id),
            From::Context(_) | From::Memory(_) | From::Remote(_) => None,
        };
        match self {
            Op::State(_) => Vec::new(),
            Op::Run(run) => {
                let mounts = run.mounts.iter().filter_map(|mount| match &mount.kind {
                    MountOpKind::Bind { from, .. } => of(from),
                    MountOpKind::Cache { from, .. } => *from,
                    _ => None,
                });
                std::iter::once(run.base).chain(mounts).collect()
            }
            Op::Copy(copy) => {
                std::iter::once(copy.base).chain(copy.sources.iter().filter_map(|source| of(&source.from))).collect()
            }
            Op::Mkdir { base, .. } | Op::Config { base, .. } => vec![*base],
        }
    }
}

/// All that the target needs, and what it becomes.
pub(crate) struct Graph {
    pub vertices: Vec<Vertex>,
    pub steps: Vec<StepInfo>,
    pub target: Id,
    pub epoch_seconds: Option<i64>,
    pub warnings: Vec<berth_dockerfile::lint::Warning>,
}
