//! Which in-sync set the primary asks the masters for: without who is lost or slow, with who has everything.

use super::Leading;
use crate::cluster::set::Durability;
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
        let confirmed = || self.confirmation(scope);
        let Some((set, reason)) = wanted.or_else(repeated).or_else(confirmed) else {
            return;
        };
        let set_version = self.membership.version();
        let in_sync = self.membership.propose(scope.now, set).to_vec();
        self.confirm = false;
        scope.push(Action::Propose {
            epoch: self.epoch,
            set_version,
            in_sync,
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
        self.durability != Durability::SyncQuorum || rest.iter().all(whole)
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

    /// After a change of the durability: everything is committed by the new mode.
    fn confirmation(&self, scope: &Scope<'_>) -> Option<(Vec<ReplicaId>, String)> {
        let committed = scope.copy.info().committed.max(self.committed);
        let whole = |replica: &ReplicaId| {
            let follower = self.find_replica(*replica);
            *replica == self.own || follower.is_some_and(|f| f.counted() >= committed)
        };
        let set = self.membership.set();
        let confirms = self.confirm && set.iter().all(whole);
        confirms.then(|| (set.to_vec(), String::from("the durability changed")))
    }
}
