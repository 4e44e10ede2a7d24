//! Committed records found in the log while opening take effect again.
//!
//! The map may be ahead of the checkpoint's frame in sizes, epochs and attributes; and records of a
//! volume that a later record removes may find it gone already. Both end in the same state.

use super::contents::{Contents, Version};
use super::overlay::{Content, Reserve};
use crate::block::{Block, ChunkIndex, StoreOffset};
use crate::id::VolumeId;
use crate::limits::{ATTRIBUTES_BYTES_MAX, BLOCK_BYTES, CHUNK_BLOCKS};
use crate::wal::frame::{Frame, Record, RecordBody};
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

impl<T> Contents<T> {
    /// Applies a frame that is at `at` on the disk. An error says what contradicts itself.
    pub(super) fn replay(&mut self, frame: &Frame, at: StoreOffset) -> Result<(), String> {
        let seq = frame.head.seq;
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
        let (id, epoch) = (record.head.volume, record.head.epoch);
        if let RecordBody::Create { size_blocks } = record.body {
            if self.volumes.contains_key(&id) {
                return Err(format!("volume {id} is created twice"));
            }
            self.commit_create(id, size_blocks, epoch, version.seq);
            return Ok(());
        }
        let Some(volume) = self.volumes.get_mut(&id) else {
            return Ok(());
        };
        volume.primary.replayed(record.head.lsn);
        let inside = |block: u64| block <= volume.size_blocks;
        match &record.body {
            RecordBody::Write { first, checksums } => {
                let end = first.0.saturating_add(checksums.len() as u64);
                let one_chunk = first.index_in_chunk() + checksums.len() <= CHUNK_BLOCKS;
                if !inside(end) || !one_chunk || checksums.is_empty() {
                    return Err(format!("a write at {first} is out of range"));
                }
                self.commit_logged(id, *first, checksums, payload, version);
                self.restore_promises(id, first.chunk())?;
            }
            RecordBody::Map {
                chunk,
                physical,
                checksums,
            } => {
                if chunk.0 > u64::MAX / 64 || !inside((chunk.0 + 1) * CHUNK_BLOCKS as u64) {
                    return Err(format!("chunk {} is out of range", chunk.0));
                }
                let content = Content {
                    chunk: *physical,
                    checksums: *checksums,
                };
                self.replay_direct(id, *chunk, content, version)?;
            }
            RecordBody::Unmap(range) => {
                let end = range.first.0.saturating_add(u64::from(range.count));
                if range.count == 0 || !inside(end) {
                    return Err(format!("an unmap at {} is out of range", range.first));
                }
                self.commit_unmap(id, *range, version);
            }
            RecordBody::Resize { size_blocks } => {
                volume.size_blocks = volume.size_blocks.max(*size_blocks);
            }
            RecordBody::SetEpoch => {
                let epoch = epoch.max(volume.primary.epoch());
                volume.primary.begin_epoch(epoch);
            }
            RecordBody::Remove => self.commit_remove(id, version.seq),
            RecordBody::Attributes(bytes) => {
                if bytes.len() > ATTRIBUTES_BYTES_MAX {
                    return Err("attributes are too long".to_string());
                }
                self.map
                    .restore_pages(crate::map::attribute_pages(bytes.len()));
                self.commit_attributes(id, bytes.clone());
            }
            RecordBody::Create { .. } => unreachable!("handled above"),
        }
        Ok(())
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
        for record in &frame.records {
            let volume = record.head.volume;
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
                    list.retain(|mapped| (mapped.volume, mapped.chunk) != (volume, *chunk));
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
                RecordBody::Write { first, checksums } => {
                    hide(&mut list, *first, first.plus(checksums.len() as u64));
                }
                RecordBody::Unmap(range) => hide(&mut list, range.first, range.end()),
                RecordBody::Remove => list.retain(|mapped| mapped.volume != volume),
                RecordBody::Create { .. } => created.push(volume),
                RecordBody::Resize { .. } | RecordBody::SetEpoch | RecordBody::Attributes(_) => {}
            }
        }
        list
    }
}
