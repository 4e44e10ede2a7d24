//! What must hold at any time, and what must hold at the end.

use super::coverage::Work;
use super::node::{FILLER, VOLUME};
use super::{CALM_MAX, Micros, SECOND, World};
use crate::block::{Block, BlockRange};
use crate::engine::Role;
use crate::lsn::{Epoch, Lsn};
use crate::peer::{Body, Message};
use crate::store::append::AppendBody;
use crate::store::machine::Store;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

/// Records looked at in one step.
const RECORDS_MAX: usize = 64;

/// What was seen of all copies.
#[derive(Default)]
pub(super) struct Seen {
    /// Which node serves a reign.
    reigns: BTreeMap<Epoch, usize>,
    /// The highest reign that served.
    served: Epoch,
    records: BTreeMap<(Epoch, Lsn), AppendBody>,
    /// The reign of each committed position that was seen.
    committed: BTreeMap<Lsn, Epoch>,
    /// Of each process: its commit point, and whether it resyncs.
    points: BTreeMap<usize, (Lsn, bool)>,
    /// When a copy began to be filled.
    resync_since: BTreeMap<usize, Micros>,
    pub(super) resyncs: u64,
}

impl Seen {
    /// A process ended.
    pub(super) fn forget(&mut self, node: usize) {
        self.points.remove(&node);
    }

    fn record(&mut self, epoch: Epoch, lsn: Lsn, body: &AppendBody, node: usize) {
        let first = self
            .records
            .entry((epoch, lsn))
            .or_insert_with(|| body.clone());
        assert!(
            first == body,
            "I4: {lsn} of {epoch} is {first:?} and, on node {node}, {body:?}"
        );
    }
}

impl World {
    /// A host is served, or told that its change is done. A copy that is not primary any more may still
    /// tell that a change of its reign was committed by the next one: that is true.
    pub(super) fn observe_served(&mut self, node: usize) {
        let clock = self.nodes[node].clock(self.now);
        let process = self.nodes[node].process.as_ref().expect("it serves");
        if process.role != Role::Primary {
            return;
        }
        let status = process.engine.status(VOLUME, clock);
        let epoch = status.expect("it serves").epoch;
        let first = *self.seen.reigns.entry(epoch).or_insert(node);
        assert!(
            first == node,
            "I3: {epoch} is served by nodes {first} and {node}"
        );
        let highest = self.seen.served;
        assert!(
            epoch >= highest,
            "I3: node {node} serves {epoch} after {highest}"
        );
        self.seen.served = epoch;
        self.check_alone(node, epoch);
    }

    /// While a reign serves, no older one would.
    fn check_alone(&self, node: usize, epoch: Epoch) {
        for (at, other) in self.nodes.iter().enumerate() {
            let Some(process) = other.process.as_ref().filter(|_| at != node) else {
                continue;
            };
            if process.role != Role::Primary || other.paused_until > self.now {
                continue;
            }
            let status = process.engine.status(VOLUME, other.clock(self.now));
            let serves = status.filter(|status| status.serving && status.epoch < epoch);
            assert!(
                serves.is_none(),
                "I3: node {at} would serve {serves:?} while node {node} serves {epoch}"
            );
        }
    }

    /// A record goes from one copy to another.
    pub(super) fn observe_record(&mut self, node: usize, message: &Message) {
        if let Message::Volume {
            body: Body::Record {
                lsn, epoch, body, ..
            },
            ..
        } = message
        {
            self.seen.record(*epoch, *lsn, body, node);
        }
    }

    /// An engine decided something.
    pub(super) fn observe(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else {
            return;
        };
        let store = process.engine.store();
        let Some(info) = store.volume(VOLUME) else {
            return;
        };
        let resyncs = info.resync.is_some();
        let point = (info.committed, resyncs);
        let before = self.seen.points.insert(node, point).unwrap_or_default();
        assert!(
            info.committed >= before.0,
            "I5: node {node} goes from {} to {}",
            before.0,
            info.committed
        );
        assert!(info.committed <= info.durable, "node {node}: {info:?}");
        assert!(info.durable <= info.appended, "node {node}: {info:?}");
        match (before.1, resyncs) {
            (false, true) => drop(self.seen.resync_since.insert(node, self.now)),
            (true, false) => {
                self.seen.resyncs += 1;
                if let Some(since) = self.seen.resync_since.remove(&node) {
                    self.coverage.done(Work::Resync, since, self.now);
                }
            }
            _ => {}
        }
        if info.committed > before.0 {
            self.seen.committed_by(store, info.committed, node);
        }
        for record in store.pending(VOLUME, Lsn(0)).take(RECORDS_MAX) {
            self.seen
                .record(record.epoch, record.lsn, &record.body, node);
        }
    }

    /// Whether the run may end.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(since) = self.calm_since else {
            return false;
        };
        let late = self.now > since + CALM_MAX;
        if late {
            let set = super::masters::words(&self.masters.registry);
            let leader = self.masters.leader.as_ref();
            let activity = leader.map(|leader| leader.coordinator.activity());
            let states = (0..self.nodes.len()).map(|node| self.state(node));
            let states = states.collect::<Vec<_>>().join("\n");
            let waiting = self.waiting_hosts();
            panic!("I9: not quiet: {set}, {activity:?}\n{states}\nhosts: {waiting}");
        }
        if self.now < since + 2 * SECOND || !self.steps.is_multiple_of(64) {
            return false;
        }
        if !self.hosts_stopped {
            self.hosts_stopped = self.is_whole();
            return false;
        }
        let filled = self.nodes.iter().any(|node| {
            let process = node.process.as_ref();
            process.is_none_or(|process| process.engine.store().volume(FILLER).is_some())
        });
        !filled && self.open.is_empty() && self.is_whole() && self.is_level()
    }

    fn is_whole(&self) -> bool {
        let set = &self.masters.registry;
        let whole = set.in_sync().count();
        whole == set.replicas.len() && whole == self.plan.copies
    }

    /// All copies have and know the same, and nothing is under way.
    fn is_level(&self) -> bool {
        let mut copies = self.infos();
        let Some(first) = copies.next() else {
            return false;
        };
        let level = |info: &crate::store::VolumeInfo| {
            info.committed == info.appended && info.resync.is_none()
        };
        let same = copies.all(|info| info.appended == first.appended && level(&info));
        let idle = |node: &super::Node| {
            let process = node.process.as_ref();
            process.is_some_and(|process| process.running.is_empty())
        };
        level(&first) && same && self.nodes.iter().all(idle)
    }

    fn infos(&self) -> impl Iterator<Item = crate::store::VolumeInfo> {
        self.stores().filter_map(|store| store.volume(VOLUME))
    }

    fn stores(&self) -> impl Iterator<Item = &Store> {
        let set = &self.masters.registry;
        let its = self
            .nodes
            .iter()
            .filter(|node| set.replica(node.store).is_some());
        its.filter_map(|node| Some(node.process.as_ref()?.engine.store()))
    }

    /// Everything is quiet: all copies are the same bytes, and stores are sound.
    pub(super) fn check_end(&mut self) {
        let range = BlockRange {
            first: Block(0),
            count: u32::try_from(self.plan.blocks).expect("small"),
        };
        let set = self.masters.registry.clone();
        let mut first: Option<(usize, Vec<_>)> = None;
        for (at, node) in self.nodes.iter().enumerate() {
            let process = node.process.as_ref().expect("all run");
            let store = process.engine.store();
            assert_eq!(store.check_map(), [], "I10: node {at}");
            store.check_deep();
            assert!(
                process.tags.is_empty(),
                "node {at} forgot {:?}",
                process.tags
            );
            if set.replica(node.store).is_none() {
                continue;
            }
            let held = process.payloads.len();
            assert_eq!(held, 0, "node {at} holds payloads");
            let blocks = process.read(range).expect("the copy is there");
            let bytes = |b: &Option<alloc::rc::Rc<_>>| b.as_deref().copied().unwrap_or([0; 4096]);
            let blocks: Vec<_> = blocks.iter().map(bytes).collect();
            match &first {
                None => first = Some((at, blocks)),
                Some((other, same)) => {
                    let differs = (0..blocks.len()).find(|b| blocks[*b] != same[*b]);
                    assert!(
                        differs.is_none(),
                        "I7: nodes {other} and {at} at {differs:?}"
                    );
                }
            }
        }
    }

    /// A node in a few lines, for people.
    pub(super) fn state(&self, at: usize) -> alloc::string::String {
        let node = &self.nodes[at];
        let Some(process) = &node.process else {
            return format!("node {at}: down");
        };
        let status = process.engine.status(VOLUME, node.clock(self.now));
        let info = process.engine.store().volume(VOLUME);
        format!(
            "node {at}: {status:?} {info:?} running {:?}",
            process.running
        )
    }
}

impl Seen {
    /// One position has one history on all copies.
    fn committed_by(&mut self, store: &Store, committed: Lsn, node: usize) {
        let reigns = store.reigns(VOLUME).iter().rev();
        let mut reigns = reigns.filter(|reign| reign.start <= committed);
        let epoch = reigns.next().map_or(Epoch(0), |reign| reign.epoch);
        let first = *self.committed.entry(committed).or_insert(epoch);
        assert!(
            first == epoch,
            "I4: committed {committed} is of {first} and, on node {node}, of {epoch}"
        );
    }
}
