//! Two and three stores in one process, joined by real sockets: a cluster without its control plane.
//!
//! The rig plays the masters: it assigns roles, grants every proposal, and fences before it promotes.

mod failover;
mod heal;
mod replicate;

use super::driver::StoreDriver;
use super::open::open;
use super::peers::{Proposal, Upcall};
use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;
use crate::peer::accept::accept;
use crate::peer::hub::{Hub, Identity};
use crate::peer::stream::{Accepted, answer};
use crate::runtime::buffer::Buffer;
use crate::runtime::socket::{listen, local_address};
use crate::runtime::task;
use crate::volume::Volume;
use crate::volume::cache::Cache;
use holdfast_core::block::{Block, BlockRange};
use holdfast_core::cluster::set::Durability;
use holdfast_core::engine::status::{CopyState, Status};
use holdfast_core::engine::{Assignment, Event, Fenced, Member, Role};
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::lsn::Epoch;
use holdfast_core::peer::Refusal;
use holdfast_core::store;
use holdfast_core::store::append::Sharing;
use holdfast_core::store::format::format;
use holdfast_iscsi::request::{BlockRequest, BlockResponse, ByteRange};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const VOLUME: VolumeId = VolumeId([7; 16]);
const VOLUME_BLOCKS: u64 = 4096;
const STORE_BYTES: usize = 128 << 20;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One process.
struct Node {
    index: u8,
    disk: MemoryDisk,
    hub: Rc<Hub>,
    address: SocketAddr,
    /// Whether it answers peers; one that is off is as good as dead for them.
    on: Rc<Cell<bool>>,
    driver: Rc<StoreDriver<MemoryDisk>>,
    volume: Rc<Volume<MemoryDisk>>,
    proposals: Rc<RefCell<Vec<Proposal>>>,
}

/// What the masters know of the volume.
struct Registry {
    epoch: u64,
    set_version: u64,
    primary: u8,
    in_sync: Vec<StoreId>,
    durability: Durability,
}

/// All nodes.
struct Cluster {
    nodes: RefCell<Vec<Option<Rc<Node>>>>,
    addresses: RefCell<Vec<SocketAddr>>,
    registry: RefCell<Registry>,
}

fn store_id(index: u8) -> StoreId {
    StoreId([index + 1; 16])
}

impl Node {
    /// Opens what is on `disk` and listens.
    async fn start(index: u8, disk: MemoryDisk) -> Rc<Node> {
        let hub = Hub::new(None, 64 << 20);
        hub.set_identity(Identity {
            cluster: ClusterId([1; 16]),
            node: NodeId([index + 1; 16]),
        });
        let machine = open(&Rc::new(disk.clone())).await.expect("opens");
        let cache = Rc::new(RefCell::new(Cache::new(1 << 20)));
        let shared = Rc::new(disk.clone());
        let name = format!("store {index}");
        let driver = StoreDriver::new(name, shared, machine, cache, Rc::clone(&hub));
        let proposals: Rc<RefCell<Vec<Proposal>>> = Rc::default();
        let heard = Rc::clone(&proposals);
        driver.set_upcall(move |upcall| {
            if let Upcall::Propose(proposal) = upcall {
                heard.borrow_mut().push(proposal);
            }
        });
        let on = Rc::new(Cell::new(true));
        let address = listen_for(&hub, &driver, &on);
        let node = Rc::new(Node {
            index,
            disk,
            hub,
            address,
            on,
            volume: Volume::new(VOLUME, Rc::clone(&driver)),
            driver,
            proposals,
        });
        let ticking = Rc::downgrade(&node);
        task::spawn(async move {
            while let Some(node) = ticking.upgrade() {
                if node.on.get() {
                    node.driver.tick();
                }
                node.hub.tick();
                drop(node);
                task::sleep(crate::shard::TICK).await;
            }
        });
        node
    }

    fn status(&self) -> Option<Status> {
        self.driver.engine().status(VOLUME, task::boot_time())
    }

    async fn write(&self, first: u64, data: &[u8]) -> BlockResponse {
        let range = ByteRange {
            offset: first * BLOCK_BYTES as u64,
            bytes: data.len() as u64,
        };
        let task = Some(Rc::new(Buffer::concat(&[data])));
        let executed = self.volume.execute(BlockRequest::Write(range), task).await;
        executed.response
    }

    async fn read(&self, first: u64, blocks: u64) -> Result<Vec<u8>, BlockResponse> {
        let range = ByteRange {
            offset: first * BLOCK_BYTES as u64,
            bytes: blocks * BLOCK_BYTES as u64,
        };
        let executed = self.volume.execute(BlockRequest::Read(range), None).await;
        if executed.response != BlockResponse::Done {
            return Err(executed.response);
        }
        let mut data = vec![0; executed.data.len()];
        executed.data.copy_to(&mut data);
        Ok(data)
    }

    /// What is committed on this copy, whatever its role.
    async fn contents(&self, blocks: u32) -> Vec<u8> {
        let range = BlockRange {
            first: Block(0),
            count: blocks,
        };
        let read = self.volume.read_for_peer(range).await;
        let (_held, rope) = read.expect("a good copy");
        let mut data = vec![0; blocks as usize * BLOCK_BYTES];
        if let Some(rope) = rope {
            rope.copy_to(&mut data);
        }
        data
    }
}

fn listen_for(
    hub: &Rc<Hub>,
    driver: &Rc<StoreDriver<MemoryDisk>>,
    on: &Rc<Cell<bool>>,
) -> SocketAddr {
    let fd = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = local_address(&fd).expect("bound");
    let (shared, driver, on) = (Rc::clone(hub), Rc::downgrade(driver), Rc::clone(on));
    let route = Rc::new(move |accepted: Accepted| {
        if let Some(driver) = driver.upgrade().filter(|_| on.get()) {
            let here = accepted.hello.to_store == driver.id();
            let owner = here.then_some(&driver).ok_or(Refusal::Store);
            answer(&shared, owner, accepted);
        }
    });
    task::spawn(accept(Rc::clone(hub), fd, route));
    address
}

impl Cluster {
    /// Fresh stores with one copy each; the first is the primary.
    async fn start(nodes: u8, durability: Durability) -> Rc<Cluster> {
        let cluster = Rc::new(Cluster {
            nodes: RefCell::default(),
            addresses: RefCell::default(),
            registry: RefCell::new(Registry {
                epoch: 1,
                set_version: 1,
                primary: 0,
                in_sync: (0..nodes).map(store_id).collect(),
                durability,
            }),
        });
        for index in 0..nodes {
            let disk = MemoryDisk::new(STORE_BYTES);
            let plan = format(store_id(index), STORE_BYTES as u64).expect("large enough");
            for (offset, bytes) in plan.writes {
                let buffer = Buffer::concat(&[&bytes]);
                disk.write(offset, &buffer).await.expect("no fault yet");
            }
            cluster.join(Node::start(index, disk).await).await;
        }
        for index in 0..nodes {
            cluster.assign(index).await;
        }
        task::spawn(grant(Rc::downgrade(&cluster)));
        cluster
    }

    /// Makes the copy on a fresh node.
    async fn join(&self, node: Rc<Node>) {
        let created = node.driver.ask(|tag| store::Event::CreateVolume {
            tag,
            id: VOLUME,
            size_blocks: VOLUME_BLOCKS,
            epoch: Epoch(0),
            sharing: Sharing::Shared,
        });
        created.receive().await.expect("room for a volume");
        node.volume.role_changed(Role::Fenced);
        self.addresses.borrow_mut().push(node.address);
        self.nodes.borrow_mut().push(Some(node));
    }

    fn node(&self, index: u8) -> Rc<Node> {
        let nodes = self.nodes.borrow();
        Rc::clone(nodes[usize::from(index)].as_ref().expect("it runs"))
    }

    fn running(&self) -> Vec<Rc<Node>> {
        self.nodes.borrow().iter().flatten().cloned().collect()
    }

    fn primary(&self) -> Rc<Node> {
        self.node(self.registry.borrow().primary)
    }

    /// Tells a node its role.
    async fn assign(&self, index: u8) {
        let node = self.node(index);
        let assignment = self.assignment_of(index);
        let assigned = node
            .driver
            .ask_engine(|tag| Event::Assign { tag, assignment });
        assigned.receive().await.expect("the role is taken");
    }

    fn assignment_of(&self, index: u8) -> Assignment {
        let registry = self.registry.borrow();
        let member = |(index, address): (usize, &SocketAddr)| {
            let replica = store_id(u8::try_from(index).expect("few"));
            Member {
                replica,
                node: NodeId(replica.0),
                address: address.to_string(),
                in_sync: registry.in_sync.contains(&replica),
            }
        };
        let addresses = self.addresses.borrow();
        Assignment {
            volume: VOLUME,
            epoch: Epoch(registry.epoch),
            set_version: registry.set_version,
            role: if index == registry.primary {
                Role::Primary
            } else {
                Role::Secondary
            },
            members: addresses.iter().enumerate().map(member).collect(),
            durability: registry.durability,
        }
    }

    /// Takes a node away without a word; gives its disk.
    fn kill(&self, index: u8) -> MemoryDisk {
        let slot = &mut self.nodes.borrow_mut()[usize::from(index)];
        let node = slot.take().expect("it runs");
        // Who still holds it would go on writing to its disk.
        assert_eq!(Rc::strong_count(&node), 1);
        node.on.set(false);
        node.driver.hang_up();
        node.disk.clone()
    }

    /// Opens what a killed node left on its disk; it has no role yet.
    async fn restart(&self, index: u8, disk: MemoryDisk) {
        let node = Node::start(index, disk).await;
        self.addresses.borrow_mut()[usize::from(index)] = node.address;
        self.nodes.borrow_mut()[usize::from(index)] = Some(node);
    }

    async fn fence(&self, index: u8, epoch: u64) -> Fenced {
        let node = self.node(index);
        node.driver.fence(VOLUME, Epoch(epoch)).receive().await
    }

    /// Begins a reign of another primary, as the masters would: fence all, wait out the leases.
    async fn promote(&self, index: u8) {
        let epoch = self.registry.borrow().epoch + 1;
        let mut lease = Duration::ZERO;
        for node in self.running() {
            let fenced = self.fence(node.index, epoch).await;
            assert!(fenced.ok, "{}", fenced.reason);
            lease = lease.max(fenced.lease_left);
        }
        task::sleep(lease).await;
        {
            let mut registry = self.registry.borrow_mut();
            registry.epoch = epoch;
            registry.set_version += 1;
            registry.primary = index;
            registry.in_sync = self.running().iter().map(|n| store_id(n.index)).collect();
        }
        for node in self.running() {
            self.assign(node.index).await;
        }
    }

    /// Waits for a condition.
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = task::now();
        while !condition(self) {
            task::sleep(Duration::from_millis(5)).await;
            assert!(task::now() - start < PATIENCE, "waiting until {what}");
        }
    }

    async fn until_in_sync(&self, copies: usize) {
        self.until("the copies are in sync", |cluster| {
            let Some(status) = cluster.primary().status() else {
                return false;
            };
            let in_sync = status
                .copies
                .iter()
                .filter(|c| c.state == CopyState::InSync);
            status.serving && in_sync.count() == copies - 1
        })
        .await;
    }

    /// All copies are in sync and hold the same bytes, which are `wanted`.
    async fn check_contents(&self, wanted: &[u8]) {
        let blocks = u32::try_from(wanted.len() / BLOCK_BYTES).expect("small");
        self.until("every copy knows what is committed", |cluster| {
            let all = cluster.running();
            let of = |node: &Rc<Node>| node.driver.machine().volume(VOLUME).map(|i| i.committed);
            let first = of(&cluster.primary());
            all.iter().all(|node| of(node) == first)
        })
        .await;
        for node in self.running() {
            assert!(node.contents(blocks).await == wanted, "copy {}", node.index);
        }
    }
}

/// Grants what primaries propose, as long as the rig lives.
async fn grant(cluster: std::rc::Weak<Cluster>) {
    while let Some(cluster) = cluster.upgrade() {
        for node in cluster.running() {
            let proposals = node.proposals.take();
            for proposal in proposals {
                let mut registry = cluster.registry.borrow_mut();
                let own = proposal.epoch.0 == registry.epoch
                    && proposal.set_version == registry.set_version
                    && node.index == registry.primary;
                if own {
                    registry.set_version += 1;
                    registry.in_sync = proposal.in_sync;
                }
                node.driver.tell(Event::ProposalAnswered {
                    volume: VOLUME,
                    accepted: own,
                    epoch: Epoch(registry.epoch),
                    set_version: registry.set_version,
                    in_sync: registry.in_sync.clone(),
                });
            }
        }
        drop(cluster);
        task::sleep(Duration::from_millis(5)).await;
    }
}

/// What the volume should hold.
struct Model(Vec<u8>);

impl Model {
    fn new(blocks: usize) -> Self {
        Model(vec![0; blocks * BLOCK_BYTES])
    }

    /// Writes to the primary and remembers it.
    async fn write(&mut self, node: &Node, first: usize, blocks: usize, byte: u8) {
        let data = vec![byte; blocks * BLOCK_BYTES];
        let response = node.write(first as u64, &data).await;
        assert_eq!(response, BlockResponse::Done);
        self.0[first * BLOCK_BYTES..][..data.len()].copy_from_slice(&data);
    }
}
