//! A store looked at from outside, offline: what is in it, and whether it is sound (fsck, I10).
//!
//! Pull machine, like recovery, which it contains: the superblock copies, then every page of the chunk map
//! with its references recomputed, then recovery itself, and on request every stored block against its
//! checksum, where a host would read it. Writes nothing; what it reports, recovery would serve.

use super::layout::{Layout, SUPERBLOCKS};
use super::machine::Store;
use super::recovery::{Next, ReadRequest, Recovery, page_reads, split_pages};
use super::superblock::{Superblock, Unusable};
use super::{Config, Location, Lookup, VolumeInfo};
use crate::block::{Block, BlockRange, ChunkIndex, StoreOffset};
use crate::checksum::crc32c;
use crate::id::{StoreId, VolumeId};
use crate::limits::{BLOCK_BYTES, CHECK_FINDINGS_MAX, CHUNK_BLOCKS};
use crate::map::Geometry;
use crate::map::load::{Loader, Step as Load};
use crate::map::page::PageSlot;
use crate::map::space::Usage;
use crate::wal::scan::LogPoint;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Blocks of data read at once: 16 MiB.
const BATCH_BLOCKS: u32 = 4096;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Superblocks, chunk map, log.
    Structure,
    /// Also every block that a host could read.
    Data,
}

/// What the machine wants next.
#[derive(Debug)]
pub enum Step {
    /// Read these; pass one buffer for each in this order, an empty one where a read failed.
    Read(Vec<ReadRequest>),
    /// All was seen.
    Done(Box<Report>),
}

/// One superblock copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyInfo {
    /// The store it belongs to.
    pub store: StoreId,
    /// Counts checkpoints; the valid copy with the higher one serves.
    pub sequence: u64,
    /// Its checkpoint.
    pub checkpoint: LogPoint,
}

/// What is in a store that can be opened.
#[derive(Clone, Debug)]
pub struct Inside {
    /// This incarnation of the store.
    pub id: StoreId,
    /// Where its areas are.
    pub layout: Layout,
    /// Tail of the log: the last checkpoint.
    pub checkpoint: LogPoint,
    /// Head of the log: behind the last frame that counts.
    pub log_end: LogPoint,
    /// Frames between them.
    pub log_frames: u64,
    /// Bytes of log between them.
    pub log_bytes_used: u64,
    /// Bytes of log.
    pub log_bytes: u64,
    /// Everything is in the map; recovery has nothing to replay.
    pub clean: bool,
    /// Chunks and map pages, log included.
    pub usage: Usage,
    /// Removed volumes whose space is still being given back.
    pub volumes_doomed: usize,
    /// Volumes, log included.
    pub volumes: Vec<VolumeInfo>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Size of the device or file.
    pub store_bytes: u64,
    /// The two superblock copies: what they say, or why they are not believed.
    pub copies: Vec<Result<CopyInfo, String>>,
    /// None if it cannot be opened.
    pub inside: Option<Inside>,
    /// Why it cannot be opened.
    pub refused: Option<String>,
    /// Worth knowing, no damage: what an unclean stop leaves behind.
    pub remarks: Vec<String>,
    /// Damage, at most [`CHECK_FINDINGS_MAX`] entries.
    pub findings: Vec<String>,
    /// Damage that is not listed.
    pub findings_more: u64,
    /// Blocks of data whose checksum was compared.
    pub blocks_verified: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Inspection {
    depth: Depth,
    report: Report,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begin,
    Superblocks,
    Map(Layout, Box<Loader>, Vec<PageSlot>),
    Opening(Recovery),
    Data(Box<Walk>),
    Ended,
}

/// Every stored block of every volume.
#[derive(Debug)]
struct Walk {
    store: Box<Store>,
    volumes: Vec<VolumeInfo>,
    /// Position in `volumes`, and in that volume.
    volume: usize,
    next: Block,
    lookup: Lookup,
    asked: Vec<Extent>,
}

/// Neighbouring blocks of a volume that are neighbours on the disk.
#[derive(Debug)]
struct Extent {
    volume: VolumeId,
    first: Block,
    offset: StoreOffset,
    checksums: Vec<u32>,
}

impl Report {
    /// It can be served and nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.refused.is_none() && self.findings.is_empty()
    }

    fn find(&mut self, finding: String) {
        if self.findings.len() < CHECK_FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_more += 1;
        }
    }
}

impl Inspection {
    /// Begins with a device or file of `store_bytes`.
    pub fn new(store_bytes: u64, depth: Depth) -> Inspection {
        Inspection {
            depth,
            report: Report {
                store_bytes,
                ..Report::default()
            },
            stage: Stage::Begin,
        }
    }

    /// Takes what was read and says what is wanted next. The first call has no buffers.
    pub fn step(&mut self, buffers: &[&[u8]]) -> Step {
        match core::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Begin => self.begin(),
            Stage::Superblocks => self.on_superblocks(buffers),
            Stage::Map(layout, loader, slots) => {
                let pages = split_pages(&slots, buffers);
                self.on_pages(layout, loader, &pages)
            }
            Stage::Opening(recovery) => self.on_opening(recovery, buffers),
            Stage::Data(walk) => self.on_data(walk, buffers),
            Stage::Ended => unreachable!("the inspection ended before"),
        }
    }

    fn begin(&mut self) -> Step {
        if self.report.store_bytes < SUPERBLOCKS[1].0 + BLOCK_BYTES as u64 {
            return self.open();
        }
        self.stage = Stage::Superblocks;
        let read = |offset: &StoreOffset| ReadRequest {
            offset: *offset,
            bytes: BLOCK_BYTES,
        };
        Step::Read(SUPERBLOCKS.iter().map(read).collect())
    }

    fn on_superblocks(&mut self, buffers: &[&[u8]]) -> Step {
        let mut serving: Option<Superblock> = None;
        for (copy, bytes) in (0..).zip(buffers) {
            let decoded = Superblock::decode(bytes, copy);
            let info = match &decoded {
                Ok(superblock) => Ok(CopyInfo {
                    store: superblock.store,
                    sequence: superblock.sequence,
                    checkpoint: superblock.checkpoint,
                }),
                Err(unusable) => Err(describe(unusable)),
            };
            if let Err(reason) = &info {
                self.report
                    .find(format!("superblock copy {copy}: {reason}"));
            }
            self.report.copies.push(info);
            if let Ok(superblock) = decoded
                && serving.is_none_or(|other| other.sequence < superblock.sequence)
            {
                serving = Some(superblock);
            }
        }
        let usable = |superblock: &Superblock| {
            let bytes = self.report.store_bytes;
            superblock.layout.validate(bytes).is_ok()
        };
        let Some(superblock) = serving.filter(usable) else {
            return self.open();
        };
        let geometry = Geometry {
            store: superblock.store,
            chunk_count: superblock.layout.chunks,
            page_slot_count: superblock.layout.page_slots,
        };
        let loader = Box::new(Loader::new(geometry, superblock.roots));
        self.on_pages(superblock.layout, loader, &[])
    }

    fn on_pages(&mut self, layout: Layout, mut loader: Box<Loader>, pages: &[&[u8]]) -> Step {
        let findings = match loader.step(pages) {
            Load::Read(slots) => {
                let reads = page_reads(&layout, &slots);
                self.stage = Stage::Map(layout, loader, slots);
                return Step::Read(reads);
            }
            Load::Done(_, findings) | Load::Refused(findings) => findings,
        };
        for finding in findings {
            self.report.find(finding.to_string());
        }
        self.open()
    }

    fn open(&mut self) -> Step {
        let recovery = Recovery::new(Config::default(), self.report.store_bytes);
        self.on_opening(recovery, &[])
    }

    fn on_opening(&mut self, mut recovery: Recovery, buffers: &[&[u8]]) -> Step {
        let mut next = recovery.step(buffers);
        if matches!(next, Next::Sync) {
            next = recovery.step(&[]); // Nothing is served, so nothing has to be durable.
        }
        match next {
            Next::Read(reads) => {
                self.stage = Stage::Opening(recovery);
                Step::Read(reads)
            }
            Next::Sync => unreachable!("recovery syncs once, at its end"),
            Next::Refused(error) => {
                self.report.refused = Some(error.to_string());
                self.done()
            }
            Next::Open(store) => {
                let known = &self.report.findings;
                let remark = |text: &&String| !known.contains(text);
                let remarks = recovery.findings().iter().filter(remark).cloned();
                self.report.remarks = remarks.collect();
                self.on_open(store)
            }
        }
    }

    fn on_open(&mut self, store: Box<Store>) -> Step {
        for finding in store.contents.map.check() {
            self.report.find(finding.to_string());
        }
        let (checkpoint, log_end) = store.log();
        let volumes: Vec<VolumeInfo> = store.volumes().collect();
        self.report.inside = Some(Inside {
            id: store.id(),
            layout: *store.layout(),
            checkpoint,
            log_end,
            log_frames: log_end.seq.0 - checkpoint.seq.0,
            log_bytes_used: log_end.position.0 - checkpoint.position.0,
            log_bytes: store.layout().log_bytes(),
            clean: store.is_clean(),
            usage: store.contents.map.usage(),
            volumes_doomed: store.contents.map.doomed(),
            volumes: volumes.clone(),
        });
        if self.depth == Depth::Structure {
            return self.done();
        }
        self.read_data(Box::new(Walk {
            store,
            volumes,
            volume: 0,
            next: Block(0),
            lookup: Lookup::default(),
            asked: Vec::new(),
        }))
    }

    fn on_data(&mut self, walk: Box<Walk>, buffers: &[&[u8]]) -> Step {
        for (extent, bytes) in walk.asked.iter().zip(buffers) {
            let whole = bytes.len() == extent.checksums.len() * BLOCK_BYTES;
            for (at, checksum) in (0u64..).zip(&extent.checksums) {
                let block = extent.first.plus(at);
                let offset = extent.offset.plus(at * BLOCK_BYTES as u64);
                let begin = usize::try_from(offset.0 - extent.offset.0).expect("in a batch");
                self.report.blocks_verified += 1;
                let reason = if !whole {
                    "cannot be read"
                } else if crc32c(&bytes[begin..begin + BLOCK_BYTES]) != *checksum {
                    "is damaged (checksum)"
                } else {
                    continue;
                };
                let volume = extent.volume;
                self.report
                    .find(format!("volume {volume}: {block} at {offset} {reason}"));
            }
        }
        self.read_data(walk)
    }

    fn read_data(&mut self, mut walk: Box<Walk>) -> Step {
        walk.collect(&mut self.report);
        if walk.asked.is_empty() {
            return self.done();
        }
        let read = |extent: &Extent| ReadRequest {
            offset: extent.offset,
            bytes: extent.checksums.len() * BLOCK_BYTES,
        };
        let reads = walk.asked.iter().map(read).collect();
        self.stage = Stage::Data(walk);
        Step::Read(reads)
    }

    fn done(&mut self) -> Step {
        Step::Done(Box::new(core::mem::take(&mut self.report)))
    }
}

impl Walk {
    /// The next stored blocks, about a batch. Blocks that are known to be lost are reported.
    fn collect(&mut self, report: &mut Report) {
        self.asked.clear();
        let mut left = BATCH_BLOCKS;
        while left > 0 {
            let Some(volume) = self.volumes.get(self.volume).copied() else {
                return;
            };
            let Some(first) = self.next_stored(&volume) else {
                self.volume += 1;
                self.next = Block(0);
                continue;
            };
            self.next = first;
            let ahead = volume.size_blocks - first.0;
            let range = BlockRange {
                first,
                count: u32::try_from(ahead).map_or(left, |ahead| ahead.min(left)),
            };
            self.store
                .lookup(volume.id, range, &mut self.lookup)
                .expect("the range is inside");
            self.ask(volume.id, report);
            self.next = range.end();
            left -= range.count;
        }
    }

    /// The next block at or behind `next` that may be stored.
    fn next_stored(&self, volume: &VolumeInfo) -> Option<Block> {
        let contents = &self.store.contents;
        let end = ChunkIndex(volume.size_blocks.div_ceil(CHUNK_BLOCKS as u64));
        let chunk =
            contents.next_used(contents.volumes.get(&volume.id)?, self.next.chunk(), end)?;
        let first = chunk.first_block().max(self.next);
        (first.0 < volume.size_blocks).then_some(first)
    }

    fn ask(&mut self, volume: VolumeId, report: &mut Report) {
        let mut first = self.next;
        let mut checksums = self.lookup.checksums.iter().copied();
        for extent in &self.lookup.extents {
            let blocks = extent.blocks as usize;
            let checksums: Vec<u32> = checksums.by_ref().take(blocks).collect();
            match extent.location {
                Location::Zero => {}
                Location::Bad => {
                    for at in 0..u64::from(extent.blocks) {
                        let block = first.plus(at);
                        report.find(format!("volume {volume}: {block} is lost"));
                    }
                }
                Location::Stored(offset) => self.asked.push(Extent {
                    volume,
                    first,
                    offset,
                    checksums,
                }),
            }
            first = first.plus(u64::from(extent.blocks));
        }
    }
}

fn describe(unusable: &Unusable) -> String {
    match unusable {
        Unusable::Foreign => "it does not begin like one".to_string(),
        Unusable::Version(version) => format!("its version {version} is not known to this build"),
        Unusable::Damaged(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests;
