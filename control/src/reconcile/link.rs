//! One connected volume server: what it said last, and the orders it was given.

use super::{Answer, Order, Report, Role, Server, StoreReport};
use crate::limits::{REPLY_WAIT, RETRY_MAX};
use crate::registry::{State, Volume};
use holdfast_core::id::{StoreId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Sent { request: u64, at: Duration },
    Done { at: Duration },
    Failed { retry_at: Duration, answer: Answer },
}

/// An order about one copy.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) store: StoreId,
    /// Registry revision of the volume when it was given; zero for a removal.
    pub(super) revision: u64,
    mark: u64,
    pub(super) removal: bool,
    pub(super) create: bool,
    /// Last wait before a repetition; zero before the first failure.
    pub(super) wait: Duration,
    pub(super) progress: Progress,
}

#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) server: Server,
    pub(super) report: Report,
    /// When that came.
    pub(super) reported_at: Duration,
    pub(super) tasks: BTreeMap<VolumeId, Task>,
    pub(super) unknown: BTreeSet<VolumeId>,
    /// Stores that the last report has and the one before had not.
    pub(super) returned: BTreeSet<StoreId>,
    /// Volumes whose copy to be discarded is gone, so that it may be created again.
    pub(super) cleared: BTreeSet<VolumeId>,
}

impl Link {
    pub(super) fn to(server: Server) -> Link {
        Link {
            server,
            report: Report::default(),
            reported_at: Duration::ZERO,
            tasks: BTreeMap::new(),
            unknown: BTreeSet::new(),
            returned: BTreeSet::new(),
            cleared: BTreeSet::new(),
        }
    }

    pub(super) fn take_report(&mut self, report: Report, mut note: impl FnMut(String)) {
        let serving = |report: &Report| -> BTreeSet<StoreId> {
            let serving = report.stores.iter().filter(|store| store.failed.is_empty());
            serving.filter_map(|store| store.id).collect()
        };
        // Orders that an absent store refused are given again as soon as it is back.
        let (now, before) = (serving(&report), serving(&self.report));
        self.returned = now.difference(&before).copied().collect();
        for store in &report.stores {
            let before = self.report.stores.iter().find(|old| old.path == store.path);
            let failed_before = before.map_or("", |old| old.failed.as_str());
            if store.failed != failed_before {
                let text = if store.failed.is_empty() {
                    "serves again"
                } else {
                    &store.failed
                };
                note(format!("store {}: {text}", store.path));
            }
        }
        self.report = report;
    }

    pub(super) fn serves(&self, id: StoreId) -> bool {
        let serves = |store: &StoreReport| store.id == Some(id) && store.failed.is_empty();
        self.report.stores.iter().any(serves)
    }

    pub(super) fn in_flight(&self) -> usize {
        let sent = |task: &&Task| matches!(task.progress, Progress::Sent { .. });
        self.tasks.values().filter(sent).count()
    }

    /// Whether the order with that mark is to be given now.
    pub(super) fn is_due(&self, now: Duration, volume: &Volume, store: StoreId, mark: u64) -> bool {
        let Some(task) = self.tasks.get(&volume.id) else {
            return true;
        };
        if task.mark != mark || task.store != store {
            return true;
        }
        match &task.progress {
            Progress::Sent { at, .. } => now >= *at + REPLY_WAIT,
            Progress::Failed { retry_at, .. } => now >= *retry_at,
            // It was so and is no more: the order counts for nothing. A report may be older than the
            // reply, so some time must pass.
            Progress::Done { at } => {
                let seen = self.report.volumes.get(&volume.id);
                let in_force = match task.removal {
                    true => seen.is_none_or(|seen| seen.store != store),
                    false => seen.is_some_and(|seen| {
                        let grows = seen.role != Role::Secondary && seen.serving;
                        let grown = !grows || seen.size_bytes >= volume.size_bytes;
                        seen.epoch >= volume.epoch && grown
                    }),
                };
                !in_force && now >= *at + RETRY_MAX
            }
        }
    }

    /// Tombstoned volumes that are reported.
    pub(super) fn risen(
        &self,
        now: Duration,
        desired: &State,
    ) -> impl Iterator<Item = (VolumeId, StoreId)> {
        let found = self.report.volumes.iter().filter(move |(id, _)| {
            let due = match self.tasks.get(id).map(|task| &task.progress) {
                None => true,
                Some(Progress::Sent { at, .. }) => now >= *at + REPLY_WAIT,
                Some(Progress::Failed { retry_at, .. }) => now >= *retry_at,
                Some(Progress::Done { at }) => now >= *at + RETRY_MAX,
            };
            desired.tombstones.contains_key(id) && due
        });
        found.map(|(id, copy)| (*id, copy.store))
    }

    pub(super) fn start(
        &mut self,
        now: Duration,
        request: u64,
        store: StoreId,
        order: &Order,
        mark: u64,
    ) {
        let (id, revision, create) = match order {
            Order::Assign(order) => (order.volume.id, order.volume.revision, order.create),
            Order::Remove(id) => (*id, 0, false),
        };
        let removal = matches!(order, Order::Remove(_));
        // The wait survives a repeated failure of the same order, and nothing else.
        let before = self.tasks.get(&id).filter(|task| task.mark == mark);
        let task = Task {
            store,
            revision,
            mark,
            removal,
            create,
            wait: before.map_or(Duration::ZERO, |task| task.wait),
            progress: Progress::Sent { request, at: now },
        };
        self.tasks.insert(id, task);
    }

    /// Finds copies that nobody knows, and tells of each once.
    pub(super) fn note_unknown(&mut self, desired: &State, mut note: impl FnMut(String)) {
        let known = |id: &VolumeId, store: StoreId| {
            let volume = desired.volumes.get(id);
            let placed = volume.is_some_and(|volume| {
                volume.replica(store).is_some() || volume.retired.contains(&store)
            });
            placed || desired.tombstones.contains_key(id)
        };
        let found = self.report.volumes.iter();
        let found = found.filter(|(id, copy)| !known(id, copy.store));
        let found: BTreeSet<VolumeId> = found.map(|(id, _)| *id).collect();
        for id in found.difference(&self.unknown) {
            note(format!(
                "volume {id} is stored here and not in the registry: left alone, not served"
            ));
        }
        self.unknown = found;
    }
}
