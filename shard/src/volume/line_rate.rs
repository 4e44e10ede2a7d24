//! Bounds the lines that a volume logs about its damaged blocks: a disk that rots has thousands of them.
//!
//! Not a queue: what is left out is only counted, and the count told in one line when it is over.

use crate::limits::{DAMAGE_LINES_MAX, DAMAGE_LINES_PERIOD};
use std::cell::Cell;
use std::time::Duration;

/// Lines of one volume about one kind of thing.
#[derive(Debug, Default)]
pub(super) struct LineRate {
    /// When the first line of this period was asked for.
    began: Cell<Duration>,
    /// Lines written in it.
    written: Cell<u32>,
    left_out: Cell<u64>,
}

impl LineRate {
    /// Whether a line may be written at `now`; if not, it is counted.
    pub(super) fn admits(&self, now: Duration) -> bool {
        if now.saturating_sub(self.began.get()) >= DAMAGE_LINES_PERIOD {
            self.began.set(now);
            self.written.set(0);
        }
        let admits = self.written.get() < DAMAGE_LINES_MAX;
        if admits {
            self.written.set(self.written.get() + 1);
        } else {
            self.left_out.set(self.left_out.get().saturating_add(1));
        }
        admits
    }

    /// How many lines were left out in periods that are over at `now`, to be told once.
    pub(super) fn take_left_out(&self, now: Duration) -> Option<u64> {
        let over = now.saturating_sub(self.began.get()) >= DAMAGE_LINES_PERIOD;
        Some(self.left_out.get())
            .filter(|left_out| over && *left_out > 0)
            .inspect(|_| self.left_out.set(0))
    }
}

#[cfg(test)]
mod tests;
