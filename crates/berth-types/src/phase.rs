//! A container's life as a type.
//!
//! ```text
//!            Started              Froze
//!  Created ----------> Running <--------> Paused
//!     |                 |  ^      Thawed    |
//!     |          Exited |  | Started        | Exited
//!     |                 v  |                |
//!     |                Exited <-------------'
//!     |  RemoveAsked     |
//!     '----> Removing <--'   (from Running and Paused only by force)
//! ```
//!
//! A phase carries exactly the data that it has: no pid outside `Running` and `Paused`, no exit status
//! before `Exited`. Docker's independent booleans are computed from it, never stored.

use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
    /// Nobody could learn it: its shim was killed with it, or the host went down.
    Unknown,
}

impl ExitStatus {
    /// The number a shell and Docker give it: the code, 128 + signal, or 255 where unknown.
    pub fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128u8.saturating_add(signal),
            ExitStatus::Unknown => 255,
        }
    }
}

/// Where a container is in its life. Written to disk on every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Created,
    Running { pid: i32 },
    Paused { pid: i32 },
    Exited { status: ExitStatus, oom_killed: bool },
    Removing,
}

/// What can happen to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Started { pid: i32 },
    Froze,
    Thawed,
    Exited { status: ExitStatus, oom_killed: bool },
    RemoveAsked { force: bool },
}

/// Why an event does not apply to a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("container is already running")]
    AlreadyRunning,
    #[error("container is not running")]
    NotRunning,
    #[error("container is already paused")]
    AlreadyPaused,
    #[error("container is not paused")]
    NotPaused,
    #[error("container is running: stop the container before removing or force remove")]
    StillRunning,
    #[error("container is paused and must be unpaused first")]
    StillPaused,
    #[error("container is marked for removal")]
    BeingRemoved,
}

impl Phase {
    /// The phase after `event`, or why it does not apply. Touches nothing.
    pub fn after(self, event: Event) -> Result<Phase, Refusal> {
        use Event::*;
        match (self, event) {
            (Phase::Created | Phase::Exited { .. }, Started { pid }) => Ok(Phase::Running { pid }),
            (Phase::Running { .. } | Phase::Paused { .. }, Started { .. }) => Err(Refusal::AlreadyRunning),

            (Phase::Running { pid }, Froze) => Ok(Phase::Paused { pid }),
            (Phase::Paused { .. }, Froze) => Err(Refusal::AlreadyPaused),
            (Phase::Created | Phase::Exited { .. }, Froze) => Err(Refusal::NotRunning),

            (Phase::Paused { pid }, Thawed) => Ok(Phase::Running { pid }),
            (Phase::Created | Phase::Running { .. } | Phase::Exited { .. }, Thawed) => Err(Refusal::NotPaused),

            // A container whose start fails after the process was made exits without ever running.
            (Phase::Created | Phase::Running { .. } | Phase::Paused { .. }, Exited { status, oom_killed }) => {
                Ok(Phase::Exited { status, oom_killed })
            }
            (Phase::Exited { .. }, Exited { .. }) => Err(Refusal::NotRunning),

            (Phase::Created | Phase::Exited { .. }, RemoveAsked { .. }) => Ok(Phase::Removing),
            (Phase::Running { .. } | Phase::Paused { .. }, RemoveAsked { force: true }) => Ok(Phase::Removing),
            (Phase::Running { .. }, RemoveAsked { force: false }) => Err(Refusal::StillRunning),
            (Phase::Paused { .. }, RemoveAsked { force: false }) => Err(Refusal::StillPaused),

            (Phase::Removing, Started { .. } | Froze | Thawed | Exited { .. } | RemoveAsked { .. }) => {
                Err(Refusal::BeingRemoved)
            }
        }
    }

    pub fn pid(self) -> Option<i32> {
        match self {
            Phase::Running { pid } | Phase::Paused { pid } => Some(pid),
            Phase::Created | Phase::Exited { .. } | Phase::Removing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: ExitStatus = ExitStatus::Code(3);
    const PHASES: [Phase; 5] = [
        Phase::Created,
        Phase::Running { pid: 7 },
        Phase::Paused { pid: 7 },
        Phase::Exited { status: STATUS, oom_killed: false },
        Phase::Removing,
    ];
    const EVENTS: [Event; 6] = [
        Event::Started { pid: 9 },
        Event::Froze,
        Event::Thawed,
        Event::Exited { status: STATUS, oom_killed: true },
        Event::RemoveAsked { force: false },
        Event::RemoveAsked { force: true },
    ];

    #[test]
    fn a_pid_appears_only_by_starting() {
        for phase in PHASES {
            for event in EVENTS {
                let Ok(after) = phase.after(event) else { continue };
                match event {
                    Event::Started { pid } => assert_eq!(after.pid(), Some(pid)),
                    Event::Froze | Event::Thawed => assert_eq!(after.pid(), phase.pid()),
                    Event::Exited { .. } | Event::RemoveAsked { .. } => assert_eq!(after.pid(), None),
                }
            }
        }
    }

    #[test]
    fn nothing_leaves_removing() {
        assert!(EVENTS.iter().all(|&event| Phase::Removing.after(event) == Err(Refusal::BeingRemoved)));
    }

    #[test]
    fn a_running_container_is_removed_only_by_force() {
        let running = Phase::Running { pid: 1 };
        assert_eq!(running.after(Event::RemoveAsked { force: false }), Err(Refusal::StillRunning));
        assert_eq!(running.after(Event::RemoveAsked { force: true }), Ok(Phase::Removing));
    }
}
