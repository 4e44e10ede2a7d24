//! The process's main thread once all runs: routes between the control link and the shards.
//!
//! Invariants: an agent's request gets one reply; a request for a store that is not served is
//! answered here, with the reason. Losing the link changes nothing for hosts.

use crate::limits::{DRAIN_MAX, REPORT_PERIOD};
use crate::messages::{Coordinator, ShardSender, ToCoordinator, ToShard};
use crate::peer::hub::Identity;
use crate::runtime::memory;
use crate::supervisor::Supervisor;
use holdfast_core::id::{ClusterId, NodeId, VolumeId};
use holdfast_core::link::{
    Assignment, Body, CopyReport, Fence, Fenced, Hello, Message, ProposalAnswer, Propose, Reply,
    ReplyCode, Report, VERSION, VolumeReport, Welcome, encode,
};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;
use tracing::{error, info, warn};

/// Answer to what cannot be known before all stores are open.
const OPENING: &str = "the stores are still being opened; try again";

/// The routing state.
pub(crate) struct Router {
    shards: Vec<ShardSender>,
    /// The last report of each shard; `None` while it still opens its stores.
    reports: Vec<Option<Report>>,
    /// How many stores each shard was given.
    stores: Vec<usize>,
    portals: Vec<String>,
    /// Where peers reach this process; empty: nowhere.
    peer_address: String,
    /// The shard of each proposal that the agent has not answered.
    proposals: HashMap<u64, usize>,
    proposals_made: u64,
    link: Option<UnixStream>,
    welcomed: bool,
    drained: HashSet<usize>,
    draining: Option<Instant>,
    report_due: Instant,
    /// When each shard was last heard.
    heard: Vec<Instant>,
    supervisor: Supervisor,
}

impl Router {
    /// A router for these shards, each with its number of stores.
    pub(crate) fn new(
        shards: Vec<ShardSender>,
        stores: Vec<usize>,
        portals: Vec<String>,
        peer_address: String,
    ) -> Self {
        assert_eq!(shards.len(), stores.len());
        let heard = vec![Instant::now(); shards.len()];
        Router {
            reports: vec![None; shards.len()],
            shards,
            stores,
            portals,
            peer_address,
            proposals: HashMap::new(),
            proposals_made: 0,
            link: None,
            welcomed: false,
            drained: HashSet::new(),
            draining: None,
            report_due: Instant::now(),
            heard,
            supervisor: Supervisor::from_environment(),
        }
    }

    /// Runs until every shard has drained. False when that took too long.
    pub(crate) fn run(mut self, inbox: &Receiver<ToCoordinator>) -> bool {
        loop {
            let now = Instant::now();
            match inbox.recv_timeout(self.report_due.saturating_duration_since(now)) {
                Ok(message) => self.on_message(message),
                Err(RecvTimeoutError::Timeout) => self.send_report(),
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            if self.drained.len() == self.shards.len() {
                return true;
            }
            if self
                .draining
                .is_some_and(|since| since.elapsed() > DRAIN_MAX)
            {
                error!(
                    "the shards did not end in {DRAIN_MAX:?}; ending without them, nothing acknowledged is lost"
                );
                return false;
            }
        }
    }

    fn on_message(&mut self, message: ToCoordinator) {
        match message {
            ToCoordinator::Report(shard, report) => {
                let before = self.reports[shard].take();
                let changed = before.is_none_or(|before| different(&before, &report));
                self.reports[shard] = Some(report);
                self.heard[shard] = Instant::now();
                if changed {
                    self.send_report();
                }
            }
            ToCoordinator::Reply(request_id, reply) => self.reply(request_id, reply),
            ToCoordinator::Fenced(request_id, fenced) => {
                self.send(request_id, Body::Fenced(*fenced));
            }
            ToCoordinator::Propose(shard, propose) => self.propose(shard, *propose),
            ToCoordinator::MemoryFreed => memory::give_back(),
            ToCoordinator::Drained(shard) => {
                self.drained.insert(shard);
            }
            ToCoordinator::LinkUp(stream) => self.on_link_up(stream),
            ToCoordinator::LinkMessage(message) => self.on_link_message(*message),
            ToCoordinator::LinkDown => self.drop_link(),
            ToCoordinator::Terminate => self.drain(),
        }
    }

    fn on_link_up(&mut self, stream: UnixStream) {
        self.link = Some(stream);
        self.welcomed = false;
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            pid: std::process::id(),
            portals: self.portals.clone(),
            report: Some(self.report()),
            peer_address: self.peer_address.clone(),
        };
        self.send(0, Body::Hello(hello));
    }

    fn on_link_message(&mut self, message: Message) {
        let id = message.request_id;
        match message.body {
            Some(Body::Welcome(welcome)) if !self.welcomed => {
                if welcome.version == VERSION {
                    self.welcomed = true;
                    self.tell_identity(&welcome);
                } else {
                    error!(
                        reason = welcome.refused,
                        "the node agent refused this volume server"
                    );
                    self.drop_link();
                }
            }
            Some(Body::Assign(assignment)) if self.welcomed => self.assign(id, assignment),
            Some(Body::Remove(removal)) if self.welcomed => {
                match VolumeId::try_from(removal.volume_id.as_slice()) {
                    Ok(volume) => self.remove(id, volume),
                    Err(_) => self.reply(
                        id,
                        refusal(ReplyCode::Invalid, "the volume id has not 16 bytes"),
                    ),
                }
            }
            Some(Body::Fence(fence)) if self.welcomed => self.fence(id, fence),
            Some(Body::ProposalAnswer(answer)) if self.welcomed => self.answer(id, answer),
            Some(Body::Drain(_)) if self.welcomed => {
                self.reply(id, Reply::default());
                self.drain();
            }
            _ => {
                warn!(request = id, "the node agent broke the protocol");
                self.drop_link();
            }
        }
    }

    fn assign(&mut self, id: u64, assignment: Assignment) {
        let has = |report: &Report| {
            let mut stores = report.stores.iter();
            stores.any(|store| store.store_id == assignment.store_id)
        };
        match self.shard_with(has) {
            Some(shard) => self.hand(shard, ToShard::Assign(id, Box::new(assignment)), id),
            None if self.is_opening() => self.reply(id, refusal(ReplyCode::Busy, OPENING)),
            None => {
                let reason = "no store with this id is served here";
                self.reply(id, refusal(ReplyCode::NotFound, reason));
            }
        }
    }

    fn fence(&mut self, id: u64, fence: Fence) {
        let has = |report: &Report| {
            let mut volumes = report.volumes.iter();
            volumes.any(|v| v.volume_id == fence.volume_id && v.store_id == fence.store_id)
        };
        let reason = match self.shard_with(has) {
            Some(shard) => {
                let message = ToShard::Fence(id, Box::new(fence.clone()));
                match self.shards[shard].send(message) {
                    Ok(()) => return,
                    Err(_) => "the shard has too much to do",
                }
            }
            None if self.is_opening() => OPENING,
            None => "no such copy here",
        };
        let fenced = Fenced {
            volume_id: fence.volume_id,
            store_id: fence.store_id,
            reason: reason.into(),
            ..Fenced::default()
        };
        self.send(id, Body::Fenced(fenced));
    }

    /// Passes a proposal on. One that the agent cannot get is dropped: the primary makes it again.
    fn propose(&mut self, shard: usize, propose: Propose) {
        if !self.welcomed {
            return;
        }
        self.proposals_made += 1;
        self.proposals.insert(self.proposals_made, shard);
        self.send(self.proposals_made, Body::Propose(propose));
    }

    fn answer(&mut self, id: u64, answer: ProposalAnswer) {
        let Some(shard) = self.proposals.remove(&id) else {
            return warn!(request = id, "an answer to a proposal that nobody made");
        };
        let message = ToShard::ProposalAnswer(Box::new(answer));
        if self.shards[shard].send(message).is_err() {
            warn!(shard, "the shard takes no messages: an answer is lost");
        }
    }

    fn tell_identity(&mut self, welcome: &Welcome) {
        let (Ok(cluster), Ok(node)) = (
            ClusterId::try_from(welcome.cluster_id.as_slice()),
            NodeId::try_from(welcome.node_id.as_slice()),
        ) else {
            return warn!("the node agent did not say who this node is");
        };
        for (shard, sender) in self.shards.iter_mut().enumerate() {
            let identity = Identity { cluster, node };
            if sender.send(ToShard::Identity(identity)).is_err() {
                warn!(
                    shard,
                    "the shard takes no messages: it does not know its node"
                );
            }
        }
    }

    fn remove(&mut self, id: u64, volume: VolumeId) {
        let has = |report: &Report| report.volumes.iter().any(|v| v.volume_id == volume.0);
        match self.shard_with(has) {
            Some(shard) => self.hand(shard, ToShard::Remove(id, volume), id),
            // It may be in a store that is still being opened; to call it gone would keep it for ever.
            None if self.is_opening() => self.reply(id, refusal(ReplyCode::Busy, OPENING)),
            // Gone is what was asked for.
            None => self.reply(id, Reply::default()),
        }
    }

    fn shard_with(&self, has: impl Fn(&Report) -> bool) -> Option<usize> {
        let of_shard = |report: &Option<Report>| report.as_ref().is_some_and(&has);
        self.reports.iter().position(of_shard)
    }

    /// Whether some shard has not told its stores yet.
    fn is_opening(&self) -> bool {
        self.reports.iter().any(Option::is_none)
    }

    fn hand(&mut self, shard: usize, message: ToShard, id: u64) {
        if self.shards[shard].send(message).is_err() {
            self.reply(id, refusal(ReplyCode::Busy, "the shard has too much to do"));
        }
    }

    fn drain(&mut self) {
        if self.draining.is_some() {
            return;
        }
        info!("draining: logging hosts out, then a checkpoint");
        self.draining = Some(Instant::now());
        self.supervisor.stopping();
        for (shard, sender) in self.shards.iter_mut().enumerate() {
            if sender.send(ToShard::Drain).is_err() {
                warn!(shard, "the shard takes no messages; it is not waited for");
                self.drained.insert(shard);
            }
        }
    }

    fn report(&self) -> Report {
        let opening = self.reports.iter().zip(&self.stores);
        let opening = opening.filter_map(|(report, stores)| report.is_none().then_some(stores));
        let mut whole = Report {
            stores_opening: u32::try_from(opening.sum::<usize>()).unwrap_or(u32::MAX),
            ..Report::default()
        };
        for report in self.reports.iter().flatten() {
            whole.stores.extend(report.stores.iter().cloned());
            whole.volumes.extend(report.volumes.iter().cloned());
        }
        whole
    }

    fn send_report(&mut self) {
        self.report_due = Instant::now() + REPORT_PERIOD;
        // It watches from the moment that all is ready.
        if !self.is_opening() {
            self.supervisor.ready();
            self.supervisor.heard(&self.heard);
        }
        if self.welcomed {
            let report = self.report();
            self.send(0, Body::Report(report));
        }
    }

    fn reply(&mut self, request_id: u64, reply: Reply) {
        // What was asked for shows in the report that precedes the reply.
        self.send_report();
        self.send(request_id, Body::Reply(reply));
    }

    fn send(&mut self, request_id: u64, body: Body) {
        let Some(link) = &mut self.link else {
            return;
        };
        let message = Message {
            request_id,
            body: Some(body),
        };
        let written = encode(&message)
            .map_err(std::io::Error::other)
            .and_then(|bytes| link.write_all(&bytes));
        if let Err(error) = written {
            warn!("writing to the node agent failed: {error}");
            self.drop_link();
        }
    }

    fn drop_link(&mut self) {
        self.welcomed = false;
        self.proposals.clear();
        if let Some(link) = self.link.take() {
            // The reading thread then sees the end and connects again; an error means it has.
            let _ = link.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Whether anything but counters changed.
fn different(before: &Report, after: &Report) -> bool {
    let same_stores = before.stores.len() == after.stores.len()
        && before
            .stores
            .iter()
            .zip(&after.stores)
            .all(|(before, after)| {
                before.store_id == after.store_id && before.failed == after.failed
            });
    // The volumes of a report come in no order.
    let known: HashMap<&[u8], &VolumeReport> = before
        .volumes
        .iter()
        .map(|volume| (volume.volume_id.as_slice(), volume))
        .collect();
    let same_volumes = before.volumes.len() == after.volumes.len()
        && after.volumes.iter().all(|volume| {
            let before = known.get(volume.volume_id.as_slice());
            before.is_some_and(|before| !changed(before, volume))
        });
    !same_stores || !same_volumes
}

fn changed(before: &VolumeReport, after: &VolumeReport) -> bool {
    let states = |volume: &VolumeReport| -> Vec<_> {
        let state = |copy: &CopyReport| (copy.store_id.clone(), copy.state);
        volume.copies.iter().map(state).collect()
    };
    (before.epoch, before.promised_epoch, before.set_version)
        != (after.epoch, after.promised_epoch, after.set_version)
        || (before.role, before.serving, before.resyncing)
            != (after.role, after.serving, after.resyncing)
        || (before.size_bytes, before.sessions) != (after.size_bytes, after.sessions)
        || before.failed != after.failed
        || before.in_sync != after.in_sync
        || silence(before) != silence(after)
        || states(before) != states(after)
}

/// How long a primary has been silent, as far as a change of it is worth a report.
fn silence(volume: &VolumeReport) -> u64 {
    /// Longer silence is all the same.
    const STEPS_MAX: u64 = 8;
    const STEP_MS: u64 = 500;
    (volume.primary_silent_ms / STEP_MS).min(STEPS_MAX)
}

/// A reply that says no.
pub(crate) fn refusal(code: ReplyCode, message: impl Into<String>) -> Reply {
    Reply {
        code: code.into(),
        message: message.into(),
    }
}

/// Starts the thread that turns an end signal into [`ToCoordinator::Terminate`].
pub(crate) fn watch_signals(
    signals: crate::runtime::signal::EndSignals,
    coordinator: Coordinator,
) -> std::io::Result<()> {
    let watch = move || {
        while signals.wait().is_ok() {
            coordinator.send(ToCoordinator::Terminate);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)
        .map(drop)
}
