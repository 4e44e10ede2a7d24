//! Replication: who decides that a record of a volume is committed.
//!
//! Not here: shipping to peers, leases, rebuild. With one copy the same machine runs with one member.

pub mod primary;

use crate::lsn::{Epoch, Lsn};

/// Where one primary's reign begins in the log of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// Its epoch.
    pub epoch: Epoch,
    /// LSN of the record that begins it.
    pub start: Lsn,
}
