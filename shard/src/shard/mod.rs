//! One shard: the stores, volumes and connections of one executor, and what the agent asks of them.
//!
//! Shards share nothing; they send. Requests of the agent are carried out one after the other, host
//! commands side by side. A store that fails takes its own volumes out of service and nothing else.

pub(crate) mod assign;
mod peers;
mod replicas;
mod report;
mod stores;

use crate::args::Args;
use crate::disk::file::FileDisk;
use crate::limits::{ASIDE_IN_FLIGHT_MAX, MEMORY_FALL_BYTES, PEER_QUEUED_BYTES_MAX};
use crate::messages::{Coordinator, ShardSender, ToCoordinator, ToShard};
use crate::net::service::Service;
use crate::peer::hub::Hub;
use crate::runtime::local::Bell;
use crate::runtime::mailbox::Receiver;
use crate::runtime::memory::Ebb;
use crate::runtime::slots::Slots;
use crate::runtime::task;
use crate::store::driver::StoreDriver;
use crate::volume::Volume;
use crate::volume::cache::Cache;
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::link::Assignment;
use holdfast_core::store::Event;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tracing::{error, info};

/// Time between two ticks of the machines.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Ticks between two reports.
const TICKS_PER_REPORT: u32 = 20;

/// What a shard is started with.
#[derive(Debug)]
pub(crate) struct Start {
    /// Which shard.
    pub(crate) index: usize,
    /// Its stores.
    pub(crate) stores: Vec<PathBuf>,
    /// Bytes of its read cache.
    pub(crate) cache_bytes: u64,
    /// Bytes of task buffers of its connections.
    pub(crate) transfer_bytes: u64,
    /// Files that the process may open.
    pub(crate) open_files: u64,
    /// Addresses that discovery tells hosts.
    pub(crate) portals: Vec<String>,
    /// Its messages.
    pub(crate) inbox: Receiver<ToShard>,
    /// All shards.
    pub(crate) shards: Vec<ShardSender>,
    /// Where to accept streams of peers.
    pub(crate) peer_listener: Option<OwnedFd>,
    /// The address to open streams to peers from.
    pub(crate) peer_from: Option<IpAddr>,
    /// The coordinator.
    pub(crate) coordinator: Coordinator,
}

/// A store and whether it serves.
enum StoreState {
    /// It does, unless its driver says that it failed.
    Open(Rc<StoreDriver<FileDisk>>),
    /// It never did.
    Refused(String),
}

struct StoreEntry {
    path: PathBuf,
    state: StoreState,
}

/// Why a volume whose attributes blob is damaged is not served: a host could write past a reservation
/// that another one was promised.
pub(crate) const ATTRIBUTES_LOST: &str =
    "its stored persistent reservations are damaged; restore the store or delete the volume";

/// A volume of one of the stores.
pub(crate) struct VolumeEntry {
    /// Executes its commands.
    pub(crate) volume: Rc<Volume<FileDisk>>,
    /// How it is served; `None` until the agent said so.
    pub(crate) assignment: RefCell<Option<Assignment>>,
}

/// The shard.
pub(crate) struct Shard {
    index: usize,
    stores: Vec<StoreEntry>,
    volumes: RefCell<HashMap<VolumeId, Rc<VolumeEntry>>>,
    /// Runs the agent's requests, one at a time.
    requests: Slots,
    /// Runs what the agent's other requests do not wait for.
    aside: Slots,
    /// Whether something changed that the agent should hear before the next second.
    report_soon: Cell<bool>,
    /// Connections and targets.
    pub(crate) service: Service,
    /// Streams to and from peers.
    hub: Rc<Hub>,
    shards: RefCell<Vec<ShardSender>>,
    /// Which shard has which store; known to the accepting shard.
    peer_stores: RefCell<HashMap<StoreId, usize>>,
    coordinator: Coordinator,
    drain: Bell,
    draining: Cell<bool>,
}

/// Runs a shard to its end.
pub(crate) async fn run(start: Start, listeners: Vec<OwnedFd>) {
    let cache = Rc::new(RefCell::new(Cache::new(start.cache_bytes)));
    // What hosts have in flight may wait for a peer as a whole; beside it, what follows them.
    let in_flight = usize::try_from(start.transfer_bytes / 2).unwrap_or(usize::MAX);
    let hub = Hub::new(start.peer_from, in_flight + PEER_QUEUED_BYTES_MAX);
    let stores = stores::open_all(&start.stores, &cache, &hub).await;
    let shard = Rc::new(Shard {
        index: start.index,
        volumes: RefCell::default(),
        stores,
        requests: Slots::new(1),
        aside: Slots::new(ASIDE_IN_FLIGHT_MAX),
        report_soon: Cell::new(false),
        service: Service::new(
            start.index,
            start.shards.clone(),
            start.transfer_bytes,
            start.open_files,
            start.portals,
        ),
        hub,
        shards: RefCell::new(start.shards),
        peer_stores: RefCell::default(),
        coordinator: start.coordinator,
        drain: Bell::default(),
        draining: Cell::new(false),
    });
    shard.hear_stores();
    shard.find_volumes();
    shard.send_report();
    task::spawn(take_messages(Rc::clone(&shard), start.inbox));
    task::spawn(tick(Rc::clone(&shard)));
    for listener in listeners {
        shard.service.listen(listener);
    }
    shard.announce_stores();
    if let Some(listener) = start.peer_listener {
        shard.listen_for_peers(listener);
    }
    shard.drain.rung().await;
    shard.end().await;
}

async fn take_messages(shard: Rc<Shard>, mut inbox: Receiver<ToShard>) {
    while let Some(message) = inbox.receive().await {
        shard.on_message(message);
    }
}

async fn tick(shard: Rc<Shard>) {
    let mut ticks = 0;
    let mut ebb = Ebb::default();
    loop {
        task::sleep(TICK).await;
        ticks += 1;
        for driver in shard.open_stores() {
            driver.tick();
        }
        shard.hub.tick();
        shard.service.tick();
        if ticks % TICKS_PER_REPORT == 0 || shard.report_soon.take() {
            shard.send_report();
            if ebb.observe(shard.service.take_memory_peak(), MEMORY_FALL_BYTES) {
                shard.coordinator.send(ToCoordinator::MemoryFreed);
            }
        }
    }
}

impl VolumeEntry {
    /// Why this volume cannot be served though its store can.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        let info = self.volume.store().machine().volume(self.volume.id());
        info.is_some_and(|info| info.attributes_lost)
            .then_some(ATTRIBUTES_LOST)
    }
}

impl Shard {
    fn on_message(self: &Rc<Self>, message: ToShard) {
        match message {
            ToShard::Assign(id, assignment) => {
                let shard = Rc::clone(self);
                self.requests.run(async move {
                    let reply = shard.assign(*assignment).await;
                    shard.reply(id, reply);
                });
            }
            ToShard::Remove(id, volume) => {
                let shard = Rc::clone(self);
                self.requests.run(async move {
                    let reply = shard.remove(volume).await;
                    shard.reply(id, reply);
                });
            }
            ToShard::Fence(id, fence) => self.fence(id, &fence),
            ToShard::ProposalAnswer(answer) => self.on_proposal_answer(&answer),
            ToShard::Identity(identity) => self.hub.set_identity(identity),
            ToShard::PeerStores(shard, stores) => self.learn_stores(shard, stores),
            ToShard::PeerStream(accepted) => self.answer_peer(*accepted),
            ToShard::Connection(handover) => self.service.take_over(*handover),
            ToShard::Announce(announcement) => self.service.on_announcement(announcement),
            ToShard::Drain => {
                if !self.draining.replace(true) {
                    self.drain.ring();
                }
            }
        }
    }

    fn reply(&self, id: u64, reply: holdfast_core::link::Reply) {
        self.send_report();
        self.coordinator.send(ToCoordinator::Reply(id, reply));
    }

    fn open_stores(&self) -> impl Iterator<Item = &Rc<StoreDriver<FileDisk>>> {
        self.stores.iter().filter_map(|entry| match &entry.state {
            StoreState::Open(driver) => Some(driver),
            StoreState::Refused(_) => None,
        })
    }

    fn store(&self, id: StoreId) -> Option<&Rc<StoreDriver<FileDisk>>> {
        self.open_stores().find(|driver| driver.id() == id)
    }

    /// Makes an entry for each volume that the stores hold.
    fn find_volumes(&self) {
        for driver in self.open_stores() {
            let ids: Vec<VolumeId> = driver.machine().volumes().map(|info| info.id).collect();
            for id in ids {
                let entry = self.add_volume(id, driver);
                if let Some(reason) = entry.refusal() {
                    error!(store = driver.name(), volume = %id, reason, "the volume is not served");
                }
            }
        }
    }

    fn add_volume(&self, id: VolumeId, driver: &Rc<StoreDriver<FileDisk>>) -> Rc<VolumeEntry> {
        let entry = Rc::new(VolumeEntry {
            volume: Volume::new(id, Rc::clone(driver)),
            assignment: RefCell::default(),
        });
        self.volumes.borrow_mut().insert(id, Rc::clone(&entry));
        entry
    }

    /// The orderly end: hosts out, commands done, everything in the chunks. The files close with the process.
    async fn end(self: &Rc<Self>) {
        self.service.log_out_all().await;
        self.requests.drained().await;
        for driver in self.open_stores() {
            let checkpoint = driver.ask(|tag| Event::Checkpoint { tag });
            match checkpoint.receive().await {
                Ok(()) => info!(store = driver.name(), "checkpoint done, store closed"),
                Err(failure) => error!(store = driver.name(), "no checkpoint: {failure}"),
            }
            driver.settled().await;
        }
        self.coordinator.send(ToCoordinator::Drained(self.index));
    }
}

/// Deals the stores out to `shards` shards.
pub(crate) fn deal(args: &Args, shards: usize) -> Vec<Vec<PathBuf>> {
    let mut dealt = vec![Vec::new(); shards];
    for (index, path) in args.store.iter().enumerate() {
        dealt[index % shards].push(path.clone());
    }
    dealt
}
