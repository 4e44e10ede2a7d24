//! Per-block linearizability of what hosts asked for and were told: I1 and I2.
//!
//! A value that a host writes is unique, zeros of unmaps are not. Each change of a block is known by when
//! it began, by when it certainly had happened (acknowledged, or read by somebody), and by the latest
//! beginning of a read that found it. A change that had happened before another one that was seen later,
//! is over: a read that begins afterwards must not find it. Changes that were never acknowledged may
//! happen at any time, or never.

use super::Micros;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A change of one block.
#[derive(Clone, Copy, Debug)]
struct Change {
    value: u64,
    /// Names it.
    operation: u64,
    /// It was asked for then, or a read that found it began then: whichever is later.
    seen: Micros,
    began: Micros,
    /// It has happened by then.
    happened: Micros,
}

/// What may be read of a volume.
#[derive(Clone, Debug, Default)]
pub(super) struct Histories {
    blocks: BTreeMap<u64, Vec<Change>>,
}

impl Histories {
    /// A host asks for `value` at `block`, perhaps not for the first time.
    pub(super) fn begin(&mut self, block: u64, value: u64, operation: u64, now: Micros) {
        self.changes(block).push(Change {
            value,
            operation,
            seen: now,
            began: now,
            happened: Micros::MAX,
        });
    }

    /// It was told that the try which began at `tried` is done. Tries before it do nothing from here on:
    /// they ended with the reigns that they were made in. One after it may still happen. `oldest` is when
    /// the oldest command under way began.
    pub(super) fn end(
        &mut self,
        block: u64,
        (operation, tried): (u64, Micros),
        now: Micros,
        oldest: Micros,
    ) {
        let changes = self.changes(block);
        let ends = |change: &&mut Change| change.operation == operation && change.began <= tried;
        for change in changes.iter_mut().filter(ends) {
            change.happened = change.happened.min(now);
        }
        forget(changes, oldest);
    }

    /// A read that began at `began` found `value`, told at `now`.
    pub(super) fn read(
        &mut self,
        block: u64,
        value: u64,
        began: Micros,
        now: Micros,
    ) -> Result<(), String> {
        let changes = self.changes(block);
        let possible: Vec<usize> = (0..changes.len())
            .filter(|at| changes[*at].value == value && !is_over(changes, *at, began))
            .collect();
        match possible[..] {
            [] => Err(format!(
                "block {block} reads {value}, asked at {began}; its changes: {changes:?}"
            )),
            [at] => {
                changes[at].happened = changes[at].happened.min(now);
                changes[at].seen = changes[at].seen.max(began);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn changes(&mut self, block: u64) -> &mut Vec<Change> {
        let nothing = Change {
            value: 0,
            operation: 0,
            seen: 0,
            began: 0,
            happened: 0,
        };
        self.blocks
            .entry(block)
            .or_insert_with(|| alloc::vec![nothing])
    }
}

/// Whether another change certainly came behind it and had happened before `time`.
fn is_over(changes: &[Change], at: usize, time: Micros) -> bool {
    let this = changes[at];
    changes.iter().any(|other| {
        other.operation != this.operation && this.happened < other.seen && other.happened < time
    })
}

fn forget(changes: &mut Vec<Change>, oldest: Micros) {
    let mut at = 0;
    while at < changes.len() {
        if is_over(changes, at, oldest) {
            changes.remove(at);
        } else {
            at += 1;
        }
    }
}
