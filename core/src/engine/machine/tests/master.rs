//! The laboratory's master: assigns, answers proposals (some answers get lost), fails over by the rules of
//! the coordinator, without its registry.

use super::lab::{Failover, Lab, NODES, VOLUME, Wish, node_of, store_id};
use crate::cluster::set::Durability;
use crate::engine::status::Status;
use crate::engine::{Assignment, Effect, Event, Fenced, Member, Role};
use crate::id::NodeId;
use crate::lsn::Epoch;
use crate::store::Tag;
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

impl Lab {
    pub(super) fn fail_over(&mut self) {
        self.begin_failover(None);
    }

    pub(super) fn move_to(&mut self, target: usize) {
        self.begin_failover(Some(target));
    }

    /// Not while the last change is unconfirmed, or an election runs.
    pub(super) fn change_durability(&mut self, mode: Durability) {
        let master = &mut self.master;
        if master.was.is_some() || master.failover.is_some() || master.durability == mode {
            return;
        }
        master.was = Some(master.durability);
        master.durability = mode;
        master.version += 1;
        self.assign_all();
    }

    fn counts_by_quorum(&self) -> bool {
        let modes = [Some(self.master.durability), self.master.was];
        modes.contains(&Some(Durability::SyncQuorum))
    }

    pub(super) fn assign_all(&mut self) {
        for at in 0..NODES {
            self.assign(at);
        }
    }

    pub(super) fn assign(&mut self, at: usize) {
        if self.isolated.contains(&at) {
            return;
        }
        let members = (0..NODES).map(|node| Member {
            replica: store_id(node),
            node: NodeId(store_id(node).0),
            address: format!("127.0.0.{node}:1"),
            in_sync: self.master.in_sync.contains(&node),
        });
        let assignment = Assignment {
            volume: VOLUME,
            epoch: self.master.epoch,
            set_version: self.master.version,
            role: if self.master.primary == at {
                Role::Primary
            } else {
                Role::Secondary
            },
            members: members.collect(),
            durability: self.master.durability,
        };
        let tag = self.tag();
        if self.trace {
            std::eprintln!("{:?} {at} {assignment:?}", self.now);
        }
        self.give(at, Event::Assign { tag, assignment });
    }

    pub(super) fn master_hears(&mut self, at: usize, effect: Effect) {
        if self.trace {
            std::eprintln!("{:?} {at}: {effect:?}", self.now);
        }
        if self.isolated.contains(&at) {
            return;
        }
        match effect {
            Effect::Propose {
                epoch,
                set_version,
                in_sync,
                settled,
                ..
            } => {
                let wish = Wish {
                    epoch,
                    version: set_version,
                    set: in_sync,
                    settled,
                };
                self.master.proposals.push_back((at, wish));
            }
            Effect::Fenced { tag, answer } => {
                let now = self.now;
                if let Some(failover) = &mut self.master.failover
                    && failover.asked.contains(&(at, tag))
                {
                    failover.answers.push((at, answer, now));
                }
            }
            _ => {}
        }
    }

    pub(super) fn run_master(&mut self) {
        while let Some((at, wish)) = self.master.proposals.pop_front() {
            self.answer_proposal(at, &wish);
        }
        let primary = self.master.primary;
        let place = &self.nodes[primary];
        let down = place.node.is_none() && self.now > place.since + Duration::from_millis(500);
        let status = self.status(primary);
        let reigns =
            |status: &Status| status.role == Role::Primary && status.epoch == self.master.epoch;
        let restarted = status.is_some_and(|status| !reigns(&status))
            && self.now > self.nodes[primary].since + Duration::from_millis(100);
        let lost = self.isolated.contains(&primary);
        let since = *self.master.isolated_since.get_or_insert(self.now);
        if !lost {
            self.master.isolated_since = None;
        }
        let away = lost && self.now > since + Duration::from_secs(2);
        if self.master.failover.is_none() && (down || away || (restarted && !lost)) {
            self.begin_failover(None);
        }
        self.run_failover();
    }

    fn answer_proposal(&mut self, at: usize, wish: &Wish) {
        let master = &mut self.master;
        let accepted = at == master.primary
            && wish.epoch == master.epoch
            && wish.version == master.version
            && master.failover.is_none();
        if accepted {
            master.version += 1;
            master.in_sync = wish.set.iter().map(|store| node_of(*store)).collect();
            if wish.settled == Some(master.durability) {
                master.was = None;
            }
        }
        let answer = Event::ProposalAnswered {
            volume: VOLUME,
            accepted,
            epoch: master.epoch,
            set_version: master.version,
            in_sync: master.in_sync.iter().map(|at| store_id(*at)).collect(),
        };
        // Now and then the answer is lost.
        if self.rng.u8(..) > 30 {
            self.give(at, answer);
        }
    }

    fn begin_failover(&mut self, target: Option<usize>) {
        let epoch = Epoch(self.master.epoch.0 + 1);
        self.fence_all(epoch, target);
    }

    fn fence_all(&mut self, epoch: Epoch, target: Option<usize>) {
        let reachable = |at: &usize| !self.isolated.contains(at) && self.nodes[*at].node.is_some();
        let asked: Vec<usize> = self
            .master
            .in_sync
            .iter()
            .copied()
            .filter(reachable)
            .collect();
        let asked: Vec<(usize, Tag)> = asked.into_iter().map(|at| (at, self.tag())).collect();
        self.master.failover = Some(Failover {
            epoch,
            started: self.now,
            target,
            asked: asked.clone(),
            answers: Vec::new(),
        });
        for (at, tag) in asked {
            let volume = VOLUME;
            self.give(at, Event::Fence { tag, volume, epoch });
        }
    }

    fn run_failover(&mut self) {
        let Some(failover) = &self.master.failover else {
            return;
        };
        let (epoch, target) = (failover.epoch, failover.target);
        let refused = failover.answers.iter().filter(|(_, answer, _)| !answer.ok);
        if let Some(higher) = refused.map(|(_, answer, _)| answer.epoch).max() {
            self.fence_all(Epoch(higher.0.max(epoch.0) + 1), target);
            return;
        }
        let timeout = self.now > failover.started + Duration::from_secs(1);
        if failover.answers.len() < failover.asked.len() && !timeout {
            return;
        }
        let quorum = self.counts_by_quorum();
        let needed = if quorum && self.master.in_sync.len() == 3 {
            2
        } else {
            1
        };
        let fit: Vec<&(usize, Fenced, Duration)> = failover
            .answers
            .iter()
            .filter(|(_, answer, _)| !answer.resyncing)
            .collect();
        if fit.len() < needed {
            if timeout {
                self.fence_all(epoch, target);
            }
            return;
        }
        let old = self.master.primary;
        let old_answered = failover.answers.iter().any(|(at, ..)| *at == old);
        let lease = failover
            .answers
            .iter()
            .map(|(_, answer, at)| *at + answer.lease_left)
            .max();
        if !old_answered && lease.is_some_and(|until| self.now < until) {
            return;
        }
        let key = |answer: &Fenced| (answer.last_epoch, answer.last);
        let longest = fit.iter().map(|(_, answer, _)| key(answer)).max();
        let preferred = target.unwrap_or(old);
        let best = |at: usize| {
            let row = fit.iter().find(|(node, ..)| *node == at);
            row.is_some_and(|(_, answer, _)| Some(key(answer)) == longest)
        };
        let winner = if best(preferred) {
            preferred
        } else {
            fit.iter()
                .map(|(at, ..)| *at)
                .find(|at| best(*at))
                .expect("one is the longest")
        };
        let members = fit.iter().map(|(at, ..)| *at);
        let in_sync: Vec<usize> = members.filter(|at| !quorum || best(*at)).collect();
        self.master.in_sync = in_sync;
        self.master.primary = winner;
        self.master.epoch = epoch;
        self.master.version = 1;
        self.master.was = None; // The new reign commits by the present mode from its first record.
        self.master.failover = None;
        self.assign_all();
    }
}
