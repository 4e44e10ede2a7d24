//! Group commit: records join a frame, the frame becomes durable, its records take effect.
//!
//! Hot path. One frame is in flight. A record gets its LSN when it joins a frame; it takes effect, and
//! its request completes, when the frame is *reported* durable (I1).

use super::contents::Version;
use super::machine::{FrameInFlight, Opening, Part, PartBody, Request, Store};
use super::overlay::Content;
use super::{Data, Effect, PayloadSlice, RequestError};
use crate::block::StoreOffset;
use crate::id::VolumeId;
use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS};
use crate::lsn::{Epoch, Lsn};
use crate::replication::primary::Member;
use crate::store::machine::Io;
use crate::wal::frame::{FrameBuilder, FrameHead, RecordHead, RecordRef};
use crate::wal::ring::Ring;
use crate::wal::scan::LogPoint;
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
        let mut room = None;
        let hard = self.ring.bytes() * self.config.hard_percent / 100;
        while let Some(part) = self.ready.front() {
            let epoch = match self.check_part(part, &sealed) {
                Ok(epoch) => epoch,
                Err(error) => {
                    let part = self.ready.pop_front().expect("it is the front");
                    self.retract(&part);
                    self.finish_part(part.request, Err(error), effects);
                    continue;
                }
            };
            let request = self.requests.get(part.request);
            let record = record_of(part, request);
            let Some(bytes) = builder.bytes_with(&record) else {
                break;
            };
            let room = *room.get_or_insert_with(|| frame_room(&self.ring, hard, bytes));
            if bytes > room {
                // Hosts wait for room in the log.
                self.round_wanted |= sealed.records == 0 && self.round.is_none();
                break;
            }
            let volume = part.volume;
            let lsn = match self.contents.volumes.get(&volume) {
                Some(volume) => Lsn(volume.primary.appended().0 + 1),
                None => Lsn(0), // A creation; the volume's own records follow in later frames.
            };
            builder.push(RecordHead { volume, epoch, lsn }, &record);
            sealed.add_payload(part, request);
            let part = self.ready.pop_front().expect("it is the front");
            self.enter(part, epoch, &mut sealed);
        }
        if sealed.records > 0 {
            self.write_frame(builder, sealed, effects);
        }
    }

    /// Whether a part may still join the log, and in whose reign.
    fn check_part(&self, part: &Part, sealed: &Sealed) -> Result<Epoch, RequestError> {
        if let PartBody::Create { epoch, .. } = part.body {
            if sealed
                .creates
                .iter()
                .any(|create| create.volume == part.volume)
            {
                return Err(RequestError::Exists);
            }
            if sealed.creates.len() >= CREATES_PER_FRAME_MAX {
                return Err(RequestError::Busy);
            }
            return self.check_create(part.volume).map(|()| epoch);
        }
        let volume = self.contents.volumes.get(&part.volume);
        let volume = volume.filter(|volume| !volume.leaving);
        let volume = volume.ok_or(RequestError::NotFound)?;
        let present = volume.primary.epoch();
        match part.body {
            PartBody::SetEpoch(epoch) if epoch < present => Err(RequestError::StaleEpoch),
            PartBody::SetEpoch(epoch) => Ok(epoch),
            PartBody::Resize { size_blocks } if size_blocks < volume.size_blocks => {
                Err(RequestError::OutOfRange)
            }
            _ => Ok(present),
        }
    }

    /// The part is in the frame: it waits with its volume's primary until it is committed.
    fn enter(&mut self, mut part: Part, epoch: Epoch, sealed: &mut Sealed) {
        sealed.records += 1;
        part.payload_block = sealed.payload_blocks - logged_blocks(&part);
        let Some(volume) = self.contents.volumes.get_mut(&part.volume) else {
            sealed.creates.push(part);
            return;
        };
        let id = part.volume;
        match part.body {
            PartBody::SetEpoch(epoch) => volume.primary.begin_epoch(epoch),
            PartBody::Remove => volume.leaving = true,
            _ => {}
        }
        let lsn = volume
            .primary
            .append(epoch, part)
            .expect("the epoch was checked");
        match sealed.volumes.iter_mut().find(|(other, _)| *other == id) {
            Some((_, last)) => *last = lsn,
            None => sealed.volumes.push((id, lsn)),
        }
    }

    fn write_frame(&mut self, builder: FrameBuilder, sealed: Sealed, effects: &mut Vec<Effect>) {
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
        self.frame = Some(FrameInFlight {
            end: self.last_frame,
            payload: offset.plus(header.len() as u64),
            volumes: sealed.volumes,
            creates: sealed.creates,
        });
        let data = Data::Frame {
            header,
            payloads: sealed.payloads,
        };
        self.write(Io::Frame, offset, data, effects);
    }

    /// The frame in flight is durable: with one copy, that commits its records.
    pub(super) fn on_frame_durable(&mut self, effects: &mut Vec<Effect>) {
        let frame = self.frame.take().expect("one frame is in flight");
        assert_eq!(frame.end.seq, self.committed.next());
        self.committed = frame.end.seq;
        self.frame_ends.push_back(frame.end);
        if self.opening == Opening::FrameWritten {
            self.opening = Opening::Done;
        }
        self.last_commit = self.now;
        let seq = self.committed;
        for part in frame.creates {
            let PartBody::Create { size_blocks, epoch } = part.body else {
                unreachable!("only creations have no volume");
            };
            self.contents
                .commit_create(part.volume, size_blocks, epoch, seq);
            self.finish_part(part.request, Ok(()), effects);
        }
        let mut committed = Vec::new();
        for (id, lsn) in frame.volumes {
            let volume = self.contents.volumes.get_mut(&id);
            let volume = volume.expect("a volume leaves by its last record");
            volume
                .primary
                .on_durable(Member::LOCAL, lsn, |lsn, part| committed.push((lsn, part)));
        }
        for (lsn, part) in committed {
            let version = Version { seq, lsn };
            let request = part.request;
            self.take_effect(part, frame.payload, version);
            self.finish_part(request, Ok(()), effects);
        }
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
                let content = Content {
                    chunk: physical,
                    checksums: *chunk_checksums(self.requests.get(part.request), at),
                };
                contents.commit_direct(id, chunk, content, version);
                contents.unpin_direct(id, chunk);
            }
            PartBody::Unmap(range) => contents.commit_unmap(id, range, version),
            PartBody::Resize { size_blocks } => {
                let volume = contents.volumes.get_mut(&id).expect("checked in the frame");
                // A larger one may have joined the same frame before it.
                volume.size_blocks = volume.size_blocks.max(size_blocks);
            }
            PartBody::SetEpoch(_) => {}
            PartBody::Remove => contents.commit_remove(id, version.seq),
            PartBody::Attributes(bytes) => contents.commit_attributes(id, bytes),
            PartBody::Create { .. } => unreachable!("creations have no LSN"),
        }
    }
}

/// Creations in one frame at most; more wait for the next by asking again.
const CREATES_PER_FRAME_MAX: usize = 16;

/// What a frame being built gathers besides its header.
#[derive(Default)]
struct Sealed {
    records: usize,
    payload_blocks: usize,
    payloads: Vec<PayloadSlice>,
    volumes: Vec<(VolumeId, Lsn)>,
    creates: Vec<Part>,
}

impl Sealed {
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

fn chunk_checksums(request: &Request, at: usize) -> &[u32; CHUNK_BLOCKS] {
    let checksums = &request.checksums[at..at + CHUNK_BLOCKS];
    checksums.try_into().expect("as many as it was sliced to")
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
            checksums: chunk_checksums(request, *at),
        },
        PartBody::Unmap(range) => RecordRef::Unmap(*range),
        PartBody::Create { size_blocks, .. } => RecordRef::Create {
            size_blocks: *size_blocks,
        },
        PartBody::Resize { size_blocks } => RecordRef::Resize {
            size_blocks: *size_blocks,
        },
        PartBody::SetEpoch(_) => RecordRef::SetEpoch,
        PartBody::Remove => RecordRef::Remove,
        PartBody::Attributes(bytes) => RecordRef::Attributes(bytes),
    }
}
