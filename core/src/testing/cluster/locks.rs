//! The range locks of a volume server, as far as they matter here: changes of hosts against reads of
//! a resync. Changes do not exclude each other. Who came first goes first.

use crate::block::BlockRange;
use crate::engine::FillId;
use alloc::vec::Vec;

/// Locks of one volume.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// In order of arrival.
    all: Vec<Lock>,
}

#[derive(Debug)]
struct Lock {
    owner: Owner,
    range: BlockRange,
    held: bool,
}

/// Who wants a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A host's operation.
    Change(u64),
    /// A read of a resync.
    Fill(FillId),
}

impl Locks {
    /// True: held at once.
    pub(super) fn change(&mut self, operation: u64, range: BlockRange) -> bool {
        self.ask(Owner::Change(operation), range)
    }

    /// True: held at once.
    pub(super) fn fill(&mut self, id: FillId, range: BlockRange) -> bool {
        self.ask(Owner::Fill(id), range)
    }

    /// Gives one back. Those that hold theirs now.
    pub(super) fn release(&mut self, owner: Owner) -> Vec<Owner> {
        self.all.retain(|lock| lock.owner != owner);
        let mut granted = Vec::new();
        for at in 0..self.all.len() {
            if !self.all[at].held && self.is_free(at) {
                self.all[at].held = true;
                granted.push(self.all[at].owner);
            }
        }
        granted
    }

    /// What a lock is on.
    pub(super) fn range_of(&self, owner: Owner) -> BlockRange {
        let lock = self.all.iter().find(|lock| lock.owner == owner);
        lock.expect("it is locked").range
    }

    fn ask(&mut self, owner: Owner, range: BlockRange) -> bool {
        let held = false;
        self.all.push(Lock { owner, range, held });
        let at = self.all.len() - 1;
        let free = self.is_free(at);
        self.all[at].held = free;
        free
    }

    fn is_free(&self, at: usize) -> bool {
        let this = &self.all[at];
        !self.all[..at].iter().any(|other| {
            let shared = matches!(
                (this.owner, other.owner),
                (Owner::Change(_), Owner::Change(_))
            );
            !shared && this.range.first < other.range.end() && other.range.first < this.range.end()
        })
    }
}
