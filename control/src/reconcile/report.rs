//! What volume servers say.

use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::lsn::{Epoch, Lsn};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a copy is in a reign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The only copy.
    #[default]
    Alone,
    /// Serves hosts and orders their writes.
    Primary,
    /// Follows the primary.
    Secondary,
}

/// A store as its volume server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// `None` when it could not be read.
    pub id: Option<StoreId>,
    /// Path on the command line of the volume server.
    pub path: String,
    /// Why it does not serve; empty while it does.
    pub failed: String,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes not used.
    pub free_bytes: u64,
    /// Bytes of the log in use.
    pub wal_used_bytes: u64,
    /// Bytes of the log.
    pub wal_capacity_bytes: u64,
    /// Shard that owns it.
    pub shard: u32,
}

/// A copy as its volume server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeReport {
    /// Which.
    pub id: VolumeId,
    /// Store it is on.
    pub store: StoreId,
    /// The reign under which it is served; `Epoch(0)`: stored, not assigned.
    pub epoch: Epoch,
    /// The version of the in-sync set that it knows.
    pub set_version: u64,
    /// What it is now.
    pub role: Role,
    /// Hosts' commands are carried out.
    pub serving: bool,
    /// The highest epoch promised.
    pub promised: Epoch,
    /// Up to where it is durable.
    pub durable: Lsn,
    /// Up to where it knows that all is committed.
    pub committed: Lsn,
    /// It lacks changes.
    pub resyncing: bool,
    /// Secondary: since when it has not heard its primary; `None`: never.
    pub primary_silent: Option<Duration>,
    /// Primary: the others.
    pub copies: Vec<CopyReport>,
    /// Size.
    pub size_bytes: u64,
    /// Bytes it occupies.
    pub used_bytes: u64,
    /// Sessions logged in.
    pub sessions: u32,
    /// Why it is not served; empty while it is.
    pub failed: String,
    /// Damaged blocks that hosts got from another copy, since the volume server started.
    pub blocks_healed: u64,
    /// Damaged blocks that were written again here, since the volume server started.
    pub blocks_repaired: u64,
}

/// Another copy in the eyes of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// Which.
    pub store: StoreId,
    /// How it is.
    pub state: CopyState,
    /// Records that it lacks.
    pub lag: u64,
    /// Bytes of the resync done.
    pub resync_done_bytes: u64,
    /// Bytes of the resync in all.
    pub resync_total_bytes: u64,
    /// Its speed now.
    pub resync_bytes_per_second: u64,
    /// It was slow: for so long it is kept out of the in-sync set; zero: it is not.
    pub slow_left: Duration,
    /// Why it does not follow; empty when it does, or cannot be reached.
    pub refusal: String,
}

/// How a copy is, in the eyes of its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// No stream to it.
    Down,
    /// Where it stands is being asked.
    Attaching,
    /// It gets the records that it lacks.
    CatchingUp,
    /// It gets the blocks that it lacks.
    Resyncing,
    /// It has all, and waits to be registered.
    Joining,
    /// It belongs to the in-sync set.
    InSync,
}

/// What a volume server says it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its stores.
    pub stores: Vec<StoreReport>,
    /// Their volumes.
    pub volumes: BTreeMap<VolumeId, VolumeReport>,
    /// Stores not opened yet; they are not among `stores`.
    pub stores_opening: u32,
}

/// A volume server that said hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Process id.
    pub pid: u32,
    /// Where its portals listen.
    pub portals: Vec<String>,
    /// Where it listens for peers; empty: nowhere.
    pub peer_address: String,
}

/// A copy's answer to a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// Which volume.
    pub volume: VolumeId,
    /// Which copy.
    pub store: StoreId,
    /// The promise is durable.
    pub obeyed: bool,
    /// The highest epoch promised.
    pub promised: Epoch,
    /// Epoch of its last durable record.
    pub last_epoch: Epoch,
    /// Its last durable LSN.
    pub last: Lsn,
    /// It lacks changes.
    pub resyncing: bool,
    /// How long the lease that it granted still runs.
    pub lease_left: Duration,
    /// Why not; empty when obeyed.
    pub reason: String,
}
