//! Page slots: which are in use, and which are given back once the next checkpoint is durable.

use super::free_set::FreeSet;
use super::page::PageSlot;
use alloc::vec::Vec;

/// The metadata area's slots.
///
/// A slot that the last durable checkpoint reaches is never written: a page that changes moves to a fresh
/// slot, and its old one is *stale* until the checkpoint that no longer reaches it is durable.
#[derive(Debug)]
pub(super) struct Slots {
    set: FreeSet,
    /// Not reached by the map any more, but by the last encoded checkpoint.
    stale: Vec<PageSlot>,
    /// Stale since before the checkpoint that is being written.
    releasing: Vec<PageSlot>,
}

impl Slots {
    pub(super) fn new(total: u32) -> Slots {
        Slots {
            set: FreeSet::all_free(total),
            stale: Vec::new(),
            releasing: Vec::new(),
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.set.total()
    }

    pub(super) fn used(&self) -> u32 {
        self.set.total() - self.set.free()
    }

    /// All slots that wait for a checkpoint.
    pub(super) fn stale(&self) -> impl Iterator<Item = PageSlot> + '_ {
        self.stale.iter().chain(&self.releasing).copied()
    }

    pub(super) fn is_free(&self, slot: PageSlot) -> bool {
        self.set.is_free(slot.0)
    }

    pub(super) fn allocate(&mut self) -> PageSlot {
        // Admission keeps a checkpoint to half of the slots, so its shadow fits in the other half.
        PageSlot(self.set.take_next().expect("a slot for every page"))
    }

    /// As [`Slots::allocate`], far from where that is handing out: for a second copy, so that one bad
    /// place of the disk does not hold both. How far depends on what is free.
    pub(super) fn allocate_apart(&mut self) -> PageSlot {
        PageSlot(self.set.take_apart().expect("a slot for every page"))
    }

    /// A loaded page is in `slot`. False if there is no such slot or it is taken.
    pub(super) fn claim(&mut self, slot: PageSlot) -> bool {
        let free = slot.0 < self.set.total() && self.set.is_free(slot.0);
        if free {
            self.set.take(slot.0);
        }
        free
    }

    /// The map does not reach `slot` any more.
    pub(super) fn retire(&mut self, slot: PageSlot) {
        assert!(!self.set.is_free(slot.0));
        self.stale.push(slot);
    }

    /// The checkpoint that begins now reaches no stale slot.
    pub(super) fn begin_checkpoint(&mut self) {
        assert!(self.releasing.is_empty());
        core::mem::swap(&mut self.stale, &mut self.releasing);
    }

    /// A page was replaced while its checkpoint was encoded, which does not reach `slot`.
    pub(super) fn retire_in_checkpoint(&mut self, slot: PageSlot) {
        assert!(!self.set.is_free(slot.0));
        self.releasing.push(slot);
    }

    /// The checkpoint is durable.
    pub(super) fn checkpoint_durable(&mut self) {
        for slot in self.releasing.drain(..) {
            self.set.give(slot.0);
        }
    }
}
