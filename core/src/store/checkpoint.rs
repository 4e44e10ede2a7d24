//! Flush round and checkpoint: the map catches up with the log, and the log behind it is released.
//!
//! A round fixes a frame S. It flushes what is committed up to S ([`super::flush`]), writes the
//! changed map pages to fresh slots, syncs, writes one superblock copy, syncs, writes the other, syncs:
//! then the log up to S, the old pages and the chunks freed up to S are free. One round at a time. The
//! copies and pages of a round are bounded by `Config`, so hosts are not starved.

use super::flush::Job;
use super::layout::SUPERBLOCKS;
use super::machine::{Io, Opening, Store};
use super::slab::Slab;
use super::superblock::Superblock;
use super::{Config, CopySource, Data, Effect};
use crate::block::{ChunkIndex, StoreOffset};
use crate::id::VolumeId;
use crate::limits::BLOCK_BYTES;
use crate::map::volumes::Reaped;
use crate::wal::ring::Position;
use crate::wal::scan::LogPoint;
use alloc::vec::Vec;

/// Map pages written at the same time at most.
const PAGES_IN_FLIGHT_MAX: usize = 256;

/// Chunks copied at the same time when the log has just become full enough for a round.
const GENTLE_COPIES: usize = 2;

/// Map nodes of removed volumes taken apart in one round at most.
const REAPED_NODES_MAX: usize = 4096;

/// The running round.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) jobs: Slab<Job>,
    /// The checkpoint to be.
    end: LogPoint,
    /// The last chunk that was looked at.
    cursor: Option<(VolumeId, ChunkIndex)>,
    walked: bool,
    pages: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Copies,
    Pages,
    PagesSync,
    /// Writing a superblock copy.
    Copy(u32),
    CopySync(u32),
}

impl Store {
    /// Starts a round when one is due.
    pub(super) fn begin_round(&mut self, effects: &mut Vec<Effect>) {
        let repairing = matches!(self.opening, Opening::Repair(_) | Opening::Repairing);
        if self.failed || self.round.is_some() || repairing {
            return;
        }
        if !self.round_is_due() {
            self.end_blocked_checkpoints(effects);
            return;
        }
        self.round_wanted = false;
        let within = Position(self.ring.tail().0 + self.config.round_bytes_max);
        let end = self.contents.frames.end_within(within);
        let end = end.unwrap_or(self.superblock.checkpoint);
        self.apply_volumes(end);
        self.round = Some(Round {
            jobs: Slab::new(),
            end,
            cursor: None,
            walked: false,
            pages: 0,
            stage: Stage::Copies,
        });
        self.flush_further(effects);
    }

    fn round_is_due(&self) -> bool {
        if self.contents.frames.is_blocked() {
            // What is pending holds the log; only removed volumes can still be taken apart.
            return self.round_wanted && self.contents.map.doomed() > 0;
        }
        self.wants_round()
    }

    /// Whether a round is due, as far as it can begin.
    pub(super) fn wants_round(&self) -> bool {
        if self.round_wanted {
            return true;
        }
        if self.committed == self.superblock.checkpoint.seq {
            return false;
        }
        let soft = self.ring.bytes() * self.config.flush_percent / 100;
        self.ring.used() >= soft
            || self
                .checkpoints
                .iter()
                .any(|(through, _)| *through <= self.committed)
            || self.now.saturating_sub(self.last_commit) >= self.config.idle
    }

    /// Brings the volume table up to the round's frame. Sizes, epochs, promises and attributes may be
    /// newer: their records are durable and say the same again when they are replayed.
    fn apply_volumes(&mut self, end: LogPoint) {
        let contents = &mut self.contents;
        let map = &mut contents.map;
        let removed = core::mem::take(&mut contents.removed);
        for mut volume in removed {
            if volume.seq <= end.seq {
                map.remove_volume(volume.slot);
                continue;
            }
            let record = volume.place.record(volume.id, volume.size_blocks, end.seq);
            map.set_volume(volume.slot, record);
            contents.removed.push(volume);
        }
        for (id, volume) in &mut contents.volumes {
            let record = volume.place.record(*id, volume.size_blocks, end.seq);
            let slot = match volume.slot {
                Some(slot) => slot,
                None if volume.created > end.seq => continue,
                None => map
                    .create_volume(record)
                    .expect("admission left room in the table"),
            };
            volume.slot = Some(slot);
            map.set_volume(slot, record);
            map.unreserve_pages(volume.attribute_pages_reserved());
            let dirty = core::mem::take(&mut volume.attributes_dirty);
            if let Some(attributes) = volume.attributes.as_deref().filter(|_| dirty) {
                map.set_attributes(slot, attributes);
            }
        }
    }

    /// How many chunks are copied at the same time: few while hosts write and the log has room, for the
    /// flush of a frame waits for whatever else the device does; all when the log runs full, when someone
    /// waits for the checkpoint, and when hosts are quiet.
    fn copies_in_flight_max(&self) -> usize {
        let quiet = self.now.saturating_sub(self.last_commit) >= self.config.idle;
        if quiet || !self.checkpoints.is_empty() {
            return self.config.copies_in_flight_max;
        }
        copies_at(self.ring.used() * 100 / self.ring.bytes(), &self.config)
    }

    /// Keeps copies running; when all are done, goes on to the pages.
    fn flush_further(&mut self, effects: &mut Vec<Effect>) {
        let layout = self.superblock.layout;
        let jobs_max = self.copies_in_flight_max();
        loop {
            let round = self.round.as_mut().expect("a round runs");
            if round.stage != Stage::Copies || round.jobs.len() >= jobs_max {
                return;
            }
            if round.walked {
                break;
            }
            let Some((volume, chunk)) = self.contents.next_overlay(round.cursor) else {
                round.walked = true;
                continue;
            };
            round.cursor = Some((volume, chunk));
            let through = round.end.seq;
            let Some((job, runs)) = self.contents.flush_chunk(volume, chunk, through, &layout)
            else {
                continue;
            };
            let start = layout.chunk(job.target);
            let key = round.jobs.insert(job);
            for run in runs {
                self.copy(key, run.first, start, run.sources, effects);
            }
        }
        let round = self.round.as_mut().expect("a round runs");
        if round.jobs.len() > 0 {
            return;
        }
        let through = round.end.seq;
        round.stage = Stage::Pages;
        if self.contents.map.reap(through, REAPED_NODES_MAX) == Reaped::More {
            self.round_wanted = true;
        }
        self.contents.map.begin_encode(through);
        self.write_pages(effects);
    }

    fn copy(
        &mut self,
        job: usize,
        first: usize,
        chunk: StoreOffset,
        sources: Vec<CopySource>,
        effects: &mut Vec<Effect>,
    ) {
        let to = chunk.plus((first * BLOCK_BYTES) as u64);
        let io = self.expect(Io::Copy {
            job,
            first,
            sources: sources.clone(),
        });
        effects.push(Effect::Copy { io, sources, to });
    }

    /// A copy of a job is done.
    pub(super) fn on_copied(&mut self, key: usize, effects: &mut Vec<Effect>) {
        let job = self.job(key);
        job.copies -= 1;
        if job.copies > 0 {
            return;
        }
        let round = self.round.as_mut().expect("a round runs");
        let through = round.end.seq;
        let job = round.jobs.remove(key);
        self.contents.flushed(&job, through);
        self.flush_further(effects);
    }

    /// A source of a copy is damaged: the block is lost, the others are copied again.
    pub(super) fn on_lost(
        &mut self,
        key: usize,
        first: usize,
        sources: &[CopySource],
        bad: usize,
        effects: &mut Vec<Effect>,
    ) {
        let layout = self.superblock.layout;
        let job = self.job(key);
        job.lose(first + bad);
        let start = layout.chunk(job.target);
        let volume = job.volume;
        let block = job.chunk.first_block().plus((first + bad) as u64);
        effects.push(Effect::Lost { volume, block });
        let (before, behind) = (&sources[..bad], &sources[bad + 1..]);
        for (first, rest) in [(first, before), (first + bad + 1, behind)] {
            if !rest.is_empty() {
                self.job(key).copies += 1;
                self.copy(key, first, start, rest.to_vec(), effects);
            }
        }
        self.on_copied(key, effects);
    }

    fn write_pages(&mut self, effects: &mut Vec<Effect>) {
        let layout = self.superblock.layout;
        let runs = self.contents.map.encode_some(PAGES_IN_FLIGHT_MAX);
        let round = self.round.as_mut().expect("a round runs");
        round.pages = runs.len();
        if runs.is_empty() {
            round.stage = Stage::PagesSync;
            self.sync(Io::Round, effects);
            return;
        }
        for run in runs {
            let offset = layout.page(run.first.0);
            self.write(Io::Page, offset, Data::Bytes(run.bytes), effects);
        }
    }

    pub(super) fn on_page_written(&mut self, effects: &mut Vec<Effect>) {
        let round = self.round.as_mut().expect("a round runs");
        round.pages -= 1;
        if round.pages == 0 {
            self.write_pages(effects);
        }
    }

    /// The round's write or sync is done: what comes next.
    pub(super) fn on_round_progress(&mut self, effects: &mut Vec<Effect>) {
        let round = self.round.as_mut().expect("a round runs");
        match round.stage {
            Stage::Copies | Stage::Pages => unreachable!("they have answers of their own"),
            Stage::PagesSync => self.write_superblock(0, effects),
            Stage::Copy(copy) => {
                round.stage = Stage::CopySync(copy);
                self.sync(Io::Round, effects);
            }
            Stage::CopySync(0) => self.write_superblock(1, effects),
            Stage::CopySync(_) => self.end_round(effects),
        }
    }

    fn write_superblock(&mut self, copy: u32, effects: &mut Vec<Effect>) {
        let next = self.next_superblock();
        let round = self.round.as_mut().expect("a round runs");
        round.stage = Stage::Copy(copy);
        let data = Data::Bytes(next.encode(copy));
        self.write(Io::Round, SUPERBLOCKS[copy as usize], data, effects);
    }

    fn next_superblock(&self) -> Superblock {
        let round = self.round.as_ref().expect("a round runs");
        Superblock {
            sequence: self.superblock.sequence + 1,
            checkpoint: round.end,
            roots: self.contents.map.roots(),
            ..self.superblock
        }
    }

    /// Everything that can be flushed is, when the next frame has pending records.
    fn end_blocked_checkpoints(&mut self, effects: &mut Vec<Effect>) {
        let notes = !self.contents.unnoted.is_empty() || self.frame.is_some();
        if self.checkpoints.is_empty() || notes || !self.contents.frames.is_blocked() {
            return;
        }
        let durable = self.committed;
        let ended = self
            .checkpoints
            .extract_if(.., |(wanted, _)| *wanted <= durable);
        for (_, tag) in ended {
            let result = Ok(());
            effects.push(Effect::Complete { tag, result });
        }
    }

    /// Both copies are durable: what only the older checkpoint needed is free.
    fn end_round(&mut self, effects: &mut Vec<Effect>) {
        self.superblock = self.next_superblock();
        let round = self.round.take().expect("a round runs");
        let through = round.end.seq;
        self.ring.release(round.end.position);
        self.contents.frames.release(through);
        self.contents.map.checkpoint_durable(through);
        self.contents.settle_owed();
        self.checkpoints.retain(|(wanted, tag)| {
            let covered = *wanted <= through;
            if covered {
                let result = Ok(());
                effects.push(Effect::Complete { tag: *tag, result });
            }
            !covered
        });
    }
}

/// Chunks that may be copied at the same time when so much of the log is used, in percent: from
/// [`GENTLE_COPIES`] where rounds begin to all where hosts would have to wait.
pub(super) fn copies_at(percent: u64, config: &Config) -> usize {
    let (soft, most) = (config.flush_percent, config.copies_in_flight_max);
    let hard = config.hard_percent.max(soft + 1);
    let above = percent.clamp(soft, hard) - soft;
    let more = most.saturating_sub(GENTLE_COPIES) as u64 * above / (hard - soft);
    most.min(GENTLE_COPIES + usize::try_from(more).expect("at most `most`"))
}
