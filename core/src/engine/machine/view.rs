//! What a replication machine sees of the store, and small looks at events.

use crate::block::{Block, BlockRange};
use crate::engine::Fenced;
use crate::id::VolumeId;
use crate::lsn::{Epoch, Lsn};
use crate::replication::{OwnCopy, Reign, Stored};
use crate::store::machine::Store;
use crate::store::{
    Change, Event, Location, Lookup, PayloadId, PendingRecord, RequestError, Tag, VolumeInfo,
};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

/// One volume of a store.
pub(super) struct View<'a> {
    store: &'a Store,
    info: VolumeInfo,
}

impl<'a> View<'a> {
    pub(super) fn of(store: &'a Store, volume: VolumeId) -> Option<Self> {
        let info = store.volume(volume)?;
        Some(View { store, info })
    }
}

impl OwnCopy for View<'_> {
    fn info(&self) -> VolumeInfo {
        self.info
    }

    fn reigns(&self) -> &[Reign] {
        self.store.reigns(self.info.id)
    }

    fn pending(&self, after: Lsn) -> Vec<PendingRecord> {
        self.store.pending(self.info.id, after).collect()
    }

    fn changed(
        &self,
        from: Block,
        base: Lsn,
        runs_max: usize,
    ) -> Result<Vec<Change>, RequestError> {
        self.store.changed(self.info.id, from, base, runs_max)
    }

    fn stored(&self, range: BlockRange) -> Result<Stored, RequestError> {
        let mut lookup = Lookup::default();
        self.store.lookup(self.info.id, range, &mut lookup)?;
        let mut runs: Vec<(u32, bool)> = Vec::new();
        for extent in &lookup.extents {
            let stored = extent.location != Location::Zero;
            match runs.last_mut() {
                Some((blocks, kind)) if *kind == stored => *blocks += extent.blocks,
                _ => runs.push((extent.blocks, stored)),
            }
        }
        Ok(Stored {
            runs,
            checksums: lookup.checksums,
        })
    }

    fn attributes(&self) -> Vec<u8> {
        let attributes = self.store.attributes(self.info.id);
        attributes.unwrap_or_default().to_vec()
    }
}

/// The volume, tag and payload of a host's request.
pub(super) fn of_host(event: &Event) -> Option<(VolumeId, Tag, Option<PayloadId>)> {
    match event {
        Event::Write {
            tag,
            volume,
            payload,
            ..
        } => Some((*volume, *tag, Some(*payload))),
        Event::Unmap { tag, volume, .. } | Event::SetAttributes { tag, volume, .. } => {
            Some((*volume, *tag, None))
        }
        Event::ResizeVolume { tag, id, .. } => Some((*id, *tag, None)),
        _ => None,
    }
}

/// The answer to a fence of a volume that is not here, or not shared.
pub(super) fn unknown_to_fence() -> Fenced {
    Fenced {
        ok: false,
        epoch: Epoch(0),
        last_epoch: Epoch(0),
        last: Lsn(0),
        committed: Lsn(0),
        resyncing: false,
        lease_left: Duration::ZERO,
        reason: "no such shared volume here".to_string(),
    }
}
