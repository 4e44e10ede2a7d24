//! What a store holds: volumes, the chunk map as of the last flush, and the overlay above it.
//!
//! Applies committed records; the running store and recovery use the same functions. Reserves at
//! admission what a later flush will need (`pin_*`), and keeps these promises in the overlay.

use super::append::Sharing;
use super::frames::Frames;
use super::overlay::{BlockState, ChunkOverlay, Content, Item, Replacement, Reserve};
use super::position::Place;
use super::{RequestError, VolumeInfo};
use crate::block::{Block, BlockRange, ChunkIndex, PhysicalChunk, StoreOffset};
use crate::id::VolumeId;
use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS};
use crate::lsn::{Epoch, FrameSeq, Lsn};
use crate::map::{Map, NoSpace, VolumeSlot};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Everything that requests read and change.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) map: Box<Map>,
    pub(super) volumes: BTreeMap<VolumeId, Volume>,
    /// Removed volumes that the map still holds.
    pub(super) removed: Vec<RemovedVolume>,
    /// Chunks whose reservation is owed by the running checkpoint.
    pub(super) owed: Vec<(VolumeId, ChunkIndex)>,
    /// Durable frames behind the checkpoint.
    pub(super) frames: Frames,
    /// Shared volumes whose commit point rose since a frame noted it.
    pub(super) unnoted: Vec<VolumeId>,
    /// The frame that is being replayed.
    pub(super) replaying: FrameSeq,
}

/// One volume.
#[derive(Debug)]
pub(super) struct Volume {
    /// In the map; none until the first flush after its creation.
    pub(super) slot: Option<VolumeSlot>,
    /// The frame that created it, while it has no slot.
    pub(super) created: FrameSeq,
    pub(super) size_blocks: u64,
    /// None: the page that held them is damaged and they were not set since.
    pub(super) attributes: Option<Vec<u8>>,
    /// The attributes changed since the last flush; pages for them are reserved.
    pub(super) attributes_dirty: bool,
    /// Set when its removal is in a frame: nothing may follow in the log.
    pub(super) leaving: bool,
    pub(super) place: Place,
    pub(super) overlay: BTreeMap<ChunkIndex, ChunkOverlay>,
}

/// A removed volume that the map holds until a checkpoint covers its removal. A checkpoint that ends
/// before it keeps its record up to date: the log behind it is replayed against that record.
#[derive(Debug)]
pub(super) struct RemovedVolume {
    /// The frame that removed it.
    pub(super) seq: FrameSeq,
    pub(super) slot: VolumeSlot,
    pub(super) id: VolumeId,
    pub(super) size_blocks: u64,
    pub(super) place: Place,
}

/// When a record was committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) seq: FrameSeq,
    pub(super) lsn: Lsn,
}

impl Volume {
    /// Pages that the next flush needs for attributes.
    pub(super) fn attribute_pages_reserved(&self) -> u32 {
        match &self.attributes {
            Some(attributes) if self.attributes_dirty => {
                crate::map::attribute_pages(attributes.len())
            }
            _ => 0,
        }
    }
}

impl Contents {
    /// What the map holds, with nothing above it.
    pub(super) fn new(map: Box<Map>) -> Self {
        let volumes = map.volumes().map(|(slot, record)| {
            let volume = Volume {
                slot: Some(slot),
                created: FrameSeq(0),
                size_blocks: record.size_blocks,
                attributes: map.attributes(slot).map(<[u8]>::to_vec),
                attributes_dirty: false,
                leaving: false,
                place: Place::of_record(record),
                overlay: BTreeMap::new(),
            };
            (record.id, volume)
        });
        let volumes = volumes.collect();
        Contents {
            map,
            volumes,
            removed: Vec::new(),
            owed: Vec::new(),
            frames: Frames::default(),
            unnoted: Vec::new(),
            replaying: FrameSeq(0),
        }
    }

    pub(super) fn info(&self, id: VolumeId) -> Option<VolumeInfo> {
        let volume = self.volumes.get(&id)?;
        let chunks = volume.slot.map_or(0, |slot| self.map.used_chunks(slot));
        let mut info = volume.place.info(id, volume.size_blocks, chunks);
        info.attributes_lost = volume.attributes.is_none();
        Some(info)
    }

    /// The volume, when `range` lies inside it.
    pub(super) fn check_range(&self, id: VolumeId, range: BlockRange) -> Result<(), RequestError> {
        let volume = self.volumes.get(&id).ok_or(RequestError::NotFound)?;
        if volume.leaving {
            return Err(RequestError::NotFound);
        }
        let end = range.first.0.checked_add(u64::from(range.count));
        if range.count == 0 || end.is_none_or(|end| end > volume.size_blocks) {
            return Err(RequestError::OutOfRange);
        }
        Ok(())
    }

    /// Admits a logged write to a part of a chunk: what its flush will need is reserved.
    pub(super) fn pin_logged(&mut self, id: VolumeId, chunk: ChunkIndex) -> Result<(), NoSpace> {
        let result = self.reserve_for(id, chunk);
        if result.is_err() {
            self.tidy(id, chunk);
        }
        result
    }

    /// Admits a write of a whole chunk and gives the fresh chunk that takes it.
    pub(super) fn pin_direct(
        &mut self,
        id: VolumeId,
        chunk: ChunkIndex,
    ) -> Result<PhysicalChunk, NoSpace> {
        self.map.reserve_chunk()?;
        if let Err(error) = self.reserve_path(id, chunk) {
            self.map.unreserve_chunk();
            self.tidy(id, chunk);
            return Err(error);
        }
        self.overlay(id, chunk).direct_pins += 1;
        Ok(self.map.allocate_chunk())
    }

    /// An admitted logged write of this chunk ended, committed or not.
    pub(super) fn unpin_logged(&mut self, id: VolumeId, chunk: ChunkIndex) {
        if self.volumes.contains_key(&id) {
            self.overlay(id, chunk).pins -= 1;
            self.tidy(id, chunk);
        } // Else the volume was removed, and its overlay with it.
    }

    /// An admitted direct write of this chunk ended, committed or not.
    pub(super) fn unpin_direct(&mut self, id: VolumeId, chunk: ChunkIndex) {
        if self.volumes.contains_key(&id) {
            self.overlay(id, chunk).direct_pins -= 1;
            self.tidy(id, chunk);
        }
    }

    fn overlay(&mut self, id: VolumeId, chunk: ChunkIndex) -> &mut ChunkOverlay {
        let volume = self.volumes.get_mut(&id).expect("the caller looked it up");
        volume.overlay.entry(chunk).or_default()
    }

    fn reserve_for(&mut self, id: VolumeId, chunk: ChunkIndex) -> Result<(), NoSpace> {
        self.reserve_path(id, chunk)?;
        let slot = self.volumes.get(&id).and_then(|volume| volume.slot);
        let in_map = slot.is_some_and(|slot| self.map.is_exclusive(slot, chunk));
        if !in_map && !self.overlay(id, chunk).has_place() {
            self.map.reserve_chunk()?;
            self.overlay(id, chunk).reserve = Reserve::Held;
        }
        self.overlay(id, chunk).pins += 1;
        Ok(())
    }

    fn reserve_path(&mut self, id: VolumeId, chunk: ChunkIndex) -> Result<(), NoSpace> {
        if !self.overlay(id, chunk).path {
            self.map.reserve_path(id, chunk)?;
            self.overlay(id, chunk).path = true;
        }
        Ok(())
    }

    /// Drops the overlay of a chunk when nothing is left in it, and what it holds.
    pub(super) fn tidy(&mut self, id: VolumeId, chunk: ChunkIndex) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        let Some(overlay) = volume.overlay.get(&chunk) else {
            return;
        };
        if !overlay.is_idle() || overlay.target.is_some() {
            return;
        }
        let overlay = volume.overlay.remove(&chunk).expect("it was just there");
        self.give_back(id, chunk, &overlay);
    }

    fn give_back(&mut self, id: VolumeId, chunk: ChunkIndex, overlay: &ChunkOverlay) {
        match overlay.reserve {
            Reserve::Held => self.map.unreserve_chunk(),
            Reserve::Owed => self.owed.retain(|owed| *owed != (id, chunk)),
            Reserve::None => {}
        }
        if overlay.path {
            self.map.unreserve_path(id, chunk);
        }
    }

    /// Blocks of one chunk are in the log from `at` on.
    pub(super) fn commit_logged(
        &mut self,
        id: VolumeId,
        first: Block,
        checksums: &[u32],
        at: StoreOffset,
        version: Version,
    ) {
        let volume = self
            .volumes
            .get_mut(&id)
            .expect("committed before its removal");
        let overlay = volume.overlay.entry(first.chunk()).or_default();
        overlay.lsn = version.lsn;
        let mut at = at;
        for (index, checksum) in (first.index_in_chunk()..).zip(checksums) {
            assert!(index < CHUNK_BLOCKS);
            overlay.set(Item {
                index: small(index),
                seq: version.seq,
                state: BlockState::Logged {
                    at,
                    checksum: *checksum,
                },
            });
            at = at.plus(BLOCK_BYTES as u64);
        }
    }

    /// A whole chunk is in `content.chunk`, which the map counts as held.
    pub(super) fn commit_direct(
        &mut self,
        id: VolumeId,
        chunk: ChunkIndex,
        content: Content,
        version: Version,
    ) {
        let volume = self
            .volumes
            .get_mut(&id)
            .expect("committed before its removal");
        let overlay = volume.overlay.entry(chunk).or_default();
        overlay.lsn = version.lsn;
        overlay.items.clear();
        if let Some(old) = overlay.target.replace(content.chunk) {
            self.map.release_chunk(old, version.seq);
        }
        match core::mem::take(&mut overlay.reserve) {
            Reserve::Held => self.map.unreserve_chunk(),
            Reserve::Owed => self.owed.retain(|owed| *owed != (id, chunk)),
            Reserve::None => {}
        }
        overlay.replacement = Some(Replacement {
            seq: version.seq,
            content: Some(Box::new(content)),
        });
    }

    /// These blocks are zeros. Cost: the mapped chunks of the range.
    pub(super) fn commit_unmap(&mut self, id: VolumeId, range: BlockRange, version: Version) {
        let last = Block(range.end().0 - 1).chunk();
        let mut next = Some(range.first.chunk());
        while let Some(from) = next {
            let volume = self.volumes.get_mut(&id);
            let volume = volume.expect("committed before its removal");
            let end = ChunkIndex(last.0 + 1);
            let mapped = volume
                .slot
                .and_then(|slot| self.map.next_mapped(slot, from, end));
            let above = volume
                .overlay
                .range(from..end)
                .next()
                .map(|(chunk, _)| *chunk);
            let Some(chunk) = [mapped, above].into_iter().flatten().min() else {
                return;
            };
            unmap_chunk(volume, &self.map, chunk, range, version);
            self.drop_unwanted_reserve(id, chunk);
            next = (chunk < last).then_some(ChunkIndex(chunk.0 + 1));
        }
    }

    /// A chunk that needs no place any more gives its reservation back in the frame that says so, not
    /// when it is flushed: else a crash before that flush is durable would find it promised twice, to
    /// this chunk when its records are replayed and to one admitted since.
    fn drop_unwanted_reserve(&mut self, id: VolumeId, chunk: ChunkIndex) {
        let overlay = self.overlay(id, chunk);
        if !overlay.wants_place() && overlay.reserve == Reserve::Held {
            overlay.reserve = Reserve::None;
            self.map.unreserve_chunk();
        }
    }

    pub(super) fn commit_create(
        &mut self,
        id: VolumeId,
        size_blocks: u64,
        (epoch, sharing): (Epoch, Sharing),
        seq: FrameSeq,
    ) {
        let volume = Volume {
            slot: None,
            created: seq,
            size_blocks,
            attributes: Some(Vec::new()),
            attributes_dirty: false,
            leaving: false,
            place: Place::new(sharing, epoch, size_blocks),
            overlay: BTreeMap::new(),
        };
        let before = self.volumes.insert(id, volume);
        assert!(before.is_none());
    }

    pub(super) fn commit_resize(&mut self, id: VolumeId, size_blocks: u64) {
        let volume = self.volumes.get_mut(&id);
        let volume = volume.expect("committed before its removal");
        // A larger one may have joined the same frame before it.
        volume.size_blocks = volume.size_blocks.max(size_blocks);
    }

    /// Gives the requests that waited for the commit of one of its records.
    pub(super) fn commit_remove(&mut self, id: VolumeId, seq: FrameSeq) -> Vec<usize> {
        let mut volume = self.volumes.remove(&id).expect("removed once");
        for (chunk, overlay) in &volume.overlay {
            if let Some(target) = overlay.target {
                self.map.release_chunk(target, seq);
            }
            self.give_back(id, *chunk, overlay);
        }
        self.map.unreserve_pages(volume.attribute_pages_reserved());
        for (_, seq) in volume.place.unsettled.drain(..) {
            self.frames.settle(seq);
        }
        let pending = volume.place.pending.drain(..).collect();
        if let Some(slot) = volume.slot {
            self.removed.push(RemovedVolume {
                seq,
                slot,
                id,
                size_blocks: volume.size_blocks,
                place: volume.place,
            });
        }
        self.drop_pending(id, pending, seq)
    }

    pub(super) fn commit_attributes(&mut self, id: VolumeId, bytes: Vec<u8>) {
        let volume = self
            .volumes
            .get_mut(&id)
            .expect("committed before its removal");
        // The new blob brought its own reservation.
        self.map.unreserve_pages(volume.attribute_pages_reserved());
        volume.attributes = Some(bytes);
        volume.attributes_dirty = true;
    }

    /// Takes the reservations that a checkpoint owed; it has just given the chunks back.
    pub(super) fn settle_owed(&mut self) {
        for (id, chunk) in core::mem::take(&mut self.owed) {
            self.map
                .reserve_chunk()
                .expect("the chunk's own old place came free");
            let volume = self
                .volumes
                .get_mut(&id)
                .expect("removal forgives the debt");
            let overlay = volume
                .overlay
                .get_mut(&chunk)
                .expect("a debt keeps its overlay");
            assert_eq!(overlay.reserve, Reserve::Owed);
            overlay.reserve = Reserve::Held;
        }
    }

    /// Checks every promise in the overlay. O(overlay): for tests.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn check_deep(&self) {
        for volume in self.volumes.values() {
            for (chunk, overlay) in &volume.overlay {
                let in_map = volume
                    .slot
                    .is_some_and(|s| self.map.is_exclusive(s, *chunk));
                assert!(!overlay.wants_place() || overlay.has_place() || in_map);
                assert!(!overlay.is_idle() || overlay.target.is_some());
                assert!(overlay.items.is_sorted_by_key(|item| item.index));
                if let Some(replacement) = &overlay.replacement {
                    assert!(overlay.items.iter().all(|item| item.seq >= replacement.seq));
                }
            }
        }
    }
}

/// Zeros in the part of `chunk` that `range` covers, where there is something.
fn unmap_chunk(
    volume: &mut Volume,
    map: &Map,
    chunk: ChunkIndex,
    range: BlockRange,
    version: Version,
) {
    let start = chunk.first_block();
    let first = range.first.max(start);
    let end = range.end().min(start.plus(CHUNK_BLOCKS as u64));
    let overlay = volume.overlay.entry(chunk).or_default();
    let entry = volume.slot.map(|slot| map.get(slot, chunk));
    let beneath = entry.is_some_and(|entry| !entry.is_empty());
    let something = beneath || overlay.job || overlay.replacement.is_some();
    if !something && overlay.items.is_empty() {
        return;
    }
    overlay.lsn = version.lsn;
    if end.0 - first.0 == CHUNK_BLOCKS as u64 {
        overlay.items.clear();
        overlay.replacement = Some(Replacement {
            seq: version.seq,
            content: None,
        });
        return;
    }
    for block in first.0..end.0 {
        overlay.set(Item {
            index: small(Block(block).index_in_chunk()),
            seq: version.seq,
            state: BlockState::Zero,
        });
    }
}

fn small(index: usize) -> u8 {
    u8::try_from(index).expect("below CHUNK_BLOCKS")
}
