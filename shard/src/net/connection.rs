//! One connection: its machine, and the effects of the machine carried out. Hot path.
//!
//! Everything here is synchronous: the reader and the commands call in, effects are performed in
//! order, and what they answer at once (cached reads) is fed back before returning. No borrow leaves
//! a call.

use super::budget::{Budget, Share};
use super::output::{Data, Output};
use super::service::{Inner, TargetEntry};
use super::tasks::Tasks;
use crate::limits::{CLOSE_TIME_MAX, READ_BYTES_MAX};
use crate::runtime::buffer::Buffer;
use crate::runtime::socket::Ender;
use crate::runtime::task::now;
use holdfast_iscsi::connection::{Arrival, Binding, Connection as Machine};
use holdfast_iscsi::effect::{CloseReason, Effect, Outgoing, PeerId, Segment, SendData, TaskTag};
use holdfast_iscsi::framing::{Digests, HEADER_BYTES};
use holdfast_iscsi::request::{BlockRequest, BlockResponse};
use holdfast_iscsi::target::Target;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// An answer that performing an effect produced at once.
enum Followup {
    Completed(TaskTag, BlockResponse),
    Listed,
    Bound(Rc<TargetEntry>),
    Unbound,
}

/// A login that named a target of another shard.
#[derive(Clone, Debug)]
pub(super) struct Elsewhere {
    pub(super) shard: usize,
    pub(super) target_name: String,
}

/// The connection.
pub(super) struct Conn {
    pub(super) peer: PeerId,
    pub(super) remote: String,
    service: Rc<Inner>,
    machine: RefCell<Option<Machine>>,
    target: RefCell<Option<Rc<TargetEntry>>>,
    tasks: RefCell<Tasks>,
    pub(super) output: Rc<Output>,
    ender: Rc<Ender>,
    reads: Budget,
    effects: RefCell<Vec<Effect>>,
    elsewhere: RefCell<Option<Elsewhere>>,
    closing: Cell<Option<Instant>>,
    gone: Cell<bool>,
}

impl Conn {
    pub(super) fn new(
        service: Rc<Inner>,
        peer: PeerId,
        remote: String,
        machine: Machine,
        output: Rc<Output>,
        ender: Rc<Ender>,
    ) -> Rc<Self> {
        Rc::new(Conn {
            peer,
            remote,
            service,
            machine: RefCell::new(Some(machine)),
            target: RefCell::default(),
            tasks: RefCell::default(),
            output,
            ender,
            reads: Budget::new(READ_BYTES_MAX),
            effects: RefCell::default(),
            elsewhere: RefCell::default(),
            closing: Cell::new(None),
            gone: Cell::new(false),
        })
    }

    /// Whether no byte may be taken in now.
    pub(super) fn is_paused(&self) -> bool {
        self.is_closing() || self.elsewhere.borrow().is_some()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Whether login has not reached a target yet.
    pub(super) fn is_half_open(&self) -> bool {
        self.target.borrow().is_none()
    }

    pub(super) fn elsewhere(&self) -> Option<Elsewhere> {
        self.elsewhere.borrow().clone()
    }

    /// Takes the machine out, for another shard.
    pub(super) fn take_machine(&self) -> Option<Machine> {
        self.gone.set(true);
        self.machine.take()
    }

    /// Acts on the buffer of a task; `None` when another session aborted it while its data arrived.
    pub(super) fn with_buffer<R>(
        &self,
        task: TaskTag,
        act: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        self.tasks.borrow_mut().buffer(task).map(act)
    }

    pub(super) fn headers_bytes(&self, basic: &[u8; HEADER_BYTES]) -> usize {
        let machine = self.machine.borrow();
        machine
            .as_ref()
            .map_or(HEADER_BYTES, |m| m.headers_bytes(basic))
    }

    pub(super) fn digests(&self) -> Digests {
        let machine = self.machine.borrow();
        machine
            .as_ref()
            .map_or(Digests::default(), Machine::digests)
    }

    pub(super) fn begin(self: &Rc<Self>, headers: &[u8]) -> Segment {
        let room = self.service.write_budget.fair_share();
        self.step(|machine, target, now, effects| {
            machine.set_buffer_room(room);
            machine.begin(target, now, headers, effects)
        })
        .unwrap_or(Segment::None)
    }

    pub(super) fn finish(self: &Rc<Self>, inline: &[u8], arrival: Arrival) {
        self.step(|machine, target, now, effects| {
            machine.finish(target, now, inline, arrival, effects);
        });
    }

    /// Binds a machine that was handed over.
    pub(super) fn bind(self: &Rc<Self>, entry: Option<Rc<TargetEntry>>) {
        let mut followups = VecDeque::new();
        followups.push_back(entry.map_or(Followup::Unbound, Followup::Bound));
        self.follow(followups);
    }

    /// Acts on what another session of the target posted.
    pub(super) fn attend(self: &Rc<Self>) {
        self.step(|machine, target, now, effects| {
            if let Some(target) = target {
                machine.attend(target, now, effects);
            }
        });
    }

    /// Asks the host to log out.
    pub(super) fn shut_down(self: &Rc<Self>) {
        self.step(|machine, target, now, effects| machine.shutdown(target, now, effects));
    }

    /// Time passed.
    pub(super) fn tick(self: &Rc<Self>) {
        if self.gone.get() {
            return;
        }
        self.step(|machine, target, now, effects| machine.tick(target, now, effects));
        let late = self
            .closing
            .get()
            .is_some_and(|since| since.elapsed() > CLOSE_TIME_MAX);
        if late || self.output.is_stalled() {
            if !self.is_closing() {
                warn!(
                    host = self.remote,
                    "the host takes no data any more: cut off"
                );
            }
            self.cut();
        }
    }

    /// Ends the socket at once.
    pub(super) fn cut(&self) {
        self.output.abandon();
        self.ender.end();
    }

    /// The socket is gone: the session ends.
    pub(super) fn on_socket_gone(self: &Rc<Self>) {
        if self.gone.replace(true) {
            return;
        }
        self.closing
            .set(self.closing.get().or_else(|| Some(Instant::now())));
        self.output.end();
        self.step(|machine, target, now, effects| machine.closed(target, now, effects));
        self.tasks.borrow_mut().clear();
        self.forget_if_over();
    }

    fn forget_if_over(&self) {
        let over = self.gone.get() && self.machine.borrow().as_ref().is_none_or(Machine::is_over);
        if over {
            if let Some(entry) = self.target.take() {
                entry.connections.borrow_mut().remove(&self.peer);
            }
            self.service.forget(self.peer);
        }
    }

    fn step<R>(
        self: &Rc<Self>,
        act: impl FnOnce(&mut Machine, Option<&mut Target>, Duration, &mut Vec<Effect>) -> R,
    ) -> Option<R> {
        let mut effects = self.effects.take();
        let result = self.call(&mut effects, act)?;
        let mut followups = VecDeque::new();
        self.perform(&mut effects, &mut followups);
        self.effects.replace(effects);
        if !followups.is_empty() {
            self.follow(followups);
        }
        Some(result)
    }

    /// Feeds answers back until none is left.
    fn follow(self: &Rc<Self>, mut followups: VecDeque<Followup>) {
        let mut effects = self.effects.take();
        while let Some(followup) = followups.pop_front() {
            self.call(
                &mut effects,
                |machine, target, now, effects| match followup {
                    Followup::Completed(task, response) => {
                        let target = target.expect("only bound connections execute");
                        machine.completed(target, now, task, response, effects);
                    }
                    Followup::Listed => {
                        let targets = self.service.directory.borrow().announcements();
                        machine.listed(&targets, now, effects);
                    }
                    Followup::Bound(entry) => {
                        let mut target = entry.target.borrow_mut();
                        machine.bound(Binding::Served(&mut target), now, effects);
                        drop(target);
                        let connections = &mut entry.connections.borrow_mut();
                        connections.insert(self.peer, Rc::downgrade(self));
                        *self.target.borrow_mut() = Some(Rc::clone(&entry));
                    }
                    Followup::Unbound => machine.bound(Binding::Unknown, now, effects),
                },
            );
            self.perform(&mut effects, &mut followups);
        }
        self.effects.replace(effects);
    }

    fn call<R>(
        &self,
        effects: &mut Vec<Effect>,
        act: impl FnOnce(&mut Machine, Option<&mut Target>, Duration, &mut Vec<Effect>) -> R,
    ) -> Option<R> {
        let entry = self.target.borrow().clone();
        let mut machine = self.machine.borrow_mut();
        let machine = machine.as_mut()?;
        Some(match entry {
            Some(entry) => act(
                machine,
                Some(&mut entry.target.borrow_mut()),
                now(),
                effects,
            ),
            None => act(machine, None, now(), effects),
        })
    }

    fn perform(self: &Rc<Self>, effects: &mut Vec<Effect>, followups: &mut VecDeque<Followup>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(outgoing) => self.send(outgoing),
                Effect::StartTask { task, buffer_bytes } => {
                    let share = self.service.write_budget.take(buffer_bytes);
                    let buffer = Buffer::zeroed(buffer_bytes);
                    self.tasks.borrow_mut().start(task, buffer, share);
                }
                Effect::Execute { task, request } => self.execute(task, request, followups),
                // Whatever runs is short; its outcome is dropped by the machine.
                Effect::Abort { .. } => {}
                Effect::EndTask { task } => {
                    for share in self.tasks.borrow_mut().end(task) {
                        self.output.hold(share);
                    }
                }
                Effect::Bind { target_name } => self.route(target_name, followups),
                Effect::ListTargets => followups.push_back(Followup::Listed),
                Effect::Wake { peer } => self.wake(peer),
                Effect::Close { reason } => self.close(reason),
            }
        }
    }

    fn send(&self, outgoing: Outgoing) {
        if self.gone.get() {
            return;
        }
        let Outgoing {
            header,
            data,
            digests,
        } = outgoing;
        match data {
            SendData::None => self.output.push(&header, Data::None, digests),
            SendData::Bytes(bytes) => self.output.push(&header, Data::Bytes(bytes), digests),
            SendData::Task {
                task,
                offset,
                bytes,
            } => {
                let tasks = self.tasks.borrow();
                let rope = tasks
                    .data(task)
                    .expect("a task is sent from before it ends");
                self.output
                    .push(&header, Data::Rope(rope, offset, bytes), digests);
            }
        }
    }

    fn execute(
        self: &Rc<Self>,
        task: TaskTag,
        request: BlockRequest,
        followups: &mut VecDeque<Followup>,
    ) {
        let entry = self.target.borrow().clone();
        let entry = entry.expect("only bound connections execute");
        if let Some(data) = entry.volume.read_cached(&request) {
            let mut tasks = self.tasks.borrow_mut();
            tasks.expect(task);
            tasks.keep(task, data, Vec::new());
            return followups.push_back(Followup::Completed(task, BlockResponse::Done));
        }
        let buffer = {
            let mut tasks = self.tasks.borrow_mut();
            tasks.expect(task);
            tasks.take_buffer(task)
        };
        let bytes = match &request {
            BlockRequest::Read(range) => usize::try_from(range.bytes).unwrap_or(usize::MAX),
            _ => 0,
        };
        if bytes == 0 {
            return self.run(entry, task, request, buffer, Vec::new());
        }
        if self.reads.is_idle() {
            let shares = vec![self.reads.take(bytes), self.service.read_budget.take(bytes)];
            return self.run(entry, task, request, buffer, shares);
        }
        if let Some(own) = self.reads.try_take(bytes)
            && let Some(all) = self.service.read_budget.try_take(bytes)
        {
            return self.run(entry, task, request, buffer, vec![own, all]);
        }
        let conn = Rc::clone(self);
        self.service.waiting.run(async move {
            let own = conn.reads.wait(bytes).await;
            let all = conn.service.read_budget.wait(bytes).await;
            conn.run(entry, task, request, buffer, vec![own, all]);
        });
    }

    fn run(
        self: &Rc<Self>,
        entry: Rc<TargetEntry>,
        task: TaskTag,
        request: BlockRequest,
        buffer: Option<Rc<Buffer>>,
        shares: Vec<Share>,
    ) {
        let conn = Rc::clone(self);
        self.service.commands.run(async move {
            let executed = entry.volume.execute(request, buffer).await;
            conn.tasks.borrow_mut().keep(task, executed.data, shares);
            conn.step(|machine, target, now, effects| {
                let target = target.expect("a connection keeps its target to the end");
                machine.completed(target, now, task, executed.response, effects);
            });
            if conn.gone.get() {
                conn.forget_if_over();
            }
        });
    }

    /// Login named a target: bind it here, or leave the connection to its shard.
    fn route(&self, target_name: String, followups: &mut VecDeque<Followup>) {
        let shard = self.service.directory.borrow().shard_of(&target_name);
        match shard {
            Some(shard) if shard != self.service.shard => {
                *self.elsewhere.borrow_mut() = Some(Elsewhere { shard, target_name });
            }
            _ => {
                let entry = self.service.targets.borrow().get(&target_name).cloned();
                followups.push_back(entry.map_or(Followup::Unbound, Followup::Bound));
            }
        }
    }

    fn wake(&self, peer: PeerId) {
        let Some(entry) = self.target.borrow().clone() else {
            return;
        };
        let other = entry
            .connections
            .borrow()
            .get(&peer)
            .and_then(std::rc::Weak::upgrade);
        if let Some(other) = other {
            // Not at once: this connection is in the middle of its effects.
            self.service.commands.run(async move { other.attend() });
        }
    }

    fn close(&self, reason: CloseReason) {
        match reason {
            CloseReason::Logout | CloseReason::Shutdown => {
                info!(host = self.remote, "connection closed: {reason}");
            }
            CloseReason::LoginRefused(_) | CloseReason::LoginLimit(_) => {
                debug!(host = self.remote, "connection closed: {reason}");
            }
            _ => warn!(host = self.remote, "connection closed: {reason}"),
        }
        self.closing
            .set(self.closing.get().or_else(|| Some(Instant::now())));
        self.output.end();
    }
}
