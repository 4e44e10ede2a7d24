//! Carries out what repair wants: copies are made elsewhere, moved and given up, one step at a time for
//! each volume. What the step is, `holdfast_core::cluster::repair` decides.
//!
//! Also ends deletions that wait for copies nobody can reach: their tombstones remove them later.

use super::Master;
use crate::limits::{DELETION_PATIENCE, MOVE_PAUSE, OVERCOMMIT_MAX, REPAIR_PAUSE, RESYNCS_MAX};
use crate::reconcile::StoreReport;
use crate::registry::Volume;
use crate::registry::database::StorageError;
use crate::view;
use holdfast_core::cluster::coordinator::{Activity, Coordinator};
use holdfast_core::cluster::message::Request;
use holdfast_core::cluster::repair::{Place, REPLACE_AFTER, Room, Step, next_step};
use holdfast_core::cluster::set::{Replica, VolumeSet};
use holdfast_core::id::{NodeId, StoreId, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is under way, and what cannot be done.
pub(super) struct Repairs {
    /// A copy whose node is gone for so long is replaced.
    pub(super) replace_after: Duration,
    /// No further step for the volume before.
    pauses: BTreeMap<VolumeId, Duration>,
    /// No further move of its primary before.
    moves: BTreeMap<VolumeId, Duration>,
    /// Since when a store of a node that is heard cannot be used.
    broken: BTreeMap<StoreId, Duration>,
    /// Why a wanted copy is not made, for people.
    obstacles: BTreeMap<VolumeId, String>,
}

impl Default for Repairs {
    fn default() -> Repairs {
        Repairs {
            replace_after: REPLACE_AFTER,
            pauses: BTreeMap::new(),
            moves: BTreeMap::new(),
            broken: BTreeMap::new(),
            obstacles: BTreeMap::new(),
        }
    }
}

impl Repairs {
    /// Why wanted copies are not made.
    pub(super) fn obstacles(&self) -> &BTreeMap<VolumeId, String> {
        &self.obstacles
    }
}

impl Master {
    /// One look at all volumes. Cost: O(volumes), and O(nodes) for each that needs something.
    pub(super) async fn repair(&mut self) -> Result<(), StorageError> {
        self.bury_unreachable().await?;
        self.watch_stores();
        let now = self.now();
        let Master { repairs, state, .. } = self;
        repairs
            .obstacles
            .retain(|id, _| state.volumes.contains_key(id));
        repairs.pauses.retain(|_, until| now < *until);
        repairs.moves.retain(|_, until| now < *until);
        let needy = self.reigns.coordinators().filter(|(id, coordinator)| {
            let pauses = self.repairs.pauses.contains_key(id);
            !pauses && coordinator.activity() == Activity::Watching && !self.is_well(coordinator)
        });
        let needy: Vec<_> = needy.map(|(id, c)| (*id, c.set().clone())).collect();
        let known = self.repairs.obstacles.len();
        let needs = |id: &VolumeId| {
            let coordinator = self.reigns.coordinator(*id);
            coordinator.is_some_and(|coordinator| !self.is_well(coordinator))
        };
        let left: Vec<_> = self
            .repairs
            .obstacles
            .keys()
            .copied()
            .filter(needs)
            .collect();
        self.repairs.obstacles.retain(|id, _| left.contains(id));
        let mut changed = self.repairs.obstacles.len() < known;
        for (id, set) in needy {
            changed |= self.repair_volume(id, &set).await?;
        }
        if changed {
            self.publish();
        }
        Ok(())
    }

    /// Finds stores that are gone though their node is heard: a dead disk costs a copy as a dead node does.
    fn watch_stores(&mut self) {
        let now = self.now();
        let stores = self.state.stores.values();
        let heard = stores.filter(|store| self.silent_for(store.node).is_none());
        let broken = heard.filter(|store| self.is_unreachable(store.id));
        let known = &self.repairs.broken;
        let since = |id: StoreId| (id, known.get(&id).copied().unwrap_or(now));
        let broken = broken.map(|store| since(store.id)).collect();
        self.repairs.broken = broken;
    }

    /// For how long the volume's copy on that node has been out of reach, with the node or its store.
    fn copy_silent_for(&self, volume: &Volume, node: NodeId) -> Option<Duration> {
        let copies = volume.replicas.iter().map(|replica| replica.store);
        let mut here = copies.filter(|store| self.state.node_of(*store) == Some(node));
        let broken = here.find_map(|store| self.repairs.broken.get(&store));
        let broken = broken.map(|since| self.now().saturating_sub(*since));
        self.silent_for(node).or(broken)
    }

    /// As many copies as wanted, all in sync, none on a node that is drained.
    fn is_well(&self, coordinator: &Coordinator) -> bool {
        let set = coordinator.set();
        let drained = |node: NodeId| self.state.nodes.get(&node).is_some_and(|n| n.draining);
        let mut replicas = set.replicas.iter();
        set.replicas.len() == set.copies_wanted
            && replicas.all(|replica| replica.in_sync && !drained(replica.node))
    }

    /// The next step of one volume. True: what is to be told of it is another thing.
    async fn repair_volume(&mut self, id: VolumeId, set: &VolumeSet) -> Result<bool, StorageError> {
        let Some(volume) = self.state.volumes.get(&id).filter(|v| !v.deleting) else {
            return Ok(false);
        };
        let (name, bytes) = (volume.name.clone(), volume.size_bytes);
        let places = self.places(volume);
        let step = next_step(set, &places, bytes, self.repairs.replace_after);
        let node_name = |store: StoreId| match self.state.node_of(store) {
            Some(node) => self.state.node_name(node),
            None => store.to_string(),
        };
        let obstacle = match step {
            Step::Suspended => {
                "another copy is not made while more than a third of the nodes are away".to_owned()
            }
            Step::NoPlace => {
                let nodes: Vec<_> = set.replicas.iter().map(|replica| replica.node).collect();
                let reasons = self.no_place(&places, None, &nodes, bytes);
                format!("another copy has no place: {reasons}; add a node, or free one")
            }
            _ => String::new(),
        };
        let (note, request) = match step {
            Step::Rest | Step::Suspended | Step::NoPlace => {
                return Ok(self.remember_obstacle(id, obstacle));
            }
            Step::MoveTo(_) if self.repairs.moves.contains_key(&id) => return Ok(false),
            Step::Add(..) if self.resyncs() >= RESYNCS_MAX => return Ok(false),
            Step::Add(store, node) => (
                format!("volume {name}: a copy is made on {}", node_name(store)),
                Request::AddReplica(fresh(store, node)),
            ),
            Step::MoveTo(store) => (
                format!("volume {name}: its primary moves to {}", node_name(store)),
                Request::Move { to: store },
            ),
            Step::Remove(store) => (
                format!("volume {name}: the copy on {} leaves", node_name(store)),
                Request::RemoveReplica(store),
            ),
        };
        self.remember_obstacle(id, String::new());
        let now = self.now();
        self.repairs.pauses.insert(id, now + REPAIR_PAUSE);
        if matches!(step, Step::MoveTo(_)) {
            self.repairs.moves.insert(id, now + MOVE_PAUSE);
        }
        self.note(note);
        self.wish(id, request).await?;
        Ok(true)
    }

    fn remember_obstacle(&mut self, id: VolumeId, obstacle: String) -> bool {
        let known = self.repairs.obstacles.get(&id).map_or("", String::as_str);
        if known == obstacle {
            return false;
        }
        if obstacle.is_empty() {
            self.repairs.obstacles.remove(&id);
            return true;
        }
        let name = self
            .state
            .volumes
            .get(&id)
            .map(|volume| volume.name.to_string());
        self.note(format!("volume {}: {obstacle}", name.unwrap_or_default()));
        self.repairs.obstacles.insert(id, obstacle);
        true
    }

    /// Copies that are being filled, in the whole cluster.
    fn resyncs(&self) -> usize {
        let coordinators = self.reigns.coordinators();
        let filling = coordinators.flat_map(|(_, coordinator)| &coordinator.set().replicas);
        let present = |replica: &&Replica| {
            self.silent_for(replica.node).is_none()
                && !self.repairs.broken.contains_key(&replica.store)
        };
        let filling = filling.filter(present).filter(|replica| !replica.in_sync);
        filling.count()
    }

    /// The nodes as places for copies of `volume`.
    pub(super) fn places(&self, volume: &Volume) -> Vec<Place> {
        let spaces = view::store_spaces(&self.state, &self.reconciler);
        let primary = self.reconciler.copy(&self.state, volume.id, volume.primary);
        let used_bytes = primary.map_or(0, |primary| primary.used_bytes);
        let place = |node: &crate::registry::Node| {
            let stores = spaces.iter().filter(|space| space.node == node.id);
            let stores = stores.map(|space| {
                let usable = space.failed.is_empty()
                    && space.has_peer_address
                    && space.free_bytes > used_bytes
                    && !volume.retired.contains(&space.id);
                let promisable = space.capacity_bytes.saturating_mul(OVERCOMMIT_MAX);
                Room {
                    store: space.id,
                    room_bytes: match usable {
                        true => promisable.saturating_sub(space.promised_bytes),
                        false => 0,
                    },
                    copies: self.state.copies_on(space.id).count(),
                }
            });
            Place {
                node: node.id,
                zone: node.zone.clone(),
                silent_for: self.copy_silent_for(volume, node.id),
                cordoned: node.cordoned,
                draining: node.draining,
                stores: stores.collect(),
            }
        };
        self.state.nodes.values().map(place).collect()
    }

    /// Why the nodes, or the `only` one, take no copy beside those on `copies`.
    pub(super) fn no_place(
        &self,
        places: &[Place],
        only: Option<NodeId>,
        copies: &[NodeId],
        bytes: u64,
    ) -> String {
        let zone_of = |node: &NodeId| places.iter().find(|place| place.node == *node);
        let taken = |zone: &str| {
            let mut zones = copies.iter().filter_map(zone_of).map(|place| &place.zone);
            !zone.is_empty() && zones.any(|other| other == zone)
        };
        let reason = |place: &Place| {
            let why = if copies.contains(&place.node) {
                "has a copy"
            } else if place.silent_for.is_some() {
                "is away"
            } else if place.draining {
                "is being drained"
            } else if place.cordoned {
                "is cordoned"
            } else if taken(&place.zone) {
                "is in the zone of another copy"
            } else if place.stores.iter().all(|room| room.room_bytes < bytes) {
                "has no store with room that can be reached by its peers"
            } else {
                return None;
            };
            Some(format!("{} {why}", self.state.node_name(place.node)))
        };
        let named = |place: &&Place| only.is_none_or(|only| only == place.node);
        let reasons: Vec<_> = places.iter().filter(named).filter_map(reason).collect();
        reasons.join(", ")
    }

    /// Deletions end for hosts and people when every copy that can be reached is gone. What is left
    /// elsewhere is removed when it is seen again.
    async fn bury_unreachable(&mut self) -> Result<(), StorageError> {
        let deleting = self.state.volumes.values().filter(|volume| volume.deleting);
        let unreachable = deleting.filter(|volume| {
            let replicas = volume.replicas.iter().map(|replica| replica.store);
            let mut left = replicas.chain(volume.retired.iter().copied());
            left.all(|store| self.is_unreachable(store))
        });
        let unreachable: Vec<_> = unreachable.map(|volume| volume.id).collect();
        for id in unreachable {
            let changes = self.state.bury(id, super::task::now_ms());
            let what = format!(
                "volume {id} is deleted; copies on nodes that are away go when they are back"
            );
            self.confirm(&changes, what).await?;
            self.publish();
        }
        Ok(())
    }

    /// A store whose node is away for a while, or that its volume server does not have or cannot use.
    fn is_unreachable(&self, store: StoreId) -> bool {
        let Some(node) = self.state.node_of(store) else {
            return true;
        };
        if let Some(silence) = self.silent_for(node) {
            return silence >= DELETION_PATIENCE;
        }
        let serves = |held: &StoreReport| held.id == Some(store) && held.failed.is_empty();
        let report = self.reconciler.report(node);
        report.is_some_and(|r| r.stores_opening == 0 && !r.stores.iter().any(serves))
    }
}

/// A copy to be made.
pub(super) fn fresh(store: StoreId, node: NodeId) -> Replica {
    Replica {
        store,
        node,
        in_sync: false,
        created: false,
        discard: false,
    }
}

#[cfg(test)]
mod tests;
