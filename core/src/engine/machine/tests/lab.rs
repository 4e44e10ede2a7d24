//! The laboratory: three nodes, streams between them, a master, one client, and what it may read.

use crate::block::{Block, BlockRange};
use crate::cluster::set::Durability;
use crate::engine::status::{CopyState, Status};
use crate::engine::{Event, Fenced, Opened, Role, StreamId};
use crate::id::{StoreId, VolumeId};
use crate::limits::BLOCK_BYTES;
use crate::lsn::Epoch;
use crate::peer::Message;
use crate::replication::defect::Defect;
use crate::store::append::Sharing;
use crate::store::layout::Layout;
use crate::store::{self, Config, RequestError, Tag};
use crate::testing::disk::{BlockBytes, Image};
use crate::testing::driver::{BlockRead, formatted};
use crate::testing::node::{Node, Out};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use fastrand::Rng;

pub(super) const NODES: usize = 3;
pub(super) const BLOCKS: u64 = 64;
pub(super) const VOLUME: VolumeId = VolumeId([9; 16]);
const STEP: Duration = Duration::from_millis(20);

pub(super) struct Lab {
    pub(super) now: Duration,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Place>,
    conns: Vec<Conn>,
    wanted: BTreeSet<(usize, usize)>,
    cut: BTreeSet<(usize, usize)>,
    /// What the first sends stays on its way to the second.
    pub(super) muted: BTreeSet<(usize, usize)>,
    pub(super) isolated: BTreeSet<usize>,
    next_stream: u64,
    next_tag: u64,
    pub(super) master: Master,
    model: Vec<Cell>,
    ops: BTreeMap<Tag, Op>,
    acknowledged: usize,
    pub(super) defect: Option<Defect>,
    /// Prints what is delivered and done.
    pub(super) trace: bool,
}

pub(super) struct Place {
    pub(super) node: Option<Node>,
    pub(super) image: Option<Image>,
    pub(super) held: bool,
    pub(super) since: Duration,
}

struct Conn {
    ends: [(usize, StreamId); 2],
    /// Towards each end.
    queues: [VecDeque<(Message, Vec<Rc<BlockBytes>>)>; 2],
}

pub(super) struct Master {
    pub(super) durability: Durability,
    /// Obeyed too, until the primary has confirmed the present one.
    pub(super) was: Option<Durability>,
    pub(super) epoch: Epoch,
    pub(super) version: u64,
    pub(super) primary: usize,
    pub(super) in_sync: Vec<usize>,
    pub(super) failover: Option<Failover>,
    pub(super) proposals: VecDeque<(usize, Wish)>,
    pub(super) isolated_since: Option<Duration>,
}

/// A primary's wish for an in-sync set.
pub(super) struct Wish {
    pub(super) epoch: Epoch,
    pub(super) version: u64,
    pub(super) set: Vec<StoreId>,
    pub(super) settled: Option<Durability>,
}

pub(super) struct Failover {
    pub(super) epoch: Epoch,
    pub(super) started: Duration,
    pub(super) target: Option<usize>,
    pub(super) asked: Vec<(usize, Tag)>,
    pub(super) answers: Vec<(usize, Fenced, Duration)>,
}

#[derive(Clone, Debug, Default)]
struct Cell {
    acknowledged: u32,
    possible: Vec<u32>,
    busy: bool,
}

struct Op {
    node: usize,
    range: BlockRange,
    value: u32,
}

pub(super) fn store_id(node: usize) -> StoreId {
    StoreId([u8::try_from(node).unwrap() + 1; 16])
}

pub(super) fn node_of(store: StoreId) -> usize {
    usize::from(store.0[0]) - 1
}

fn layout() -> Layout {
    Layout::with_log(12 << 20, 256 << 10, 8).unwrap()
}

fn config() -> Config {
    Config {
        idle: Duration::from_millis(60),
        ..Config::default()
    }
}

impl Lab {
    pub(super) fn new(seed: u64, durability: Durability) -> Self {
        let mut lab = Lab {
            now: Duration::from_secs(10),
            rng: Rng::with_seed(seed),
            nodes: Vec::new(),
            conns: Vec::new(),
            wanted: BTreeSet::new(),
            cut: BTreeSet::new(),
            muted: BTreeSet::new(),
            isolated: BTreeSet::new(),
            next_stream: 1,
            next_tag: 1,
            master: Master {
                durability,
                was: None,
                epoch: Epoch(1),
                version: 1,
                primary: 0,
                in_sync: (0..NODES).collect(),
                failover: None,
                proposals: VecDeque::new(),
                isolated_since: None,
            },
            model: vec![Cell::default(); usize::try_from(BLOCKS).unwrap()],
            ops: BTreeMap::new(),
            acknowledged: 0,
            defect: None,
            trace: std::env::var_os("HOLDFAST_TRACE").is_some(),
        };
        for at in 0..NODES {
            let image = formatted(store_id(at), layout());
            lab.nodes.push(Place {
                node: None,
                image: Some(image),
                held: false,
                since: lab.now,
            });
            lab.open(at);
            lab.settle();
            let tag = lab.tag();
            let create = store::Event::CreateVolume {
                tag,
                id: VOLUME,
                size_blocks: BLOCKS,
                epoch: Epoch(1),
                sharing: Sharing::Shared,
            };
            lab.give(at, Event::Store(create));
            lab.settle();
        }
        lab.assign_all();
        lab.pass(200);
        lab
    }

    pub(super) fn plant(&mut self, defect: Defect) {
        self.defect = Some(defect);
        for place in &mut self.nodes {
            if let Some(node) = &mut place.node {
                node.engine.plant(defect);
            }
        }
    }

    // The client.

    pub(super) fn write(&mut self, block: u64) {
        self.change(block, 1, true);
    }

    pub(super) fn unmap(&mut self, block: u64) {
        self.change(block, 1, false);
    }

    /// One command at a time on each block.
    pub(super) fn change(&mut self, first: u64, count: u32, writes: bool) {
        let range = BlockRange {
            first: Block(first),
            count,
        };
        let primary = self.master.primary;
        let now = self.now;
        let busy = cells(&mut self.model, range).iter().any(|cell| cell.busy);
        if busy || self.nodes[primary].node.is_none() {
            return;
        }
        let tag = self.tag();
        let value = if writes {
            u32::try_from(tag.0).unwrap()
        } else {
            0
        };
        for cell in cells(&mut self.model, range) {
            cell.busy = true;
            cell.possible.push(value);
        }
        let op = Op {
            node: primary,
            range,
            value,
        };
        self.ops.insert(tag, op);
        let node = self.nodes[primary].node.as_mut().expect("it is up");
        if writes {
            let block = Rc::new(bytes_of(value));
            let blocks = (0..count).map(|_| Rc::clone(&block)).collect();
            node.write(now, tag, VOLUME, range, blocks);
        } else {
            let event = store::Event::Unmap {
                tag,
                volume: VOLUME,
                range,
            };
            node.event(now, Event::Store(event));
        }
        self.collect(primary);
    }

    pub(super) fn read(&mut self, at: usize, block: u64) {
        let range = BlockRange {
            first: Block(block),
            count: 1,
        };
        let Some(node) = &self.nodes[at].node else {
            return;
        };
        let Some(blocks) = node.serve(self.now, VOLUME, range) else {
            return;
        };
        let value = value_of(&blocks[0]);
        let cell = &mut self.model[usize::try_from(block).unwrap()];
        assert!(
            value == cell.acknowledged || cell.possible.contains(&value),
            "node {at} read {value} in block {block}: {cell:?}"
        );
        cell.acknowledged = value;
    }

    /// Every block, from the primary, which serves.
    pub(super) fn read_all(&mut self) {
        let primary = self.master.primary;
        assert!(self.serves(primary), "{:?}", self.status(primary));
        for block in 0..BLOCKS {
            self.read(primary, block);
        }
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// Nothing waits.
    pub(super) fn check_ended(&self) {
        let left: Vec<Tag> = self.ops.keys().copied().collect();
        assert!(left.is_empty(), "requests that do not end: {left:?}");
    }

    /// All copies are the same, and as the client knows.
    pub(super) fn check_copies(&mut self) {
        let range = BlockRange {
            first: Block(0),
            count: u32::try_from(BLOCKS).unwrap(),
        };
        self.pass(500);
        let read = |place: &Place| {
            let node = place.node.as_ref().expect("all nodes are up");
            let blocks = node.read(VOLUME, range).expect("it is there");
            blocks.iter().map(value_of).collect::<Vec<u32>>()
        };
        let first = read(&self.nodes[0]);
        for (at, place) in self.nodes.iter().enumerate() {
            assert_eq!(read(place), first, "copy {at} is another");
        }
        for (value, cell) in first.iter().zip(&self.model) {
            assert!(*value == cell.acknowledged || cell.possible.contains(value));
        }
    }

    // Faults.

    pub(super) fn kill(&mut self, at: usize) {
        let Some(node) = self.nodes[at].node.take() else {
            return;
        };
        self.nodes[at].image = Some(node.crash());
        if self.trace {
            std::eprintln!("{:?} {at} dies", self.now);
        }
        self.nodes[at].since = self.now;
        self.drop_conns(|conn| conn.ends.iter().any(|(node, _)| *node == at));
        self.wanted.retain(|(from, _)| *from != at);
        let ended: Vec<Tag> = self
            .ops
            .iter()
            .filter(|(_, op)| op.node == at)
            .map(|(tag, _)| *tag)
            .collect();
        for tag in ended {
            self.end(tag, Err(RequestError::StoreFailed));
        }
    }

    pub(super) fn start(&mut self, at: usize) {
        if self.nodes[at].node.is_none() {
            self.open(at);
            self.assign(at);
        }
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        self.drop_conns(|conn| {
            let ends = conn.ends.map(|(node, _)| node);
            ends.contains(&a) && ends.contains(&b)
        });
    }

    /// No streams, no masters.
    pub(super) fn isolate(&mut self, at: usize) {
        self.isolated.insert(at);
        for other in (0..NODES).filter(|other| *other != at) {
            self.cut(at, other);
        }
    }

    pub(super) fn join(&mut self) {
        self.cut.clear();
        let back: Vec<usize> = core::mem::take(&mut self.isolated).into_iter().collect();
        for at in back {
            self.assign(at);
        }
    }

    pub(super) fn hold_disk(&mut self, at: usize) {
        self.nodes[at].held = true;
    }

    pub(super) fn release_disk(&mut self, at: usize) {
        self.nodes[at].held = false;
    }

    // Looks.

    pub(super) fn primary(&self) -> usize {
        self.master.primary
    }

    pub(super) fn set_version(&self) -> u64 {
        self.master.version
    }

    pub(super) fn set_len(&self) -> usize {
        self.master.in_sync.len()
    }

    pub(super) fn status(&self, at: usize) -> Option<Status> {
        let node = self.nodes[at].node.as_ref()?;
        node.engine.status(VOLUME, self.now)
    }

    pub(super) fn serves(&self, at: usize) -> bool {
        self.status(at).is_some_and(|status| status.serving)
    }

    pub(super) fn role(&self, at: usize) -> Role {
        self.status(at).map_or(Role::Fenced, |status| status.role)
    }

    pub(super) fn copy_states(&self, at: usize) -> Vec<CopyState> {
        let copies = self.status(at).map(|status| status.copies);
        let copies = copies.unwrap_or_default();
        copies.iter().map(|copy| copy.state).collect()
    }

    pub(super) fn describe(&self) -> alloc::string::String {
        let mut text = format!(
            "epoch {:?} version {} primary {} set {:?}\n",
            self.master.epoch, self.master.version, self.master.primary, self.master.in_sync
        );
        for at in 0..NODES {
            text += &format!("{at}: {:?}\n", self.status(at));
        }
        text
    }

    // Time.

    /// Everything that can happen without time happens.
    pub(super) fn settle(&mut self) {
        let mut bound = 200_000;
        while self.deliver_one() | self.disk_one() {
            bound -= 1;
            assert!(bound > 0, "no rest: {}", self.describe());
        }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.tick();
            self.settle();
        }
    }

    pub(super) fn tick(&mut self) {
        self.now += STEP;
        self.connect();
        for at in 0..NODES {
            self.give(at, Event::Store(store::Event::Tick));
        }
        self.run_master();
    }

    pub(super) fn deliver_one(&mut self) -> bool {
        let ready: Vec<(usize, usize)> = (0..self.conns.len())
            .flat_map(|conn| [(conn, 0), (conn, 1)])
            .filter(|(conn, end)| {
                let conn = &self.conns[*conn];
                let way = (conn.ends[1 - end].0, conn.ends[*end].0);
                !conn.queues[*end].is_empty() && !self.muted.contains(&way)
            })
            .collect();
        if ready.is_empty() {
            return false;
        }
        let (conn, end) = ready[self.rng.usize(..ready.len())];
        let conn = &mut self.conns[conn];
        let (message, blocks) = conn.queues[end].pop_front().expect("it is not empty");
        let (at, stream) = conn.ends[end];
        let now = self.now;
        if self.trace
            && !matches!(
                message,
                Message::Heartbeat { .. } | Message::HeartbeatAck { .. }
            )
        {
            let from = conn.ends[1 - end].0;
            std::eprintln!("{now:?} {from}->{at} {message:?}");
        }
        if let Some(node) = &mut self.nodes[at].node {
            node.receive(now, stream, message, blocks);
        }
        self.collect(at);
        true
    }

    pub(super) fn disk_one(&mut self) -> bool {
        let count = self.nodes.len();
        let start = self.rng.usize(..count);
        for at in (0..count).map(|at| (start + at) % count) {
            let place = &mut self.nodes[at];
            if place.held {
                continue;
            }
            if place.node.as_mut().is_some_and(Node::end_one) {
                self.collect(at);
                return true;
            }
        }
        false
    }

    pub(super) fn give(&mut self, at: usize, event: Event) {
        let now = self.now;
        if let Some(node) = &mut self.nodes[at].node {
            node.event(now, event);
        }
        self.collect(at);
    }

    fn open(&mut self, at: usize) {
        let image = self.nodes[at].image.take().expect("it is down");
        let seed = self.rng.u64(..);
        let mut node = Node::open(image, config(), self.now, seed).expect("a store opens");
        if let Some(defect) = self.defect {
            node.engine.plant(defect);
        }
        self.nodes[at].node = Some(node);
        self.nodes[at].since = self.now;
        self.collect(at);
    }

    pub(super) fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        Tag(self.next_tag)
    }

    /// What a node wants of others.
    fn collect(&mut self, at: usize) {
        let Some(node) = &mut self.nodes[at].node else {
            return;
        };
        for out in core::mem::take(&mut node.out) {
            match out {
                Out::Send(stream, message, blocks) => {
                    for conn in &mut self.conns {
                        if conn.ends[0] == (at, stream) {
                            conn.queues[1].push_back((message, blocks));
                            break;
                        } else if conn.ends[1] == (at, stream) {
                            conn.queues[0].push_back((message, blocks));
                            break;
                        }
                    }
                }
                Out::Broken(stream) => {
                    self.drop_conns(|conn| conn.ends.contains(&(at, stream)));
                }
                Out::Open(to) => drop(self.wanted.insert((at, node_of(to)))),
                Out::Close(to) => {
                    let to = node_of(to);
                    self.wanted.remove(&(at, to));
                    self.drop_conns(|conn| conn.ends[0].0 == at && conn.ends[1].0 == to);
                }
                Out::Ended(tag, result) => self.end(tag, result),
                Out::Control(effect) => self.master_hears(at, effect),
                Out::Failed(reason) => panic!("store {at} failed: {reason}"),
            }
        }
    }

    fn end(&mut self, tag: Tag, result: Result<(), RequestError>) {
        let Some(op) = self.ops.remove(&tag) else {
            return;
        };
        self.acknowledged += usize::from(result.is_ok());
        for cell in cells(&mut self.model, op.range) {
            cell.busy = false;
            if result.is_ok() {
                cell.acknowledged = op.value;
                cell.possible.clear();
            }
        }
    }

    // Streams.

    fn connect(&mut self) {
        for (from, to) in self.wanted.clone() {
            let known = |conn: &Conn| conn.ends[0].0 == from && conn.ends[1].0 == to;
            let cut = self.cut.contains(&(from.min(to), from.max(to)));
            let up = self.nodes[from].node.is_some() && self.nodes[to].node.is_some();
            if cut || !up || self.conns.iter().any(known) {
                continue;
            }
            let (here, there) = (StreamId(self.next_stream), StreamId(self.next_stream + 1));
            self.next_stream += 2;
            self.conns.push(Conn {
                ends: [(from, here), (to, there)],
                queues: Default::default(),
            });
            let up = |stream, store, opened| Event::StreamUp {
                stream,
                store: store_id(store),
                opened,
            };
            self.give(to, up(there, from, Opened::There));
            self.give(from, up(here, to, Opened::Here));
        }
    }

    fn drop_conns(&mut self, which: impl Fn(&Conn) -> bool) {
        let (dropped, kept) = core::mem::take(&mut self.conns)
            .into_iter()
            .partition(|conn| which(conn));
        self.conns = kept;
        let dropped: Vec<Conn> = dropped;
        for (at, stream) in dropped.iter().flat_map(|conn| conn.ends) {
            self.give(at, Event::StreamDown { stream });
        }
    }
}

fn cells(model: &mut [Cell], range: BlockRange) -> &mut [Cell] {
    let first = usize::try_from(range.first.0).unwrap();
    &mut model[first..first + range.count as usize]
}

fn bytes_of(value: u32) -> BlockBytes {
    let mut bytes = [0; BLOCK_BYTES];
    for four in bytes.chunks_exact_mut(4) {
        four.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn value_of(block: &BlockRead) -> u32 {
    match block {
        BlockRead::Zero => 0,
        BlockRead::Bad => u32::MAX,
        BlockRead::Data(bytes) => u32::from_le_bytes(bytes[..4].try_into().unwrap()),
    }
}
