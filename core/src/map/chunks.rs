//! Physical chunks: reference counts, the allocator, reservations, and what is given back by the next checkpoint.
//!
//! A chunk is *free*, *held* (allocated, named by no leaf of the map), *counted* (its count is the number of
//! leaf nodes that name it) or *pending* (named by nothing any more, but the last durable checkpoint or a
//! log frame behind it may name it; free once the checkpoint that covers its frame is durable).
//! Invariant: free chunks are never fewer than reserved ones.

use super::body::COUNTS;
use super::fixed_tree::FixedTree;
use super::free_set::FreeSet;
use super::{ChunkNotFree, NoSpace};
use crate::block::PhysicalChunk;
use crate::lsn::FrameSeq;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// The chunk area's chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    counts: Vec<u32>,
    set: FreeSet,
    reserved: u32,
    pending: BTreeMap<FrameSeq, Vec<PhysicalChunk>>,
    pending_count: u32,
    /// Chunks with a count above 0.
    counted: u32,
    /// Chunks with a count above 1.
    shared: u32,
    pub(super) tree: FixedTree,
}

impl Chunks {
    pub(super) fn new(total: u32) -> Chunks {
        Chunks {
            counts: vec![0; total as usize],
            set: FreeSet::all_free(total),
            reserved: 0,
            pending: BTreeMap::new(),
            pending_count: 0,
            counted: 0,
            shared: 0,
            tree: empty_tree(total),
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.set.total()
    }

    pub(super) fn free(&self) -> u32 {
        self.set.free()
    }

    pub(super) fn reserved(&self) -> u32 {
        self.reserved
    }

    pub(super) fn pending(&self) -> u32 {
        self.pending_count
    }

    pub(super) fn counted(&self) -> u32 {
        self.counted
    }

    pub(super) fn shared(&self) -> u32 {
        self.shared
    }

    pub(super) fn held(&self) -> u32 {
        self.set.total() - self.set.free() - self.counted - self.pending_count
    }

    pub(super) fn count(&self, chunk: PhysicalChunk) -> u32 {
        self.counts[chunk.0 as usize]
    }

    pub(super) fn is_free(&self, chunk: PhysicalChunk) -> bool {
        self.set.is_free(chunk.0)
    }

    /// Chunks that wait for a checkpoint.
    pub(super) fn pending_chunks(&self) -> impl Iterator<Item = PhysicalChunk> + '_ {
        self.pending.values().flatten().copied()
    }

    /// The counts that page `leaf` of the reference tree holds.
    pub(super) fn counts_of(&self, leaf: u32) -> &[u32] {
        let first = leaf as usize * COUNTS;
        &self.counts[first..self.counts.len().min(first + COUNTS)]
    }

    pub(super) fn reserve(&mut self) -> Result<(), NoSpace> {
        if self.set.free() > self.reserved {
            self.reserved += 1;
            return Ok(());
        }
        Err(NoSpace {
            pending: self.pending_count > 0,
        })
    }

    pub(super) fn unreserve(&mut self) {
        assert!(self.reserved > 0);
        self.reserved -= 1;
    }

    /// Turns a reservation into a held chunk.
    pub(super) fn allocate(&mut self) -> PhysicalChunk {
        assert!(self.reserved > 0);
        self.reserved -= 1;
        PhysicalChunk(self.set.take_next().expect("free covers reserved"))
    }

    /// Holds a chunk that a log record names.
    pub(super) fn claim(&mut self, chunk: PhysicalChunk) -> Result<(), ChunkNotFree> {
        let free = chunk.0 < self.total() && self.set.is_free(chunk.0);
        if !free || self.set.free() <= self.reserved {
            return Err(ChunkNotFree(chunk));
        }
        self.set.take(chunk.0);
        Ok(())
    }

    /// A held chunk becomes pending.
    pub(super) fn release(&mut self, chunk: PhysicalChunk, frame: FrameSeq) {
        assert!(self.count(chunk) == 0);
        assert!(!self.set.is_free(chunk.0));
        self.pending.entry(frame).or_default().push(chunk);
        self.pending_count += 1;
    }

    /// A held chunk that nothing durable can name becomes free.
    pub(super) fn release_now(&mut self, chunk: PhysicalChunk) {
        assert!(self.count(chunk) == 0);
        self.set.give(chunk.0);
    }

    /// One more leaf names `chunk`, which is held or counted.
    pub(super) fn increment(&mut self, chunk: PhysicalChunk) {
        assert!(!self.set.is_free(chunk.0));
        let count = &mut self.counts[chunk.0 as usize];
        *count = count.checked_add(1).expect("fewer leaves than 2^32");
        match *count {
            1 => self.counted += 1,
            2 => self.shared += 1,
            _ => {}
        }
        self.mark(chunk);
    }

    /// One leaf less names `chunk`; the last one makes it pending, tagged `frame`.
    pub(super) fn decrement(&mut self, chunk: PhysicalChunk, frame: FrameSeq) {
        let count = &mut self.counts[chunk.0 as usize];
        assert!(*count > 0);
        *count -= 1;
        match *count {
            0 => {
                self.counted -= 1;
                self.release(chunk, frame);
            }
            1 => self.shared -= 1,
            _ => {}
        }
        self.mark(chunk);
    }

    /// Frees what is pending for frames up to `frame`.
    pub(super) fn checkpoint_durable(&mut self, frame: FrameSeq) {
        while let Some(first) = self.pending.first_entry() {
            if *first.key() > frame {
                break;
            }
            for chunk in first.remove() {
                self.set.give(chunk.0);
                self.pending_count -= 1;
            }
        }
    }

    /// Sets the count of a chunk while loading; a positive one takes it.
    pub(super) fn load_count(&mut self, chunk: PhysicalChunk, count: u32) {
        assert!(self.count(chunk) == 0);
        if count > 0 {
            self.counts[chunk.0 as usize] = count;
            self.set.take(chunk.0);
            self.counted += 1;
            self.shared += u32::from(count > 1);
        }
    }

    fn mark(&mut self, chunk: PhysicalChunk) {
        self.tree.mark(leaf_of(chunk));
    }
}

/// Page of the reference tree that holds the count of `chunk`.
pub(super) fn leaf_of(chunk: PhysicalChunk) -> u32 {
    chunk.0 / u32::try_from(COUNTS).expect("a small constant")
}

/// The reference tree of `total` chunks, all counts 0.
pub(super) fn empty_tree(total: u32) -> FixedTree {
    let leaves = total.div_ceil(u32::try_from(COUNTS).expect("a small constant"));
    FixedTree::of_leaves(leaves.max(1))
}
