//! The machine of one open store: dispatch, queues, failure. See the module head of [`crate::store`].
//!
//! Cost of a 4 KiB write: one table entry, one record in the frame being built, one overlay item; per
//! frame one header allocation, one write and one sync. One frame is in flight; the next forms
//! meanwhile (group commit).

use super::append::Sharing;
use super::checkpoint::Round;
use super::contents::Contents;
use super::flush::Job;
use super::follow::Queue;
use super::layout::Layout;
use super::slab::Slab;
use super::superblock::Superblock;
use super::{
    Config, CopyFailure, CopySource, Data, Effect, Event, IoFailure, IoId, Lookup, PayloadId,
    RequestError, Run, Tag, Usage, VolumeInfo,
};
use crate::block::{Block, BlockRange, ChunkIndex, PhysicalChunk, StoreOffset};
use crate::id::{StoreId, VolumeId};
use crate::limits::STORE_REQUESTS_MAX;
use crate::lsn::{Epoch, FrameSeq, Lsn};
use crate::map::check::Finding;
use crate::wal::frame::Adoption;
use crate::wal::ring::Ring;
use crate::wal::scan::LogPoint;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// An open store.
#[derive(Debug)]
pub struct Store {
    pub(super) config: Config,
    pub(super) superblock: Superblock,
    pub(super) contents: Contents,
    pub(super) ring: Ring,
    /// The last frame that was built.
    pub(super) last_frame: LogPoint,
    /// The last frame that is durable; all its records are in `contents`.
    pub(super) committed: FrameSeq,
    pub(super) opening: Opening,
    pub(super) requests: Slab<Request>,
    /// Writes that wait for chunks or map pages, in order of arrival.
    pub(super) waiting: VecDeque<usize>,
    /// Parts that wait for a frame.
    pub(super) ready: VecDeque<Part>,
    /// Records of shared volumes behind a chunk that is being written.
    pub(super) queues: BTreeMap<VolumeId, Queue>,
    pub(super) frame: Option<FrameInFlight>,
    pub(super) round: Option<Round>,
    /// A round is wanted whatever the log's use is.
    pub(super) round_wanted: bool,
    pub(super) checkpoints: Vec<(FrameSeq, Tag)>,
    pub(super) ios: BTreeMap<IoId, Io>,
    pub(super) next_io: u64,
    pub(super) now: Duration,
    /// When the last record was committed.
    pub(super) last_commit: Duration,
    pub(super) failed: bool,
}

/// What has to happen before the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// This superblock copy is older than the other, or damaged: nothing may be freed before it is
    /// as new.
    Repair(u32),
    /// Its write or sync runs.
    Repairing,
    /// A frame without records takes the place of a torn tail, so that no part of it can become
    /// valid again after its absence was seen.
    Frame,
    /// That frame is on its way.
    FrameWritten,
    /// Requests are served.
    Done,
}

/// A request that is not completed yet.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) tag: Tag,
    pub(super) volume: VolumeId,
    pub(super) range: BlockRange,
    pub(super) payload: Option<PayloadId>,
    pub(super) checksums: Vec<u32>,
    pub(super) parts: u32,
    pub(super) result: Result<(), RequestError>,
    /// It found no space: the last frame then, and the superblock sequence up to which a checkpoint
    /// may still help.
    pub(super) short_since: Option<(FrameSeq, u64)>,
    /// A record of another store's primary, until it is admitted.
    pub(super) follows: Option<Box<(Origin, PartBody)>>,
}

/// One record to be.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) request: usize,
    pub(super) volume: VolumeId,
    /// First block of its payload in the frame.
    pub(super) payload_block: usize,
    pub(super) origin: Origin,
    pub(super) body: PartBody,
}

/// Who numbers it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// This store, when it joins a frame.
    Own,
    /// The primary, whose reign sends it.
    Append {
        reign: Epoch,
        epoch: Epoch,
        lsn: Lsn,
    },
    /// Resync data of that reign, without a number.
    Fill { reign: Epoch, cursor: Block },
}

/// How a copy comes to follow a reign, and from which position on.
#[derive(Clone, Debug)]
pub(super) struct Adopting {
    pub(super) epoch: Epoch,
    pub(super) cut: Lsn,
    pub(super) rest: Adoption,
}

/// What it will say.
#[derive(Clone, Debug)]
pub(super) enum PartBody {
    /// Blocks of one chunk; the payload starts at block `at` of the request's.
    Logged {
        first: Block,
        count: usize,
        at: usize,
    },
    /// A chunk already written.
    Direct {
        chunk: ChunkIndex,
        physical: PhysicalChunk,
        at: usize,
    },
    Unmap(BlockRange),
    Create {
        size_blocks: u64,
        epoch: Epoch,
        sharing: Sharing,
    },
    Resize {
        size_blocks: u64,
    },
    SetEpoch(Epoch, Sharing),
    Remove,
    Attributes(Vec<u8>),
    Promise(Epoch),
    Adopt(Box<Adopting>),
    /// Of the resync in this reign.
    EndResync(Epoch),
}

/// The frame that is being made durable.
#[derive(Debug)]
pub(super) struct FrameInFlight {
    pub(super) end: LogPoint,
    /// Where its payload begins.
    pub(super) payload: StoreOffset,
    /// Its records, without creations.
    pub(super) parts: Vec<Entered>,
    /// Creations: their volumes have no LSNs yet.
    pub(super) creates: Vec<Part>,
    /// Commit points that it tells.
    pub(super) notes: Vec<(VolumeId, Lsn)>,
}

/// A record of that frame.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) lsn: Lsn,
    pub(super) epoch: Epoch,
    /// Whether it waits for its commit once it is durable.
    pub(super) shared: bool,
    pub(super) part: Part,
}

impl Entered {
    /// Whether its frame names a chunk that was written but not synced.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.part.body, PartBody::Direct { .. })
    }
}

/// What an answer means.
#[derive(Debug)]
pub(super) enum Io {
    Repair,
    RepairSync,
    /// A frame that needs nothing durable but itself.
    DurableFrame,
    /// A frame that names chunks which were written: one sync is for both.
    Frame,
    FrameSync,
    /// Parts whose chunks were written.
    Direct(Vec<Part>),
    /// The chunk of this request's record, which waits in the volume's queue.
    Queued(VolumeId, usize),
    Copy {
        job: usize,
        first: usize,
        sources: Vec<CopySource>,
    },
    Page,
    /// The round's present write or sync.
    Round,
}

impl Store {
    /// An opened store; recovery calls this.
    pub(super) fn assemble(
        config: Config,
        superblock: Superblock,
        contents: Contents,
        end: LogPoint,
        repair: Option<u32>,
    ) -> Store {
        let layout = &superblock.layout;
        let checkpoint = superblock.checkpoint.position;
        let mut ring = Ring::new(
            layout.log_start(),
            layout.segment_bytes,
            layout.segments,
            checkpoint,
        );
        ring.advance(checkpoint, end.position.0 - checkpoint.0);
        Store {
            config,
            superblock,
            contents,
            ring,
            last_frame: end,
            committed: end.seq,
            opening: repair.map_or(Opening::Frame, Opening::Repair),
            requests: Slab::new(),
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            queues: BTreeMap::new(),
            frame: None,
            round: None,
            round_wanted: false,
            checkpoints: Vec::new(),
            ios: BTreeMap::new(),
            next_io: 0,
            now: Duration::ZERO,
            last_commit: Duration::ZERO,
            failed: false,
        }
    }

    /// Decides what follows from `event`. `now` is monotonic, from any start.
    pub fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        self.step_all(now, [event], effects);
    }

    /// Decides what follows from several events that came together: their records join one frame.
    pub fn step_all(
        &mut self,
        now: Duration,
        events: impl IntoIterator<Item = Event>,
        effects: &mut Vec<Effect>,
    ) {
        self.now = self.now.max(now);
        for event in events {
            self.on_event(event, effects);
        }
        if !self.failed {
            self.open_further(effects);
            self.admit_waiting(effects);
            self.seal_frame(effects);
            self.begin_round(effects);
        }
        self.check();
    }

    fn on_event(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::WriteDone { io, result } => self.on_io_done(io, result, effects),
            Event::SyncDone { io, result } => self.on_io_done(io, result, effects),
            Event::CopyDone { io, result } => self.on_copy_done(io, result, effects),
            Event::Tick => {}
            request if self.failed => refuse_failed(request, effects),
            request => self.on_request(request, effects),
        }
    }

    /// Where the committed blocks of `range` are now. Hot path.
    pub fn lookup(
        &self,
        volume: VolumeId,
        range: BlockRange,
        lookup: &mut Lookup,
    ) -> Result<(), RequestError> {
        if self.failed {
            return Err(RequestError::StoreFailed);
        }
        self.contents.lookup(self.layout(), volume, range, lookup)
    }

    /// Runs of equal provisioning from the start of `range`, at most `runs_max`.
    pub fn provisioning(
        &self,
        volume: VolumeId,
        range: BlockRange,
        runs_max: usize,
    ) -> Result<Vec<Run>, RequestError> {
        if self.failed {
            return Err(RequestError::StoreFailed);
        }
        self.contents.provisioning(volume, range, runs_max)
    }

    /// The attributes blob of a volume; empty when none was set, `None` when there is no such volume
    /// or its blob is lost ([`VolumeInfo::attributes_lost`]).
    pub fn attributes(&self, volume: VolumeId) -> Option<&[u8]> {
        self.contents
            .volumes
            .get(&volume)
            .and_then(|volume| volume.attributes.as_deref())
    }

    /// One volume.
    pub fn volume(&self, volume: VolumeId) -> Option<VolumeInfo> {
        self.contents.info(volume)
    }

    /// All volumes, by identity.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeInfo> + '_ {
        self.contents
            .volumes
            .keys()
            .filter_map(|id| self.contents.info(*id))
    }

    /// How full the store is.
    pub fn usage(&self) -> Usage {
        let map = self.contents.map.usage();
        Usage {
            chunks: u64::from(self.layout().chunks),
            chunks_free: u64::from(map.chunks_free.saturating_sub(map.chunks_reserved)),
            chunks_pending: u64::from(map.chunks_pending),
            pages: u64::from(map.pages_total),
            pages_used: u64::from(map.pages_used),
            log_bytes: self.ring.bytes(),
            log_bytes_used: self.ring.used(),
            requests: self.requests.len(),
            failed: self.failed,
        }
    }

    /// The identity of this incarnation.
    pub fn id(&self) -> StoreId {
        self.superblock.store
    }

    /// Where the areas are.
    pub fn layout(&self) -> &Layout {
        &self.superblock.layout
    }

    /// The last durable checkpoint, and where the log ends.
    pub fn log(&self) -> (LogPoint, LogPoint) {
        let mut end = self.last_frame;
        end.position = self.ring.head();
        (self.superblock.checkpoint, end)
    }

    /// Whether everything committed is in the map and under a durable checkpoint.
    pub fn is_clean(&self) -> bool {
        self.superblock.checkpoint.seq == self.committed && self.round.is_none()
    }

    /// Checks the chunk map in memory against itself (I10). O(map): for an offline check and tests.
    pub fn check_map(&self) -> Vec<Finding> {
        self.contents.map.check()
    }

    fn on_io_done(&mut self, io: IoId, result: Result<(), IoFailure>, effects: &mut Vec<Effect>) {
        if self.failed {
            return;
        }
        let io = self.ios.remove(&io).expect("answers match effects");
        if let Err(failure) = result {
            self.fail(format!("{}: {failure}", io.name()), effects);
            return;
        }
        match io {
            Io::Repair => self.sync(Io::RepairSync, effects),
            Io::RepairSync => self.opening = Opening::Frame,
            Io::DurableFrame | Io::FrameSync => self.on_frame_durable(effects),
            Io::Frame => self.sync(Io::FrameSync, effects),
            Io::Direct(parts) => self.ready.extend(parts),
            Io::Queued(volume, request) => self.on_queued_written(volume, request),
            Io::Page => self.on_page_written(effects),
            Io::Round => self.on_round_progress(effects),
            Io::Copy { .. } => unreachable!("copies answer with CopyDone"),
        }
    }

    fn on_copy_done(
        &mut self,
        io: IoId,
        result: Result<(), CopyFailure>,
        effects: &mut Vec<Effect>,
    ) {
        if self.failed {
            return;
        }
        let Some(Io::Copy {
            job,
            first,
            sources,
        }) = self.ios.remove(&io)
        else {
            unreachable!("copies answer with CopyDone");
        };
        match result {
            Ok(()) => self.on_copied(job, effects),
            Err(CopyFailure::Source(bad)) => self.on_lost(job, first, &sources, bad, effects),
            Err(CopyFailure::Write(failure)) => {
                self.fail(format!("writing a chunk: {failure}"), effects);
            }
        }
    }

    fn open_further(&mut self, effects: &mut Vec<Effect>) {
        if let Opening::Repair(copy) = self.opening {
            self.opening = Opening::Repairing;
            let bytes = self.superblock.encode(copy);
            let offset = super::layout::SUPERBLOCKS[copy as usize];
            self.write(Io::Repair, offset, Data::Bytes(bytes), effects);
        }
    }

    /// Asks for a write.
    pub(super) fn write(
        &mut self,
        io: Io,
        offset: StoreOffset,
        data: Data,
        effects: &mut Vec<Effect>,
    ) {
        let durable = matches!(io, Io::DurableFrame);
        let io = self.expect(io);
        effects.push(Effect::Write {
            io,
            offset,
            data,
            durable,
        });
    }

    /// Asks for a sync, or goes on at once when writes are durable by themselves.
    pub(super) fn sync(&mut self, io: Io, effects: &mut Vec<Effect>) {
        let io = self.expect(io);
        if self.config.write_through {
            self.on_io_done(io, Ok(()), effects);
        } else {
            effects.push(Effect::Sync { io });
        }
    }

    /// A name for an effect whose answer means `io`.
    pub(super) fn expect(&mut self, io: Io) -> IoId {
        let id = IoId(self.next_io);
        self.next_io += 1;
        self.ios.insert(id, io);
        id
    }

    /// One part of a request ended.
    pub(super) fn finish_part(
        &mut self,
        key: usize,
        result: Result<(), RequestError>,
        effects: &mut Vec<Effect>,
    ) {
        let request = self.requests.get_mut(key);
        request.parts -= 1;
        if result.is_err() {
            request.result = result;
        }
        if request.parts == 0 {
            let request = self.requests.remove(key);
            complete(&request, request.result, effects);
        }
    }

    /// The store is dead: everything that waits ends, nothing begins.
    pub(super) fn fail(&mut self, reason: String, effects: &mut Vec<Effect>) {
        assert!(!self.failed);
        self.failed = true;
        for request in self.requests.drain() {
            complete(&request, Err(RequestError::StoreFailed), effects);
        }
        for (_, tag) in self.checkpoints.drain(..) {
            let result = Err(RequestError::StoreFailed);
            effects.push(Effect::Complete { tag, result });
        }
        self.waiting.clear();
        self.ready.clear();
        self.queues.clear();
        self.ios.clear();
        self.frame = None;
        self.round = None;
        effects.push(Effect::Failed { reason });
    }

    /// What must hold after every step; O(1).
    fn check(&self) {
        debug_assert!(!self.failed || self.requests.len() == 0);
        if self.failed {
            return;
        }
        debug_assert!(self.ring.used() <= self.ring.bytes());
        debug_assert!(self.committed <= self.last_frame.seq);
        debug_assert!(self.superblock.checkpoint.seq <= self.committed);
        debug_assert!(self.last_frame.seq.0 - self.committed.0 == u64::from(self.frame.is_some()));
        debug_assert!(self.requests.len() <= STORE_REQUESTS_MAX);
        debug_assert_eq!(self.superblock.checkpoint.position, self.ring.tail());
    }

    /// Chunks and map pages reserved for what was admitted: for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn reserved(&self) -> (u32, u32) {
        let usage = self.contents.map.usage();
        (usage.chunks_reserved, usage.pages_reserved)
    }

    /// As `check`, and every promise of the overlay: for tests, O(overlay).
    #[cfg(any(test, feature = "testing"))]
    pub fn check_deep(&self) {
        self.check();
        if !self.failed {
            self.contents.check_deep();
        }
    }

    /// The round's job in this place, for the flusher's handlers.
    pub(super) fn job(&mut self, key: usize) -> &mut Job {
        let round = self.round.as_mut().expect("copies run only in a round");
        round.jobs.get_mut(key)
    }
}

impl Request {
    /// One without payload, that becomes one record.
    pub(super) fn of_one_record(tag: Tag, volume: VolumeId) -> Request {
        Request {
            tag,
            volume,
            range: BlockRange {
                first: Block(0),
                count: 0,
            },
            payload: None,
            checksums: Vec::new(),
            parts: 1,
            result: Ok(()),
            short_since: None,
            follows: None,
        }
    }
}

impl PartBody {
    /// Whether it changes the volume when it is committed.
    pub(super) fn has_effect(&self) -> bool {
        !matches!(
            self,
            PartBody::Remove | PartBody::Promise(_) | PartBody::Adopt(_) | PartBody::EndResync(_)
        )
    }

    /// Where in the request's payload its data begins.
    pub(super) fn payload_at(&self) -> usize {
        match self {
            PartBody::Logged { at, .. } | PartBody::Direct { at, .. } => *at,
            _ => 0,
        }
    }
}

impl Io {
    fn name(&self) -> &'static str {
        match self {
            Io::Repair | Io::RepairSync => "repairing a superblock",
            Io::DurableFrame | Io::Frame | Io::FrameSync => "writing the log",
            Io::Direct(_) | Io::Queued(..) | Io::Copy { .. } => "writing a chunk",
            Io::Page => "writing the chunk map",
            Io::Round => "writing a checkpoint",
        }
    }
}

/// Tells the end of a request; its payload is not needed any more.
pub(super) fn complete(
    request: &Request,
    result: Result<(), RequestError>,
    effects: &mut Vec<Effect>,
) {
    if let Some(payload) = request.payload {
        effects.push(Effect::Release { payload });
    }
    let tag = request.tag;
    effects.push(Effect::Complete { tag, result });
}

/// Any request after the failure.
fn refuse_failed(event: Event, effects: &mut Vec<Effect>) {
    let tag = match event {
        Event::Write { tag, payload, .. } => {
            effects.push(Effect::Release { payload });
            tag
        }
        Event::Append { tag, payload, .. } | Event::Fill { tag, payload, .. } => {
            effects.extend(payload.map(|payload| Effect::Release { payload }));
            tag
        }
        Event::Unmap { tag, .. }
        | Event::SetAttributes { tag, .. }
        | Event::CreateVolume { tag, .. }
        | Event::ResizeVolume { tag, .. }
        | Event::BeginEpoch { tag, .. }
        | Event::Promise { tag, .. }
        | Event::Adopt { tag, .. }
        | Event::EndResync { tag, .. }
        | Event::RemoveVolume { tag, .. }
        | Event::Checkpoint { tag } => tag,
        Event::WriteDone { .. }
        | Event::CopyDone { .. }
        | Event::SyncDone { .. }
        | Event::Commit { .. }
        | Event::Tick => {
            return;
        }
    };
    let result = Err(RequestError::StoreFailed);
    effects.push(Effect::Complete { tag, result });
}

#[cfg(test)]
mod tests;
