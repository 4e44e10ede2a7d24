//! One node: an engine on a simulated disk, its clock, the payloads and range locks of its driver.

use super::locks::Locks;
use super::masters::ToMaster;
use super::{Input, Micros, Operation, SECOND};
use crate::block::{BlockRange, StoreOffset};
use crate::checksum::crc32c;
use crate::cluster::message::CopyReport;
use crate::cluster::set::VolumeSet;
use crate::engine::machine::Engine;
use crate::engine::{FillId, Role};
use crate::id::{NodeId, StoreId, VolumeId};
use crate::limits::BLOCK_BYTES;
use crate::store::{CopySource, Data, IoId, Location, Lookup, PayloadId, PayloadSlice, Tag};
use crate::testing::disk::{BlockBytes, Disk, Image, Write};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// The volume that all copies are of.
pub(super) const VOLUME: VolumeId = VolumeId([0x77; 16]);

/// A volume of one copy that takes the space of a store now and then.
pub(super) const FILLER: VolumeId = VolumeId([0x88; 16]);

/// A node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) store: StoreId,
    /// What its disk holds while no process runs.
    pub(super) image: Option<Image>,
    /// Its process.
    pub(super) process: Option<Process>,
    /// Counts its processes.
    pub(super) incarnation: u32,
    /// Its agent does not run either.
    pub(super) agent_down: bool,
    pub(super) paused_until: Micros,
    /// What came while it stood still.
    pub(super) inbox: VecDeque<Input>,
    pub(super) slow_until: Micros,
    pub(super) clogged_until: Micros,
    /// Its clock: parts per thousand of true time from `since` on, and what it said then.
    rate: u64,
    since: Micros,
    offset: Micros,
}

/// A running process.
pub(super) struct Process {
    pub(super) engine: Engine,
    pub(super) disk: Disk,
    pub(super) running: BTreeMap<u64, Running>,
    pub(super) next: u64,
    pub(super) payloads: BTreeMap<PayloadId, Vec<Rc<BlockBytes>>>,
    pub(super) tags: BTreeMap<Tag, Wait>,
    pub(super) locks: Locks,
    /// Changes that wait for their lock.
    pub(super) waiting: BTreeMap<u64, Operation>,
    pub(super) role: Role,
    /// Counts changes of the role.
    pub(super) reign: u64,
    /// Streams that are kept open.
    pub(super) wanted: BTreeSet<StoreId>,
    /// The last assignment, while the copy is being created.
    pub(super) creating: Option<VolumeSet>,
    pub(super) reported: Option<(CopyReport, Micros)>,
    /// When it last said that it has no copy.
    pub(super) missing_said: Micros,
    /// The assignment in force, by epoch and version.
    pub(super) told: (u64, u64),
    pub(super) failed: Option<String>,
}

/// A disk operation under way.
#[derive(Debug)]
pub(super) enum Running {
    Write(IoId, u64),
    Copy(IoId, u64),
    BadSource(IoId, usize),
    Sync(IoId, Vec<u64>),
}

/// Who waits for the end of a request.
#[derive(Clone, Debug)]
pub(super) enum Wait {
    Host { operation: u64 },
    Created,
    Assigned,
    Fenced(StoreId),
    FillerCreated,
    Filler,
}

impl Node {
    pub(super) fn new(index: u8, image: Image, rate: u64, offset: Micros) -> Self {
        Node {
            id: NodeId([index; 16]),
            store: store_of(index, 0),
            image: Some(image),
            process: None,
            incarnation: 0,
            agent_down: false,
            paused_until: 0,
            inbox: VecDeque::new(),
            slow_until: 0,
            clogged_until: 0,
            rate,
            since: 0,
            offset,
        }
    }

    /// Its clock has another rate from now on.
    pub(super) fn drift(&mut self, now: Micros, rate: u64) {
        self.offset += (now - self.since) * self.rate / 1000;
        (self.since, self.rate) = (now, rate);
    }

    /// What its clock says at `now`.
    pub(super) fn clock(&self, now: Micros) -> Duration {
        Duration::from_micros(self.offset + (now - self.since) * self.rate / 1000)
    }

    /// What an agent knows of its copy in `set`, asked at `now`.
    pub(super) fn report(&self, now: Micros) -> Option<ToMaster> {
        use crate::cluster::message::CopyState;
        let process = self.process.as_ref()?;
        let clock = self.clock(now);
        let status = process.engine.status(VOLUME, clock);
        let info = process.engine.store().volume(VOLUME);
        let (Some(status), Some(info)) = (status, info) else {
            return Some(ToMaster::Missing(self.store));
        };
        let state = match status.role {
            _ if process.failed.is_some() => CopyState::Failed,
            Role::Primary => CopyState::Primary {
                serving: status.serving,
            },
            _ if info.resync.is_some() => CopyState::Resyncing {
                left_bytes: 1,
                primary_silent: status.primary_silent,
            },
            _ => CopyState::Secondary {
                primary_silent: status.primary_silent,
            },
        };
        Some(ToMaster::Report(
            CopyReport {
                store: self.store,
                state,
                epoch: status.epoch,
                promised: status.promised,
                durable: status.durable,
                committed: status.committed,
            },
            process.told,
        ))
    }
}

/// The store of a node after so many replacements.
pub(super) fn store_of(node: u8, generation: u8) -> StoreId {
    let mut bytes = [0x5a; 16];
    (bytes[0], bytes[1]) = (node, generation);
    StoreId(bytes)
}

/// The node that has, or had, a store.
pub(super) fn node_of(store: StoreId) -> usize {
    usize::from(store.0[0])
}

impl Process {
    pub(super) fn new(engine: Engine, disk: Disk) -> Self {
        Process {
            engine,
            disk,
            running: BTreeMap::new(),
            next: 1,
            payloads: BTreeMap::new(),
            tags: BTreeMap::new(),
            locks: Locks::default(),
            waiting: BTreeMap::new(),
            role: Role::Fenced,
            reign: 0,
            wanted: BTreeSet::new(),
            creating: None,
            reported: None,
            missing_said: 0,
            told: (0, 0),
            failed: None,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn tag(&mut self, wait: Wait) -> Tag {
        let tag = Tag(self.number());
        self.tags.insert(tag, wait);
        tag
    }

    /// Keeps data until the engine releases it.
    pub(super) fn hold(&mut self, blocks: Vec<Rc<BlockBytes>>) -> PayloadId {
        let number = self.number();
        let payload = PayloadId(u32::try_from(number).expect("runs are short"));
        self.payloads.insert(payload, blocks);
        payload
    }

    pub(super) fn held(&self, slice: PayloadSlice) -> &[Rc<BlockBytes>] {
        let payload = &self.payloads[&slice.payload];
        let first = slice.first_block as usize;
        &payload[first..first + slice.blocks as usize]
    }

    /// Blocks of the disk, as far as they have these checksums.
    pub(super) fn stored(&self, from: StoreOffset, sums: &[u32]) -> Option<Vec<Rc<BlockBytes>>> {
        let block = |(at, sum): (u64, &u32)| {
            let place = from.plus(at * BLOCK_BYTES as u64);
            let zeros = || Rc::new([0; BLOCK_BYTES]);
            let block = self.disk.current().block(place);
            let block = block.cloned().unwrap_or_else(zeros);
            (crc32c(block.as_slice()) == *sum).then_some(block)
        };
        (0..).zip(sums).map(block).collect()
    }

    /// Committed blocks; `None` for zeros.
    pub(super) fn read(&self, range: BlockRange) -> Option<Vec<Option<Rc<BlockBytes>>>> {
        let mut lookup = Lookup::default();
        let store = self.engine.store();
        store.lookup(VOLUME, range, &mut lookup).ok()?;
        let mut blocks = Vec::new();
        for extent in &lookup.extents {
            let count = extent.blocks as usize;
            let first = blocks.len();
            match extent.location {
                Location::Zero => blocks.extend(core::iter::repeat_n(None, count)),
                Location::Bad => panic!("I1: a block is lost at {range:?}"),
                Location::Stored(from) => {
                    let sums = &lookup.checksums[first..first + count];
                    let stored = self
                        .stored(from, sums)
                        .expect("I1: stored blocks are whole");
                    blocks.extend(stored.into_iter().map(Some));
                }
            }
        }
        assert_eq!(blocks.len(), range.count as usize);
        Some(blocks)
    }

    /// Begins a disk write.
    pub(super) fn begin_write(
        &mut self,
        io: IoId,
        offset: StoreOffset,
        data: Data,
        durable: bool,
    ) -> u64 {
        let write = self.gather(offset, data).durably(durable);
        let id = self.disk.begin(write);
        self.run(Running::Write(io, id))
    }

    /// Begins to move blocks.
    pub(super) fn begin_copy(&mut self, io: IoId, sources: &[CopySource], to: StoreOffset) -> u64 {
        let mut blocks = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            match self.stored(source.from, &[source.checksum]) {
                Some(block) => blocks.extend(block),
                None => return self.run(Running::BadSource(io, index)),
            }
        }
        let id = self.disk.begin(Write::of_blocks(to, blocks));
        self.run(Running::Copy(io, id))
    }

    /// Begins to make durable what is done.
    pub(super) fn begin_sync(&mut self, io: IoId) -> u64 {
        let covered = self.disk.completed();
        self.run(Running::Sync(io, covered))
    }

    fn run(&mut self, running: Running) -> u64 {
        let number = self.number();
        self.running.insert(number, running);
        number
    }

    fn gather(&self, offset: StoreOffset, data: Data) -> Write {
        match data {
            Data::Bytes(bytes) => Write::of_bytes(offset, &bytes),
            Data::Payload(slice) => Write::of_blocks(offset, self.held(slice).to_vec()),
            Data::Frame { header, payloads } => {
                let mut write = Write::of_bytes(offset, &header);
                for slice in payloads {
                    write.extend(self.held(slice));
                }
                write
            }
        }
    }
}

/// The bytes of a value at a block.
pub(super) fn content(block: u64, value: u64) -> Rc<BlockBytes> {
    let mut pattern = [0; 16];
    pattern[..8].copy_from_slice(&value.to_le_bytes());
    pattern[8..].copy_from_slice(&block.to_le_bytes());
    let mut bytes = [0; BLOCK_BYTES];
    for part in bytes.chunks_exact_mut(16) {
        part.copy_from_slice(&pattern);
    }
    Rc::new(bytes)
}

/// The value in a block that was read; 0 for zeros.
pub(super) fn value_in(block: u64, bytes: Option<&Rc<BlockBytes>>) -> u64 {
    let Some(bytes) = bytes else {
        return 0;
    };
    if bytes.iter().all(|byte| *byte == 0) {
        return 0;
    }
    let value = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert_eq!(
        *bytes,
        content(block, value),
        "block {block} is torn or elsewhere"
    );
    value
}

/// A fill waits this long for its read at most.
pub(super) const FILL_READ_MAX: Micros = SECOND / 1000;

/// What a driver does with locks.
impl Process {
    /// A host's change may go on, or waits for a fill.
    pub(super) fn lock_change(&mut self, operation: &Operation) -> bool {
        self.locks.change(operation.id, operation.range)
    }

    /// A fill may be read, or waits for changes.
    pub(super) fn lock_fill(&mut self, id: FillId, range: BlockRange) -> bool {
        self.locks.fill(id, range)
    }
}
