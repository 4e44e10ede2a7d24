//! What callers see: a snapshot of registry and reports, replaced after each step of the master.

use crate::placement::StoreSpace;
use crate::reconcile::{
    CopyReport, CopyState, Reconciler, Role, Server, Status, StoreReport, VolumeReport,
};
use crate::registry::{Audit, Node, Replica, State, Volume};
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A volume and how it is.
#[derive(Clone, Debug)]
pub struct VolumeView {
    /// As it should be.
    pub volume: Volume,
    /// As it is.
    pub status: Status,
    /// Bytes the primary occupies, as last reported.
    pub used_bytes: u64,
    /// Sessions logged in at the primary, as last reported.
    pub sessions: u32,
    /// Portals, those of the primary's node first.
    pub portals: Vec<String>,
    /// Name of the primary's node.
    pub primary_node: String,
    /// Its copies.
    pub copies: Vec<CopyView>,
    /// Why a copy that it should have is not made; empty: none is missing, or it is on its way.
    pub obstacle: String,
    /// Bytes that the primary serves, as last reported.
    pub served_bytes: u64,
}

/// A copy and how it is.
#[derive(Clone, Debug)]
pub struct CopyView {
    /// As it should be.
    pub replica: Replica,
    /// Its node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// It is the primary, as registered.
    pub primary: bool,
    /// One word about how it is.
    pub state: &'static str,
    /// Why it is not well; empty when it is.
    pub reason: String,
    /// What its own volume server last said.
    pub own: Option<VolumeReport>,
    /// What the primary last said of it.
    pub told: Option<CopyReport>,
}

/// A node and how it is.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// As registered.
    pub node: Node,
    /// Its agent is heard.
    pub heard: bool,
    /// The connected volume server.
    pub server: Option<Server>,
    /// Stores: connected ones, then the others ever seen.
    pub stores: Vec<StoreView>,
    /// Volumes that the registry does not know.
    pub unknown: Vec<VolumeId>,
    /// Copies that it has, those that are to be removed included.
    pub copies: usize,
    /// Why copies cannot leave a node that is drained; empty: none is left, or they are on their way.
    pub obstacle: String,
}

/// A store and how it is.
#[derive(Clone, Debug)]
pub struct StoreView {
    /// As last reported; for a store that is not connected only id, path and capacity mean anything.
    pub report: StoreReport,
    /// Sum of the sizes of its volumes.
    pub promised_bytes: u64,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The cluster.
    pub cluster: ClusterId,
    /// Stores that are still being opened.
    pub stores_opening: u32,
    /// Nodes by name.
    pub nodes: Vec<NodeView>,
    /// Volumes by name.
    pub volumes: Vec<VolumeView>,
    /// What happened lately, oldest first.
    pub events: Vec<Arc<Audit>>,
}

/// What a view is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// What should be.
    pub state: &'a State,
    /// What is.
    pub reconciler: &'a Reconciler,
    /// Nodes whose agent is heard.
    pub heard: &'a BTreeSet<NodeId>,
    /// Why no copy of a volume can reign.
    pub closed: &'a BTreeMap<VolumeId, String>,
    /// Why wanted copies are not made.
    pub obstacles: &'a BTreeMap<VolumeId, String>,
}

impl VolumeView {
    /// Why it has less redundancy than wanted; empty while it has all.
    pub fn degraded(&self) -> String {
        if self.volume.deleting || !self.volume.is_created() {
            return String::new();
        }
        let good = self.volume.in_sync().count();
        let wanted = usize::from(self.volume.policy.rf);
        if good >= wanted {
            return String::new();
        }
        let poor = |copy: &&CopyView| !copy.replica.in_sync;
        let poor = self.copies.iter().filter(poor);
        let poor: Vec<_> = poor
            .map(|copy| match copy.reason.as_str() {
                "" => format!("{} is {}", copy.node_name, copy.state),
                reason => format!("{} is {}: {reason}", copy.node_name, copy.state),
            })
            .collect();
        let obstacle = Some(self.obstacle.clone()).filter(|obstacle| !obstacle.is_empty());
        let reasons: Vec<_> = poor.into_iter().chain(obstacle).collect();
        let missing = match reasons.is_empty() {
            true => "another one is about to be made".to_owned(),
            false => reasons.join("; "),
        };
        format!("{good} of {wanted} copies are in sync: {missing}")
    }
}

impl View {
    /// The view of a state and its reconciler. Cost: O(copies + stores).
    pub fn compose(sources: Sources<'_>, events: Vec<Arc<Audit>>) -> View {
        let state = sources.state;
        let mut volumes: Vec<_> = state
            .volumes
            .values()
            .map(|volume| volume_view(volume, sources))
            .collect();
        volumes.sort_by(|a, b| a.volume.name.cmp(&b.volume.name));
        let mut nodes: Vec<_> = state
            .nodes
            .values()
            .map(|node| node_view(node, sources))
            .collect();
        nodes.sort_by(|a, b| (&a.node.name, a.node.id).cmp(&(&b.node.name, b.node.id)));
        View {
            cluster: state.cluster,
            stores_opening: sources.reconciler.stores_opening(),
            nodes,
            volumes,
            events,
        }
    }
}

/// The connected stores as placement needs them.
pub fn store_spaces(state: &State, reconciler: &Reconciler) -> Vec<StoreSpace> {
    let mut spaces = Vec::new();
    for node in state.nodes.values().filter(|node| !node.cordoned) {
        let (Some(report), Some(server)) = (reconciler.report(node.id), reconciler.server(node.id))
        else {
            continue;
        };
        spaces.extend(report.stores.iter().filter_map(|store| {
            let id = store.id?;
            Some(StoreSpace {
                id,
                node: node.id,
                node_name: node.name.clone(),
                zone: node.zone.clone(),
                path: store.path.clone(),
                failed: store.failed.clone(),
                has_peer_address: !server.peer_address.is_empty(),
                capacity_bytes: store.capacity_bytes,
                free_bytes: store.free_bytes,
                promised_bytes: state.promised_bytes(id),
                primaries: state.primaries(id),
            })
        }));
    }
    spaces
}

fn volume_view(volume: &Volume, sources: Sources<'_>) -> VolumeView {
    let Sources {
        state, reconciler, ..
    } = sources;
    let reported = reconciler.copy(state, volume.id, volume.primary);
    let copies: Vec<_> = volume
        .replicas
        .iter()
        .map(|replica| copy_view(volume, replica, sources))
        .collect();
    let mut status = reconciler.status(state, volume);
    if let (Some(closed), false) = (sources.closed.get(&volume.id), status.reason.is_empty()) {
        status.reason = format!("{closed} ({})", status.reason);
    }
    let (mut portals, mut others) = (Vec::new(), Vec::new());
    for copy in &copies {
        let of_node = match reconciler.server(copy.node) {
            Some(server) => server.portals.clone(),
            None if volume.is_shared() => known_portals(state, copy.node),
            None => Vec::new(),
        };
        let list = if copy.primary {
            &mut portals
        } else {
            &mut others
        };
        list.extend(of_node);
    }
    portals.append(&mut others);
    VolumeView {
        volume: volume.clone(),
        status,
        used_bytes: reported.map_or(0, |reported| reported.used_bytes),
        sessions: reported.map_or(0, |reported| reported.sessions),
        portals,
        primary_node: state
            .node_of(volume.primary)
            .map_or_else(String::new, |node| state.node_name(node)),
        copies,
        obstacle: sources
            .obstacles
            .get(&volume.id)
            .cloned()
            .unwrap_or_default(),
        served_bytes: reported.map_or(0, |reported| reported.size_bytes),
    }
}

fn known_portals(state: &State, node: NodeId) -> Vec<String> {
    let node = state.nodes.get(&node);
    node.map_or_else(Vec::new, |node| node.portals.clone())
}

fn copy_view(volume: &Volume, replica: &Replica, sources: Sources<'_>) -> CopyView {
    let Sources {
        state,
        reconciler,
        heard,
        ..
    } = sources;
    let node = state.node_of(replica.store).unwrap_or(NodeId([0; 16]));
    let own = reconciler.copy(state, volume.id, replica.store);
    let primary = reconciler.copy(state, volume.id, volume.primary);
    let told = primary.filter(|primary| primary.epoch == volume.epoch);
    let told = told.and_then(|primary| {
        let mut copies = primary.copies.iter();
        copies.find(|copy| copy.store == replica.store)
    });
    let is_primary = replica.store == volume.primary;
    let reason = if !heard.contains(&node) {
        "the node's agent is silent".into()
    } else if reconciler.server(node).is_none() {
        "no volume server is connected".into()
    } else {
        store_reason(sources, node, replica.store, own)
    };
    CopyView {
        replica: replica.clone(),
        node,
        node_name: state.node_name(node),
        primary: is_primary,
        state: copy_state(volume, replica, &reason, own, told),
        reason,
        own: own.cloned(),
        told: told.cloned(),
    }
}

fn store_reason(
    sources: Sources<'_>,
    node: NodeId,
    store: StoreId,
    own: Option<&VolumeReport>,
) -> String {
    let report = sources.reconciler.report(node);
    let mut stores = report.map_or(&[][..], |report| &report.stores).iter();
    match (stores.find(|found| found.id == Some(store)), own) {
        (None, _) => "its store is not connected".into(),
        (Some(found), _) if !found.failed.is_empty() => found.failed.clone(),
        (_, Some(own)) => own.failed.clone(),
        (_, None) => "the store does not hold it".into(),
    }
}

fn copy_state(
    volume: &Volume,
    replica: &Replica,
    reason: &str,
    own: Option<&VolumeReport>,
    told: Option<&CopyReport>,
) -> &'static str {
    let is_primary = replica.store == volume.primary;
    let reigns = |own: &VolumeReport| {
        let serving = own.serving || !volume.is_shared();
        own.epoch == volume.epoch && own.role != Role::Secondary && serving
    };
    match (own, told) {
        _ if replica.discard => "discarding",
        _ if !replica.created => "creating",
        _ if !reason.is_empty() => "down",
        (Some(own), _) if is_primary && reigns(own) => "serving",
        (Some(_), _) if is_primary => "fenced",
        (Some(own), _) if own.epoch < volume.epoch => "fenced",
        (_, Some(told)) => match told.state {
            CopyState::Down => "unreachable",
            CopyState::Attaching => "attaching",
            CopyState::CatchingUp => "catching-up",
            CopyState::Resyncing => "resyncing",
            CopyState::Joining => "joining",
            CopyState::InSync => "in-sync",
        },
        (Some(own), None) if own.resyncing => "resyncing",
        _ => "unknown",
    }
}

fn node_view(node: &Node, sources: Sources<'_>) -> NodeView {
    let Sources {
        state, reconciler, ..
    } = sources;
    let stores = state.stores.values().filter(|store| store.node == node.id);
    let copies = stores.map(|store| state.copies_on(store.id).count()).sum();
    let held = state.copies_of(node.id);
    let obstacle = held.iter().find_map(|held| {
        let obstacle = sources.obstacles.get(&held.volume)?;
        Some(format!("volume {}: {obstacle}", held.name))
    });
    NodeView {
        node: node.clone(),
        heard: sources.heard.contains(&node.id),
        server: reconciler.server(node.id).cloned(),
        stores: store_views(node.id, sources.state, reconciler),
        unknown: reconciler.unknown(node.id).collect(),
        copies,
        obstacle: obstacle.filter(|_| node.draining).unwrap_or_default(),
    }
}

fn store_views(node: NodeId, state: &State, reconciler: &Reconciler) -> Vec<StoreView> {
    let report = reconciler.report(node);
    let reported = report.map_or(&[][..], |report| &report.stores);
    let mut stores: Vec<_> = reported
        .iter()
        .map(|report| StoreView {
            report: report.clone(),
            promised_bytes: report.id.map_or(0, |id| state.promised_bytes(id)),
        })
        .collect();
    for store in state.stores.values().filter(|store| store.node == node) {
        if reported.iter().any(|report| report.id == Some(store.id)) {
            continue;
        }
        stores.push(StoreView {
            report: StoreReport {
                id: Some(store.id),
                path: store.path.clone(),
                failed: "not connected".into(),
                capacity_bytes: store.capacity_bytes,
                free_bytes: 0,
                wal_used_bytes: 0,
                wal_capacity_bytes: 0,
                shard: 0,
            },
            promised_bytes: state.promised_bytes(store.id),
        });
    }
    stores
}
