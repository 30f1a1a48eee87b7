//! What whoever waits for a registry wants to know meanwhile.

use std::sync::Arc;
use std::time::Duration;

/// Something that happened on the way and is no error yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The same is asked again after a while, because of `why`.
    Waits { why: String, wait: Duration },
    /// A mirror is passed over for the next place.
    Mirror { place: String, why: String },
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Notice::Waits { why, wait } => {
                let seconds = whole_seconds(*wait);
                write!(f, "{why}: asking again in {seconds} second{}", if seconds == 1 { "" } else { "s" })
            }
            Notice::Mirror { place, why } => write!(f, "mirror {place} is passed over: {why}"),
        }
    }
}

/// Who is told. Called in the middle of a transfer: it must not block.
pub type Notify = Arc<dyn Fn(Notice) + Send + Sync>;

/// Rounded up, as one counts down.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// An error and its causes in one line.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string().replace('\n', ", ");
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
