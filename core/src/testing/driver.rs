//! A synchronous driver: performs the effects of a store on a simulated disk, in any order.

use super::disk::{BlockBytes, Disk, Image, Write};
use crate::block::{BlockRange, StoreOffset};
use crate::checksum::crc32c;
use crate::id::VolumeId;
use crate::limits::BLOCK_BYTES;
use crate::lsn::{Epoch, Lsn};
use crate::store::append::AppendBody;
use crate::store::machine::Store;
use crate::store::recovery::{Next, OpenError, Recovery};
use crate::store::{
    Config, CopyFailure, CopySource, Data, Effect, Event, IoFailure, IoId, Location, Lookup,
    PayloadId, PayloadSlice, PendingPayload, PendingRecord, RequestError, Tag,
};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use fastrand::Rng;

/// A store, its disk, and what is under way between them.
#[derive(Debug)]
pub struct Driver {
    /// The machine.
    pub store: Store,
    /// Its disk.
    pub disk: Disk,
    /// Ends of requests since they were last taken.
    pub completed: Vec<(Tag, Result<(), RequestError>)>,
    /// Why the store failed.
    pub failed: Option<String>,
    /// Blocks that were found damaged while they were moved.
    pub lost: Vec<(VolumeId, u64)>,
    /// Records of shared volumes that began here, since they were last taken.
    pub appended: Vec<Record>,
    /// What of shared volumes became durable since that was last taken.
    pub durable: Vec<(VolumeId, Lsn)>,
    /// Which operations fail.
    pub faults: Faults,
    now: Duration,
    running: Vec<Running>,
    payloads: BTreeMap<PayloadId, Vec<Rc<BlockBytes>>>,
    next_payload: u32,
    rng: Rng,
}

/// A record as one copy of a volume sends it to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its LSN.
    pub lsn: Lsn,
    /// Its reign.
    pub epoch: Epoch,
    /// What it says.
    pub body: AppendBody,
    /// Its data.
    pub blocks: Vec<Rc<BlockBytes>>,
}

/// Operations that fail, counted down: the one that finds its counter at 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Writes and copies.
    pub write_after: Option<u32>,
    /// Syncs.
    pub sync_after: Option<u32>,
}

/// What a read of one block gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockRead {
    /// Zeros, nothing is stored.
    Zero,
    /// These bytes; their checksum was right.
    Data(Rc<BlockBytes>),
    /// A medium error.
    Bad,
}

#[derive(Debug)]
enum Running {
    Write(IoId, u64, bool),
    Copy(IoId, u64),
    CopySourceFailed(IoId, usize),
    Sync(IoId, Vec<u64>),
}

impl Driver {
    /// Recovers the store in `image`.
    pub fn open(image: Image, config: Config, seed: u64) -> Result<Driver, OpenError> {
        let (store, findings) = recover(&image, config)?;
        assert!(findings.iter().all(|finding| !finding.contains("leak")));
        let mut driver = Driver {
            store: *store,
            disk: Disk::new(image, config.write_through),
            completed: Vec::new(),
            failed: None,
            lost: Vec::new(),
            appended: Vec::new(),
            durable: Vec::new(),
            faults: Faults::default(),
            now: Duration::ZERO,
            running: Vec::new(),
            payloads: BTreeMap::new(),
            next_payload: 0,
            rng: Rng::with_seed(seed),
        };
        driver.event(Event::Tick);
        Ok(driver)
    }

    /// Gives the machine an event and starts what it asks for.
    pub fn event(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.store.step(self.now, event, &mut effects);
        for effect in effects {
            self.start(effect);
        }
    }

    /// Starts a write of `blocks`.
    pub fn write(
        &mut self,
        tag: Tag,
        volume: VolumeId,
        range: BlockRange,
        blocks: Vec<Rc<BlockBytes>>,
    ) {
        assert_eq!(blocks.len(), range.count as usize);
        let checksums = checksums(&blocks);
        let payload = self.hold(blocks);
        self.event(Event::Write {
            tag,
            volume,
            range,
            checksums,
            payload,
        });
    }

    /// Keeps data in memory until the machine releases it.
    pub fn hold(&mut self, blocks: Vec<Rc<BlockBytes>>) -> PayloadId {
        let payload = PayloadId(self.next_payload);
        self.next_payload += 1;
        self.payloads.insert(payload, blocks);
        payload
    }

    /// Records of a shared volume that are not known to be committed, with their data.
    pub fn pending(&self, volume: VolumeId, from: Lsn) -> Vec<Record> {
        let record = |pending: PendingRecord| {
            let checksums = pending.body.checksums();
            let stored = |at: StoreOffset, index: usize, checksum: u32| {
                let from = at.plus((index * BLOCK_BYTES) as u64);
                match self.read_block(from, checksum) {
                    BlockRead::Data(block) => block,
                    other => panic!("a pending block is {other:?}"),
                }
            };
            let blocks = match pending.payload {
                PendingPayload::None => Vec::new(),
                PendingPayload::Held(slice) => self.held(&slice).to_vec(),
                PendingPayload::Stored(at) => (0..)
                    .zip(checksums)
                    .map(|(index, checksum)| stored(at, index, *checksum))
                    .collect(),
            };
            Record {
                lsn: pending.lsn,
                epoch: pending.epoch,
                body: pending.body,
                blocks,
            }
        };
        self.store.pending(volume, from).map(record).collect()
    }

    /// Operations under way.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Copies under way.
    pub fn copies(&self) -> usize {
        let copies = |running: &&Running| matches!(running, Running::Copy(..));
        self.running.iter().filter(copies).count()
    }

    /// Payloads that the machine has not released.
    pub fn payloads(&self) -> usize {
        self.payloads.len()
    }

    /// Ends one operation, any of them. False when there is none.
    pub fn end_one(&mut self) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let at = self.rng.usize(..self.running.len());
        let event = match self.running.swap_remove(at) {
            Running::Write(io, id, durable) => {
                let synced = if durable {
                    fault(&mut self.faults.sync_after)
                } else {
                    Ok(())
                };
                let result = synced.and_then(|()| self.end_write(id));
                Event::WriteDone { io, result }
            }
            Running::Copy(io, id) => {
                let result = self.end_write(id).map_err(CopyFailure::Write);
                Event::CopyDone { io, result }
            }
            Running::CopySourceFailed(io, index) => {
                let result = Err(CopyFailure::Source(index));
                Event::CopyDone { io, result }
            }
            Running::Sync(io, covered) => {
                let result = fault(&mut self.faults.sync_after);
                if result.is_ok() {
                    self.disk.sync(&covered);
                }
                Event::SyncDone { io, result }
            }
        };
        self.event(event);
        true
    }

    /// Ends operations until none is under way.
    pub fn settle(&mut self) {
        let mut bound = 1_000_000;
        while self.end_one() {
            bound -= 1;
            assert!(bound > 0, "the machine does not come to rest");
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, passed: Duration) {
        self.now += passed;
        self.event(Event::Tick);
    }

    /// Reads as the data plane does: look up, read, verify.
    pub fn read(
        &self,
        volume: VolumeId,
        range: BlockRange,
    ) -> Result<Vec<BlockRead>, RequestError> {
        let mut lookup = Lookup::default();
        self.store.lookup(volume, range, &mut lookup)?;
        assert_eq!(lookup.checksums.len(), range.count as usize);
        let mut checksums = lookup.checksums.iter();
        let mut blocks = Vec::new();
        for extent in &lookup.extents {
            for at in 0..u64::from(extent.blocks) {
                let checksum = *checksums.next().expect("one for each block");
                blocks.push(match extent.location {
                    Location::Zero => BlockRead::Zero,
                    Location::Bad => BlockRead::Bad,
                    Location::Stored(from) => {
                        self.read_block(from.plus(at * BLOCK_BYTES as u64), checksum)
                    }
                });
            }
        }
        assert_eq!(blocks.len(), range.count as usize);
        Ok(blocks)
    }

    fn read_block(&self, from: StoreOffset, checksum: u32) -> BlockRead {
        let zeros = Rc::new([0; BLOCK_BYTES]);
        let block = self.disk.current().block(from).unwrap_or(&zeros);
        if crc32c(block.as_slice()) == checksum {
            BlockRead::Data(block.clone())
        } else {
            BlockRead::Bad
        }
    }

    fn start(&mut self, effect: Effect) {
        match effect {
            Effect::Write {
                io,
                offset,
                data,
                durable,
            } => {
                let write = self.gather(offset, data).durably(durable);
                let id = self.disk.begin(write);
                self.running.push(Running::Write(io, id, durable));
            }
            Effect::Copy { io, sources, to } => self.start_copy(io, &sources, to),
            Effect::Sync { io } => {
                let covered = self.disk.completed();
                self.running.push(Running::Sync(io, covered));
            }
            Effect::Complete { tag, result } => self.completed.push((tag, result)),
            Effect::Release { payload } => {
                let released = self.payloads.remove(&payload);
                assert!(released.is_some(), "released once");
            }
            Effect::Appended {
                lsn,
                epoch,
                body,
                payload,
                ..
            } => {
                let blocks = payload.map_or(Vec::new(), |slice| self.held(&slice).to_vec());
                self.appended.push(Record {
                    lsn,
                    epoch,
                    body,
                    blocks,
                });
            }
            Effect::Durable { volume, lsn } => self.durable.push((volume, lsn)),
            Effect::Lost { volume, block } => self.lost.push((volume, block.0)),
            Effect::Failed { reason } => self.failed = Some(reason),
        }
    }

    fn start_copy(&mut self, io: IoId, sources: &[CopySource], to: StoreOffset) {
        let mut blocks = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            match self.read_block(source.from, source.checksum) {
                BlockRead::Data(block) => blocks.push(block),
                _ => {
                    self.running.push(Running::CopySourceFailed(io, index));
                    return;
                }
            }
        }
        let id = self.disk.begin(Write::of_blocks(to, blocks));
        self.running.push(Running::Copy(io, id));
    }

    fn held(&self, slice: &PayloadSlice) -> &[Rc<BlockBytes>] {
        let payload = &self.payloads[&slice.payload];
        let first = slice.first_block as usize;
        &payload[first..first + slice.blocks as usize]
    }

    fn gather(&self, offset: StoreOffset, data: Data) -> Write {
        let blocks = |slice: &PayloadSlice| self.held(slice);
        match data {
            Data::Bytes(bytes) => Write::of_bytes(offset, &bytes),
            Data::Payload(slice) => Write::of_blocks(offset, blocks(&slice).to_vec()),
            Data::Frame { header, payloads } => {
                let mut write = Write::of_bytes(offset, &header);
                payloads
                    .iter()
                    .for_each(|slice| write.extend(blocks(slice)));
                write
            }
        }
    }

    fn end_write(&mut self, id: u64) -> Result<(), IoFailure> {
        fault(&mut self.faults.write_after)?;
        self.disk.complete(id);
        Ok(())
    }
}

fn fault(after: &mut Option<u32>) -> Result<(), IoFailure> {
    match after {
        Some(0) => Err(IoFailure("injected".into())),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

/// CRC32C of each block.
pub fn checksums(blocks: &[Rc<BlockBytes>]) -> Vec<u32> {
    let checksum = |block: &Rc<BlockBytes>| crc32c(block.as_slice());
    blocks.iter().map(checksum).collect()
}

/// Runs the recovery machine over an image. Also gives what it found.
pub fn recover(
    image: &Image,
    config: Config,
) -> Result<(alloc::boxed::Box<Store>, Vec<String>), OpenError> {
    let mut recovery = Recovery::new(config, image.bytes());
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    loop {
        let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        match recovery.step(&slices) {
            Next::Read(reads) => {
                let read = |read: &crate::store::recovery::ReadRequest| {
                    image.read(read.offset, read.bytes)
                };
                buffers = reads.iter().map(read).collect();
            }
            Next::Sync => buffers.clear(),
            Next::Open(store) => return Ok((store, recovery.findings().to_vec())),
            Next::Refused(error) => return Err(error),
        }
    }
}

/// An image with an empty store in it.
pub fn formatted(id: crate::id::StoreId, layout: crate::store::layout::Layout) -> Image {
    let mut image = Image::zeros(layout.end());
    for (offset, bytes) in crate::store::format::format_with(id, layout).writes {
        image.apply(&Write::of_bytes(offset, &bytes));
    }
    image
}
