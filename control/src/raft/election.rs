//! Watches the group: stands for election when the leader is silent, and tells the process when it
//! leads.
//!
//! The library's own election timer is off. Before a master stands it asks the others whether they
//! would vote for it (Raft dissertation §9.6, "PreVote"); one that has heard a leader lately says no. So
//! a master that was cut off or paused does not raise its term and disturbs nobody when it returns. The
//! wait is drawn anew for each attempt, so that two candidates do not collide for ever.
//! A leader that a majority has not followed for a while says so itself: it may have been replaced.

use super::command::Command;
use super::group::{Inner, Joined, Role};
use super::{MasterId, Seat};
use crate::registry::Audit;
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

type Metrics = RaftMetrics<MasterId, Seat>;

/// Runs until the group stops.
pub(super) async fn watch(inner: Arc<Inner>, joined: Joined) {
    let mut metrics = joined.raft.metrics();
    let mut watch = Watch {
        attempt: Instant::now(),
        wait: Duration::ZERO,
        inner,
        joined,
    };
    watch.draw();
    let mut tick = tokio::time::interval(watch.inner.timing.heartbeat / 2);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = metrics.changed() => if changed.is_err() {
                return watch.inner.stop("it was shut down".into());
            },
        }
        let now = metrics.borrow_and_update().clone();
        if let Err(error) = &now.running_state {
            return watch.inner.stop(error.to_string());
        }
        watch.look(&now).await;
    }
}

struct Watch {
    /// When this master last stood, or began to wait.
    attempt: Instant,
    wait: Duration,
    inner: Arc<Inner>,
    joined: Joined,
}

impl Watch {
    async fn look(&mut self, metrics: &Metrics) {
        if metrics.state == ServerState::Leader {
            return self.lead(metrics).await;
        }
        // The library names the last leader for ever; one that is silent leads nobody.
        let silent = self.inner.contacts.last_heard().elapsed() > self.inner.timing.silence;
        let leader = metrics.current_leader;
        let leader = leader.filter(|id| *id != metrics.id && !silent);
        let members = metrics.membership_config.membership();
        let leader = leader.and_then(|id| members.get_node(&id).cloned());
        self.inner.become_role(|_| Role::Following { leader });
        self.stand(metrics).await;
    }

    /// The leader acts only after everything that was committed before is applied here, and while a
    /// majority follows.
    async fn lead(&mut self, metrics: &Metrics) {
        if !self.majority_follows(metrics) {
            return self.inner.become_role(|_| Role::Following { leader: None });
        }
        if matches!(self.inner.role(), Role::Leading { .. }) {
            return;
        }
        let barrier = self.joined.raft.ensure_linearizable();
        if let Ok(Ok(_)) = timeout(self.inner.timing.lease, barrier).await {
            self.correct_seat(metrics).await;
            if !self.take_over().await {
                return; // The next look tries again.
            }
            self.inner
                .become_role(|reigns| Role::Leading { reign: reigns + 1 });
        }
    }

    /// Puts records that are older than the group into its log, so that every master gets them.
    async fn take_over(&self) -> bool {
        let (state, version) = self.joined.machine.state().await;
        let changes = state.changes();
        if version > 0 || changes.is_empty() {
            return true;
        }
        let command = Command {
            changes,
            audit: Audit {
                at_ms: 0,
                who: "holdfast-control".into(),
                request_id: String::new(),
                what: "take over the records from before the masters' log".into(),
            },
            expects: Vec::new(),
        };
        let writing = self.joined.raft.client_write(command);
        matches!(timeout(self.inner.timing.commit, writing).await, Ok(Ok(_)))
    }

    /// Tells the others where this master is now.
    async fn correct_seat(&self, metrics: &Metrics) {
        let seat = self.inner.seat();
        if metrics.membership_config.membership().get_node(&metrics.id) == Some(&seat) {
            return;
        }
        let change = ChangeMembers::SetNodes(BTreeMap::from([(metrics.id, seat)]));
        let changing = self.joined.raft.change_membership(change, true);
        if !matches!(timeout(self.inner.timing.lease, changing).await, Ok(Ok(_))) {
            tracing::warn!("the other masters may have an old address of this one");
        }
    }

    fn majority_follows(&self, metrics: &Metrics) -> bool {
        let since = Instant::now().checked_sub(self.inner.timing.silence);
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().iter().all(|voters| {
            let following = voters.iter().filter(|voter| {
                **voter == metrics.id || self.inner.contacts.followed_since(**voter, since)
            });
            following.count() * 2 > voters.len()
        })
    }

    async fn stand(&mut self, metrics: &Metrics) {
        let voters: Vec<_> = metrics.membership_config.voter_ids().collect();
        if !voters.contains(&metrics.id) {
            return;
        }
        let alone = voters.len() == 1;
        let heard = self.inner.contacts.last_heard().max(self.attempt);
        if !alone && heard.elapsed() < self.wait {
            return;
        }
        if self
            .inner
            .contacts
            .promised_within(self.inner.timing.lease / 2)
        {
            return; // Another one stands already; two at once may both lose.
        }
        if alone && metrics.state == ServerState::Candidate {
            return; // The one vote is being made durable.
        }
        self.draw();
        if alone || self.majority_would_vote(metrics).await {
            tracing::info!(term = metrics.current_term + 1, "standing for election");
            // A group that stops says so by its metrics.
            let _ = self.joined.raft.trigger().elect().await;
        }
    }

    async fn majority_would_vote(&self, metrics: &Metrics) -> bool {
        self.inner.contacts.asks();
        let Ok(last) = self.joined.log.last().await else {
            return false; // The library will meet the same error.
        };
        let membership = metrics.membership_config.membership();
        let mut asked = JoinSet::new();
        for (id, seat) in membership.nodes() {
            if *id == metrics.id {
                continue;
            }
            let (id, mut peer) = (*id, self.joined.dialer.peer(*id, seat));
            let wait = self.inner.timing.lease / 2;
            asked.spawn(async move { peer.pre_vote(last, wait).await.then_some(id) });
        }
        let mut granted = vec![metrics.id];
        while let Some(answer) = asked.join_next().await {
            granted.extend(answer.ok().flatten());
        }
        membership.get_joint_config().iter().all(|voters| {
            let count = granted.iter().filter(|id| voters.contains(id)).count();
            count * 2 > voters.len()
        })
    }

    fn draw(&mut self) {
        let timing = &self.inner.timing;
        let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        self.wait = timing.election_min + timing.election_spread * random / 256;
        self.attempt = Instant::now();
    }
}
