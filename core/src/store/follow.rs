//! Requests of a shared volume: promises, adoption, and what the primary sends. Epoch first.
//!
//! Everything that a primary sends for a volume is logged in the order in which it came: it waits for
//! space in the line of all writes, and behind a whole chunk that is still being written the volume's
//! later records wait (a *queue* of this volume, which exists only then). Whether a record fits is judged
//! when it joins a frame, when all in front of it has.

use super::append::{AppendBody, Sharing};
use super::contents::Volume;
use super::machine::{Adopting, Io, Origin, Part, PartBody, Request, Store, complete};
use super::position::{Place, Standing};
use super::{Data, Effect, Event, PayloadId, PayloadSlice, RequestError, Tag};
use crate::block::PhysicalChunk;
use crate::id::VolumeId;
use crate::limits::{
    ATTRIBUTES_BYTES_MAX, BLOCK_BYTES, CHUNK_BLOCKS, STORE_REQUESTS_MAX, VOLUME_BYTES_MAX,
};
use crate::lsn::{Epoch, Lsn};
use crate::map::NoSpace;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Records of one volume behind a chunk that is being written, in order.
pub(super) type Queue = VecDeque<Queued>;

/// One of them.
#[derive(Debug)]
pub(super) struct Queued {
    part: Part,
    /// Its chunk, if any, is written.
    written: bool,
}

impl Store {
    pub(super) fn on_shared(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Promise { tag, volume, epoch } => {
                let body = self.obey(volume, epoch).map(|_| PartBody::Promise(epoch));
                self.queue(tag, volume, body, effects);
            }
            Event::Adopt {
                tag,
                volume,
                epoch,
                keep,
                cut,
                reigns,
                resync,
            } => {
                let adopting = Box::new(Adopting {
                    epoch,
                    cut,
                    rest: crate::wal::frame::Adoption {
                        keep,
                        resync,
                        reigns,
                    },
                });
                self.on_adopt(tag, volume, adopting, effects);
            }
            Event::Append {
                tag,
                volume,
                reign,
                epoch,
                lsn,
                body,
                payload,
            } => {
                let origin = Origin::Append { reign, epoch, lsn };
                self.on_record((tag, volume), origin, body, payload, effects);
            }
            Event::Fill {
                tag,
                volume,
                reign,
                body,
                payload,
                cursor,
            } => {
                let origin = Origin::Fill { reign, cursor };
                self.on_record((tag, volume), origin, body, payload, effects);
            }
            Event::EndResync { tag, volume, reign } => {
                let body = self.shared(volume).map(|_| PartBody::EndResync(reign));
                self.line_up((tag, volume), Origin::Own, body, None, effects);
            }
            Event::Commit { volume, up_to } => self.on_commit(volume, up_to, effects),
            _ => unreachable!("not an event of shared volumes"),
        }
    }

    /// An adoption needs no space, and waits for none: what waits may need what only it can bring, the
    /// end of pending records, before a checkpoint can free anything.
    fn on_adopt(
        &mut self,
        tag: Tag,
        volume: VolumeId,
        adopting: Box<Adopting>,
        effects: &mut Vec<Effect>,
    ) {
        match self.obey(volume, adopting.epoch) {
            // What an earlier connection sent and is not in the log yet comes again.
            Ok(place) => place.standing = Standing::Fenced,
            Err(error) => {
                let result = Err(error);
                effects.push(Effect::Complete { tag, result });
                return;
            }
        }
        self.refuse_waiting(volume, effects);
        if self.requests.len() >= STORE_REQUESTS_MAX {
            let result = Err(RequestError::Busy);
            effects.push(Effect::Complete { tag, result });
            return;
        }
        let request = self.requests.insert(Request::of_one_record(tag, volume));
        self.make_ready(Part {
            request,
            volume,
            payload_block: 0,
            origin: Origin::Own,
            body: PartBody::Adopt(adopting),
        });
    }

    /// Records of this volume's primary that wait for space come again, or not at all.
    fn refuse_waiting(&mut self, volume: VolumeId, effects: &mut Vec<Effect>) {
        for key in core::mem::take(&mut self.waiting) {
            let request = self.requests.get(key);
            if request.volume == volume && request.follows.is_some() {
                let request = self.requests.remove(key);
                complete(&request, Err(RequestError::StaleEpoch), effects);
            } else {
                self.waiting.push_back(key);
            }
        }
    }

    /// Puts an admitted part before the next frame, behind what its volume's chunks that are being
    /// written hold up.
    fn make_ready(&mut self, part: Part) {
        match self.queues.get_mut(&part.volume) {
            Some(queue) => queue.push_back(Queued {
                part,
                written: true,
            }),
            None => self.ready.push_back(part),
        }
    }

    fn on_commit(&mut self, volume: VolumeId, up_to: Lsn, effects: &mut Vec<Effect>) {
        if let Ok(shared) = self.shared(volume) {
            let told = &mut shared.place.told;
            *told = up_to.max(*told);
            self.commit_told(volume, effects);
        }
    }

    /// From now on nothing is done in the name of an epoch below this one.
    fn obey(&mut self, volume: VolumeId, epoch: Epoch) -> Result<&mut Place, RequestError> {
        let place = &mut self.shared(volume)?.place;
        if epoch < place.obeyed {
            return Err(RequestError::StaleEpoch);
        }
        place.obeyed = epoch;
        Ok(place)
    }

    fn shared(&mut self, volume: VolumeId) -> Result<&mut Volume, RequestError> {
        let volume = self.contents.volumes.get_mut(&volume);
        let volume = volume.filter(|volume| !volume.leaving);
        let volume = volume.ok_or(RequestError::NotFound)?;
        match volume.place.sharing {
            Sharing::Shared => Ok(volume),
            Sharing::Alone => Err(RequestError::NotShared),
        }
    }

    fn on_record(
        &mut self,
        to: (Tag, VolumeId),
        origin: Origin,
        body: AppendBody,
        payload: Option<PayloadId>,
        effects: &mut Vec<Effect>,
    ) {
        assert_eq!(payload.is_some(), body.payload_blocks() > 0); // They come together.
        let checksums = body.checksums().to_vec();
        let shared = self.shared(to.1).map(|_| ());
        let part = shared.and_then(|()| part_body(body, &origin));
        self.line_up(
            to,
            origin,
            part,
            payload.map(|payload| (payload, checksums)),
            effects,
        );
    }

    /// Puts a record behind everything that waits for space.
    fn line_up(
        &mut self,
        (tag, volume): (Tag, VolumeId),
        origin: Origin,
        body: Result<PartBody, RequestError>,
        data: Option<(PayloadId, Vec<u32>)>,
        effects: &mut Vec<Effect>,
    ) {
        let mut request = Request::of_one_record(tag, volume);
        (request.payload, request.checksums) = match data {
            Some((payload, checksums)) => (Some(payload), checksums),
            None => (None, Vec::new()),
        };
        let busy = self.requests.len() >= STORE_REQUESTS_MAX;
        match if busy { Err(RequestError::Busy) } else { body } {
            Ok(body) => {
                request.follows = Some(Box::new((origin, body)));
                let key = self.requests.insert(request);
                self.waiting.push_back(key);
            }
            Err(error) => complete(&request, Err(error), effects),
        }
    }

    /// Reserves for a record of the primary and starts it.
    pub(super) fn admit_record(
        &mut self,
        request: usize,
        mut record: Box<(Origin, PartBody)>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), (NoSpace, Box<(Origin, PartBody)>)> {
        let volume = self.requests.get(request).volume;
        let contents = &mut self.contents;
        let reserved = match &mut record.1 {
            PartBody::Logged { first, .. } => contents.pin_logged(volume, first.chunk()),
            PartBody::Direct {
                chunk, physical, ..
            } => contents
                .pin_direct(volume, *chunk)
                .map(|fresh| *physical = fresh),
            PartBody::Attributes(bytes) => {
                let pages = crate::map::attribute_pages(bytes.len());
                contents.map.reserve_pages(pages)
            }
            _ => Ok(()),
        };
        if let Err(short) = reserved {
            return Err((short, record));
        }
        let (origin, body) = *record;
        let part = Part {
            request,
            volume,
            payload_block: 0,
            origin,
            body,
        };
        let PartBody::Direct { physical, .. } = part.body else {
            self.make_ready(part);
            return Ok(());
        };
        let queue = self.queues.entry(volume).or_default();
        queue.push_back(Queued {
            part,
            written: false,
        });
        let slice = PayloadSlice {
            payload: self.requests.get(request).payload.expect("chunks have one"),
            first_block: 0,
            blocks: u32::try_from(CHUNK_BLOCKS).expect("a small constant"),
        };
        let offset = self.layout().chunk(physical);
        let io = Io::Queued(volume, request);
        self.write(io, offset, Data::Payload(slice), effects);
        Ok(())
    }

    /// The chunk of a queued record is written.
    pub(super) fn on_queued_written(&mut self, volume: VolumeId, request: usize) {
        let queue = self.queues.get_mut(&volume).expect("it waits there");
        let queued = queue.iter_mut().find(|one| one.part.request == request);
        queued.expect("it waits there").written = true;
        while let Some(one) = queue.pop_front_if(|one| one.written) {
            self.ready.push_back(one.part);
        }
        if queue.is_empty() {
            self.queues.remove(&volume);
        }
    }
}

/// What a record of the primary becomes; a chunk has no place yet.
fn part_body(body: AppendBody, origin: &Origin) -> Result<PartBody, RequestError> {
    let blocks_max = VOLUME_BYTES_MAX / BLOCK_BYTES as u64;
    if let Some(range) = body.range() {
        let end = range.first.0.checked_add(u64::from(range.count));
        if range.count == 0 || end.is_none_or(|end| end > blocks_max) {
            return Err(RequestError::OutOfRange);
        }
    }
    let fill = matches!(origin, Origin::Fill { .. });
    Ok(match body {
        AppendBody::Write { range, checksums } => {
            let count = range.count as usize;
            let inside = range.first.index_in_chunk() + count <= CHUNK_BLOCKS;
            if !inside || checksums.len() != count {
                return Err(RequestError::OutOfRange);
            }
            PartBody::Logged {
                first: range.first,
                count,
                at: 0,
            }
        }
        AppendBody::Chunk { chunk, .. } => PartBody::Direct {
            chunk,
            physical: PhysicalChunk(u32::MAX),
            at: 0,
        },
        AppendBody::Unmap(range) => PartBody::Unmap(range),
        AppendBody::Attributes(bytes) if bytes.len() > ATTRIBUTES_BYTES_MAX => {
            return Err(RequestError::OutOfRange);
        }
        AppendBody::Attributes(bytes) => PartBody::Attributes(bytes),
        AppendBody::Resize { size_blocks } if size_blocks == 0 || size_blocks > blocks_max => {
            return Err(RequestError::OutOfRange);
        }
        AppendBody::Resize { size_blocks } => PartBody::Resize { size_blocks },
        AppendBody::SetEpoch { .. } if fill => return Err(RequestError::OutOfRange),
        // This copy is shared as long as it is sent anything.
        AppendBody::SetEpoch { .. } => match origin {
            Origin::Append { epoch, .. } => PartBody::SetEpoch(*epoch, Sharing::Shared),
            _ => return Err(RequestError::OutOfRange),
        },
    })
}

/// The reign and LSN under which a part may join the log now, if it may.
pub(super) fn place_of(volume: &Volume, part: &Part) -> Result<(Epoch, Lsn), RequestError> {
    let place = &volume.place;
    match part.origin {
        Origin::Own => place_of_own(volume, &part.body),
        Origin::Append { reign, epoch, lsn } => {
            place.follows(reign)?;
            if lsn != place.appended.next() || epoch > reign {
                return Err(RequestError::OutOfRange);
            }
            check_inside(place.size_blocks, &part.body)?;
            Ok((epoch, lsn))
        }
        Origin::Fill { reign, .. } => {
            place.follows(reign)?;
            if place.resync.is_none() {
                return Err(RequestError::OutOfRange);
            }
            check_inside(place.size_blocks, &part.body)?;
            Ok((place.epoch, place.appended))
        }
    }
}

fn place_of_own(volume: &Volume, body: &PartBody) -> Result<(Epoch, Lsn), RequestError> {
    let place = &volume.place;
    match body {
        PartBody::Promise(epoch) if *epoch < place.obeyed => Err(RequestError::StaleEpoch),
        PartBody::Promise(epoch) => Ok((*epoch, place.appended)),
        PartBody::Adopt(adopting) if adopting.epoch < place.obeyed => Err(RequestError::StaleEpoch),
        PartBody::Adopt(adopting) => {
            let possible = adopting
                .rest
                .fits(place.committed, place.appended, adopting.cut);
            if possible {
                return Ok((adopting.epoch, adopting.cut));
            }
            Err(RequestError::OutOfRange)
        }
        PartBody::EndResync(reign) => {
            place.follows(*reign)?;
            Ok((place.epoch, place.appended))
        }
        PartBody::SetEpoch(epoch, sharing) => {
            let alone = place.sharing == Sharing::Alone && *sharing == Sharing::Alone;
            let known = place
                .reigns()
                .last()
                .is_some_and(|last| last.epoch >= *epoch);
            if *epoch < place.obeyed || known && !alone {
                return Err(RequestError::StaleEpoch);
            }
            Ok((*epoch, place.appended.next()))
        }
        PartBody::Remove => Ok((place.epoch, place.appended)),
        PartBody::Resize { size_blocks } if *size_blocks < volume.size_blocks => {
            Err(RequestError::OutOfRange)
        }
        _ => {
            place.leads()?;
            Ok((place.epoch, place.appended.next()))
        }
    }
}

/// Whether a record of the primary lies inside the volume as it will be when it takes effect.
fn check_inside(size_blocks: u64, body: &PartBody) -> Result<(), RequestError> {
    let end = match body {
        PartBody::Logged { first, count, .. } => first.0 + *count as u64,
        PartBody::Direct { chunk, .. } => chunk.range().end().0,
        PartBody::Unmap(range) => range.end().0,
        _ => 0,
    };
    if end > size_blocks {
        return Err(RequestError::OutOfRange);
    }
    Ok(())
}
