//! How well a volume is: a state, a score, and the parts that make it.
//!
//! A pure function of what is registered and what was last heard. It decides nothing; people and
//! alarms look at it.

use super::message::CopyState;
use super::set::{Durability, VolumeSet};
use crate::id::StoreId;
use crate::lsn::Lsn;
use alloc::vec::Vec;

/// Records behind the primary from which a copy counts as lagging.
pub const LAG_RECORDS: u64 = 10_000;

/// The worst thing that is true of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As many copies in sync as wanted, and it is served.
    Healthy,
    /// Served, with fewer copies in sync than wanted, and none of the others is on its way back.
    Degraded,
    /// Served, with fewer copies in sync than wanted; another one is being brought up to date.
    Rebuilding,
    /// Served, and the next loss of a copy ends that or loses data.
    AtRisk,
    /// Not served.
    Unavailable,
}

/// How well one copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyHealth {
    /// Which copy.
    pub store: StoreId,
    /// Its node is heard and its volume server is there.
    pub reachable: bool,
    /// It belongs to the in-sync set.
    pub in_sync: bool,
    /// It lacks changes, and gets them.
    pub resyncing: bool,
    /// Its store failed, or it is missing.
    pub failed: bool,
    /// Records that the primary has durable and it has not, as last heard.
    pub lag_records: u64,
    /// 0 to 100: 40 in sync, 30 reachable, 20 not failed, 10 not lagging.
    pub score: u8,
}

/// The parts of a volume's score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// 40 when hosts are served.
    pub served: u8,
    /// Up to 40: in-sync, reachable copies of those wanted.
    pub copies: u8,
    /// Up to 20: the mean of the copies' scores.
    pub quality: u8,
}

impl Score {
    /// 0 to 100.
    pub fn total(self) -> u8 {
        self.served + self.copies + self.quality
    }
}

/// How well a volume is, with everything that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeHealth {
    /// The worst thing.
    pub health: Health,
    /// The parts of its score.
    pub score: Score,
    /// Its copies, in the order of the set.
    pub copies: Vec<CopyHealth>,
}

/// What was last heard of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its node is heard and its volume server is there.
    pub reachable: bool,
    /// What it said that it is, and up to where it is durable; `None`: nothing yet.
    pub said: Option<(CopyState, Lsn)>,
}

/// Judges a volume; `heard` gives what was last heard of a copy.
pub fn judge(set: &VolumeSet, heard: impl Fn(StoreId) -> Heard) -> VolumeHealth {
    let primary = heard(set.primary);
    let serving = CopyState::Primary { serving: true };
    let served = primary.reachable && primary.said.is_some_and(|(state, _)| state == serving);
    let head = primary.said.map_or(Lsn(0), |(_, durable)| durable);
    let replicas = set.replicas.iter();
    let copies: Vec<CopyHealth> = replicas
        .map(|replica| copy_health(replica.store, replica.in_sync, heard(replica.store), head))
        .collect();
    let safe = copies
        .iter()
        .filter(|c| c.in_sync && c.reachable && !c.failed);
    let safe = safe.count().min(set.copies_wanted);
    let returning = copies
        .iter()
        .any(|c| !c.in_sync && c.reachable && !c.failed);
    let health = if !served {
        Health::Unavailable
    } else if safe >= set.copies_wanted {
        Health::Healthy
    } else if safe <= least_copies(set) {
        Health::AtRisk
    } else if returning {
        Health::Rebuilding
    } else {
        Health::Degraded
    };
    let mean = copies.iter().map(|c| u32::from(c.score)).sum::<u32>() / count(copies.len()).max(1);
    let part = |whole: u32, of: u32, all: u32| u8::try_from(whole * of / all).unwrap_or(0);
    VolumeHealth {
        health,
        score: Score {
            served: if served { 40 } else { 0 },
            copies: part(40, count(safe), count(set.copies_wanted)),
            quality: part(20, mean, 100),
        },
        copies,
    }
}

/// Copies below which the next loss hurts: the last one, or by quorum the last two.
fn least_copies(set: &VolumeSet) -> usize {
    match set.durability {
        Durability::SyncQuorum => 2,
        Durability::SyncAll | Durability::BestEffort => 1,
    }
}

fn copy_health(store: StoreId, in_sync: bool, heard: Heard, head: Lsn) -> CopyHealth {
    let state = heard.said.map(|(state, _)| state);
    let failed = matches!(state, Some(CopyState::Failed | CopyState::Missing));
    let resyncing = matches!(state, Some(CopyState::Resyncing { .. }));
    let durable = heard.said.map_or(Lsn(0), |(_, durable)| durable);
    let lag_records = head.0.saturating_sub(durable.0);
    let level = !resyncing && lag_records < LAG_RECORDS;
    let parts = [
        (in_sync, 40),
        (heard.reachable, 30),
        (!failed, 20),
        (level, 10),
    ];
    CopyHealth {
        store,
        reachable: heard.reachable,
        in_sync,
        resyncing,
        failed,
        lag_records,
        score: parts.iter().filter(|part| part.0).map(|part| part.1).sum(),
    }
}

fn count(of: usize) -> u32 {
    u32::try_from(of).expect("a volume has a few copies")
}

#[cfg(test)]
mod tests;
