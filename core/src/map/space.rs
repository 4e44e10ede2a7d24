//! Space: reservations made at admission so that a flush never runs out, and the numbers people ask for.
//!
//! Chunks: a reservation is a free chunk nobody else gets. Pages: a checkpoint may consist of at most half
//! of the slots, so that it can be written whole beside the previous one. That half holds the reference tree
//! and the volume table at their full size, the map's nodes, the attributes, and what is reserved.

use super::nodes::{LEVEL_MAX, cover};
use super::{Map, NoSpace};
use crate::block::{ChunkIndex, PhysicalChunk};
use crate::id::VolumeId;
use crate::lsn::FrameSeq;
use alloc::collections::BTreeMap;

/// Space of a store as of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Chunks of the chunk area.
    pub chunks_total: u32,
    /// Chunks that nothing names; reserved ones are among them.
    pub chunks_free: u32,
    /// Chunks reserved for admitted writes.
    pub chunks_reserved: u32,
    /// Chunks allocated and not in the base yet.
    pub chunks_held: u32,
    /// Chunks that wait for a checkpoint to become free.
    pub chunks_pending: u32,
    /// Chunks that the base names.
    pub chunks_used: u32,
    /// Chunks that the base names in several leaves. (Leaves themselves may be shared, too.)
    pub chunks_shared: u32,
    /// Page slots of the metadata area.
    pub pages_total: u32,
    /// Page slots in use, stale ones included.
    pub pages_used: u32,
    /// Pages that a checkpoint may have.
    pub pages_limit: u32,
    /// Pages of the base as it is, reference tree and volume table at their full size.
    pub pages_live: u32,
    /// Pages reserved for admitted writes.
    pub pages_reserved: u32,
}

/// Map nodes that admitted writes may create, each counted once however many chunks it is for.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Per volume, level and place at that level: reserved chunks (level 0) or reserved children.
    users: BTreeMap<(VolumeId, u8, u64), u32>,
    nodes: u32,
}

impl Paths {
    pub(super) fn nodes(&self) -> u32 {
        self.nodes
    }

    /// Nodes that reserving `index` would add.
    fn missing(&self, volume: VolumeId, index: ChunkIndex) -> u32 {
        (0..=LEVEL_MAX)
            .take_while(|level| !self.users.contains_key(&key(volume, *level, index)))
            .map(weight)
            .sum()
    }

    fn add(&mut self, volume: VolumeId, index: ChunkIndex) {
        for level in 0..=LEVEL_MAX {
            let users = self.users.entry(key(volume, level, index)).or_insert(0);
            *users += 1;
            if *users > 1 {
                return;
            }
            self.nodes += weight(level);
        }
    }

    fn remove(&mut self, volume: VolumeId, index: ChunkIndex) {
        for level in 0..=LEVEL_MAX {
            let key = key(volume, level, index);
            let users = self
                .users
                .get_mut(&key)
                .expect("a path is given back once, by who reserved it");
            *users -= 1;
            if *users > 0 {
                return;
            }
            self.users.remove(&key);
            self.nodes -= weight(level);
        }
    }
}

fn key(volume: VolumeId, level: u8, index: ChunkIndex) -> (VolumeId, u8, u64) {
    (volume, level, index.0 / cover(level))
}

/// Nodes that a place at `level` may stand for: itself, and for the top the chain that a low root needs above it.
fn weight(level: u8) -> u32 {
    if level == LEVEL_MAX {
        u32::from(LEVEL_MAX)
    } else {
        1
    }
}

impl Map {
    /// True unless a flush of `index` can write in place: then it needs a chunk and a path.
    ///
    /// That holds for the base as it is. What the overlay knows counts too: a chunk that it unmaps or maps
    /// anew will need both.
    pub fn needs_space(&self, volume: VolumeId, index: ChunkIndex) -> bool {
        self.find(volume)
            .is_none_or(|slot| !self.is_exclusive(slot, index))
    }

    /// Reserves a free chunk.
    pub fn reserve_chunk(&mut self) -> Result<(), NoSpace> {
        self.chunks.reserve().map_err(|none| NoSpace {
            pending: none.pending || self.doomed > 0,
        })
    }

    /// Gives a chunk's reservation back unused.
    pub fn unreserve_chunk(&mut self) {
        self.chunks.unreserve();
    }

    /// Turns a reservation into a chunk, which is held from then on.
    pub fn allocate_chunk(&mut self) -> PhysicalChunk {
        self.chunks.allocate()
    }

    /// Recovery: a log record behind the checkpoint holds `chunk`.
    pub fn claim_chunk(&mut self, chunk: PhysicalChunk) -> Result<(), super::ChunkNotFree> {
        self.chunks.claim(chunk)
    }

    /// Gives back a held chunk that a log frame names; it is superseded by `frame`. Also while a checkpoint is
    /// encoded, of which it is no part.
    pub fn release_chunk(&mut self, chunk: PhysicalChunk, frame: FrameSeq) {
        self.assert_frame(frame);
        self.chunks.release(chunk, frame);
    }

    /// Gives back a held chunk that no log frame ever named; it is free at once.
    pub fn release_chunk_now(&mut self, chunk: PhysicalChunk) {
        self.chunks.release_now(chunk);
    }

    /// Reserves the map pages that one [`Map::put`] at `index` may need. Cheap if a neighbour is reserved.
    ///
    /// Once per chunk of the overlay; to be given back when the chunk leaves the overlay. The volume need
    /// not be in the base yet. Cost: one ordered-map lookup, four for the first of 50 neighbours.
    pub fn reserve_path(&mut self, volume: VolumeId, index: ChunkIndex) -> Result<(), NoSpace> {
        let missing = self.paths.missing(volume, index);
        if missing > 0 {
            self.check_pages(missing)?;
        }
        self.paths.add(volume, index);
        Ok(())
    }

    /// Recovery: takes the reservation that an admitted write had, though the base may be older than it was.
    pub fn restore_path(&mut self, volume: VolumeId, index: ChunkIndex) {
        self.paths.add(volume, index);
    }

    /// Gives a path's reservation back, used or not.
    pub fn unreserve_path(&mut self, volume: VolumeId, index: ChunkIndex) {
        self.paths.remove(volume, index);
    }

    /// Reserves `pages` for attributes, see [`super::attribute_pages`].
    pub fn reserve_pages(&mut self, pages: u32) -> Result<(), NoSpace> {
        self.check_pages(pages)?;
        self.pages_reserved += pages;
        Ok(())
    }

    /// Recovery: takes the reservation that admitted attributes had.
    pub fn restore_pages(&mut self, pages: u32) {
        self.pages_reserved += pages;
    }

    /// Gives back a reservation for attributes, used or not.
    pub fn unreserve_pages(&mut self, pages: u32) {
        assert!(self.pages_reserved >= pages);
        self.pages_reserved -= pages;
    }

    /// Space as of now.
    pub fn usage(&self) -> Usage {
        Usage {
            chunks_total: self.chunks.total(),
            chunks_free: self.chunks.free(),
            chunks_reserved: self.chunks.reserved(),
            chunks_held: self.chunks.held(),
            chunks_pending: self.chunks.pending(),
            chunks_used: self.chunks.counted(),
            chunks_shared: self.chunks.shared(),
            pages_total: self.slots.total(),
            pages_used: self.slots.used(),
            pages_limit: self.pages_limit(),
            pages_live: self.pages_live(),
            pages_reserved: self.reserved_pages(),
        }
    }

    /// Pages that a checkpoint may have.
    pub(super) fn pages_limit(&self) -> u32 {
        self.slots.total() / 2
    }

    /// Pages of the reference tree and both copies of the volume table when they are full.
    pub(super) fn pages_fixed(&self) -> u32 {
        self.chunks.tree.pages_max() + super::table_pages_max(&self.table)
    }

    /// Pages of the next checkpoint at most.
    pub(super) fn pages_live(&self) -> u32 {
        self.pages_fixed() + self.nodes.pages() + self.attribute_pages
    }

    /// Fails when not even what is reserved already would fit again.
    pub(super) fn check_reserved_pages(&self) -> Result<(), NoSpace> {
        self.check_pages(0)
    }

    fn reserved_pages(&self) -> u32 {
        self.paths.nodes() + self.pages_reserved
    }

    fn check_pages(&self, more: u32) -> Result<(), NoSpace> {
        let reserved = self.reserved_pages();
        let fits = self.pages_live() + reserved + more <= self.pages_limit();
        if fits {
            return Ok(());
        }
        Err(NoSpace {
            // A reservation counts pages that may exist already: giving it back tells.
            pending: reserved > 0 || self.doomed > 0,
        })
    }
}
