//! Moving one chunk from the overlay into the map: what to copy where, and the entry that results.
//!
//! Hot path of the flusher. Only items up to the round's frame take part: what is newer stays in the
//! overlay and in the log behind the checkpoint. In place when nobody else has the chunk (the log
//! still holds what is overwritten), else into a fresh chunk.

use super::CopySource;
use super::contents::Contents;
use super::overlay::{BlockState, ChunkOverlay, Replacement, Reserve};
use crate::block::{ChunkIndex, PhysicalChunk};
use crate::id::VolumeId;
use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS};
use crate::lsn::{FrameSeq, Lsn};
use crate::map::VolumeSlot;
use crate::map::entry::Entry;
use crate::store::layout::Layout;
use alloc::vec::Vec;

/// A chunk that is being flushed.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) volume: VolumeId,
    pub(super) chunk: ChunkIndex,
    pub(super) target: PhysicalChunk,
    /// Copies that are still running.
    pub(super) copies: usize,
    slot: VolumeSlot,
    /// The map does not know the target yet.
    fresh: bool,
    state: ChunkState,
    items: Vec<(u8, FrameSeq)>,
    replacement: Option<FrameSeq>,
}

/// Neighbouring blocks of a job.
#[derive(Debug)]
pub(super) struct CopyRun {
    /// Index in the chunk of the first block.
    pub(super) first: usize,
    pub(super) sources: Vec<CopySource>,
}

/// What the map will say of the chunk.
#[derive(Clone, Copy, Debug)]
struct ChunkState {
    present: u16,
    bad: u16,
    checksums: [u32; CHUNK_BLOCKS],
    lsn: Lsn,
}

impl ChunkState {
    fn entry(&self, target: Option<PhysicalChunk>) -> Entry {
        match target {
            Some(chunk) if self.present != 0 => {
                Entry::stored(chunk, self.present, self.bad, self.lsn, self.checksums)
            }
            _ => Entry::without_chunk(self.bad, self.lsn, self.checksums),
        }
    }
}

impl Job {
    /// A source block is damaged: the chunk will say so, and what the block should be.
    pub(super) fn lose(&mut self, index: usize) {
        self.state.present &= !(1 << index);
        self.state.bad |= 1 << index;
    }
}

impl Contents {
    /// The first chunk with an overlay behind `after`.
    pub(super) fn next_overlay(
        &self,
        after: Option<(VolumeId, ChunkIndex)>,
    ) -> Option<(VolumeId, ChunkIndex)> {
        let (from, mut chunk) = match after {
            Some((volume, chunk)) => (volume, ChunkIndex(chunk.0 + 1)),
            None => (VolumeId([0; 16]), ChunkIndex(0)),
        };
        for (id, volume) in self.volumes.range(from..) {
            if *id != from {
                chunk = ChunkIndex(0);
            }
            if let Some((chunk, _)) = volume.overlay.range(chunk..).next() {
                return Some((*id, *chunk));
            }
        }
        None
    }

    /// Begins to flush a chunk up to frame `through`. `None`: nothing has to be copied; what had to
    /// change in the map has changed.
    pub(super) fn flush_chunk(
        &mut self,
        id: VolumeId,
        chunk: ChunkIndex,
        through: FrameSeq,
        layout: &Layout,
    ) -> Option<(Job, Vec<CopyRun>)> {
        let volume = self.volumes.get_mut(&id)?;
        let slot = volume.slot?; // Without one it was created behind `through`.
        let overlay = volume.overlay.get_mut(&chunk)?;
        assert!(!overlay.job);
        let replacement = overlay.replacement.clone();
        let newer = replacement.as_ref().is_some_and(|r| r.seq > through);
        let nothing = replacement.is_none() && overlay.items.iter().all(|i| i.seq > through);
        if newer || nothing {
            // A write that was dropped or refused may have been all that a spare chunk was kept for.
            if overlay.is_idle()
                && let Some(spare) = overlay.target.take()
            {
                self.map.release_chunk(spare, through);
                self.tidy(id, chunk);
            }
            return None;
        }
        let entry = *self.map.get(slot, chunk);
        let (source, mut state) = beneath(&replacement, &entry);
        state.lsn = overlay.lsn;
        let (mut sources, items) = take_items(overlay, through, &mut state);
        let mut job = Job {
            volume: id,
            chunk,
            target: PhysicalChunk(0),
            copies: 0,
            slot,
            fresh: false,
            state,
            items,
            replacement: replacement.as_ref().map(|r| r.seq),
        };
        let replaced = replacement.is_some_and(|r| r.content.is_some());
        if sources.iter().all(Option::is_none) {
            let held = if replaced {
                overlay.target.take()
            } else {
                None
            };
            self.apply(&job, held.or(entry.chunk()), held, through);
            return None;
        }
        let exclusive = self.map.is_exclusive(slot, chunk);
        (job.target, job.fresh) = match (overlay.target.take(), entry.chunk()) {
            (Some(target), _) => (target, true),
            (None, Some(chunk)) if exclusive => (chunk, false),
            _ => {
                assert_eq!(overlay.reserve, Reserve::Held); // Admission promised it.
                overlay.reserve = Reserve::None;
                (self.map.allocate_chunk(), true)
            }
        };
        overlay.job = true;
        if let Some(from) = source.filter(|from| *from != job.target) {
            copy_along(from, &state, &mut sources, layout);
        }
        let runs = runs(&sources);
        job.copies = runs.len();
        Some((job, runs))
    }

    /// All copies of a job are done.
    pub(super) fn flushed(&mut self, job: &Job, through: FrameSeq) {
        assert_eq!(job.copies, 0);
        if let Some(volume) = self.volumes.get_mut(&job.volume)
            && let Some(overlay) = volume.overlay.get_mut(&job.chunk)
        {
            overlay.job = false;
        }
        let held = job.fresh.then_some(job.target);
        self.apply(job, Some(job.target), held, through);
    }

    /// Enters the job's result into the map and takes what it covers out of the overlay. `held` is
    /// the target when the map does not know it yet.
    fn apply(
        &mut self,
        job: &Job,
        target: Option<PhysicalChunk>,
        held: Option<PhysicalChunk>,
        through: FrameSeq,
    ) {
        let entry = job.state.entry(target);
        let unused = held.filter(|_| entry.chunk().is_none());
        self.map.put(job.slot, job.chunk, entry, through);
        if let Some(chunk) = unused {
            self.map.release_chunk(chunk, through);
        }
        let Some(volume) = self.volumes.get_mut(&job.volume) else {
            return; // Removed meanwhile, by a frame behind `through`.
        };
        let Some(overlay) = volume.overlay.get_mut(&job.chunk) else {
            return;
        };
        let covered = |index: u8, seq: FrameSeq| job.items.contains(&(index, seq));
        overlay.items.retain(|item| !covered(item.index, item.seq));
        if overlay.replacement.as_ref().map(|r| r.seq) == job.replacement {
            overlay.replacement = None;
        }
        if overlay.replacement.is_none()
            && !overlay.wants_place()
            && let Some(spare) = overlay.target.take()
        {
            self.map.release_chunk(spare, through);
        }
        let in_map = self.map.is_exclusive(job.slot, job.chunk);
        if overlay.wants_place() && !overlay.has_place() && !in_map {
            // Its place went with the blocks that were unmapped; it comes free with this checkpoint.
            overlay.reserve = match self.map.reserve_chunk() {
                Ok(()) => Reserve::Held,
                Err(_) => {
                    self.owed.push((job.volume, job.chunk));
                    Reserve::Owed
                }
            };
        }
        self.tidy(job.volume, job.chunk);
    }
}

/// What lies under the items, and where its data is.
fn beneath(
    replacement: &Option<Replacement>,
    entry: &Entry,
) -> (Option<PhysicalChunk>, ChunkState) {
    let empty = ChunkState {
        present: 0,
        bad: 0,
        checksums: [0; CHUNK_BLOCKS],
        lsn: Lsn(0),
    };
    match replacement.as_ref().map(|r| r.content.as_deref()) {
        Some(Some(content)) => {
            let state = ChunkState {
                present: u16::MAX,
                checksums: content.checksums,
                ..empty
            };
            (Some(content.chunk), state)
        }
        Some(None) => (None, empty),
        None => {
            let state = ChunkState {
                present: entry.present(),
                bad: entry.bad(),
                checksums: *entry.checksums(),
                ..empty
            };
            (entry.chunk(), state)
        }
    }
}

/// Lays the items up to `through` over `state`; gives their sources and which items they were.
fn take_items(
    overlay: &ChunkOverlay,
    through: FrameSeq,
    state: &mut ChunkState,
) -> ([Option<CopySource>; CHUNK_BLOCKS], Vec<(u8, FrameSeq)>) {
    let mut sources = [None; CHUNK_BLOCKS];
    let mut items = Vec::with_capacity(overlay.items.len());
    for item in overlay.items.iter().filter(|item| item.seq <= through) {
        let (index, bit) = (usize::from(item.index), 1 << item.index);
        items.push((item.index, item.seq));
        state.bad &= !bit;
        match item.state {
            BlockState::Logged { at, checksum } => {
                state.present |= bit;
                state.checksums[index] = checksum;
                sources[index] = Some(CopySource { from: at, checksum });
            }
            BlockState::Zero => {
                state.present &= !bit;
                state.checksums[index] = 0;
            }
        }
    }
    (sources, items)
}

/// The chunk moves: blocks that stay as they are come along.
fn copy_along(
    from: PhysicalChunk,
    state: &ChunkState,
    sources: &mut [Option<CopySource>; CHUNK_BLOCKS],
    layout: &Layout,
) {
    for (index, source) in sources.iter_mut().enumerate() {
        if source.is_none() && state.present & (1 << index) != 0 {
            *source = Some(CopySource {
                from: layout.chunk(from).plus((index * BLOCK_BYTES) as u64),
                checksum: state.checksums[index],
            });
        }
    }
}

fn runs(sources: &[Option<CopySource>; CHUNK_BLOCKS]) -> Vec<CopyRun> {
    let mut runs: Vec<CopyRun> = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let Some(source) = source else {
            continue;
        };
        match runs.last_mut() {
            Some(run) if run.first + run.sources.len() == index => run.sources.push(*source),
            _ => runs.push(CopyRun {
                first: index,
                sources: alloc::vec![*source],
            }),
        }
    }
    runs
}
