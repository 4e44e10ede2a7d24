//! Where blocks are: overlay first, then the map.

use super::contents::{Contents, Volume};
use super::overlay::{BlockState, ChunkOverlay};
use super::{Extent, Location, Lookup, RequestError, Run};
use crate::block::{Block, BlockRange, ChunkIndex, PhysicalChunk};
use crate::id::VolumeId;
use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS};
use crate::map::entry::Entry;
use crate::store::layout::Layout;
use alloc::vec::Vec;

impl Contents {
    /// Fills `lookup` for `range`. Hot path: no allocation once the vectors have grown.
    pub(super) fn lookup(
        &self,
        layout: &Layout,
        id: VolumeId,
        range: BlockRange,
        lookup: &mut Lookup,
    ) -> Result<(), RequestError> {
        lookup.extents.clear();
        lookup.checksums.clear();
        self.check_range(id, range)?;
        let volume = self.volumes.get(&id).ok_or(RequestError::NotFound)?;
        let mut block = range.first;
        while block < range.end() {
            let chunk = block.chunk();
            let start = block.index_in_chunk();
            let left = range.end().0 - chunk.first_block().0;
            let end = usize::try_from(left).map_or(CHUNK_BLOCKS, |left| left.min(CHUNK_BLOCKS));
            let view = self.view(volume, chunk);
            for index in start..end {
                let (location, checksum) = view.block(index, layout);
                lookup.checksums.push(checksum);
                push(&mut lookup.extents, location);
            }
            block = Block(chunk.first_block().0 + end as u64);
        }
        Ok(())
    }

    /// Runs of equal provisioning from the start of `range`, at most `runs_max`.
    pub(super) fn provisioning(
        &self,
        id: VolumeId,
        range: BlockRange,
        runs_max: usize,
    ) -> Result<Vec<Run>, RequestError> {
        self.check_range(id, range)?;
        let volume = self.volumes.get(&id).ok_or(RequestError::NotFound)?;
        let end = ChunkIndex((range.end().0 - 1) / CHUNK_BLOCKS as u64 + 1);
        let mut runs: Vec<Run> = Vec::new();
        let mut block = range.first;
        while block < range.end() && runs.len() <= runs_max {
            let chunk = block.chunk();
            let next = self.next_used(volume, chunk, end);
            if next != Some(chunk) {
                let until = next
                    .map_or(range.end(), ChunkIndex::first_block)
                    .min(range.end());
                extend(&mut runs, until.0 - block.0, false);
                block = until;
                continue;
            }
            let view = self.view(volume, chunk);
            let until = chunk
                .first_block()
                .plus(CHUNK_BLOCKS as u64)
                .min(range.end());
            while block < until {
                extend(&mut runs, 1, view.is_mapped(block.index_in_chunk()));
                block = block.plus(1);
            }
        }
        runs.truncate(runs_max);
        Ok(runs)
    }

    /// The first chunk at or behind `from` and before `end` that the map or the log says something about.
    pub(super) fn next_used(
        &self,
        volume: &Volume,
        from: ChunkIndex,
        end: ChunkIndex,
    ) -> Option<ChunkIndex> {
        let mapped = volume
            .slot
            .and_then(|slot| self.map.next_mapped(slot, from, end));
        let above = volume
            .overlay
            .range(from..end)
            .next()
            .map(|(chunk, _)| *chunk);
        [mapped, above].into_iter().flatten().min()
    }

    fn view<'a>(&'a self, volume: &'a Volume, chunk: ChunkIndex) -> View<'a> {
        View {
            overlay: volume.overlay.get(&chunk),
            entry: volume.slot.map(|slot| self.map.get(slot, chunk)),
        }
    }
}

/// One chunk as requests see it.
struct View<'a> {
    overlay: Option<&'a ChunkOverlay>,
    entry: Option<&'a Entry>,
}

impl View<'_> {
    fn block(&self, index: usize, layout: &Layout) -> (Location, u32) {
        let in_chunk = |chunk: PhysicalChunk| {
            Location::Stored(layout.chunk(chunk).plus((index * BLOCK_BYTES) as u64))
        };
        if let Some(overlay) = self.overlay {
            match overlay.item(index).map(|item| item.state) {
                Some(BlockState::Logged { at, checksum }) => {
                    return (Location::Stored(at), checksum);
                }
                Some(BlockState::Zero) => return (Location::Zero, 0),
                None => {}
            }
            if let Some(replacement) = &overlay.replacement {
                return match &replacement.content {
                    Some(content) => (in_chunk(content.chunk), content.checksums[index]),
                    None => (Location::Zero, 0),
                };
            }
        }
        let Some(entry) = self.entry else {
            return (Location::Zero, 0);
        };
        if entry.bad() & (1 << index) != 0 {
            return (Location::Bad, entry.checksum(index));
        }
        match entry.chunk() {
            Some(chunk) if entry.present() & (1 << index) != 0 => {
                (in_chunk(chunk), entry.checksum(index))
            }
            _ => (Location::Zero, 0),
        }
    }

    fn is_mapped(&self, index: usize) -> bool {
        if let Some(overlay) = self.overlay {
            match overlay.item(index).map(|item| item.state) {
                Some(BlockState::Logged { .. }) => return true,
                Some(BlockState::Zero) => return false,
                None => {}
            }
            if let Some(replacement) = &overlay.replacement {
                return replacement.content.is_some();
            }
        }
        self.entry
            .is_some_and(|entry| (entry.present() | entry.bad()) & (1 << index) != 0)
    }
}

/// Appends one block, joined to the run before it when that ends where it begins.
fn push(extents: &mut Vec<Extent>, location: Location) {
    if let Some(last) = extents.last_mut() {
        let joined = match (last.location, location) {
            (Location::Zero, Location::Zero) | (Location::Bad, Location::Bad) => true,
            (Location::Stored(from), Location::Stored(at)) => {
                from.plus(u64::from(last.blocks) * BLOCK_BYTES as u64) == at
            }
            _ => false,
        };
        if joined {
            last.blocks += 1;
            return;
        }
    }
    extents.push(Extent {
        blocks: 1,
        location,
    });
}

fn extend(runs: &mut Vec<Run>, blocks: u64, mapped: bool) {
    match runs.last_mut() {
        Some(last) if last.mapped == mapped => last.blocks += blocks,
        _ => runs.push(Run { blocks, mapped }),
    }
}
