//! The terminal that this command was started from.

use std::io::{IsTerminal as _, stderr, stdin, stdout};

use allotment_proto::allot::WindowSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What programs expect of a window that nobody can measure.
const DEFAULT: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

/// A terminal that passes every key on. It becomes as it was when this is dropped.
#[derive(Debug)]
pub(super) struct RawMode(Termios);

impl RawMode {
    /// Makes standard input raw; `None` when it is no terminal.
    pub(super) fn begin() -> anyhow::Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Only a terminal that is gone refuses.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// The size of the window, as the first of our streams that is a terminal knows it.
pub(crate) fn window() -> WindowSize {
    let size = tcgetwinsize(stdout())
        .or_else(|_| tcgetwinsize(stdin()))
        .or_else(|_| tcgetwinsize(stderr()));
    size.map_or(DEFAULT, |size| WindowSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}
