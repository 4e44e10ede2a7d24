//! From the bytes of a store to an open one. Never writes.
//!
//! Superblocks, map pages, the log as far as it may reach (once, in large reads), the chunks that the last frame maps,
//! a sync: what is served is durable. The last frame counts as torn when a chunk that it maps did not
//! become durable with it; frames before it need no such proof, their sync came first.

use super::Config;
use super::contents::Contents;
use super::layout::{Layout, SUPERBLOCKS};
use super::machine::Store;
use super::replay::Unproven;
use super::superblock::{Superblock, Unusable};
use crate::block::StoreOffset;
use crate::checksum::crc32c;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use crate::map::load::{Loader, Step};
use crate::map::page::PageSlot;
use crate::map::{Geometry, Map};
use crate::wal::frame::Frame;
use crate::wal::ring::Position;
use crate::wal::scan::{LogPoint, Scanner};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of one batch of log reads.
const BATCH_BYTES: u64 = 16 << 20;

/// What recovery wants next.
#[derive(Debug)]
pub enum Next {
    /// Read these; call [`Recovery::step`] with one buffer for each, in this order.
    Read(Vec<ReadRequest>),
    /// Make what was read durable (it may be in the volatile cache of a disk whose host only
    /// restarted the process); then call [`Recovery::step`] with no buffer.
    Sync,
    /// The store serves. Its first [`super::Event`] starts it; send [`super::Event::Tick`] at once.
    Open(Box<Store>),
    /// The store cannot be served; it was not changed.
    Refused(OpenError),
}

/// One read, whole blocks. Up to 4 MiB each and 16 MiB in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Where.
    pub offset: StoreOffset,
    /// Length.
    pub bytes: usize,
}

/// Why a store cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Neither superblock begins like one.
    #[error("not a Holdfast store: no superblock found")]
    NotFormatted,
    /// Both copies are there and damaged.
    #[error("both superblocks are damaged: {0}")]
    Superblocks(String),
    /// Made by a later build.
    #[error("store format version {0} is not known to this build")]
    Version(u32),
    /// The device is smaller than the store.
    #[error("the device has {device} bytes, the store needs {store}")]
    Truncated {
        /// Bytes of the device.
        device: u64,
        /// Bytes of the store.
        store: u64,
    },
    /// A map page is damaged.
    #[error("the chunk map is damaged: {0}")]
    Map(String),
    /// A log frame in front of valid later ones is damaged: acknowledged writes are lost.
    #[error("the write-ahead log is damaged: {0}")]
    Log(String),
}

/// Reads a store and decides what is in it.
#[derive(Debug)]
pub struct Recovery {
    config: Config,
    store_bytes: u64,
    stage: Stage,
    findings: Vec<String>,
}

#[derive(Debug)]
enum Stage {
    Begin,
    Superblocks,
    Map {
        root: Root,
        loader: Box<Loader>,
        slots: Vec<PageSlot>,
    },
    Log(Box<Replay>, Scanner),
    Proof(Box<Replay>, Frame, Vec<Unproven>),
    Sync(Box<Replay>),
    Ended,
}

/// The superblock that serves, and the copy that does not.
#[derive(Clone, Copy, Debug)]
struct Root {
    superblock: Superblock,
    repair: Option<u32>,
}

/// What was found in the log so far.
#[derive(Debug)]
struct Replay {
    root: Root,
    contents: Contents,
    /// Behind the last frame that counts.
    end: LogPoint,
    /// Not applied yet: it may turn out to be torn.
    last: Option<Frame>,
}

impl Recovery {
    /// Begins with a device or file of `store_bytes`.
    pub fn new(config: Config, store_bytes: u64) -> Self {
        Recovery {
            config,
            store_bytes,
            stage: Stage::Begin,
            findings: Vec::new(),
        }
    }

    /// Damage that does not stop the store from serving; to be logged. Complete at [`Next::Open`].
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    /// Takes what was read and says what is wanted next. The first call has no buffers; a read that
    /// failed is answered with an empty one.
    pub fn step(&mut self, buffers: &[&[u8]]) -> Next {
        let stage = core::mem::replace(&mut self.stage, Stage::Ended);
        let next = match stage {
            Stage::Begin => Ok(self.read_superblocks()),
            Stage::Superblocks => self.on_superblocks(buffers),
            Stage::Map {
                root,
                loader,
                slots,
            } => self.on_pages(root, loader, &slots, buffers),
            Stage::Log(replay, scanner) => self.on_segments(replay, scanner, buffers),
            Stage::Proof(replay, frame, unproven) => {
                self.on_proof(replay, frame, &unproven, buffers)
            }
            Stage::Sync(replay) => self.open(*replay),
            Stage::Ended => unreachable!("recovery ended before"),
        };
        next.unwrap_or_else(Next::Refused)
    }

    fn read_superblocks(&mut self) -> Next {
        if self.store_bytes < SUPERBLOCKS[1].0 + BLOCK_BYTES as u64 {
            return Next::Refused(OpenError::NotFormatted);
        }
        self.stage = Stage::Superblocks;
        let read = |offset: &StoreOffset| ReadRequest {
            offset: *offset,
            bytes: BLOCK_BYTES,
        };
        Next::Read(SUPERBLOCKS.iter().map(read).collect())
    }

    fn on_superblocks(&mut self, buffers: &[&[u8]]) -> Result<Next, OpenError> {
        let root = choose(
            Superblock::decode(buffers[0], 0),
            Superblock::decode(buffers[1], 1),
        )?;
        let layout = root.superblock.layout;
        if layout.end() > self.store_bytes {
            return Err(OpenError::Truncated {
                device: self.store_bytes,
                store: layout.end(),
            });
        }
        if let Err(error) = layout.validate(self.store_bytes) {
            return Err(OpenError::Superblocks(error.to_string()));
        }
        if let Some(copy) = root.repair {
            self.findings.push(format!(
                "superblock copy {copy} is damaged or old; the other serves"
            ));
        }
        let geometry = Geometry {
            store: root.superblock.store,
            chunk_count: layout.chunks,
            page_slot_count: layout.page_slots,
        };
        let loader = Box::new(Loader::new(geometry, root.superblock.roots));
        self.on_pages(root, loader, &[], &[])
    }

    fn on_pages(
        &mut self,
        root: Root,
        mut loader: Box<Loader>,
        slots: &[PageSlot],
        buffers: &[&[u8]],
    ) -> Result<Next, OpenError> {
        let pages = split_pages(slots, buffers);
        match loader.step(&pages) {
            Step::Read(slots) => {
                let reads = page_reads(&root.superblock.layout, &slots);
                self.stage = Stage::Map {
                    root,
                    loader,
                    slots,
                };
                Ok(Next::Read(reads))
            }
            Step::Refused(findings) => {
                let first = findings.first().map(ToString::to_string);
                Err(OpenError::Map(first.unwrap_or_default()))
            }
            Step::Done(map, findings) => {
                self.findings
                    .extend(findings.iter().map(ToString::to_string));
                Ok(self.begin_log(root, map))
            }
        }
    }

    fn begin_log(&mut self, root: Root, map: Box<Map>) -> Next {
        let superblock = root.superblock;
        let layout = superblock.layout;
        let scanner = Scanner::new(
            superblock.store,
            layout.segment_bytes,
            layout.segments,
            superblock.checkpoint,
        );
        let replay = Box::new(Replay {
            root,
            contents: Contents::new(map),
            end: superblock.checkpoint,
            last: None,
        });
        self.read_log(replay, scanner)
    }

    fn read_log(&mut self, replay: Box<Replay>, scanner: Scanner) -> Next {
        let reads = log_reads(&replay.root.superblock.layout, &scanner, 0);
        self.stage = Stage::Log(replay, scanner);
        Next::Read(reads)
    }

    /// What will probably be wanted next, once what [`Next::Read`] asked for was passed: it may be read at
    /// the same time, so that the disk works while records are checked. Nothing depends on it.
    pub fn ahead(&self) -> Vec<ReadRequest> {
        match &self.stage {
            Stage::Log(replay, scanner) => log_reads(&replay.root.superblock.layout, scanner, 1),
            _ => Vec::new(),
        }
    }

    fn on_segments(
        &mut self,
        mut replay: Box<Replay>,
        mut scanner: Scanner,
        buffers: &[&[u8]],
    ) -> Result<Next, OpenError> {
        let segment_bytes = replay.root.superblock.layout.segment_bytes as usize;
        let mut ended = false;
        for bytes in buffers {
            if ended {
                break; // The rest was read in vain.
            }
            if bytes.len() != segment_bytes {
                return Err(OpenError::Log("a part of it cannot be read".to_string()));
            }
            let mut frames = Vec::new();
            scanner.segment(bytes, &mut frames);
            ended = scanner.next_segments().next().is_none();
            for frame in frames {
                if let Some(before) = replay.last.replace(frame) {
                    replay.apply(&before)?;
                }
            }
        }
        if !ended {
            return Ok(self.read_log(replay, scanner));
        }
        let end = scanner
            .finish()
            .map_err(|damage| OpenError::Log(damage.to_string()))?;
        let Some(last) = replay.last.take() else {
            replay.end = end;
            return Ok(self.sync(replay));
        };
        let unproven = replay.contents.unproven(&last);
        if unproven.is_empty() {
            replay.apply(&last)?;
            replay.end.position = end.position;
            return Ok(self.sync(replay));
        }
        let layout = replay.root.superblock.layout;
        let mut reads = Vec::new();
        for mapped in &unproven {
            if mapped.content.chunk.0 >= layout.chunks {
                return Err(OpenError::Log(
                    "it maps a chunk beyond the store".to_string(),
                ));
            }
            reads.push(ReadRequest {
                offset: layout.chunk(mapped.content.chunk),
                bytes: CHUNK_BYTES,
            });
        }
        self.stage = Stage::Proof(replay, last, unproven);
        Ok(Next::Read(reads))
    }

    fn on_proof(
        &mut self,
        mut replay: Box<Replay>,
        last: Frame,
        unproven: &[Unproven],
        buffers: &[&[u8]],
    ) -> Result<Next, OpenError> {
        let proven = unproven
            .iter()
            .zip(buffers)
            .all(|(mapped, bytes)| is_proven(mapped, bytes));
        if proven {
            replay.apply(&last)?;
        } else {
            self.findings.push(format!(
                "{} is torn: a chunk that it maps was not written",
                last.head.seq
            ));
            replay.end.position = last.head.position;
        }
        Ok(self.sync(replay))
    }

    fn sync(&mut self, replay: Box<Replay>) -> Next {
        self.stage = Stage::Sync(replay);
        Next::Sync
    }

    fn open(&mut self, replay: Replay) -> Result<Next, OpenError> {
        if let Some(id) = replay.contents.incomplete() {
            let text = format!("records of volume {id} are missing");
            return Err(OpenError::Log(text));
        }
        Ok(Next::Open(Box::new(Store::assemble(
            self.config,
            replay.root.superblock,
            replay.contents,
            replay.end,
            replay.root.repair,
        ))))
    }
}

impl Replay {
    fn apply(&mut self, frame: &Frame) -> Result<(), OpenError> {
        let layout = &self.root.superblock.layout;
        let at = frame.head.position.0 % layout.log_bytes();
        self.end = LogPoint {
            seq: frame.head.seq,
            position: Position(frame.head.position.0 + frame.bytes()),
            chain: frame.chain,
        };
        self.contents.frames.push(self.end);
        self.contents
            .replay(frame, layout.log_start().plus(at))
            .map_err(OpenError::Log)
    }
}

/// The reads of a batch of log segments, `skip` batches behind the next one.
fn log_reads(layout: &Layout, scanner: &Scanner, skip: usize) -> Vec<ReadRequest> {
    let segment = u64::from(layout.segment_bytes);
    let count = usize::try_from(BATCH_BYTES / segment).map_or(1, |count| count.max(1));
    let indexes = scanner.next_segments().skip(skip * count).take(count);
    let read = |index: u64| ReadRequest {
        offset: layout.log_start().plus(index * segment),
        bytes: layout.segment_bytes as usize,
    };
    indexes.map(read).collect()
}

/// The copy with the higher sequence serves.
fn choose(
    first: Result<Superblock, Unusable>,
    second: Result<Superblock, Unusable>,
) -> Result<Root, OpenError> {
    let serve = |superblock, repair| Ok(Root { superblock, repair });
    match (first, second) {
        (Ok(first), Ok(second)) if first.store != second.store => Err(OpenError::Superblocks(
            "they belong to different stores".to_string(),
        )),
        (Ok(first), Ok(second)) if first.sequence > second.sequence => serve(first, Some(1)),
        (Ok(first), Ok(second)) if first.sequence < second.sequence => serve(second, Some(0)),
        (Ok(first), Ok(_)) => serve(first, None),
        (Err(Unusable::Version(version)), _) | (_, Err(Unusable::Version(version))) => {
            Err(OpenError::Version(version))
        }
        (Ok(first), Err(_)) => serve(first, Some(1)),
        (Err(_), Ok(second)) => serve(second, Some(0)),
        (Err(Unusable::Foreign), Err(Unusable::Foreign)) => Err(OpenError::NotFormatted),
        (Err(first), Err(second)) => {
            let text = |copy| match copy {
                Unusable::Damaged(text) => text,
                _ => "it does not begin like one".to_string(),
            };
            let (first, second) = (text(first), text(second));
            Err(OpenError::Superblocks(format!(
                "copy 0: {first}; copy 1: {second}"
            )))
        }
    }
}

fn is_proven(mapped: &Unproven, bytes: &[u8]) -> bool {
    bytes.len() == CHUNK_BYTES
        && bytes
            .chunks_exact(BLOCK_BYTES)
            .enumerate()
            .all(|(index, block)| {
                mapped.blocks & (1 << index) == 0
                    || crc32c(block) == mapped.content.checksums[index]
            })
}

/// One read for each run of neighbouring slots.
pub(super) fn page_reads(layout: &Layout, slots: &[PageSlot]) -> Vec<ReadRequest> {
    runs(slots)
        .map(|run| ReadRequest {
            offset: layout.page(run[0].0),
            bytes: run.len() * BLOCK_BYTES,
        })
        .collect()
}

/// The pages in what [`page_reads`] asked for.
pub(super) fn split_pages<'a>(slots: &[PageSlot], buffers: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut pages = Vec::with_capacity(slots.len());
    for (run, bytes) in runs(slots).zip(buffers) {
        if bytes.len() == run.len() * BLOCK_BYTES {
            pages.extend(bytes.chunks_exact(BLOCK_BYTES));
        } else {
            pages.extend(vec![&bytes[..0]; run.len()]);
        }
    }
    pages
}

/// Runs of neighbours, at most [`PAGE_RUN_MAX`] long.
fn runs(slots: &[PageSlot]) -> impl Iterator<Item = &[PageSlot]> {
    slots
        .chunk_by(|a, b| a.0 + 1 == b.0)
        .flat_map(|run| run.chunks(PAGE_RUN_MAX))
}

/// Pages of one read: 1 MiB.
const PAGE_RUN_MAX: usize = 256;

#[cfg(test)]
mod tests;
