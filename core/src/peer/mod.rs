//! The peer protocol: what the stores of two nodes say to each other about their copies of volumes.
//!
//! One TCP stream per pair (store of the primary's side, store of the other side), opened by the
//! primary's side; it carries all volumes of that pair. The first message of each direction is
//! [`Message::Hello`], then [`Message::Welcome`] or [`Message::Refused`]; anything else before them
//! closes the stream. The bytes of a message are in [`wire`].
//!
//! Not here: streams, queues, who says what when (that is [`crate::replication`]).
//!
//! Invariants: a message about a volume carries the epoch of its sender for that volume; payloads are
//! whole blocks and carry one CRC32C per block, verified on arrival; order on a stream is the order
//! of sending.

pub mod wire;

use crate::block::{Block, BlockRange};
use crate::id::{ClusterId, NodeId, StoreId, VolumeId};
use crate::lsn::{Epoch, Lsn};
use crate::replication::Reign;
use crate::store::append::{AppendBody, Resync};
use alloc::vec::Vec;

/// Version spoken by this build. A peer whose range does not contain it is refused.
pub const VERSION: u16 = 1;

/// One message of either direction; a payload may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First message of the side that opened the stream.
    Hello(Hello),
    /// Its answer: go on.
    Welcome {
        /// The version that both will speak.
        version: u16,
        /// The incarnation that answers; the one asked for.
        store: StoreId,
    },
    /// Its answer: the stream ends here.
    Refused(Refusal),
    /// Primary's side, every [`crate::limits::HEARTBEAT`].
    Heartbeat {
        /// Rises by one.
        seq: u64,
    },
    /// Its answer at once: grants the lease of every volume that is attached on this stream.
    HeartbeatAck {
        /// As asked.
        seq: u64,
    },
    /// About one volume.
    Volume {
        /// Which.
        volume: VolumeId,
        /// The sender's epoch for it: the reign of a primary, the promise of a secondary.
        epoch: Epoch,
        /// What.
        body: Body,
    },
}

/// Who opens a stream, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version the sender speaks.
    pub version_min: u16,
    /// Highest version the sender speaks.
    pub version_max: u16,
    /// Both must belong to it.
    pub cluster: ClusterId,
    /// The sender's node.
    pub from_node: NodeId,
    /// The sender's store.
    pub from_store: StoreId,
    /// The store it wants to speak with; another incarnation refuses.
    pub to_store: StoreId,
}

/// Why a stream was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No version in common.
    #[error("no protocol version in common")]
    Version,
    /// Another cluster.
    #[error("another cluster")]
    Cluster,
    /// This store is not here: another incarnation, another node, or not open yet.
    #[error("this store is not here")]
    Store,
    /// The store failed.
    #[error("the store failed")]
    StoreFailed,
    /// Too many streams.
    #[error("too many streams")]
    Busy,
}

/// What is said about a volume. "To the copy" is primary to secondary, "of the copy" the other way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// To the copy: who are you?
    Attach,
    /// Of the copy: what it has.
    Attached(Attached),
    /// To the copy: be a copy of this reign from here on.
    Adopt(Adopt),
    /// Of the copy: it is, durably.
    Adopted {
        /// Everything up to here is durable.
        durable: Lsn,
    },
    /// To the copy: the next record; payload as the body says.
    Record {
        /// Its number.
        lsn: Lsn,
        /// The reign it was written in; lower than the present one when it is sent again.
        epoch: Epoch,
        /// The commit point of the primary.
        committed: Lsn,
        /// What it says.
        body: AppendBody,
    },
    /// To the copy: everything up to here is committed.
    Commit {
        /// The commit point.
        up_to: Lsn,
    },
    /// Of the copy: everything up to here is durable.
    Ack {
        /// Cumulative.
        durable: Lsn,
    },
    /// To the copy: a change it lacks; payload as the body says.
    Fill {
        /// What it says; never `SetEpoch`.
        body: AppendBody,
        /// Everything below this block has been sent.
        cursor: Block,
    },
    /// Of the copy: fills are durable.
    Filled {
        /// The cursor of the last one.
        cursor: Block,
        /// How many fills are durable since the adoption.
        count: u64,
    },
    /// To the copy: that was all it lacked.
    EndResync,
    /// Of the copy: it lacks nothing any more, durably.
    Resynced,
    /// Either: no more about this volume on this stream until the next `Attach`.
    Detach(DetachReason),
    /// Either: send me committed blocks; for healing.
    ReadBlocks {
        /// Repeated in the answer.
        id: u64,
        /// At most a chunk.
        range: BlockRange,
    },
    /// Its answer; payload when `checksums` is not empty.
    Blocks {
        /// As asked.
        id: u64,
        /// As asked.
        range: BlockRange,
        /// What there is.
        found: Found,
    },
}

/// What a copy has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its last durable record.
    pub last: Lsn,
    /// What it knows to be committed.
    pub committed: Lsn,
    /// What it lacks.
    pub resync: Option<Resync>,
    /// Its size in blocks.
    pub size_blocks: u64,
    /// The reigns in its log, ascending; see [`crate::limits::PEER_REIGNS_MAX`].
    pub reigns: Vec<Reign>,
}

/// How a copy joins a reign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// Its records above are not the primary's: dropped.
    pub keep: Lsn,
    /// Its position afterwards; above `keep` only when it lacks changes.
    pub cut: Lsn,
    /// It may lack any change above this one, up to the cut.
    pub resync_base: Option<Lsn>,
    /// The primary's history up to the cut.
    pub reigns: Vec<Reign>,
}

/// Why a copy is not, or no more, attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DetachReason {
    /// The receiver's epoch has passed; the sender's is in the head.
    #[error("the epoch has passed")]
    StaleEpoch,
    /// The sender was not told of this reign yet; try again.
    #[error("not assigned to this reign yet")]
    NotAssigned,
    /// The sender has no such volume.
    #[error("no such volume here")]
    NotFound,
    /// The sender's store failed.
    #[error("the store failed")]
    StoreFailed,
    /// A message does not follow from the one before it; attach again.
    #[error("a message out of order")]
    OutOfOrder,
    /// The copy's history is not the primary's below its commit point; it has to be made anew.
    #[error("the copy's committed history is another")]
    Diverged,
    /// The sender follows no one any more.
    #[error("fenced")]
    Fenced,
    /// The primary is not to follow this copy any more: no member.
    #[error("not a member")]
    NotMember,
    /// No room for it now; try again.
    #[error("no room now")]
    Busy,
}

/// What was found of blocks asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Stored blocks and zeros; one CRC32C each, the payload follows.
    Data(Vec<u32>),
    /// A block is damaged there too, or not there.
    Nothing,
}

impl Message {
    /// CRC32C of each block of the payload behind this message; empty when there is none.
    pub fn payload_checksums(&self) -> &[u32] {
        let Message::Volume { body, .. } = self else {
            return &[];
        };
        match body {
            Body::Record { body, .. } | Body::Fill { body, .. } => body.checksums(),
            Body::Blocks {
                found: Found::Data(checksums),
                ..
            } => checksums,
            _ => &[],
        }
    }
}
