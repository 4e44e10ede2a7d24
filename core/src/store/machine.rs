//! The machine of one open store.

use super::{Effect, Event, Lookup, RequestError, Run, Usage, VolumeInfo};
use crate::block::BlockRange;
use crate::id::{StoreId, VolumeId};
use crate::store::layout::Layout;
use alloc::vec::Vec;
use core::time::Duration;

/// An open store. See the module head of [`crate::store`].
#[derive(Debug)]
pub struct Store {
    id: StoreId,
    layout: Layout,
}

impl Store {
    /// Decides what follows from `event`. `now` is monotonic, from any start.
    pub fn step(&mut self, _now: Duration, _event: Event, _effects: &mut Vec<Effect>) {
        unimplemented!()
    }

    /// Where the committed blocks of `range` are now. Hot path.
    pub fn lookup(
        &self,
        _volume: VolumeId,
        _range: BlockRange,
        _lookup: &mut Lookup,
    ) -> Result<(), RequestError> {
        unimplemented!()
    }

    /// Runs of equal provisioning from the start of `range`, at most `runs_max`.
    pub fn provisioning(
        &self,
        _volume: VolumeId,
        _range: BlockRange,
        _runs_max: usize,
    ) -> Result<Vec<Run>, RequestError> {
        unimplemented!()
    }

    /// The attributes blob of a volume; empty when none was set.
    pub fn attributes(&self, _volume: VolumeId) -> Option<&[u8]> {
        unimplemented!()
    }

    /// One volume.
    pub fn volume(&self, _volume: VolumeId) -> Option<VolumeInfo> {
        unimplemented!()
    }

    /// All volumes, by identity.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeInfo> + '_ {
        [].into_iter()
    }

    /// How full the store is.
    pub fn usage(&self) -> Usage {
        unimplemented!()
    }

    /// The identity of this incarnation.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// Where the areas are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}
