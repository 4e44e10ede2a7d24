//! A volume as its shard serves it: `BlockRequest`s become lookups, reads and store events.
//!
//! Every command of a session runs concurrently; order among them is kept only where SCSI asks for
//! it, by [`range_lock`]. Commands with partial blocks (512-byte addressing on 4 KiB blocks) read,
//! change and replace whole blocks under an exclusive range.

pub(crate) mod cache;
mod gate;
mod heal;
mod line_rate;
pub(crate) mod range_lock;
pub(crate) mod read;
pub(crate) mod rope;
mod write;

use crate::disk::Disk;
use crate::limits::PIECE_BYTES;
use crate::runtime::buffer::Buffer;
use crate::store::driver::{StoreDriver, VolumeRef};
use crate::volume::gate::HostGate;
use holdfast_core::block::{Block, BlockRange};
use holdfast_core::id::VolumeId;
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::store::append::Sharing;
use holdfast_core::store::{Event, RequestError};
use holdfast_iscsi::request::{BlockRequest, BlockResponse, ByteRange, ProvisionedRun};
use line_rate::LineRate;
use range_lock::{Busy, RangeLock};
use rope::Rope;
use std::cell::Cell;
use std::rc::Rc;

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No good copy of this block.
    Medium(Block),
    /// The compared data differ first at this byte of the range.
    Miscompare(u64),
    /// The store refused.
    Store(RequestError),
    /// Too much is waiting.
    Busy,
    /// Hosts are not served from this copy now.
    NotServed,
}

/// Commands completed and blocks healed, for the report.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Reads.
    pub(crate) reads: Cell<u64>,
    /// Writes.
    pub(crate) writes: Cell<u64>,
    /// Others.
    pub(crate) others: Cell<u64>,
    /// Damaged blocks that another copy gave.
    pub(crate) healed: Cell<u64>,
    /// Damaged blocks that were written again.
    pub(crate) repaired: Cell<u64>,
}

/// A volume that is served.
pub(crate) struct Volume<D> {
    id: VolumeId,
    gate: HostGate,
    store: Rc<StoreDriver<D>>,
    locks: RangeLock,
    counters: Counters,
    damage_lines: LineRate,
}

/// The outcome of a command, and the data for the host of a read.
#[derive(Debug)]
pub(crate) struct Executed {
    /// For the iSCSI machine.
    pub(crate) response: BlockResponse,
    /// Data for the host; empty unless a read succeeded.
    pub(crate) data: Rope,
}

impl<D: Disk> Volume<D> {
    /// A volume of `store`.
    pub(crate) fn new(id: VolumeId, store: Rc<StoreDriver<D>>) -> Rc<Self> {
        let slot = store.cache().borrow_mut().fresh_slot();
        let info = store.machine().volume(id);
        let shared = info.is_some_and(|info| info.sharing == Sharing::Shared);
        let volume = Rc::new(Volume {
            id,
            gate: HostGate::new(shared, slot),
            store,
            locks: RangeLock::default(),
            counters: Counters::default(),
            damage_lines: LineRate::default(),
        });
        volume.store.attend(&volume);
        volume
    }

    /// Its identity.
    pub(crate) fn id(&self) -> VolumeId {
        self.id
    }

    /// The store that holds it.
    pub(crate) fn store(&self) -> &Rc<StoreDriver<D>> {
        &self.store
    }

    /// What the store's driver needs to know of it.
    fn reference(&self) -> VolumeRef {
        VolumeRef {
            id: self.id,
            slot: self.gate.slot(),
        }
    }

    /// Commands completed.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Answers a read from the cache alone, when all of it is there. Hot path.
    pub(crate) fn read_cached(&self, request: &BlockRequest) -> Option<Rope> {
        let BlockRequest::Read(range) = request else {
            return None;
        };
        if !self.serves_now() {
            return None;
        }
        let rope = self.cached(*range)?;
        add_one(&self.counters.reads);
        Some(rope)
    }

    /// Executes a command. `task` is the task buffer, whole blocks long, filled by the host.
    pub(crate) async fn execute(
        &self,
        request: BlockRequest,
        task: Option<Rc<Buffer>>,
    ) -> Executed {
        let counter = match request {
            BlockRequest::Read(_) => &self.counters.reads,
            BlockRequest::Write(_) => &self.counters.writes,
            _ => &self.counters.others,
        };
        let result = self.guarded(request, task).await;
        add_one(counter);
        let (response, data) = match result {
            Ok(done) => done,
            Err(fault) => (response_of(fault), Rope::default()),
        };
        Executed { response, data }
    }

    async fn dispatch(
        &self,
        request: BlockRequest,
        task: Option<Rc<Buffer>>,
    ) -> Result<(BlockResponse, Rope), Fault> {
        let task = || task.expect("the machine fills a task buffer for commands with data");
        match request {
            BlockRequest::Read(range) => {
                return Ok((BlockResponse::Done, self.read(range).await?));
            }
            BlockRequest::Provisioning {
                offset,
                descriptors_max,
            } => {
                let runs = self.provisioning(offset, descriptors_max)?;
                return Ok((BlockResponse::Provisioning(runs), Rope::default()));
            }
            BlockRequest::Write(range) => self.write(range, task()).await?,
            BlockRequest::WriteSame(range) => self.write_same(range, &task()).await?,
            BlockRequest::WriteZeros(range) => self.zero(range).await?,
            BlockRequest::Unmap(ranges) => {
                for range in ranges {
                    self.zero(range).await?;
                }
            }
            BlockRequest::Flush => self.locks.barrier().await?,
            BlockRequest::CompareAndWrite(range) => self.compare_and_write(range, &task()).await?,
            BlockRequest::OrWrite(range) => self.or_write(range, &task()).await?,
            BlockRequest::Verify(range) => self.verify(range).await?,
            BlockRequest::Compare(range) => self.compare(range, &task()).await?,
            BlockRequest::CompareSame(range) => self.compare_same(range, &task()).await?,
            BlockRequest::WriteAndVerify(range) => {
                let data = task();
                self.write(range, Rc::clone(&data)).await?;
                self.compare_stored(range, &data).await?;
            }
            BlockRequest::Prefetch(range) => self.prefetch(range).await?,
            BlockRequest::SaveAttributes(bytes) => {
                let volume = self.id;
                let saved = self
                    .store
                    .ask(|tag| Event::SetAttributes { tag, volume, bytes });
                saved.receive().await?;
            }
        }
        Ok((BlockResponse::Done, Rope::default()))
    }

    fn provisioning(&self, offset: u64, runs_max: usize) -> Result<Vec<ProvisionedRun>, Fault> {
        let machine = self.store.machine();
        let volume = machine
            .volume(self.id)
            .ok_or(Fault::Store(RequestError::NotFound))?;
        let first = offset / BLOCK_BYTES as u64;
        let left = volume.size_blocks.saturating_sub(first);
        let range = BlockRange {
            first: Block(first),
            count: u32::try_from(left).unwrap_or(u32::MAX),
        };
        let runs = machine.provisioning(self.id, range, runs_max)?;
        // The first run may begin inside a block.
        let mut skip = offset % BLOCK_BYTES as u64;
        let run_of = |run: holdfast_core::store::Run| ProvisionedRun {
            bytes: run.blocks * BLOCK_BYTES as u64 - std::mem::take(&mut skip),
            mapped: run.mapped,
        };
        Ok(runs.into_iter().map(run_of).collect())
    }
}

fn add_one(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

fn response_of(fault: Fault) -> BlockResponse {
    match fault {
        Fault::Medium(block) => BlockResponse::MediumError {
            offset: block.0 * BLOCK_BYTES as u64,
        },
        Fault::Miscompare(offset) => BlockResponse::Miscompare { offset },
        Fault::Busy | Fault::Store(RequestError::Busy) => BlockResponse::Busy,
        Fault::Store(RequestError::NoSpace) => BlockResponse::NoSpace,
        Fault::NotServed | Fault::Store(RequestError::NotFound | RequestError::StaleEpoch) => {
            BlockResponse::NotReady
        }
        Fault::Store(
            RequestError::StoreFailed
            | RequestError::OutOfRange
            | RequestError::Exists
            | RequestError::NotShared
            | RequestError::TooManyVolumes,
        ) => BlockResponse::Failed,
    }
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        Fault::Store(error)
    }
}

impl From<Busy> for Fault {
    fn from(_: Busy) -> Self {
        Fault::Busy
    }
}

/// The blocks that a byte range touches.
fn covering(range: ByteRange) -> BlockRange {
    let first = range.offset / BLOCK_BYTES as u64;
    let end = (range.offset + range.bytes).div_ceil(BLOCK_BYTES as u64);
    BlockRange {
        first: Block(first),
        count: u32::try_from(end - first).expect("the machine bounds every range below 16 TiB"),
    }
}

/// Whether a byte range is whole blocks.
fn is_whole(range: ByteRange) -> bool {
    range.offset.is_multiple_of(BLOCK_BYTES as u64)
        && range.bytes.is_multiple_of(BLOCK_BYTES as u64)
}

/// Cuts a range into parts of at most [`PIECE_BYTES`], the later ones beginning at whole blocks.
fn pieces(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let end = range.offset + range.bytes;
    let mut at = range.offset;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let block_start = at / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let next = end.min(block_start + PIECE_BYTES as u64);
        let piece = ByteRange {
            offset: at,
            bytes: next - at,
        };
        at = next;
        Some(piece)
    })
}

#[cfg(test)]
mod tests;
