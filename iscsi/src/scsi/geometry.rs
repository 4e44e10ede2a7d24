//! Size and logical block of the disk: turns LBAs into byte ranges, refuses what lies outside.

use crate::request::ByteRange;
use crate::scsi::sense::{AdditionalSense, Sense};

/// Bytes of a logical block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicalBlock {
    /// 512 bytes on 4 KiB physical blocks (512e).
    Bytes512,
    /// 4096 bytes (4Kn).
    Bytes4096,
}

impl LogicalBlock {
    /// Length in bytes.
    pub fn bytes(self) -> u32 {
        match self {
            LogicalBlock::Bytes512 => 512,
            LogicalBlock::Bytes4096 => 4096,
        }
    }

    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT for physical blocks of 4 KiB (SBC-3 5.16.2).
    pub fn physical_exponent(self) -> u8 {
        match self {
            LogicalBlock::Bytes512 => 3,
            LogicalBlock::Bytes4096 => 0,
        }
    }
}

/// How large the disk is and how it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    block: LogicalBlock,
    blocks: u64,
}

impl Geometry {
    /// A disk of `capacity_bytes`, at least one logical block; a remainder below one block is not shown.
    pub fn new(capacity_bytes: u64, block: LogicalBlock) -> Self {
        let blocks = capacity_bytes / u64::from(block.bytes());
        assert!(blocks > 0);
        Geometry { block, blocks }
    }

    /// The logical block.
    pub fn block(&self) -> LogicalBlock {
        self.block
    }

    /// Bytes of a logical block.
    pub fn block_bytes(&self) -> u64 {
        u64::from(self.block.bytes())
    }

    /// Number of logical blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Number of logical blocks in `bytes`.
    pub fn blocks_in(&self, bytes: u64) -> u64 {
        bytes / self.block_bytes()
    }

    /// The bytes of `count` blocks from `lba` on.
    ///
    /// Zero blocks directly behind the last block are inside, one further on are not; `lba` beyond
    /// the end is refused even for zero blocks.
    pub fn range(&self, lba: u64, count: u64) -> Result<ByteRange, Sense> {
        // SBC-3 4.5: a start or an end beyond the capacity is LOGICAL BLOCK ADDRESS OUT OF RANGE.
        let end = lba.checked_add(count);
        if end.is_none_or(|end| end > self.blocks) {
            return Err(Sense::illegal(AdditionalSense::LBA_OUT_OF_RANGE).with_information(lba));
        }
        Ok(ByteRange {
            offset: lba * self.block_bytes(),
            bytes: count * self.block_bytes(),
        })
    }

    /// The LBA that holds this byte of the volume.
    pub fn lba_of(&self, offset: u64) -> u64 {
        offset / self.block_bytes()
    }
}
