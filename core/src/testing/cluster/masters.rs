//! The masters: a registry with compare-and-set, one leader at a time with the coordinator of the volume,
//! and the control link to the nodes, where messages are late or lost.

use super::coverage::Work;
use super::node::node_of;
use super::{Happening, Input, MASTERS, Micros, SECOND, World};
use crate::cluster::coordinator::Coordinator;
use crate::cluster::limits::NODE_SILENT;
use crate::cluster::message::{
    CommitId, CopyReport, CopyState, Effect, Event, FenceAnswer, Note, Proposal, ProposalId,
    Request, RequestId,
};
use crate::cluster::set::VolumeSet;
use crate::id::StoreId;
use crate::lsn::{Epoch, Lsn};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

/// Between two beats of an agent.
pub(super) const BEAT: Micros = SECOND / 2;

/// Between two ticks of a coordinator.
pub(super) const MASTER_TICK: Micros = SECOND / 10;

/// Sets that were registered once, at most.
const PAST_MAX: usize = 16;

/// What comes to a leader.
#[derive(Clone, Debug)]
pub(super) enum ToMaster {
    /// The agent lives; whether its volume server does.
    Beat(bool),
    /// Of a copy, and the assignment that it has.
    Report(CopyReport, (u64, u64)),
    /// The store is open and has no copy.
    Missing(StoreId),
    Fenced(FenceAnswer),
    Proposal {
        from: StoreId,
        epoch: Epoch,
        set_version: u64,
        in_sync: Vec<StoreId>,
    },
}

/// The registry and who leads.
pub(super) struct Masters {
    pub(super) registry: VolumeSet,
    /// What was registered before, the last ones.
    pub(super) past: VecDeque<VolumeSet>,
    pub(super) leader: Option<Leader>,
    /// Counts leaders.
    pub(super) leadership: u32,
    proposals: BTreeMap<u64, StoreId>,
    next: u64,
}

/// Who leads.
pub(super) struct Leader {
    pub(super) coordinator: Coordinator,
    heard: Vec<Micros>,
    silent: Vec<Option<bool>>,
}

impl Masters {
    pub(super) fn new(registry: VolumeSet) -> Self {
        Masters {
            registry,
            past: VecDeque::new(),
            leader: None,
            leadership: 0,
            proposals: BTreeMap::new(),
            next: 0,
        }
    }
}

impl World {
    /// A leader begins, with what is registered.
    pub(super) fn on_lead(&mut self) {
        self.masters.leadership += 1;
        let nodes = self.nodes.len();
        let set = self.masters.registry.clone();
        self.say(|| format!("masters: leader {} begins", 0));
        self.masters.leader = Some(Leader {
            coordinator: Coordinator::new(Duration::from_micros(self.now), set),
            heard: vec![self.now; nodes],
            silent: vec![None; nodes],
        });
        let leadership = self.masters.leadership;
        self.at(self.now + 1, Happening::MasterTick(leadership));
        self.assign_all();
    }

    /// Time passes for a leader.
    pub(super) fn on_master_tick(&mut self, leadership: u32) {
        if leadership != self.masters.leadership {
            return;
        }
        let now = self.now;
        let Some(leader) = &mut self.masters.leader else {
            return;
        };
        let mut events = vec![Event::Tick];
        for (node, heard) in leader.heard.iter().enumerate() {
            let silent = Duration::from_micros(now - heard) > NODE_SILENT;
            if silent && leader.silent[node] != Some(true) {
                leader.silent[node] = Some(true);
                events.push(Event::NodeSilent(self.nodes[node].id));
            }
        }
        for event in events {
            self.coordinate(event);
        }
        self.at(now + MASTER_TICK, Happening::MasterTick(leadership));
    }

    /// An agent gives a sign of life.
    pub(super) fn on_beat(&mut self, node: usize) {
        self.at(self.now + BEAT, Happening::Beat(node));
        if !self.nodes[node].agent_down {
            let up = self.nodes[node].process.is_some();
            self.tell_master(node, ToMaster::Beat(up));
        }
    }

    /// Sends to whoever leads.
    pub(super) fn tell_master(&mut self, node: usize, message: ToMaster) {
        let cut = self.network.is_cut(node, MASTERS);
        if cut || self.nodes[node].agent_down || self.is_lost() {
            return;
        }
        let delay = self.delay(node, MASTERS);
        let at = self.in_order(node, MASTERS, self.now + delay);
        let leadership = self.masters.leadership;
        self.at(at, Happening::ToMaster(leadership, node, message));
    }

    /// Sends from the leader to a volume server.
    pub(super) fn tell_node(&mut self, node: usize, input: Input) {
        if self.network.is_cut(MASTERS, node) || self.nodes[node].agent_down || self.is_lost() {
            return;
        }
        let delay = self.delay(MASTERS, node);
        let at = self.in_order(MASTERS, node, self.now + delay);
        let incarnation = self.nodes[node].incarnation;
        self.at(at, Happening::Input(node, incarnation, Box::new(input)));
    }

    fn is_lost(&mut self) -> bool {
        self.plan.lost > 0 && !self.is_calm() && self.rng.u32(..1000) < self.plan.lost
    }

    fn in_order(&mut self, from: usize, to: usize, at: Micros) -> Micros {
        let last = self.links.entry((from, to)).or_insert(0);
        *last = at.max(*last);
        *last
    }

    /// Something comes to a leader.
    pub(super) fn on_to_master(&mut self, leadership: u32, node: usize, message: ToMaster) {
        if leadership != self.masters.leadership {
            return;
        }
        let now = self.now;
        let Some(leader) = &mut self.masters.leader else {
            return;
        };
        leader.heard[node] = now;
        if leader.silent[node] != Some(false) {
            leader.silent[node] = Some(false);
            self.coordinate(Event::NodeHeard(self.nodes[node].id));
        }
        match message {
            ToMaster::Beat(true) => {}
            ToMaster::Beat(false) => self.coordinate(Event::ServerDown(self.nodes[node].id)),
            ToMaster::Report(report, told) => self.on_report(report, told),
            ToMaster::Missing(store) => {
                self.coordinate(Event::Report(CopyReport {
                    store,
                    state: CopyState::Missing,
                    epoch: Epoch(0),
                    promised: Epoch(0),
                    durable: Lsn(0),
                    committed: Lsn(0),
                }));
                self.assign(store);
            }
            ToMaster::Fenced(answer) => self.coordinate(Event::Fenced(answer)),
            ToMaster::Proposal {
                from,
                epoch,
                set_version,
                in_sync,
            } => {
                self.masters.next += 1;
                let id = ProposalId(self.masters.next);
                self.masters.proposals.insert(id.0, from);
                self.coordinate(Event::Proposal(Proposal {
                    id,
                    from,
                    epoch,
                    set_version,
                    in_sync,
                    settled: None,
                }));
            }
        }
    }

    fn on_report(&mut self, report: CopyReport, told: (u64, u64)) {
        let store = report.store;
        self.coordinate(Event::Report(report));
        let Some(leader) = &self.masters.leader else {
            return;
        };
        let set = leader.coordinator.set();
        let created = set.replica(store).map(|replica| replica.created);
        let behind = told < (set.epoch.0, set.set_version);
        if created == Some(false) {
            self.request(Request::ReplicaCreated(store));
        }
        if behind {
            self.assign(store);
        }
    }

    /// A person, or the masters themselves, want something.
    pub(super) fn request(&mut self, request: Request) {
        self.masters.next += 1;
        let id = RequestId(self.masters.next);
        self.coordinate(Event::Request(id, request));
    }

    fn coordinate(&mut self, event: Event) {
        let now = Duration::from_micros(self.now);
        let Some(leader) = &mut self.masters.leader else {
            return;
        };
        let mut effects = Vec::new();
        let tick = event == Event::Tick;
        let told = self.narrator.is_some().then(|| format!("{event:?}"));
        leader.coordinator.step(now, event, &mut effects);
        if let Some(told) = told.filter(|_| !tick || !effects.is_empty()) {
            self.say(|| format!("masters: {told}"));
        }
        for effect in effects {
            if matches!(effect, Effect::Note(Note::ElectionBegan { .. })) {
                self.election_since.get_or_insert(self.now);
            }
            self.say(|| format!("masters: -> {effect:?}"));
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Fence { store, epoch, .. } => {
                self.tell_node(node_of(store), Input::Fence(store, epoch));
            }
            Effect::Commit {
                id, expected, set, ..
            } => {
                let at = self.now + self.rng.u64(500..40_000);
                let leadership = self.masters.leadership;
                self.at(
                    at,
                    Happening::Registry(leadership, id, expected, Box::new(set)),
                );
            }
            Effect::Answer {
                id,
                refusal,
                epoch,
                set_version,
                in_sync,
            } => {
                if let Some(to) = self.masters.proposals.remove(&id.0) {
                    let input = Input::Answer {
                        to,
                        accepted: refusal.is_none(),
                        epoch,
                        set_version,
                        in_sync,
                    };
                    self.tell_node(node_of(to), input);
                }
            }
            Effect::Done { .. } | Effect::Note(_) => {}
        }
    }

    /// The registry is asked; also for a leader that has ended meanwhile.
    pub(super) fn on_registry(
        &mut self,
        leadership: u32,
        id: CommitId,
        expected: (Epoch, u64),
        set: VolumeSet,
    ) {
        let registry = &mut self.masters.registry;
        let fits = (registry.epoch, registry.set_version) == expected;
        let present = leadership == self.masters.leadership;
        if !present && self.rng.bool() {
            return; // It died with its leader.
        }
        if fits {
            set.check();
            let before = core::mem::replace(registry, set.clone());
            let reign = before.epoch != set.epoch;
            self.masters.past.push_back(before);
            if self.masters.past.len() > PAST_MAX {
                self.masters.past.pop_front();
            }
            if reign {
                self.note_reign();
            }
        }
        self.say(|| format!("registry: {fits} {}", words(&set)));
        self.note(17, set.epoch.0, set.set_version);
        if !present {
            return;
        }
        let unknown = self.rng.u8(..10) == 0;
        let event = if fits && !unknown {
            Event::Committed(id)
        } else {
            Event::Registered(self.masters.registry.clone())
        };
        self.coordinate(event);
        self.assign_all();
    }

    /// Another reign is registered.
    fn note_reign(&mut self) {
        let began = [
            (Work::Move, self.move_since.take()),
            (Work::Promote, self.election_since.take()),
        ];
        for (work, since) in began {
            if let Some(since) = since {
                self.coverage.done(work, since, self.now);
            }
        }
    }

    fn assign_all(&mut self) {
        let members = self.masters.registry.members();
        for store in members.map(|replica| replica.store).collect::<Vec<_>>() {
            self.assign(store);
        }
    }

    /// Tells a copy what is registered.
    pub(super) fn assign(&mut self, store: StoreId) {
        let set = self.masters.registry.clone();
        if set.replica(store).is_some_and(|replica| !replica.discard) {
            self.tell_node(node_of(store), Input::Assign(store, Box::new(set)));
        }
    }
}

/// A set in a few words.
pub(super) fn words(set: &VolumeSet) -> alloc::string::String {
    let copies = set.replicas.iter().map(|replica| {
        let node = node_of(replica.store);
        let primary = if replica.store == set.primary {
            "*"
        } else {
            ""
        };
        let sync = if replica.in_sync { "" } else { " out" };
        let created = if replica.created { "" } else { " new" };
        format!("{node}{primary}{sync}{created}")
    });
    format!(
        "epoch {} version {} [{}]",
        set.epoch.0,
        set.set_version,
        copies.collect::<Vec<_>>().join(", ")
    )
}
