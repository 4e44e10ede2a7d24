//! What is committed in the log and not yet in the chunk map: the newest state of one chunk.
//!
//! Hot path. A chunk's overlay is an optional *replacement* of the whole chunk, and above it
//! *items*, one per block at most. A replacement drops the items below it; so every item is newer
//! than the replacement, and an item hides what is under it.
//!
//! The overlay also owns what flushing it will need: `target` is an allocated chunk that the map does
//! not know yet, `reserve` a promise of one. Invariant: while there are stored items or `pins`, one of
//! target, reserve, running job or an exclusive chunk in the map exists. So a flush never runs out.

use crate::block::{PhysicalChunk, StoreOffset};
use crate::limits::CHUNK_BLOCKS;
use crate::lsn::{FrameSeq, Lsn};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The newest state of one chunk above the map.
#[derive(Debug, Default)]
pub(super) struct ChunkOverlay {
    pub(super) replacement: Option<Replacement>,
    pub(super) items: Vec<Item>,
    pub(super) target: Option<PhysicalChunk>,
    pub(super) reserve: Reserve,
    /// Admitted logged writes that are not committed yet.
    pub(super) pins: u32,
    /// Admitted direct writes that are not committed yet; they bring their place.
    pub(super) direct_pins: u32,
    /// Whether map pages for this chunk are reserved.
    pub(super) path: bool,
    /// Whether the flush round is copying into this chunk's place.
    pub(super) job: bool,
    pub(super) lsn: Lsn,
}

/// A promise of a free chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reserve {
    #[default]
    None,
    /// Counted in the map's reservations.
    Held,
    /// To be taken when the running checkpoint gives this chunk's old place back.
    Owed,
}

/// The whole chunk has another content.
#[derive(Clone, Debug)]
pub(super) struct Replacement {
    pub(super) seq: FrameSeq,
    pub(super) content: Option<Box<Content>>,
}

/// Where a replacing chunk is; no content means zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) chunk: PhysicalChunk,
    pub(super) checksums: [u32; CHUNK_BLOCKS],
}

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) index: u8,
    pub(super) seq: FrameSeq,
    pub(super) state: BlockState,
}

/// What an item says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockState {
    /// In the log.
    Logged { at: StoreOffset, checksum: u32 },
    /// Unmapped.
    Zero,
}

impl Item {
    fn is_logged(&self) -> bool {
        matches!(self.state, BlockState::Logged { .. })
    }
}

impl ChunkOverlay {
    /// The item of a block.
    pub(super) fn item(&self, index: usize) -> Option<&Item> {
        self.items
            .iter()
            .find(|item| usize::from(item.index) == index)
    }

    /// Sets the newest state of a block.
    pub(super) fn set(&mut self, item: Item) {
        match self
            .items
            .binary_search_by_key(&item.index, |item| item.index)
        {
            Ok(at) => self.items[at] = item,
            Err(at) => self.items.insert(at, item),
        }
    }

    /// Whether a flush of this chunk will, or may, need a place for data.
    pub(super) fn wants_place(&self) -> bool {
        self.pins > 0 || self.items.iter().any(Item::is_logged)
    }

    /// Whether there is one, apart from the map's.
    pub(super) fn has_place(&self) -> bool {
        self.target.is_some() || self.reserve != Reserve::None || self.job
    }

    /// Whether it says anything.
    pub(super) fn has_content(&self) -> bool {
        self.replacement.is_some() || !self.items.is_empty()
    }

    /// Whether any of it is data.
    pub(super) fn stores_data(&self) -> bool {
        let replaced = self.replacement.as_ref();
        replaced.is_some_and(|r| r.content.is_some()) || self.items.iter().any(Item::is_logged)
    }

    /// Whether a write of it is admitted and not committed.
    pub(super) fn is_pinned(&self) -> bool {
        self.pins > 0 || self.direct_pins > 0
    }

    /// Whether nothing is left to be flushed or committed.
    pub(super) fn is_idle(&self) -> bool {
        self.replacement.is_none() && self.items.is_empty() && !self.is_pinned() && !self.job
    }
}
