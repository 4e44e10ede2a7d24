//! The machine of one copy of a shared volume: fenced, secondary or primary, as the masters say.
//!
//! Invariants: an assignment with a lower epoch, or of the same reign with a lower set version, changes
//! nothing; a reign is begun once in its life (I4), never by a copy that lacks changes, never below the
//! promise; a fenced copy neither serves nor follows until it is assigned again.

use super::defect::Defect;
use super::follower::State;
use super::following::{Done, Following};
use super::healing::{Healing, Lending, Reply};
use super::journal::Journal;
use super::leading::Leading;
use super::streams::{Stream, Streams};
use super::{Action, Answer, ReplicaId, Scope};
use crate::block::Block;
use crate::engine::status::{CopyState, CopyStatus, Status};
use crate::engine::{
    Assignment, Fenced, FillId, HealId, Member, NotHealed, Role, Serve, StreamId, Verified,
};
use crate::limits::{FENCES_WAITING_MAX, LEASE, LEASE_MARGIN};
use crate::lsn::{Epoch, Lsn};
use crate::peer::{Body, DetachReason};
use crate::store::append::{AppendBody, Sharing};
use crate::store::{PayloadId, PayloadSlice, RequestError, Tag, VolumeInfo};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// One copy.
#[derive(Debug)]
pub struct Replica {
    own: ReplicaId,
    duty: Duty,
    /// The last assignment since the start.
    assigned: Option<(Epoch, u64)>,
    journal: Journal,
    /// A lease that it granted may be held until then.
    granted_until: Duration,
    /// It was the primary itself when it was fenced.
    was_primary: bool,
    /// Rises with each adoption.
    operation: u16,
    heard: Option<Duration>,
    beginning: Vec<Tag>,
    fences: Vec<(Tag, Epoch)>,
    promising: Option<Epoch>,
    reason: &'static str,
    /// As a primary.
    healing: Healing,
    /// As a secondary.
    lending: Lending,
}

#[derive(Debug)]
enum Duty {
    Fenced,
    Secondary(Following),
    Primary(Leading),
}

impl Replica {
    /// A copy after the start of its process: fenced, and bound by what it may have granted before.
    pub fn new(now: Duration, own: ReplicaId, appended: Lsn) -> Self {
        Replica {
            own,
            duty: Duty::Fenced,
            assigned: None,
            journal: Journal::starting_behind(appended),
            granted_until: now + LEASE + LEASE_MARGIN,
            was_primary: false,
            operation: 0,
            heard: None,
            beginning: Vec::new(),
            fences: Vec::new(),
            promising: None,
            reason: "not assigned since the start",
            healing: Healing::default(),
            lending: Lending::default(),
        }
    }

    /// A copy that was created in this process: it never granted anything.
    pub fn fresh(own: ReplicaId, appended: Lsn) -> Self {
        Replica {
            granted_until: Duration::ZERO,
            ..Replica::new(Duration::ZERO, own, appended)
        }
    }

    /// It is about to be removed.
    pub fn on_removed(&mut self, scope: &mut Scope<'_>) {
        self.step_down(Epoch(0), DetachReason::NotFound, scope);
    }

    /// What it is.
    pub fn role(&self) -> Role {
        match self.duty {
            Duty::Fenced => Role::Fenced,
            Duty::Secondary(_) => Role::Secondary,
            Duty::Primary(_) => Role::Primary,
        }
    }

    /// The copies to which it wants streams.
    pub fn wants_streams(&self) -> impl Iterator<Item = &Member> {
        let followers = match &self.duty {
            Duty::Primary(leading) => leading.followers(),
            _ => &[],
        };
        followers.iter().map(|follower| &follower.member)
    }

    /// Whether hosts' requests are taken: they commit when they may.
    pub fn takes_requests(&self) -> bool {
        matches!(&self.duty, Duty::Primary(leading) if leading.has_begun())
    }

    /// Whether hosts are served.
    pub fn may_serve(
        &self,
        now: Duration,
        committed: Lsn,
        streams: &Streams,
        defect: super::defect::Planted,
    ) -> Serve {
        match &self.duty {
            Duty::Primary(leading) => leading.may_serve(now, committed, streams, defect),
            Duty::Secondary(_) => Serve::No("another copy is the primary"),
            Duty::Fenced => Serve::No(self.reason),
        }
    }

    /// The masters decided.
    pub fn on_assigned(&mut self, tag: Tag, assignment: &Assignment, scope: &mut Scope<'_>) {
        let known = self.assigned.unwrap_or_default();
        let told = (assignment.epoch, assignment.set_version);
        let promised = scope.copy.info().promised;
        let promised = promised.max(self.promising.unwrap_or_default());
        if told < known || assignment.epoch < promised {
            let result = Err(RequestError::StaleEpoch);
            scope.push(Action::Assigned { tag, result });
            return;
        }
        match assignment.role {
            Role::Primary => self.assigned_primary(tag, assignment, scope),
            Role::Alone => self.assigned_alone(tag, assignment, scope),
            Role::Secondary | Role::Fenced => self.assigned_secondary(tag, assignment, scope),
        }
    }

    /// The masters want it to obey nobody below `epoch`.
    pub fn on_fence(&mut self, tag: Tag, epoch: Epoch, scope: &mut Scope<'_>) {
        let info = scope.copy.info();
        let reigning = self.assigned.map_or(Epoch(0), |(epoch, _)| epoch);
        let promised = info.promised.max(self.promising.unwrap_or_default());
        if epoch <= reigning || epoch < promised || self.fences.len() >= FENCES_WAITING_MAX {
            let answer = self.answer(&info, scope.now, Err("a higher epoch is in force"));
            scope.push(Action::Fenced { tag, answer });
            return;
        }
        self.step_down(epoch, DetachReason::StaleEpoch, scope);
        self.reason = "fenced: a new reign is being decided";
        self.fences.push((tag, epoch));
        if self.promising != Some(epoch) {
            self.promising = Some(epoch);
            scope.push(Action::Promise { epoch });
        }
    }

    /// A promise is durable, or not possible.
    pub fn on_promised(&mut self, result: Result<(), RequestError>, scope: &mut Scope<'_>) {
        let info = scope.copy.info();
        let done = info.promised;
        if self.promising.is_some_and(|epoch| epoch <= done) || result.is_err() {
            self.promising = None;
        }
        let fences = core::mem::take(&mut self.fences);
        for (tag, epoch) in fences {
            if result.is_ok() && epoch > done {
                self.fences.push((tag, epoch));
                continue;
            }
            let refused = match result {
                Err(_) => Err("the promise could not be made durable"),
                Ok(()) if epoch < done => Err("a higher epoch is in force"),
                Ok(()) => Ok(()),
            };
            let mut answer = self.answer(&info, scope.now, refused);
            if scope.planted(Defect::HideLease) {
                answer.lease_left = Duration::ZERO;
            }
            scope.push(Action::Fenced { tag, answer });
        }
    }

    /// A reign's record is durable, or not possible.
    pub fn on_begun(&mut self, result: Result<(), RequestError>, scope: &mut Scope<'_>) {
        for tag in core::mem::take(&mut self.beginning) {
            scope.push(Action::Assigned { tag, result });
        }
        let Duty::Primary(leading) = &mut self.duty else {
            return;
        };
        match result {
            Ok(()) => leading.on_begun(&self.journal, scope),
            Err(_) => {
                self.step_down(Epoch(0), DetachReason::Fenced, scope);
                self.reason = "the reign could not be begun";
            }
        }
    }

    /// A stream that this side opened is ready.
    pub fn on_stream_up(&mut self, stream: StreamId, store: ReplicaId, scope: &mut Scope<'_>) {
        if let Duty::Primary(leading) = &mut self.duty {
            leading.on_stream_up(stream, store, scope);
        }
    }

    /// A stream is gone; `ended` is what it was.
    pub fn on_stream_down(&mut self, id: StreamId, ended: &Stream, scope: &mut Scope<'_>) {
        match &mut self.duty {
            Duty::Primary(leading) => {
                leading.on_stream_down(id, scope);
                self.healing.review(leading, scope);
            }
            Duty::Secondary(following) => {
                if following.stream() == Some(id) {
                    self.granted_until = self.granted_until.max(ended.granted_until);
                }
                following.on_stream_down(id, ended.heard);
            }
            Duty::Fenced => {}
        }
    }

    /// The other side said something. Gives the payload back when it is not used.
    pub fn on_message(
        &mut self,
        stream: StreamId,
        epoch: Epoch,
        body: Body,
        payload: Option<PayloadId>,
        scope: &mut Scope<'_>,
    ) -> Option<PayloadId> {
        self.remember_grants(scope.streams);
        let info = scope.copy.info();
        let promised = info.promised.max(self.promising.unwrap_or_default());
        match &mut self.duty {
            Duty::Primary(leading) => {
                if let Body::Detach(reason) = body {
                    leading.on_detach(stream, reason, scope);
                    self.healing.review(leading, scope);
                } else if let Body::Blocks { id, range, found } = &body
                    && epoch == leading.epoch()
                {
                    let reply = Reply {
                        id: *id,
                        range: *range,
                        found,
                        payload,
                    };
                    self.healing.on_reply(stream, &reply, leading, scope);
                } else if epoch == leading.epoch() && body != Body::Attach {
                    leading.on_message(stream, body, &self.journal, scope);
                } else if body == Body::Attach {
                    refuse(stream, epoch, promised, scope);
                }
                payload
            }
            Duty::Secondary(following) => {
                let same = epoch == following.epoch() && epoch >= promised;
                if same || scope.planted(Defect::IgnoreEpoch) {
                    if let Body::ReadBlocks { id, range } = body {
                        self.lending.on_ask(stream, id, range, following, scope);
                        return payload;
                    }
                    return following.on_message(stream, body, payload, scope);
                }
                if body == Body::Attach {
                    refuse(stream, epoch, promised, scope);
                }
                payload
            }
            Duty::Fenced => {
                if body == Body::Attach {
                    refuse(stream, epoch, promised, scope);
                }
                payload
            }
        }
    }

    /// A record joined the log: its own, or one of its primary.
    pub fn on_appended(
        &mut self,
        lsn: Lsn,
        epoch: Epoch,
        body: &AppendBody,
        payload: Option<PayloadSlice>,
        scope: &mut Scope<'_>,
    ) {
        self.journal.add(lsn, body.range());
        if let Duty::Primary(leading) = &mut self.duty {
            leading.on_appended(lsn, epoch, body, payload, scope);
        }
    }

    /// A record of the primary goes to the own copy.
    pub fn note_append(&mut self, lsn: Lsn, body: &AppendBody) {
        self.journal.add(lsn, body.range());
    }

    /// The own copy's log is cut.
    pub fn note_cut(&mut self, keep: Lsn, cut: Lsn) {
        self.journal.cut(keep, cut);
    }

    /// More is durable here.
    pub fn on_durable(&mut self, lsn: Lsn, scope: &mut Scope<'_>) {
        match &mut self.duty {
            Duty::Primary(leading) => leading.on_durable(scope),
            Duty::Secondary(following) => following.on_durable(lsn, scope),
            Duty::Fenced => {}
        }
    }

    /// An operation of a secondary on its own copy ended.
    pub fn on_done(
        &mut self,
        done: Done,
        operation: u16,
        result: Result<(), RequestError>,
        scope: &mut Scope<'_>,
    ) {
        self.remember_grants(scope.streams);
        if let Duty::Secondary(following) = &mut self.duty {
            following.on_done(done, operation, result, scope);
        }
    }

    /// The masters answered a proposal.
    pub fn on_answer(&mut self, answer: Answer, scope: &mut Scope<'_>) {
        let Duty::Primary(leading) = &mut self.duty else {
            return;
        };
        let (epoch, set_version) = (answer.epoch, answer.set_version);
        if !leading.on_answer(answer, scope) {
            self.step_down(epoch, DetachReason::Fenced, scope);
            self.reason = "another reign is registered";
        } else if let Some((reign, version)) = &mut self.assigned
            && *reign == epoch
        {
            *version = (*version).max(set_version);
        }
    }

    /// A read for a resync ended, of this copy or another.
    pub fn on_fill_read(
        &mut self,
        fill: FillId,
        result: Result<Option<PayloadId>, RequestError>,
        scope: &mut Scope<'_>,
    ) {
        if let Duty::Primary(leading) = &mut self.duty {
            leading.on_fill_read(fill, result, scope);
        }
    }

    /// A block is damaged here: another copy is asked for it.
    pub fn on_heal(&mut self, heal: HealId, block: Block, checksum: u32, scope: &mut Scope<'_>) {
        match &self.duty {
            Duty::Primary(leading) => {
                self.healing.on_heal(heal, block, checksum, leading, scope);
            }
            _ => scope.push(Action::Healed {
                heal,
                result: Err(NotHealed::NoCopy),
            }),
        }
    }

    /// A read for a primary ended, of this copy or another.
    pub fn on_blocks_read(
        &mut self,
        read: FillId,
        found: Option<&Verified>,
        scope: &mut Scope<'_>,
    ) {
        if let Duty::Secondary(following) = &self.duty {
            self.lending.on_read(read, found, following, scope);
        }
    }

    /// Time passed.
    pub fn on_tick(&mut self, scope: &mut Scope<'_>) {
        self.remember_grants(scope.streams);
        if let Duty::Primary(leading) = &mut self.duty {
            leading.on_tick(scope);
            self.healing.review(leading, scope);
        }
    }

    /// A lease was renewed.
    pub fn on_grant(&mut self, scope: &mut Scope<'_>) {
        if let Duty::Primary(leading) = &mut self.duty {
            leading.on_durable(scope);
        }
    }

    /// What it tells about itself.
    pub fn status(
        &self,
        now: Duration,
        info: &VolumeInfo,
        serve: Serve,
        streams: &Streams,
    ) -> Status {
        let (epoch, set_version) = self.assigned.unwrap_or_default();
        let heard = |stream| streams.get(stream).map(|stream| stream.heard);
        let heard = match &self.duty {
            Duty::Secondary(following) => following.heard(heard),
            _ => self.heard,
        };
        let mut status = Status {
            role: self.role(),
            epoch,
            promised: info.promised,
            serving: serve == Serve::Yes,
            reason: match serve {
                Serve::Yes => "",
                Serve::Wait => "waits for the other copies",
                Serve::No(reason) => reason,
            },
            set_version,
            in_sync: Vec::new(),
            durable: info.durable,
            committed: info.committed,
            primary_silent: heard.map(|heard| now.saturating_sub(heard)),
            copies: Vec::new(),
        };
        if let Duty::Primary(leading) = &self.duty {
            status.set_version = leading.membership().version();
            status.in_sync = leading.membership().set().to_vec();
            status.copies = copies_of(now, leading, info);
        }
        status
    }

    fn assigned_primary(&mut self, tag: Tag, assignment: &Assignment, scope: &mut Scope<'_>) {
        let epoch = assignment.epoch;
        let info = scope.copy.info();
        if let Duty::Primary(leading) = &mut self.duty
            && leading.epoch() == epoch
        {
            self.assigned = Some((epoch, assignment.set_version));
            leading.on_assigned(assignment, scope);
            if leading.has_begun() {
                let result = Ok(());
                scope.push(Action::Assigned { tag, result });
            } else {
                self.beginning.push(tag);
            }
            scope.push(Action::MembersChanged);
            return;
        }
        let begun = scope.copy.reigns().iter().any(|reign| reign.epoch >= epoch);
        let refused = if info.resync.is_some() && !scope.planted(Defect::PromoteResyncing) {
            Some("a copy that lacks changes cannot be primary")
        } else if begun && !scope.planted(Defect::BeginTwice) {
            Some("this reign was begun before the start; a new one is needed")
        } else {
            None
        };
        if let Some(reason) = refused {
            self.reason = reason;
            let result = Err(RequestError::StaleEpoch);
            scope.push(Action::Assigned { tag, result });
            return;
        }
        self.step_down(epoch, DetachReason::StaleEpoch, scope);
        self.assigned = Some((epoch, assignment.set_version));
        let mut leading = Leading::new(scope.now, self.own, assignment);
        for member in &assignment.members {
            if let Some(stream) = scope.streams.to(member.replica) {
                leading.on_stream_up(stream, member.replica, scope);
            }
        }
        self.duty = Duty::Primary(leading);
        self.beginning.push(tag);
        scope.push(Action::Begin {
            epoch,
            sharing: Sharing::Shared,
        });
        scope.push(Action::RoleChanged {
            role: Role::Primary,
        });
        scope.push(Action::MembersChanged);
    }

    fn assigned_secondary(&mut self, tag: Tag, assignment: &Assignment, scope: &mut Scope<'_>) {
        let epoch = assignment.epoch;
        let follows = matches!(&self.duty, Duty::Secondary(present) if present.epoch() == epoch);
        if matches!(&self.duty, Duty::Primary(leading) if leading.epoch() == epoch) {
            let result = Err(RequestError::StaleEpoch); // One reign has one primary.
            scope.push(Action::Assigned { tag, result });
            return;
        }
        self.assigned = Some((epoch, assignment.set_version));
        if !follows {
            self.step_down(epoch, DetachReason::StaleEpoch, scope);
            let following = Following::new(epoch, self.operation.wrapping_add(1), self.heard);
            self.duty = Duty::Secondary(following);
            scope.push(Action::RoleChanged {
                role: Role::Secondary,
            });
        }
        let result = Ok(());
        scope.push(Action::Assigned { tag, result });
    }

    /// The other copies left the volume: it commits by itself from here on.
    fn assigned_alone(&mut self, tag: Tag, assignment: &Assignment, scope: &mut Scope<'_>) {
        let epoch = assignment.epoch;
        if scope.copy.info().resync.is_some() {
            let result = Err(RequestError::StaleEpoch);
            scope.push(Action::Assigned { tag, result });
            return;
        }
        self.step_down(epoch, DetachReason::NotMember, scope);
        self.assigned = Some((epoch, assignment.set_version));
        self.reason = "the reign is about to begin";
        self.beginning.push(tag);
        scope.push(Action::Begin {
            epoch,
            sharing: Sharing::Alone,
        });
    }

    /// Neither serves nor follows any more. `epoch` is what the others are told.
    fn step_down(&mut self, epoch: Epoch, reason: DetachReason, scope: &mut Scope<'_>) {
        self.remember_grants(scope.streams);
        self.healing.end(scope);
        self.lending = Lending::default();
        match &mut self.duty {
            Duty::Fenced => return,
            Duty::Secondary(following) => {
                self.operation = following.operation();
                if scope.planted(Defect::FollowAfterFence) {
                    return;
                }
                following.stop(epoch, reason, scope);
                self.heard = following.heard(|_| None);
                self.was_primary = false;
            }
            Duty::Primary(leading) => {
                for follower in leading.followers() {
                    let attached = !matches!(follower.state, State::Down | State::Refused(_));
                    if let Some(stream) = follower.stream.filter(|_| attached) {
                        scope.send(stream, leading.epoch(), Body::Detach(DetachReason::Fenced));
                    }
                }
                self.was_primary = true;
                for tag in self.beginning.drain(..) {
                    let result = Err(RequestError::StaleEpoch);
                    scope.push(Action::Assigned { tag, result });
                }
                scope.push(Action::MembersChanged);
            }
        }
        self.duty = Duty::Fenced;
        scope.push(Action::RoleChanged { role: Role::Fenced });
    }

    /// What was granted on the stream that it follows holds also when it leaves.
    fn remember_grants(&mut self, streams: &Streams) {
        if let Duty::Secondary(following) = &self.duty
            && let Some(stream) = following.stream().and_then(|id| streams.get(id))
        {
            self.granted_until = self.granted_until.max(stream.granted_until);
        }
    }

    fn answer(&self, info: &VolumeInfo, now: Duration, refused: Result<(), &str>) -> Fenced {
        let lease_left = if self.was_primary {
            Duration::ZERO
        } else {
            self.granted_until.saturating_sub(now)
        };
        Fenced {
            ok: refused.is_ok(),
            epoch: info.promised,
            last_epoch: info.last_epoch,
            last: info.durable,
            committed: info.committed,
            resyncing: info.resync.is_some(),
            lease_left,
            reason: refused.err().map_or(String::new(), ToString::to_string),
        }
    }
}

fn refuse(stream: StreamId, epoch: Epoch, promised: Epoch, scope: &mut Scope<'_>) {
    let reason = if epoch < promised {
        DetachReason::StaleEpoch
    } else {
        DetachReason::NotAssigned
    };
    scope.send(stream, promised, Body::Detach(reason));
}

fn copies_of(now: Duration, leading: &Leading, info: &VolumeInfo) -> Vec<CopyStatus> {
    let copies = leading.followers().iter().map(|follower| {
        let in_sync = leading.membership().set();
        let progress = follower.filling.as_ref().map(|filling| filling.progress());
        let (done, total, rate) = progress.unwrap_or_default();
        CopyStatus {
            replica: follower.member.replica,
            state: match follower.state {
                State::Down | State::Refused(_) => CopyState::Down,
                State::Attaching | State::Attached(_) | State::Adopting => CopyState::Attaching,
                State::Following if follower.filling.is_some() => CopyState::Resyncing,
                State::Following if in_sync.contains(&follower.member.replica) => CopyState::InSync,
                State::Following if follower.joining => CopyState::Joining,
                State::Following => CopyState::CatchingUp,
            },
            durable: follower.durable,
            lag: info.appended.0.saturating_sub(follower.durable.0),
            resync_done_bytes: done,
            resync_total_bytes: total,
            resync_bytes_per_second: rate,
            slow_left: follower.not_before.saturating_sub(now),
            refusal: follower.refusal(),
        }
    });
    copies.collect()
}
