//! The registry: what should be. Pure decisions over a state in memory; `database` keeps it.
//!
//! Invariants: a decision never changes the state, it returns the [`Change`]s; they are durable, with
//! their audit entry, before [`State::apply`] makes them visible. An id is never used twice, not even
//! after deletion: tombstones stay. Names of living volumes are unique. Epochs never go down.

pub mod database;
mod policy;
pub(crate) mod record;

use crate::access::Access;
use crate::limits::{TOMBSTONES_MAX, VOLUMES_MAX};
use crate::name::VolumeName;
use crate::placement::{self, StoreSpace, Wish};
use crate::size::Size;
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::limits::{BLOCK_BYTES, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};
use holdfast_core::lsn::Epoch;
use std::collections::BTreeMap;

pub use policy::{Durability, Paths, Policy, PolicyError};

/// A copy of a volume. Which node it is on follows from its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Store that holds it.
    pub store: StoreId,
    /// It has every acknowledged write.
    pub in_sync: bool,
    /// A volume server confirmed that it exists. Until then, and only then, it may be created.
    pub created: bool,
    /// What the store holds of it must go before it is created again: it may have diverged.
    pub discard: bool,
}

/// A volume as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Identity, never reused.
    pub id: VolumeId,
    /// Name, unique among the living.
    pub name: VolumeName,
    /// Size, a multiple of the block.
    pub size_bytes: u64,
    /// The reign under which it is served.
    pub epoch: Epoch,
    /// Version of the in-sync set within the reign.
    pub set_version: u64,
    /// The copy that serves hosts; one of `replicas`.
    pub primary: StoreId,
    /// Its copies, each on another node.
    pub replicas: Vec<Replica>,
    /// Stores with a copy that is no longer wanted: to be removed there.
    pub retired: Vec<StoreId>,
    /// How it is kept and reached.
    pub policy: Policy,
    /// The durability before, until the primary has confirmed that it commits by the new one.
    pub durability_was: Option<Durability>,
    /// Who may log in.
    pub access: Access,
    /// Grows with each change; tells an assignment from the one before.
    pub revision: u64,
    /// It is to be removed.
    pub deleting: bool,
}

/// A volume that was removed; its id must not come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The id.
    pub id: VolumeId,
    /// Its last name, for people.
    pub name: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A store that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// This incarnation.
    pub id: StoreId,
    /// Node it belongs to.
    pub node: NodeId,
    /// Path at which it was last seen.
    pub path: String,
    /// Capacity when last seen.
    pub capacity_bytes: u64,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Identity.
    pub id: NodeId,
    /// Name for people, by default the host's.
    pub name: String,
    /// Failure domain: no two copies of a volume go to the same zone. Empty: a zone of its own.
    pub zone: String,
    /// Where its volume server listened for peers when last seen, `ADDR:PORT`.
    pub peer_address: String,
    /// Its iSCSI portals when last seen.
    pub portals: Vec<String>,
    /// It gets no new copies.
    pub cordoned: bool,
    /// The copies that it has go to other nodes; implies `cordoned`.
    pub draining: bool,
}

/// One line of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who asked; unauthenticated, as the caller says.
    pub who: String,
    /// The caller's request id.
    pub request_id: String,
    /// What was done. Never contains a secret.
    pub what: String,
}

/// One whole record to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add or replace a volume.
    PutVolume(Volume),
    /// Remove a volume and remember its id.
    BuryVolume(Tombstone),
    /// Give up the memory of a removed volume.
    ForgetTombstone(VolumeId),
    /// Add or replace a store.
    PutStore(Store),
    /// Add or replace a node.
    PutNode(Node),
    /// Forget a node and its stores; one that comes back is a new one.
    ForgetNode(NodeId),
}

/// Kinds of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request breaks a rule.
    Invalid,
    /// No such volume or store.
    NotFound,
    /// The name belongs to another volume.
    Exists,
    /// Not in this state.
    Precondition,
    /// No store has room.
    NoSpace,
    /// Too few nodes for the copies wanted.
    TooFew,
    /// Not now.
    Unavailable,
    /// Not before the stores are open.
    Opening,
}

/// Why a request was refused, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For callers.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
}

/// A request for a volume.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// Its name.
    pub name: VolumeName,
    /// Its size.
    pub size_bytes: u64,
    /// Who may log in; `None`: anybody, and an existing volume keeps what it has.
    pub access: Option<Access>,
    /// The store of the primary; `None`: chosen.
    pub store: Option<StoreId>,
    /// How it is kept and reached.
    pub policy: Policy,
    /// Fewer copies than wanted are better than none.
    pub allow_degraded: bool,
}

/// Answer to [`State::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It was there.
    Existing(VolumeId),
    /// To be stored.
    Fresh(Box<Volume>),
}

/// A copy that a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of which volume.
    pub volume: VolumeId,
    /// The volume's name.
    pub name: String,
    /// On which store.
    pub store: StoreId,
    /// It has every acknowledged write.
    pub in_sync: bool,
    /// No other copy has.
    pub only: bool,
}

/// Everything in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Living volumes, the ones being deleted included.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// Removed volumes.
    pub tombstones: BTreeMap<VolumeId, Tombstone>,
    /// Stores ever seen.
    pub stores: BTreeMap<StoreId, Store>,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
}

impl Refusal {
    /// A refusal of `kind`.
    pub fn with(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal {
            kind,
            message: message.into(),
        }
    }
}

impl Volume {
    /// The copy on `store`.
    pub fn replica(&self, store: StoreId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }

    /// Whether it is kept in several copies, now or as soon as it can be.
    pub fn is_shared(&self) -> bool {
        self.policy.rf > 1 || self.replicas.len() > 1
    }

    /// Whether every copy exists.
    pub fn is_created(&self) -> bool {
        self.replicas.iter().all(|replica| replica.created)
    }

    /// The copies that take part in the reign. Those of a new volume do so from the start: all are
    /// empty, so all are equal.
    pub fn members(&self) -> impl Iterator<Item = &Replica> {
        let takes_part =
            |replica: &&Replica| !replica.discard && (replica.created || replica.in_sync);
        self.replicas.iter().filter(takes_part)
    }

    /// The in-sync set.
    pub fn in_sync(&self) -> impl Iterator<Item = StoreId> {
        let members = self.replicas.iter().filter(|replica| replica.in_sync);
        members.map(|replica| replica.store)
    }
}

impl State {
    /// A registry without anything.
    pub fn empty(cluster: ClusterId, node: NodeId) -> State {
        State {
            cluster,
            node,
            volumes: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            stores: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// The volume of that name.
    pub fn volume(&self, name: &VolumeName) -> Result<&Volume, Refusal> {
        let found = self.volumes.values().find(|volume| volume.name == *name);
        found.ok_or_else(|| {
            let message =
                format!("no volume '{name}'; `holdfast volume list` shows those that exist");
            Refusal::with(RefusalKind::NotFound, message)
        })
    }

    /// Sum of the sizes promised on a store.
    pub fn promised_bytes(&self, store: StoreId) -> u64 {
        let placed = self
            .volumes
            .values()
            .filter(|volume| volume.replica(store).is_some());
        placed.fold(0, |sum, volume| sum.saturating_add(volume.size_bytes))
    }

    /// How many volumes are served from a store.
    pub fn primaries(&self, store: StoreId) -> usize {
        let served = self
            .volumes
            .values()
            .filter(|volume| volume.primary == store);
        served.count()
    }

    /// The volumes with a copy on a store, in force or still to be removed.
    pub fn copies_on(&self, store: StoreId) -> impl Iterator<Item = &Volume> {
        let held = move |volume: &&Volume| {
            volume.replica(store).is_some() || volume.retired.contains(&store)
        };
        self.volumes.values().filter(held)
    }

    /// The copies in force on a node's stores.
    pub fn copies_of(&self, node: NodeId) -> Vec<Held> {
        let mut held = Vec::new();
        for volume in self.volumes.values() {
            let here = volume.replicas.iter();
            for copy in here.filter(|copy| self.node_of(copy.store) == Some(node)) {
                let others = volume
                    .in_sync()
                    .filter(|store| *store != copy.store)
                    .count();
                held.push(Held {
                    volume: volume.id,
                    name: volume.name.to_string(),
                    store: copy.store,
                    in_sync: copy.in_sync,
                    only: copy.in_sync && others == 0,
                });
            }
        }
        held
    }

    /// The node that a store was last seen on.
    pub fn node_of(&self, store: StoreId) -> Option<NodeId> {
        self.stores.get(&store).map(|store| store.node)
    }

    /// The node's name, for messages.
    pub fn node_name(&self, node: NodeId) -> String {
        self.nodes
            .get(&node)
            .map_or_else(|| node.to_string(), |node| node.name.clone())
    }

    /// The node of that name or id.
    pub fn node(&self, text: &str) -> Result<NodeId, Refusal> {
        let is_named = |node: &&Node| node.name == text || node.id.to_string() == text;
        let found: Vec<_> = self.nodes.values().filter(is_named).collect();
        match found.as_slice() {
            [node] => Ok(node.id),
            [] => {
                let message = format!("no node '{text}'; `holdfast node list` shows them");
                Err(Refusal::with(RefusalKind::NotFound, message))
            }
            _ => {
                let message = format!("several nodes are named '{text}'; give the id");
                Err(Refusal::with(RefusalKind::Invalid, message))
            }
        }
    }

    /// Decides about a new volume, which gets `id` when there is none of that name.
    pub fn create(
        &self,
        request: &NewVolume,
        stores: &[StoreSpace],
        id: VolumeId,
    ) -> Result<Creation, Refusal> {
        check_size(request.size_bytes)?;
        let illegal = |error: PolicyError| Refusal::with(RefusalKind::Invalid, error.to_string());
        request.policy.check().map_err(illegal)?;
        if let Ok(existing) = self.volume(&request.name) {
            return same_volume(existing, request).map(Creation::Existing);
        }
        if self.volumes.len() >= VOLUMES_MAX {
            let message = format!("the registry is full: {VOLUMES_MAX} volumes");
            return Err(Refusal::with(RefusalKind::NoSpace, message));
        }
        assert!(!self.tombstones.contains_key(&id)); // Ids are random; a repeat is a broken source.
        assert!(!self.volumes.contains_key(&id));
        let wish = Wish {
            bytes: request.size_bytes,
            primary: request.store,
            policy: request.policy,
            allow_degraded: request.allow_degraded,
        };
        let chosen = placement::choose(stores, &wish)?;
        let replica = |&store: &StoreId| Replica {
            store,
            in_sync: true, // All are empty, so all are equal.
            created: false,
            discard: false,
        };
        Ok(Creation::Fresh(Box::new(Volume {
            id,
            name: request.name.clone(),
            size_bytes: request.size_bytes,
            epoch: Epoch(1),
            set_version: 1,
            primary: chosen[0],
            replicas: chosen.iter().map(replica).collect(),
            retired: Vec::new(),
            policy: request.policy,
            durability_was: None,
            access: request.access.clone().unwrap_or_default(),
            revision: 1,
            deleting: false,
        })))
    }

    /// Decides about other access; `None` when it is so already.
    pub fn set_access(&self, name: &VolumeName, access: Access) -> Result<Option<Volume>, Refusal> {
        let volume = self.volume(name)?;
        if volume.deleting {
            return Err(being_deleted(name));
        }
        if volume.access == access {
            return Ok(None);
        }
        Ok(Some(Volume {
            access,
            revision: volume.revision + 1,
            ..volume.clone()
        }))
    }

    /// Decides about a greater size; `None` when it is so already.
    pub fn grow(&self, name: &VolumeName, size_bytes: u64) -> Result<Option<Volume>, Refusal> {
        let volume = self.volume(name)?;
        if volume.deleting {
            return Err(being_deleted(name));
        }
        check_size(size_bytes)?;
        if size_bytes < volume.size_bytes {
            let (is, asked) = (Size(volume.size_bytes), Size(size_bytes));
            let message = format!(
                "volume '{name}' has {is} and does not shrink to {asked}: what lies behind would be lost"
            );
            return Err(Refusal::with(RefusalKind::Invalid, message));
        }
        Ok((size_bytes > volume.size_bytes).then(|| Volume {
            size_bytes,
            revision: volume.revision + 1,
            ..volume.clone()
        }))
    }

    /// Decides about a deletion; `None` when it is under way already.
    pub fn delete(&self, name: &VolumeName) -> Result<Option<Volume>, Refusal> {
        let volume = self.volume(name)?;
        if volume.deleting {
            return Ok(None);
        }
        Ok(Some(Volume {
            deleting: true,
            revision: volume.revision + 1,
            ..volume.clone()
        }))
    }

    /// A volume server has the copy: from now on a missing one is a loss, not a new one.
    pub fn confirm_created(&self, id: VolumeId, store: StoreId) -> Option<Volume> {
        let mut volume = self.volumes.get(&id)?.clone();
        let mut replicas = volume.replicas.iter_mut();
        let fresh = replicas.find(|replica| replica.store == store && !replica.created)?;
        fresh.created = true;
        fresh.discard = false;
        // No new revision: what the volume servers were told is still all there is to tell.
        Some(volume)
    }

    /// A copy that is not wanted is gone. The volume is buried with its last one. Nothing when the
    /// copy is wanted.
    pub fn confirm_removed(&self, id: VolumeId, store: StoreId, at_ms: u64) -> Vec<Change> {
        let Some(volume) = self.volumes.get(&id) else {
            return Vec::new();
        };
        let mut left = volume.clone();
        left.retired.retain(|retired| *retired != store);
        if volume.deleting {
            left.replicas.retain(|replica| replica.store != store);
        }
        if left == *volume {
            return Vec::new();
        }
        if !left.replicas.is_empty() || !left.retired.is_empty() {
            return vec![Change::PutVolume(left)];
        }
        self.bury(id, at_ms)
    }

    /// The end of a volume, wherever copies of it may still be: there they are removed when seen.
    pub fn bury(&self, id: VolumeId, at_ms: u64) -> Vec<Change> {
        let Some(volume) = self.volumes.get(&id) else {
            return Vec::new();
        };
        let forget = self
            .oldest_tombstone_over_limit()
            .map(Change::ForgetTombstone);
        let bury = Change::BuryVolume(Tombstone {
            id,
            name: volume.name.to_string(),
            at_ms,
        });
        forget.into_iter().chain([bury]).collect()
    }

    fn oldest_tombstone_over_limit(&self) -> Option<VolumeId> {
        if self.tombstones.len() < TOMBSTONES_MAX {
            return None;
        }
        let oldest = self.tombstones.values().min_by_key(|stone| stone.at_ms);
        oldest.map(|stone| stone.id)
    }

    /// The changes that make this state out of an empty one.
    pub fn changes(&self) -> Vec<Change> {
        let nodes = self.nodes.values().cloned().map(Change::PutNode);
        let stores = self.stores.values().cloned().map(Change::PutStore);
        let stones = self.tombstones.values().cloned().map(Change::BuryVolume);
        let volumes = self.volumes.values().cloned().map(Change::PutVolume);
        nodes.chain(stores).chain(stones).chain(volumes).collect()
    }

    /// Makes a durable change visible.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::PutVolume(volume) => {
                let before = self.volumes.insert(volume.id, volume.clone());
                if let Some(before) = before {
                    let reign = |volume: &Volume| (volume.epoch, volume.set_version);
                    assert!(reign(&before) <= reign(volume));
                    assert!(before.name == volume.name);
                }
            }
            Change::BuryVolume(stone) => {
                self.volumes.remove(&stone.id);
                self.tombstones.insert(stone.id, stone.clone());
            }
            Change::ForgetTombstone(id) => {
                self.tombstones.remove(id);
            }
            Change::PutStore(store) => {
                self.stores.insert(store.id, store.clone());
            }
            Change::PutNode(node) => {
                self.nodes.insert(node.id, node.clone());
            }
            Change::ForgetNode(id) => {
                self.nodes.remove(id);
                self.stores.retain(|_, store| store.node != *id);
            }
        }
    }
}

fn check_size(bytes: u64) -> Result<(), Refusal> {
    let block = BLOCK_BYTES as u64;
    let message = if !bytes.is_multiple_of(block) {
        let up = bytes.checked_next_multiple_of(block).unwrap_or(bytes);
        format!(
            "a volume of {bytes} bytes is refused: sizes are multiples of 4KiB; use {up} bytes, or a \
             binary unit like 1GiB"
        )
    } else if bytes < VOLUME_BYTES_MIN {
        format!("a volume needs at least {}", Size(VOLUME_BYTES_MIN))
    } else if bytes > VOLUME_BYTES_MAX {
        format!("a volume has at most {}", Size(VOLUME_BYTES_MAX))
    } else {
        return Ok(());
    };
    Err(Refusal::with(RefusalKind::Invalid, message))
}

/// Whether `request` asks for what `existing` is.
fn same_volume(existing: &Volume, request: &NewVolume) -> Result<VolumeId, Refusal> {
    let name = &existing.name;
    if existing.deleting {
        return Err(being_deleted(name));
    }
    let message = if existing.size_bytes != request.size_bytes {
        let (is, asked) = (Size(existing.size_bytes), Size(request.size_bytes));
        format!(
            "volume '{name}' exists with {is}, not {asked}; choose another name or delete it first"
        )
    } else if request.policy != existing.policy {
        format!("volume '{name}' exists with {}", existing.policy)
    } else if request.store.is_some_and(|store| store != existing.primary) {
        let store = existing.primary;
        format!(
            "volume '{name}' exists on store {store}; leave --store-id out or choose another name"
        )
    } else if request
        .access
        .as_ref()
        .is_some_and(|access| *access != existing.access)
    {
        format!(
            "volume '{name}' exists with other access; `holdfast volume access {name}` changes it"
        )
    } else {
        return Ok(existing.id);
    };
    Err(Refusal::with(RefusalKind::Exists, message))
}

fn being_deleted(name: &VolumeName) -> Refusal {
    let message = format!(
        "volume '{name}' is being deleted; wait until `holdfast volume list` no longer shows it"
    );
    Refusal::with(RefusalKind::Precondition, message)
}

#[cfg(test)]
mod tests;
