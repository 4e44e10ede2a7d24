//! Making a store. Pure: says what to write.

use super::layout::{Layout, LayoutError, SUPERBLOCKS};
use super::superblock::{MAGIC, Superblock};
use crate::block::StoreOffset;
use crate::id::StoreId;
use crate::limits::BLOCK_BYTES;
use crate::map::page::Roots;
use crate::wal::frame;
use crate::wal::ring::Position;
use crate::wal::scan::LogPoint;
use alloc::vec::Vec;

/// What the caller writes to make a store, in this order.
#[derive(Clone, Debug)]
pub struct Formatting {
    /// Offset and length of what is to be filled with zeros first (superblocks and log), so that
    /// nothing of an earlier store is taken for this one's and no log write allocates. Then sync.
    pub zeros: (StoreOffset, u64),
    /// Then these, then sync.
    pub writes: Vec<(StoreOffset, Vec<u8>)>,
}

/// What a device holds, judged by its first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeros.
    Empty,
    /// Begins like a store.
    Store,
    /// Something else.
    Foreign,
}

/// Plans an empty store on a device of `store_bytes`.
pub fn format(id: StoreId, store_bytes: u64) -> Result<Formatting, LayoutError> {
    Ok(format_with(id, Layout::for_size(store_bytes)?))
}

/// Plans an empty store with this layout.
pub fn format_with(id: StoreId, layout: Layout) -> Formatting {
    let superblock = Superblock {
        store: id,
        sequence: 1,
        layout,
        checkpoint: LogPoint::default(),
        roots: Roots::default(),
    };
    let starts = (0..u64::from(layout.segments)).map(|index| {
        let position = Position(index * u64::from(layout.segment_bytes));
        (
            layout.log_start().plus(position.0),
            frame::blank(id, position),
        )
    });
    let copies = SUPERBLOCKS.iter().zip(0..);
    let copies = copies.map(|(offset, copy)| (*offset, superblock.encode(copy)));
    Formatting {
        zeros: (StoreOffset(0), layout.pages_start().0),
        writes: starts.chain(copies).collect(),
    }
}

/// Judges the first [`BLOCK_BYTES`] of a device (and better, also those at the second of
/// [`SUPERBLOCKS`]): whether formatting would destroy something.
pub fn probe(block: &[u8]) -> Content {
    assert_eq!(block.len(), BLOCK_BYTES);
    if block[..8] == MAGIC {
        Content::Store
    } else if block.iter().all(|byte| *byte == 0) {
        Content::Empty
    } else {
        Content::Foreign
    }
}
