//! The data plane in small: one copy that promises, grants leases, reigns or follows.
//!
//! A log entry is a value; a whole log stands for the records on the way, so catching up and cutting
//! are one message. Entry `None` is a hole: a resyncing copy lacks what was written there.

use super::{Bug, HEARTBEAT, LEASE, LEASE_MARGIN, Ms, PEER_SILENCE};
use crate::cluster::election::Position;
use crate::cluster::message::{CopyReport, CopyState, FenceAnswer, FenceResult};
use crate::cluster::set::{Durability, VolumeSet};
use crate::id::StoreId;
use crate::lsn::{Epoch, Lsn};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// A record: the reign in which it was written, and the value; 0 begins a reign.
pub(super) type Entry = (Epoch, Option<u64>);

/// Primary to secondary: adopt this log.
#[derive(Clone, Debug)]
pub(super) struct Sync {
    pub(super) epoch: Epoch,
    pub(super) log: Rc<Vec<Entry>>,
    pub(super) committed: usize,
    /// Clock of the sender.
    pub(super) sent: Ms,
    /// Fills what a resyncing copy lacks.
    pub(super) fills: bool,
}

/// Secondary to primary: durable up to here; a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    pub(super) epoch: Epoch,
    pub(super) durable: usize,
    pub(super) resyncing: bool,
    pub(super) sent: Ms,
}

/// What a primary asks the masters.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) epoch: Epoch,
    pub(super) set_version: u64,
    pub(super) in_sync: Vec<StoreId>,
    pub(super) settled: Option<Durability>,
}

#[derive(Debug, Default)]
struct Peer {
    durable: usize,
    lease: Ms,
    /// Clock of the last ack, 0 when none came in this reign.
    heard: Ms,
    resyncing: bool,
    /// It was told the log of this reign at least once.
    attached: bool,
}

/// The primary's side.
#[derive(Debug)]
struct Reign {
    set: Vec<StoreId>,
    set_version: u64,
    members: Vec<StoreId>,
    durability: Durability,
    /// Commits obey the older mode too until all are level.
    durability_was: Option<Durability>,
    confirm: bool,
    /// Sets proposed with the present version: any of them may be registered.
    proposed: Vec<Vec<StoreId>>,
    peers: BTreeMap<StoreId, Peer>,
    start: usize,
    began: Ms,
    asked: Ms,
    acked: usize,
}

/// One copy, its store and the process that serves it.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) store: StoreId,
    pub(super) bug: Option<Bug>,
    // Durable.
    pub(super) log: Rc<Vec<Entry>>,
    pub(super) durable: usize,
    pub(super) promised: Epoch,
    pub(super) resyncing: bool,
    pub(super) committed: usize,
    // Of the process.
    pub(super) alive: bool,
    assigned: (Epoch, u64),
    reign: Option<Reign>,
    granted_until: Ms,
    primary_heard: Option<Ms>,
}

impl Copy {
    pub(super) fn new(store: StoreId, bug: Option<Bug>) -> Self {
        Copy {
            store,
            bug,
            log: Rc::new(Vec::new()),
            durable: 0,
            promised: Epoch(0),
            resyncing: false,
            committed: 0,
            alive: true,
            assigned: (Epoch(0), 0),
            reign: None,
            granted_until: LEASE + LEASE_MARGIN,
            primary_heard: None,
        }
    }

    /// The process ends; of what was not durable, `kept` entries happen to survive.
    pub(super) fn crash(&mut self, kept: usize) {
        let keep = (self.durable + kept).min(self.log.len());
        Rc::make_mut(&mut self.log).truncate(keep);
        self.durable = keep;
        self.committed = self.committed.min(keep);
        self.alive = false;
        self.assigned = (Epoch(0), 0);
        self.reign = None;
        self.primary_heard = None;
    }

    pub(super) fn start(&mut self, now: Ms) {
        self.alive = true;
        self.granted_until = now + LEASE + LEASE_MARGIN;
    }

    fn position(&self) -> Position {
        Position {
            last_epoch: self.log[..self.durable].last().map_or(Epoch(0), |e| e.0),
            last: Lsn(self.durable as u64),
        }
    }

    pub(super) fn fence(&mut self, now: Ms, epoch: Epoch) -> FenceAnswer {
        let obeys = epoch >= self.promised && epoch > self.assigned.0;
        if !obeys {
            return FenceAnswer {
                store: self.store,
                promised: self.promised,
                result: FenceResult::Promised,
            };
        }
        self.promised = epoch;
        self.reign = None;
        self.primary_heard = None;
        FenceAnswer {
            store: self.store,
            promised: epoch,
            result: FenceResult::Obeyed {
                position: self.position(),
                resyncing: self.resyncing,
                lease_left: Duration::from_millis(self.granted_until.saturating_sub(now)),
            },
        }
    }

    pub(super) fn assign(&mut self, now: Ms, set: &VolumeSet) {
        let version = (set.epoch, set.set_version);
        if version <= self.assigned || set.epoch < self.promised {
            return;
        }
        if set.primary != self.store {
            self.reign = None;
            self.assigned = version;
            self.promised = set.epoch;
            return;
        }
        if self.reign.is_some() && self.assigned.0 == set.epoch {
            self.learn(set.set_version, set.in_sync_stores(), Some(set));
        } else {
            let begun = self.log.iter().any(|entry| entry.0 >= set.epoch);
            if begun && self.bug != Some(Bug::BeginTwice) {
                return; // Another process began it: stay fenced.
            }
            self.begin(now, set);
        }
        self.assigned = version;
    }

    fn begin(&mut self, now: Ms, set: &VolumeSet) {
        assert!(!self.resyncing || self.bug.is_some());
        self.promised = set.epoch;
        Rc::make_mut(&mut self.log).push((set.epoch, Some(0)));
        self.durable = self.log.len();
        self.reign = Some(Reign {
            set: set.in_sync_stores(),
            set_version: set.set_version,
            members: set.members().map(|r| r.store).collect(),
            durability: set.durability,
            durability_was: None,
            confirm: false,
            proposed: Vec::new(),
            peers: BTreeMap::new(),
            start: self.log.len(),
            began: now,
            asked: 0,
            acked: 0,
        });
    }

    /// The masters' word on the present reign's set.
    pub(super) fn learn(&mut self, version: u64, in_sync: Vec<StoreId>, set: Option<&VolumeSet>) {
        let eager = self.bug == Some(Bug::EqualVersionIsNews);
        let Some(reign) = &mut self.reign else { return };
        if version > reign.set_version || (eager && version == reign.set_version) {
            reign.set_version = version;
            reign.set = in_sync;
            reign.proposed.clear();
        }
        if let Some(set) = set {
            reign.members = set.members().map(|r| r.store).collect();
            if reign.durability != set.durability {
                reign.durability_was = Some(reign.durability);
                reign.durability = set.durability;
            }
            reign.confirm = set.durability_was.is_some();
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.assigned.0
    }

    /// A host's write arrives. True when it was taken.
    pub(super) fn write(&mut self, value: u64) -> bool {
        let Some(_) = &self.reign else { return false };
        Rc::make_mut(&mut self.log).push((self.assigned.0, Some(value)));
        true
    }

    /// So many entries of the local log were synced.
    pub(super) fn synced(&mut self, entries: usize) {
        self.durable = self.durable.max(entries.min(self.log.len()));
    }

    /// Stores that must hold a lease and have acknowledged: any set that may be registered.
    fn sets(&self) -> impl Iterator<Item = &Vec<StoreId>> {
        let reign = self.reign.as_ref();
        reign
            .into_iter()
            .flat_map(|reign| reign.proposed.iter().chain([&reign.set]))
    }

    pub(super) fn may_serve(&self, now: Ms) -> bool {
        let Some(reign) = &self.reign else {
            return false;
        };
        let leased = |store: &StoreId| {
            *store == self.store || reign.peers.get(store).is_some_and(|peer| peer.lease > now)
        };
        let leased = match self.bug {
            Some(Bug::NoLeaseCheck) => true,
            Some(Bug::LeaseOfOldSetOnly) => reign.set.iter().all(leased),
            _ => self.sets().flatten().all(leased),
        };
        let settled = self.committed >= reign.start || self.bug == Some(Bug::ServeBeforeSettled);
        settled && leased
    }

    /// Moves the commit point, and returns the values completed by that.
    pub(super) fn commit(&mut self, now: Ms) -> Vec<u64> {
        let Some(reign) = &self.reign else {
            return Vec::new();
        };
        let durable_on = |store: &StoreId| {
            if *store == self.store {
                self.durable
            } else {
                reign.peers.get(store).map_or(0, |peer| peer.durable)
            }
        };
        let mut to = self.durable;
        for mode in [Some(reign.durability), reign.durability_was]
            .into_iter()
            .flatten()
        {
            if mode == Durability::BestEffort {
                continue;
            }
            for set in self.sets() {
                let mut durables: Vec<_> = set.iter().map(durable_on).collect();
                durables.sort_unstable();
                let spare = usize::from(mode == Durability::SyncQuorum && set.len() >= 3);
                let counted = durables[spare];
                // By counting, a record of an older reign is committed only with one of this.
                let own = spare == 0 || counted >= reign.start;
                to = to.min(if own { counted } else { 0 });
            }
            if mode == Durability::SyncQuorum {
                let mut all: Vec<_> = reign.members.iter().map(durable_on).collect();
                all.sort_unstable();
                to = to.min(if all.len() < 2 { 0 } else { all[all.len() - 2] });
            }
        }
        self.committed = self.committed.max(to);
        if !self.may_serve(now) {
            return Vec::new();
        }
        let reign = self.reign.as_mut().expect("it reigns");
        let from = reign.acked.max(reign.start).min(self.committed);
        reign.acked = self.committed;
        let own = self.log[from..self.committed].iter();
        own.filter_map(|entry| entry.1.filter(|v| *v > 0)).collect()
    }

    /// The primary's messages: to each other member the log.
    pub(super) fn heartbeat(&mut self, now: Ms, fills: bool) -> Vec<(StoreId, Sync)> {
        let Some(reign) = &mut self.reign else {
            return Vec::new();
        };
        let others = reign.members.iter().filter(|store| **store != self.store);
        let sync = Sync {
            epoch: self.assigned.0,
            log: self.log.clone(),
            committed: self.committed,
            sent: now,
            fills,
        };
        others.map(|store| (*store, sync.clone())).collect()
    }

    /// The secondary's side of it; `resyncs`: the log does not reach back for this one.
    pub(super) fn on_sync(&mut self, now: Ms, sync: &Sync, resyncs: bool) -> Option<Ack> {
        if sync.epoch != self.assigned.0 || sync.epoch < self.promised || self.reign.is_some() {
            return None;
        }
        let same = self.log.iter().zip(sync.log.iter());
        let common = same.take_while(|(a, b)| a.0 == b.0).count();
        let kept = common >= self.committed || self.bug.is_some();
        assert!(
            kept,
            "a commit is cut: {} by {}",
            self.describe(),
            sync.epoch
        );
        let mut log: Vec<_> = sync.log.to_vec();
        let lacks = resyncs && common < sync.committed && !self.resyncing;
        if (lacks || self.resyncing) && !sync.fills {
            self.resyncing = true;
            // What it had stays, what came in between is not here yet.
            for (i, entry) in log.iter_mut().enumerate().take(sync.committed) {
                let had = self
                    .log
                    .get(i)
                    .is_some_and(|e| e.0 == entry.0 && e.1.is_some());
                if !had {
                    entry.1 = None;
                }
            }
        } else {
            self.resyncing = false;
        }
        self.log = Rc::new(log);
        self.durable = self.durable.min(common);
        self.committed = self.committed.max(sync.committed.min(self.durable));
        self.primary_heard = Some(now);
        self.granted_until = self.granted_until.max(now + LEASE + LEASE_MARGIN);
        Some(Ack {
            epoch: sync.epoch,
            durable: self.durable,
            resyncing: self.resyncing,
            sent: sync.sent,
        })
    }

    pub(super) fn on_ack(&mut self, now: Ms, from: StoreId, ack: Ack) {
        if ack.epoch != self.assigned.0 {
            return;
        }
        if let Some(reign) = &mut self.reign {
            let peer = reign.peers.entry(from).or_default();
            peer.durable = ack.durable;
            peer.resyncing = ack.resyncing;
            peer.lease = peer.lease.max(ack.sent + LEASE);
            peer.heard = now;
            peer.attached = true;
        }
    }

    /// What the primary wants of the masters now.
    pub(super) fn wish(&mut self, now: Ms) -> Option<Wish> {
        let committed = self.committed;
        let (bug, me) = (self.bug, self.store);
        let reign = self.reign.as_mut()?;
        if now < reign.asked + HEARTBEAT {
            return None;
        }
        let heard = |store: &StoreId| {
            let heard = reign
                .peers
                .get(store)
                .map_or(reign.began, |p| p.heard.max(reign.began));
            now < heard + PEER_SILENCE
        };
        let trusts = bug == Some(Bug::ResyncingPromoted);
        let level = |store: &StoreId| {
            let peer = reign.peers.get(store);
            let level = |p: &Peer| p.durable >= committed || bug == Some(Bug::JoinBehind);
            *store == me || peer.is_some_and(|p| level(p) && p.attached && (!p.resyncing || trusts))
        };
        let mut wanted: Vec<_> = reign.set.clone();
        wanted.retain(|store| *store == me || heard(store));
        let shrinks = wanted.len() < reign.set.len();
        let quorum =
            [Some(reign.durability), reign.durability_was].contains(&Some(Durability::SyncQuorum));
        if shrinks && quorum && !wanted.iter().all(level) {
            return None;
        }
        if !shrinks {
            let room = if quorum { 3 } else { 4 };
            let joins =
                |store: &&StoreId| !reign.set.contains(store) && level(store) && heard(store);
            let joining = reign.members.iter().find(joins);
            wanted.extend(joining.filter(|_| reign.set.len() < room));
        }
        let changed = reign.durability_was.is_some() && wanted.iter().all(level);
        if changed {
            reign.durability_was = None;
        }
        let confirms = reign.confirm && reign.durability_was.is_none();
        let undecided = !reign.proposed.is_empty();
        if wanted == reign.set && !confirms && !undecided {
            return None;
        }
        reign.asked = now;
        if !reign.proposed.contains(&wanted) {
            reign.proposed.push(wanted.clone());
        }
        Some(Wish {
            epoch: self.assigned.0,
            set_version: reign.set_version,
            in_sync: wanted,
            settled: reign.durability_was.is_none().then_some(reign.durability),
        })
    }

    pub(super) fn report(&self, now: Ms) -> CopyReport {
        let silent = self
            .primary_heard
            .map(|heard| Duration::from_millis(now.saturating_sub(heard)));
        let state = match &self.reign {
            Some(_) => CopyState::Primary {
                serving: self.may_serve(now),
            },
            None if self.resyncing => CopyState::Resyncing {
                left_bytes: 1,
                primary_silent: silent,
            },
            None => CopyState::Secondary {
                primary_silent: silent,
            },
        };
        CopyReport {
            store: self.store,
            state,
            epoch: self.assigned.0,
            promised: self.promised,
            durable: Lsn(self.durable as u64),
            committed: Lsn(self.committed as u64),
        }
    }

    /// For a message about what hangs.
    pub(super) fn describe(&self) -> String {
        format!(
            "{:?} promised {} assigned {:?} durable {} committed {} resyncing {} reign {:?}",
            self.store,
            self.promised,
            self.assigned,
            self.durable,
            self.committed,
            self.resyncing,
            self.reign
        )
    }

    /// The first of `values` that a read here cannot see.
    pub(super) fn misses(&self, values: &[u64]) -> Option<u64> {
        let mut seen = alloc::vec![false; self.log.len() + values.len() + 1024];
        for entry in &self.log[..self.committed.min(self.log.len())] {
            let value = usize::try_from(entry.1.unwrap_or(0)).expect("small");
            if value >= seen.len() {
                seen.resize(2 * value, false);
            }
            seen[value] = true;
        }
        let unseen = |value: &u64| {
            let value = usize::try_from(*value).expect("small");
            seen.get(value) != Some(&true)
        };
        values.iter().copied().find(unseen)
    }
}
