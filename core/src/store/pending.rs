//! Records of shared volumes between durable and committed: what they hold, and how they end.
//!
//! A pending record has no effect: it is not visible and not flushed. It keeps what admission reserved
//! for it, and its frame in the log. It ends by taking effect, or dropped by an adoption or with its volume.
//! Its frame it keeps until the log tells that it is committed: a flush may overwrite in place what a replay
//! that did not know would show again.
//!
//! After a restart the commit point may be lower than what was in effect before. Of a block that a record
//! between the two changes, the flush kept only the newest version, which is pending now: such a block shows
//! an older one until the record is committed again. Nobody reads it: a copy serves only after the first
//! record of its reign is committed, and a resync sends the chunks that records behind the commit point change.

use super::append::{AppendBody, Sharing};
use super::contents::{Contents, Version};
use super::layout::Layout;
use super::machine::Part;
use super::overlay::Content;
use super::position::Standing;
use super::{PendingPayload, PendingRecord};
use crate::block::{Block, BlockRange, ChunkIndex, StoreOffset};
use crate::id::VolumeId;
use crate::lsn::{Epoch, FrameSeq, Lsn};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// One record.
#[derive(Debug)]
pub(super) struct Pending {
    /// Its LSN; of resync data, the one that it waits for.
    pub(super) lsn: Lsn,
    pub(super) epoch: Epoch,
    /// The frame that holds it.
    pub(super) seq: FrameSeq,
    /// It is resync data.
    pub(super) fill: bool,
    /// The request of this store that ends with it, and where in its payload the data begins.
    pub(super) held: Option<(usize, usize)>,
    pub(super) body: PendingBody,
}

/// What it says.
#[derive(Debug)]
pub(super) enum PendingBody {
    /// Blocks of one chunk, in the log from `at` on.
    Logged {
        first: Block,
        checksums: Vec<u32>,
        at: StoreOffset,
    },
    /// A chunk already written.
    Direct {
        chunk: ChunkIndex,
        content: Box<Content>,
    },
    Unmap(BlockRange),
    Resize {
        size_blocks: u64,
    },
    SetEpoch(Sharing),
    Attributes(Vec<u8>),
}

impl Pending {
    /// As it is told to who sends it again.
    pub(super) fn record(&self, layout: &Layout) -> PendingRecord {
        let (body, payload) = match &self.body {
            PendingBody::Logged {
                first,
                checksums,
                at,
            } => {
                let count = u32::try_from(checksums.len()).expect("at most CHUNK_BLOCKS");
                let body = AppendBody::Write {
                    range: BlockRange {
                        first: *first,
                        count,
                    },
                    checksums: checksums.clone(),
                };
                (body, PendingPayload::Stored(*at))
            }
            PendingBody::Direct { chunk, content } => {
                let body = AppendBody::Chunk {
                    chunk: *chunk,
                    checksums: content.checksums,
                };
                (body, PendingPayload::Stored(layout.chunk(content.chunk)))
            }
            PendingBody::Unmap(range) => (AppendBody::Unmap(*range), PendingPayload::None),
            PendingBody::Resize { size_blocks } => {
                let size_blocks = *size_blocks;
                (AppendBody::Resize { size_blocks }, PendingPayload::None)
            }
            PendingBody::SetEpoch(sharing) => {
                let sharing = *sharing;
                (AppendBody::SetEpoch { sharing }, PendingPayload::None)
            }
            PendingBody::Attributes(bytes) => {
                let bytes = bytes.clone();
                (AppendBody::Attributes(bytes), PendingPayload::None)
            }
        };
        PendingRecord {
            lsn: self.lsn,
            epoch: self.epoch,
            body,
            payload,
        }
    }
}

impl Contents {
    /// The last durable frame has one more record that waits for its commit.
    pub(super) fn hold(&mut self, id: VolumeId, record: Pending) {
        let volume = self.volumes.get_mut(&id).expect("its record was logged");
        let in_order = |last: &Pending| last.lsn <= record.lsn && last.seq <= record.seq;
        assert!(volume.place.pending.back().is_none_or(in_order));
        volume.place.pending.push_back(record);
        self.frames.hold();
    }

    /// What is told to be committed and durable takes effect; `done` learns of requests that end so.
    pub(super) fn commit_told(&mut self, id: VolumeId, mut done: impl FnMut(usize)) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        let place = &mut volume.place;
        let target = place.told.min(place.durable).max(place.committed);
        if target > place.committed {
            place.committed = target;
            let shared = place.sharing == Sharing::Shared;
            if shared && !core::mem::replace(&mut place.unnoted, true) {
                self.unnoted.push(id);
            }
        }
        loop {
            let volume = self.volumes.get_mut(&id).expect("it was just there");
            let first = &mut volume.place.pending;
            let Some(record) = first.pop_front_if(|record| record.lsn <= target) else {
                return;
            };
            if record.lsn <= volume.place.noted {
                self.frames.settle(record.seq);
            } else {
                let unsettled = &mut volume.place.unsettled;
                unsettled.push_back((record.lsn, record.seq));
            }
            if let Some((request, _)) = record.held {
                done(request);
            }
            self.take_effect(id, record);
        }
    }

    /// As [`Self::commit_told`], when the log itself tells it.
    pub(super) fn commit_logged_point(&mut self, id: VolumeId) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            let place = &mut volume.place;
            place.noted = place.noted.max(place.told.min(place.durable));
        }
        self.commit_told(id, |_| {});
    }

    /// The durable log tells that records up to `lsn` are committed: what a flush now does in place no
    /// replay will ask back.
    pub(super) fn note_durable(&mut self, id: VolumeId, lsn: Lsn) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        let place = &mut volume.place;
        place.noted = place.noted.max(lsn);
        let noted = place.noted;
        while let Some((_, seq)) = place.unsettled.pop_front_if(|(lsn, _)| *lsn <= noted) {
            self.frames.settle(seq);
        }
    }

    fn take_effect(&mut self, id: VolumeId, record: Pending) {
        let version = Version {
            seq: record.seq,
            lsn: record.lsn,
        };
        match record.body {
            PendingBody::Logged {
                first,
                checksums,
                at,
            } => {
                self.commit_logged(id, first, &checksums, at, version);
                self.unpin_logged(id, first.chunk());
            }
            PendingBody::Direct { chunk, content } => {
                self.commit_direct(id, chunk, *content, version);
                self.unpin_direct(id, chunk);
            }
            PendingBody::Unmap(range) => self.commit_unmap(id, range, version),
            PendingBody::Resize { size_blocks } => self.commit_resize(id, size_blocks),
            PendingBody::SetEpoch(_) => {}
            PendingBody::Attributes(bytes) => self.commit_attributes(id, bytes),
        }
    }

    /// Pending records will never be committed: the frame `by` says so.
    /// Gives the requests that end so.
    pub(super) fn drop_pending(
        &mut self,
        id: VolumeId,
        dropped: Vec<Pending>,
        by: FrameSeq,
    ) -> Vec<usize> {
        if let Some(first) = dropped.first() {
            self.frames.span(first.seq, by);
        }
        let mut requests = Vec::new();
        for record in dropped {
            self.frames.settle(record.seq);
            requests.extend(record.held.map(|(request, _)| request));
            match record.body {
                PendingBody::Logged { first, .. } => self.unpin_logged(id, first.chunk()),
                PendingBody::Direct { chunk, content } => {
                    self.map.release_chunk(content.chunk, by);
                    self.unpin_direct(id, chunk);
                }
                PendingBody::Attributes(bytes) => {
                    let pages = crate::map::attribute_pages(bytes.len());
                    self.map.unreserve_pages(pages);
                }
                PendingBody::Unmap(_) | PendingBody::Resize { .. } | PendingBody::SetEpoch(_) => {}
            }
        }
        self.measure(id);
        requests
    }

    /// Something that the primary sent is missing: nothing that follows counts, before the next adoption.
    pub(super) fn stop_following(&mut self, id: VolumeId) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            let standing = &mut volume.place.standing;
            if *standing == Standing::Follows {
                *standing = Standing::Fenced;
            }
        }
    }

    /// The size of a volume once everything in the log is committed.
    fn measure(&mut self, id: VolumeId) {
        let Some(volume) = self.volumes.get_mut(&id) else {
            return;
        };
        let sizes = volume.place.pending.iter().map(|record| match record.body {
            PendingBody::Resize { size_blocks } => size_blocks,
            _ => 0,
        });
        volume.place.size_blocks = sizes.fold(volume.size_blocks, u64::max);
    }
}

/// The record of a part that is logged at `payload`, with these checksums.
pub(super) fn pending_of(
    part: Part,
    checksums: &[u32],
    payload: StoreOffset,
    (lsn, epoch, seq): (Lsn, Epoch, FrameSeq),
) -> Pending {
    use super::machine::{Origin, PartBody};
    let fill = matches!(part.origin, Origin::Fill { .. });
    let own = matches!(part.origin, Origin::Own);
    let mut at = 0;
    let body = match part.body {
        PartBody::Logged {
            first,
            count,
            at: begin,
        } => {
            at = begin;
            let blocks = part.payload_block * crate::limits::BLOCK_BYTES;
            PendingBody::Logged {
                first,
                checksums: checksums[begin..begin + count].to_vec(),
                at: payload.plus(blocks as u64),
            }
        }
        PartBody::Direct {
            chunk,
            physical,
            at: begin,
        } => {
            at = begin;
            PendingBody::Direct {
                chunk,
                content: Box::new(Content {
                    chunk: physical,
                    checksums: *super::commit::chunk_checksums(checksums, begin),
                }),
            }
        }
        PartBody::Unmap(range) => PendingBody::Unmap(range),
        PartBody::Resize { size_blocks } => PendingBody::Resize { size_blocks },
        PartBody::SetEpoch(_, sharing) => PendingBody::SetEpoch(sharing),
        PartBody::Attributes(bytes) => PendingBody::Attributes(bytes),
        _ => unreachable!("it has no effect that waits"),
    };
    let held = (own && !matches!(body, PendingBody::SetEpoch(_))).then_some((part.request, at));
    Pending {
        lsn,
        epoch,
        seq,
        fill,
        held,
        body,
    }
}
