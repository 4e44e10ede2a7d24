//! Reconcile: compares what should be (registry) with what is (reports) and gives orders.
//!
//! It decides for ever and is never finished: each event ends in a look at every volume. An order is
//! kept until a reply OK with its request id came, and is given again after each reconnect; applying
//! it twice is the same as once. `create` is set only while no volume server has ever confirmed the
//! volume. A volume that the registry does not know is reported and left alone; one with a tombstone
//! is removed.

use crate::limits::{ORDERS_IN_FLIGHT_MAX, REPLY_WAIT, RETRY_MAX, RETRY_MIN};
use crate::registry::{State, Volume};
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::lsn::Epoch;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// A store as its volume server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// `None` when it could not be read.
    pub id: Option<StoreId>,
    /// Path on the command line of the volume server.
    pub path: String,
    /// Why it does not serve; empty while it does.
    pub failed: String,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes not used.
    pub free_bytes: u64,
    /// Bytes of the log in use.
    pub wal_used_bytes: u64,
    /// Bytes of the log.
    pub wal_capacity_bytes: u64,
    /// Shard that owns it.
    pub shard: u32,
}

/// A volume as its volume server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeReport {
    /// Which.
    pub id: VolumeId,
    /// Store it is on.
    pub store: StoreId,
    /// The reign under which it is served; `Epoch(0)`: stored, not assigned.
    pub epoch: Epoch,
    /// Size.
    pub size_bytes: u64,
    /// Bytes it occupies.
    pub used_bytes: u64,
    /// Sessions logged in.
    pub sessions: u32,
    /// Why it is not served; empty while it is.
    pub failed: String,
}

/// What a volume server says it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its stores.
    pub stores: Vec<StoreReport>,
    /// Their volumes.
    pub volumes: BTreeMap<VolumeId, VolumeReport>,
    /// Stores that it is still opening; not among `stores`.
    pub stores_opening: u32,
}

/// A volume server that said hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Process id.
    pub pid: u32,
    /// Where its portals listen.
    pub portals: Vec<String>,
}

/// Result of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done and durable.
    Done,
    /// Not done; a later attempt may succeed.
    Later(String),
    /// Not done, and it will not be while nothing else changes.
    Refused(String),
    /// The store has no room.
    NoSpace(String),
}

/// What the reconciler learns.
#[derive(Clone, Debug)]
pub enum Event {
    /// A volume server is connected, in place of none.
    Connected(Server, Report),
    /// It is gone.
    Disconnected,
    /// It says what is.
    Reported(Report),
    /// It answers an order.
    Answered(u64, Answer),
    /// The registry changed, or time passed.
    Look,
}

/// What is to be done by the volume server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Serve it, or change how it is served.
    Assign {
        /// The whole assignment.
        volume: Box<Volume>,
        /// It may be created.
        create: bool,
        /// Addresses to announce to hosts; empty: the one they came to.
        portals: Vec<String>,
    },
    /// Stop serving it and free its space.
    Remove(VolumeId),
}

/// What the reconciler wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send to the volume server.
    Send(u64, Order),
    /// The volume exists there: remember it.
    Created(VolumeId),
    /// The volume is gone there: bury it.
    Removed(VolumeId),
    /// For the event log.
    Note(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Sent { request: u64, at: Duration },
    Done { at: Duration },
    Failed { retry_at: Duration, answer: Answer },
}

/// An order about one volume.
#[derive(Clone, Debug)]
struct Task {
    revision: u64,
    removal: bool,
    /// Last wait before a repetition; zero before the first failure.
    wait: Duration,
    progress: Progress,
}

#[derive(Clone, Debug)]
struct Link {
    server: Server,
    report: Report,
    tasks: BTreeMap<VolumeId, Task>,
    unknown: BTreeSet<VolumeId>,
    /// Stores that the last report has and the one before had not.
    returned: BTreeSet<StoreId>,
}

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Reconciler {
    link: Option<Link>,
    last_request: u64,
}

/// How a volume is, for people and callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Registered, not served yet.
    Creating,
    /// Hosts can log in.
    Serving,
    /// Should be served and is not.
    Unavailable,
    /// To be removed.
    Deleting,
}

/// Condition of a volume, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// How it is.
    pub condition: Condition,
    /// Why it is not serving; empty while it is.
    pub reason: String,
    /// The newest access is in force.
    pub current: bool,
    /// The store said that there is no room for it.
    pub no_space: bool,
}

impl Reconciler {
    /// Learns `event` and looks at every volume of `desired`. Cost: O(volumes).
    pub fn step(
        &mut self,
        now: Duration,
        desired: &State,
        event: Event,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Connected(server, report) => self.on_connected(server, report, effects),
            Event::Disconnected => self.on_disconnected(effects),
            Event::Reported(report) => self.on_report(report, effects),
            Event::Answered(request, answer) => {
                self.on_answer(now, desired, request, answer, effects);
            }
            Event::Look => {}
        }
        self.look(now, desired, effects);
    }

    /// The connected volume server.
    pub fn server(&self) -> Option<&Server> {
        self.link.as_ref().map(|link| &link.server)
    }

    /// The last report of the connected volume server.
    pub fn report(&self) -> Option<&Report> {
        self.link.as_ref().map(|link| &link.report)
    }

    /// Volumes on the stores that the registry does not know.
    pub fn unknown(&self) -> impl Iterator<Item = VolumeId> {
        self.link
            .iter()
            .flat_map(|link| link.unknown.iter().copied())
    }

    /// How `volume` is.
    pub fn status(&self, volume: &Volume) -> Status {
        let Some(link) = &self.link else {
            return Status::waiting(volume, "no volume server is connected".into());
        };
        let task = link.tasks.get(&volume.id);
        let reported = link.report.volumes.get(&volume.id);
        let done = task.is_some_and(|task| {
            task.revision == volume.revision && matches!(task.progress, Progress::Done { .. })
        });
        if let Some(reported) = reported {
            let serves = reported.epoch == volume.epoch && reported.failed.is_empty();
            if serves && !volume.deleting {
                return Status::serving(done);
            }
            if !reported.failed.is_empty() {
                return Status::waiting(volume, reported.failed.clone());
            }
            if reported.epoch > volume.epoch {
                let reason = format!(
                    "the volume server knows {}, the registry {}: the registry is older than the \
                     store; restore the newer registry",
                    reported.epoch, volume.epoch
                );
                return Status::waiting(volume, reason);
            }
        }
        if let Some(Progress::Failed { answer, .. }) = task.map(|task| &task.progress) {
            let mut status = Status::waiting(volume, answer.reason().to_owned());
            status.no_space = matches!(answer, Answer::NoSpace(_));
            return status;
        }
        let store = link
            .report
            .stores
            .iter()
            .find(|store| store.id == Some(volume.store));
        let reason = match store {
            None => format!("store {} is not connected", volume.store),
            Some(store) if !store.failed.is_empty() => {
                format!("store {}: {}", store.path, store.failed)
            }
            Some(_) => "waiting for the volume server".into(),
        };
        Status::waiting(volume, reason)
    }

    fn on_connected(&mut self, server: Server, report: Report, effects: &mut Vec<Effect>) {
        assert!(self.link.is_none()); // The agent lets one in at a time.
        effects.push(Effect::Note(format!(
            "volume server {} connected",
            server.pid
        )));
        self.link = Some(Link {
            server,
            report: Report::default(),
            tasks: BTreeMap::new(),
            unknown: BTreeSet::new(),
            returned: BTreeSet::new(),
        });
        self.on_report(report, effects);
    }

    fn on_disconnected(&mut self, effects: &mut Vec<Effect>) {
        if let Some(link) = self.link.take() {
            let note = format!("volume server {} disconnected", link.server.pid);
            effects.push(Effect::Note(note));
        }
    }

    fn on_report(&mut self, report: Report, effects: &mut Vec<Effect>) {
        let Some(link) = &mut self.link else {
            return; // A late message of a link that is closed.
        };
        let serving = |report: &Report| -> BTreeSet<StoreId> {
            let serving = report.stores.iter().filter(|store| store.failed.is_empty());
            serving.filter_map(|store| store.id).collect()
        };
        // Orders that an absent store refused are given again as soon as it is back.
        let (now, before) = (serving(&report), serving(&link.report));
        link.returned = now.difference(&before).copied().collect();
        for store in &report.stores {
            let before = link.report.stores.iter().find(|old| old.path == store.path);
            let failed_before = before.map_or("", |old| old.failed.as_str());
            if store.failed != failed_before {
                let text = if store.failed.is_empty() {
                    "serves again"
                } else {
                    &store.failed
                };
                effects.push(Effect::Note(format!("store {}: {text}", store.path)));
            }
        }
        link.report = report;
    }

    fn on_answer(
        &mut self,
        now: Duration,
        desired: &State,
        request: u64,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let Some(link) = &mut self.link else {
            return;
        };
        let asked = link.tasks.iter_mut().find(
            |(_, task)| matches!(task.progress, Progress::Sent { request: sent, .. } if sent == request),
        );
        let Some((&id, task)) = asked else {
            return; // The order was given again meanwhile, or is no longer wanted.
        };
        if answer == Answer::Done {
            task.progress = Progress::Done { at: now };
            if task.removal {
                effects.push(Effect::Removed(id));
            } else if desired
                .volumes
                .get(&id)
                .is_some_and(|volume| !volume.created)
            {
                effects.push(Effect::Created(id));
            }
            return;
        }
        task.wait = (task.wait * 2).clamp(RETRY_MIN, RETRY_MAX);
        let what = if task.removal { "remove" } else { "assign" };
        effects.push(Effect::Note(format!(
            "{what} volume {id}: {}",
            answer.reason()
        )));
        task.progress = Progress::Failed {
            retry_at: now + task.wait,
            answer,
        };
    }

    fn look(&mut self, now: Duration, desired: &State, effects: &mut Vec<Effect>) {
        let Some(link) = &mut self.link else {
            return;
        };
        link.note_unknown(desired, effects);
        let known =
            |id: &VolumeId| desired.volumes.contains_key(id) || desired.tombstones.contains_key(id);
        link.tasks.retain(|id, _| known(id));
        let mut in_flight = link.in_flight();
        for volume in desired.volumes.values() {
            let seen = link.report.volumes.get(&volume.id);
            if !volume.created
                && !volume.deleting
                && seen.is_some_and(|seen| seen.epoch == volume.epoch)
            {
                effects.push(Effect::Created(volume.id)); // Its reply was lost.
            }
            if link.returned.contains(&volume.store) {
                link.tasks.remove(&volume.id);
            }
            // A store that opens later is told then, at once; a refusal now would only delay it.
            let possible = volume.deleting || link.serves(volume.store);
            if possible && in_flight < ORDERS_IN_FLIGHT_MAX && link.is_due(now, volume) {
                self.last_request += 1;
                in_flight += 1;
                link.start(
                    now,
                    self.last_request,
                    volume.id,
                    volume.revision,
                    volume.deleting,
                );
                let order = order(volume, &link.server.portals);
                effects.push(Effect::Send(self.last_request, order));
            }
        }
        link.returned.clear();
        let risen: Vec<VolumeId> = link.risen(now, desired).collect();
        for id in risen
            .into_iter()
            .take(ORDERS_IN_FLIGHT_MAX.saturating_sub(in_flight))
        {
            self.last_request += 1;
            link.start(now, self.last_request, id, 0, true);
            effects.push(Effect::Note(format!(
                "volume {id} was deleted and is back: removed again"
            )));
            effects.push(Effect::Send(self.last_request, Order::Remove(id)));
        }
    }
}

impl Link {
    fn serves(&self, id: StoreId) -> bool {
        let serves = |store: &StoreReport| store.id == Some(id) && store.failed.is_empty();
        self.report.stores.iter().any(serves)
    }

    fn in_flight(&self) -> usize {
        let sent = |task: &&Task| matches!(task.progress, Progress::Sent { .. });
        self.tasks.values().filter(sent).count()
    }

    /// Whether the order for `volume` is to be given now.
    fn is_due(&self, now: Duration, volume: &Volume) -> bool {
        let Some(task) = self.tasks.get(&volume.id) else {
            return true;
        };
        if task.revision != volume.revision || task.removal != volume.deleting {
            return true;
        }
        match &task.progress {
            Progress::Sent { at, .. } => now >= *at + REPLY_WAIT,
            Progress::Failed { retry_at, .. } => now >= *retry_at,
            // It was served and is no more: the order counts for nothing. A report may be older
            // than the reply, so some time must pass.
            Progress::Done { at } => {
                let reported = self.report.volumes.get(&volume.id);
                let served = reported.is_some_and(|seen| seen.epoch >= volume.epoch);
                !served && now >= *at + RETRY_MAX
            }
        }
    }

    /// Tombstoned volumes that are reported.
    fn risen(&self, now: Duration, desired: &State) -> impl Iterator<Item = VolumeId> {
        self.report.volumes.keys().copied().filter(move |id| {
            let due = match self.tasks.get(id).map(|task| &task.progress) {
                None => true,
                Some(Progress::Sent { at, .. }) => now >= *at + REPLY_WAIT,
                Some(Progress::Failed { retry_at, .. }) => now >= *retry_at,
                Some(Progress::Done { at }) => now >= *at + RETRY_MAX,
            };
            desired.tombstones.contains_key(id) && due
        })
    }

    fn start(&mut self, now: Duration, request: u64, id: VolumeId, revision: u64, removal: bool) {
        // The wait survives a repeated failure of the same order, and nothing else.
        let before = self.tasks.get(&id).filter(|task| task.revision == revision);
        let task = Task {
            revision,
            removal,
            wait: before.map_or(Duration::ZERO, |task| task.wait),
            progress: Progress::Sent { request, at: now },
        };
        self.tasks.insert(id, task);
    }

    fn note_unknown(&mut self, desired: &State, effects: &mut Vec<Effect>) {
        let known =
            |id: &VolumeId| desired.volumes.contains_key(id) || desired.tombstones.contains_key(id);
        let found = self.report.volumes.keys().copied().filter(|id| !known(id));
        let found: BTreeSet<VolumeId> = found.collect();
        for id in found.difference(&self.unknown) {
            effects.push(Effect::Note(format!(
                "volume {id} is stored here and not in the registry: left alone, not served"
            )));
        }
        self.unknown = found;
    }
}

impl Answer {
    fn reason(&self) -> &str {
        match self {
            Answer::Done => "",
            Answer::Later(text) | Answer::Refused(text) | Answer::NoSpace(text) => text,
        }
    }
}

impl Status {
    fn serving(current: bool) -> Status {
        Status {
            condition: Condition::Serving,
            reason: String::new(),
            current,
            no_space: false,
        }
    }

    fn waiting(volume: &Volume, reason: String) -> Status {
        let condition = if volume.deleting {
            Condition::Deleting
        } else if volume.created {
            Condition::Unavailable
        } else {
            Condition::Creating
        };
        Status {
            condition,
            reason,
            current: false,
            no_space: false,
        }
    }
}

fn order(volume: &Volume, portals: &[String]) -> Order {
    if volume.deleting {
        return Order::Remove(volume.id);
    }
    Order::Assign {
        volume: Box::new(volume.clone()),
        create: !volume.created,
        portals: announced(portals),
    }
}

/// Every host learns every portal, so that it finds all its paths. A portal on all addresses has no
/// address of its own to tell.
fn announced(portals: &[String]) -> Vec<String> {
    let address = |portal: &String| portal.parse::<SocketAddr>().ok();
    let tellable = |at: SocketAddr| !at.ip().is_unspecified();
    if portals
        .iter()
        .all(|portal| address(portal).is_some_and(tellable))
    {
        return portals.to_vec();
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
