//! Which in-sync set the primary asks the masters for: without who is lost or slow, with who has everything.

use super::Leading;
use crate::limits::SLOW_PENALTY;
use crate::replication::defect::Defect;
use crate::replication::follower::{Follower, State};
use crate::replication::{Action, ReplicaId, Scope};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

impl Leading {
    /// Proposes another in-sync set when one is wanted, or the same again when it was not answered.
    pub(super) fn review(&mut self, scope: &mut Scope<'_>) {
        self.settle(scope);
        if self.begun.is_none() || !self.membership.may_ask(scope.now) {
            return;
        }
        let wanted = self.without_lost(scope);
        let wanted = wanted.or_else(|| self.without_slow(scope));
        let wanted = wanted.or_else(|| self.with_whole(scope));
        let repeated = || {
            let open = self.membership.open()?;
            Some((open.to_vec(), String::from("asked again")))
        };
        let confirmed = || self.confirmation();
        let Some((set, reason)) = wanted.or_else(repeated).or_else(confirmed) else {
            return;
        };
        let set_version = self.membership.version();
        // All proposals that follow one version say the same, so that any answer tells what was learned.
        if self.was.is_none() && self.membership.open().is_none() {
            self.settled_at = Some(set_version);
        }
        let settled = self.settled_at == Some(set_version);
        let in_sync = self.membership.propose(scope.now, set).to_vec();
        scope.push(Action::Propose {
            epoch: self.epoch,
            set_version,
            in_sync,
            settled: settled.then_some(self.durability),
            reason,
        });
    }

    fn without_lost(&self, scope: &Scope<'_>) -> Option<(Vec<ReplicaId>, String)> {
        let set = self.membership.set();
        let is_lost = |replica: &ReplicaId| {
            self.find_replica(*replica)
                .is_none_or(|follower| follower.is_lost(scope.now, scope.streams))
        };
        let lost = set.iter().find(|r| **r != self.own && is_lost(r))?;
        let keeps = |r: &&ReplicaId| **r == self.own || !is_lost(r);
        let rest: Vec<ReplicaId> = set.iter().filter(keeps).copied().collect();
        self.may_shrink_to(&rest)
            .then(|| (rest, format!("copy {lost} is lost")))
    }

    /// Under a quorum a smaller set must have everything that is committed.
    fn may_shrink_to(&self, rest: &[ReplicaId]) -> bool {
        let whole = |replica: &ReplicaId| {
            *replica == self.own
                || self
                    .find_replica(*replica)
                    .is_some_and(|follower| follower.counted() >= self.committed)
        };
        !self.counts_by_quorum() || rest.iter().all(whole)
    }

    /// One at a time, and never while another is out.
    fn without_slow(&mut self, scope: &Scope<'_>) -> Option<(Vec<ReplicaId>, String)> {
        let set = self.membership.set().to_vec();
        if set.len() <= self.followers.len() {
            self.followers.iter_mut().for_each(Follower::forgive);
            return None;
        }
        for at in 0..self.followers.len() {
            let others = self.followers.iter().enumerate();
            let others = others.filter(|(other, _)| *other != at);
            let latency = others.map(|(_, follower)| follower.latency).max();
            let latency = latency.unwrap_or(Duration::ZERO);
            let follower = &mut self.followers[at];
            if !follower.is_slow(scope.now, latency) {
                continue;
            }
            follower.not_before = scope.now + SLOW_PENALTY;
            follower.latency = Duration::ZERO; // What it was says nothing about what it will be.
            let slow = follower.member.replica;
            let rest: Vec<ReplicaId> = set.iter().copied().filter(|r| *r != slow).collect();
            if self.may_shrink_to(&rest) {
                return Some((rest, format!("copy {slow} is slow")));
            }
        }
        None
    }

    fn with_whole(&self, scope: &Scope<'_>) -> Option<(Vec<ReplicaId>, String)> {
        let committed = self.committed.max(scope.copy.info().committed);
        let joins = |follower: &&Follower| {
            let whole = follower.is_whole()
                || (scope.planted(Defect::ProposeResyncing) && follower.state == State::Following);
            let caught_up = follower.durable >= committed && scope.now >= follower.not_before;
            let known = self.membership.set().contains(&follower.member.replica);
            // One that fell silent had everything when it was heard last.
            whole && caught_up && !known && !follower.is_lost(scope.now, scope.streams)
        };
        let joins = self.followers.iter().find(joins)?.member.replica;
        let mut set = self.membership.set().to_vec();
        set.push(joins);
        Some((set, format!("copy {joins} has everything")))
    }

    /// After a change of the durability: the mode before is over when every copy that may be a member has
    /// what was committed by it. What follows is committed by the present one, which needs it all before.
    fn settle(&mut self, scope: &Scope<'_>) {
        if self.was.is_none() || self.begun.is_none() {
            return;
        }
        let committed = scope.copy.info().committed.max(self.committed);
        let whole = |replica: &ReplicaId| {
            let follower = self.find_replica(*replica);
            *replica == self.own || follower.is_some_and(|f| f.counted() >= committed)
        };
        if self.membership.sets().flatten().all(whole) {
            self.was = None;
        }
    }

    /// The masters have to know when the mode before is over: until then elections obey it too.
    fn confirmation(&self) -> Option<(Vec<ReplicaId>, String)> {
        let confirms = self.confirm && self.was.is_none();
        confirms.then(|| {
            let set = self.membership.set().to_vec();
            (set, String::from("the durability changed"))
        })
    }
}
