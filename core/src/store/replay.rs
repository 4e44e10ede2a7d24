//! Committed records found in the log while opening take effect again.
//!
//! The map may be ahead of the checkpoint's frame in sizes, epochs and attributes; and records of a
//! volume that a later record removes may find it gone already. Both end in the same state.

use super::append::Sharing;
use super::contents::{Contents, Version};
use super::overlay::{ChunkOverlay, Content, Reserve};
use super::pending::{Pending, PendingBody};
use crate::block::{Block, ChunkIndex, StoreOffset};
use crate::id::VolumeId;
use crate::limits::{ATTRIBUTES_BYTES_MAX, BLOCK_BYTES, CHUNK_BLOCKS};
use crate::wal::frame::{Adoption, Frame, Record, RecordBody, RecordHead};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A chunk whose data may not have become durable with the frame that names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unproven {
    volume: VolumeId,
    chunk: ChunkIndex,
    pub(super) content: Content,
    /// Blocks that nothing later in the frame hides.
    pub(super) blocks: u16,
}

impl Contents {
    /// Applies a frame that is at `at` on the disk. An error says what contradicts itself.
    pub(super) fn replay(&mut self, frame: &Frame, at: StoreOffset) -> Result<(), String> {
        let seq = frame.head.seq;
        self.replaying = seq;
        let mut payload = at.plus(frame.header_bytes as u64);
        for record in &frame.records {
            let version = Version {
                seq,
                lsn: record.head.lsn,
            };
            self.replay_record(record, payload, version)
                .map_err(|error| format!("{seq}: {error}"))?;
            if let RecordBody::Write { checksums, .. } = &record.body {
                payload = payload.plus((checksums.len() * BLOCK_BYTES) as u64);
            }
        }
        Ok(())
    }

    fn replay_record(
        &mut self,
        record: &Record,
        payload: StoreOffset,
        version: Version,
    ) -> Result<(), String> {
        let (id, head) = (record.head.volume, &record.head);
        if let RecordBody::Create {
            size_blocks,
            sharing,
        } = record.body
        {
            if self.volumes.contains_key(&id) {
                return Err(format!("volume {id} is created twice"));
            }
            self.commit_create(id, size_blocks, (head.epoch, sharing), version.seq);
            return Ok(());
        }
        let Some(volume) = self.volumes.get_mut(&id) else {
            return Ok(());
        };
        let place = &mut volume.place;
        match &record.body {
            RecordBody::Promise => {
                place.promised = place.promised.max(head.epoch);
                place.obeyed = place.obeyed.max(head.epoch);
            }
            RecordBody::EndResync => place.resync = None,
            RecordBody::Commit => {
                place.told = place.told.max(head.lsn);
                self.commit_logged_point(id);
            }
            RecordBody::Adopt(adoption) => return self.replay_adoption(head, adoption, version),
            RecordBody::Remove => {
                self.commit_remove(id, version.seq);
            }
            _ => {
                let shared = self.replay_order(record)?;
                check_bounds(record, self.volumes[&id].place.size_blocks)?;
                if shared {
                    self.replay_pending(record, payload, version)?;
                    self.commit_logged_point(id);
                } else {
                    self.replay_effect(record, payload, version)?;
                }
            }
        }
        Ok(())
    }

    /// A record with an effect takes its place in the volume's order. Gives whether it waits for its commit.
    fn replay_order(&mut self, record: &Record) -> Result<bool, String> {
        let (id, head) = (record.head.volume, &record.head);
        let volume = self.volumes.get_mut(&id).expect("the caller looked it up");
        let place = &mut volume.place;
        let was_alone = place.sharing == Sharing::Alone;
        if let RecordBody::SetEpoch(sharing) = record.body {
            place.epoch = place.epoch.max(head.epoch);
            place.obeyed = place.obeyed.max(head.epoch);
            place.share(sharing, head.lsn);
            place.begin_reign(head.epoch, head.lsn);
        }
        if let RecordBody::Resize { size_blocks } = record.body {
            place.size_blocks = place.size_blocks.max(size_blocks);
        }
        let shared = place.sharing == Sharing::Shared;
        if !was_alone {
            let next = if head.fill.is_some() {
                place.appended.0
            } else {
                place.appended.0.saturating_add(1)
            };
            if head.lsn.0 < next {
                return Err(format!("{} of volume {id} comes twice", head.lsn));
            }
            // A later record may say that the volume was removed: then the map is older than its log.
            place.gap |= head.lsn.0 > next;
        }
        place.appended = place.appended.max(head.lsn);
        place.durable = place.appended;
        if !shared {
            place.told = place.appended;
            self.commit_logged_point(id);
        } else if let Some(cursor) = head.fill
            && let Some(resync) = &mut place.resync
        {
            resync.cursor = cursor;
        }
        if !was_alone || shared {
            let volume = self.volumes.get_mut(&id).expect("it was just there");
            volume.place.mark(self.replaying);
        }
        Ok(shared)
    }

    fn replay_adoption(
        &mut self,
        head: &RecordHead,
        adoption: &Adoption,
        version: Version,
    ) -> Result<(), String> {
        let id = head.volume;
        let volume = self.volumes.get_mut(&id).expect("the caller looked it up");
        let place = &mut volume.place;
        if !place.gap && !adoption.fits(place.committed, place.appended, head.lsn) {
            return Err(format!("volume {id} cannot take the position {}", head.lsn));
        }
        if adoption.keep < place.committed {
            return Err(format!("committed records of volume {id} are dropped"));
        }
        let position = (adoption.keep, head.lsn);
        let dropped = place.adopt(position, &adoption.reigns, adoption.resync);
        place.durable = place.appended;
        place.epoch = place.epoch.max(head.epoch);
        place.promised = place.promised.max(head.epoch);
        place.obeyed = place.obeyed.max(head.epoch);
        place.mark(version.seq);
        self.drop_pending(id, dropped, version.seq);
        self.commit_logged_point(id);
        Ok(())
    }

    /// A record waits for its commit again, with the reservations that it had.
    fn replay_pending(
        &mut self,
        record: &Record,
        payload: StoreOffset,
        version: Version,
    ) -> Result<(), String> {
        let id = record.head.volume;
        let body = match &record.body {
            RecordBody::Write { first, checksums } => {
                let chunk = first.chunk();
                self.pin_again(id, chunk, |overlay| overlay.pins += 1)?;
                PendingBody::Logged {
                    first: *first,
                    checksums: checksums.clone(),
                    at: payload,
                }
            }
            RecordBody::Map {
                chunk,
                physical,
                checksums,
            } => {
                let claimed = self.map.claim_chunk(*physical);
                claimed.map_err(|error| error.to_string())?;
                self.pin_again(id, *chunk, |overlay| overlay.direct_pins += 1)?;
                PendingBody::Direct {
                    chunk: *chunk,
                    content: Box::new(Content {
                        chunk: *physical,
                        checksums: *checksums,
                    }),
                }
            }
            RecordBody::Unmap(range) => PendingBody::Unmap(*range),
            RecordBody::Resize { size_blocks } => PendingBody::Resize {
                size_blocks: *size_blocks,
            },
            RecordBody::SetEpoch(sharing) => PendingBody::SetEpoch(*sharing),
            RecordBody::Attributes(bytes) => {
                self.map
                    .restore_pages(crate::map::attribute_pages(bytes.len()));
                PendingBody::Attributes(bytes.clone())
            }
            _ => unreachable!("it has no effect that waits"),
        };
        let record = Pending {
            lsn: record.head.lsn,
            epoch: record.head.epoch,
            seq: version.seq,
            fill: record.head.fill.is_some(),
            held: None,
            body,
        };
        self.hold(id, record);
        Ok(())
    }

    fn pin_again(
        &mut self,
        id: VolumeId,
        chunk: ChunkIndex,
        pin: impl FnOnce(&mut ChunkOverlay),
    ) -> Result<(), String> {
        let volume = self.volumes.get_mut(&id).expect("the caller looked it up");
        pin(volume.overlay.entry(chunk).or_default());
        self.restore_promises(id, chunk)
    }

    fn replay_effect(
        &mut self,
        record: &Record,
        payload: StoreOffset,
        version: Version,
    ) -> Result<(), String> {
        let id = record.head.volume;
        match &record.body {
            RecordBody::Write { first, checksums } => {
                self.commit_logged(id, *first, checksums, payload, version);
                self.restore_promises(id, first.chunk())?;
            }
            RecordBody::Map {
                chunk,
                physical,
                checksums,
            } => {
                let content = Content {
                    chunk: *physical,
                    checksums: *checksums,
                };
                self.replay_direct(id, *chunk, content, version)?;
            }
            RecordBody::Unmap(range) => self.commit_unmap(id, *range, version),
            RecordBody::Resize { size_blocks } => self.commit_resize(id, *size_blocks),
            RecordBody::Attributes(bytes) => {
                self.map
                    .restore_pages(crate::map::attribute_pages(bytes.len()));
                self.commit_attributes(id, bytes.clone());
            }
            _ => {}
        }
        Ok(())
    }

    fn is_shared(&self, id: VolumeId) -> bool {
        let volume = self.volumes.get(&id);
        volume.is_some_and(|volume| volume.place.sharing == Sharing::Shared)
    }

    /// A volume whose log has a hole, after all of it was replayed.
    pub(super) fn incomplete(&self) -> Option<VolumeId> {
        let holed = self.volumes.iter().find(|(_, volume)| volume.place.gap);
        holed.map(|(id, _)| *id)
    }

    fn replay_direct(
        &mut self,
        id: VolumeId,
        chunk: ChunkIndex,
        content: Content,
        version: Version,
    ) -> Result<(), String> {
        let claimed = self.map.claim_chunk(content.chunk);
        claimed.map_err(|error| error.to_string())?;
        self.commit_direct(id, chunk, content, version);
        self.restore_promises(id, chunk)
    }

    /// Takes the reservations again that admission took for this chunk.
    fn restore_promises(&mut self, id: VolumeId, chunk: ChunkIndex) -> Result<(), String> {
        let volume = self.volumes.get_mut(&id).expect("its record was applied");
        let in_map = volume
            .slot
            .is_some_and(|slot| self.map.is_exclusive(slot, chunk));
        let overlay = volume
            .overlay
            .get_mut(&chunk)
            .expect("its record was applied");
        if !overlay.path {
            self.map.restore_path(id, chunk);
            overlay.path = true;
        }
        if overlay.wants_place() && !overlay.has_place() && !in_map {
            self.map
                .reserve_chunk()
                .map_err(|error| error.to_string())?;
            overlay.reserve = Reserve::Held;
        }
        Ok(())
    }

    /// The chunks that the frame maps, and which of their blocks its later records leave visible.
    pub(super) fn unproven(&self, frame: &Frame) -> Vec<Unproven> {
        let mut list: Vec<Unproven> = Vec::new();
        let mut created = Vec::new();
        let mut shared: Vec<VolumeId> = Vec::new();
        for record in &frame.records {
            let volume = record.head.volume;
            // What is pending may be dropped, and then what it hid is seen.
            let hides = !shared.contains(&volume) && !self.is_shared(volume);
            let hide = |list: &mut Vec<Unproven>, first: Block, end: Block| {
                for mapped in list.iter_mut().filter(|mapped| mapped.volume == volume) {
                    for index in 0..CHUNK_BLOCKS {
                        let block = mapped.chunk.first_block().plus(index as u64);
                        if (first..end).contains(&block) {
                            mapped.blocks &= !(1 << index);
                        }
                    }
                }
            };
            match &record.body {
                RecordBody::Map {
                    chunk,
                    physical,
                    checksums,
                } => {
                    if !self.volumes.contains_key(&volume) && !created.contains(&volume) {
                        continue;
                    }
                    list.retain(|mapped| {
                        !hides || (mapped.volume, mapped.chunk) != (volume, *chunk)
                    });
                    list.push(Unproven {
                        volume,
                        chunk: *chunk,
                        content: Content {
                            chunk: *physical,
                            checksums: *checksums,
                        },
                        blocks: u16::MAX,
                    });
                }
                RecordBody::Write { first, checksums } if hides => {
                    hide(&mut list, *first, first.plus(checksums.len() as u64));
                }
                RecordBody::Unmap(range) if hides => hide(&mut list, range.first, range.end()),
                RecordBody::Remove => list.retain(|mapped| mapped.volume != volume),
                RecordBody::Create { .. } => created.push(volume),
                RecordBody::SetEpoch(Sharing::Shared) => shared.push(volume),
                _ => {}
            }
        }
        list
    }
}

/// Whether what a record changes lies inside its volume.
fn check_bounds(record: &Record, size_blocks: u64) -> Result<(), String> {
    let inside = |block: u64| block <= size_blocks;
    match &record.body {
        RecordBody::Write { first, checksums } => {
            let end = first.0.saturating_add(checksums.len() as u64);
            let one_chunk = first.index_in_chunk() + checksums.len() <= CHUNK_BLOCKS;
            if !inside(end) || !one_chunk || checksums.is_empty() {
                return Err(format!("a write at {first} is out of range"));
            }
        }
        RecordBody::Map { chunk, .. }
            if chunk.0 > u64::MAX / 64 || !inside((chunk.0 + 1) * CHUNK_BLOCKS as u64) =>
        {
            return Err(format!("chunk {} is out of range", chunk.0));
        }
        RecordBody::Unmap(range) => {
            let end = range.first.0.saturating_add(u64::from(range.count));
            if range.count == 0 || !inside(end) {
                return Err(format!("an unmap at {} is out of range", range.first));
            }
        }
        RecordBody::Attributes(bytes) if bytes.len() > ATTRIBUTES_BYTES_MAX => {
            return Err("attributes are too long".to_string());
        }
        _ => {}
    }
    Ok(())
}
