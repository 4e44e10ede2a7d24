//! What a store's engine wants of its peers, performed: streams, messages, fills, and what goes up to the
//! shard. Hot path where a message is sent or arrives.

use super::driver::StoreDriver;
use super::payload::Held;
use crate::disk::Disk;
use crate::limits::FILLS_IN_FLIGHT_MAX;
use crate::peer::hub::Hub;
use crate::peer::inbox::Incoming;
use crate::peer::stream::{Dialer, Owner, Stream};
use crate::runtime::local::{Receiver, Sender, once};
use crate::runtime::slots::Slots;
use crate::volume::range_lock::Held as HeldRange;
use crate::volume::rope::{Piece, Rope, Source};
use crate::volume::{Fault, Volume};
use holdfast_core::block::{BlockRange, StoreOffset};
use holdfast_core::cluster::set::Durability;
use holdfast_core::engine::{Effect, Event, Fenced, FillId, Opened, PayloadRef, Role, StreamId};
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::limits::{BLOCK_BYTES, LEASE, LEASE_MARGIN};
use holdfast_core::lsn::{Epoch, Lsn};
use holdfast_core::peer::Message;
use holdfast_core::peer::wire::first_bad_block;
use holdfast_core::store::{PayloadSlice, RequestError, Tag};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use tracing::{error, warn};

/// What the engine decided and the shard passes on.
#[derive(Debug)]
pub(crate) enum Upcall {
    /// A primary wants another in-sync set registered.
    Propose(Proposal),
    /// A copy is something else now.
    RoleChanged(VolumeId, Role),
}

/// Another in-sync set.
#[derive(Debug)]
pub(crate) struct Proposal {
    /// Whose.
    pub(crate) volume: VolumeId,
    /// The primary's reign.
    pub(crate) epoch: Epoch,
    /// The set that it replaces.
    pub(crate) set_version: u64,
    /// The set.
    pub(crate) in_sync: Vec<StoreId>,
    /// The mode by which it commits alone, once all of the set have everything committed.
    pub(crate) settled: Option<Durability>,
    /// For people.
    pub(crate) reason: String,
}

type PassUp = Box<dyn Fn(Upcall)>;

/// The peers' side of a driver.
pub(super) struct Peers<D> {
    hub: Rc<Hub>,
    streams: RefCell<HashMap<StreamId, Rc<Stream>>>,
    dialers: RefCell<HashMap<StoreId, Rc<Dialer>>>,
    volumes: RefCell<HashMap<VolumeId, Weak<Volume<D>>>>,
    fences: RefCell<HashMap<Tag, Sender<Fenced>>>,
    fills: Slots,
    /// Ranges whose blocks were read for a peer in this turn.
    pub(super) fill_ranges: RefCell<Vec<HeldRange>>,
    upcall: RefCell<Option<PassUp>>,
}

impl<D> Peers<D> {
    pub(super) fn new(hub: Rc<Hub>) -> Self {
        Peers {
            hub,
            streams: RefCell::default(),
            dialers: RefCell::default(),
            volumes: RefCell::default(),
            fences: RefCell::default(),
            fills: Slots::new(FILLS_IN_FLIGHT_MAX),
            fill_ranges: RefCell::default(),
            upcall: RefCell::default(),
        }
    }
}

impl<D: Disk> StoreDriver<D> {
    /// Says where decisions for the shard go. The call is made inside a step and only passes on.
    pub(crate) fn set_upcall(&self, upcall: impl Fn(Upcall) + 'static) {
        *self.peers.upcall.borrow_mut() = Some(Box::new(upcall));
    }

    /// Learns of a volume that is served from here.
    pub(crate) fn attend(&self, volume: &Rc<Volume<D>>) {
        let mut volumes = self.peers.volumes.borrow_mut();
        volumes.retain(|_, known| known.strong_count() > 0);
        volumes.insert(volume.id(), Rc::downgrade(volume));
    }

    /// Something happened to a shared volume.
    pub(crate) fn tell(&self, event: Event) {
        self.submit(event);
    }

    /// Fences a copy.
    pub(crate) fn fence(&self, volume: VolumeId, epoch: Epoch) -> Receiver<Fenced> {
        let (sender, receiver) = once();
        let tag = self.bare_request();
        self.peers.fences.borrow_mut().insert(tag, sender);
        self.submit(Event::Fence { tag, volume, epoch });
        receiver
    }

    /// A fence ended without an answer: there is no such copy, or its store failed.
    pub(super) fn fence_failed(&self, tag: Tag, result: Result<(), RequestError>) {
        let Some(sender) = self.peers.fences.borrow_mut().remove(&tag) else {
            return;
        };
        let reason = result.map_or_else(|error| error.to_string(), |()| String::new());
        sender.send(Fenced {
            ok: false,
            epoch: Epoch(0),
            last_epoch: Epoch(0),
            last: Lsn(0),
            committed: Lsn(0),
            resyncing: false,
            lease_left: LEASE + LEASE_MARGIN,
            reason,
        });
    }

    /// Cuts all streams at once, as if the network did.
    #[cfg(test)]
    pub(super) fn hang_up(&self) {
        for stream in self.peers.streams.borrow().values() {
            stream.cut();
        }
    }

    /// Performs an effect that the store alone does not have.
    pub(super) fn perform_for_peers(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Store(_) => unreachable!("performed by the driver itself"),
            Effect::Send {
                stream,
                message,
                payload,
            } => self.send(stream, &message, payload),
            Effect::OpenStream { to, address } => self.open_stream(to, &address),
            Effect::CloseStream { to } => {
                if let Some(dialer) = self.peers.dialers.borrow_mut().remove(&to) {
                    dialer.close();
                }
            }
            Effect::ReadFill { id, volume, range } => self.read_fill(id, volume, range),
            Effect::ReadBlocks { id, volume, range } => self.read_for_primary(id, volume, range),
            Effect::Healed { id, result } => self.healed(id, result),
            Effect::Propose {
                volume,
                epoch,
                set_version,
                in_sync,
                settled,
                reason,
            } => self.pass_up(Upcall::Propose(Proposal {
                volume,
                epoch,
                set_version,
                in_sync,
                settled,
                reason,
            })),
            Effect::Fenced { tag, answer } => {
                self.forget_request(tag);
                let sender = self.peers.fences.borrow_mut().remove(&tag);
                sender
                    .expect("the engine answers each fence once")
                    .send(answer);
            }
            Effect::RoleChanged { volume, role } => self.role_changed(volume, role),
        }
    }

    fn role_changed(&self, id: VolumeId, role: Role) {
        if let Some(volume) = self.volume(id) {
            volume.role_changed(role);
        }
        self.pass_up(Upcall::RoleChanged(id, role));
    }

    fn pass_up(&self, upcall: Upcall) {
        if let Some(pass) = &*self.peers.upcall.borrow() {
            pass(upcall);
        }
    }

    /// A volume that is served from here.
    pub(super) fn volume(&self, id: VolumeId) -> Option<Rc<Volume<D>>> {
        self.peers.volumes.borrow().get(&id)?.upgrade()
    }

    fn open_stream(self: &Rc<Self>, to: StoreId, address: &str) {
        let Ok(address) = address.parse() else {
            return warn!(store = %self.name(), peer = %to, "`{address}` is no address of a peer");
        };
        let mut dialers = self.peers.dialers.borrow_mut();
        let known = dialers.get(&to).map(|dialer| dialer.address());
        if known == Some(address) {
            return;
        }
        let dialer = Dialer::start(&self.peers.hub, self, to, address);
        if let Some(former) = dialers.insert(to, dialer) {
            former.close();
        }
    }

    /// Queues a message. To a stream that is gone nothing is sent: its end was told.
    fn send(self: &Rc<Self>, id: StreamId, message: &Message, payload: Option<PayloadRef>) {
        let Some(stream) = self.peers.streams.borrow().get(&id).cloned() else {
            return;
        };
        match payload {
            None => stream.send(message, &[]),
            Some(PayloadRef::Slice(slice)) => self.send_slice(&stream, message, slice),
            Some(PayloadRef::Stored(place)) => self.send_stored(&stream, message, place),
        }
    }

    fn send_slice(&self, stream: &Stream, message: &Message, slice: PayloadSlice) {
        let payloads = self.payloads.borrow();
        let held = payloads.get(slice.payload.0);
        let held = held.expect("a payload is held until its release");
        // The usual case has one piece; only what was read from several places has more.
        let mut first: Option<Piece> = None;
        let mut more: Vec<Piece> = Vec::new();
        held.pieces(slice, |piece| match &first {
            None => first = Some(piece),
            Some(_) => more.push(piece),
        });
        match (&first, more.is_empty()) {
            (Some(only), true) => stream.send(message, std::slice::from_ref(only)),
            _ => {
                let pieces: Vec<Piece> = first.into_iter().chain(more).collect();
                stream.send(message, &pieces);
            }
        }
    }

    /// Sends blocks that have to be read first. They may be gone when they are read: then the stream
    /// ends, and the peer catches up on the next one.
    fn send_stored(self: &Rc<Self>, stream: &Rc<Stream>, message: &Message, place: StoreOffset) {
        let waiting = stream.send_awaiting(message);
        let (driver, stream, message) = (Rc::clone(self), Rc::clone(stream), message.clone());
        self.reads.run(async move {
            let bytes = message.payload_checksums().len() * BLOCK_BYTES;
            let data = match driver.disk().read(place, bytes).await {
                Ok(data) => data,
                Err(error) => {
                    driver.failure_of("read", Some(place), &error);
                    return stream.cut();
                }
            };
            if first_bad_block(&message, &data).is_some() {
                warn!(store = %driver.name(), %place, "a record to be sent again is not there any more");
                return stream.cut();
            }
            let mut rope = Rope::default();
            rope.push(Source::Read(data), 0, bytes);
            stream.fill(&waiting, rope);
        });
    }

    /// Reads committed blocks for a peer. Writes to them wait until they are queued to it, so that
    /// what is written later is sent later.
    fn read_fill(self: &Rc<Self>, id: FillId, volume: VolumeId, range: BlockRange) {
        let Some(volume) = self.volume(volume) else {
            return self.submit(Event::FillRead {
                id,
                result: Err(RequestError::NotFound),
            });
        };
        let driver = Rc::clone(self);
        self.peers.fills.run(async move {
            let result = match volume.read_for_peer(range).await {
                Ok((held, rope)) => {
                    driver.peers.fill_ranges.borrow_mut().push(held);
                    Ok(rope.map(|rope| driver.hold(Held::Fill(rope))))
                }
                Err(Fault::Store(error)) => Err(error),
                Err(Fault::Busy) => Err(RequestError::Busy),
                Err(fault) => {
                    error!(store = %driver.name(), ?fault, "blocks for a peer cannot be read");
                    Err(RequestError::StoreFailed)
                }
            };
            driver.submit(Event::FillRead { id, result });
        });
    }
}

impl<D: Disk> Owner for StoreDriver<D> {
    fn store(&self) -> StoreId {
        self.id()
    }

    fn on_up(self: &Rc<Self>, stream: &Rc<Stream>) {
        let mut streams = self.peers.streams.borrow_mut();
        // A peer that opens another stream has given up the one before.
        let former = streams.values().find(|other| {
            let same = other.remote == stream.remote && other.opened == stream.opened;
            same && stream.opened == Opened::There
        });
        if let Some(former) = former.map(|former| former.id) {
            let former = streams.remove(&former).expect("found just above");
            former.cut();
            self.submit(Event::StreamDown { stream: former.id });
        }
        streams.insert(stream.id, Rc::clone(stream));
        drop(streams);
        self.submit(Event::StreamUp {
            stream: stream.id,
            store: stream.remote,
            opened: stream.opened,
        });
    }

    fn on_message(self: &Rc<Self>, stream: &Rc<Stream>, incoming: Incoming) {
        if !self.peers.streams.borrow().contains_key(&stream.id) {
            return;
        }
        let payload = incoming
            .payload
            .map(|arrived| self.hold(Held::arrived(arrived)));
        self.submit(Event::Peer {
            stream: stream.id,
            message: incoming.message,
            payload,
        });
    }

    fn on_down(self: &Rc<Self>, stream: &Rc<Stream>) {
        if self.peers.streams.borrow_mut().remove(&stream.id).is_some() {
            self.submit(Event::StreamDown { stream: stream.id });
        }
    }
}
