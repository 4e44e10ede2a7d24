//! The coordinator of one volume: turns observations into fences, elections and commits.
//!
//! One exists for each replicated volume on the leader of the masters. It starts with what is
//! registered and no memory: whatever a leader before it did is found again in the answers of the
//! copies and in the compare-and-set of the commit. All it asks for may be lost, late or repeated.
//!
//! Safety rests on three things. A new reign is registered only after copies, enough of them to know
//! every committed record, promised to obey nothing below it, and after the leases that they granted
//! ran out or the old primary itself stepped down (I1, I3). The in-sync set changes only by a
//! compare-and-set on epoch and set version. At most one commit is under way.
//!
//! Not here: sending, heartbeats, the registry (`control`); who wins (`election`).
//! Cost: O(copies) per step; at most [`limits::STEP_EFFECTS_MAX`] effects.

mod electing;
mod observing;
mod proposing;
mod requesting;

use self::electing::Election;
use self::observing::Observed;
use super::limits;
use super::message::{
    Cause, Closed, CommitId, Effect, Event, Note, Proposal, ProposalId, ProposalRefusal, RequestId,
    RequestRefusal, Why,
};
use super::set::VolumeSet;
use crate::id::StoreId;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

/// The machine. Time is a duration since any fixed moment of the leader's monotonic clock.
#[derive(Debug)]
pub struct Coordinator {
    set: VolumeSet,
    observed: Observed,
    phase: Phase,
    /// One proposal that came while a commit was under way.
    parked: Option<Proposal>,
    commits: u64,
}

#[derive(Debug)]
enum Phase {
    /// Watching.
    Idle,
    /// Fences are out.
    Electing(Election),
    /// The registry is asked.
    Committing(Committing),
}

#[derive(Debug)]
struct Committing {
    id: CommitId,
    set: VolumeSet,
    origin: Origin,
}

/// Who waits for a commit.
#[derive(Debug)]
enum Origin {
    Proposal(ProposalId),
    /// An election; with the request behind it and the copy that shall have won.
    Election(Option<(RequestId, Option<StoreId>)>),
    Request(RequestId),
}

/// What a coordinator is doing, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Watching.
    Watching,
    /// A new reign is on its way.
    Electing(Cause),
    /// Nobody can reign at present.
    Closed(Closed),
    /// A change is being registered.
    Registering,
}

impl Coordinator {
    /// Takes over a volume as registered. The driver tells of all nodes afterwards: heard or silent.
    pub fn new(now: Duration, set: VolumeSet) -> Self {
        set.check();
        Coordinator {
            set,
            observed: Observed::new(now),
            phase: Phase::Idle,
            parked: None,
            commits: 0,
        }
    }

    /// What is registered, as far as this coordinator knows.
    pub fn set(&self) -> &VolumeSet {
        &self.set
    }

    /// What it is doing.
    pub fn activity(&self) -> Activity {
        match &self.phase {
            Phase::Idle => Activity::Watching,
            Phase::Electing(election) => match election.closed {
                Some(closed) => Activity::Closed(closed),
                None => Activity::Electing(election.cause),
            },
            Phase::Committing(_) => Activity::Registering,
        }
    }

    /// What was last heard of the copy on `store`.
    pub fn report(&self, store: StoreId) -> Option<&super::message::CopyReport> {
        self.observed.report(store)
    }

    /// True when the copy's node is heard and its volume server is there.
    pub fn is_reachable(&self, store: StoreId) -> bool {
        let replica = self.set.replica(store);
        replica.is_some_and(|replica| self.observed.is_up(replica.node))
    }

    /// Learns of `event` at `now`.
    pub fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        let before = effects.len();
        match event {
            Event::NodeHeard(node) => self.observed.on_heard(node),
            Event::NodeSilent(node) => {
                self.observed.on_silent(node);
                self.forget_answers(node);
            }
            Event::ServerDown(node) => {
                self.observed.on_server_down(node);
                self.forget_answers(node);
            }
            Event::Report(report) => self.observed.on_report(now, &self.set, report),
            Event::Fenced(answer) => self.on_fenced(now, answer),
            Event::Proposal(proposal) => self.on_proposal(proposal, effects),
            Event::Committed(id) => self.on_committed(now, id, effects),
            Event::Registered(set) => self.on_registered(now, set, effects),
            Event::Request(id, request) => self.on_request(now, id, request, effects),
            Event::Tick => {}
        }
        self.judge(now, effects);
        self.drive(now, effects);
        self.check(effects.len() - before);
    }

    /// Begins an election when the reign is lost and nothing is under way.
    fn judge(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Idle) || self.set.is_alone() {
            return;
        }
        if let Some(cause) = self.observed.lost(now, &self.set) {
            let election = Election::new(cause);
            self.begin_election(now, election, effects);
        }
    }

    /// Asks the registry to hold `set` instead of what this coordinator knows.
    fn commit(&mut self, set: VolumeSet, why: Why, origin: Origin, effects: &mut Vec<Effect>) {
        assert!(!matches!(self.phase, Phase::Committing(_))); // One at a time.
        set.check();
        self.commits += 1;
        let id = CommitId(self.commits);
        effects.push(Effect::Commit {
            id,
            expected: (self.set.epoch, self.set.set_version),
            set: set.clone(),
            why,
        });
        self.phase = Phase::Committing(Committing { id, set, origin });
    }

    fn on_committed(&mut self, now: Duration, id: CommitId, effects: &mut Vec<Effect>) {
        match mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Committing(commit) if commit.id == id => self.registered(now, commit, effects),
            other => self.phase = other, // Of a commit whose end is known already.
        }
    }

    /// What the coordinator asked for is registered.
    fn registered(&mut self, now: Duration, commit: Committing, effects: &mut Vec<Effect>) {
        self.adopt(now, commit.set);
        let set = &self.set;
        match commit.origin {
            Origin::Proposal(id) => effects.push(answer(set, id, None)),
            Origin::Request(request) => effects.push(done(request, None)),
            Origin::Election(request) => {
                effects.push(Effect::Note(Note::Elected {
                    primary: set.primary,
                    epoch: set.epoch,
                }));
                if let Some((request, wanted)) = request {
                    let other = wanted.is_some_and(|wanted| wanted != set.primary);
                    effects.push(done(request, other.then_some(RequestRefusal::AnotherWon)));
                }
            }
        }
        self.unpark(effects);
    }

    fn on_registered(&mut self, now: Duration, set: VolumeSet, effects: &mut Vec<Effect>) {
        set.check();
        let known = (self.set.epoch, self.set.set_version);
        if (set.epoch, set.set_version) < known {
            return; // A read from before the last commit.
        }
        match mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Committing(commit) if commit.set == set => {
                self.registered(now, commit, effects);
                return;
            }
            Phase::Committing(commit) => {
                effects.push(Effect::Note(Note::Raced));
                self.adopt(now, set);
                self.give_up(commit.origin, effects);
            }
            Phase::Electing(election) if (set.epoch, set.set_version) == known => {
                self.phase = Phase::Electing(election);
            }
            Phase::Electing(election) => {
                // The answers were judged by another set: ask again, if there is still a reason to.
                effects.push(Effect::Note(Note::Raced));
                self.adopt(now, set);
                self.give_up(Origin::Election(election.waiting()), effects);
            }
            Phase::Idle => self.adopt(now, set),
        }
        self.unpark(effects);
    }

    /// Takes what is registered for the truth.
    fn adopt(&mut self, now: Duration, set: VolumeSet) {
        if set.epoch != self.set.epoch {
            self.observed.on_reign(now);
        }
        self.set = set;
        self.observed.keep_only(&self.set);
    }

    /// Tells whoever waited that the registry held something else.
    fn give_up(&self, origin: Origin, effects: &mut Vec<Effect>) {
        match origin {
            Origin::Proposal(id) => {
                effects.push(answer(&self.set, id, Some(ProposalRefusal::StaleSet)));
            }
            Origin::Election(Some((request, _))) | Origin::Request(request) => {
                effects.push(done(request, Some(RequestRefusal::Raced)));
            }
            Origin::Election(None) => {}
        }
    }

    fn unpark(&mut self, effects: &mut Vec<Effect>) {
        if let Some(proposal) = self.parked.take() {
            self.on_proposal(proposal, effects);
        }
    }

    fn check(&self, emitted: usize) {
        self.set.check();
        assert!(emitted <= limits::STEP_EFFECTS_MAX);
        if let Phase::Electing(election) = &self.phase {
            assert!(election.epoch > self.set.epoch); // A reign begins once.
        }
        if let Phase::Committing(commit) = &self.phase {
            let wanted = (commit.set.epoch, commit.set.set_version);
            assert!(wanted > (self.set.epoch, self.set.set_version));
        }
    }
}

/// The answer to a proposal: what is registered.
fn answer(set: &VolumeSet, id: ProposalId, refusal: Option<ProposalRefusal>) -> Effect {
    Effect::Answer {
        id,
        refusal,
        epoch: set.epoch,
        set_version: set.set_version,
        in_sync: set.in_sync_stores(),
    }
}

/// The answer to a request.
fn done(request: RequestId, refusal: Option<RequestRefusal>) -> Effect {
    Effect::Done { request, refusal }
}

#[cfg(test)]
mod tests;
