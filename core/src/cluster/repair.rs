//! Where copies belong, and which one to make or give up next: pure functions.
//!
//! A copy that is lost is replaced only after a while, since most come back; and not while so many
//! nodes are gone that the fault is more likely the network's or the masters' than theirs: copying
//! everything would then be the second disaster. One step at a time for each volume; the copy that
//! leaves goes last.

use super::set::{Replica, VolumeSet};
use crate::id::{NodeId, StoreId};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// A lost copy is replaced after this, unless told otherwise.
pub const REPLACE_AFTER: Duration = Duration::from_secs(600);

/// A node, as far as placement cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which.
    pub node: NodeId,
    /// What fails together; empty: the node alone.
    pub zone: String,
    /// For how long it has not been heard; `None`: it is heard.
    pub silent_for: Option<Duration>,
    /// Takes no new copies (`cordon`).
    pub cordoned: bool,
    /// Gives away those it has (`drain`); takes none.
    pub draining: bool,
    /// Its stores that serve.
    pub stores: Vec<Room>,
}

/// A store with room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Which.
    pub store: StoreId,
    /// Bytes free and not promised; a store with less than the volume's size takes no copy.
    pub room_bytes: u64,
    /// Copies that it has: of equal room, the store with fewer is chosen.
    pub copies: usize,
}

/// What to do for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Make a copy there.
    Add(StoreId, NodeId),
    /// Let another copy reign: this one's node is drained.
    MoveTo(StoreId),
    /// Give this copy up.
    Remove(StoreId),
    /// A copy is wanted, and not made because more than a third of the nodes is gone.
    Suspended,
    /// A copy is wanted, and no store may take it.
    NoPlace,
}

/// Chooses a store for a copy of `bytes` beside `copies`: never a second one on a node or in a zone.
pub fn place(places: &[Place], copies: &[NodeId], bytes: u64) -> Option<(StoreId, NodeId)> {
    let zone = |node: &NodeId| places.iter().find(|place| place.node == *node);
    let zones: Vec<&str> = copies
        .iter()
        .filter_map(|node| Some(zone(node)?.zone.as_str()))
        .filter(|zone| !zone.is_empty())
        .collect();
    let may = |place: &&Place| {
        place.silent_for.is_none()
            && !place.cordoned
            && !place.draining
            && !copies.contains(&place.node)
            && !zones.contains(&place.zone.as_str())
    };
    let rooms = places.iter().filter(may).flat_map(|place| {
        let fits = place
            .stores
            .iter()
            .filter(move |room| room.room_bytes >= bytes);
        fits.map(move |room| (room, place.node))
    });
    // The smaller id decides between equals, so that the choice can be told beforehand.
    let rank = |(room, _): &(&Room, NodeId)| {
        let few = core::cmp::Reverse(room.copies);
        (room.room_bytes, few, core::cmp::Reverse(room.store))
    };
    let best = rooms.max_by_key(rank);
    best.map(|(room, node)| (room.store, node))
}

/// The next step for a volume of `bytes`.
pub fn next_step(set: &VolumeSet, places: &[Place], bytes: u64, replace_after: Duration) -> Step {
    let place_of = |replica: &Replica| places.iter().find(|place| place.node == replica.node);
    let silent =
        |replica: &Replica| place_of(replica).map_or(Some(Duration::MAX), |p| p.silent_for);
    let draining = |replica: &Replica| place_of(replica).is_some_and(|place| place.draining);
    let lost = |replica: &Replica| {
        !replica.in_sync && silent(replica).is_some_and(|silent| silent >= replace_after)
    };
    let leaves = |replica: &Replica| lost(replica) || draining(replica);
    let stays = set.replicas.iter().filter(|r| !leaves(r)).count();
    let settled = set.replicas.iter().all(|r| r.in_sync || leaves(r));
    let reigns_there = set.replica(set.primary).is_some_and(draining);
    let heir = || set.in_sync().find(|r| !leaves(r));
    // First of all hosts are served elsewhere; the copies follow at leisure.
    if let Some(heir) = heir().filter(|_| reigns_there) {
        return Step::MoveTo(heir.store);
    }
    if stays < set.copies_wanted {
        let source = set.in_sync().any(|r| silent(r).is_none());
        if !source {
            return Step::Rest; // Nobody is there to copy from.
        }
        let gone = places
            .iter()
            .filter(|place| place.silent_for.is_some())
            .count();
        if gone * 3 > places.len() {
            return Step::Suspended;
        }
        // One replacement at a time: the set has room for one copy more.
        if set.replicas.len() > set.copies_wanted || !settled {
            return Step::Rest;
        }
        // Those that leave are away or draining: their zones are free again, their nodes not.
        let staying = set.replicas.iter().filter(|r| !leaves(r));
        let nodes: Vec<NodeId> = staying.map(|r| r.node).collect();
        return match place(places, &nodes, bytes) {
            Some((store, node)) => Step::Add(store, node),
            None => Step::NoPlace,
        };
    }
    // By quorum the set has no room for a fourth member: the one that leaves makes it.
    let needed = if set.counts_by_quorum() {
        2
    } else {
        set.copies_wanted
    };
    let enough = set.in_sync().filter(|r| !leaves(r)).count() >= needed;
    if set.replicas.len() <= set.copies_wanted || !enough {
        return Step::Rest;
    }
    let surplus = set.replicas.iter().find(|r| lost(r));
    let surplus = surplus.or_else(|| set.replicas.iter().find(|r| draining(r)));
    let behind = || set.replicas.iter().find(|r| !r.in_sync);
    let last = || set.replicas.iter().rfind(|r| r.store != set.primary);
    match surplus.or_else(behind).or_else(last) {
        Some(replica) if replica.store == set.primary => {
            heir().map_or(Step::Rest, |heir| Step::MoveTo(heir.store))
        }
        Some(replica) => Step::Remove(replica.store),
        None => Step::Rest,
    }
}

#[cfg(test)]
mod tests;
