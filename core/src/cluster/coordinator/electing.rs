//! From the fences to the next reign.
//!
//! Once a fence is out the election cannot be called off: a copy that promised the next epoch never
//! follows the present one again. It ends with a reign, perhaps of the same primary.

use super::{Coordinator, Origin, Phase, done};
use crate::cluster::election::{Candidate, Elected, Wanted, elect};
use crate::cluster::limits::{CLOSED_RETRY, FENCE_ANSWERS, FENCE_RETRY};
use crate::cluster::message::{
    Cause, Closed, Effect, FenceAnswer, FenceResult, Note, RequestId, RequestRefusal, Why,
};
use crate::cluster::set::{Replica, VolumeSet};
use crate::id::{NodeId, StoreId};
use crate::lsn::Epoch;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

/// One election, from the first fence to the commit.
#[derive(Debug)]
pub(super) struct Election {
    pub(super) cause: Cause,
    /// The reign wanted; above every promise that was answered.
    pub(super) epoch: Epoch,
    pub(super) wanted: Wanted,
    /// This copy reigns next, whatever it lacks.
    pub(super) forced: Option<StoreId>,
    /// Who waits for the outcome.
    pub(super) request: Option<RequestId>,
    /// Why nobody can reign, as last told.
    pub(super) closed: Option<Closed>,
    answers: BTreeMap<StoreId, Answered>,
    /// A promise that the wanted reign does not exceed: the fences go out again above it.
    outbid: Option<Epoch>,
    /// Copies that cannot promise.
    unable: BTreeSet<StoreId>,
    /// Until then answers are waited for.
    deadline: Duration,
    /// When the fences are sent again.
    retry: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    candidate: Candidate,
    /// When the lease that it granted has run out, counted from the receipt of the answer.
    lease_until: Duration,
}

impl Election {
    pub(super) fn new(cause: Cause) -> Self {
        Election {
            cause,
            epoch: Epoch::default(),
            wanted: Wanted::default(),
            forced: None,
            request: None,
            closed: None,
            answers: BTreeMap::new(),
            outbid: None,
            unable: BTreeSet::new(),
            deadline: Duration::ZERO,
            retry: Duration::ZERO,
        }
    }

    /// Who waits, and for which winner.
    pub(super) fn waiting(&self) -> Option<(RequestId, Option<StoreId>)> {
        let wanted = self.forced.or(self.wanted.prefer);
        self.request.map(|request| (request, wanted))
    }

    /// True for the copies that are asked: the in-sync set, and all when one is promoted by force.
    fn asks(&self, replica: &Replica) -> bool {
        replica.in_sync || (self.forced.is_some() && replica.created)
    }

    /// The outcome if nobody else answered.
    fn outcome(&self, set: &VolumeSet) -> Result<Elected, Closed> {
        let candidates: Vec<_> = self.answers.values().map(|a| a.candidate).collect();
        match self.forced {
            None => elect(set, &candidates, self.wanted),
            Some(primary) => match self.answers.get(&primary) {
                None => Err(Closed::ForcedIsAway),
                Some(answer) if answer.candidate.resyncing => Err(Closed::OnlyResyncing),
                Some(_) => Ok(Elected {
                    primary,
                    in_sync: [primary].into(),
                }),
            },
        }
    }

    /// When no lease holds for the old primary any more; never in the future when it answered itself.
    fn leases_until(&self, old_primary: StoreId) -> Duration {
        if self.answers.contains_key(&old_primary) {
            return Duration::ZERO;
        }
        let leases = self.answers.values().map(|answer| answer.lease_until);
        leases.max().unwrap_or_default()
    }
}

impl Coordinator {
    /// Sends the fences of a reign above every promise that is known.
    pub(super) fn begin_election(
        &mut self,
        now: Duration,
        mut election: Election,
        effects: &mut Vec<Effect>,
    ) {
        let outbid = election.outbid.take().unwrap_or_default();
        let known = [
            self.set.epoch,
            self.observed.promised(),
            election.epoch,
            outbid,
        ];
        let above = known.into_iter().max().expect("four of them");
        election.epoch = Epoch(above.0 + 1);
        election.answers.clear();
        election.unable.clear();
        election.deadline = now + FENCE_ANSWERS;
        if election.cause == Cause::PromisedAhead {
            election.wanted.prefer = Some(self.set.primary);
        }
        effects.push(Effect::Note(Note::ElectionBegan {
            cause: election.cause,
            epoch: election.epoch,
        }));
        self.send_fences(now, &mut election, effects);
        self.phase = Phase::Electing(election);
    }

    fn send_fences(&self, now: Duration, election: &mut Election, effects: &mut Vec<Effect>) {
        for replica in &self.set.replicas {
            let answered = election.answers.contains_key(&replica.store);
            if election.asks(replica) && !answered && !election.unable.contains(&replica.store) {
                effects.push(Effect::Fence {
                    store: replica.store,
                    node: replica.node,
                    epoch: election.epoch,
                });
            }
        }
        let pause = if now < election.deadline {
            FENCE_RETRY
        } else {
            CLOSED_RETRY
        };
        election.retry = now + pause;
    }

    pub(super) fn on_fenced(&mut self, now: Duration, answer: FenceAnswer) {
        let Phase::Electing(election) = &mut self.phase else {
            return; // Late: of an election that is over.
        };
        if answer.promised > election.epoch
            || (answer.promised == election.epoch && answer.result == FenceResult::Promised)
        {
            // A leader before this one went further. Nothing below that can unite the copies.
            // Not at once: if it still believes to lead, the two would chase each other.
            election.outbid = Some(answer.promised.max(election.outbid.unwrap_or_default()));
            return;
        }
        match answer.result {
            FenceResult::Obeyed {
                position,
                resyncing,
                lease_left,
            } if answer.promised == election.epoch => {
                let candidate = Candidate {
                    store: answer.store,
                    position,
                    resyncing,
                };
                let lease_until = now + lease_left;
                // The first answer's lease was counted from the earlier receipt; both are true.
                let entry = election.answers.entry(answer.store);
                entry.or_insert(Answered {
                    candidate,
                    lease_until,
                });
            }
            FenceResult::Unable => {
                election.unable.insert(answer.store);
            }
            FenceResult::Obeyed { .. } | FenceResult::Promised => {} // Late: of a lower reign.
        }
    }

    /// A node is gone: what its copies answered makes nobody eligible any more.
    pub(super) fn forget_answers(&mut self, node: NodeId) {
        let Phase::Electing(election) = &mut self.phase else {
            return;
        };
        for replica in self.set.replicas.iter().filter(|r| r.node == node) {
            election.answers.remove(&replica.store);
        }
    }

    /// Goes on with the election: waits, asks again, closes, or registers the next reign.
    pub(super) fn drive(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let mut election = match core::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Electing(election) => election,
            other => {
                self.phase = other;
                return;
            }
        };
        if election.outbid.is_some() {
            if now >= election.retry {
                self.begin_election(now, election, effects);
            } else {
                self.phase = Phase::Electing(election);
            }
            return;
        }
        if now >= election.retry {
            election.unable.clear();
            self.send_fences(now, &mut election, effects);
        }
        let complete = self.all_answered(&election);
        match election.outcome(&self.set) {
            Ok(_) if election.closed.is_some() => {
                // The first copies are back: give the others the same chance to be members.
                election.closed = None;
                election.deadline = now + FENCE_ANSWERS;
            }
            Ok(_) if !complete && now < election.deadline => {}
            Ok(_) if now < election.leases_until(self.set.primary) => {}
            Ok(elected) => {
                self.register(election, elected, effects);
                return;
            }
            Err(_) if !complete && now < election.deadline => {}
            Err(closed) => close(&mut election, closed, effects),
        }
        self.phase = Phase::Electing(election);
    }

    /// True when nobody is left whose answer may still come.
    fn all_answered(&self, election: &Election) -> bool {
        let settled = |replica: &Replica| {
            election.answers.contains_key(&replica.store)
                || election.unable.contains(&replica.store)
                || self.observed.is_away(replica.node)
        };
        let mut asked = self.set.replicas.iter().filter(|r| election.asks(r));
        asked.all(settled)
    }

    /// Registers the reign of `elected`.
    fn register(&mut self, election: Election, elected: Elected, effects: &mut Vec<Effect>) {
        let mut set = self.set.clone();
        set.epoch = election.epoch;
        set.set_version += 1;
        set.primary = elected.primary;
        set.set_in_sync(&elected.in_sync);
        // The new primary commits by the new mode from its first record, and its set was chosen so that
        // the mode's promise holds.
        set.durability_was = None;
        if election.forced.is_some() {
            for replica in &mut set.replicas {
                if replica.store != elected.primary {
                    replica.created = false;
                    replica.discard = true;
                }
            }
        }
        if let Some(leaving) = election.wanted.exclude {
            set.replicas.retain(|replica| replica.store != leaving);
        }
        let why = Why::Election(election.cause);
        let origin = Origin::Election(election.waiting());
        self.commit(set, why, origin, effects);
    }
}

/// Nobody can reign: tells it once, and lets go of whoever waited for a certain outcome.
fn close(election: &mut Election, closed: Closed, effects: &mut Vec<Effect>) {
    if election.closed != Some(closed) {
        effects.push(Effect::Note(Note::ClosedFor(closed)));
    }
    election.closed = Some(closed);
    election.forced = None;
    election.wanted = Wanted::default();
    if let Some(request) = election.request.take() {
        effects.push(done(request, Some(RequestRefusal::Closed(closed))));
    }
}
