//! The volumes of the map: making, cloning, changing, removing, and giving back what removed ones held.

use super::body::ATTRIBUTE_PAGES_MAX;
use super::nodes::{Body, NodeId};
use super::page::PageRef;
use super::{Map, MapError, Volume, VolumeRecord, VolumeSlot, attribute_pages};
use crate::id::VolumeId;
use crate::limits::ATTRIBUTES_BYTES_MAX;
use crate::lsn::FrameSeq;
use alloc::vec::Vec;

/// How far [`Map::reap`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// Nothing of a removed volume is left.
    Done,
    /// Call again.
    More,
}

impl Map {
    /// Makes an empty volume.
    pub fn create_volume(&mut self, record: VolumeRecord) -> Result<VolumeSlot, MapError> {
        self.insert(record, None)
    }

    /// Makes a volume that has the content of `source`, in constant time and without its attributes.
    ///
    /// Afterwards neither volume is exclusive anywhere: space for chunks that were going to be written in
    /// place has to be reserved by the caller. Path reservations still cover what they did before.
    pub fn clone_volume(
        &mut self,
        source: VolumeSlot,
        record: VolumeRecord,
    ) -> Result<VolumeSlot, MapError> {
        // Nodes that were reserved and made already may have to be made again.
        self.check_reserved_pages().map_err(MapError::NoSpace)?;
        let root = self.at(source).root;
        let slot = self.insert(record, root)?;
        if let Some(root) = root {
            self.nodes.at_mut(root).parents += 1;
        }
        Ok(slot)
    }

    /// Changes a volume's record.
    pub fn set_volume(&mut self, slot: VolumeSlot, after: VolumeRecord) {
        self.assert_changeable();
        let record = &self.at(slot).record;
        if *record != after {
            assert_eq!(record.id, after.id);
            assert!(record.epoch <= after.epoch);
            assert!(record.lsn <= after.lsn);
            self.at_mut(slot).record = after;
        }
    }

    /// The attributes blob; `None` if its page was damaged and it was not set since.
    pub fn attributes(&self, slot: VolumeSlot) -> Option<&[u8]> {
        self.at(slot).attributes.as_deref()
    }

    /// Replaces the attributes blob, at most [`ATTRIBUTES_BYTES_MAX`] bytes.
    pub fn set_attributes(&mut self, slot: VolumeSlot, attributes: &[u8]) {
        self.assert_changeable();
        assert!(attributes.len() <= ATTRIBUTES_BYTES_MAX);
        self.drop_attributes(slot);
        let volume = self.at_mut(slot);
        volume.attributes = Some(attributes.to_vec());
        volume.attribute_bytes = attributes.len();
        volume.attributes_dirty = true;
        self.attribute_pages += attribute_pages(attributes.len());
    }

    /// Removes a volume: it is not found any more, [`Map::reap`] gives back what it held. Its slot is dead.
    pub fn remove_volume(&mut self, slot: VolumeSlot) {
        self.assert_changeable();
        self.drop_attributes(slot);
        let volume = self.at_mut(slot);
        assert!(!volume.doomed);
        volume.doomed = true;
        let id = volume.record.id;
        self.by_id.remove(&id);
        self.doomed += 1;
    }

    /// Gives back up to about `nodes_max` map nodes of removed volumes; their chunks become pending, tagged
    /// `frame` as in [`Map::put`]. A removed volume survives a restart until this is done with it.
    pub fn reap(&mut self, frame: FrameSeq, nodes_max: usize) -> Reaped {
        self.assert_changeable();
        self.assert_frame(frame);
        let mut budget = nodes_max;
        let mut slots = Vec::new();
        if self.doomed > 0 {
            slots.extend(self.all_slots().filter(|slot| self.at(*slot).doomed));
        }
        for slot in slots {
            if let Some(root) = self.at(slot).root {
                self.mark_table(slot);
                if !self.drop_node(root, frame, &mut budget) {
                    return Reaped::More;
                }
            }
            self.mark_table(slot);
            self.volumes[usize::from(slot.0)] = None;
            self.doomed -= 1;
        }
        Reaped::Done
    }

    /// The volume `id`, unless it was removed.
    pub fn find(&self, id: VolumeId) -> Option<VolumeSlot> {
        self.by_id.get(&id).copied()
    }

    /// The record of a volume.
    pub fn volume(&self, slot: VolumeSlot) -> &VolumeRecord {
        &self.at(slot).record
    }

    /// All volumes that were not removed, by id.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeSlot, &VolumeRecord)> {
        self.by_id
            .values()
            .map(|slot| (*slot, &self.at(*slot).record))
    }

    /// Removed volumes that are not reaped yet.
    pub fn doomed(&self) -> usize {
        self.doomed
    }

    /// Chunks that the volume reaches, shared ones included.
    pub fn used_chunks(&self, slot: VolumeSlot) -> u64 {
        self.at(slot)
            .root
            .map_or(0, |root| self.nodes.at(root).mapped)
    }

    /// Volumes that still fit.
    pub fn table_free(&self) -> usize {
        self.volumes.len() - self.by_id.len() - self.doomed
    }

    /// Every place of the table in use, doomed volumes too.
    pub(super) fn all_slots(&self) -> impl Iterator<Item = VolumeSlot> + '_ {
        (0u16..)
            .zip(&self.volumes)
            .filter(|(_, volume)| volume.is_some())
            .map(|(place, _)| VolumeSlot(place))
    }

    fn insert(
        &mut self,
        record: VolumeRecord,
        root: Option<NodeId>,
    ) -> Result<VolumeSlot, MapError> {
        self.assert_changeable();
        if self.by_id.contains_key(&record.id) {
            return Err(MapError::VolumeExists);
        }
        let place = self.volumes.iter().position(Option::is_none);
        let place = place.ok_or(MapError::TableFull)?;
        let slot = VolumeSlot(u16::try_from(place).expect("VOLUMES_PER_STORE_MAX fits"));
        self.volumes[place] = Some(Volume {
            record,
            doomed: false,
            root,
            attributes: Some(Vec::new()),
            attribute_bytes: 0,
            attribute_pages: [PageRef::default(); ATTRIBUTE_PAGES_MAX],
            attributes_dirty: false,
        });
        self.by_id.insert(record.id, slot);
        self.mark_table(slot);
        Ok(slot)
    }

    fn drop_attributes(&mut self, slot: VolumeSlot) {
        let volume = self.at_mut(slot);
        let old = core::mem::take(&mut volume.attribute_pages);
        let pages = attribute_pages(volume.attribute_bytes);
        volume.attributes = Some(Vec::new());
        volume.attribute_bytes = 0;
        volume.attributes_dirty = false;
        self.attribute_pages -= pages;
        for page in old.into_iter().filter_map(PageRef::slot) {
            self.slots.retire(page);
        }
    }

    /// Takes one parent from `id`; drops what is reached by nothing else. False if the budget ran out, then
    /// what is left of it is a smaller tree.
    fn drop_node(&mut self, id: NodeId, frame: FrameSeq, budget: &mut usize) -> bool {
        if self.nodes.at(id).parents > 1 {
            self.nodes.at_mut(id).parents -= 1;
            return true;
        }
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        if let Body::Interior(children) = &self.nodes.at(id).body {
            let children = children.clone();
            self.nodes.dirty(id);
            for (at, child) in children.iter().enumerate() {
                let Some(child) = *child else { continue };
                let below = self.nodes.at(child).mapped;
                if !self.drop_node(child, frame, budget) {
                    let dropped = below - self.nodes.at(child).mapped;
                    self.nodes.at_mut(id).mapped -= dropped;
                    return false;
                }
                self.nodes.children_mut(id)[at] = None;
                let node = self.nodes.at_mut(id);
                node.live -= 1;
                node.mapped -= below;
            }
        }
        if let Body::Leaf(entries) = self.nodes.remove(id) {
            for entry in entries.iter() {
                if let Some(chunk) = entry.chunk() {
                    self.chunks.decrement(chunk, frame);
                }
            }
        }
        true
    }
}
