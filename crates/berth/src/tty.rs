//! The terminal: its size, and raw mode that is undone whatever happens.
//!
//! Raw mode lasts as long as its guard. The settings before it also stand in a global, from which the
//! panic hook and the signal path restore them when no guard is dropped.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use std::sync::Mutex;

static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

pub(crate) fn stdin_is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin())
}

pub(crate) fn stdout_is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdout())
}

pub(crate) fn stderr_is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stderr())
}

/// Rows and columns of the terminal on stdout, else of the one on stdin.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Hides what is typed while the guard lives; `None` where stdin is no terminal.
pub(crate) fn without_echo() -> io::Result<Option<RawMode>> {
    if !stdin_is_terminal() {
        return Ok(None);
    }
    let before = tcgetattr(rustix::stdio::stdin())?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(rustix::termios::LocalModes::ECHO);
    if let Ok(mut slot) = BEFORE.lock() {
        *slot = Some(before);
    }
    tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &hidden)?;
    Ok(Some(RawMode(())))
}

pub(crate) struct RawMode(());

impl RawMode {
    /// None when stdin is no terminal.
    pub(crate) fn enter() -> io::Result<Option<RawMode>> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        if let Ok(mut slot) = BEFORE.lock() {
            *slot = Some(before);
        }
        let standard = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            standard(info);
        }));
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(RawMode(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

pub(crate) fn restore() {
    let Ok(mut slot) = BEFORE.lock() else { return };
    if let Some(before) = slot.take() {
        // A terminal that is gone needs no restoring.
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before).ok();
    }
}
