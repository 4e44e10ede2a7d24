//! Drives the coordinators: one for each volume.
//!
//! It feeds them what is heard and performs what they want: fences over the link, commits as a
//! compare-and-set in the registry, answers. It decides nothing about who reigns. A coordinator exists
//! from the moment that every first copy is confirmed until the volume is deleted, also for one copy,
//! which may become several; before that the primary's proposals are refused as premature.

use super::{Caller, Master, Proposal, ProposalResult, Registered};
use crate::convert;
use crate::name::VolumeName;
use crate::reconcile::{CopyState as ToldState, Event as ReconcileEvent, Fenced, Role};
use crate::registry::database::StorageError;
use crate::registry::{Change, Durability, Refusal, RefusalKind, Replica, State, Volume};
use holdfast_core::cluster::coordinator::{Activity, Coordinator};
use holdfast_core::cluster::election::Position;
use holdfast_core::cluster::limits::NODE_SILENT;
use holdfast_core::cluster::message::{
    CommitId, CopyReport, CopyState, Effect, Event, FenceAnswer, FenceResult, Note, ProposalId,
    Request, RequestId, Why,
};
use holdfast_core::cluster::{message, set};
use holdfast_core::id::{NodeId, StoreId, VolumeId};
use holdfast_core::lsn::Epoch;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Coordinators and what waits for them.
#[derive(Default)]
pub(super) struct Reigns {
    coordinators: BTreeMap<VolumeId, Coordinator>,
    nodes: BTreeMap<NodeId, Hearing>,
    /// Where the answer to a proposal goes.
    proposals: BTreeMap<ProposalId, (NodeId, u64)>,
    requests: BTreeMap<RequestId, Wish>,
    last: u64,
}

/// When a node was heard.
struct Hearing {
    last: Duration,
    told: Told,
}

/// What the coordinators were told of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Heard,
    Silent,
}

/// A person who waits.
struct Wish {
    caller: Caller,
    volume: VolumeId,
    answer: Option<Registered>,
}

impl Reigns {
    /// The coordinators' beginning: all nodes of `state` are given time to be heard.
    pub(super) fn of(state: &State) -> Reigns {
        let unheard = |node: &NodeId| {
            let hearing = Hearing {
                last: Duration::ZERO,
                told: Told::Nothing,
            };
            (*node, hearing)
        };
        Reigns {
            nodes: state.nodes.keys().map(unheard).collect(),
            ..Reigns::default()
        }
    }

    /// Why volumes have no copy that can reign.
    pub(super) fn closed(&self) -> BTreeMap<VolumeId, String> {
        let closed = self.coordinators.iter().filter_map(|(id, coordinator)| {
            let text = match coordinator.activity() {
                Activity::Closed(closed) => closed.to_string(),
                Activity::Electing(cause) => format!("a new primary is being chosen: {cause}"),
                Activity::Registering => "a change is being registered".into(),
                Activity::Watching => return None,
            };
            Some((*id, text))
        });
        closed.collect()
    }

    /// All of them.
    pub(super) fn coordinators(&self) -> impl Iterator<Item = (&VolumeId, &Coordinator)> {
        self.coordinators.iter()
    }

    /// That of a volume.
    pub(super) fn coordinator(&self, id: VolumeId) -> Option<&Coordinator> {
        self.coordinators.get(&id)
    }

    /// A node that is not waited for any more.
    pub(super) fn forget_node(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// For how long the node's agent was not heard; zero while it is.
    pub(super) fn agent_silence(&self, now: Duration, node: NodeId) -> Duration {
        match self.nodes.get(&node) {
            Some(hearing) if hearing.told == Told::Heard => Duration::ZERO,
            Some(hearing) => now.saturating_sub(hearing.last),
            None => now,
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Master {
    /// An agent was heard.
    pub(super) async fn hear(&mut self, node: NodeId) -> Result<(), StorageError> {
        let now = self.now();
        let hearing = self.reigns.nodes.entry(node).or_insert(Hearing {
            last: now,
            told: Told::Nothing,
        });
        hearing.last = now;
        if hearing.told == Told::Heard {
            return Ok(());
        }
        hearing.told = Told::Heard;
        self.tell_all(Event::NodeHeard(node)).await
    }

    /// Time passed: finds silent nodes, keeps one coordinator per volume with several copies.
    pub(super) async fn watch_reigns(&mut self) -> Result<(), StorageError> {
        let now = self.now();
        let mut silent = Vec::new();
        for (node, hearing) in &mut self.reigns.nodes {
            let silence = now.saturating_sub(hearing.last);
            if hearing.told != Told::Silent && silence > NODE_SILENT {
                hearing.told = Told::Silent;
                silent.push(*node);
            }
        }
        for node in silent {
            self.note(format!("node {} is silent", self.state.node_name(node)));
            self.tell_all(Event::NodeSilent(node)).await?;
        }
        self.keep_coordinators().await?;
        self.tell_all(Event::Tick).await
    }

    pub(super) async fn keep_coordinators(&mut self) -> Result<(), StorageError> {
        let Master { reigns, state, .. } = self;
        reigns.coordinators.retain(|id, _| {
            let volume = state.volumes.get(id);
            volume.is_some_and(|volume| !volume.deleting)
        });
        let is_new = |volume: &&Volume| !self.reigns.coordinators.contains_key(&volume.id);
        let fresh = self.state.volumes.values().filter(is_new);
        let fresh: Vec<_> = fresh
            .filter_map(|volume| Some((volume.id, set_of(&self.state, volume)?)))
            .collect();
        let now = self.now();
        for (id, set) in fresh {
            let nodes: Vec<_> = set.replicas.iter().map(|replica| replica.node).collect();
            self.reigns
                .coordinators
                .insert(id, Coordinator::new(now, set));
            for node in nodes {
                let told = self.reigns.nodes.get(&node).map(|hearing| hearing.told);
                match told {
                    None | Some(Told::Nothing) => {} // One of the two follows.
                    Some(Told::Silent) => self.tell(id, Event::NodeSilent(node)).await?,
                    Some(Told::Heard) => {
                        self.tell(id, Event::NodeHeard(node)).await?;
                        let mut sessions = self.sessions.get(&node).into_iter();
                        if sessions.any(|session| session.server_down) {
                            self.tell(id, Event::ServerDown(node)).await?;
                        }
                        self.tell_of_copies(node, Some(id)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The node's volume server is gone.
    pub(super) async fn on_server_down(&mut self, node: NodeId) -> Result<(), StorageError> {
        self.tell_all(Event::ServerDown(node)).await
    }

    /// The node's volume server said what is.
    pub(super) async fn on_copies_reported(&mut self, node: NodeId) -> Result<(), StorageError> {
        self.tell_of_copies(node, None).await
    }

    async fn tell_of_copies(
        &mut self,
        node: NodeId,
        only: Option<VolumeId>,
    ) -> Result<(), StorageError> {
        let mut reports = Vec::new();
        for (id, coordinator) in &self.reigns.coordinators {
            if only.is_some_and(|only| only != *id) {
                continue;
            }
            let replicas = coordinator.set().replicas.iter();
            for replica in replicas.filter(|replica| replica.node == node && replica.created) {
                if let Some(report) = self.copy_report(*id, node, replica.store) {
                    reports.push((*id, report));
                }
            }
        }
        for (id, report) in reports {
            self.tell(id, Event::Report(report)).await?;
        }
        Ok(())
    }

    /// What is known of a copy; `None`: nothing, as while its store is being opened.
    fn copy_report(&self, id: VolumeId, node: NodeId, store: StoreId) -> Option<CopyReport> {
        let report = self.reconciler.report(node)?;
        let holder = report.stores.iter().find(|held| held.id == Some(store));
        if holder.is_none() && report.stores_opening > 0 {
            return None;
        }
        let own = self.reconciler.copy(&self.state, id, store);
        if own.is_none() && self.reconciler.is_confirmed_since_report(node, id) {
            return None; // It was made after that report: nothing is known to be missing.
        }
        let mut told = CopyReport {
            store,
            state: CopyState::Missing,
            epoch: Epoch(0),
            promised: Epoch(0),
            durable: Default::default(),
            committed: Default::default(),
        };
        if let Some(own) = own {
            let primary_silent = own.primary_silent;
            told.epoch = own.epoch;
            told.promised = own.promised.max(own.epoch);
            told.durable = own.durable;
            told.committed = own.committed;
            told.state = match own.role {
                Role::Primary => CopyState::Primary {
                    serving: own.serving,
                },
                _ if own.resyncing => CopyState::Resyncing {
                    left_bytes: self.resync_left(id, store),
                    primary_silent,
                },
                _ => CopyState::Secondary { primary_silent },
            };
        }
        let failed = own.is_some_and(|own| !own.failed.is_empty());
        if failed || holder.is_some_and(|holder| !holder.failed.is_empty()) {
            told.state = CopyState::Failed;
        }
        Some(told)
    }

    /// Bytes that a copy lacks, as its primary says.
    fn resync_left(&self, id: VolumeId, store: StoreId) -> u64 {
        let volume = self.state.volumes.get(&id);
        let primary =
            volume.and_then(|volume| self.reconciler.copy(&self.state, id, volume.primary));
        let copies = primary.map_or(&[][..], |primary| &primary.copies);
        let copy = copies.iter().find(|copy| copy.store == store);
        let copy = copy.filter(|copy| copy.state == ToldState::Resyncing);
        copy.map_or(0, |copy| {
            copy.resync_total_bytes
                .saturating_sub(copy.resync_done_bytes)
        })
    }

    /// A copy answered a fence.
    pub(super) async fn on_fenced(&mut self, fenced: Fenced) -> Result<(), StorageError> {
        let result = if fenced.obeyed {
            FenceResult::Obeyed {
                position: Position {
                    last_epoch: fenced.last_epoch,
                    last: fenced.last,
                },
                resyncing: fenced.resyncing,
                lease_left: fenced.lease_left,
            }
        } else if fenced.promised > Epoch(0) {
            FenceResult::Promised
        } else {
            FenceResult::Unable
        };
        if !fenced.obeyed {
            let (volume, store, reason) = (fenced.volume, fenced.store, &fenced.reason);
            tracing::warn!(%volume, %store, "a fence was not obeyed: {reason}");
        }
        let answer = FenceAnswer {
            store: fenced.store,
            promised: fenced.promised,
            result,
        };
        self.tell(fenced.volume, Event::Fenced(answer)).await
    }

    /// A primary wants another in-sync set.
    pub(super) async fn on_proposed(
        &mut self,
        node: NodeId,
        request: u64,
        proposal: Proposal,
    ) -> Result<(), StorageError> {
        let volume = proposal.volume;
        self.keep_coordinators().await?;
        if !self.reigns.coordinators.contains_key(&volume) {
            let known = self.state.volumes.get(&volume);
            let result = ProposalResult {
                volume,
                refusal: "the volume is not complete yet, or no more".into(),
                epoch: known.map_or(proposal.epoch, |volume| volume.epoch),
                set_version: known.map_or(0, |volume| volume.set_version),
                in_sync: known.map_or_else(Vec::new, |volume| volume.in_sync().collect()),
            };
            self.send(node, &convert::proposal_answer_to(request, &result));
            return Ok(());
        }
        let id = ProposalId(self.reigns.next());
        self.reigns.proposals.insert(id, (node, request));
        let named = |store: &StoreId| match self.state.node_of(*store) {
            Some(node) => self.state.node_name(node),
            None => store.to_string(),
        };
        let wanted: Vec<_> = proposal.in_sync.iter().map(named).collect();
        self.note(format!(
            "volume {volume}: the primary proposes to be in sync with {}: {}",
            wanted.join(" "),
            proposal.reason
        ));
        let proposal = message::Proposal {
            id,
            from: proposal.from,
            epoch: proposal.epoch,
            set_version: proposal.set_version,
            in_sync: proposal.in_sync,
            settled: proposal.settled.map(durability_to),
        };
        self.tell(volume, Event::Proposal(proposal)).await
    }

    /// A copy exists on its store.
    pub(super) async fn on_created(
        &mut self,
        id: VolumeId,
        store: StoreId,
    ) -> Result<(), StorageError> {
        if self.reigns.coordinators.contains_key(&id) {
            let request = RequestId(self.reigns.next());
            let event = Event::Request(request, Request::ReplicaCreated(store));
            // Boxed: a commit of the coordinator ends in a look, which may end here.
            return Box::pin(self.tell(id, event)).await;
        }
        let changed = self.state.confirm_created(id, store);
        let changes: Vec<_> = changed.into_iter().map(Change::PutVolume).collect();
        self.confirm(&changes, format!("volume {id} exists on store {store}"))
            .await
    }

    pub(super) async fn move_primary(
        &mut self,
        name: &VolumeName,
        node: &str,
        caller: Caller,
        answer: Registered,
    ) -> Result<(), StorageError> {
        self.keep_coordinators().await?;
        match self.copy_on(name, node) {
            Ok((id, to)) => self.ask(id, Request::Move { to }, caller, answer).await,
            Err(refusal) => {
                let _ = answer.send(Err(refusal)); // The caller may have gone.
                Ok(())
            }
        }
    }

    pub(super) async fn force_promote(
        &mut self,
        name: &VolumeName,
        node: &str,
        caller: Caller,
        answer: Registered,
    ) -> Result<(), StorageError> {
        self.keep_coordinators().await?;
        match self.copy_on(name, node) {
            Ok((id, to)) => {
                let what = format!("{} accepts data loss of volume {name}", caller.who);
                self.note(format!("{what}: node {node} is to be its primary"));
                let request = Request::ForcePromote { to };
                self.ask(id, request, caller, answer).await
            }
            Err(refusal) => {
                let _ = answer.send(Err(refusal)); // The caller may have gone.
                Ok(())
            }
        }
    }

    /// The copy of a volume on a node.
    pub(super) fn copy_on(
        &self,
        name: &VolumeName,
        node: &str,
    ) -> Result<(VolumeId, StoreId), Refusal> {
        let volume = self.state.volume(name)?;
        let refused = |message: String| Err(Refusal::with(RefusalKind::Precondition, message));
        if !self.reigns.coordinators.contains_key(&volume.id) {
            return refused(format!(
                "volume '{name}' is not complete yet, or is being deleted"
            ));
        }
        let node_id = self.state.node(node)?;
        let mut replicas = volume.replicas.iter();
        match replicas.find(|replica| self.state.node_of(replica.store) == Some(node_id)) {
            Some(replica) => Ok((volume.id, replica.store)),
            None => refused(format!(
                "volume '{name}' has no copy on node {node}; `holdfast volume status {name}` shows \
                 where they are"
            )),
        }
    }

    /// Asks the volume's coordinator in this process's own name; it is asked again if need be.
    pub(super) async fn wish(
        &mut self,
        id: VolumeId,
        request: Request,
    ) -> Result<(), StorageError> {
        let event = Event::Request(RequestId(self.reigns.next()), request);
        self.tell(id, event).await
    }

    pub(super) async fn ask(
        &mut self,
        volume: VolumeId,
        request: Request,
        caller: Caller,
        answer: Registered,
    ) -> Result<(), StorageError> {
        let id = RequestId(self.reigns.next());
        let wish = Wish {
            caller,
            volume,
            answer: Some(answer),
        };
        self.reigns.requests.insert(id, wish);
        self.tell(volume, Event::Request(id, request)).await
    }

    async fn tell_all(&mut self, event: Event) -> Result<(), StorageError> {
        let all: Vec<_> = self.reigns.coordinators.keys().copied().collect();
        for id in all {
            self.tell(id, event.clone()).await?;
        }
        Ok(())
    }

    /// Lets the volume's coordinator learn `event` and does what it wants.
    async fn tell(&mut self, id: VolumeId, event: Event) -> Result<(), StorageError> {
        let mut events = VecDeque::from([event]);
        let (mut changed, mut noted) = (false, false);
        while let Some(event) = events.pop_front() {
            let now = self.now();
            let Some(coordinator) = self.reigns.coordinators.get_mut(&id) else {
                return Ok(());
            };
            let mut effects = Vec::new();
            coordinator.step(now, event, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Fence { store, node, epoch } => {
                        let request = self.reigns.next();
                        self.send(node, &convert::fence_to(request, id, store, epoch));
                    }
                    Effect::Commit {
                        id: commit,
                        expected,
                        set,
                        why,
                    } => {
                        events.extend(self.register(id, commit, expected, &set, why).await?);
                        changed = true;
                    }
                    Effect::Answer {
                        id: proposal,
                        refusal,
                        epoch,
                        set_version,
                        in_sync,
                    } => {
                        let result = ProposalResult {
                            volume: id,
                            refusal: refusal.map_or_else(String::new, |why| why.to_string()),
                            epoch,
                            set_version,
                            in_sync,
                        };
                        self.answer_proposal(proposal, &result);
                    }
                    Effect::Done { request, refusal } => self.answer_request(request, refusal),
                    Effect::Note(note) => {
                        self.note_reign(id, note);
                        noted = true;
                    }
                }
            }
        }
        if changed {
            self.reconcile(ReconcileEvent::Look).await?;
        } else if noted {
            self.publish();
        }
        Ok(())
    }

    /// The compare-and-set of the registry. Always has an outcome to tell, while the volume lives.
    async fn register(
        &mut self,
        id: VolumeId,
        commit: CommitId,
        expected: (Epoch, u64),
        set: &set::VolumeSet,
        why: Why,
    ) -> Result<Option<Event>, StorageError> {
        let Some(volume) = self.state.volumes.get(&id).filter(|v| !v.deleting) else {
            return Ok(None); // The coordinator goes with it.
        };
        if (volume.epoch, volume.set_version) != expected {
            return Ok(set_of(&self.state, volume).map(Event::Registered));
        }
        let changed = with_set(volume, set);
        let named = |store: StoreId| match self.state.node_of(store) {
            Some(node) => self.state.node_name(node),
            None => store.to_string(),
        };
        let members: Vec<_> = changed.in_sync().map(named).collect();
        let (caller, cause) = match why {
            Why::Election(message::Cause::Request(request)) | Why::Request(request) => {
                let wish = self.reigns.requests.get(&request);
                let caller = wish.map(|wish| wish.caller.clone());
                (caller.unwrap_or(self.own_caller()), "asked for".into())
            }
            Why::Election(cause) => (self.own_caller(), cause.to_string()),
            Why::Proposal => (self.own_caller(), "proposed by the primary".into()),
        };
        let what = format!(
            "volume {}: epoch {}, set {}, primary {}, in sync {}: {cause}",
            changed.name,
            changed.epoch.0,
            changed.set_version,
            named(changed.primary),
            members.join(" ")
        );
        self.commit(&[Change::PutVolume(changed)], &caller, what)
            .await?;
        Ok(Some(Event::Committed(commit)))
    }

    fn answer_proposal(&mut self, id: ProposalId, result: &ProposalResult) {
        if let Some((node, request)) = self.reigns.proposals.remove(&id) {
            if !result.refusal.is_empty() {
                let (volume, refusal) = (result.volume, &result.refusal);
                self.note(format!("volume {volume}: proposal refused: {refusal}"));
            }
            self.send(node, &convert::proposal_answer_to(request, result));
        }
    }

    fn answer_request(&mut self, id: RequestId, refusal: Option<message::RequestRefusal>) {
        let Some(wish) = self.reigns.requests.remove(&id) else {
            return; // Asked by this process itself; it asks again if need be.
        };
        let result = match refusal {
            None => Ok(wish.volume),
            Some(why) => Err(Refusal::with(RefusalKind::Precondition, why.to_string())),
        };
        if let Some(answer) = wish.answer {
            let _ = answer.send(result); // The caller may have gone.
        }
    }

    fn note_reign(&mut self, id: VolumeId, note: Note) {
        let name = self.state.volumes.get(&id);
        let name = name.map_or_else(|| id.to_string(), |volume| volume.name.to_string());
        self.note(match note {
            Note::ElectionBegan { cause, epoch } => {
                format!(
                    "volume {name}: choosing a primary for epoch {}: {cause}",
                    epoch.0
                )
            }
            Note::ClosedFor(closed) => format!("volume {name}: nobody can be primary: {closed}"),
            Note::Elected { primary, epoch } => {
                let node = self.state.node_of(primary);
                let node = node.map_or_else(String::new, |node| self.state.node_name(node));
                format!("volume {name}: {node} is primary from epoch {}", epoch.0)
            }
            Note::Raced => format!("volume {name}: the registry had changed meanwhile"),
        });
    }
}

/// What the coordinator of a volume is told; `None` while it has none.
fn set_of(state: &State, volume: &Volume) -> Option<set::VolumeSet> {
    let incomplete = |replica: &Replica| replica.in_sync && !replica.created;
    if volume.deleting || volume.replicas.iter().any(incomplete) {
        return None;
    }
    let replica = |replica: &Replica| {
        Some(set::Replica {
            store: replica.store,
            node: state.node_of(replica.store)?,
            in_sync: replica.in_sync,
            created: replica.created,
            discard: replica.discard,
        })
    };
    Some(set::VolumeSet {
        epoch: volume.epoch,
        set_version: volume.set_version,
        primary: volume.primary,
        replicas: volume.replicas.iter().map(replica).collect::<Option<_>>()?,
        copies_wanted: usize::from(volume.policy.rf),
        durability: durability_to(volume.policy.durability),
        durability_was: volume.durability_was.map(durability_to),
    })
}

/// The volume with what its coordinator decided.
fn with_set(volume: &Volume, set: &set::VolumeSet) -> Volume {
    let mut changed = volume.clone();
    changed.epoch = set.epoch;
    changed.set_version = set.set_version;
    changed.primary = set.primary;
    let replica = |replica: &set::Replica| Replica {
        store: replica.store,
        in_sync: replica.in_sync,
        created: replica.created,
        discard: replica.discard,
    };
    changed.replicas = set.replicas.iter().map(replica).collect();
    let gone = volume.replicas.iter().map(|replica| replica.store);
    let gone: Vec<_> = gone.filter(|store| set.replica(*store).is_none()).collect();
    changed.retired.extend(gone);
    changed.policy.rf = u8::try_from(set.copies_wanted).unwrap_or(volume.policy.rf);
    changed.policy.durability = durability_from(set.durability);
    changed.durability_was = set.durability_was.map(durability_from);
    changed.revision += 1;
    changed
}

pub(super) fn durability_to(mode: Durability) -> set::Durability {
    match mode {
        Durability::SyncAll => set::Durability::SyncAll,
        Durability::SyncQuorum => set::Durability::SyncQuorum,
        Durability::BestEffort => set::Durability::BestEffort,
    }
}

fn durability_from(mode: set::Durability) -> Durability {
    match mode {
        set::Durability::SyncAll => Durability::SyncAll,
        set::Durability::SyncQuorum => Durability::SyncQuorum,
        set::Durability::BestEffort => Durability::BestEffort,
    }
}
