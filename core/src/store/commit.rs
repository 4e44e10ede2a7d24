//! Group commit: records join a frame, the frame becomes durable, its records take effect.
//!
//! Hot path. One frame is in flight. A record gets its LSN when it joins a frame; it takes effect, and
//! its request completes, when the frame is *reported* durable (I1); of a shared volume, when it is also
//! told to be committed.

use super::append::{AppendBody, Sharing};
use super::contents::Version;
use super::follow::place_of;
use super::machine::{Entered, FrameInFlight, Io, Opening, Origin, Part, PartBody, Request, Store};
use super::overlay::Content;
use super::pending::{Pending, pending_of};
use super::position::Standing;
use super::{Data, Effect, PayloadSlice, RequestError};
use crate::block::{BlockRange, StoreOffset};
use crate::id::VolumeId;
use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS};
use crate::lsn::{Epoch, Lsn};
use crate::wal::frame::{FrameBuilder, FrameHead, RecordHead, RecordRef};
use crate::wal::ring::Ring;
use crate::wal::scan::LogPoint;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

impl Store {
    /// Builds the next frame from what is ready, when none is in flight and the log has room.
    pub(super) fn seal_frame(&mut self, effects: &mut Vec<Effect>) {
        if self.failed || self.frame.is_some() {
            return;
        }
        match self.opening {
            Opening::Frame => self.seal_opening(effects),
            Opening::Done if !self.ready.is_empty() => self.seal_ready(effects),
            Opening::Done if self.wants_round() => self.seal_notes(effects),
            _ => {}
        }
    }

    /// The first frame after opening has no records; it alone may use the log to its last block.
    fn seal_opening(&mut self, effects: &mut Vec<Effect>) {
        let builder = FrameBuilder::default();
        if self.ring.used_with(builder.bytes()) > self.ring.bytes() {
            self.round_wanted = true;
            return;
        }
        self.opening = Opening::FrameWritten;
        self.write_frame(builder, Sealed::default(), effects);
    }

    fn seal_ready(&mut self, effects: &mut Vec<Effect>) {
        let mut builder = FrameBuilder::default();
        let mut sealed = Sealed::default();
        self.note_commits(&mut builder, &mut sealed);
        let mut room = None;
        while let Some(part) = self.ready.front() {
            let head = match self.check_part(part, &sealed) {
                Ok(head) => head,
                Err(error) => {
                    let part = self.ready.pop_front().expect("it is the front");
                    if !matches!(part.origin, Origin::Own) {
                        self.contents.stop_following(part.volume);
                    }
                    self.retract(&part);
                    self.finish_part(part.request, Err(error), effects);
                    continue;
                }
            };
            let adopts_late = is_adoption(part) && sealed.has(part.volume);
            if adopts_late || sealed.urgent && !is_urgent(part) {
                break; // What is dropped is durable before, and what is urgent has the reserve alone.
            }
            let request = self.requests.get(part.request);
            let record = record_of(part, request);
            let Some(bytes) = builder.bytes_with(&head, &record) else {
                break;
            };
            let limit = self.log_limit(part);
            let room = *room.get_or_insert_with(|| frame_room(&self.ring, limit, bytes));
            if bytes > room {
                if sealed.records == 0 {
                    self.on_log_full(effects);
                }
                break;
            }
            builder.push(head, &record);
            sealed.add_payload(part, request);
            let part = self.ready.pop_front().expect("it is the front");
            self.enter(part, head, &mut sealed, effects);
        }
        if sealed.records > 0 {
            self.write_frame(builder, sealed, effects);
        }
    }

    /// The log says first what was committed since the frame before, so that a replay gives back
    /// reservations in the order in which they were given back.
    fn note_commits(&self, builder: &mut FrameBuilder, sealed: &mut Sealed) {
        let unnoted = self.contents.unnoted.iter().take(NOTES_PER_FRAME_MAX);
        for id in unnoted {
            let mut lsn = Lsn(0);
            if let Some(volume) = self.contents.volumes.get(id) {
                lsn = volume.place.committed;
                let head = RecordHead {
                    volume: *id,
                    epoch: volume.place.epoch,
                    lsn,
                    fill: None,
                };
                builder.push(head, &RecordRef::Commit);
            }
            sealed.notes.push((*id, lsn));
        }
    }

    /// A frame that only tells what was committed, so that it can be flushed.
    fn seal_notes(&mut self, effects: &mut Vec<Effect>) {
        let mut builder = FrameBuilder::default();
        let mut sealed = Sealed::default();
        self.note_commits(&mut builder, &mut sealed);
        let limit = self.ring.bytes() * URGENT_PERCENT / 100;
        if !sealed.notes.is_empty() && self.ring.used_with(builder.bytes()) <= limit {
            self.write_frame(builder, sealed, effects);
        }
    }

    /// Bytes of the log that a frame which begins with this part may fill.
    fn log_limit(&self, part: &Part) -> u64 {
        let percent = if is_urgent(part) {
            self.config.hard_percent.max(URGENT_PERCENT)
        } else {
            self.config.hard_percent
        };
        self.ring.bytes() * percent / 100
    }

    /// Hosts wait for room in the log. What changes reigns does not wait behind them: their records may
    /// be in its way, waiting for a commit that only it can bring.
    fn on_log_full(&mut self, effects: &mut Vec<Effect>) {
        self.round_wanted |= self.round.is_none();
        let front = self.ready.front().is_some_and(is_urgent);
        let urgent = self.ready.iter().position(is_urgent);
        if let Some(at) = urgent.filter(|_| !front) {
            let urgent = self.ready.remove(at).expect("it was just there");
            if is_adoption(&urgent) {
                self.refuse_followers(urgent.volume, at, effects);
            }
            self.ready.push_front(urgent);
            self.seal_ready(effects);
        } else {
            self.seal_notes(effects);
        }
    }

    /// An adoption overtakes what an earlier connection sent: it will be sent again.
    fn refuse_followers(&mut self, volume: VolumeId, behind: usize, effects: &mut Vec<Effect>) {
        let mut kept = VecDeque::with_capacity(self.ready.len());
        for (at, part) in core::mem::take(&mut self.ready).into_iter().enumerate() {
            let own = matches!(part.origin, Origin::Own);
            let sent = !own || matches!(part.body, PartBody::EndResync(_));
            if at < behind && part.volume == volume && sent {
                self.retract(&part);
                self.finish_part(part.request, Err(RequestError::StaleEpoch), effects);
            } else {
                kept.push_back(part);
            }
        }
        self.ready = kept;
    }

    /// Whether a part may still join the log, in whose reign and with which number.
    fn check_part(&self, part: &Part, sealed: &Sealed) -> Result<RecordHead, RequestError> {
        let mut head = RecordHead {
            volume: part.volume,
            epoch: Epoch(0),
            lsn: Lsn(0),
            fill: None,
        };
        if let PartBody::Create { epoch, .. } = part.body {
            let twice = |create: &Part| create.volume == part.volume;
            if sealed.creates.iter().any(twice) {
                return Err(RequestError::Exists);
            }
            if sealed.creates.len() >= CREATES_PER_FRAME_MAX {
                return Err(RequestError::Busy);
            }
            head.epoch = epoch;
            // The volume's own records follow in later frames.
            return self.check_create(part.volume).map(|()| head);
        }
        let volume = self.contents.volumes.get(&part.volume);
        let volume = volume.filter(|volume| !volume.leaving);
        let volume = volume.ok_or(RequestError::NotFound)?;
        (head.epoch, head.lsn) = place_of(volume, part)?;
        if let Origin::Fill { cursor, .. } = part.origin {
            head.fill = Some(cursor);
        }
        Ok(head)
    }

    /// The part is in the frame: it waits for its durability, and of a shared volume for its commit.
    fn enter(
        &mut self,
        mut part: Part,
        head: RecordHead,
        sealed: &mut Sealed,
        effects: &mut Vec<Effect>,
    ) {
        sealed.records += 1;
        sealed.urgent |= is_urgent(&part);
        part.payload_block = sealed.payload_blocks - logged_blocks(&part);
        let Some(volume) = self.contents.volumes.get_mut(&part.volume) else {
            sealed.creates.push(part);
            return;
        };
        let place = &mut volume.place;
        let mut dropped = Vec::new();
        match &part.body {
            PartBody::SetEpoch(epoch, sharing) => {
                if matches!(part.origin, Origin::Own) {
                    place.epoch = *epoch;
                    place.obeyed = *epoch;
                    place.standing = Standing::Leads;
                    place.share(*sharing, head.lsn);
                }
                place.begin_reign(*epoch, head.lsn);
            }
            PartBody::Resize { size_blocks } => {
                place.size_blocks = place.size_blocks.max(*size_blocks);
            }
            PartBody::Remove => volume.leaving = true,
            PartBody::Adopt(adopting) => {
                let rest = &adopting.rest;
                dropped = place.adopt((rest.keep, adopting.cut), &rest.reigns, rest.resync);
                place.epoch = adopting.epoch;
                place.standing = Standing::Follows;
            }
            _ => {}
        }
        if part.body.has_effect() && head.fill.is_none() {
            place.appended = head.lsn;
        }
        let shared = part.body.has_effect() && place.sharing == Sharing::Shared;
        if !dropped.is_empty() || is_adoption(&part) {
            self.end_dropped(part.volume, dropped, effects);
        }
        let entered = Entered {
            lsn: head.lsn,
            epoch: head.epoch,
            shared,
            part,
        };
        if shared && matches!(entered.part.origin, Origin::Own) {
            effects.push(self.appended(&entered));
        }
        sealed.parts.push(entered);
    }

    /// Pending records were dropped by one that joins the next frame.
    fn end_dropped(&mut self, id: VolumeId, dropped: Vec<Pending>, effects: &mut Vec<Effect>) {
        let by = self.last_frame.seq.next();
        for request in self.contents.drop_pending(id, dropped, by) {
            self.finish_part(request, Err(RequestError::StaleEpoch), effects);
        }
    }

    fn appended(&self, entered: &Entered) -> Effect {
        let part = &entered.part;
        let request = self.requests.get(part.request);
        let (body, blocks) = append_body(part, request);
        let slice = |payload| PayloadSlice {
            payload,
            first_block: u32::try_from(part.body.payload_at()).expect("inside the transfer"),
            blocks,
        };
        Effect::Appended {
            volume: part.volume,
            lsn: entered.lsn,
            epoch: entered.epoch,
            body,
            payload: request.payload.filter(|_| blocks > 0).map(slice),
        }
    }

    fn write_frame(&mut self, builder: FrameBuilder, sealed: Sealed, effects: &mut Vec<Effect>) {
        for id in self.contents.unnoted.drain(..sealed.notes.len()) {
            if let Some(volume) = self.contents.volumes.get_mut(&id) {
                volume.place.unnoted = false;
            }
        }
        let bytes = builder.bytes();
        let position = self.ring.place(bytes);
        let seq = self.last_frame.seq.next();
        let (header, chain) = builder.finish(FrameHead {
            store: self.superblock.store,
            seq,
            position,
            previous: self.last_frame.chain,
        });
        self.ring.advance(position, bytes);
        self.last_frame = LogPoint {
            seq,
            position: self.ring.head(),
            chain,
        };
        let offset = self.ring.offset(position);
        let io = if sealed.parts.iter().any(Entered::is_direct) {
            Io::Frame
        } else {
            Io::DurableFrame
        };
        self.frame = Some(FrameInFlight {
            end: self.last_frame,
            payload: offset.plus(header.len() as u64),
            parts: sealed.parts,
            creates: sealed.creates,
            notes: sealed.notes,
        });
        let data = Data::Frame {
            header,
            payloads: sealed.payloads,
        };
        self.write(io, offset, data, effects);
    }

    /// The frame in flight is durable: of a volume that is alone, that commits its records.
    pub(super) fn on_frame_durable(&mut self, effects: &mut Vec<Effect>) {
        let frame = self.frame.take().expect("one frame is in flight");
        assert_eq!(frame.end.seq, self.committed.next());
        self.committed = frame.end.seq;
        self.contents.frames.push(frame.end);
        if self.opening == Opening::FrameWritten {
            self.opening = Opening::Done;
        }
        self.last_commit = self.now;
        let seq = self.committed;
        for part in frame.creates {
            let PartBody::Create {
                size_blocks,
                epoch,
                sharing,
            } = part.body
            else {
                unreachable!("only creations have no volume");
            };
            self.contents
                .commit_create(part.volume, size_blocks, (epoch, sharing), seq);
            self.finish_part(part.request, Ok(()), effects);
        }
        for (id, lsn) in frame.notes {
            self.contents.note_durable(id, lsn);
        }
        let mut touched = Vec::new();
        for entered in frame.parts {
            let id = entered.part.volume;
            if entered.shared {
                self.hold(entered, frame.payload, effects);
            } else if entered.part.body.has_effect() {
                self.commit_alone(entered, frame.payload, effects);
                continue;
            } else if !self.note(entered, effects) {
                continue;
            }
            if !touched.contains(&id) {
                touched.push(id);
            }
        }
        for id in touched {
            self.on_durable(id, effects);
        }
    }

    /// All records of a shared volume that joined the log are durable.
    fn on_durable(&mut self, id: VolumeId, effects: &mut Vec<Effect>) {
        let Some(volume) = self.contents.volumes.get_mut(&id) else {
            return; // Its last record removed it.
        };
        let place = &mut volume.place;
        place.mark(self.committed);
        place.durable = place.appended;
        effects.push(Effect::Durable {
            volume: id,
            lsn: place.durable,
        });
        self.commit_told(id, effects);
    }

    /// What is told to be committed and durable takes effect.
    pub(super) fn commit_told(&mut self, id: VolumeId, effects: &mut Vec<Effect>) {
        let mut done = Vec::new();
        self.contents.commit_told(id, |request| done.push(request));
        self.last_commit = self.now;
        for request in done {
            self.finish_part(request, Ok(()), effects);
        }
    }

    /// A durable record of a shared volume waits for its commit. What another store asked for is done.
    fn hold(&mut self, entered: Entered, payload: StoreOffset, effects: &mut Vec<Effect>) {
        let Entered {
            lsn, epoch, part, ..
        } = entered;
        let (id, request, origin) = (part.volume, part.request, part.origin);
        let checksums = &self.requests.get(request).checksums;
        let record = pending_of(part, checksums, payload, (lsn, epoch, self.committed));
        let done = record.held.is_none();
        self.contents.hold(id, record);
        if let Origin::Fill { cursor, .. } = origin {
            let volume = self.contents.volumes.get_mut(&id);
            let place = &mut volume.expect("its record was logged").place;
            if let Some(resync) = &mut place.resync {
                resync.cursor = cursor;
            }
        }
        if done {
            self.finish_part(request, Ok(()), effects);
        }
    }

    /// A durable record without an effect on the data. False when it leaves the volume's position.
    fn note(&mut self, entered: Entered, effects: &mut Vec<Effect>) -> bool {
        let part = entered.part;
        let volume = self.contents.volumes.get_mut(&part.volume);
        let place = &mut volume.expect("a volume leaves by its last record").place;
        match part.body {
            PartBody::Promise(epoch) => place.promised = place.promised.max(epoch),
            PartBody::Adopt(_) => place.promised = place.promised.max(entered.epoch),
            PartBody::EndResync(_) => place.resync = None,
            PartBody::Remove => {
                for request in self.contents.commit_remove(part.volume, self.committed) {
                    self.finish_part(request, Err(RequestError::NotFound), effects);
                }
            }
            _ => unreachable!("it has an effect"),
        }
        self.finish_part(part.request, Ok(()), effects);
        matches!(part.body, PartBody::Adopt(_))
    }

    fn commit_alone(&mut self, entered: Entered, payload: StoreOffset, effects: &mut Vec<Effect>) {
        let Entered { lsn, part, .. } = entered;
        let (id, request) = (part.volume, part.request);
        let volume = self.contents.volumes.get_mut(&id);
        let place = &mut volume.expect("a volume leaves by its last record").place;
        (place.durable, place.told) = (lsn, lsn);
        if matches!(part.body, PartBody::SetEpoch(..)) {
            // It may have been shared before.
            place.mark(self.committed);
            place.noted = place.noted.max(lsn);
            self.contents.note_durable(id, lsn);
            self.commit_told(id, effects);
        } else {
            place.committed = lsn;
            let seq = self.committed;
            self.take_effect(part, payload, Version { seq, lsn });
        }
        self.finish_part(request, Ok(()), effects);
    }

    fn take_effect(&mut self, part: Part, payload: StoreOffset, version: Version) {
        let id = part.volume;
        let contents = &mut self.contents;
        match part.body {
            PartBody::Logged { first, count, at } => {
                let checksums = &self.requests.get(part.request).checksums[at..at + count];
                let from = payload.plus((part.payload_block * BLOCK_BYTES) as u64);
                contents.commit_logged(id, first, checksums, from, version);
                contents.unpin_logged(id, first.chunk());
            }
            PartBody::Direct {
                chunk,
                physical,
                at,
            } => {
                let checksums = &self.requests.get(part.request).checksums;
                let content = Content {
                    chunk: physical,
                    checksums: *chunk_checksums(checksums, at),
                };
                contents.commit_direct(id, chunk, content, version);
                contents.unpin_direct(id, chunk);
            }
            PartBody::Unmap(range) => contents.commit_unmap(id, range, version),
            PartBody::Resize { size_blocks } => contents.commit_resize(id, size_blocks),
            PartBody::Attributes(bytes) => contents.commit_attributes(id, bytes),
            _ => unreachable!("it has no effect of its own"),
        }
    }
}

/// Creations in one frame at most; more wait for the next by asking again.
const CREATES_PER_FRAME_MAX: usize = 16;

/// Volumes whose commit point one frame notes at most.
const NOTES_PER_FRAME_MAX: usize = 128;

/// Log use, in percent, up to which what changes reigns is logged.
const URGENT_PERCENT: u64 = 95;

/// What a frame being built gathers besides its header.
#[derive(Default)]
struct Sealed {
    records: usize,
    /// It changes reigns, and may lie in the part of the log that is reserved for that.
    urgent: bool,
    payload_blocks: usize,
    payloads: Vec<PayloadSlice>,
    parts: Vec<Entered>,
    creates: Vec<Part>,
    notes: Vec<(VolumeId, Lsn)>,
}

impl Sealed {
    fn has(&self, volume: VolumeId) -> bool {
        self.parts
            .iter()
            .any(|entered| entered.part.volume == volume)
    }

    fn add_payload(&mut self, part: &Part, request: &Request) {
        let PartBody::Logged { at, count, .. } = part.body else {
            return;
        };
        let first_block = u32::try_from(at).expect("inside the transfer");
        let blocks = u32::try_from(count).expect("at most CHUNK_BLOCKS");
        let payload = request.payload.expect("writes have one");
        self.payload_blocks += count;
        if let Some(last) = self.payloads.last_mut()
            && last.payload == payload
            && last.first_block + last.blocks == first_block
        {
            last.blocks += blocks;
            return;
        }
        self.payloads.push(PayloadSlice {
            payload,
            first_block,
            blocks,
        });
    }
}

/// Bytes that the next frame may have; 0 when the log is too full for a first record of `bytes`.
fn frame_room(ring: &Ring, hard: u64, bytes: u64) -> u64 {
    let used = ring.used_with(bytes);
    if used > hard {
        return 0;
    }
    let rest = ring.segment_room();
    let segment = if bytes <= rest {
        rest
    } else {
        ring.segment_bytes()
    };
    segment.min(bytes + hard - used)
}

fn logged_blocks(part: &Part) -> usize {
    match part.body {
        PartBody::Logged { count, .. } => count,
        _ => 0,
    }
}

pub(super) fn chunk_checksums(checksums: &[u32], at: usize) -> &[u32; CHUNK_BLOCKS] {
    let checksums = &checksums[at..at + CHUNK_BLOCKS];
    checksums.try_into().expect("as many as it was sliced to")
}

fn is_adoption(part: &Part) -> bool {
    matches!(part.body, PartBody::Adopt(_))
}

/// Whether it changes reigns.
fn is_urgent(part: &Part) -> bool {
    let changes = matches!(
        part.body,
        PartBody::SetEpoch(..) | PartBody::Promise(_) | PartBody::Adopt(_)
    );
    changes && matches!(part.origin, Origin::Own)
}

/// As peers are told, and the blocks of its payload.
fn append_body(part: &Part, request: &Request) -> (AppendBody, u32) {
    match &part.body {
        PartBody::Logged { first, count, at } => {
            let count_small = u32::try_from(*count).expect("at most CHUNK_BLOCKS");
            let body = AppendBody::Write {
                range: BlockRange {
                    first: *first,
                    count: count_small,
                },
                checksums: request.checksums[*at..*at + *count].to_vec(),
            };
            (body, count_small)
        }
        PartBody::Direct { chunk, at, .. } => {
            let body = AppendBody::Chunk {
                chunk: *chunk,
                checksums: *chunk_checksums(&request.checksums, *at),
            };
            (body, chunk.range().count)
        }
        PartBody::Unmap(range) => (AppendBody::Unmap(*range), 0),
        PartBody::Resize { size_blocks } => {
            let size_blocks = *size_blocks;
            (AppendBody::Resize { size_blocks }, 0)
        }
        PartBody::SetEpoch(_, sharing) => (AppendBody::SetEpoch { sharing: *sharing }, 0),
        PartBody::Attributes(bytes) => (AppendBody::Attributes(bytes.clone()), 0),
        _ => unreachable!("peers are told only what has an effect"),
    }
}

fn record_of<'a>(part: &'a Part, request: &'a Request) -> RecordRef<'a> {
    match &part.body {
        PartBody::Logged { first, count, at } => RecordRef::Write {
            first: *first,
            checksums: &request.checksums[*at..*at + *count],
        },
        PartBody::Direct {
            chunk,
            physical,
            at,
        } => RecordRef::Map {
            chunk: *chunk,
            physical: *physical,
            checksums: chunk_checksums(&request.checksums, *at),
        },
        PartBody::Unmap(range) => RecordRef::Unmap(*range),
        PartBody::Create {
            size_blocks,
            sharing,
            ..
        } => RecordRef::Create {
            size_blocks: *size_blocks,
            sharing: *sharing,
        },
        PartBody::Resize { size_blocks } => RecordRef::Resize {
            size_blocks: *size_blocks,
        },
        PartBody::SetEpoch(_, sharing) => RecordRef::SetEpoch(*sharing),
        PartBody::Remove => RecordRef::Remove,
        PartBody::Attributes(bytes) => RecordRef::Attributes(bytes),
        PartBody::Promise(_) => RecordRef::Promise,
        PartBody::Adopt(adopting) => RecordRef::Adopt(&adopting.rest),
        PartBody::EndResync(_) => RecordRef::EndResync,
    }
}
