//! Requests come in: checks, reservations, and how a write is cut into records.
//!
//! A write is cut at chunk borders. Whole chunks go straight into fresh chunks and are logged as a
//! mapping; the rest is logged with its payload. What a part's later flush needs is reserved here, or
//! the request waits for the checkpoint that frees it; when none can, it ends as `NoSpace`.

use super::machine::{Io, Opening, Origin, Part, PartBody, Request, Store, complete};
use super::{Data, Effect, Event, PayloadId, PayloadSlice, RequestError, Tag};
use crate::block::{BlockRange, PhysicalChunk};
use crate::id::VolumeId;
use crate::limits::{
    ATTRIBUTES_BYTES_MAX, BLOCK_BYTES, CHUNK_BLOCKS, CHUNK_BYTES, STORE_REQUESTS_MAX,
    TRANSFER_BYTES_MAX, VOLUME_BYTES_MAX, VOLUMES_PER_STORE_MAX,
};
use crate::map::NoSpace;
use alloc::vec::Vec;

/// Chunks that are written by one effect at most when they are neighbours on the disk: 1 MiB.
const DIRECT_RUN_CHUNKS_MAX: u32 = 16;

impl Store {
    pub(super) fn on_request(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Write {
                tag,
                volume,
                range,
                checksums,
                payload,
            } => self.on_write(tag, volume, range, checksums, payload, effects),
            Event::Unmap { tag, volume, range } => {
                let checked = self.contents.check_range(volume, range);
                self.queue(
                    tag,
                    volume,
                    checked.map(|()| PartBody::Unmap(range)),
                    effects,
                );
            }
            Event::SetAttributes { tag, volume, bytes } => {
                let body = self.admit_attributes(volume, bytes);
                self.queue(tag, volume, body, effects);
            }
            Event::CreateVolume {
                tag,
                id,
                size_blocks,
                epoch,
                sharing,
            } => {
                let body = check_size(size_blocks).map(|()| PartBody::Create {
                    size_blocks,
                    epoch,
                    sharing,
                });
                self.queue(tag, id, body, effects);
            }
            Event::ResizeVolume {
                tag,
                id,
                size_blocks,
            } => {
                let sized = check_size(size_blocks);
                let body = sized.map(|()| PartBody::Resize { size_blocks });
                self.queue(tag, id, body, effects);
            }
            Event::BeginEpoch {
                tag,
                volume,
                epoch,
                sharing,
            } => {
                let body = PartBody::SetEpoch(epoch, sharing);
                self.queue(tag, volume, Ok(body), effects);
            }
            Event::RemoveVolume { tag, id } => {
                self.queue(tag, id, Ok(PartBody::Remove), effects);
            }
            Event::Checkpoint { tag } => self.on_checkpoint(tag, effects),
            Event::WriteDone { .. }
            | Event::CopyDone { .. }
            | Event::SyncDone { .. }
            | Event::Tick => unreachable!("not a request"),
            shared => self.on_shared(shared, effects),
        }
    }

    fn on_write(
        &mut self,
        tag: Tag,
        volume: VolumeId,
        range: BlockRange,
        checksums: Vec<u32>,
        payload: PayloadId,
        effects: &mut Vec<Effect>,
    ) {
        assert_eq!(checksums.len(), range.count as usize);
        let request = Request {
            tag,
            volume,
            range,
            payload: Some(payload),
            checksums,
            parts: 0,
            result: Ok(()),
            short_since: None,
            follows: None,
        };
        let mut checked = self.contents.check_range(volume, range);
        if range.count as usize > TRANSFER_BYTES_MAX / BLOCK_BYTES {
            checked = Err(RequestError::OutOfRange);
        }
        if self.requests.len() >= STORE_REQUESTS_MAX {
            checked = Err(RequestError::Busy);
        }
        if checked.is_err() {
            complete(&request, checked, effects);
            return;
        }
        let key = self.requests.insert(request);
        self.waiting.push_back(key);
    }

    /// Puts a request of one record, already checked, before the next frame.
    pub(super) fn queue(
        &mut self,
        tag: Tag,
        volume: VolumeId,
        body: Result<PartBody, RequestError>,
        effects: &mut Vec<Effect>,
    ) {
        let busy = self.requests.len() >= STORE_REQUESTS_MAX;
        let body = if busy { Err(RequestError::Busy) } else { body };
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                let result = Err(error);
                effects.push(Effect::Complete { tag, result });
                return;
            }
        };
        let request = self.requests.insert(Request::of_one_record(tag, volume));
        self.ready.push_back(Part {
            request,
            volume,
            payload_block: 0,
            origin: Origin::Own,
            body,
        });
    }

    fn admit_attributes(
        &mut self,
        volume: VolumeId,
        bytes: Vec<u8>,
    ) -> Result<PartBody, RequestError> {
        if bytes.len() > ATTRIBUTES_BYTES_MAX {
            return Err(RequestError::OutOfRange);
        }
        if self.requests.len() >= STORE_REQUESTS_MAX {
            return Err(RequestError::Busy);
        }
        if !self.contents.volumes.contains_key(&volume) {
            return Err(RequestError::NotFound);
        }
        let pages = crate::map::attribute_pages(bytes.len());
        self.contents
            .map
            .reserve_pages(pages)
            .map_err(|_| RequestError::NoSpace)?;
        Ok(PartBody::Attributes(bytes))
    }

    fn on_checkpoint(&mut self, tag: Tag, effects: &mut Vec<Effect>) {
        let through = self.last_frame.seq;
        if self.superblock.checkpoint.seq >= through && self.opening == Opening::Done {
            let result = Ok(());
            effects.push(Effect::Complete { tag, result });
            return;
        }
        self.checkpoints.push((through, tag));
    }

    /// Admits the waiting writes, in order, as far as there is space.
    pub(super) fn admit_waiting(&mut self, effects: &mut Vec<Effect>) {
        if self.opening != Opening::Done {
            return;
        }
        while let Some(key) = self.waiting.front().copied() {
            let result = match self.admit(key, effects) {
                Ok(()) => None,
                Err(Refusal::Gone(error)) => Some(error),
                Err(Refusal::Short(NoSpace { pending })) => {
                    if self.may_get_space(key, pending) {
                        self.round_wanted |= self.round.is_none();
                        return;
                    }
                    Some(RequestError::NoSpace)
                }
            };
            self.waiting.pop_front();
            if let Some(error) = result {
                let request = self.requests.remove(key);
                if request.follows.is_some() {
                    self.contents.stop_following(request.volume);
                }
                complete(&request, Err(error), effects);
            }
        }
    }

    /// Whether a checkpoint may still free what a request lacks: one that covers all that was in the
    /// log when it fell short, and two more while freed space is on its way.
    fn may_get_space(&mut self, key: usize, pending: bool) -> bool {
        let sequence = self.superblock.sequence;
        let last = self.last_frame.seq;
        let request = self.requests.get_mut(key);
        let (since, tries) = request.short_since.get_or_insert((last, sequence + 3));
        if self.superblock.checkpoint.seq < *since || self.round.is_some() {
            return true;
        }
        pending && sequence < *tries
    }

    fn admit(&mut self, key: usize, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let Some(record) = self.requests.get_mut(key).follows.take() else {
            return self.admit_write(key, effects);
        };
        let volume = self.requests.get(key).volume;
        let volume = self.contents.volumes.get(&volume);
        if volume.is_none_or(|volume| volume.leaving) {
            return Err(Refusal::Gone(RequestError::NotFound));
        }
        let admitted = self.admit_record(key, record, effects);
        admitted.map_err(|(short, record)| {
            self.requests.get_mut(key).follows = Some(record);
            Refusal::Short(short)
        })
    }

    /// Reserves for every part of a write, then queues them; all or nothing.
    fn admit_write(&mut self, key: usize, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let request = self.requests.get(key);
        let (volume, range) = (request.volume, request.range);
        // The volume may have left while the write waited.
        self.contents
            .check_range(volume, range)
            .map_err(Refusal::Gone)?;
        let direct = self.goes_direct(range);
        let mut parts = Vec::new();
        let mut first = range.first;
        while first < range.end() {
            let chunk = first.chunk();
            let end = chunk
                .first_block()
                .plus(CHUNK_BLOCKS as u64)
                .min(range.end());
            let count = usize::try_from(end.0 - first.0).expect("at most CHUNK_BLOCKS");
            let at = usize::try_from(first.0 - range.first.0).expect("inside the transfer");
            let body = if direct && count == CHUNK_BLOCKS {
                let physical = self.contents.pin_direct(volume, chunk);
                physical.map(|physical| PartBody::Direct {
                    chunk,
                    physical,
                    at,
                })
            } else {
                let pinned = self.contents.pin_logged(volume, chunk);
                pinned.map(|()| PartBody::Logged { first, count, at })
            };
            match body {
                Ok(body) => parts.push(Part {
                    request: key,
                    volume,
                    payload_block: 0,
                    origin: Origin::Own,
                    body,
                }),
                Err(error) => {
                    parts.iter().for_each(|part| self.retract(part));
                    return Err(Refusal::Short(error));
                }
            }
            first = end;
        }
        let request = self.requests.get_mut(key);
        request.parts = u32::try_from(parts.len()).expect("bounded by the transfer");
        self.start_parts(key, parts, effects);
        Ok(())
    }

    fn goes_direct(&self, range: BlockRange) -> bool {
        let chunk = CHUNK_BLOCKS as u64;
        let first = range.first.0.div_ceil(chunk);
        let whole = (range.end().0 / chunk).saturating_sub(first);
        whole >= u64::from(self.config.direct_chunks_min.max(1))
    }

    /// Undoes the admission of a part that reached no frame.
    pub(super) fn retract(&mut self, part: &Part) {
        match &part.body {
            PartBody::Logged { first, .. } => {
                self.contents.unpin_logged(part.volume, first.chunk())
            }
            PartBody::Direct {
                chunk, physical, ..
            } => {
                self.contents.map.release_chunk_now(*physical);
                self.contents.unpin_direct(part.volume, *chunk);
            }
            PartBody::Attributes(bytes) => {
                let pages = crate::map::attribute_pages(bytes.len());
                self.contents.map.unreserve_pages(pages);
            }
            PartBody::Unmap(_)
            | PartBody::Create { .. }
            | PartBody::Resize { .. }
            | PartBody::SetEpoch(..)
            | PartBody::Remove
            | PartBody::Promise(_)
            | PartBody::Adopt(_)
            | PartBody::EndResync(_) => {}
        }
    }

    /// Logged parts are ready; direct ones after their chunk was written, neighbours together.
    fn start_parts(&mut self, key: usize, parts: Vec<Part>, effects: &mut Vec<Effect>) {
        let payload = self.requests.get(key).payload.expect("writes have one");
        let mut run: Vec<Part> = Vec::new();
        for part in parts {
            let PartBody::Direct { physical, .. } = part.body else {
                self.ready.push_back(part);
                continue;
            };
            if !run.is_empty() && !extends(&run, physical) {
                self.write_run(payload, core::mem::take(&mut run), effects);
            }
            run.push(part);
        }
        if !run.is_empty() {
            self.write_run(payload, run, effects);
        }
    }

    fn write_run(&mut self, payload: PayloadId, run: Vec<Part>, effects: &mut Vec<Effect>) {
        let PartBody::Direct { physical, at, .. } = run[0].body else {
            unreachable!("runs are of direct parts");
        };
        let blocks = run.len() * CHUNK_BYTES / BLOCK_BYTES;
        let slice = PayloadSlice {
            payload,
            first_block: u32::try_from(at).expect("inside the transfer"),
            blocks: u32::try_from(blocks).expect("inside the transfer"),
        };
        let offset = self.layout().chunk(physical);
        self.write(Io::Direct(run), offset, Data::Payload(slice), effects);
    }

    /// Whether a new volume has room, when its record joins the log.
    pub(super) fn check_create(&self, id: VolumeId) -> Result<(), RequestError> {
        let contents = &self.contents;
        if contents.volumes.contains_key(&id) || contents.map.find(id).is_some() {
            return Err(RequestError::Exists);
        }
        let unborn = contents
            .volumes
            .values()
            .filter(|v| v.slot.is_none())
            .count();
        if contents.volumes.len() >= VOLUMES_PER_STORE_MAX || contents.map.table_free() <= unborn {
            return Err(RequestError::TooManyVolumes);
        }
        Ok(())
    }
}

/// Why a waiting write was not admitted.
enum Refusal {
    Gone(RequestError),
    Short(NoSpace),
}

fn extends(run: &[Part], physical: PhysicalChunk) -> bool {
    let PartBody::Direct {
        physical: start, ..
    } = run[0].body
    else {
        unreachable!("runs are of direct parts");
    };
    let length = u32::try_from(run.len()).expect("bounded by DIRECT_RUN_CHUNKS_MAX");
    length < DIRECT_RUN_CHUNKS_MAX && start.0 + length == physical.0
}

fn check_size(size_blocks: u64) -> Result<(), RequestError> {
    let max = VOLUME_BYTES_MAX / BLOCK_BYTES as u64;
    if size_blocks == 0 || size_blocks > max {
        return Err(RequestError::OutOfRange);
    }
    Ok(())
}
