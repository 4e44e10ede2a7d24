//! The root of a store: identity, layout, checkpoint, roots of the chunk map. Little-endian.
//!
//! ```text
//!  0 magic "HOLDFAST"   8 version u32   12 copy u32      16 store id [16]   32 sequence u64
//! 40 segment bytes u32  44 segments u32 48 page slots u32 52 chunks u32
//! 56 checkpoint frame u64   64 log position u64   72 chain u32   76 zero   80 map roots [24]
//! 104 zero ...                                                  4092 CRC32C of the bytes before
//! ```
//! Two copies. A checkpoint writes one, syncs, writes the other, syncs, and only then lets anything
//! go that the older one needs: so one damaged copy never loses anything. The valid copy with the
//! higher sequence serves.

use super::layout::Layout;
use crate::checksum::crc32c;
use crate::id::StoreId;
use crate::limits::BLOCK_BYTES;
use crate::lsn::FrameSeq;
use crate::map::page::Roots;
use crate::wal::ring::Position;
use crate::wal::scan::LogPoint;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Every superblock begins with this.
pub const MAGIC: [u8; 8] = *b"HOLDFAST";
/// The format that this build reads and writes.
pub const VERSION: u32 = 3;

const CRC_AT: usize = BLOCK_BYTES - 4;
const ROOTS_AT: usize = 80;

/// The decoded block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// This incarnation of the store.
    pub store: StoreId,
    /// Counts checkpoints.
    pub sequence: u64,
    /// Where the areas are.
    pub layout: Layout,
    /// The map is the state as of this point of the log; recovery begins here.
    pub checkpoint: LogPoint,
    /// Roots of the chunk map.
    pub roots: Roots,
}

/// Why a copy does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It does not begin with [`MAGIC`].
    Foreign,
    /// Its version is this one.
    Version(u32),
    /// It says so.
    Damaged(String),
}

impl Superblock {
    /// The bytes of copy `copy` (0 or 1).
    pub fn encode(&self, copy: u32) -> Vec<u8> {
        assert!(copy < 2);
        let mut bytes = vec![0; BLOCK_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &copy.to_le_bytes());
        put(16, &self.store.0);
        put(32, &self.sequence.to_le_bytes());
        put(40, &self.layout.segment_bytes.to_le_bytes());
        put(44, &self.layout.segments.to_le_bytes());
        put(48, &self.layout.page_slots.to_le_bytes());
        put(52, &self.layout.chunks.to_le_bytes());
        put(56, &self.checkpoint.seq.0.to_le_bytes());
        put(64, &self.checkpoint.position.0.to_le_bytes());
        put(72, &self.checkpoint.chain.to_le_bytes());
        put(ROOTS_AT, &self.roots.encode());
        let crc = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes copy `copy`.
    pub fn decode(bytes: &[u8], copy: u32) -> Result<Superblock, Unusable> {
        if bytes.len() != BLOCK_BYTES || bytes[..8] != MAGIC {
            return Err(Unusable::Foreign);
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if crc32c(&bytes[..CRC_AT]) != u32_at(CRC_AT) {
            return Err(Unusable::Damaged("its checksum is wrong".into()));
        }
        if u32_at(8) != VERSION {
            return Err(Unusable::Version(u32_at(8)));
        }
        if u32_at(12) != copy {
            let text = format!("it is copy {} in the place of copy {copy}", u32_at(12));
            return Err(Unusable::Damaged(text));
        }
        let roots = bytes[ROOTS_AT..].first_chunk().expect("far from the end");
        Ok(Superblock {
            store: StoreId(bytes[16..32].try_into().expect("16 bytes")),
            sequence: u64_at(32),
            layout: Layout {
                segment_bytes: u32_at(40),
                segments: u32_at(44),
                page_slots: u32_at(48),
                chunks: u32_at(52),
            },
            checkpoint: LogPoint {
                seq: FrameSeq(u64_at(56)),
                position: Position(u64_at(64)),
                chain: u32_at(72),
            },
            roots: Roots::decode(roots),
        })
    }
}

#[cfg(test)]
mod tests;
