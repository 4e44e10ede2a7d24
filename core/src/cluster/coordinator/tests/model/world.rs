//! Nodes, links, the registry and its leaders, faults, and the oracles.

use super::copy::{Ack, Copy, Entry, Sync, Wish};
use super::{Bug, HEARTBEAT, Ms, planted};
use crate::cluster::coordinator::Coordinator;
use crate::cluster::limits::NODE_SILENT;
use crate::cluster::message::{
    CommitId, CopyReport, Effect, Event, FenceAnswer, Proposal, ProposalId, Request, RequestId,
};
use crate::cluster::set::{Durability, VolumeSet};
use crate::id::{NodeId, StoreId};
use crate::lsn::Epoch;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use fastrand::Rng;

const NODES: usize = 3;
const STORM: Ms = 30_000;
const CALM: Ms = 15_000;

/// Something that happens at a moment.
#[derive(Debug)]
enum Happening {
    ToCopy(usize, Incarnation, ToCopy),
    ToLeader(usize, Leadership, ToLeader),
    /// A leader asks the registry; the leader may be deposed by then.
    Commit(Leadership, CommitId, (Epoch, u64), VolumeSet),
    Beat(usize),
    Work(usize),
    Synced(usize, Incarnation, usize),
    Lead,
    Fault,
    Restart(usize),
}

/// Counts the processes of a node: what was sent on an older one's streams is gone.
type Incarnation = u32;
/// Counts leaders.
type Leadership = u32;

#[derive(Clone, Debug)]
enum ToCopy {
    Assign(VolumeSet),
    Fence(Epoch),
    Answer(Epoch, u64, Vec<StoreId>),
    Sync(usize, Incarnation, Sync),
    Ack(usize, Incarnation, Ack),
}

#[derive(Clone, Debug)]
enum ToLeader {
    Beat { server: bool, report: CopyReport },
    Fenced(FenceAnswer),
    Wish(StoreId, Wish),
}

struct Node {
    copy: Copy,
    incarnation: Incarnation,
    paused_until: Ms,
    agent_down_until: Ms,
    /// Its disk is slow.
    slow_until: Ms,
    /// Percent of true time at which its clock runs, and where it began.
    rate: u64,
    offset: Ms,
}

impl Node {
    fn clock(&self, now: Ms) -> Ms {
        self.offset + now * self.rate / 100
    }
}

struct Leader {
    leadership: Leadership,
    coordinator: Coordinator,
    heard: [Ms; NODES],
    silent: [Option<bool>; NODES],
    until: Ms,
}

pub(super) struct World {
    pub(super) bug: Option<Bug>,
    pub(super) rng: Rng,
    now: Ms,
    queue: BTreeMap<(Ms, u64), Happening>,
    sequence: u64,
    nodes: Vec<Node>,
    pub(super) registry: VolumeSet,
    leaders: Vec<Leader>,
    leadership: Leadership,
    /// Cut directions: node to node, `NODES` being the masters.
    cut: BTreeSet<(usize, usize)>,
    /// Last delivery of each direction, so that streams stay in order.
    streams: BTreeMap<(usize, usize), Ms>,
    pub(super) acknowledged: Vec<u64>,
    pub(super) elections: usize,
    values: u64,
    requests: u64,
    reigns: BTreeMap<Epoch, usize>,
    served: Epoch,
    records: BTreeMap<(Epoch, usize), u64>,
    violation: Option<String>,
}

pub(super) fn store(node: usize) -> StoreId {
    StoreId([u8::try_from(node).expect("few nodes"); 16])
}

fn node_id(node: usize) -> NodeId {
    NodeId([u8::try_from(node).expect("few nodes"); 16])
}

pub(super) fn index(store: StoreId) -> usize {
    usize::from(store.0[0])
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let stores: Vec<_> = (0..NODES).map(|n| (store(n), node_id(n))).collect();
        let durability = if rng.bool() {
            Durability::SyncAll
        } else {
            Durability::SyncQuorum
        };
        let copies = if durability == Durability::SyncAll && rng.u8(..4) == 0 {
            2
        } else {
            3
        };
        let mut registry = VolumeSet::first(&stores[..copies], durability, copies);
        for replica in &mut registry.replicas {
            replica.created = true;
        }
        let nodes = (0..NODES).map(|n| Node {
            copy: Copy::new(store(n), bug),
            incarnation: 1,
            paused_until: 0,
            agent_down_until: 0,
            slow_until: 0,
            rate: rng.u64(97..=103),
            offset: rng.u64(0..100_000),
        });
        let mut world = World {
            bug,
            nodes: nodes.collect(),
            rng,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            registry,
            leaders: Vec::new(),
            leadership: 0,
            cut: BTreeSet::new(),
            streams: BTreeMap::new(),
            acknowledged: Vec::new(),
            elections: 0,
            values: 0,
            requests: 0,
            reigns: BTreeMap::new(),
            served: Epoch(0),
            records: BTreeMap::new(),
            violation: None,
        };
        for node in 0..NODES {
            let clock = world.nodes[node].clock(0);
            world.nodes[node].copy.start(clock);
            world.at(1 + world.rng.clone().u64(0..50), Happening::Beat(node));
            world.at(2, Happening::Work(node));
        }
        world.at(0, Happening::Lead);
        world.at(3000, Happening::Fault);
        world
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        let mut level = None;
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            if at > STORM + CALM {
                break;
            }
            if at > STORM + CALM - 5000 && level.is_none() {
                level = Some(self.acknowledged.len());
            }
            self.happen(happening);
            if let Some(violation) = self.violation.take() {
                return Err(format!("at {at} ms: {violation}"));
            }
        }
        if self.acknowledged.len() < level.unwrap_or(0) + 3 {
            let doing: Vec<_> = self
                .leaders
                .iter()
                .map(|l| l.coordinator.activity())
                .collect();
            return Err(format!(
                "no writes finish after the storm (I9): {:?} {doing:?}",
                self.registry
            ));
        }
        if self.registry.in_sync().count() < self.registry.replicas.len() {
            return Err(format!(
                "a copy did not come back (I9): {:?}",
                self.registry
            ));
        }
        Ok(())
    }

    fn calm(&self) -> bool {
        self.now > STORM
    }

    fn at(&mut self, at: Ms, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    /// When a message arrives, or never. Each direction is a stream.
    fn travel(&mut self, from: usize, to: usize) -> Option<Ms> {
        if self.cut.contains(&(from, to)) {
            return None;
        }
        let slow = !self.calm() && self.rng.u8(..50) == 0;
        let delay = self.rng.u64(if slow { 1..1500 } else { 1..15 });
        let before = self.streams.get(&(from, to)).copied().unwrap_or(0);
        let at = (self.now + delay).max(before);
        self.streams.insert((from, to), at);
        Some(at)
    }

    /// Streams end with the connection: between nodes nothing older arrives after a cut.
    fn send_to_copy(&mut self, from: usize, to: usize, message: ToCopy) {
        if let Some(at) = self.travel(from, to) {
            let incarnation = self.nodes[to].incarnation;
            self.at(at, Happening::ToCopy(to, incarnation, message));
        }
    }

    fn send_to_leaders(&mut self, from: usize, message: &ToLeader) {
        if self.nodes[from].agent_down_until > self.now {
            return;
        }
        for leader in 0..self.leaders.len() {
            let leadership = self.leaders[leader].leadership;
            // Requests travel on several connections: late, twice, in another order.
            let copies = if self.rng.u8(..10) == 0 { 2 } else { 1 };
            for _ in 0..copies {
                if let Some(at) = self.travel(from, NODES) {
                    let more = if self.calm() { 0 } else { self.rng.u64(..2000) };
                    let at = if copies == 2 { at + more } else { at };
                    self.at(at, Happening::ToLeader(from, leadership, message.clone()));
                }
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToCopy(node, incarnation, message) => {
                self.on_copy_message(node, incarnation, message);
            }
            Happening::ToLeader(node, leadership, message) => {
                self.on_leader_message(node, leadership, message);
            }
            Happening::Commit(leadership, id, expected, set) => {
                self.on_commit(leadership, id, expected, set);
            }
            Happening::Beat(node) => self.on_beat(node),
            Happening::Work(node) => self.on_work(node),
            Happening::Synced(node, incarnation, entries) => {
                if self.nodes[node].incarnation == incarnation {
                    self.nodes[node].copy.synced(entries);
                }
            }
            Happening::Lead => self.on_lead(),
            Happening::Fault => self.on_fault(),
            Happening::Restart(node) => {
                let clock = self.nodes[node].clock(self.now);
                if !self.nodes[node].copy.alive {
                    self.nodes[node].incarnation += 1;
                    self.nodes[node].copy.start(clock);
                }
            }
        }
    }

    fn on_copy_message(&mut self, to: usize, incarnation: Incarnation, message: ToCopy) {
        let node = &mut self.nodes[to];
        if !node.copy.alive || node.incarnation != incarnation {
            return;
        }
        if node.paused_until >= self.now {
            let at = node.paused_until + 1;
            self.at(at, Happening::ToCopy(to, incarnation, message));
            return;
        }
        let clock = node.clock(self.now);
        match message {
            ToCopy::Assign(set) => {
                node.copy.assign(clock, &set);
            }
            ToCopy::Fence(epoch) => {
                let answer = node.copy.fence(clock, epoch);
                self.send_to_leaders(to, &ToLeader::Fenced(answer));
            }
            ToCopy::Answer(epoch, version, in_sync) => {
                if epoch == node.copy.epoch() {
                    node.copy.learn(version, in_sync, None);
                }
            }
            ToCopy::Sync(from, sender, sync) => {
                // The journal sometimes does not reach back.
                let resyncs = self.rng.u8(..3) == 0;
                let ack = node.copy.on_sync(clock, &sync, resyncs);
                if let Some(ack) = ack {
                    if self.nodes[from].incarnation == sender {
                        self.send_to_copy(to, from, ToCopy::Ack(to, incarnation, ack));
                    }
                    self.sync_disk(to);
                }
            }
            ToCopy::Ack(from, sender, ack) => {
                if self.nodes[from].incarnation == sender {
                    self.nodes[to].copy.on_ack(clock, store(from), ack);
                }
            }
        }
        self.look(to);
    }

    fn on_leader_message(&mut self, from: usize, leadership: Leadership, message: ToLeader) {
        let Some(i) = self.leaders.iter().position(|l| l.leadership == leadership) else {
            return;
        };
        let now = self.now;
        match message {
            ToLeader::Beat { server, report } => {
                self.leaders[i].heard[from] = now;
                if self.leaders[i].silent[from] != Some(false) {
                    self.leaders[i].silent[from] = Some(false);
                    self.step(i, Event::NodeHeard(node_id(from)));
                }
                let event = if server {
                    Event::Report(report)
                } else {
                    Event::ServerDown(node_id(from))
                };
                self.step(i, event);
                let set = self.leaders[i].coordinator.set().clone();
                if set.replica(store(from)).is_some() {
                    self.send_to_copy(NODES, from, ToCopy::Assign(set));
                }
            }
            ToLeader::Fenced(answer) => self.step(i, Event::Fenced(answer)),
            ToLeader::Wish(from, wish) => {
                self.requests += 1;
                let proposal = Proposal {
                    // The answer finds its way by it.
                    id: ProposalId(self.requests * 8 + index(from) as u64),
                    from,
                    epoch: wish.epoch,
                    set_version: wish.set_version,
                    in_sync: wish.in_sync,
                    settled: wish.settled,
                };
                self.step(i, Event::Proposal(proposal));
            }
        }
    }

    fn step(&mut self, leader: usize, event: Event) {
        let bug = self.bug;
        let now = Duration::from_millis(self.now);
        let Some(event) = planted::before(self, leader, event) else {
            return;
        };
        let mut effects = Vec::new();
        let coordinator = &mut self.leaders[leader].coordinator;
        planted::around(bug, coordinator, |c| c.step(now, event, &mut effects));
        for effect in effects {
            self.act(leader, effect);
        }
    }

    fn act(&mut self, leader: usize, effect: Effect) {
        let leadership = self.leaders[leader].leadership;
        match effect {
            Effect::Fence { store, epoch, .. } => {
                let to = index(store);
                if self.nodes[to].agent_down_until <= self.now {
                    self.send_to_copy(NODES, to, ToCopy::Fence(epoch));
                }
            }
            Effect::Commit {
                id, expected, set, ..
            } => {
                let set = planted::committed_set(self.bug, &self.registry, set);
                let at = self.now + self.rng.u64(1..40);
                self.at(at, Happening::Commit(leadership, id, expected, set));
            }
            Effect::Answer {
                id,
                epoch,
                set_version,
                in_sync,
                ..
            } => {
                let to = usize::try_from(id.0 % 8).expect("small");
                self.send_to_copy(NODES, to, ToCopy::Answer(epoch, set_version, in_sync));
            }
            Effect::Done { .. } | Effect::Note(_) => {}
        }
    }

    fn on_commit(
        &mut self,
        leadership: Leadership,
        id: CommitId,
        expected: (Epoch, u64),
        set: VolumeSet,
    ) {
        let Some(i) = self.leaders.iter().position(|l| l.leadership == leadership) else {
            return;
        };
        if leadership != self.leadership {
            return; // Deposed: never registered, and nobody tells it.
        }
        if (self.registry.epoch, self.registry.set_version) != expected {
            let registry = self.registry.clone();
            self.step(i, Event::Registered(registry));
            return;
        }
        set.check();
        if set.epoch != self.registry.epoch {
            self.elections += 1;
        }
        self.registry = set.clone();
        let event = if self.rng.u8(..10) == 0 {
            Event::Registered(set.clone())
        } else {
            Event::Committed(id)
        };
        self.step(i, event);
        for replica in set.members() {
            self.send_to_copy(NODES, index(replica.store), ToCopy::Assign(set.clone()));
        }
    }

    fn on_beat(&mut self, node: usize) {
        self.at(self.now + 500, Happening::Beat(node));
        let clock = self.nodes[node].clock(self.now);
        let here = &self.nodes[node];
        // A paused server is up for its agent, and its last word stands.
        if here.paused_until <= self.now {
            let server = here.copy.alive;
            let report = here.copy.report(clock);
            self.send_to_leaders(node, &ToLeader::Beat { server, report });
        }
        for leader in 0..self.leaders.len() {
            let silent_for = self.now - self.leaders[leader].heard[node];
            let silent = Duration::from_millis(silent_for) > NODE_SILENT;
            if silent && self.leaders[leader].silent[node] != Some(true) {
                self.leaders[leader].silent[node] = Some(true);
                self.step(leader, Event::NodeSilent(node_id(node)));
            }
        }
    }

    /// A node's own doings: host I/O, shipping, proposals; and the leaders' clocks.
    fn on_work(&mut self, node: usize) {
        self.at(self.now + HEARTBEAT / 2, Happening::Work(node));
        let now = self.now;
        self.leaders.retain(|leader| leader.until > now);
        for leader in 0..self.leaders.len() {
            self.step(leader, Event::Tick);
        }
        let here = &mut self.nodes[node];
        if !here.copy.alive || here.paused_until > now {
            return;
        }
        let clock = here.clock(now);
        self.values += 1;
        if here.copy.write(self.values) {
            self.sync_disk(node);
        }
        let fills = self.calm() || self.rng.u8(..8) == 0;
        let incarnation = self.nodes[node].incarnation;
        for (to, sync) in self.nodes[node].copy.heartbeat(clock, fills) {
            self.send_to_copy(node, index(to), ToCopy::Sync(node, incarnation, sync));
        }
        if let Some(wish) = self.nodes[node].copy.wish(clock) {
            self.send_to_leaders(node, &ToLeader::Wish(store(node), wish));
        }
        self.look(node);
    }

    /// What is in the log now becomes durable after a while.
    fn sync_disk(&mut self, node: usize) {
        let slow = self.nodes[node].slow_until > self.now;
        let at = self.now + self.rng.u64(if slow { 300..3000 } else { 1..20 });
        let (incarnation, entries) = (
            self.nodes[node].incarnation,
            self.nodes[node].copy.log.len(),
        );
        self.at(at, Happening::Synced(node, incarnation, entries));
    }

    fn on_lead(&mut self) {
        self.leadership += 1;
        // The old one goes on for a while in the belief that it leads.
        let until = self.now + self.rng.u64(..3000);
        for leader in &mut self.leaders {
            leader.until = leader.until.min(until);
        }
        let now = self.now;
        self.leaders.push(Leader {
            leadership: self.leadership,
            coordinator: Coordinator::new(Duration::from_millis(now), self.registry.clone()),
            heard: [now; NODES],
            silent: [None; NODES],
            until: Ms::MAX,
        });
        let next = now + self.rng.u64(2000..30_000);
        if next < STORM {
            self.at(next, Happening::Lead);
        }
    }

    fn on_fault(&mut self) {
        if self.calm() {
            self.cut.clear();
            for node in 0..NODES {
                self.at(self.now + 1, Happening::Restart(node));
            }
            return;
        }
        let next = self.now + self.rng.u64(50..4000);
        self.at(next, Happening::Fault);
        let node = self.rng.usize(..NODES);
        let other = self.rng.usize(..=NODES);
        match self.rng.u8(..16) {
            0..=3 => self.crash(node),
            4 => (0..NODES).for_each(|node| self.crash(node)),
            5 | 6 => {
                let until = self.now + self.rng.u64(100..6000);
                self.nodes[node].paused_until = self.nodes[node].paused_until.max(until);
            }
            7 => self.nodes[node].agent_down_until = self.now + self.rng.u64(500..8000),
            8 | 9 if other != node => {
                let directions = self.rng.u8(1..=3);
                if directions & 1 != 0 {
                    self.cut.insert((node, other));
                }
                if directions & 2 != 0 {
                    self.cut.insert((other, node));
                }
            }
            10 => {
                for other in 0..=NODES {
                    self.cut.insert((node, other));
                    self.cut.insert((other, node));
                }
            }
            11 => self.ask(),
            12 => self.nodes[node].slow_until = self.now + self.rng.u64(1000..8000),
            _ => self.cut.clear(),
        }
    }

    fn crash(&mut self, node: usize) {
        if self.nodes[node].copy.alive {
            let kept = self.rng.usize(..4);
            self.nodes[node].copy.crash(kept);
            let at = self.now + self.rng.u64(20..6000);
            self.at(at, Happening::Restart(node));
        }
    }

    fn ask(&mut self) {
        let request = match self.rng.u8(..2) {
            0 if self.registry.copies_wanted == 3 => {
                let modes = [Durability::SyncAll, Durability::SyncQuorum];
                Request::SetDurability(modes[self.rng.usize(..2)])
            }
            _ => Request::Move {
                to: store(self.rng.usize(..NODES)),
            },
        };
        self.requests += 1;
        let last = self.leaders.len() - 1;
        self.step(last, Event::Request(RequestId(self.requests), request));
    }

    /// A host looks at the node: completes what is committed, reads; and the oracles look too.
    fn look(&mut self, node: usize) {
        let clock = self.nodes[node].clock(self.now);
        let copy = &mut self.nodes[node].copy;
        let completed = copy.commit(clock);
        if !copy.may_serve(clock) {
            return;
        }
        let epoch = copy.epoch();
        let log = copy.log.clone();
        self.acknowledged.extend(&completed);
        self.check_served(node, epoch);
        self.check_log(&log);
    }

    fn check_served(&mut self, node: usize, epoch: Epoch) {
        let reigns = *self.reigns.entry(epoch).or_insert(node);
        let lost = self.nodes[node].copy.misses(&self.acknowledged);
        self.violation = if reigns != node {
            Some(format!("{epoch} has two primaries (I3)"))
        } else if epoch < self.served {
            Some(format!("{epoch} serves after {} did (I3)", self.served))
        } else {
            lost.map(|value| {
                format!("acknowledged {value} is not on node {node} in {epoch} (I1, I2)")
            })
        };
        self.served = self.served.max(epoch);
    }

    fn check_log(&mut self, log: &[Entry]) {
        for (i, entry) in log.iter().enumerate().rev().take(20) {
            let Some(value) = entry.1 else { continue };
            let same = *self.records.entry((entry.0, i)).or_insert(value);
            if same != value {
                self.violation = Some(format!("{} record {i} is {same} and {value} (I4)", entry.0));
            }
        }
    }

    pub(super) fn coordinator(&mut self, leader: usize) -> &mut Coordinator {
        &mut self.leaders[leader].coordinator
    }

    pub(super) fn leads(&self, leader: usize) -> bool {
        self.leaders[leader].leadership == self.leadership
    }

    /// Answers as if the set that stands under the same version were another one.
    pub(super) fn answer_as_news(&mut self, to: StoreId) {
        let (epoch, version) = (self.registry.epoch, self.registry.set_version + 1);
        let answer = ToCopy::Answer(epoch, version, self.registry.in_sync_stores());
        self.send_to_copy(NODES, index(to), answer);
    }
}
