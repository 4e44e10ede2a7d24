//! Positions: blocks and chunks of a volume, chunks and byte offsets of a store. Never mixed.

use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS};
use core::fmt;

/// Index of a 4 KiB block in a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(pub u64);

/// Index of a 64 KiB chunk in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(pub u64);

/// Index of a 64 KiB chunk in the chunk area of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalChunk(pub u32);

/// Byte offset in a store, a multiple of [`BLOCK_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreOffset(pub u64);

/// A run of blocks of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub first: Block,
    /// Length in blocks.
    pub count: u32,
}

impl Block {
    /// The chunk that holds this block.
    pub fn chunk(self) -> ChunkIndex {
        ChunkIndex(self.0 / CHUNK_BLOCKS as u64)
    }

    /// Position inside its chunk, below [`CHUNK_BLOCKS`].
    pub fn index_in_chunk(self) -> usize {
        usize::try_from(self.0 % CHUNK_BLOCKS as u64).expect("below CHUNK_BLOCKS")
    }

    /// The block `count` further on.
    pub fn plus(self, count: u64) -> Block {
        Block(
            self.0
                .checked_add(count)
                .expect("block numbers are bounded by VOLUME_BYTES_MAX"),
        )
    }
}

impl ChunkIndex {
    /// First block of the chunk.
    pub fn first_block(self) -> Block {
        Block(self.0 * CHUNK_BLOCKS as u64)
    }

    /// All blocks of the chunk.
    pub fn range(self) -> BlockRange {
        BlockRange {
            first: self.first_block(),
            count: u32::try_from(CHUNK_BLOCKS).expect("a chunk has few blocks"),
        }
    }
}

impl StoreOffset {
    /// The offset `bytes` further on; stays a multiple of [`BLOCK_BYTES`].
    pub fn plus(self, bytes: u64) -> StoreOffset {
        assert!(bytes.is_multiple_of(BLOCK_BYTES as u64));
        StoreOffset(
            self.0
                .checked_add(bytes)
                .expect("store offsets are below 2^63"),
        )
    }
}

impl BlockRange {
    /// The block behind the last one.
    pub fn end(self) -> Block {
        self.first.plus(u64::from(self.count))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

impl fmt::Display for StoreOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {:#x}", self.0)
    }
}
