//! One store behind an engine, driven synchronously on a simulated disk: what the shard does, without time.
//!
//! Not here: the network and the masters. What is for them waits in [`Node::out`].

use super::disk::{BlockBytes, Disk, Image, Torn, Write};
use super::driver::{BlockRead, checksums, recover};
use crate::block::{Block, BlockRange, StoreOffset};
use crate::checksum::crc32c;
use crate::engine::machine::Engine;
use crate::engine::{
    Effect, Event, FillId, HealId, NotHealed, PayloadRef, Serve, StreamId, Verified,
};
use crate::id::{StoreId, VolumeId};
use crate::limits::BLOCK_BYTES;
use crate::peer::Message;
use crate::store::recovery::OpenError;
use crate::store::{
    self, Config, CopyFailure, CopySource, Data, IoId, Location, Lookup, PayloadId, PayloadSlice,
    RequestError, Tag,
};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use fastrand::Rng;

/// An engine, its disk, and what is under way between them.
#[derive(Debug)]
pub struct Node {
    /// The machine.
    pub engine: Engine,
    /// Its disk.
    pub disk: Disk,
    /// What is not for the disk, in order, since it was last taken.
    pub out: Vec<Out>,
    running: Vec<Running>,
    payloads: BTreeMap<PayloadId, Vec<Rc<BlockBytes>>>,
    next_payload: u32,
    /// Writes and unmaps that did not end: no fill of their blocks is read meanwhile.
    changing: BTreeMap<Tag, (VolumeId, BlockRange)>,
    fills: Vec<(FillId, VolumeId, BlockRange)>,
    lent: Vec<(FillId, VolumeId, BlockRange)>,
    /// Answers to [`Node::heal`], since they were last taken.
    pub healed: Vec<(HealId, Result<Rc<BlockBytes>, NotHealed>)>,
    now: Duration,
    rng: Rng,
}

/// What a node wants of others.
#[derive(Debug)]
pub enum Out {
    /// A message with its data.
    Send(StreamId, Message, Vec<Rc<BlockBytes>>),
    /// A message whose data on the disk is not what it was: the stream ends.
    Broken(StreamId),
    /// A stream is wanted.
    Open(StoreId),
    /// A stream is not wanted.
    Close(StoreId),
    /// A request ended.
    Ended(Tag, Result<(), RequestError>),
    /// Anything for the masters, or a change of role.
    Control(Effect),
    /// The store failed.
    Failed(String),
}

#[derive(Debug)]
enum Running {
    Write(IoId, u64),
    Copy(IoId, u64),
    BadCopy(IoId, usize),
    Sync(IoId, Vec<u64>),
}

impl Node {
    /// Recovers the store in `image` at `now`.
    pub fn open(image: Image, config: Config, now: Duration, seed: u64) -> Result<Node, OpenError> {
        let (store, _) = recover(&image, config)?;
        let mut node = Node {
            engine: Engine::new(now, store),
            disk: Disk::new(image, config.write_through),
            out: Vec::new(),
            running: Vec::new(),
            payloads: BTreeMap::new(),
            next_payload: 0,
            changing: BTreeMap::new(),
            fills: Vec::new(),
            lent: Vec::new(),
            healed: Vec::new(),
            now,
            rng: Rng::with_seed(seed),
        };
        node.event(now, Event::Store(store::Event::Tick));
        Ok(node)
    }

    /// The image after a power loss now; writes that were not synced are there or not.
    pub fn crash(mut self) -> Image {
        let keep: Vec<bool> = (0..self.disk.pending()).map(|_| self.rng.bool()).collect();
        let torn = [Torn::Whole, Torn::Sectors, Torn::Blocks, Torn::Garbage];
        let torn = torn[self.rng.usize(..torn.len())];
        self.disk.crash(|at| keep[at], torn, &mut self.rng)
    }

    /// Gives the machine an event and starts what it asks for.
    pub fn event(&mut self, now: Duration, event: Event) {
        self.now = self.now.max(now);
        if let Event::Store(store::Event::Unmap { tag, volume, range }) = &event {
            self.changing.insert(*tag, (*volume, *range));
        }
        let mut effects = Vec::new();
        self.engine.step_all(self.now, [event], &mut effects);
        for effect in effects {
            self.perform(effect);
        }
        self.read_fills();
        self.read_lent();
    }

    /// A message came, with its data.
    pub fn receive(
        &mut self,
        now: Duration,
        stream: StreamId,
        message: Message,
        blocks: Vec<Rc<BlockBytes>>,
    ) {
        let payload = (!blocks.is_empty()).then(|| self.hold(blocks));
        let event = Event::Peer {
            stream,
            message,
            payload,
        };
        self.event(now, event);
    }

    /// Starts a write of `blocks`.
    pub fn write(
        &mut self,
        now: Duration,
        tag: Tag,
        volume: VolumeId,
        range: BlockRange,
        blocks: Vec<Rc<BlockBytes>>,
    ) {
        let checksums = checksums(&blocks);
        let payload = self.hold(blocks);
        self.changing.insert(tag, (volume, range));
        let event = store::Event::Write {
            tag,
            volume,
            range,
            checksums,
            payload,
        };
        self.event(now, Event::Store(event));
    }

    /// Asks other copies for a block that is damaged here. False: none is known here by its checksum.
    pub fn heal(&mut self, now: Duration, id: HealId, volume: VolumeId, block: Block) -> bool {
        let Some((_, checksum)) = self.place_of(volume, block) else {
            return false;
        };
        let event = Event::Heal {
            id,
            volume,
            block,
            checksum,
        };
        self.event(now, event);
        true
    }

    /// Writes what was healed back, when the block is still that one and no one is writing it.
    pub fn repair(
        &mut self,
        now: Duration,
        tag: Tag,
        volume: VolumeId,
        (block, bytes): (Block, Rc<BlockBytes>),
    ) {
        let range = BlockRange {
            first: block,
            count: 1,
        };
        let meets = |(other, changed): &(VolumeId, BlockRange)| {
            *other == volume && changed.first < range.end() && block < changed.end()
        };
        let same = self
            .place_of(volume, block)
            .is_some_and(|(_, checksum)| checksum == crc32c(bytes.as_slice()));
        let serves = self.engine.may_serve(volume, now.max(self.now)) == Serve::Yes;
        if same && serves && !self.changing.values().any(meets) {
            self.write(now, tag, volume, range, Vec::from([bytes]));
        }
    }

    /// Where a block is stored, and the checksum that it should have.
    pub fn place_of(&self, volume: VolumeId, block: Block) -> Option<(StoreOffset, u32)> {
        let range = BlockRange {
            first: block,
            count: 1,
        };
        let mut lookup = Lookup::default();
        let store = self.engine.store();
        store.lookup(volume, range, &mut lookup).ok()?;
        match lookup.extents[0].location {
            Location::Stored(place) => Some((place, lookup.checksums[0])),
            Location::Zero | Location::Bad => None,
        }
    }

    /// Reads for a host: the data is given only if hosts are served after it was fetched.
    pub fn serve(
        &self,
        now: Duration,
        volume: VolumeId,
        range: BlockRange,
    ) -> Option<Vec<BlockRead>> {
        let blocks = self.read(volume, range).ok()?;
        (self.engine.may_serve(volume, now.max(self.now)) == Serve::Yes).then_some(blocks)
    }

    /// Reads what is committed here.
    pub fn read(
        &self,
        volume: VolumeId,
        range: BlockRange,
    ) -> Result<Vec<BlockRead>, RequestError> {
        let mut lookup = Lookup::default();
        self.engine.store().lookup(volume, range, &mut lookup)?;
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
        Ok(blocks)
    }

    /// Operations of the disk under way.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Payloads that were not released.
    pub fn payloads(&self) -> usize {
        self.payloads.len()
    }

    /// Ends one operation of the disk, any of them. False when there is none.
    pub fn end_one(&mut self) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let at = self.rng.usize(..self.running.len());
        let event = match self.running.swap_remove(at) {
            Running::Write(io, id) => {
                self.disk.complete(id);
                let result = Ok(());
                store::Event::WriteDone { io, result }
            }
            Running::Copy(io, id) => {
                self.disk.complete(id);
                let result = Ok(());
                store::Event::CopyDone { io, result }
            }
            Running::BadCopy(io, index) => {
                let result = Err(CopyFailure::Source(index));
                store::Event::CopyDone { io, result }
            }
            Running::Sync(io, covered) => {
                self.disk.sync(&covered);
                let result = Ok(());
                store::Event::SyncDone { io, result }
            }
        };
        self.event(self.now, Event::Store(event));
        true
    }

    fn hold(&mut self, blocks: Vec<Rc<BlockBytes>>) -> PayloadId {
        let payload = PayloadId(self.next_payload);
        self.next_payload += 1;
        self.payloads.insert(payload, blocks);
        payload
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Store(effect) => self.perform_store(effect),
            Effect::Send {
                stream,
                message,
                payload,
            } => {
                let wanted = message.payload_checksums().to_vec();
                let blocks = match payload {
                    None => Vec::new(),
                    Some(PayloadRef::Slice(slice)) => self.held(&slice).to_vec(),
                    Some(PayloadRef::Stored(at)) => self.stored(at, &wanted),
                };
                self.out.push(if checksums(&blocks) == wanted {
                    Out::Send(stream, message, blocks)
                } else {
                    Out::Broken(stream)
                });
            }
            Effect::OpenStream { to, .. } => self.out.push(Out::Open(to)),
            Effect::CloseStream { to } => self.out.push(Out::Close(to)),
            Effect::ReadFill { id, volume, range } => self.fills.push((id, volume, range)),
            Effect::ReadBlocks { id, volume, range } => self.lent.push((id, volume, range)),
            Effect::Healed { id, result } => {
                let bytes = result.map(|payload| Rc::clone(&self.payloads[&payload][0]));
                self.healed.push((id, bytes));
            }
            other => self.out.push(Out::Control(other)),
        }
    }

    fn perform_store(&mut self, effect: store::Effect) {
        match effect {
            store::Effect::Write {
                io,
                offset,
                data,
                durable,
            } => {
                let write = self.gather(offset, data).durably(durable);
                let id = self.disk.begin(write);
                self.running.push(Running::Write(io, id));
            }
            store::Effect::Copy { io, sources, to } => self.start_copy(io, &sources, to),
            store::Effect::Sync { io } => {
                let covered = self.disk.completed();
                self.running.push(Running::Sync(io, covered));
            }
            store::Effect::Complete { tag, result } => {
                self.changing.remove(&tag);
                self.out.push(Out::Ended(tag, result));
            }
            store::Effect::Release { payload } => {
                let released = self.payloads.remove(&payload);
                assert!(released.is_some(), "released once");
            }
            store::Effect::Lost { .. } => {}
            store::Effect::Failed { reason } => self.out.push(Out::Failed(reason)),
            store::Effect::Appended { .. } | store::Effect::Durable { .. } => {
                panic!("these stay in the engine")
            }
        }
    }

    /// Reads for a resync whose blocks no one is writing.
    fn read_fills(&mut self) {
        let free = |(_, volume, range): &(FillId, VolumeId, BlockRange)| {
            let meets = |(other, changed): &(VolumeId, BlockRange)| {
                other == volume && changed.first < range.end() && range.first < changed.end()
            };
            !self.changing.values().any(meets)
        };
        let Some(at) = self.fills.iter().position(free) else {
            return;
        };
        let (id, volume, range) = self.fills.swap_remove(at);
        let result = self.read(volume, range).and_then(|blocks| {
            let zeros = Rc::new([0; BLOCK_BYTES]);
            let bytes = |block: BlockRead| match block {
                BlockRead::Zero => Ok(Rc::clone(&zeros)),
                BlockRead::Data(block) => Ok(block),
                BlockRead::Bad => Err(RequestError::NotFound),
            };
            blocks.into_iter().map(bytes).collect()
        });
        let result = result.map(|blocks: Vec<Rc<BlockBytes>>| Some(self.hold(blocks)));
        self.event(self.now, Event::FillRead { id, result });
    }

    /// Reads for primaries whose own blocks are damaged.
    fn read_lent(&mut self) {
        let Some((id, volume, range)) = self.lent.pop() else {
            return;
        };
        let good = |block: BlockRead| match block {
            BlockRead::Zero => Some(Rc::new([0; BLOCK_BYTES])),
            BlockRead::Data(bytes) => Some(bytes),
            BlockRead::Bad => None,
        };
        let blocks = self.read(volume, range).ok();
        let blocks: Option<Vec<Rc<BlockBytes>>> =
            blocks.and_then(|blocks| blocks.into_iter().map(good).collect());
        let found = blocks.map(|blocks| Verified {
            checksums: checksums(&blocks),
            payload: self.hold(blocks),
        });
        self.event(self.now, Event::BlocksRead { id, found });
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

    fn stored(&self, at: StoreOffset, checksums: &[u32]) -> Vec<Rc<BlockBytes>> {
        let mut blocks = vec![];
        for (index, checksum) in (0..).zip(checksums) {
            if let BlockRead::Data(block) =
                self.read_block(at.plus(index * BLOCK_BYTES as u64), *checksum)
            {
                blocks.push(block);
            }
        }
        blocks
    }

    fn start_copy(&mut self, io: IoId, sources: &[CopySource], to: StoreOffset) {
        let mut blocks = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            match self.read_block(source.from, source.checksum) {
                BlockRead::Data(block) => blocks.push(block),
                _ => {
                    self.running.push(Running::BadCopy(io, index));
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
        match data {
            Data::Bytes(bytes) => Write::of_bytes(offset, &bytes),
            Data::Payload(slice) => Write::of_blocks(offset, self.held(&slice).to_vec()),
            Data::Frame { header, payloads } => {
                let mut write = Write::of_bytes(offset, &header);
                payloads
                    .iter()
                    .for_each(|slice| write.extend(self.held(slice)));
                write
            }
        }
    }
}
