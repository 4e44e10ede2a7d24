//! The engine of one store: the store's machine, the replication machines of its shared volumes, and the
//! glue between them. What the shard and the simulator drive.
//!
//! Volumes with one copy pass straight through to [`crate::store::machine::Store`]. For shared ones the
//! engine decides who ships which record where, what is committed, and whether hosts may be served.
//! Payload bytes never enter: a [`PayloadId`] names memory that the driver holds.
//!
//! Not here: streams, buffers, range locks, who is primary (the masters decide that).
//!
//! Invariants: every request is completed exactly once; every payload that came in with an event is
//! released exactly once, also that of a message that was dropped.

pub mod machine;
pub mod status;

use crate::block::{Block, BlockRange, StoreOffset};
use crate::cluster::set::Durability;
use crate::id::{NodeId, StoreId, VolumeId};
use crate::lsn::{Epoch, Lsn};
use crate::peer::Message;
use crate::store::{self, PayloadId, PayloadSlice, RequestError, Tag};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// A stream to the store of another node; chosen by the driver, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Who opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// This side, because of [`Effect::OpenStream`].
    Here,
    /// The other.
    There,
}

/// A read for another copy; chosen by the engine, repeated in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FillId(pub u64);

/// A request for a damaged block; chosen by the driver, repeated in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealId(pub u64);

/// Why no other copy gave a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHealed {
    /// No copy that follows has it, in the bounded time.
    NoCopy,
    /// Too many are being asked for.
    Busy,
}

/// Blocks that were read, and have the checksums that the chunk map or the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The blocks, zeros included.
    pub payload: PayloadId,
    /// CRC32C of each, zeros included.
    pub checksums: Vec<u32>,
}

/// What is sent behind a message; as long as the message's checksums say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadRef {
    /// Part of a payload that the driver holds now; it may be released right after this effect.
    Slice(PayloadSlice),
    /// On the disk from this offset on. When its checksums are not the message's the stream ends.
    Stored(StoreOffset),
}

/// What a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The only one.
    Alone,
    /// Takes the hosts' commands.
    Primary,
    /// Follows a primary, or waits for it.
    Secondary,
    /// Neither, until it is told.
    Fenced,
}

/// One copy of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub replica: StoreId,
    /// On which node.
    pub node: NodeId,
    /// Where its volume server takes peer streams, as `ADDR:PORT`.
    pub address: String,
    /// Whether it is in the registered in-sync set.
    pub in_sync: bool,
}

/// What the masters decided about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The volume.
    pub volume: VolumeId,
    /// The reign.
    pub epoch: Epoch,
    /// Rises with each change of the in-sync set within a reign.
    pub set_version: u64,
    /// What this copy is; never [`Role::Fenced`].
    pub role: Role,
    /// All copies, this one too; may be empty when alone.
    pub members: Vec<Member>,
    /// When a write is committed.
    pub durability: Durability,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To the store. A host's request on a shared volume that is not served here ends as
    /// [`RequestError::StaleEpoch`].
    Store(store::Event),
    /// A message came. Its payload belongs to the engine until [`store::Effect::Release`]; its
    /// checksums were verified.
    Peer {
        /// On which stream.
        stream: StreamId,
        /// What.
        message: Message,
        /// The bytes behind it.
        payload: Option<PayloadId>,
    },
    /// A stream is ready. One that comes in for the same store replaces the one before.
    StreamUp {
        /// Which.
        stream: StreamId,
        /// The other end.
        store: StoreId,
        /// By whom.
        opened: Opened,
    },
    /// A stream ended; once for each that was up.
    StreamDown {
        /// Which.
        stream: StreamId,
    },
    /// What the masters decided. Ends as [`store::Effect::Complete`]: when a reign begins here, after
    /// that is durable.
    Assign {
        /// Request.
        tag: Tag,
        /// Complete; replaces the one before.
        assignment: Assignment,
    },
    /// Stop serving and following, obey nobody below this epoch. Ends as [`Effect::Fenced`].
    Fence {
        /// Request.
        tag: Tag,
        /// The volume.
        volume: VolumeId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The masters' answer to [`Effect::Propose`], or to one before it.
    ProposalAnswered {
        /// The volume.
        volume: VolumeId,
        /// Whether it was registered.
        accepted: bool,
        /// The registered reign.
        epoch: Epoch,
        /// The registered version.
        set_version: u64,
        /// The registered set.
        in_sync: Vec<StoreId>,
    },
    /// An [`Effect::ReadFill`] ended; the range is locked until this step is over.
    FillRead {
        /// Which.
        id: FillId,
        /// The blocks, zeros included; `None` when all are zeros.
        result: Result<Option<PayloadId>, RequestError>,
    },
    /// A block of a shared volume is damaged here: another copy is asked for it. Ends as
    /// [`Effect::Healed`].
    Heal {
        /// Request.
        id: HealId,
        /// The volume.
        volume: VolumeId,
        /// The block.
        block: Block,
        /// What its bytes have to have, by the own chunk map or log.
        checksum: u32,
    },
    /// An [`Effect::ReadBlocks`] ended.
    BlocksRead {
        /// Which.
        id: FillId,
        /// The blocks; `None` when not all of them are good here.
        found: Option<Verified>,
    },
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Of the store, or the end of a request; `Appended` and `Durable` never come out.
    Store(store::Effect),
    /// Queue a message. Ignored when the stream is down.
    Send {
        /// On which stream.
        stream: StreamId,
        /// What.
        message: Message,
        /// What follows it.
        payload: Option<PayloadRef>,
    },
    /// Keep a stream to this store open, with bounded backoff, until [`Effect::CloseStream`]. Again with
    /// another address: it moved.
    OpenStream {
        /// To which store.
        to: StoreId,
        /// Where it is.
        address: String,
    },
    /// No stream to this store is wanted any more.
    CloseStream {
        /// To which store.
        to: StoreId,
    },
    /// Lock these blocks against writers, read them as committed, answer with [`Event::FillRead`].
    ReadFill {
        /// Repeated in the answer.
        id: FillId,
        /// The volume.
        volume: VolumeId,
        /// Blocks of one chunk.
        range: BlockRange,
    },
    /// Read these blocks as committed, without a lock, and answer with [`Event::BlocksRead`].
    ReadBlocks {
        /// Repeated in the answer.
        id: FillId,
        /// The volume.
        volume: VolumeId,
        /// At most a chunk.
        range: BlockRange,
    },
    /// Answer to [`Event::Heal`].
    Healed {
        /// Request.
        id: HealId,
        /// The block, with the checksum asked for. It is released right after this effect.
        result: Result<PayloadId, NotHealed>,
    },
    /// Ask the masters to register this in-sync set. May be lost: it is asked again.
    Propose {
        /// The volume.
        volume: VolumeId,
        /// The reign.
        epoch: Epoch,
        /// The version that it follows.
        set_version: u64,
        /// The whole set.
        in_sync: Vec<StoreId>,
        /// The mode by which the primary commits alone, once all of its set have everything committed.
        settled: Option<Durability>,
        /// For people.
        reason: String,
    },
    /// Answer to [`Event::Fence`].
    Fenced {
        /// Request.
        tag: Tag,
        /// What it found.
        answer: Fenced,
    },
    /// The role, or the reign in which it is held, is another one from here on.
    RoleChanged {
        /// The volume.
        volume: VolumeId,
        /// What it is now.
        role: Role,
    },
}

/// What a fenced copy has. Nothing of it changes until it is assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// Whether it is fenced at the epoch that was asked for.
    pub ok: bool,
    /// The epoch promised.
    pub epoch: Epoch,
    /// Epoch of its last record.
    pub last_epoch: Epoch,
    /// Its last durable record.
    pub last: Lsn,
    /// What it knows to be committed.
    pub committed: Lsn,
    /// It lacks changes.
    pub resyncing: bool,
    /// How long a lease that it granted may still be held; 0 when it was the primary itself.
    pub lease_left: Duration,
    /// Why not, for people; empty when `ok`.
    pub reason: String,
}

/// Whether hosts are served from a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serve {
    /// Yes.
    Yes,
    /// Not at this moment: a lease is being renewed, or the reign is about to begin.
    Wait,
    /// No, and why.
    No(&'static str),
}
