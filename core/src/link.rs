//! The control link: messages between the node agent and the volume server on the same node.
//!
//! A Unix stream socket; the agent listens, the volume server connects and reconnects for ever.
//! Both ends check `SO_PEERCRED`: the peer runs as the same user or as root. Every message is a
//! little-endian `u32` length (at most [`LINK_MESSAGE_BYTES_MAX`]) and a [`Message`]. The first
//! message of each direction is `hello`, then `welcome`; anything else before them closes the link.
//!
//! Invariants: an assignment is retained by the agent until a reply with its `request_id` and result
//! OK came back, and is sent again after each reconnect; applying it twice is the same as once. An
//! assignment with a lower epoch than the one applied is refused. Losing the link stops no host I/O.

use crate::limits::LINK_MESSAGE_BYTES_MAX;
use alloc::string::String;
use alloc::vec::Vec;
use prost::Message as _;

/// Version spoken by this build. A peer whose range does not contain it is refused with a reason.
pub const VERSION: u32 = 1;

/// One message of either direction.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// Chosen by the sender of a request, repeated in its reply; 0 for messages without a reply.
    #[prost(uint64, tag = "1")]
    pub request_id: u64,
    /// What it says.
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6, 7, 8")]
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
    /// Every store it was started with.
    #[prost(message, repeated, tag = "1")]
    pub stores: Vec<StoreReport>,
    /// Every volume of those stores.
    #[prost(message, repeated, tag = "2")]
    pub volumes: Vec<VolumeReport>,
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
