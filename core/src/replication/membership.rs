//! The in-sync set of a volume as its primary knows it: what is registered, and what may be.
//!
//! Invariant: until the masters answered with a higher version, every set that was proposed may be the
//! registered one; a member of any of them is required (for commits and for leases). One proposal is
//! under way; it is repeated for ever, because the answer may be lost.

use super::ReplicaId;
use crate::limits::{PROPOSAL_RETRY, PROPOSED_SETS_MAX};
use alloc::vec::Vec;
use core::time::Duration;

/// The sets of one reign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    version: u64,
    registered: Vec<ReplicaId>,
    /// Sets proposed since `version` was learned, the present one last.
    proposed: Vec<Vec<ReplicaId>>,
    asked: Duration,
}

impl Membership {
    /// As assigned.
    pub fn registered(version: u64, set: Vec<ReplicaId>) -> Self {
        Membership {
            version,
            registered: set,
            proposed: Vec::new(),
            asked: Duration::ZERO,
        }
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The registered set, as far as it is known.
    pub fn set(&self) -> &[ReplicaId] {
        &self.registered
    }

    /// Every set that may be registered now.
    pub fn sets(&self) -> impl Iterator<Item = &[ReplicaId]> {
        core::iter::once(&self.registered)
            .chain(&self.proposed)
            .map(Vec::as_slice)
    }

    /// Whether a copy may be in the registered set.
    pub fn requires(&self, replica: ReplicaId) -> bool {
        self.sets().any(|set| set.contains(&replica))
    }

    /// The set that was proposed and not answered.
    pub fn open(&self) -> Option<&[ReplicaId]> {
        self.proposed.last().map(Vec::as_slice)
    }

    /// Whether a set may be proposed now: none is open, or the open one is due again.
    pub fn may_ask(&self, now: Duration) -> bool {
        self.proposed.is_empty() || now >= self.asked + PROPOSAL_RETRY
    }

    /// A set is proposed. Another one than the open one only while [`PROPOSED_SETS_MAX`] allows; then the
    /// open one is asked again. Gives what to ask for.
    pub fn propose(&mut self, now: Duration, set: Vec<ReplicaId>) -> &[ReplicaId] {
        self.asked = now;
        if let Some(at) = self.proposed.iter().position(|known| *known == set) {
            let known = self.proposed.remove(at);
            self.proposed.push(known);
        } else if self.proposed.len() < PROPOSED_SETS_MAX {
            self.proposed.push(set);
        }
        self.proposed.last().expect("one was just proposed")
    }

    /// The masters told the registered set. False: nothing new.
    pub fn learn(&mut self, version: u64, set: Vec<ReplicaId>) -> bool {
        if version <= self.version {
            return false;
        }
        *self = Membership::registered(version, set);
        true
    }
}

#[cfg(test)]
mod tests;
