//! The CmdSN window of a session (RFC 7143 §4.2.2.1). Serial number arithmetic of RFC 1982.

use crate::limits::COMMAND_WINDOW;

/// What becomes of a numbered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Its turn.
    Next,
    /// Within the window, but an earlier one is missing.
    Early,
    /// A duplicate, or outside: silently ignored.
    Ignored,
}

/// The window: at most [`COMMAND_WINDOW`] commands are outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    expected: u32,
    outstanding: u32,
}

impl Window {
    pub(super) fn new(expected: u32) -> Self {
        Window {
            expected,
            outstanding: 0,
        }
    }

    /// ExpCmdSN.
    pub(super) fn expected(self) -> u32 {
        self.expected
    }

    /// MaxCmdSN. Never goes down: a command that starts moves both ends of what it is made from.
    pub(super) fn last(self) -> u32 {
        let room = COMMAND_WINDOW - self.outstanding;
        self.expected.wrapping_add(room).wrapping_sub(1)
    }

    pub(super) fn place(self, cmd_sn: u32) -> Place {
        //= RFC 7143 §4.2.2.1
        //# The target MUST silently ignore any non-immediate command outside of the window or non-immediate duplicates within it.
        let ahead = cmd_sn.wrapping_sub(self.expected);
        if ahead == 0 && self.outstanding < COMMAND_WINDOW {
            Place::Next
        } else if ahead < COMMAND_WINDOW - self.outstanding {
            Place::Early
        } else {
            Place::Ignored
        }
    }

    /// The request whose turn it was was taken in.
    pub(super) fn advance(&mut self) {
        self.expected = self.expected.wrapping_add(1);
    }

    /// A numbered SCSI command became a task.
    pub(super) fn open(&mut self) {
        assert!(self.outstanding < COMMAND_WINDOW);
        self.outstanding += 1;
    }

    /// The task has been answered or is over.
    pub(super) fn close(&mut self) {
        assert!(self.outstanding > 0);
        self.outstanding -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Window};
    use crate::limits::COMMAND_WINDOW;

    #[test]
    fn the_window_ignores_what_is_outside_and_wraps() {
        let start = u32::MAX - 2;
        let mut window = Window::new(start);
        assert_eq!(window.last(), start.wrapping_add(COMMAND_WINDOW - 1));
        assert_eq!(window.place(start), Place::Next);
        assert_eq!(window.place(start.wrapping_add(1)), Place::Early);
        assert_eq!(window.place(window.last()), Place::Early);
        assert_eq!(window.place(window.last().wrapping_add(1)), Place::Ignored);
        assert_eq!(window.place(start.wrapping_sub(1)), Place::Ignored);
        let last = window.last();
        for _ in 0..COMMAND_WINDOW {
            window.advance();
            window.open();
            assert_eq!(window.last(), last);
        }
        assert_eq!(window.place(window.expected()), Place::Ignored);
        window.close();
        assert_eq!(window.place(window.expected()), Place::Next);
    }
}
