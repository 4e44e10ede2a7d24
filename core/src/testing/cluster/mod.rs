//! A cluster in one thread: the production machines of several nodes and of the masters on simulated disks,
//! a simulated network, drifting clocks and virtual time, under hosts' load and disasters.
//!
//! Goal: I1-I5, I7, I9, I10. Method: everything follows from a seed, which draws its own subset of faults
//! ([`plan`]); oracles look after each step. After the faults every command ends, every copy comes back
//! in sync, and all copies are the same bytes. The same seed gives the same hash of all that happened.
//!
//! Not here: real files, sockets, iSCSI; several volumes of one store; damaged bits.

pub mod coverage;
mod faults;
mod histories;
mod hosts;
mod locks;
mod masters;
mod network;
mod node;
mod oracles;
pub mod plan;
mod process;

use self::coverage::{Cells, Coverage, Work};
use self::histories::Histories;
use self::hosts::{Open, Read, Reply};
use self::masters::{Masters, ToMaster};
use self::network::Network;
use self::node::{Node, Process, store_of};
use self::oracles::Seen;
use self::plan::Plan;
use super::disk::BlockBytes;
use super::driver::formatted;
use crate::block::BlockRange;
use crate::cluster::message::CommitId;
use crate::cluster::set::VolumeSet;
use crate::engine::{self, FillId, StreamId};
use crate::id::StoreId;
use crate::lsn::Epoch;
use crate::peer::Message;
use crate::replication::defect::Defect;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use fastrand::Rng;

/// Virtual time since the beginning.
pub type Micros = u64;

/// A second.
pub const SECOND: Micros = 1_000_000;

/// Where the masters are, among the nodes.
const MASTERS: usize = usize::MAX;

/// Between two ticks of a volume server.
const TICK: Micros = 50_000;

/// After the faults, time for everything to end well.
const CALM_MAX: Micros = 120 * SECOND;

/// What a run was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that happened, in order.
    pub hash: u64,
    /// Things that happened.
    pub steps: u64,
    /// Hosts' commands that ended well.
    pub finished: u64,
    /// The last reign.
    pub epoch: u64,
    /// Faults.
    pub faults: u64,
    /// Resyncs that ended.
    pub resyncs: u64,
    /// Which work met which fault.
    pub coverage: Cells,
}

/// Told what happens, line by line.
pub type Narrator = Box<dyn FnMut(String)>;

/// How to run a seed.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "a narrator is a function")]
pub struct Options {
    /// Told what happens.
    pub narrator: Option<Narrator>,
    /// A planted defect of all nodes.
    pub defect: Option<Defect>,
    /// Nothing bad happens.
    pub calm: bool,
}

/// Runs `seed` to its end. Panics when an invariant does not hold.
pub fn run(seed: u64, options: Options) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let mut plan = Plan::draw(&mut rng);
    if options.calm {
        plan = plan.without_faults();
    }
    World::new(plan, rng, options).run()
}

/// What a process is given.
#[derive(Clone, Debug)]
enum Input {
    Engine(engine::Event),
    Peer(StreamId, Message, Vec<Rc<BlockBytes>>),
    Tick,
    Assign(StoreId, Box<VolumeSet>),
    Fence(StoreId, Epoch),
    Answer {
        to: StoreId,
        accepted: bool,
        epoch: Epoch,
        set_version: u64,
        in_sync: Vec<StoreId>,
    },
    Host(Operation),
    Read(Box<Read>),
    FillRead(FillId, BlockRange),
}

/// A host's command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Operation {
    id: u64,
    what: What,
    range: BlockRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Write,
    Unmap,
    Read,
}

impl What {
    fn work(self) -> Work {
        match self {
            What::Write => Work::Write,
            What::Unmap => Work::Unmap,
            What::Read => Work::Read,
        }
    }
}

/// Something that happens at a moment.
#[derive(Debug)]
enum Happening {
    Input(usize, u32, Box<Input>),
    Tick(usize, u32),
    Disk(usize, u32, u64),
    Resume(usize),
    Start(usize),
    Connect(usize, u32, StoreId),
    Up(StreamId, usize),
    Down(StreamId, usize, u32),
    Deliver(StreamId, usize),
    Beat(usize),
    ToMaster(u32, usize, ToMaster),
    Registry(u32, CommitId, (Epoch, u64), Box<VolumeSet>),
    MasterTick(u32),
    Lead,
    Host,
    HostRetry(u64),
    HostTimeout(u64, u32),
    Reply(u64, usize, u32, Reply),
    Fault,
    Calm,
    Operator,
    Replace(usize),
    Heal(usize, usize),
    Lonely(usize, Micros),
    Unfill(usize),
}

struct World {
    plan: Plan,
    rng: Rng,
    now: Micros,
    queue: BTreeMap<(Micros, u64), Happening>,
    sequence: u64,
    nodes: Vec<Node>,
    network: Network,
    masters: Masters,
    /// Last arrival on each direction of the control link.
    links: BTreeMap<(usize, usize), Micros>,
    histories: Histories,
    open: BTreeMap<u64, Open>,
    /// The node that the hosts believe in.
    path: usize,
    values: u64,
    finished: u64,
    hosts_stopped: bool,
    calm_since: Option<Micros>,
    faults: u64,
    seen: Seen,
    coverage: Coverage,
    /// A person asked for a move then, and no reign was registered since.
    move_since: Option<Micros>,
    /// An election runs since then.
    election_since: Option<Micros>,
    hash: u64,
    steps: u64,
    defect: Option<Defect>,
    narrator: Option<Narrator>,
}

impl World {
    fn new(plan: Plan, mut rng: Rng, options: Options) -> Self {
        let index = |node: usize| u8::try_from(node).expect("few nodes");
        let nodes: Vec<Node> = (0..plan.nodes)
            .map(|node| {
                let image = formatted(store_of(index(node), 0), plan.layout);
                let rate = rng.u64(faults::RATES);
                Node::new(index(node), image, rate, rng.u64(..1000 * SECOND))
            })
            .collect();
        let stores = nodes[..plan.copies]
            .iter()
            .map(|node| (node.store, node.id));
        let stores: Vec<_> = stores.collect();
        let set = VolumeSet::first(&stores, plan.durability, plan.copies);
        World {
            path: 0,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            network: Network::default(),
            masters: Masters::new(set),
            links: BTreeMap::new(),
            histories: Histories::default(),
            open: BTreeMap::new(),
            values: 0,
            finished: 0,
            hosts_stopped: false,
            calm_since: None,
            faults: 0,
            seen: Seen::default(),
            coverage: Coverage::default(),
            move_since: None,
            election_since: None,
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            defect: options.defect,
            narrator: options.narrator,
            plan,
        }
    }

    fn run(mut self) -> Outcome {
        self.say_plan();
        for node in 0..self.nodes.len() {
            self.at(0, Happening::Start(node));
            let first = self.rng.u64(1..SECOND / 2);
            self.at(first, Happening::Beat(node));
        }
        self.at(1, Happening::Lead);
        self.at(SECOND, Happening::Operator);
        for _ in 0..self.plan.depth {
            self.at(SECOND, Happening::Host);
        }
        self.at(2 * SECOND, Happening::Fault);
        self.at(2 * SECOND + self.plan.storm, Happening::Calm);
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            self.steps += 1;
            self.happen(happening);
            if self.is_over() {
                break;
            }
        }
        self.check_end();
        Outcome {
            hash: self.hash,
            steps: self.steps,
            finished: self.finished,
            epoch: self.masters.registry.epoch.0,
            faults: self.faults,
            resyncs: self.seen.resyncs,
            coverage: self.coverage.cells,
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Input(node, incarnation, input) => self.give(node, incarnation, *input),
            Happening::Tick(node, incarnation) => {
                if self.process(node, incarnation).is_some() {
                    self.at(self.now + TICK, Happening::Tick(node, incarnation));
                    self.give(node, incarnation, Input::Tick);
                }
            }
            Happening::Disk(node, incarnation, number) => self.on_disk(node, incarnation, number),
            Happening::Resume(node) => self.on_resume(node),
            Happening::Start(node) => self.on_start(node),
            Happening::Connect(from, incarnation, to) => self.on_connect(from, incarnation, to),
            Happening::Up(id, side) => self.on_up(id, side),
            Happening::Down(stream, node, incarnation) => {
                let event = engine::Event::StreamDown { stream };
                self.give(node, incarnation, Input::Engine(event));
            }
            Happening::Deliver(id, side) => self.on_deliver(id, side),
            Happening::Beat(node) => self.on_beat(node),
            Happening::ToMaster(leadership, node, message) => {
                self.on_to_master(leadership, node, message);
            }
            Happening::Registry(leadership, id, expected, set) => {
                self.on_registry(leadership, id, expected, *set);
            }
            Happening::MasterTick(leadership) => self.on_master_tick(leadership),
            Happening::Lead => self.on_lead(),
            Happening::Host => self.on_host(),
            Happening::HostRetry(id) => self.attempt(id),
            Happening::HostTimeout(id, attempt) => self.on_host_timeout(id, attempt),
            Happening::Reply(id, node, incarnation, reply) => {
                self.on_reply(id, node, incarnation, reply);
            }
            Happening::Fault => self.on_fault(),
            Happening::Calm => self.on_calm(),
            Happening::Operator => self.on_operator(),
            Happening::Heal(node, other) => {
                self.network.cut.remove(&(node, other));
                self.network.cut.remove(&(other, node));
            }
            Happening::Lonely(node, until) => self.on_lonely(node, until),
            Happening::Replace(node) => self.on_replace(node),
            Happening::Unfill(node) => self.on_unfill(node),
        }
    }

    fn at(&mut self, at: Micros, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    fn is_calm(&self) -> bool {
        self.calm_since.is_some()
    }

    fn process(&self, node: usize, incarnation: u32) -> Option<&Process> {
        let node = &self.nodes[node];
        let process = node.process.as_ref();
        process.filter(|_| node.incarnation == incarnation)
    }

    /// Adds to the hash of what happened.
    fn note(&mut self, kind: u64, first: u64, second: u64) {
        for number in [self.now, kind, first, second] {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3);
            self.hash ^= self.hash >> 29;
        }
    }

    fn say(&mut self, words: impl FnOnce() -> String) {
        if let Some(narrator) = &mut self.narrator {
            let (seconds, micros) = (self.now / SECOND, self.now % SECOND);
            narrator(format!("{seconds:3}.{micros:06} {}", words()));
        }
    }

    fn say_plan(&mut self) {
        let words = format!("{:?}", self.plan);
        self.say(|| words);
    }
}
