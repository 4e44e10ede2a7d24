//! What callers see: a snapshot of registry and reports, replaced after each step of the master.

use crate::health::{self, CopyFacts, Filling, Service, Silence, Verdict, VolumeFacts};
use crate::placement::StoreSpace;
use crate::reconcile::{
    Condition, CopyReport, CopyState, Reconciler, Report, Role, Server, Status, StoreReport,
    VolumeReport,
};
use crate::registry::{Audit, Node, Replica, State, Volume};
use holdfast_core::cluster::limits::NODE_SILENT;
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A volume and how it is.
#[derive(Clone, Debug)]
pub struct VolumeView {
    /// As it should be.
    pub volume: Volume,
    /// As it is for those who wait for a change.
    pub status: Status,
    /// As it is for people.
    pub verdict: Verdict,
    /// Age of the primary's last report; `None`: there is none.
    pub report_age: Option<Duration>,
    /// Its primary's node is not heard, and nothing says that it stopped.
    pub unheard: bool,
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
    /// How well it is.
    pub facts: CopyFacts,
    /// Age of its own last report; `None`: there is none.
    pub report_age: Option<Duration>,
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
    /// The time, on the clock of the reports.
    pub now: Duration,
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
    /// Why it is less well than wanted; empty while it is well, and while it is not served.
    pub fn degraded(&self) -> &str {
        match self.verdict.health {
            health::Health::Unavailable => "",
            _ => &self.verdict.reason,
        }
    }

    /// Nobody knows whether hosts are served, or only another copy tells.
    pub fn is_unheard(&self) -> bool {
        self.unheard && self.status.condition == Condition::Unavailable
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
    let primary = Told::by(volume, volume.primary, sources);
    let copies: Vec<_> = volume
        .replicas
        .iter()
        .map(|replica| copy_view(volume, replica, &primary, sources))
        .collect();
    let mut status = reconciler.status(state, volume);
    if let (Some(closed), false) = (sources.closed.get(&volume.id), status.reason.is_empty()) {
        status.reason = format!("{closed} ({})", status.reason);
    }
    let obstacle = sources.obstacles.get(&volume.id);
    let obstacle = obstacle.cloned().unwrap_or_default();
    let service = service(volume, &status, &primary, sources);
    let unheard = matches!(service, Service::Unheard(_));
    let verdict = health::judge(&VolumeFacts {
        service,
        wanted: usize::from(volume.policy.rf),
        copies: copies.iter().map(|copy| &copy.facts).collect(),
        obstacle: &obstacle,
    });
    let reported = primary.copy;
    VolumeView {
        volume: volume.clone(),
        status,
        verdict,
        report_age: primary.age,
        unheard,
        used_bytes: reported.map_or(0, |reported| reported.used_bytes),
        sessions: reported.map_or(0, |reported| reported.sessions),
        portals: portals(volume, &copies, sources),
        primary_node: primary.node_name(state),
        copies,
        obstacle,
        served_bytes: reported.map_or(0, |reported| reported.size_bytes),
    }
}

/// The portals of the volume's nodes, those of the primary first.
fn portals(volume: &Volume, copies: &[CopyView], sources: Sources<'_>) -> Vec<String> {
    let (mut portals, mut others) = (Vec::new(), Vec::new());
    for copy in copies {
        let of_node = match sources.reconciler.server(copy.node) {
            Some(server) => server.portals.clone(),
            None if volume.is_shared() => known_portals(sources.state, copy.node),
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
    portals
}

/// Whether hosts are served, as far as is known.
fn service(volume: &Volume, status: &Status, primary: &Told<'_>, sources: Sources<'_>) -> Service {
    let silence = |reported| {
        Service::Unheard(Silence {
            node: primary.node_name(sources.state),
            age: primary.age.unwrap_or(sources.now),
            reported,
            witness: witness(volume, sources),
        })
    };
    match status.condition {
        Condition::Serving if primary.is_fresh() => Service::Served,
        Condition::Serving => silence(true),
        Condition::Creating => Service::NotServed(format!("it is being made: {}", status.reason)),
        Condition::Deleting => {
            Service::NotServed(format!("it is being deleted: {}", status.reason))
        }
        // Its agent says that it is gone, or a coordinator knows more.
        Condition::Unavailable if primary.is_heard || sources.closed.contains_key(&volume.id) => {
            Service::NotServed(status.reason.clone())
        }
        Condition::Unavailable => match primary.copy {
            Some(own) if !reigns(volume, own) => Service::NotServed(status.reason.clone()),
            Some(_) => silence(true),
            None if primary.age.is_some() => Service::NotServed(status.reason.clone()),
            None => silence(false),
        },
    }
}

/// A node with a copy that hears the primary of this reign.
fn witness(volume: &Volume, sources: Sources<'_>) -> Option<String> {
    let mut others = volume.replicas.iter();
    let witness = others.find(|replica| {
        let told = Told::by(volume, replica.store, sources);
        let hears = |own: &VolumeReport| {
            let silent = own.primary_silent.unwrap_or(Duration::MAX);
            own.role == Role::Secondary && own.epoch == volume.epoch && silent < NODE_SILENT
        };
        told.is_fresh() && told.copy.is_some_and(hears)
    });
    let node = sources.state.node_of(witness?.store)?;
    Some(sources.state.node_name(node))
}

/// What the volume server with a copy said last.
struct Told<'a> {
    node: NodeId,
    /// Its agent is heard.
    is_heard: bool,
    report: Option<&'a Report>,
    copy: Option<&'a VolumeReport>,
    age: Option<Duration>,
}

impl<'a> Told<'a> {
    fn by(volume: &Volume, store: StoreId, sources: Sources<'a>) -> Told<'a> {
        let node = sources.state.node_of(store).unwrap_or(NodeId([0; 16]));
        let last = sources.reconciler.last_report(node);
        let report = last.map(|(report, _)| report);
        let copy = report.and_then(|report| report.volumes.get(&volume.id));
        Told {
            node,
            is_heard: sources.heard.contains(&node),
            report,
            copy: copy.filter(|copy| copy.store == store),
            age: last.map(|(_, at)| sources.now.saturating_sub(at)),
        }
    }

    fn is_fresh(&self) -> bool {
        self.age.is_some_and(|age| age <= NODE_SILENT)
    }

    fn node_name(&self, state: &State) -> String {
        state.node_name(self.node)
    }
}

fn known_portals(state: &State, node: NodeId) -> Vec<String> {
    let node = state.nodes.get(&node);
    node.map_or_else(Vec::new, |node| node.portals.clone())
}

fn copy_view(
    volume: &Volume,
    replica: &Replica,
    primary: &Told<'_>,
    sources: Sources<'_>,
) -> CopyView {
    let own = Told::by(volume, replica.store, sources);
    let is_primary = replica.store == volume.primary;
    let of_reign = primary
        .copy
        .filter(|told| primary.is_fresh() && told.epoch == volume.epoch);
    let told = of_reign.and_then(|primary| {
        let mut copies = primary.copies.iter();
        copies.find(|copy| copy.store == replica.store)
    });
    let vouched = match is_primary {
        true => witness(volume, sources).is_some(),
        false => told.is_some_and(|told| told.state == CopyState::InSync),
    };
    let facts = CopyFacts {
        node: own.node_name(sources.state),
        in_sync: replica.in_sync && !replica.discard && replica.created,
        fault: fault(replica, &own),
        unheard: match own.is_heard && own.report.is_none() {
            true => None, // Its agent says that there is no volume server.
            false => Some(own.age.unwrap_or(sources.now)).filter(|_| !own.is_fresh()),
        },
        vouched,
        cut_off: told.is_some_and(|told| told.state == CopyState::Down),
        refusal: told.map_or_else(String::new, |told| told.refusal.clone()),
        filling: filling(told),
        slow_left: told.map_or(Duration::ZERO, |told| told.slow_left),
        lag: told.map_or(0, |told| told.lag),
        blocks_healed: own.copy.map_or(0, |own| own.blocks_healed),
        blocks_repaired: own.copy.map_or(0, |own| own.blocks_repaired),
    };
    CopyView {
        replica: replica.clone(),
        node: own.node,
        node_name: facts.node.clone(),
        primary: is_primary,
        state: copy_state(volume, replica, &facts, own.copy, told),
        facts,
        report_age: own.age,
        own: own.copy.cloned(),
        told: told.cloned(),
    }
}

fn filling(told: Option<&CopyReport>) -> Filling {
    let Some(told) = told else {
        return Filling::None;
    };
    match told.state {
        CopyState::Down | CopyState::Attaching | CopyState::InSync => Filling::None,
        CopyState::CatchingUp => Filling::Records,
        CopyState::Joining => Filling::Whole,
        CopyState::Resyncing => Filling::Blocks {
            done_bytes: told.resync_done_bytes,
            total_bytes: told.resync_total_bytes,
        },
    }
}

/// Why a copy cannot be used; empty: nothing like that is known.
fn fault(replica: &Replica, own: &Told<'_>) -> String {
    let Some(report) = own.report else {
        return match own.is_heard {
            true => "no volume server is connected".into(),
            false => String::new(),
        };
    };
    let mut stores = report.stores.iter();
    match (
        stores.find(|found| found.id == Some(replica.store)),
        own.copy,
    ) {
        (None, _) => "its store is not connected".into(),
        (Some(found), _) if !found.failed.is_empty() => found.failed.clone(),
        (_, Some(own)) => own.failed.clone(),
        (_, None) if !replica.created => String::new(), // It is on its way.
        (_, None) => "the store does not hold it".into(),
    }
}

/// Whether a copy serves the reign that is registered.
fn reigns(volume: &Volume, own: &VolumeReport) -> bool {
    let serving = own.serving || !volume.is_shared();
    let well = own.failed.is_empty() && own.role != Role::Secondary;
    own.epoch == volume.epoch && well && serving
}

fn copy_state(
    volume: &Volume,
    replica: &Replica,
    facts: &CopyFacts,
    own: Option<&VolumeReport>,
    told: Option<&CopyReport>,
) -> &'static str {
    let is_primary = replica.store == volume.primary;
    match (own, told) {
        _ if replica.discard => "discarding",
        _ if !replica.created => "creating",
        _ if !facts.fault.is_empty() => "down",
        (_, None) if facts.unheard.is_some() && !facts.vouched => "silent",
        (Some(own), _) if is_primary && reigns(volume, own) => "serving",
        (Some(_), _) if is_primary => "fenced",
        (Some(own), None) if own.epoch < volume.epoch => "fenced",
        (Some(own), _) if own.epoch < volume.epoch && facts.unheard.is_none() => "fenced",
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
