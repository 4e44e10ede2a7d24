//! The machine: one store and its replication machines. See the module head of [`crate::engine`].
//!
//! Events become events of the store or of a replication machine; what the machines want becomes events
//! of the store again, until nothing is left. Hot path for volumes with one copy: one test per request
//! and one move per effect.

mod act;
mod view;

use self::view::View;
use super::status::Status;
use super::{Assignment, Effect, Event, HealId, NotHealed, Opened, Role, Serve, StreamId};
use crate::id::{StoreId, VolumeId};
use crate::limits::{HEARTBEAT, PEER_SILENCE};
use crate::peer::{Body, DetachReason, Message};
use crate::replication::defect::Planted;
use crate::replication::replica::Replica;
use crate::replication::streams::Streams;
use crate::replication::{Action, Answer, Scope};
use crate::store::append::Sharing;
use crate::store::machine::Store;
use crate::store::{self, PayloadId, RequestError, Tag};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// An open store and what is replicated of it.
#[derive(Debug)]
pub struct Engine {
    store: Box<Store>,
    replicas: BTreeMap<VolumeId, Entry>,
    /// Volumes by the key that their tags carry.
    keys: BTreeMap<u32, VolumeId>,
    next_key: u32,
    streams: Streams,
    /// Streams that are kept open.
    open: BTreeMap<StoreId, String>,
    members_changed: bool,
    next_fill: u64,
    now: Duration,
    last_tick: Option<Duration>,
    next_heartbeat: Duration,
    failed: bool,
    defect: Planted,
    /// For the store, in order.
    queue: Vec<store::Event>,
    store_effects: Vec<store::Effect>,
    actions: Vec<Action>,
}

/// A shared volume.
#[derive(Debug)]
struct Entry {
    key: u32,
    replica: Replica,
}

impl Engine {
    /// Takes over an opened store at `now`. Its shared volumes are fenced.
    pub fn new(now: Duration, store: Box<Store>) -> Self {
        let mut engine = Engine {
            store,
            replicas: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_key: 0,
            streams: Streams::default(),
            open: BTreeMap::new(),
            members_changed: false,
            next_fill: 0,
            now,
            last_tick: None,
            next_heartbeat: now,
            failed: false,
            defect: Planted::default(),
            queue: Vec::new(),
            store_effects: Vec::new(),
            actions: Vec::new(),
        };
        let own = engine.store.id();
        let volumes: Vec<store::VolumeInfo> = engine.store.volumes().collect();
        for info in volumes {
            if info.sharing == Sharing::Shared {
                engine.insert(info.id, Replica::new(now, own, info.appended));
            }
        }
        engine
    }

    /// Plants a defect.
    #[cfg(any(test, feature = "testing"))]
    pub fn plant(&mut self, defect: crate::replication::defect::Defect) {
        self.defect = Planted::one(defect);
    }

    /// The store, to be asked.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Decides what follows from several events that came together. `now` is monotonic, from any start.
    pub fn step_all(
        &mut self,
        now: Duration,
        events: impl IntoIterator<Item = Event>,
        effects: &mut Vec<Effect>,
    ) {
        self.now = self.now.max(now);
        for event in events {
            self.on_event(event, effects);
        }
        loop {
            let mut inner = core::mem::take(&mut self.store_effects);
            self.store
                .step_all(self.now, self.queue.drain(..), &mut inner);
            for effect in inner.drain(..) {
                self.on_store_effect(effect, effects);
            }
            self.store_effects = inner;
            if self.queue.is_empty() {
                break;
            }
        }
        self.keep_streams(effects);
    }

    /// Whether hosts are served from this store's copy at `now`. To be asked *after* data was fetched.
    pub fn may_serve(&self, volume: VolumeId, now: Duration) -> Serve {
        let Some(info) = self.store.volume(volume) else {
            return Serve::No("no such volume");
        };
        let Some(entry) = self.replicas.get(&volume) else {
            // Without its machine nobody knows whether a shared copy is the newest.
            return match info.sharing {
                Sharing::Alone => Serve::Yes,
                Sharing::Shared => Serve::No("the copy is being removed"),
            };
        };
        let committed = info.committed;
        entry
            .replica
            .may_serve(now, committed, &self.streams, self.defect)
    }

    /// What a shared volume's copy tells about itself at `now`.
    pub fn status(&self, volume: VolumeId, now: Duration) -> Option<Status> {
        let entry = self.replicas.get(&volume)?;
        let info = self.store.volume(volume)?;
        let serve = self.may_serve(volume, now);
        Some(entry.replica.status(now, &info, serve, &self.streams))
    }

    fn on_event(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Store(event) => self.on_request(event, effects),
            Event::Peer {
                stream,
                message,
                payload,
            } => self.on_peer(stream, message, payload, effects),
            Event::StreamUp {
                stream,
                store,
                opened,
            } => self.on_stream_up(stream, store, opened, effects),
            Event::StreamDown { stream } => self.on_stream_down(stream, effects),
            Event::Assign { tag, assignment } => self.on_assign(tag, &assignment, effects),
            Event::Fence { tag, volume, epoch } => {
                let known = self.with(volume, effects, |replica, scope| {
                    replica.on_fence(tag, epoch, scope);
                });
                if known.is_none() {
                    let answer = view::unknown_to_fence();
                    effects.push(Effect::Fenced { tag, answer });
                }
            }
            Event::ProposalAnswered {
                volume,
                accepted,
                epoch,
                set_version,
                in_sync,
            } => {
                self.with(volume, effects, |replica, scope| {
                    replica.on_answer(
                        Answer {
                            accepted,
                            epoch,
                            set_version,
                            in_sync,
                        },
                        scope,
                    );
                });
            }
            Event::FillRead { id, result } => {
                self.for_all(effects, |replica, scope| {
                    replica.on_fill_read(id, result, scope);
                });
                let payload = result.ok().flatten();
                effects.extend(payload.map(release));
            }
            Event::Heal {
                id,
                volume,
                block,
                checksum,
            } => {
                let known = self.with(volume, effects, |replica, scope| {
                    replica.on_heal(id, block, checksum, scope);
                });
                effects.extend(known.is_none().then(|| not_healed(id)));
            }
            Event::BlocksRead { id, found } => {
                self.for_all(effects, |replica, scope| {
                    replica.on_blocks_read(id, found.as_ref(), scope);
                });
                effects.extend(found.map(|found| release(found.payload)));
            }
        }
    }

    /// An event of the store. Those of hosts on a shared volume are for its primary only.
    fn on_request(&mut self, event: store::Event, effects: &mut Vec<Effect>) {
        if !self.replicas.is_empty() {
            match &event {
                store::Event::Tick => self.on_tick(effects),
                store::Event::RemoveVolume { id, .. } => self.on_remove(*id, effects),
                _ => {}
            }
            if let Some((volume, tag, payload)) = view::of_host(&event)
                && let Some(entry) = self.replicas.get(&volume)
                && !entry.replica.takes_requests()
            {
                effects.extend(payload.map(release));
                effects.push(complete(tag, Err(RequestError::StaleEpoch)));
                return;
            }
        }
        self.queue.push(event);
    }

    fn on_peer(
        &mut self,
        stream: StreamId,
        message: Message,
        payload: Option<PayloadId>,
        effects: &mut Vec<Effect>,
    ) {
        self.streams.hear(self.now, stream);
        let unused = match message {
            Message::Volume {
                volume,
                epoch,
                body,
            } => self.on_volume_message(stream, volume, epoch, body, payload, effects),
            Message::Heartbeat { seq } => {
                // A store that failed grants nothing: its volumes are better served elsewhere.
                if !self.failed {
                    self.streams.grant(self.now, stream);
                    let message = Message::HeartbeatAck { seq };
                    effects.push(send(stream, message));
                }
                payload
            }
            Message::HeartbeatAck { seq } => {
                self.streams.on_grant(stream, seq, self.now, self.defect);
                self.for_all(effects, Replica::on_grant);
                payload
            }
            Message::Hello(_) | Message::Welcome { .. } | Message::Refused(_) => payload,
        };
        effects.extend(unused.map(release));
    }

    fn on_volume_message(
        &mut self,
        stream: StreamId,
        volume: VolumeId,
        epoch: crate::lsn::Epoch,
        body: Body,
        payload: Option<PayloadId>,
        effects: &mut Vec<Effect>,
    ) -> Option<PayloadId> {
        let attaches = body == Body::Attach;
        let known = self.with(volume, effects, |replica, scope| {
            replica.on_message(stream, epoch, body, payload, scope)
        });
        if known.is_none() && attaches {
            let body = Body::Detach(DetachReason::NotFound);
            let message = Message::Volume {
                volume,
                epoch,
                body,
            };
            effects.push(send(stream, message));
        }
        known.unwrap_or(payload)
    }

    fn on_stream_up(
        &mut self,
        stream: StreamId,
        store: StoreId,
        opened: Opened,
        effects: &mut Vec<Effect>,
    ) {
        self.streams.up(self.now, stream, store, opened);
        if opened == Opened::Here {
            self.heartbeat(stream, effects);
            self.for_all(effects, |replica, scope| {
                replica.on_stream_up(stream, store, scope);
            });
        }
    }

    fn on_stream_down(&mut self, stream: StreamId, effects: &mut Vec<Effect>) {
        if let Some(ended) = self.streams.down(stream) {
            self.for_all(effects, |replica, scope| {
                replica.on_stream_down(stream, &ended, scope);
            });
        }
    }

    fn on_assign(&mut self, tag: Tag, assignment: &Assignment, effects: &mut Vec<Effect>) {
        let volume = assignment.volume;
        let Some(info) = self.store.volume(volume) else {
            effects.push(complete(tag, Err(RequestError::NotFound)));
            return;
        };
        if !self.replicas.contains_key(&volume) {
            if assignment.role == Role::Alone && info.sharing == Sharing::Alone {
                self.queue.push(store::Event::BeginEpoch {
                    tag,
                    volume,
                    epoch: assignment.epoch,
                    sharing: Sharing::Alone,
                });
                return;
            }
            // Another way of sharing is another reign, so this is of the time before it was alone.
            if info.sharing == Sharing::Alone && assignment.epoch <= info.epoch {
                effects.push(complete(tag, Err(RequestError::StaleEpoch)));
                return;
            }
            let replica = Replica::fresh(self.store.id(), info.appended);
            self.insert(volume, replica);
        }
        self.with(volume, effects, |replica, scope| {
            replica.on_assigned(tag, assignment, scope);
        });
    }

    fn on_remove(&mut self, volume: VolumeId, effects: &mut Vec<Effect>) {
        self.with(volume, effects, Replica::on_removed);
        if let Some(entry) = self.replicas.remove(&volume) {
            self.keys.remove(&entry.key);
            self.members_changed = true;
        }
    }

    fn on_tick(&mut self, effects: &mut Vec<Effect>) {
        let gap = self
            .last_tick
            .map_or(Duration::ZERO, |last| self.now.saturating_sub(last));
        self.last_tick = Some(self.now);
        if gap > PEER_SILENCE / 2 {
            self.streams.forgive(self.now);
        }
        if self.now >= self.next_heartbeat {
            self.next_heartbeat = self.now + HEARTBEAT;
            for stream in self.streams.ours() {
                self.heartbeat(stream, effects);
            }
        }
        self.for_all(effects, Replica::on_tick);
    }

    fn heartbeat(&mut self, stream: StreamId, effects: &mut Vec<Effect>) {
        if let Some(seq) = self.streams.heartbeat(self.now, stream) {
            effects.push(send(stream, Message::Heartbeat { seq }));
        }
    }

    fn insert(&mut self, volume: VolumeId, replica: Replica) {
        let key = self.next_key;
        self.next_key += 1;
        self.keys.insert(key, volume);
        self.replicas.insert(volume, Entry { key, replica });
    }

    fn for_all(&mut self, effects: &mut Vec<Effect>, each: impl Fn(&mut Replica, &mut Scope<'_>)) {
        let volumes: Vec<VolumeId> = self.replicas.keys().copied().collect();
        for volume in volumes {
            self.with(volume, effects, |replica, scope| each(replica, scope));
        }
    }

    /// Lets a volume's machine decide, and does what it wants. `None`: no such shared volume.
    fn with<R>(
        &mut self,
        volume: VolumeId,
        effects: &mut Vec<Effect>,
        decide: impl FnOnce(&mut Replica, &mut Scope<'_>) -> R,
    ) -> Option<R> {
        let entry = self.replicas.get_mut(&volume)?;
        let view = View::of(&self.store, volume)?;
        let mut actions = core::mem::take(&mut self.actions);
        let mut scope = Scope {
            now: self.now,
            copy: &view,
            streams: &self.streams,
            out: &mut actions,
            next_fill: &mut self.next_fill,
            defect: self.defect,
        };
        let result = decide(&mut entry.replica, &mut scope);
        for action in actions.drain(..) {
            self.act(volume, action, effects);
        }
        self.actions = actions;
        Some(result)
    }

    /// Opens the streams that primaries want, closes the others.
    fn keep_streams(&mut self, effects: &mut Vec<Effect>) {
        if !core::mem::take(&mut self.members_changed) {
            return;
        }
        let mut wanted: BTreeMap<StoreId, String> = BTreeMap::new();
        for entry in self.replicas.values() {
            for member in entry.replica.wants_streams() {
                wanted.insert(member.replica, member.address.clone());
            }
        }
        for (to, address) in &wanted {
            if self.open.get(to) != Some(address) {
                effects.push(Effect::OpenStream {
                    to: *to,
                    address: address.clone(),
                });
            }
        }
        for to in self.open.keys().filter(|to| !wanted.contains_key(to)) {
            effects.push(Effect::CloseStream { to: *to });
        }
        self.open = wanted;
    }
}

fn send(stream: StreamId, message: Message) -> Effect {
    Effect::Send {
        stream,
        message,
        payload: None,
    }
}

fn not_healed(id: HealId) -> Effect {
    let result = Err(NotHealed::NoCopy);
    Effect::Healed { id, result }
}

fn release(payload: PayloadId) -> Effect {
    Effect::Store(store::Effect::Release { payload })
}

fn complete(tag: Tag, result: Result<(), RequestError>) -> Effect {
    Effect::Store(store::Effect::Complete { tag, result })
}

#[cfg(test)]
mod tests;
