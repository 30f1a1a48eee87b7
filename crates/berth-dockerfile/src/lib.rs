//! The Dockerfile language, as BuildKit's frontend has it.
//!
//! ```text
//!  bytes --text--> nodes --parse--> Dockerfile { stages: [ Stage { instructions } ], meta_args }
//!           |                |
//!           |                '- flags, mount, ports, duration     typed, with line ranges
//!           '- directive, words                                   lines joined, here-documents attached
//!
//!  shell      words and variables: quotes, $a, ${a:-b}, ${a#b}, ${a/b/c}
//!  ignore     .dockerignore patterns, Go's rules
//!  lint       what BuildKit's checks warn about, in their words
//!  suggest    "did you mean"
//! ```
//!
//! Nothing here touches a file or the network, and nothing panics on any input: lines, nesting and the results
//! of expansion are bounded. Where BuildKit's behaviour is odd it is kept, and the comment says so.

mod directive;
mod duration;
mod error;
mod flags;
mod glob;
pub mod ignore;
mod instruction;
pub mod lint;
mod mount;
mod parse;
pub mod platform;
pub mod ports;
pub mod shell;
pub mod suggest;
mod text;
mod words;

pub use directive::{Directive, directives};
pub use duration::go_duration_nanos;
pub use error::{Lines, ParseError};
pub use instruction::*;
pub use mount::{Mount, MountType, Sharing};
pub use parse::{parse, parse_trigger};
pub use text::{Heredoc, Node, parse_heredoc};
pub use words::quote;

#[cfg(test)]
mod tests;
