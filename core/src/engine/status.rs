//! What a copy of a shared volume tells about itself, for reports.

use super::Role;
use crate::id::StoreId;
use crate::lsn::{Epoch, Lsn};
use crate::peer::DetachReason;
use alloc::vec::Vec;
use core::time::Duration;

/// One copy of a shared volume, and what its primary knows of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is.
    pub role: Role,
    /// The reign it has that role in; 0 before the first assignment since the start.
    pub epoch: Epoch,
    /// Durable: no lower epoch is obeyed.
    pub promised: Epoch,
    /// Whether hosts are served at this moment.
    pub serving: bool,
    /// Why not, for people; empty when it serves or is not meant to.
    pub reason: &'static str,
    /// Version of the registered in-sync set, as far as it was told.
    pub set_version: u64,
    /// The registered in-sync set, as far as it was told.
    pub in_sync: Vec<StoreId>,
    /// Its last durable record.
    pub durable: Lsn,
    /// What it knows to be committed.
    pub committed: Lsn,
    /// Of a secondary: since it last heard its primary; `None` when it never did.
    pub primary_silent: Option<Duration>,
    /// Of a primary: the other copies.
    pub copies: Vec<CopyStatus>,
}

/// Another copy, in the eyes of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// Which.
    pub replica: StoreId,
    /// How far it is.
    pub state: CopyState,
    /// What it reported as durable.
    pub durable: Lsn,
    /// Records that it does not have durable yet.
    pub lag: u64,
    /// Of a resync: bytes that were durable there.
    pub resync_done_bytes: u64,
    /// Of a resync: bytes in all, as far as they are known.
    pub resync_total_bytes: u64,
    /// Of a resync: rate over its last seconds.
    pub resync_bytes_per_second: u64,
    /// It was slow: for so long it is not proposed for the set; zero when it may be.
    pub slow_left: Duration,
    /// Why it does not follow; `None` when it does, or cannot be reached.
    pub refusal: Option<DetachReason>,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyState {
    /// No stream.
    Down,
    /// Its history is being asked for, or it is being adopted.
    Attaching,
    /// It gets the records it lacks.
    CatchingUp,
    /// It gets the blocks it lacks.
    Resyncing,
    /// It has everything; the masters are asked to register it.
    Joining,
    /// In the registered set.
    InSync,
}
