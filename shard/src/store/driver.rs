//! Drives one store's machine: performs its effects on the disk and hands the outcomes back to it.
//!
//! Hot path. Nothing is decided here. A request costs one machine step, one table entry and, for a
//! write, one copy of the payload into the log frame's buffer. Committed data enters the read cache in
//! the same step in which the machine makes it visible, so that the cache is never behind (I2).

use super::gather::into_buffers;
use super::heal::Healing;
use super::payload::{Held, Payload};
use super::peers::Peers;
use super::slab::Slab;
use crate::disk::Disk;
use crate::limits::{
    COPIES_IN_FLIGHT_MAX, IO_BYTES_MAX, READS_IN_FLIGHT_MAX, WRITES_IN_FLIGHT_MAX,
};
use crate::peer::hub::Hub;
use crate::runtime::buffer::Buffer;
use crate::runtime::local::{Bell, Receiver, Sender, once};
use crate::runtime::slots::Slots;
use crate::runtime::task;
use crate::volume::cache::{Cache, VolumeSlot};
use holdfast_core::block::{BlockRange, StoreOffset};
use holdfast_core::checksum::{block_checksums, crc32c};
use holdfast_core::engine::machine::Engine;
use holdfast_core::engine::{self, Serve};
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::store::machine::Store;
use holdfast_core::store::{
    CopyFailure, CopySource, Data, Effect, Event, IoFailure, IoId, Lookup, PayloadId, RequestError,
    Tag,
};
use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use tracing::{error, warn};

/// How a request ended.
pub(crate) type Outcome = Result<(), RequestError>;

/// A volume in the eyes of the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VolumeRef {
    /// On the disk.
    pub(crate) id: VolumeId,
    /// In the cache.
    pub(crate) slot: VolumeSlot,
}

/// What a completed request does to the read cache.
#[derive(Debug)]
enum Publish {
    Nothing,
    Data(VolumeSlot, BlockRange, Payload),
    Forget(VolumeSlot, BlockRange),
}

pub(super) struct Request {
    sender: Option<Sender<Outcome>>,
    publish: Publish,
}

/// One store under way.
pub(crate) struct StoreDriver<D> {
    name: String,
    id: StoreId,
    disk: Rc<D>,
    machine: RefCell<Engine>,
    /// Of this turn.
    events: RefCell<Vec<engine::Event>>,
    turn: Rc<Bell>,
    effects: RefCell<Vec<engine::Effect>>,
    requests: RefCell<Slab<Request>>,
    pub(super) payloads: RefCell<Slab<Held>>,
    pub(super) peers: Peers<D>,
    pub(super) healing: Healing,
    lookups: RefCell<Vec<Lookup>>,
    pub(super) reads: Slots,
    writes: Slots,
    copies: Slots,
    cache: Rc<RefCell<Cache>>,
    failed: RefCell<Option<String>>,
    /// Steps of the engine.
    #[cfg(test)]
    steps: Cell<u64>,
}

impl<D: Disk> StoreDriver<D> {
    /// Takes over an opened store. `name` is for messages.
    pub(crate) fn new(
        name: String,
        disk: Rc<D>,
        machine: Box<Store>,
        cache: Rc<RefCell<Cache>>,
        hub: Rc<Hub>,
    ) -> Rc<Self> {
        let turn: Rc<Bell> = Rc::default();
        let driver = Rc::new(StoreDriver {
            name,
            id: machine.id(),
            disk,
            machine: RefCell::new(Engine::new(task::boot_time(), machine)),
            peers: Peers::new(hub),
            healing: Healing::default(),
            events: RefCell::default(),
            turn: Rc::clone(&turn),
            effects: RefCell::default(),
            requests: RefCell::default(),
            payloads: RefCell::default(),
            lookups: RefCell::default(),
            reads: Slots::new(READS_IN_FLIGHT_MAX),
            writes: Slots::new(WRITES_IN_FLIGHT_MAX),
            copies: Slots::new(COPIES_IN_FLIGHT_MAX),
            cache,
            failed: RefCell::default(),
            #[cfg(test)]
            steps: Cell::new(0),
        });
        task::spawn(take_turns(turn, Rc::downgrade(&driver)));
        driver
    }

    /// Which store it is.
    pub(crate) fn id(&self) -> StoreId {
        self.id
    }

    /// Path, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The disk under it.
    pub(crate) fn disk(&self) -> &Rc<D> {
        &self.disk
    }

    /// The read cache of its shard.
    pub(crate) fn cache(&self) -> &Rc<RefCell<Cache>> {
        &self.cache
    }

    /// Runs the parts of scattered reads.
    pub(crate) fn reads(&self) -> &Slots {
        &self.reads
    }

    /// Steps of the engine so far.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Why it serves nothing any more.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failed.borrow().clone()
    }

    /// The store's machine, to be asked.
    pub(crate) fn machine(&self) -> Ref<'_, Store> {
        Ref::map(self.machine.borrow(), Engine::store)
    }

    /// The engine, to be asked.
    pub(crate) fn engine(&self) -> Ref<'_, Engine> {
        self.machine.borrow()
    }

    /// Whether hosts may be answered now.
    pub(crate) fn may_serve(&self, volume: VolumeId) -> Serve {
        self.machine.borrow().may_serve(volume, task::boot_time())
    }

    /// Time passed.
    pub(crate) fn tick(self: &Rc<Self>) {
        self.submit(engine::Event::Store(Event::Tick));
    }

    /// Stores whole blocks. Ready when they are durable and visible.
    pub(crate) fn write(
        self: &Rc<Self>,
        volume: VolumeRef,
        range: BlockRange,
        payload: Payload,
    ) -> Receiver<Outcome> {
        assert!(payload.len() == range.count as usize * BLOCK_BYTES);
        let checksums = block_checksums(payload.bytes());
        let id = self.hold(Held::Host(payload.clone()));
        let publish = Publish::Data(volume.slot, range, payload);
        self.request(publish, |tag| Event::Write {
            tag,
            volume: volume.id,
            range,
            checksums,
            payload: id,
        })
    }

    /// Returns the space of whole blocks; they read as zeros.
    pub(crate) fn unmap(
        self: &Rc<Self>,
        volume: VolumeRef,
        range: BlockRange,
    ) -> Receiver<Outcome> {
        let publish = Publish::Forget(volume.slot, range);
        self.request(publish, |tag| Event::Unmap {
            tag,
            volume: volume.id,
            range,
        })
    }

    /// Any request that leaves the read cache alone.
    pub(crate) fn ask(self: &Rc<Self>, event: impl FnOnce(Tag) -> Event) -> Receiver<Outcome> {
        self.request(Publish::Nothing, event)
    }

    /// A request to the engine that leaves the read cache alone.
    pub(crate) fn ask_engine(
        self: &Rc<Self>,
        event: impl FnOnce(Tag) -> engine::Event,
    ) -> Receiver<Outcome> {
        self.request_of_engine(Publish::Nothing, event)
    }

    /// Where blocks are now. Give the answer back with [`Self::done_with`].
    pub(crate) fn lookup(&self, id: VolumeId, range: BlockRange) -> Result<Lookup, RequestError> {
        let mut lookup = self.lookups.borrow_mut().pop().unwrap_or_default();
        self.machine().lookup(id, range, &mut lookup)?;
        Ok(lookup)
    }

    /// Takes back a lookup's memory.
    pub(crate) fn done_with(&self, lookup: Lookup) {
        /// Kept for reuse at most.
        const LOOKUPS_KEPT: usize = 64;
        let mut lookups = self.lookups.borrow_mut();
        if lookups.len() < LOOKUPS_KEPT {
            lookups.push(lookup);
        }
    }

    /// Waits until no write, sync or copy is under way.
    pub(crate) async fn settled(&self) {
        self.writes.drained().await;
        self.copies.drained().await;
    }

    fn request(
        self: &Rc<Self>,
        publish: Publish,
        event: impl FnOnce(Tag) -> Event,
    ) -> Receiver<Outcome> {
        self.request_of_engine(publish, |tag| engine::Event::Store(event(tag)))
    }

    fn request_of_engine(
        self: &Rc<Self>,
        publish: Publish,
        event: impl FnOnce(Tag) -> engine::Event,
    ) -> Receiver<Outcome> {
        let (sender, receiver) = once();
        let tag = self.requests.borrow_mut().insert(Request {
            sender: Some(sender),
            publish,
        });
        self.submit(event(Tag(u64::from(tag))));
        receiver
    }

    /// Keeps a payload until the machine releases it.
    pub(super) fn hold(&self, held: Held) -> PayloadId {
        PayloadId(self.payloads.borrow_mut().insert(held))
    }

    /// Queues an event for the end of this turn: what comes in one turn joins one log frame.
    pub(super) fn submit(&self, event: engine::Event) {
        self.events.borrow_mut().push(event);
        self.turn.ring();
    }

    fn step(self: &Rc<Self>) {
        #[cfg(test)]
        self.steps.set(self.steps.get() + 1);
        let mut events = self.events.take();
        let mut effects = self.effects.take();
        let ranges = self.peers.fill_ranges.take();
        self.machine
            .borrow_mut()
            .step_all(task::boot_time(), events.drain(..), &mut effects);
        for effect in effects.drain(..) {
            match effect {
                engine::Effect::Store(effect) => self.perform(effect),
                other => self.perform_for_peers(other),
            }
        }
        // What was read for peers under these ranges is queued to them: writes may go on.
        drop(ranges);
        self.effects.replace(effects);
        // The lists are empty, and their memory is reused; what came meanwhile waits for its turn.
        let early = self.events.replace(events);
        self.events.borrow_mut().extend(early);
    }

    fn perform(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Write {
                io,
                offset,
                data,
                durable,
            } => self.start_write(io, offset, (&data, durable)),
            Effect::Copy { io, sources, to } => {
                let driver = Rc::clone(self);
                self.copies.run(async move {
                    let result = driver.copy(&sources, to).await;
                    driver.submit(engine::Event::Store(Event::CopyDone { io, result }));
                });
            }
            Effect::Sync { io } => {
                let driver = Rc::clone(self);
                self.writes.run(async move {
                    let result = driver.disk.sync().await;
                    let result = result.map_err(|error| driver.failure_of("sync", None, &error));
                    driver.submit(engine::Event::Store(Event::SyncDone { io, result }));
                });
            }
            Effect::Complete { tag, result } => self.complete(tag, result),
            Effect::Release { payload } => {
                let released = self.payloads.borrow_mut().remove(payload.0);
                assert!(released.is_some(), "a payload is released once");
            }
            Effect::Appended { .. } | Effect::Durable { .. } => {
                unreachable!("the engine keeps what it ships by to itself")
            }
            Effect::Lost { volume, block } => warn!(
                store = %self.name, %volume, %block,
                "a stored block is damaged: hosts get a medium error until it is written again"
            ),
            Effect::Failed { reason } => {
                error!(
                    store = %self.name, id = %self.id, reason,
                    "the store failed: its volumes are out of service until the disk is replaced"
                );
                *self.failed.borrow_mut() = Some(reason);
            }
        }
    }

    fn complete(&self, tag: Tag, result: Outcome) {
        let request = self.forget_request(tag);
        if result.is_ok() {
            match &request.publish {
                Publish::Nothing => {}
                Publish::Data(slot, range, payload) => {
                    let mut cache = self.cache.borrow_mut();
                    cache.publish(*slot, *range, payload.bytes());
                }
                Publish::Forget(slot, range) => self.cache.borrow_mut().forget(*slot, *range),
            }
        }
        match request.sender {
            Some(sender) => sender.send(result),
            None => self.fence_failed(tag, result),
        }
    }

    /// A number for a request that ends with an effect of its own.
    pub(super) fn bare_request(&self) -> Tag {
        let request = Request {
            sender: None,
            publish: Publish::Nothing,
        };
        Tag(u64::from(self.requests.borrow_mut().insert(request)))
    }

    /// A request ended.
    pub(super) fn forget_request(&self, tag: Tag) -> Request {
        u32::try_from(tag.0)
            .ok()
            .and_then(|index| self.requests.borrow_mut().remove(index))
            .expect("the machine completes each request once")
    }

    fn start_write(self: &Rc<Self>, io: IoId, offset: StoreOffset, (data, durable): (&Data, bool)) {
        let buffers = self.buffers_of(data);
        let left = Rc::new(Cell::new(buffers.len()));
        let failure: Rc<Cell<Option<IoFailure>>> = Rc::default();
        let mut at = offset;
        for buffer in buffers {
            let (driver, left, failure) = (Rc::clone(self), Rc::clone(&left), Rc::clone(&failure));
            let (offset, length) = (at, buffer.len() as u64);
            self.writes.run(async move {
                let result = if durable {
                    driver.disk.write_durable(offset, &buffer).await
                } else {
                    driver.disk.write(offset, &buffer).await
                };
                if let Err(error) = result {
                    failure.set(Some(driver.failure_of("write", Some(offset), &error)));
                }
                left.set(left.get() - 1);
                if left.get() == 0 {
                    let result = failure.take().map_or(Ok(()), Err);
                    driver.submit(engine::Event::Store(Event::WriteDone { io, result }));
                }
            });
            at = at.plus(length);
        }
    }

    /// The bytes to write, in aligned memory.
    fn buffers_of(&self, data: &Data) -> Vec<Buffer> {
        let payloads = self.payloads.borrow();
        let payload = |id: PayloadId| {
            let held = payloads.get(id.0);
            held.expect("a payload is held until its release").stored()
        };
        match data {
            Data::Bytes(bytes) => into_buffers(&[bytes]),
            Data::Frame {
                header,
                payloads: slices,
            } => {
                let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + slices.len());
                parts.push(header);
                parts.extend(
                    slices
                        .iter()
                        .map(|slice| payload(slice.payload).cut(*slice)),
                );
                into_buffers(&parts)
            }
            Data::Payload(slice) => {
                let whole = payload(slice.payload);
                let bytes = whole.cut(*slice);
                // A buffer that is written whole goes out from where it arrived.
                if bytes.len() == whole.buffer.len() && bytes.len() <= IO_BYTES_MAX {
                    return vec![whole.buffer.share()];
                }
                into_buffers(&[bytes])
            }
        }
    }

    /// Moves blocks: reads each run of neighbours at once, checks every block, writes all.
    async fn copy(&self, sources: &[CopySource], to: StoreOffset) -> Result<(), CopyFailure> {
        let mut data: Vec<u8> = Vec::with_capacity(sources.len() * BLOCK_BYTES);
        while data.len() < sources.len() * BLOCK_BYTES {
            let first = data.len() / BLOCK_BYTES;
            let count = neighbours(&sources[first..]);
            let run = &sources[first..first + count];
            let bytes = match self.disk.read(run[0].from, count * BLOCK_BYTES).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.failure_of("read", Some(run[0].from), &error);
                    return Err(CopyFailure::Source(first + self.unreadable(run).await));
                }
            };
            let blocks = bytes.chunks_exact(BLOCK_BYTES);
            if let Some(bad) = blocks.zip(run).position(|(b, s)| crc32c(b) != s.checksum) {
                return Err(CopyFailure::Source(first + bad));
            }
            data.extend_from_slice(&bytes);
        }
        let mut at = to;
        for buffer in into_buffers(&[&data]) {
            let result = self.disk.write(at, &buffer).await;
            result.map_err(|e| CopyFailure::Write(self.failure_of("write", Some(at), &e)))?;
            at = at.plus(buffer.len() as u64);
        }
        Ok(())
    }

    /// Which of some neighbours cannot be read; the first when all can by now.
    async fn unreadable(&self, run: &[CopySource]) -> usize {
        for (index, source) in run.iter().enumerate() {
            if self.disk.read(source.from, BLOCK_BYTES).await.is_err() {
                return index;
            }
        }
        0
    }

    /// Logs a failed operation and names it.
    pub(super) fn failure_of(
        &self,
        what: &str,
        at: Option<StoreOffset>,
        error: &io::Error,
    ) -> IoFailure {
        let place = at.map_or(String::new(), |offset| format!(" at {offset}"));
        warn!(store = %self.name, "{what}{place} failed: {error}");
        IoFailure(format!("{what}{place} failed: {error}"))
    }
}

/// Steps the machine once in each turn that has events.
async fn take_turns<D: Disk>(turn: Rc<Bell>, driver: Weak<StoreDriver<D>>) {
    loop {
        turn.rung().await;
        match driver.upgrade() {
            Some(driver) => driver.step(),
            None => return,
        }
    }
}

/// How many sources from the first on lie one behind the other.
fn neighbours(sources: &[CopySource]) -> usize {
    1 + sources
        .windows(2)
        .take_while(|pair| pair[0].from.plus(BLOCK_BYTES as u64) == pair[1].from)
        .count()
}
