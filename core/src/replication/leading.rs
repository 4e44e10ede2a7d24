//! The primary of one reign: ships records, counts what is durable where, commits, keeps the in-sync set.
//!
//! A copy is attached (it tells its history), adopted (it drops what is not ours), fed (what is pending,
//! then every record as it joins the log) and, when it lacks changes that are committed, filled.
//!
//! Invariants: nothing is sent about records before the reign's own record is durable here; what a copy
//! has durable counts from its `Adopted` on; nothing commits that a set which may be registered lacks.
//! Hot path: [`Leading::on_appended`], [`Leading::on_ack`], [`Leading::on_durable`].

mod proposing;

use super::defect::{Defect, Planted};
use super::filling::{Fill, Filling, Lack};
use super::follower::{Follower, State};
use super::history::{self, Log};
use super::journal::Journal;
use super::membership::Membership;
use super::streams::Streams;
use super::{Action, Answer, ReplicaId, Scope, committable, committable_in_reign};
use crate::cluster::set::Durability;
use crate::engine::{Assignment, FillId, Member, PayloadRef, Serve, StreamId};
use crate::limits::{JOIN_LAG_MAX, PEER_REIGNS_MAX};
use crate::lsn::{Epoch, Lsn};
use crate::peer::{Adopt, Attached, Body, DetachReason};
use crate::store::append::AppendBody;
use crate::store::{PayloadId, PayloadSlice, PendingPayload, RequestError};
use alloc::vec::Vec;
use core::time::Duration;

/// A primary.
#[derive(Debug)]
pub struct Leading {
    own: ReplicaId,
    epoch: Epoch,
    durability: Durability,
    /// The mode before, until every member of the set has everything that is committed: that was promised
    /// by it. Both are obeyed meanwhile.
    was: Option<Durability>,
    /// The masters have to be told that everything is committed by the present mode.
    confirm: bool,
    /// The set version whose proposals say so.
    settled_at: Option<u64>,
    membership: Membership,
    followers: Vec<Follower>,
    /// LSN of the reign's record, once that is durable here.
    begun: Option<Lsn>,
    /// What this copy was told to be committed.
    committed: Lsn,
    pace: Pace,
}

/// How long hosts' writes take, with and without a resync.
#[derive(Debug, Default)]
struct Pace {
    sample: Option<(Lsn, Duration)>,
    latency: Duration,
    calm: Duration,
}

impl Leading {
    /// A reign that is about to begin.
    pub fn new(now: Duration, own: ReplicaId, assignment: &Assignment) -> Self {
        let members = assignment.members.iter();
        let others = members.filter(|member| member.replica != own);
        Leading {
            own,
            epoch: assignment.epoch,
            durability: assignment.durability,
            was: None,
            confirm: false,
            settled_at: None,
            membership: Membership::registered(assignment.set_version, set_of(assignment)),
            followers: others
                .map(|member| Follower::new(now, member.clone()))
                .collect(),
            begun: None,
            committed: Lsn(0),
            pace: Pace::default(),
        }
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The in-sync set.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The other copies.
    pub fn followers(&self) -> &[Follower] {
        &self.followers
    }

    /// Whether the reign's record is durable here.
    pub fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// The same reign, told again or with other members.
    pub fn on_assigned(&mut self, assignment: &Assignment, scope: &mut Scope<'_>) {
        self.membership
            .learn(assignment.set_version, set_of(assignment));
        if self.durability != assignment.durability {
            // Of two that are not confirmed yet the one that trusts single members less.
            let quorum = self.was.filter(|was| *was == Durability::SyncQuorum);
            self.was = Some(quorum.unwrap_or(self.durability));
            self.durability = assignment.durability;
            self.confirm = true;
            self.settled_at = None;
        }
        let members = || {
            assignment
                .members
                .iter()
                .filter(|m| m.replica != self.own)
                .cloned()
        };
        let mut gone = Vec::new();
        self.followers.retain_mut(|follower| {
            let stays = members().any(|member| member.replica == follower.member.replica);
            gone.extend(
                follower
                    .stream
                    .filter(|_| !stays && follower.state != State::Down),
            );
            stays
        });
        for stream in gone {
            scope.send(stream, self.epoch, Body::Detach(DetachReason::NotMember));
        }
        for member in members().collect::<Vec<Member>>() {
            let known = |follower: &&mut Follower| follower.member.replica == member.replica;
            if let Some(follower) = self.followers.iter_mut().find(known) {
                follower.member = member;
                continue;
            }
            let mut follower = Follower::new(scope.now, member);
            follower.stream = scope.streams.to(follower.member.replica);
            self.followers.push(follower);
            self.attach(self.followers.len() - 1, scope);
        }
        self.advance(scope);
    }

    /// The reign's record is durable here: the copies that told what they have are adopted.
    pub fn on_begun(&mut self, journal: &Journal, scope: &mut Scope<'_>) {
        let start = scope.copy.reigns().iter().rev();
        let mut start = start.filter(|reign| reign.epoch == self.epoch);
        let Some(reign) = start.next() else {
            return;
        };
        self.begun = Some(reign.start);
        self.committed = self.committed.max(scope.copy.info().committed);
        for at in 0..self.followers.len() {
            let follower = &mut self.followers[at];
            follower.since = scope.now;
            if let State::Attached(attached) = follower.state.clone() {
                self.adopt(at, &attached, journal, scope);
            }
        }
        self.advance(scope);
    }

    /// A stream to a copy is ready.
    pub fn on_stream_up(&mut self, stream: StreamId, replica: ReplicaId, scope: &mut Scope<'_>) {
        if let Some(at) = self.find(|follower| follower.member.replica == replica) {
            let follower = &mut self.followers[at];
            follower.stops(scope.now, State::Down);
            follower.stream = Some(stream);
            self.attach(at, scope);
        }
    }

    /// A stream to a copy is gone.
    pub fn on_stream_down(&mut self, stream: StreamId, scope: &mut Scope<'_>) {
        if let Some(at) = self.at_stream(stream) {
            let follower = &mut self.followers[at];
            follower.stops(scope.now, State::Down);
            follower.stream = None;
        }
    }

    /// A copy said something about this reign.
    pub fn on_message(
        &mut self,
        stream: StreamId,
        body: Body,
        journal: &Journal,
        scope: &mut Scope<'_>,
    ) {
        let Some(at) = self.at_stream(stream) else {
            return;
        };
        match body {
            Body::Attached(attached) => self.on_attached(at, attached, journal, scope),
            Body::Adopted { durable } => self.on_adopted(at, durable, scope),
            Body::Ack { durable } => self.on_ack(at, durable, scope),
            Body::Filled { count, .. } => {
                if let Some(filling) = &mut self.followers[at].filling {
                    filling.on_filled(scope.now, count);
                    filling.pace(self.pace.hosts_suffer());
                }
                self.fill(at, scope);
            }
            Body::Resynced => {
                let follower = &mut self.followers[at];
                if follower.filling.as_ref().is_some_and(Filling::is_done) {
                    follower.filling = None;
                }
                self.review(scope);
            }
            _ => {}
        }
    }

    /// A copy does not follow.
    pub fn on_detach(&mut self, stream: StreamId, reason: DetachReason, scope: &mut Scope<'_>) {
        if let Some(at) = self.at_stream(stream) {
            self.followers[at].stops(scope.now, State::Refused(reason));
        }
    }

    /// A record joined the log here: it is shipped while it is being written.
    pub fn on_appended(
        &mut self,
        lsn: Lsn,
        epoch: Epoch,
        body: &AppendBody,
        payload: Option<PayloadSlice>,
        scope: &mut Scope<'_>,
    ) {
        if self.pace.sample.is_none() {
            self.pace.sample = Some((lsn, scope.now));
        }
        for follower in &mut self.followers {
            let Some(stream) = follower.stream.filter(|_| follower.is_fed()) else {
                continue;
            };
            if lsn < follower.next {
                continue; // It was among the pending ones.
            }
            follower.sent(scope.now, lsn);
            follower.told = self.committed;
            scope.out.push(Action::Send {
                stream,
                epoch: self.epoch,
                body: Body::Record {
                    lsn,
                    epoch,
                    committed: self.committed,
                    body: body.clone(),
                },
                payload: payload.map(PayloadRef::Slice),
            });
            if scope.defect.is(Defect::CountSentAsDurable) {
                follower.durable = lsn;
            }
        }
    }

    /// More is durable here.
    pub fn on_durable(&mut self, scope: &mut Scope<'_>) {
        self.advance(scope);
    }

    /// The masters answered. False: another reign is registered, this one is over.
    pub fn on_answer(&mut self, answer: Answer, scope: &mut Scope<'_>) -> bool {
        if answer.epoch != self.epoch {
            return answer.epoch < self.epoch; // An answer to a reign before.
        }
        if !answer.in_sync.contains(&self.own) {
            return false;
        }
        let confirmed = self.settled_at.is_some_and(|at| at < answer.set_version);
        self.confirm &= !(answer.accepted && confirmed);
        if self.membership.learn(answer.set_version, answer.in_sync) {
            self.advance(scope);
            self.review(scope);
        }
        true
    }

    /// A read for a resync came back.
    pub fn on_fill_read(
        &mut self,
        fill: FillId,
        result: Result<Option<PayloadId>, RequestError>,
        scope: &mut Scope<'_>,
    ) {
        let reads = |follower: &Follower| follower.filling.as_ref().is_some_and(|f| f.reads(fill));
        let Some(at) = self.find(reads) else {
            return;
        };
        let mut fills = Vec::new();
        if let Some(filling) = &mut self.followers[at].filling {
            filling.on_read(fill, result, scope.copy, &mut fills);
        }
        self.send_fills(at, fills, scope);
        self.fill(at, scope);
    }

    /// Time passed.
    pub fn on_tick(&mut self, scope: &mut Scope<'_>) {
        for at in 0..self.followers.len() {
            let follower = &self.followers[at];
            if follower.stream.is_none() && scope.streams.to(follower.member.replica).is_some() {
                self.followers[at].stream = scope.streams.to(follower.member.replica);
            }
            let follower = &self.followers[at];
            let due = scope.now >= follower.retry_at;
            match follower.state {
                State::Down | State::Refused(_) if due => self.attach(at, scope),
                State::Following => {
                    if follower.told < self.committed {
                        self.tell_committed(at, scope);
                    }
                    if self.followers[at]
                        .filling
                        .as_ref()
                        .is_some_and(Filling::has_failed)
                    {
                        self.followers[at].stops(scope.now, State::Down);
                    } else {
                        self.fill(at, scope);
                    }
                }
                _ => {}
            }
        }
        self.advance(scope);
        self.review(scope);
    }

    /// Whether hosts are served.
    pub fn may_serve(
        &self,
        now: Duration,
        committed: Lsn,
        streams: &Streams,
        defect: Planted,
    ) -> Serve {
        let Some(begun) = self.begun else {
            return Serve::Wait;
        };
        if committed < begun && !defect.is(Defect::ServeBeforeReignCommitted) {
            return Serve::Wait;
        }
        if self.leases_hold(now, streams, defect) {
            Serve::Yes
        } else {
            Serve::Wait
        }
    }

    /// Commits what may be committed, while the leases hold.
    fn advance(&mut self, scope: &mut Scope<'_>) {
        let Some(begun) = self.begun else {
            return;
        };
        let info = scope.copy.info();
        let target = self.committable(info.durable, begun, scope);
        if target <= self.committed.max(info.committed)
            || !self.leases_hold(scope.now, scope.streams, scope.defect)
        {
            return;
        }
        self.committed = target;
        self.pace.on_committed(
            scope.now,
            target,
            self.followers.iter().any(|f| f.filling.is_some()),
        );
        scope.push(Action::Commit { up_to: target });
    }

    fn committable(&self, own_durable: Lsn, begun: Lsn, scope: &Scope<'_>) -> Lsn {
        if scope.planted(Defect::CommitAlone) {
            return own_durable;
        }
        let counted = |follower: &Follower| (follower.member.replica, follower.counted());
        let others: Vec<(ReplicaId, Lsn)> = self.followers.iter().map(counted).collect();
        let mut sets: Vec<&[ReplicaId]> = self.membership.sets().collect();
        if let Some(open) = self.membership.open() {
            if scope.planted(Defect::RemoveBeforeRegistered) && open.len() < sets[0].len() {
                sets = [open].to_vec();
            } else if scope.planted(Defect::AddWithoutRequiring) {
                sets.truncate(1);
            }
        }
        let mut joined = sets[0].to_vec();
        joined.extend(
            self.followers
                .iter()
                .filter(|f| f.joining && !f.is_lost(scope.now, scope.streams))
                .filter(|_| !scope.planted(Defect::AddWithoutRequiring))
                .map(|f| f.member.replica),
        );
        sets.push(&joined);
        let own = (self.own, own_durable);
        let by_count = scope.planted(Defect::CommitInheritedByCount);
        let modes = self.modes().map(|mode| match by_count {
            true => committable(mode, own, &sets, &others),
            false => committable_in_reign(begun, mode, own, &sets, &others),
        });
        modes.min().expect("there is a mode")
    }

    /// The modes that are obeyed.
    fn modes(&self) -> impl Iterator<Item = Durability> {
        core::iter::once(self.durability).chain(self.was)
    }

    fn counts_by_quorum(&self) -> bool {
        self.modes().any(|mode| mode == Durability::SyncQuorum)
    }

    fn leases_hold(&self, now: Duration, streams: &Streams, defect: Planted) -> bool {
        let holds = |follower: &Follower| {
            !self.membership.requires(follower.member.replica) || follower.grants(now, streams)
        };
        let mut others = self.membership.sets().flatten();
        let known =
            |replica: &ReplicaId| *replica == self.own || self.find_replica(*replica).is_some();
        defect.is(Defect::ServeWithoutLease)
            || (self.followers.iter().all(holds) && others.all(known))
    }

    fn find_replica(&self, replica: ReplicaId) -> Option<&Follower> {
        let mut followers = self.followers.iter();
        followers.find(|follower| follower.member.replica == replica)
    }

    fn attach(&mut self, at: usize, scope: &mut Scope<'_>) {
        let follower = &mut self.followers[at];
        let Some(stream) = follower.stream else {
            return;
        };
        follower.stops(scope.now, State::Attaching);
        scope.send(stream, self.epoch, Body::Attach);
    }

    fn on_attached(
        &mut self,
        at: usize,
        attached: Attached,
        journal: &Journal,
        scope: &mut Scope<'_>,
    ) {
        if self.begun.is_none() {
            self.followers[at].stops(scope.now, State::Attached(attached));
            return;
        }
        self.adopt(at, &attached, journal, scope);
    }

    /// The cut rule: what the copy keeps, where it goes on, what it may lack.
    fn adopt(&mut self, at: usize, attached: &Attached, journal: &Journal, scope: &mut Scope<'_>) {
        let begun = self.begun.expect("adoptions begin with the reign");
        let info = scope.copy.info();
        let Some(stream) = self.followers[at].stream else {
            return;
        };
        let Some(common) = common_with(attached, scope) else {
            let reason = DetachReason::Diverged;
            self.followers[at].stops(scope.now, State::Refused(reason));
            scope.send(stream, self.epoch, Body::Detach(reason));
            return;
        };
        // What another copy knows to be committed and was inherited is committed.
        let learned = attached.committed.min(common).min(Lsn(begun.0 - 1));
        if learned > info.committed.max(self.committed) {
            self.committed = learned;
            scope.push(Action::Commit { up_to: learned });
        }
        let committed = info.committed.max(self.committed).min(info.durable);
        let mut lack = lack_of(attached, common, committed);
        if scope.planted(Defect::TrustStaleCursor) {
            lack.iter_mut().for_each(|lack| lack.kept = info.appended);
        }
        let cut = common.max(if lack.is_some() { committed } else { common });
        let reigns = scope.copy.reigns();
        let count = reigns.partition_point(|reign| reign.start <= cut);
        let oldest = count.saturating_sub(PEER_REIGNS_MAX);
        let adopt = Adopt {
            keep: common,
            cut,
            resync_base: lack.as_ref().map(|lack| lack.base),
            reigns: reigns[oldest..count].to_vec(),
        };
        let follower = &mut self.followers[at];
        follower.stops(scope.now, State::Adopting);
        follower.durable = Lsn(0);
        follower.told = Lsn(0);
        follower.next = cut.next();
        follower.filling = lack.map(|lack| {
            let listed = journal.since(lack.base);
            Filling::new(scope.now, &lack, listed, info.size_blocks)
        });
        scope.send(stream, self.epoch, Body::Adopt(adopt));
        if self.followers[at].filling.is_some() {
            self.send_unnumbered(at, scope); // Records may lie behind the end that it knows.
        }
        self.send_pending(at, stream, scope);
    }

    /// Everything behind what the copy was adopted at, in order.
    fn send_pending(&mut self, at: usize, stream: StreamId, scope: &mut Scope<'_>) {
        let follower = &mut self.followers[at];
        for record in scope.copy.pending(Lsn(follower.next.0 - 1)) {
            assert_eq!(record.lsn, follower.next); // Records are dense.
            follower.sent(scope.now, record.lsn);
            scope.push(Action::Send {
                stream,
                epoch: self.epoch,
                body: Body::Record {
                    lsn: record.lsn,
                    epoch: record.epoch,
                    committed: self.committed,
                    body: record.body,
                },
                payload: match record.payload {
                    PendingPayload::None => None,
                    PendingPayload::Held(slice) => Some(PayloadRef::Slice(slice)),
                    PendingPayload::Stored(offset) => Some(PayloadRef::Stored(offset)),
                },
            });
        }
    }

    fn on_adopted(&mut self, at: usize, durable: Lsn, scope: &mut Scope<'_>) {
        let follower = &mut self.followers[at];
        if follower.state != State::Adopting {
            return;
        }
        follower.state = State::Following;
        follower.followed = true;
        follower.since = scope.now;
        if let Some(stream) = follower.stream {
            follower.granted_before = scope.streams.granted_seq(stream);
            scope.push(Action::Heartbeat { stream });
        }
        self.on_ack(at, durable, scope);
        self.fill(at, scope);
    }

    fn on_ack(&mut self, at: usize, durable: Lsn, scope: &mut Scope<'_>) {
        let follower = &mut self.followers[at];
        if follower.state != State::Following || !follower.acknowledges(scope.now, durable) {
            return;
        }
        let outside = !self.membership.requires(follower.member.replica);
        if outside && follower.is_whole() {
            let lag = scope
                .copy
                .info()
                .appended
                .0
                .saturating_sub(follower.durable.0);
            follower.joining |= lag <= JOIN_LAG_MAX && scope.now >= follower.not_before;
        }
        self.advance(scope);
        if outside {
            self.review(scope);
        }
    }

    /// What a copy lacks besides blocks: its size and its attributes.
    fn send_unnumbered(&mut self, at: usize, scope: &mut Scope<'_>) {
        let size_blocks = scope.copy.info().size_blocks;
        let bodies = [
            AppendBody::Resize { size_blocks },
            AppendBody::Attributes(scope.copy.attributes()),
        ];
        // One that is on its way as a record is newer than what is committed.
        let pending = scope.copy.pending(scope.copy.info().committed);
        let newer = |body: &AppendBody| {
            let kind = core::mem::discriminant(body);
            let mut records = pending.iter();
            records.any(|record| core::mem::discriminant(&record.body) == kind)
        };
        let mut fills = Vec::new();
        if let Some(filling) = &mut self.followers[at].filling {
            for body in bodies.into_iter().filter(|body| !newer(body)) {
                filling.push_unnumbered(body, &mut fills);
            }
        }
        self.send_fills(at, fills, scope);
    }

    /// Goes on with a copy's resync. What was inherited is committed first: no lock keeps it away.
    fn fill(&mut self, at: usize, scope: &mut Scope<'_>) {
        let begun = self.begun.unwrap_or(Lsn(u64::MAX));
        if scope.copy.info().committed < begun {
            return;
        }
        let follower = &mut self.followers[at];
        if follower.state != State::Following {
            return;
        }
        let Some(filling) = &mut follower.filling else {
            return;
        };
        let mut fills = Vec::new();
        filling.advance(scope, &mut fills);
        let ends = filling.ends(scope.defect);
        let stream = follower.stream;
        self.send_fills(at, fills, scope);
        if let Some(stream) = stream.filter(|_| ends) {
            scope.send(stream, self.epoch, Body::EndResync);
        }
    }

    fn send_fills(&mut self, at: usize, fills: Vec<Fill>, scope: &mut Scope<'_>) {
        let Some(stream) = self.followers[at].stream else {
            return;
        };
        for fill in fills {
            scope.push(Action::Send {
                stream,
                epoch: self.epoch,
                body: Body::Fill {
                    body: fill.body,
                    cursor: fill.cursor,
                },
                payload: fill.payload.map(PayloadRef::Slice),
            });
        }
    }

    fn tell_committed(&mut self, at: usize, scope: &mut Scope<'_>) {
        let follower = &mut self.followers[at];
        follower.told = self.committed;
        if let Some(stream) = follower.stream {
            let up_to = self.committed;
            scope.send(stream, self.epoch, Body::Commit { up_to });
        }
    }

    fn find(&self, wanted: impl Fn(&Follower) -> bool) -> Option<usize> {
        self.followers.iter().position(wanted)
    }

    fn at_stream(&self, stream: StreamId) -> Option<usize> {
        self.find(|follower| follower.stream == Some(stream))
    }
}

/// How far the copy's log is ours.
fn common_with(attached: &Attached, scope: &Scope<'_>) -> Option<Lsn> {
    let last = scope.copy.info().appended;
    if scope.planted(Defect::CutByLength) {
        return Some(last.min(attached.last));
    }
    let ours = Log {
        last,
        reigns: scope.copy.reigns(),
    };
    let theirs = Log {
        last: attached.last,
        reigns: &attached.reigns,
    };
    history::common(ours, theirs, attached.committed)
}

/// What the copy lacks after it kept the common prefix, if records alone cannot bring it.
fn lack_of(attached: &Attached, common: Lsn, committed: Lsn) -> Option<Lack> {
    let lacks_records = common < committed;
    let resync = attached.resync;
    if !lacks_records && resync.is_none() {
        return None;
    }
    let base = resync.map_or(common, |resync| resync.base.min(common));
    let cursor = resync.map_or(crate::block::Block(u64::MAX), |resync| resync.cursor);
    Some(Lack {
        kept: common,
        base,
        cursor,
    })
}

impl Pace {
    fn on_committed(&mut self, now: Duration, up_to: Lsn, resyncing: bool) {
        let Some((_, sent)) = self.sample.take_if(|(lsn, _)| *lsn <= up_to) else {
            return;
        };
        self.latency = (self.latency * 7 + now.saturating_sub(sent)) / 8;
        if !resyncing {
            self.calm = self.latency;
        }
    }

    fn hosts_suffer(&self) -> bool {
        self.calm > Duration::ZERO && self.latency > self.calm * 2
    }
}

fn set_of(assignment: &Assignment) -> Vec<ReplicaId> {
    let members = assignment.members.iter();
    members.filter(|m| m.in_sync).map(|m| m.replica).collect()
}
