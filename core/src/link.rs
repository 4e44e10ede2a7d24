//! The control link: messages between the node agent and the volume server on the same node.
//!
//! A Unix stream socket; the agent listens, the volume server connects and reconnects for ever.
//! Both ends check `SO_PEERCRED`: the peer runs as the same user or as root. Every message is a
//! little-endian `u32` length (at most [`LINK_MESSAGE_BYTES_MAX`]) and a [`Message`]. The first
//! message of each direction is `hello`, then `welcome`; anything else before them closes the link.
//!
//! Invariants: an assignment is retained by the agent until a reply with its `request_id` and result
//! OK came back, and is sent again after each reconnect; applying it twice is the same as once. An
//! assignment with a lower epoch than the one applied is refused, one of a lower `set_version` in the
//! same epoch too. Losing the link stops no host I/O.
//!
//! `Fence` is answered by `Fenced`, `Propose` by `ProposalAnswer`, each with the request's id; the two
//! directions number their requests independently.

use crate::limits::LINK_MESSAGE_BYTES_MAX;
use alloc::string::String;
use alloc::vec::Vec;
use prost::Message as _;

/// Version spoken by this build. A peer whose range does not contain it is refused with a reason.
pub const VERSION: u32 = 2;

/// One message of either direction.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// Chosen by the sender of a request, repeated in its reply; 0 for messages without a reply.
    #[prost(uint64, tag = "1")]
    pub request_id: u64,
    /// What it says.
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub body: Option<Body>,
}

/// The kinds of message.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// First message, volume server to agent.
    #[prost(message, tag = "2")]
    Hello(Hello),
    /// Its answer, agent to volume server.
    #[prost(message, tag = "3")]
    Welcome(Welcome),
    /// Agent to volume server: serve this volume, or change how it is served.
    #[prost(message, tag = "4")]
    Assign(Assignment),
    /// Agent to volume server: stop serving this volume and free its space.
    #[prost(message, tag = "5")]
    Remove(Removal),
    /// Volume server to agent: the result of `Assign`, `Remove` or `Drain`.
    #[prost(message, tag = "6")]
    Reply(Reply),
    /// Volume server to agent, once a second and after each change: what is.
    #[prost(message, tag = "7")]
    Report(Report),
    /// Agent to volume server: log hosts out, checkpoint, close the stores, exit.
    #[prost(message, tag = "8")]
    Drain(Drain),
    /// Agent to volume server: this copy obeys no reign below this epoch any more; say how far it is.
    #[prost(message, tag = "9")]
    Fence(Fence),
    /// Volume server to agent: the answer.
    #[prost(message, tag = "10")]
    Fenced(Fenced),
    /// Volume server to agent: the primary wants another in-sync set registered.
    #[prost(message, tag = "11")]
    Propose(Propose),
    /// Agent to volume server: the masters' answer.
    #[prost(message, tag = "12")]
    ProposalAnswer(ProposalAnswer),
}

/// Who connects.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Lowest link version the sender speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Highest link version the sender speaks.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// Process id of the volume server.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// Addresses on which the iSCSI portals listen, as `ADDR:PORT`.
    #[prost(string, repeated, tag = "4")]
    pub portals: Vec<String>,
    /// The state at this moment.
    #[prost(message, optional, tag = "5")]
    pub report: Option<Report>,
    /// Where volume servers of other nodes reach this one, `ADDR:PORT`; empty: nowhere, so it takes
    /// no copies of replicated volumes.
    #[prost(string, tag = "6")]
    pub peer_address: String,
}

/// The agent's answer to [`Hello`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// The version that both will speak; 0 when refused.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Why it was refused; empty when accepted.
    #[prost(string, tag = "2")]
    pub refused: String,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub cluster_id: Vec<u8>,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub node_id: Vec<u8>,
}

/// What a volume is and how this node serves it. Complete: it replaces the one before.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Assignment {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub volume_id: Vec<u8>,
    /// Name, `[a-z0-9][a-z0-9.-]{0,62}`; for messages only, the id is the identity.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Size in bytes, a multiple of 4096. Never shrinks.
    #[prost(uint64, tag = "3")]
    pub size_bytes: u64,
    /// The reign under which this node serves.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// Store that holds the copy, 16 bytes. The volume is created there when it does not exist.
    #[prost(bytes = "vec", tag = "5")]
    pub store_id: Vec<u8>,
    /// iSCSI target name; the volume is its LUN 0.
    #[prost(string, tag = "6")]
    pub iqn: String,
    /// Addresses to announce in SendTargets, as `ADDR:PORT`; empty: the address the host came to.
    #[prost(string, repeated, tag = "7")]
    pub advertised_portals: Vec<String>,
    /// Who may log in.
    #[prost(message, optional, tag = "8")]
    pub access: Option<Access>,
    /// True only in the very first assignment of a new volume: it may be created. Otherwise a
    /// missing volume is an error, never silently an empty disk.
    #[prost(bool, tag = "9")]
    pub create: bool,
    /// What this copy is in the reign.
    #[prost(enumeration = "Role", tag = "10")]
    pub role: i32,
    /// All copies of the volume, this one included; empty for [`Role::Alone`].
    #[prost(message, repeated, tag = "11")]
    pub members: Vec<Member>,
    /// Version of the in-sync set within the epoch.
    #[prost(uint64, tag = "12")]
    pub set_version: u64,
    /// When a write of a replicated volume is acknowledged.
    #[prost(enumeration = "Durability", tag = "13")]
    pub durability: i32,
    /// How hosts find the primary.
    #[prost(enumeration = "Paths", tag = "14")]
    pub paths: i32,
}

/// What a copy is in a reign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Role {
    /// The only copy.
    Alone = 0,
    /// Serves hosts and orders their writes.
    Primary = 1,
    /// Follows the primary.
    Secondary = 2,
}

/// When a write of a replicated volume is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Durability {
    /// Durable on every copy of the in-sync set.
    SyncAll = 0,
    /// Durable on a majority of the configured three copies.
    SyncQuorum = 1,
    /// Durable on the primary only: the loss of its node may lose acknowledged writes.
    BestEffort = 2,
}

/// How hosts find the primary among the nodes with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Paths {
    /// The others send logins on to it.
    Redirect = 0,
    /// All take logins; the others report standby (ALUA).
    Multipath = 1,
}

/// One copy of a replicated volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Member {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub store_id: Vec<u8>,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub node_id: Vec<u8>,
    /// Where its volume server listens for peers, `ADDR:PORT`; empty while unknown.
    #[prost(string, tag = "3")]
    pub peer_address: String,
    /// It belongs to the in-sync set.
    #[prost(bool, tag = "4")]
    pub in_sync: bool,
    /// Its iSCSI portals, `ADDR:PORT`.
    #[prost(string, repeated, tag = "5")]
    pub portals: Vec<String>,
    /// It is the primary of the reign.
    #[prost(bool, tag = "6")]
    pub primary: bool,
}

/// An order to obey no reign below `epoch`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fence {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub volume_id: Vec<u8>,
    /// The reign that may follow.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Which copy, 16 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub store_id: Vec<u8>,
}

/// What a copy is, after it was fenced or refused to be.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fenced {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub volume_id: Vec<u8>,
    /// The promise is durable. False: `reason` says why not, `epoch` what is promised already.
    #[prost(bool, tag = "2")]
    pub ok: bool,
    /// The epoch promised.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Epoch of its last durable record.
    #[prost(uint64, tag = "4")]
    pub last_epoch: u64,
    /// Its last durable LSN.
    #[prost(uint64, tag = "5")]
    pub last_lsn: u64,
    /// Up to where it knows that all is committed.
    #[prost(uint64, tag = "6")]
    pub committed_lsn: u64,
    /// It lacks changes and must not be promoted.
    #[prost(bool, tag = "7")]
    pub resyncing: bool,
    /// Milliseconds until the lease that it granted to the old primary has run out; 0: it was the
    /// primary, and serves no more.
    #[prost(uint64, tag = "8")]
    pub lease_left_ms: u64,
    /// Why not; empty when `ok`.
    #[prost(string, tag = "9")]
    pub reason: String,
    /// Which copy, 16 bytes.
    #[prost(bytes = "vec", tag = "10")]
    pub store_id: Vec<u8>,
}

/// A primary's wish for another in-sync set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Propose {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub volume_id: Vec<u8>,
    /// The primary's reign.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The set that it replaces.
    #[prost(uint64, tag = "3")]
    pub set_version: u64,
    /// The stores of the wanted set, 16 bytes each.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub in_sync: Vec<Vec<u8>>,
    /// For people.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// The primary's copy, 16 bytes.
    #[prost(bytes = "vec", tag = "6")]
    pub store_id: Vec<u8>,
    /// The durability by which the primary commits alone, once every member of its set has everything
    /// committed: 1 more than the [`Durability`]; 0: not said.
    #[prost(int32, tag = "7")]
    pub settled: i32,
}

/// The masters' answer to [`Propose`]: what is registered now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProposalAnswer {
    /// The set is registered.
    #[prost(bool, tag = "1")]
    pub accepted: bool,
    /// The epoch registered; higher than the proposer's: it is no longer the primary.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Version of the set registered.
    #[prost(uint64, tag = "3")]
    pub set_version: u64,
    /// The set registered.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub in_sync: Vec<Vec<u8>>,
    /// Why not; empty when accepted.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "6")]
    pub volume_id: Vec<u8>,
}

/// Who may log in to a target, and with which proof.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Access {
    /// Initiator names that may log in; empty: all.
    #[prost(string, repeated, tag = "1")]
    pub initiators: Vec<String>,
    /// CHAP user that hosts must prove to be; empty: no CHAP.
    #[prost(string, tag = "2")]
    pub chap_user: String,
    /// Its secret, 12 to 255 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub chap_secret: Vec<u8>,
    /// Name under which the target proves itself to hosts (mutual CHAP); empty: it does not.
    #[prost(string, tag = "4")]
    pub mutual_user: String,
    /// Its secret, 12 to 255 bytes, other than `chap_secret`.
    #[prost(bytes = "vec", tag = "5")]
    pub mutual_secret: Vec<u8>,
}

/// Which volume to remove.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Removal {
    /// 16 bytes. Removing an unknown volume is a success: it is gone.
    #[prost(bytes = "vec", tag = "1")]
    pub volume_id: Vec<u8>,
}

/// An orderly end of the volume server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Drain {}

/// Result of a request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// What kind of failure; [`ReplyCode::Ok`] when none.
    #[prost(enumeration = "ReplyCode", tag = "1")]
    pub code: i32,
    /// For people: what happened and what to do. Empty when OK.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Kinds of [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ReplyCode {
    /// Done and durable.
    Ok = 0,
    /// The request contradicts itself or a limit.
    Invalid = 1,
    /// The store or the volume is not here.
    NotFound = 2,
    /// Not enough free space.
    NoSpace = 3,
    /// A lower epoch than the one in force.
    StaleEpoch = 4,
    /// The store failed; it serves nothing until it is replaced.
    StoreFailed = 5,
    /// Try again later.
    Busy = 6,
}

/// What is, in the eyes of the volume server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// Every store it was started with, once it is open or known to be unusable.
    #[prost(message, repeated, tag = "1")]
    pub stores: Vec<StoreReport>,
    /// Every volume of those stores.
    #[prost(message, repeated, tag = "2")]
    pub volumes: Vec<VolumeReport>,
    /// Stores it was started with and has not opened yet; they are not among `stores`.
    #[prost(uint32, tag = "3")]
    pub stores_opening: u32,
}

/// One store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoreReport {
    /// 16 bytes; empty when the store could not be read.
    #[prost(bytes = "vec", tag = "1")]
    pub store_id: Vec<u8>,
    /// Path as given on the command line.
    #[prost(string, tag = "2")]
    pub path: String,
    /// Empty while it serves; else why it does not.
    #[prost(string, tag = "3")]
    pub failed: String,
    /// Bytes that volumes can fill, in all.
    #[prost(uint64, tag = "4")]
    pub capacity_bytes: u64,
    /// Bytes that volumes can still fill.
    #[prost(uint64, tag = "5")]
    pub free_bytes: u64,
    /// Bytes of the write-ahead log that are in use.
    #[prost(uint64, tag = "6")]
    pub wal_used_bytes: u64,
    /// Bytes of the write-ahead log.
    #[prost(uint64, tag = "7")]
    pub wal_capacity_bytes: u64,
    /// Index of the shard that owns it.
    #[prost(uint32, tag = "8")]
    pub shard: u32,
}

/// One volume.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VolumeReport {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub volume_id: Vec<u8>,
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub store_id: Vec<u8>,
    /// The reign under which it serves; 0 when it is stored here but not assigned yet.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Size in bytes.
    #[prost(uint64, tag = "4")]
    pub size_bytes: u64,
    /// Bytes it occupies.
    #[prost(uint64, tag = "5")]
    pub used_bytes: u64,
    /// Highest durable LSN.
    #[prost(uint64, tag = "6")]
    pub durable_lsn: u64,
    /// Sessions logged in now.
    #[prost(uint32, tag = "7")]
    pub sessions: u32,
    /// Host commands completed since the volume server started: reads, writes, others.
    #[prost(uint64, repeated, tag = "8")]
    pub commands: Vec<u64>,
    /// Why it is not served; empty while it is.
    #[prost(string, tag = "9")]
    pub failed: String,
    /// What this copy is now. A copy of a replicated volume without a reign says secondary.
    #[prost(enumeration = "Role", tag = "10")]
    pub role: i32,
    /// Hosts' commands are carried out here now.
    #[prost(bool, tag = "11")]
    pub serving: bool,
    /// The in-sync set in force here, store ids of 16 bytes.
    #[prost(bytes = "vec", repeated, tag = "12")]
    pub in_sync: Vec<Vec<u8>>,
    /// Its version.
    #[prost(uint64, tag = "13")]
    pub set_version: u64,
    /// Up to where it knows that all is committed.
    #[prost(uint64, tag = "14")]
    pub committed_lsn: u64,
    /// Secondary: milliseconds since it last heard its primary; `u64::MAX` when never.
    #[prost(uint64, tag = "15")]
    pub primary_silent_ms: u64,
    /// Primary: the other copies.
    #[prost(message, repeated, tag = "16")]
    pub copies: Vec<CopyReport>,
    /// It is a copy of a replicated volume that lacks changes.
    #[prost(bool, tag = "17")]
    pub resyncing: bool,
    /// Highest epoch promised.
    #[prost(uint64, tag = "18")]
    pub promised_epoch: u64,
    /// Damaged blocks that hosts got from another copy, since the volume server started.
    #[prost(uint64, tag = "19")]
    pub blocks_healed: u64,
    /// Damaged blocks that were written again here, since the volume server started.
    #[prost(uint64, tag = "20")]
    pub blocks_repaired: u64,
}

/// Another copy in the eyes of the primary.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyReport {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub store_id: Vec<u8>,
    /// How it is.
    #[prost(enumeration = "CopyState", tag = "2")]
    pub state: i32,
    /// What it has durable.
    #[prost(uint64, tag = "3")]
    pub durable_lsn: u64,
    /// Records that it lacks.
    #[prost(uint64, tag = "4")]
    pub lag_lsn: u64,
    /// Bytes of the resync done.
    #[prost(uint64, tag = "5")]
    pub resync_done_bytes: u64,
    /// Bytes of the resync in all, as far as is known.
    #[prost(uint64, tag = "6")]
    pub resync_total_bytes: u64,
    /// Its speed now.
    #[prost(uint64, tag = "7")]
    pub resync_bytes_per_second: u64,
    /// It was slow: milliseconds for which it is kept out of the set; 0: it is not.
    #[prost(uint64, tag = "8")]
    pub slow_left_ms: u64,
    /// Why it does not follow; empty when it does, or cannot be reached.
    #[prost(string, tag = "9")]
    pub refusal: String,
}

/// How a copy is, in the eyes of its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum CopyState {
    /// No stream to it.
    Down = 0,
    /// The stream is up; where it stands is being asked.
    Attaching = 1,
    /// It gets the records that it lacks.
    CatchingUp = 2,
    /// It gets the blocks that it lacks.
    Resyncing = 3,
    /// It has all, and waits for the masters to register it.
    Joining = 4,
    /// It belongs to the in-sync set.
    InSync = 5,
}

/// A peer broke the framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A length over the limit.
    #[error("control link message of {0} bytes is over the limit of {LINK_MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    /// Not a [`Message`].
    #[error("control link message cannot be decoded")]
    Malformed,
}

/// The bytes of `message` on the link, length included.
pub fn encode(message: &Message) -> Result<Vec<u8>, LinkError> {
    let length = message.encoded_len();
    if length > LINK_MESSAGE_BYTES_MAX {
        return Err(LinkError::TooLong(length));
    }
    let prefix = u32::try_from(length).map_err(|_| LinkError::TooLong(length))?;
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&prefix.to_le_bytes());
    message
        .encode(&mut bytes)
        .map_err(|_| LinkError::Malformed)?;
    Ok(bytes)
}

/// Takes one message off the front of `bytes`: the message and the bytes it used, `None` when more
/// bytes are needed.
pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, LinkError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
    if length > LINK_MESSAGE_BYTES_MAX {
        return Err(LinkError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let message = Message::decode(body).map_err(|_| LinkError::Malformed)?;
    Ok(Some((message, 4 + length)))
}
