//! Where the areas of a store are: two superblock copies, the log, map pages, chunks.
//!
//! Computed once, at format time, and kept in the superblock; never computed again for a store that
//! exists. All areas are multiples of 4 KiB; chunks begin at a multiple of their size.

use crate::block::{PhysicalChunk, StoreOffset};
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES, FRAME_BYTES_MAX, WAL_SEGMENT_BYTES};
use crate::map::page_slots_min;

/// Offsets of the two superblock copies: far enough apart for one damaged erase block.
pub const SUPERBLOCKS: [StoreOffset; 2] = [StoreOffset(0), StoreOffset(1 << 20)];

/// Start of the log.
const LOG_START: u64 = 2 << 20;

/// Map pages at least.
const PAGES_MIN: u32 = 256;

/// Chunks per map page slot.
const CHUNKS_PER_PAGE: u64 = 4;

/// Sizes of the areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of one log segment; a frame never crosses one.
    pub segment_bytes: u32,
    /// Number of log segments.
    pub segments: u32,
    /// 4 KiB slots for map pages.
    pub page_slots: u32,
    /// Chunks.
    pub chunks: u32,
}

/// The size cannot hold a store, or the fields contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Fewer than [`Layout::STORE_BYTES_MIN`] bytes.
    #[error("{0} bytes are too few for a store")]
    TooSmall(u64),
    /// More chunks than a [`PhysicalChunk`] can name.
    #[error("{0} bytes are too many for one store")]
    TooLarge(u64),
    /// A field is zero, unaligned or too small.
    #[error("the areas contradict each other")]
    Invalid,
}

impl Layout {
    /// Bytes of a store at least: head, the smallest log, the pages, 256 chunks.
    pub const STORE_BYTES_MIN: u64 = 64 << 20;

    /// The layout of a store of `store_bytes`: an eighth is log (32 MiB to 1 GiB), one page slot for
    /// four chunks.
    pub fn for_size(store_bytes: u64) -> Result<Layout, LayoutError> {
        if store_bytes < Self::STORE_BYTES_MIN {
            return Err(LayoutError::TooSmall(store_bytes));
        }
        Self::with_log_bytes(store_bytes, (store_bytes / 8).clamp(32 << 20, 1 << 30))
    }

    /// The layout of a store of `store_bytes` with `log_bytes` of log, rounded down to whole segments. A longer log lets
    /// a burst of small writes last longer before hosts feel the flushing, and takes longer to read after a crash.
    pub fn with_log_bytes(store_bytes: u64, log_bytes: u64) -> Result<Layout, LayoutError> {
        let segments = log_bytes / WAL_SEGMENT_BYTES as u64;
        let segments = u32::try_from(segments).map_err(|_| LayoutError::Invalid)?;
        let segment_bytes = u32::try_from(WAL_SEGMENT_BYTES).map_err(|_| LayoutError::Invalid)?;
        Self::with_log(store_bytes, segment_bytes, segments)
    }

    /// The layout of a store of `store_bytes` with a log of the given shape.
    pub fn with_log(
        store_bytes: u64,
        segment_bytes: u32,
        segments: u32,
    ) -> Result<Layout, LayoutError> {
        let log_bytes = u64::from(segment_bytes) * u64::from(segments);
        let rest = store_bytes
            .checked_sub(LOG_START + log_bytes + CHUNK_BYTES as u64)
            .ok_or(LayoutError::TooSmall(store_bytes))?;
        let per_chunk = CHUNK_BYTES as u64 + BLOCK_BYTES as u64 / CHUNKS_PER_PAGE;
        let mut chunks = rest / per_chunk;
        let mut pages = chunks.div_ceil(CHUNKS_PER_PAGE);
        if pages < u64::from(PAGES_MIN) {
            pages = u64::from(PAGES_MIN);
            chunks = rest.saturating_sub(pages * BLOCK_BYTES as u64) / CHUNK_BYTES as u64;
        }
        let layout = Layout {
            segment_bytes,
            segments,
            page_slots: u32::try_from(pages).map_err(|_| LayoutError::TooLarge(store_bytes))?,
            chunks: u32::try_from(chunks).map_err(|_| LayoutError::TooLarge(store_bytes))?,
        };
        layout.validate(store_bytes)?;
        Ok(layout)
    }

    /// Checks the fields against each other and against the size of the device.
    pub fn validate(&self, store_bytes: u64) -> Result<(), LayoutError> {
        let segment = self.segment_bytes as usize;
        let aligned = segment.is_multiple_of(BLOCK_BYTES);
        if !aligned || segment < FRAME_BYTES_MIN || self.segments < 2 {
            return Err(LayoutError::Invalid);
        }
        if self.chunks == 0 || self.chunks == u32::MAX || self.page_slots < PAGES_MIN {
            return Err(LayoutError::Invalid);
        }
        if self.end() > store_bytes {
            return Err(LayoutError::TooSmall(store_bytes));
        }
        if self.page_slots < page_slots_min(self.chunks) {
            return Err(LayoutError::Invalid);
        }
        Ok(())
    }

    /// Bytes of the log.
    pub fn log_bytes(&self) -> u64 {
        u64::from(self.segment_bytes) * u64::from(self.segments)
    }

    /// Bytes of one frame at most, header and payload.
    pub fn frame_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX.min(self.segment_bytes as usize)
    }

    /// Start of the log area.
    pub fn log_start(&self) -> StoreOffset {
        StoreOffset(LOG_START)
    }

    /// Start of the map page area.
    pub fn pages_start(&self) -> StoreOffset {
        StoreOffset(LOG_START + self.log_bytes())
    }

    /// Start of the chunk area.
    pub fn chunks_start(&self) -> StoreOffset {
        let pages_end = self.pages_start().0 + u64::from(self.page_slots) * BLOCK_BYTES as u64;
        StoreOffset(pages_end.next_multiple_of(CHUNK_BYTES as u64))
    }

    /// The first byte behind the store.
    pub fn end(&self) -> u64 {
        self.chunks_start().0 + u64::from(self.chunks) * CHUNK_BYTES as u64
    }

    /// Where a map page is.
    pub fn page(&self, slot: u32) -> StoreOffset {
        assert!(slot < self.page_slots);
        self.pages_start()
            .plus(u64::from(slot) * BLOCK_BYTES as u64)
    }

    /// Where a chunk is.
    pub fn chunk(&self, chunk: PhysicalChunk) -> StoreOffset {
        assert!(chunk.0 < self.chunks);
        self.chunks_start()
            .plus(u64::from(chunk.0) * CHUNK_BYTES as u64)
    }
}

/// The smallest useful segment: two of the largest headers and a chunk's payload.
const FRAME_BYTES_MIN: usize = 128 << 10;

const _: () = assert!(FRAME_BYTES_MAX <= WAL_SEGMENT_BYTES);
const _: () = assert!(SUPERBLOCKS[1].0 + BLOCK_BYTES as u64 <= LOG_START);

#[cfg(test)]
mod tests;
