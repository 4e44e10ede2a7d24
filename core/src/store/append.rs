//! What the copies of a shared volume say about its records: the body of a record between the machine
//! of one copy and replication.

use crate::block::{Block, BlockRange, ChunkIndex};
use crate::limits::CHUNK_BLOCKS;
use crate::lsn::Lsn;
use alloc::vec::Vec;

/// Who decides that a record of a volume is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// The only copy: durable here is committed.
    #[default]
    Alone,
    /// One copy of several: it commits when it is told.
    Shared,
}

/// What one record of a shared volume says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendBody {
    /// Blocks of one chunk; their payload comes with it.
    Write {
        /// Where, inside one chunk.
        range: BlockRange,
        /// CRC32C of each block.
        checksums: Vec<u32>,
    },
    /// A whole chunk; its payload comes with it and goes straight into a fresh chunk.
    Chunk {
        /// Which.
        chunk: ChunkIndex,
        /// CRC32C of each block.
        checksums: [u32; CHUNK_BLOCKS],
    },
    /// These blocks are zeros.
    Unmap(BlockRange),
    /// The attributes blob.
    Attributes(Vec<u8>),
    /// The volume has another size.
    Resize {
        /// Its size in blocks.
        size_blocks: u64,
    },
    /// A reign begins; the record's epoch is the new one.
    SetEpoch {
        /// Whether the volume is shared from here on.
        sharing: Sharing,
    },
}

/// A copy that lacks changes, durably known as such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resync {
    /// It may lack any change with a higher LSN than this one, up to the cut it was adopted at.
    pub base: Lsn,
    /// Blocks below this one have been filled since.
    pub cursor: Block,
}

impl AppendBody {
    /// Blocks of payload that come with it.
    pub fn payload_blocks(&self) -> usize {
        self.checksums().len()
    }

    /// CRC32C of each block of its payload.
    pub fn checksums(&self) -> &[u32] {
        match self {
            AppendBody::Write { checksums, .. } => checksums,
            AppendBody::Chunk { checksums, .. } => checksums,
            _ => &[],
        }
    }

    /// The blocks that it changes, if it changes blocks.
    pub fn range(&self) -> Option<BlockRange> {
        match self {
            AppendBody::Write { range, .. } | AppendBody::Unmap(range) => Some(*range),
            AppendBody::Chunk { chunk, .. } => Some(chunk.range()),
            _ => None,
        }
    }
}
