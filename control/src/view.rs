//! What callers see: a snapshot of registry and reports, replaced after each step of the master.

use crate::placement::StoreSpace;
use crate::reconcile::{Reconciler, Server, Status, StoreReport};
use crate::registry::{Audit, State, Volume};
use holdfast_core::id::{ClusterId, NodeId, VolumeId};
use std::sync::Arc;

/// A volume and how it is.
#[derive(Clone, Debug)]
pub struct VolumeView {
    /// As it should be.
    pub volume: Volume,
    /// As it is.
    pub status: Status,
    /// Bytes it occupies, as last reported.
    pub used_bytes: u64,
    /// Sessions logged in, as last reported.
    pub sessions: u32,
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
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// The connected volume server.
    pub server: Option<Server>,
    /// Stores that it is still opening.
    pub stores_opening: u32,
    /// Stores: connected ones, then the others ever seen.
    pub stores: Vec<StoreView>,
    /// Volumes that the registry does not know.
    pub unknown: Vec<VolumeId>,
    /// Volumes by name.
    pub volumes: Vec<VolumeView>,
    /// What happened lately, oldest first.
    pub events: Vec<Arc<Audit>>,
}

impl View {
    /// The view of a state and its reconciler. Cost: O(volumes + stores).
    pub fn compose(state: &State, reconciler: &Reconciler, events: Vec<Arc<Audit>>) -> View {
        let node = state.nodes.get(&state.node);
        let mut volumes: Vec<_> = state
            .volumes
            .values()
            .map(|volume| volume_view(volume, reconciler))
            .collect();
        volumes.sort_by(|a, b| a.volume.name.cmp(&b.volume.name));
        View {
            cluster: state.cluster,
            node: state.node,
            node_name: node.map_or_else(String::new, |node| node.name.clone()),
            server: reconciler.server().cloned(),
            stores_opening: reconciler.report().map_or(0, |it| it.stores_opening),
            stores: store_views(state, reconciler),
            unknown: reconciler.unknown().collect(),
            volumes,
            events,
        }
    }
}

/// The connected stores as placement needs them.
pub fn store_spaces(state: &State, reconciler: &Reconciler) -> Vec<StoreSpace> {
    let reported = reconciler.report().map_or(&[][..], |report| &report.stores);
    let spaces = reported.iter().filter_map(|store| {
        let id = store.id?;
        Some(StoreSpace {
            id,
            path: store.path.clone(),
            failed: store.failed.clone(),
            capacity_bytes: store.capacity_bytes,
            free_bytes: store.free_bytes,
            promised_bytes: state.promised_bytes(id),
        })
    });
    spaces.collect()
}

fn volume_view(volume: &Volume, reconciler: &Reconciler) -> VolumeView {
    let reported = reconciler
        .report()
        .and_then(|report| report.volumes.get(&volume.id));
    VolumeView {
        volume: volume.clone(),
        status: reconciler.status(volume),
        used_bytes: reported.map_or(0, |reported| reported.used_bytes),
        sessions: reported.map_or(0, |reported| reported.sessions),
    }
}

fn store_views(state: &State, reconciler: &Reconciler) -> Vec<StoreView> {
    let reported = reconciler.report().map_or(&[][..], |report| &report.stores);
    let mut stores: Vec<_> = reported
        .iter()
        .map(|report| StoreView {
            report: report.clone(),
            promised_bytes: report.id.map_or(0, |id| state.promised_bytes(id)),
        })
        .collect();
    for store in state.stores.values() {
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
