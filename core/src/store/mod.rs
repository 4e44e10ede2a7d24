//! One store: a preallocated file or block device, its write-ahead log, chunks and chunk map.
//!
//! The vocabulary between the store's machine and its driver. [`recovery::Recovery`] reads a store
//! and gives a [`machine::Store`]; that decides, and the driver performs its [`Effect`]s and answers
//! with [`Event`]s. Payload bytes never enter: a [`PayloadId`] names memory that the driver holds.
//!
//! Not here: files, buffers, range locks of partial blocks, the read cache, iSCSI.
//!
//! Invariants: a request is completed exactly once, and a write only after a sync *reported* that its
//! log frame is durable (I1). Blocks become visible to [`machine::Store::lookup`] at that moment, not
//! before. Nothing that the last durable checkpoint refers to is overwritten, except in place by
//! committed blocks that are still in the log. After a failed write or sync nothing succeeds any more.

mod admit;
pub mod append;
mod changes;
mod checkpoint;
mod commit;
mod contents;
mod flush;
mod follow;
pub mod format;
mod frames;
pub mod inspect;
pub mod layout;
mod lookup;
pub mod machine;
mod overlay;
mod pending;
mod position;
pub mod recovery;
mod replay;
mod slab;
pub mod superblock;

use self::append::{AppendBody, Resync, Sharing};
use crate::block::{Block, BlockRange, StoreOffset};
use crate::id::VolumeId;
use crate::lsn::{Epoch, Lsn};
use crate::replication::Reign;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// How a store behaves; not part of what is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// A completed write is durable already (`O_DSYNC` with FUA, or no volatile cache): the machine
    /// then asks for no sync at all.
    pub write_through: bool,
    /// Log use, in percent, at which a flush round starts without waiting for an idle moment.
    pub flush_percent: u64,
    /// Log use, in percent, at which writes wait for space in the log.
    pub hard_percent: u64,
    /// Bytes of log that one flush round covers at most.
    pub round_bytes_max: u64,
    /// Whole chunks that a write must cover before they bypass the log's payload; 0 is as 1.
    pub direct_chunks_min: u32,
    /// Chunks that a flush round copies at the same time.
    pub copies_in_flight_max: usize,
    /// Quiet time after which dirty blocks are flushed.
    pub idle: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            write_through: false,
            flush_percent: 25,
            hard_percent: 85,
            round_bytes_max: 256 << 20,
            direct_chunks_min: 1,
            copies_in_flight_max: 32,
            idle: Duration::from_secs(1),
        }
    }
}

/// A request of the driver; chosen by it, completed exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// An effect that wants an answer; chosen by the machine, unique while the store is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u64);

/// Host data, whole blocks, that the driver holds until [`Effect::Release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadId(pub u32);

/// Some blocks of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadSlice {
    /// Which payload.
    pub payload: PayloadId,
    /// First block, counted from the start of the payload.
    pub first_block: u32,
    /// Length in blocks, never 0.
    pub blocks: u32,
}

/// What happens to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Store these blocks. At most [`crate::limits::TRANSFER_BYTES_MAX`].
    Write {
        /// Request.
        tag: Tag,
        /// Where: the volume.
        volume: VolumeId,
        /// Where: the blocks, at least one.
        range: BlockRange,
        /// CRC32C of each block, computed at ingress.
        checksums: Vec<u32>,
        /// The data, `range.count` blocks.
        payload: PayloadId,
    },
    /// These blocks read as zeros afterwards and their space is returned. Never waits for space.
    Unmap {
        /// Request.
        tag: Tag,
        /// Where: the volume.
        volume: VolumeId,
        /// Where: the blocks, at least one.
        range: BlockRange,
    },
    /// Make this blob durable with the volume, instead of the one before.
    SetAttributes {
        /// Request.
        tag: Tag,
        /// The volume.
        volume: VolumeId,
        /// At most [`crate::limits::ATTRIBUTES_BYTES_MAX`] bytes.
        bytes: Vec<u8>,
    },
    /// Make an empty volume.
    CreateVolume {
        /// Request.
        tag: Tag,
        /// Its identity, never used before on this store.
        id: VolumeId,
        /// Its size in blocks.
        size_blocks: u64,
        /// Its first epoch.
        epoch: Epoch,
        /// Whether other stores have copies of it.
        sharing: Sharing,
    },
    /// Grow a volume. A smaller size is refused as [`RequestError::OutOfRange`].
    ResizeVolume {
        /// Request.
        tag: Tag,
        /// The volume.
        id: VolumeId,
        /// Its size in blocks from now on.
        size_blocks: u64,
    },
    /// The primary begins a reign: a record with the next LSN, which those of the reign follow. Ends when
    /// that record is durable here. An epoch below the promised one is refused.
    BeginEpoch {
        /// Request.
        tag: Tag,
        /// The volume.
        volume: VolumeId,
        /// Its epoch from now on.
        epoch: Epoch,
        /// Who decides from now on what is committed.
        sharing: Sharing,
    },
    /// Accept nothing of a reign before `epoch` any more. Ends when that is durable. An epoch below the
    /// promised one is refused.
    Promise {
        /// Request.
        tag: Tag,
        /// The volume.
        volume: VolumeId,
        /// The lowest epoch that is obeyed from now on.
        epoch: Epoch,
    },
    /// A secondary follows the reign `epoch`. Ends when that is durable. `keep` below what is committed
    /// here is refused as [`RequestError::OutOfRange`].
    Adopt {
        /// Request.
        tag: Tag,
        /// The volume.
        volume: VolumeId,
        /// The reign.
        epoch: Epoch,
        /// Records above it that are not committed are dropped. Not above what was appended here.
        keep: Lsn,
        /// The next record has the LSN behind it: `keep`, or more with `resync`.
        cut: Lsn,
        /// The primary's reigns that begin up to `cut`, ascending.
        reigns: Vec<Reign>,
        /// The copy lacks changes up to `cut` until [`Event::EndResync`].
        resync: Option<Resync>,
    },
    /// A secondary logs a record of the primary. Ends when it is durable here.
    Append {
        /// Request.
        tag: Tag,
        /// The volume.
        volume: VolumeId,
        /// The reign that sends it: the adopted one, else it is refused as [`RequestError::StaleEpoch`].
        reign: Epoch,
        /// The reign that it was written in; lower for a record that is sent again.
        epoch: Epoch,
        /// The next LSN, else it is refused as [`RequestError::OutOfRange`].
        lsn: Lsn,
        /// What it says.
        body: AppendBody,
        /// The data of a write or chunk.
        payload: Option<PayloadId>,
    },
    /// A secondary that resyncs logs committed data of the primary. Takes effect in log order. Ends
    /// when it is durable here.
    Fill {
        /// Request.
        tag: Tag,
        /// The volume.
        volume: VolumeId,
        /// The reign that sends it.
        reign: Epoch,
        /// What the blocks are; a reign it cannot begin.
        body: AppendBody,
        /// The data of a write or chunk.
        payload: Option<PayloadId>,
        /// The resync has filled everything below this block.
        cursor: Block,
    },
    /// Everything of a resync was filled. Ends when that is durable.
    EndResync {
        /// Request.
        tag: Tag,
        /// The volume.
        volume: VolumeId,
        /// The reign that filled it.
        reign: Epoch,
    },
    /// Records of a shared volume up to here are committed, as far as they are durable here. No answer.
    Commit {
        /// The volume.
        volume: VolumeId,
        /// The last of them; a lower one than before is ignored.
        up_to: Lsn,
    },
    /// Forget a volume and return its space. Requests on it that still run may end as
    /// [`RequestError::NotFound`].
    RemoveVolume {
        /// Request.
        tag: Tag,
        /// The volume.
        id: VolumeId,
    },
    /// An [`Effect::Write`] ended.
    WriteDone {
        /// Which.
        io: IoId,
        /// How.
        result: Result<(), IoFailure>,
    },
    /// An [`Effect::Copy`] ended.
    CopyDone {
        /// Which.
        io: IoId,
        /// How.
        result: Result<(), CopyFailure>,
    },
    /// An [`Effect::Sync`] ended: every write that was done when it was asked for is durable.
    SyncDone {
        /// Which.
        io: IoId,
        /// How.
        result: Result<(), IoFailure>,
    },
    /// Time passed. A few times a second is enough; the first one starts an opened store.
    Tick,
    /// Flush all that is committed now and complete when a checkpoint covers it (orderly shutdown).
    Checkpoint {
        /// Request.
        tag: Tag,
    },
}

/// What the driver has to do. Effects without order between them may run at the same time: a
/// [`Effect::Sync`] covers the writes whose [`Event::WriteDone`] the machine has already seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write, contiguous on the disk; answer with [`Event::WriteDone`].
    Write {
        /// Repeated in the answer.
        io: IoId,
        /// Where.
        offset: StoreOffset,
        /// What.
        data: Data,
        /// It is durable when it is done, it alone: other completed writes still need a sync.
        durable: bool,
    },
    /// Read each source block, verify its checksum, and write them one behind the other; answer with
    /// [`Event::CopyDone`]. When a source is bad nothing need be written.
    Copy {
        /// Repeated in the answer.
        io: IoId,
        /// One block each, at most [`crate::limits::CHUNK_BLOCKS`]; often neighbours on the disk.
        sources: Vec<CopySource>,
        /// Where the first goes.
        to: StoreOffset,
    },
    /// Make every completed write durable; answer with [`Event::SyncDone`].
    Sync {
        /// Repeated in the answer.
        io: IoId,
    },
    /// The request ended.
    Complete {
        /// Which.
        tag: Tag,
        /// How.
        result: Result<(), RequestError>,
    },
    /// No later effect refers to this payload. (After [`Effect::Failed`] the driver may still be
    /// writing from it; its memory lives until that ended.)
    Release {
        /// Which.
        payload: PayloadId,
    },
    /// A record of a shared volume that began here joined a log frame: it can be shipped meanwhile.
    /// The payload is not released before its request ends.
    Appended {
        /// The volume.
        volume: VolumeId,
        /// Its LSN.
        lsn: Lsn,
        /// Its reign.
        epoch: Epoch,
        /// What it says.
        body: AppendBody,
        /// The data of a write or chunk.
        payload: Option<PayloadSlice>,
    },
    /// This copy of a shared volume has every record up to this one durable.
    Durable {
        /// The volume.
        volume: VolumeId,
        /// The last of them.
        lsn: Lsn,
    },
    /// A committed block was found damaged when it was moved: it answers as [`Location::Bad`] until
    /// it is written again. To be logged.
    Lost {
        /// The volume.
        volume: VolumeId,
        /// The block.
        block: Block,
    },
    /// The store is dead for good; every waiting request was completed with
    /// [`RequestError::StoreFailed`]. To be logged.
    Failed {
        /// What failed.
        reason: String,
    },
}

/// The bytes of an [`Effect::Write`], a whole number of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A log frame: the header, then each payload slice in order.
    Frame {
        /// Whole blocks.
        header: Vec<u8>,
        /// Host data behind it; empty for frames without payload.
        payloads: Vec<PayloadSlice>,
    },
    /// Host data alone.
    Payload(PayloadSlice),
}

/// One block to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySource {
    /// Where it is.
    pub from: StoreOffset,
    /// Its CRC32C.
    pub checksum: u32,
}

/// An input or output operation failed; the driver has logged its details.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IoFailure(pub String);

/// How a copy failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFailure {
    /// This source (index into `sources`) could not be read or has another checksum.
    Source(usize),
    /// The write failed.
    Write(IoFailure),
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No free chunk or map page is left, and none is about to be freed.
    #[error("the store is full")]
    NoSpace,
    /// Too many requests wait already.
    #[error("too many requests are waiting")]
    Busy,
    /// No such volume.
    #[error("no such volume")]
    NotFound,
    /// The volume exists already.
    #[error("the volume exists already")]
    Exists,
    /// Beyond the end of the volume, a size or length out of bounds, or a shrinking resize.
    #[error("out of range")]
    OutOfRange,
    /// The epoch is lower than the volume's.
    #[error("the epoch is lower than the volume's")]
    StaleEpoch,
    /// The volume has no other copies.
    #[error("the volume is not shared")]
    NotShared,
    /// [`crate::limits::VOLUMES_PER_STORE_MAX`] volumes exist.
    #[error("the store holds no more volumes")]
    TooManyVolumes,
    /// A write or sync of this store failed.
    #[error("the store failed")]
    StoreFailed,
}

/// Where the blocks of a range are. Reused between lookups: a hot path without allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// In order, without gaps; as few as possible.
    pub extents: Vec<Extent>,
    /// CRC32C of each block of the range; 0 for zeros, and for lost blocks when nobody knows it.
    pub checksums: Vec<u32>,
}

/// A run of blocks in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in blocks.
    pub blocks: u32,
    /// Where.
    pub location: Location,
}

/// Where a run of blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Never written or unmapped: zeros.
    Zero,
    /// On the disk from this offset on.
    Stored(StoreOffset),
    /// Lost: not stored here until it is written again.
    Bad,
}

/// A run of equal provisioning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Length in blocks.
    pub blocks: u64,
    /// Whether space is used for it.
    pub mapped: bool,
}

/// A record that is not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRecord {
    /// Its LSN.
    pub lsn: Lsn,
    /// Its reign.
    pub epoch: Epoch,
    /// What it says.
    pub body: AppendBody,
    /// The data of a write or chunk.
    pub payload: PendingPayload,
}

/// Where the data of a pending record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingPayload {
    /// It has none.
    None,
    /// In memory that the driver holds for a request of this store.
    Held(PayloadSlice),
    /// On the disk from this offset on, as long as the record is pending.
    Stored(StoreOffset),
}

/// A run of blocks and how far it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// First block.
    pub first: Block,
    /// Length in blocks.
    pub blocks: u64,
    /// What became of it.
    pub kind: ChangeKind,
}

/// What became of blocks since an LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Something in their chunk changed, or may when it is committed.
    Data,
    /// Nothing is stored: zeros, whenever they became so.
    Zero,
    /// Nothing changed.
    Same,
}

/// A volume of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Identity.
    pub id: VolumeId,
    /// Size in blocks.
    pub size_blocks: u64,
    /// Who decides that its records are committed.
    pub sharing: Sharing,
    /// The reign that was begun or adopted last.
    pub epoch: Epoch,
    /// Durable: no lower epoch is obeyed.
    pub promised: Epoch,
    /// LSN of the last record in the log, durable or not; where an adopted position jumped, that.
    pub appended: Lsn,
    /// LSN up to which every record is durable here.
    pub durable: Lsn,
    /// LSN of the last record known to be committed.
    pub committed: Lsn,
    /// Epoch of the record `appended`, as far as the history tells.
    pub last_epoch: Epoch,
    /// The copy lacks changes.
    pub resync: Option<Resync>,
    /// Chunks that it uses, without those only in the log.
    pub chunks: u64,
    /// Its attributes blob is damaged: it must not be served, because nobody knows whose reservations
    /// hold. Setting the blob anew mends it.
    pub attributes_lost: bool,
}

/// How full a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Chunks of the store.
    pub chunks: u64,
    /// Chunks that a write can have now.
    pub chunks_free: u64,
    /// Chunks that come free with the next checkpoint.
    pub chunks_pending: u64,
    /// Page slots of the chunk map.
    pub pages: u64,
    /// Page slots in use.
    pub pages_used: u64,
    /// Bytes of the write-ahead log.
    pub log_bytes: u64,
    /// Bytes of it in use.
    pub log_bytes_used: u64,
    /// Requests that wait for a frame, for log space or for chunks.
    pub requests: usize,
    /// Whether the store failed for good.
    pub failed: bool,
}
