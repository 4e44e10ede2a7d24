//! What a copy tells one that lacks changes: pending records, and what changed since an LSN.

use super::machine::{Entered, Origin, PartBody, Store};
use super::pending::{PendingBody, pending_of};
use super::{Change, ChangeKind, PendingPayload, PendingRecord, RequestError};
use crate::block::{Block, BlockRange, ChunkIndex};
use crate::id::VolumeId;
use crate::limits::CHUNK_BLOCKS;
use crate::lsn::Lsn;
use crate::replication::Reign;
use alloc::vec::Vec;

impl Store {
    /// The reigns that a volume's log knows, ascending: the last 8, and all that begin behind what is
    /// committed. After a restart the checkpoint's are [`crate::map::REIGNS_KEPT`] at most.
    pub fn reigns(&self, volume: VolumeId) -> &[Reign] {
        let volume = self.contents.volumes.get(&volume);
        volume.map_or(&[], |volume| volume.place.reigns())
    }

    /// Records of a shared volume behind `from` that are not known to be committed, in order; also those
    /// in the frame that is being written.
    pub fn pending(&self, volume: VolumeId, from: Lsn) -> impl Iterator<Item = PendingRecord> + '_ {
        let place = self.contents.volumes.get(&volume).map(|v| &v.place);
        let durable = place.into_iter().flat_map(|place| &place.pending);
        let durable = durable.filter(move |record| !record.fill && record.lsn > from);
        let durable = durable.map(|record| {
            let mut told = record.record(self.layout());
            if let Some((request, at)) = record.held {
                told.payload = self.held(request, at, told.body.payload_blocks());
            }
            told
        });
        let entered = self.entered(volume).filter(move |e| e.lsn > from);
        durable.chain(entered.filter_map(|entered| self.entered_record(entered)))
    }

    /// How the blocks of a volume from `from` on changed since `base`, as runs without gaps, at most
    /// `runs_max`; 0 means that everything stored counts. Ends at the end of the volume.
    ///
    /// Cost: the mapped chunks that are passed.
    pub fn changed(
        &self,
        id: VolumeId,
        from: Block,
        base: Lsn,
        runs_max: usize,
    ) -> Result<Vec<Change>, RequestError> {
        let volume = self.contents.volumes.get(&id);
        let volume = volume.ok_or(RequestError::NotFound)?;
        let end = Block(volume.size_blocks);
        let end_chunk = ChunkIndex(end.0.div_ceil(CHUNK_BLOCKS as u64));
        let unmaps = self.unmaps(id);
        let mut changes: Vec<Change> = Vec::new();
        let mut block = from;
        while block < end && changes.len() <= runs_max {
            let chunk = block.chunk();
            let next = self.contents.next_used(volume, chunk, end_chunk);
            let (until, kind) = if next == Some(chunk) {
                let until = chunk.range().end().min(end);
                (until, self.kind(id, chunk, base, &unmaps))
            } else {
                let until = next.map_or(end, ChunkIndex::first_block).min(end);
                (until, ChangeKind::Zero)
            };
            push(&mut changes, block, until.0 - block.0, kind);
            block = until;
        }
        changes.truncate(runs_max);
        Ok(changes)
    }

    fn kind(
        &self,
        id: VolumeId,
        chunk: ChunkIndex,
        base: Lsn,
        unmaps: &[BlockRange],
    ) -> ChangeKind {
        let volume = &self.contents.volumes[&id];
        let overlay = volume.overlay.get(&chunk);
        let entry = volume.slot.map(|slot| self.contents.map.get(slot, chunk));
        let range = chunk.range();
        let waits = overlay.is_some_and(|overlay| overlay.is_pinned());
        let touches = |other: &BlockRange| other.first < range.end() && range.first < other.end();
        let above = overlay.filter(|overlay| overlay.has_content());
        let beneath = entry.filter(|entry| !entry.is_empty());
        let replaced = overlay.is_some_and(|overlay| overlay.replacement.is_some());
        let stored = above.is_some_and(|overlay| overlay.stores_data())
            || beneath.is_some_and(|_| !replaced);
        if waits {
            return ChangeKind::Data;
        }
        if !stored {
            return ChangeKind::Zero;
        }
        let damaged = beneath.is_some_and(|entry| entry.bad() != 0);
        let lsn = match (above, beneath) {
            (Some(overlay), _) => overlay.lsn,
            (None, Some(entry)) => entry.lsn(),
            (None, None) => Lsn(0),
        };
        let changed = base == Lsn(0) || lsn > base || damaged || unmaps.iter().any(touches);
        if changed {
            ChangeKind::Data
        } else {
            ChangeKind::Same
        }
    }

    /// Ranges that pending records unmap.
    fn unmaps(&self, id: VolumeId) -> Vec<BlockRange> {
        let pending = &self.contents.volumes[&id].place.pending;
        let durable = pending.iter().filter_map(|record| match record.body {
            PendingBody::Unmap(range) => Some(range),
            _ => None,
        });
        let entered = self
            .entered(id)
            .filter_map(|entered| match entered.part.body {
                PartBody::Unmap(range) => Some(range),
                _ => None,
            });
        durable.chain(entered).collect()
    }

    /// Records of a shared volume in the frame that is being written.
    fn entered(&self, volume: VolumeId) -> impl Iterator<Item = &Entered> {
        let frame = self.frame.iter().flat_map(|frame| &frame.parts);
        frame.filter(move |entered| entered.shared && entered.part.volume == volume)
    }

    fn entered_record(&self, entered: &Entered) -> Option<PendingRecord> {
        let part = &entered.part;
        let counts = part.body.has_effect() && !matches!(part.origin, Origin::Fill { .. });
        if !counts {
            return None;
        }
        let request = self.requests.get(part.request);
        let frame = self.frame.as_ref()?;
        let order = (entered.lsn, entered.epoch, frame.end.seq);
        let record = pending_of(part.clone(), &request.checksums, frame.payload, order);
        let mut told = record.record(self.layout());
        let at = part.body.payload_at();
        told.payload = self.held(part.request, at, told.body.payload_blocks());
        Some(told)
    }

    fn held(&self, request: usize, at: usize, blocks: usize) -> PendingPayload {
        let request = self.requests.get(request);
        match request.payload {
            Some(payload) if blocks > 0 => PendingPayload::Held(super::PayloadSlice {
                payload,
                first_block: u32::try_from(at).expect("inside the transfer"),
                blocks: u32::try_from(blocks).expect("inside the transfer"),
            }),
            _ => PendingPayload::None,
        }
    }
}

fn push(changes: &mut Vec<Change>, first: Block, blocks: u64, kind: ChangeKind) {
    match changes.last_mut() {
        Some(last) if last.kind == kind => last.blocks += blocks,
        _ => changes.push(Change {
            first,
            blocks,
            kind,
        }),
    }
}
