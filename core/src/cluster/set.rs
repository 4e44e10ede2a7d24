//! What the masters keep about a volume's copies: the reign, the primary, the in-sync set.
//!
//! The in-sync set S is the promise behind every failover: under `SyncAll` each of its members has
//! everything that is committed; under `SyncQuorum` with three or more members all but one of them
//! have any given committed record, with fewer each has everything. [`VolumeSet::answers_needed`] is
//! the consequence. Source: PacificA (Lin et al. 2008) §2.3 and Raft (Ongaro 2014) §3.6.

use super::limits::REPLICAS_MAX;
use crate::id::{NodeId, StoreId};
use crate::lsn::Epoch;
use alloc::vec::Vec;

/// When a write of a replicated volume is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Durable on every copy of the in-sync set.
    SyncAll,
    /// Durable on all but one copy of an in-sync set of three, and never on fewer than two copies.
    SyncQuorum,
    /// Durable on the primary: the loss of its store may lose what was acknowledged.
    BestEffort,
}

/// One copy of a volume, as registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The store that holds it, which names it.
    pub store: StoreId,
    /// The node of that store.
    pub node: NodeId,
    /// It has what the mode requires: it may be promoted.
    pub in_sync: bool,
    /// It was created on its store. Until then it is a member only of the volume's very first set.
    pub created: bool,
    /// What it holds must be removed before it is created again: it may have diverged from a copy
    /// that was promoted by force. Implies `!created` and `!in_sync`.
    pub discard: bool,
}

/// The registered truth about the copies of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSet {
    /// The present reign.
    pub epoch: Epoch,
    /// Rises with each change inside a reign and is never reused in it. Commits compare both.
    pub set_version: u64,
    /// Whose reign it is; a member of the in-sync set.
    pub primary: StoreId,
    /// All copies, [`REPLICAS_MAX`] at most, each on another node.
    pub replicas: Vec<Replica>,
    /// Copies wanted: 1 to 3.
    pub copies_wanted: usize,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// The mode before, until the primary has confirmed that it commits by the new one. Elections obey
    /// both.
    pub durability_was: Option<Durability>,
}

impl VolumeSet {
    /// The first reign of a new volume: all copies are empty, so all are in sync from the start,
    /// though none is created yet. `stores[0]` is the primary.
    pub fn first(stores: &[(StoreId, NodeId)], durability: Durability, wanted: usize) -> Self {
        let replicas = stores.iter().map(|&(store, node)| Replica {
            store,
            node,
            in_sync: true,
            created: false,
            discard: false,
        });
        VolumeSet {
            epoch: Epoch(1),
            set_version: 1,
            primary: stores.first().expect("a volume has a copy").0,
            replicas: replicas.collect(),
            copies_wanted: wanted,
            durability,
            durability_was: None,
        }
    }

    /// The copy on `store`.
    pub fn replica(&self, store: StoreId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }

    /// The copy on `store`, to be changed.
    pub(crate) fn replica_mut(&mut self, store: StoreId) -> Option<&mut Replica> {
        self.replicas
            .iter_mut()
            .find(|replica| replica.store == store)
    }

    /// The in-sync set.
    pub fn in_sync(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.in_sync)
    }

    /// The stores of the in-sync set, ascending.
    pub fn in_sync_stores(&self) -> Vec<StoreId> {
        let mut stores: Vec<_> = self.in_sync().map(|replica| replica.store).collect();
        stores.sort_unstable();
        stores
    }

    /// Makes exactly `stores` the in-sync set.
    pub(crate) fn set_in_sync(&mut self, stores: &[StoreId]) {
        for replica in &mut self.replicas {
            replica.in_sync = stores.contains(&replica.store);
        }
    }

    /// Copies of this volume that an assignment names: those that exist, or shall from the start.
    pub fn members(&self) -> impl Iterator<Item = &Replica> {
        let kept = |replica: &&Replica| replica.created || replica.in_sync;
        self.replicas.iter().filter(kept)
    }

    /// One copy that needs no peer: it serves without leases and survives the masters' absence.
    pub fn is_alone(&self) -> bool {
        self.copies_wanted == 1 && self.replicas.len() == 1
    }

    /// True while writes may be committed on fewer copies than the whole in-sync set.
    pub fn counts_by_quorum(&self) -> bool {
        self.durability == Durability::SyncQuorum
            || self.durability_was == Some(Durability::SyncQuorum)
    }

    /// Members of the in-sync set that must have answered a fence, so that one of them is certain to
    /// have any committed record.
    pub fn answers_needed(&self) -> usize {
        let in_sync = self.in_sync().count();
        if self.counts_by_quorum() && in_sync >= 3 {
            2
        } else {
            1
        }
    }

    /// Panics when the registry holds what no decision could have produced.
    pub fn check(&self) {
        let primary = self.replica(self.primary).expect("the primary is a copy");
        assert!(primary.in_sync); // Whoever reigns has everything.
        assert!((1..=3).contains(&self.copies_wanted));
        assert!(self.replicas.len() <= REPLICAS_MAX);
        for replica in &self.replicas {
            assert!(!(replica.discard && replica.created));
            assert!(!(replica.discard && replica.in_sync));
        }
    }
}
