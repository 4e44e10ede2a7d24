//! Reconcile: compares what should be (registry) with what is (reports) and gives orders.
//!
//! It decides for ever and is never finished: each event ends in a look at every copy of every volume.
//! An order is kept until a reply OK with its request id came, and is given again after each
//! reconnect; applying it twice is the same as once. `create` is set only while no volume server has
//! ever confirmed the copy. A copy that the registry does not know is reported and left alone; one
//! with a tombstone, and one that its volume has retired, is removed.

mod link;
mod report;
mod status;

use crate::limits::{ORDERS_IN_FLIGHT_MAX, RETRY_MAX, RETRY_MIN};
use crate::registry::{Replica, State, Volume};
use holdfast_core::id::{NodeId, StoreId, VolumeId};
use link::{Link, Progress};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

pub use report::{CopyReport, CopyState, Fenced, Report, Role, Server, StoreReport, VolumeReport};
pub use status::{Condition, Status};

/// Result of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done and durable.
    Done,
    /// Not done; a later attempt may succeed.
    Later(String),
    /// Not done, and it will not be while nothing else changes.
    Refused(String),
    /// The store has no room.
    NoSpace(String),
}

/// What the reconciler learns.
#[derive(Clone, Debug)]
pub enum Event {
    /// A volume server is connected on that node, in place of none.
    Connected(NodeId, Server, Report),
    /// It is gone.
    Disconnected(NodeId),
    /// Nothing is heard of it any more: its agent is gone, and it may serve on.
    Unheard(NodeId),
    /// It says what is.
    Reported(NodeId, Report),
    /// It answers an order.
    Answered(NodeId, u64, Answer),
    /// The registry changed, or time passed.
    Look,
}

/// What is to be done by a volume server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Serve it, or change how it is served.
    Assign(Box<Assignment>),
    /// Stop serving it and free its space.
    Remove(VolumeId),
}

/// What a copy is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The volume.
    pub volume: Volume,
    /// Store of this copy.
    pub store: StoreId,
    /// What this copy is.
    pub role: Role,
    /// All copies; empty when there is one.
    pub members: Vec<Member>,
    /// It may be created.
    pub create: bool,
    /// Addresses to announce to hosts; empty: the one they came to.
    pub portals: Vec<String>,
}

/// A copy, for the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its store.
    pub store: StoreId,
    /// Its node.
    pub node: NodeId,
    /// Where its volume server listens for peers; empty: not known yet.
    pub peer_address: String,
    /// Its portals.
    pub portals: Vec<String>,
    /// It has every acknowledged write.
    pub in_sync: bool,
    /// It reigns.
    pub primary: bool,
}

/// What the reconciler wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send to the node's volume server.
    Send(NodeId, u64, Order),
    /// The copy exists there: remember it.
    Created(VolumeId, StoreId),
    /// The copy is gone there.
    Removed(VolumeId, StoreId),
    /// For the event log.
    Note(String),
}

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Reconciler {
    links: BTreeMap<NodeId, Link>,
    /// What volume servers that are not heard any more said last, and when.
    past: BTreeMap<NodeId, (Report, Duration)>,
    last_request: u64,
}

/// What a copy should be.
enum Goal {
    Assigned,
    Gone,
}

impl Reconciler {
    /// Learns `event` and looks at every copy of `desired`. Cost: O(copies).
    pub fn step(
        &mut self,
        now: Duration,
        desired: &State,
        event: Event,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Connected(node, server, report) => {
                let note = format!("volume server {} connected", server.pid);
                effects.push(Effect::Note(about(desired, node, &note)));
                let before = self.links.insert(node, Link::to(server));
                assert!(before.is_none()); // The agent lets one in at a time.
                self.past.remove(&node);
                self.on_report(now, desired, node, report, effects);
            }
            Event::Disconnected(node) => {
                if let Some(link) = self.links.remove(&node) {
                    let note = format!("volume server {} disconnected", link.server.pid);
                    effects.push(Effect::Note(about(desired, node, &note)));
                }
                self.past.remove(&node);
            }
            Event::Unheard(node) => {
                if let Some(link) = self.links.remove(&node) {
                    self.past.insert(node, (link.report, link.reported_at));
                }
                self.past.retain(|node, _| desired.nodes.contains_key(node));
            }
            Event::Reported(node, report) => self.on_report(now, desired, node, report, effects),
            Event::Answered(node, request, answer) => {
                self.on_answer(now, node, request, answer, effects);
            }
            Event::Look => {}
        }
        self.look(now, desired, effects);
    }

    /// The volume server connected on that node.
    pub fn server(&self, node: NodeId) -> Option<&Server> {
        self.links.get(&node).map(|link| &link.server)
    }

    /// The last report of the volume server connected on that node.
    pub fn report(&self, node: NodeId) -> Option<&Report> {
        self.links.get(&node).map(|link| &link.report)
    }

    /// What the node's volume server said last, and when; also of one that is not heard any more. `None`:
    /// it is known to be gone, or was never heard.
    pub fn last_report(&self, node: NodeId) -> Option<(&Report, Duration)> {
        let link = self.links.get(&node);
        let link = link.map(|link| (&link.report, link.reported_at));
        link.or_else(|| self.past.get(&node).map(|(report, at)| (report, *at)))
    }

    /// Whether an order for the volume was confirmed there after the last report.
    pub fn is_confirmed_since_report(&self, node: NodeId, id: VolumeId) -> bool {
        self.links.get(&node).is_some_and(|link| {
            let task = link.tasks.get(&id);
            task.is_some_and(|task| match task.progress {
                Progress::Done { at } => at >= link.reported_at && !task.removal,
                Progress::Sent { .. } | Progress::Failed { .. } => false,
            })
        })
    }

    /// Stores of all nodes that are still being opened.
    pub fn stores_opening(&self) -> u32 {
        let opening = self.links.values().map(|link| link.report.stores_opening);
        opening.fold(0, u32::saturating_add)
    }

    /// What was last said of a copy.
    pub fn copy(&self, desired: &State, id: VolumeId, store: StoreId) -> Option<&VolumeReport> {
        let report = self.report(desired.node_of(store)?)?;
        report.volumes.get(&id).filter(|copy| copy.store == store)
    }

    /// Volumes on the node's stores that the registry does not know.
    pub fn unknown(&self, node: NodeId) -> impl Iterator<Item = VolumeId> {
        let link = self.links.get(&node);
        link.into_iter()
            .flat_map(|link| link.unknown.iter().copied())
    }

    fn on_report(
        &mut self,
        now: Duration,
        desired: &State,
        node: NodeId,
        report: Report,
        effects: &mut Vec<Effect>,
    ) {
        let Some(link) = self.links.get_mut(&node) else {
            return; // A late message of a link that is closed.
        };
        link.reported_at = now;
        link.take_report(report, |note| {
            effects.push(Effect::Note(about(desired, node, &note)));
        });
    }

    fn on_answer(
        &mut self,
        now: Duration,
        node: NodeId,
        request: u64,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let Some(link) = self.links.get_mut(&node) else {
            return;
        };
        let asked = link.tasks.iter_mut().find(
            |(_, task)| matches!(task.progress, Progress::Sent { request: sent, .. } if sent == request),
        );
        let Some((&id, task)) = asked else {
            return; // The order was given again meanwhile, or is no longer wanted.
        };
        if answer == Answer::Done {
            task.progress = Progress::Done { at: now };
            if task.removal {
                link.cleared.insert(id);
            }
            effects.push(match (task.removal, task.create) {
                (true, _) => Effect::Removed(id, task.store),
                (false, true) => Effect::Created(id, task.store),
                (false, false) => return,
            });
            return;
        }
        task.wait = (task.wait * 2).clamp(RETRY_MIN, RETRY_MAX);
        let what = if task.removal { "remove" } else { "assign" };
        effects.push(Effect::Note(format!(
            "{what} volume {id} on store {}: {}",
            task.store,
            answer.reason()
        )));
        task.progress = Progress::Failed {
            retry_at: now + task.wait,
            answer,
        };
    }

    fn look(&mut self, now: Duration, desired: &State, effects: &mut Vec<Effect>) {
        for (&node, link) in &mut self.links {
            link.note_unknown(desired, |note| {
                effects.push(Effect::Note(about(desired, node, &note)));
            });
            let known = |id: &VolumeId| {
                desired.volumes.contains_key(id) || desired.tombstones.contains_key(id)
            };
            link.tasks.retain(|id, _| known(id));
        }
        for volume in desired.volumes.values() {
            for replica in &volume.replicas {
                self.look_at(now, desired, volume, replica, effects);
            }
            for &store in &volume.retired {
                self.order(now, desired, volume, store, Goal::Gone, effects);
            }
        }
        for link in self.links.values_mut() {
            link.returned.clear();
        }
        self.remove_risen(now, desired, effects);
    }

    fn look_at(
        &mut self,
        now: Duration,
        desired: &State,
        volume: &Volume,
        replica: &Replica,
        effects: &mut Vec<Effect>,
    ) {
        let store = replica.store;
        let seen = self.copy(desired, volume.id, store);
        let exists = seen.is_some_and(|seen| seen.epoch == volume.epoch);
        if !replica.created && !replica.discard && !volume.deleting && exists {
            effects.push(Effect::Created(volume.id, store)); // Its reply was lost.
        }
        let link = desired
            .node_of(store)
            .and_then(|node| self.links.get_mut(&node));
        let cleared = link.is_some_and(|link| {
            if !replica.discard {
                link.cleared.remove(&volume.id);
            }
            link.cleared.contains(&volume.id)
        });
        let goal = match volume.deleting || (replica.discard && !cleared) {
            true => Goal::Gone,
            false => Goal::Assigned,
        };
        self.order(now, desired, volume, store, goal, effects);
    }

    /// Gives the order for one copy if it is due.
    fn order(
        &mut self,
        now: Duration,
        desired: &State,
        volume: &Volume,
        store: StoreId,
        goal: Goal,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = desired.node_of(store) else {
            return;
        };
        let order = match goal {
            Goal::Gone => Order::Remove(volume.id),
            Goal::Assigned => Order::Assign(Box::new(self.assignment(desired, volume, store))),
        };
        let Some(link) = self.links.get_mut(&node) else {
            return;
        };
        if link.returned.contains(&store) {
            link.tasks.remove(&volume.id);
        }
        // A store that opens later is told then, at once; a refusal now would only delay it.
        let possible = matches!(order, Order::Remove(_)) || link.serves(store);
        let mark = order.mark();
        if !possible
            || link.in_flight() >= ORDERS_IN_FLIGHT_MAX
            || !link.is_due(now, volume, store, mark)
        {
            return;
        }
        self.last_request += 1;
        link.start(now, self.last_request, store, &order, mark);
        effects.push(Effect::Send(node, self.last_request, order));
    }

    fn assignment(&self, desired: &State, volume: &Volume, store: StoreId) -> Assignment {
        let member = |replica: &Replica| {
            let node = desired.node_of(replica.store);
            let known = node.and_then(|node| desired.nodes.get(&node));
            Member {
                store: replica.store,
                node: node.unwrap_or(NodeId([0; 16])),
                peer_address: known.map_or_else(String::new, |node| node.peer_address.clone()),
                portals: known.map_or_else(Vec::new, |node| announced(&node.portals)),
                in_sync: replica.in_sync,
                primary: replica.store == volume.primary,
            }
        };
        let (role, members) = if !volume.is_shared() {
            (Role::Alone, Vec::new())
        } else {
            let members = volume.members().map(member).collect();
            let reigns = volume.primary == store;
            let role = if reigns {
                Role::Primary
            } else {
                Role::Secondary
            };
            (role, members)
        };
        let server = desired.node_of(store).and_then(|node| self.server(node));
        Assignment {
            volume: volume.clone(),
            store,
            role,
            members,
            create: volume.replica(store).is_some_and(|copy| !copy.created),
            portals: server.map_or_else(Vec::new, |server| announced(&server.portals)),
        }
    }

    fn remove_risen(&mut self, now: Duration, desired: &State, effects: &mut Vec<Effect>) {
        for (&node, link) in &mut self.links {
            let room = ORDERS_IN_FLIGHT_MAX.saturating_sub(link.in_flight());
            let risen: Vec<_> = link.risen(now, desired).take(room).collect();
            for (id, store) in risen {
                self.last_request += 1;
                let order = Order::Remove(id);
                link.start(now, self.last_request, store, &order, order.mark());
                let note = format!("volume {id} was deleted and is back: removed again");
                effects.push(Effect::Note(about(desired, node, &note)));
                effects.push(Effect::Send(node, self.last_request, order));
            }
        }
    }
}

impl Order {
    /// Tells an order from another one for the same copy.
    fn mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        if let Order::Assign(assignment) = self {
            let volume = &assignment.volume;
            (volume.revision, volume.epoch.0, volume.set_version).hash(&mut hasher);
            (&assignment.members, &assignment.portals).hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Answer {
    fn reason(&self) -> &str {
        match self {
            Answer::Done => "",
            Answer::Later(text) | Answer::Refused(text) | Answer::NoSpace(text) => text,
        }
    }
}

fn about(desired: &State, node: NodeId, note: &str) -> String {
    format!("{}: {note}", desired.node_name(node))
}

/// Every host learns every portal, so that it finds all its paths. A portal on all addresses has no
/// address of its own to tell.
fn announced(portals: &[String]) -> Vec<String> {
    let address = |portal: &String| portal.parse::<SocketAddr>().ok();
    let tellable = |at: SocketAddr| !at.ip().is_unspecified();
    if portals
        .iter()
        .all(|portal| address(portal).is_some_and(tellable))
    {
        return portals.to_vec();
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
