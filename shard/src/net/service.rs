//! The iSCSI side of a shard: its targets, its connections, and for the accepting shard the directory.
//!
//! Bounds: connections in all ([`CONNECTIONS_MAX`], less when descriptors are few), half-open ones
//! among them ([`HALF_OPEN_MAX`]; the oldest makes room for the newest, so a flood of half-open logins
//! neither exhausts memory nor keeps a good host out), transfer memory ([`Budget`]).

use super::budget::Budget;
use super::connection::Conn;
use super::directory::{Announcement, Directory};
use super::handover::Handover;
use super::output::{self, Output};
use super::route::{Here, Route};
use super::{listen, reader};
use crate::disk::file::FileDisk;
use crate::limits::{
    COMMANDS_IN_FLIGHT_MAX, CONNECTION_BYTES, CONNECTIONS_MAX, DESCRIPTORS_PER_CONNECTION,
    DESCRIPTORS_RESERVED, HALF_OPEN_MAX, LOG_OUT_MAX, READS_WAITING_MAX, SCRATCH_BYTES,
};
use crate::messages::{ShardSender, ToShard};
use crate::runtime::slots::Slots;
use crate::runtime::{socket, task};
use crate::shard::{ATTRIBUTES_LOST, VolumeEntry};
use crate::volume::Volume;
use holdfast_core::engine::Serve;
use holdfast_core::id::VolumeId;
use holdfast_core::link::{Assignment, Role};
use holdfast_iscsi::access::Access;
use holdfast_iscsi::effect::PeerId;
use holdfast_iscsi::scsi::alua::Paths;
use holdfast_iscsi::scsi::geometry::LogicalBlock;
use holdfast_iscsi::scsi::nexus::TARGET_PORT;
use holdfast_iscsi::scsi::unit::{Keeping, LogicalUnit, UnitConfig};
use holdfast_iscsi::target::{Entrance, Target, TargetAddress, TargetConfig};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tracing::{debug, info, warn};

/// Shard ticks between two ticks of a connection.
const TICKS_PER_CONNECTION_TICK: u32 = 10;

/// A target that is served here.
pub(super) struct TargetEntry {
    pub(super) target: RefCell<Target>,
    pub(super) volume: Rc<Volume<FileDisk>>,
    pub(super) connections: RefCell<HashMap<PeerId, Weak<Conn>>>,
    /// Of a volume with several copies.
    route: RefCell<Option<Route>>,
    serving: Cell<bool>,
}

/// What connections share.
pub(super) struct Inner {
    pub(super) shard: usize,
    portals: Vec<String>,
    pub(super) peers: RefCell<Vec<ShardSender>>,
    pub(super) write_budget: Budget,
    pub(super) read_budget: Budget,
    pub(super) commands: Slots,
    pub(super) waiting: Slots,
    pub(super) targets: RefCell<HashMap<String, Rc<TargetEntry>>>,
    pub(super) directory: RefCell<Directory>,
    pub(super) scratch: RefCell<Vec<u8>>,
    connections: RefCell<HashMap<PeerId, Rc<Conn>>>,
    connections_max: usize,
    /// In order of arrival; may name connections that are no longer half-open.
    half_open: RefCell<VecDeque<PeerId>>,
    peers_made: Cell<u64>,
    closing: Cell<bool>,
    ticks: Cell<u32>,
}

/// The iSCSI side of a shard.
pub(crate) struct Service(Rc<Inner>);

impl Service {
    /// Serves nothing yet. `transfer_bytes` bounds the memory of transfers; `portals` is what
    /// discovery tells hosts.
    pub(crate) fn new(
        shard: usize,
        peers: Vec<ShardSender>,
        transfer_bytes: u64,
        open_files: u64,
        portals: Vec<String>,
    ) -> Self {
        let descriptors =
            open_files.saturating_sub(DESCRIPTORS_RESERVED) / peers.len().max(1) as u64;
        let affordable = descriptors / DESCRIPTORS_PER_CONNECTION;
        let connections_max = usize::try_from(affordable).unwrap_or(usize::MAX);
        Service(Rc::new(Inner {
            shard,
            portals,
            peers: RefCell::new(peers),
            write_budget: Budget::new(transfer_bytes / 2),
            read_budget: Budget::new(transfer_bytes / 2),
            commands: Slots::new(COMMANDS_IN_FLIGHT_MAX),
            waiting: Slots::new(READS_WAITING_MAX),
            targets: RefCell::default(),
            directory: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES]),
            connections: RefCell::default(),
            connections_max: connections_max.clamp(16, CONNECTIONS_MAX),
            half_open: RefCell::default(),
            peers_made: Cell::new(0),
            closing: Cell::new(false),
            ticks: Cell::new(0),
        }))
    }

    /// Accepts on a listening socket until the end.
    pub(crate) fn listen(&self, listener: OwnedFd) {
        task::spawn(listen::accept(Rc::clone(&self.0), listener));
    }

    /// Continues a login that named a target of this shard.
    pub(crate) fn take_over(&self, handover: Handover) {
        self.0.adopt(handover);
    }

    /// Learns of a target of some shard.
    pub(crate) fn on_announcement(&self, announcement: Announcement) {
        self.0.directory.borrow_mut().apply(announcement);
    }

    /// Makes or changes the target of a volume. The error is for people.
    pub(crate) fn serve(&self, entry: &VolumeEntry, assignment: &Assignment) -> Result<(), String> {
        let access = match &assignment.access {
            Some(access) => Access::try_from(access).map_err(|error| error.to_string())?,
            None => Access::default(),
        };
        let volume = &entry.volume;
        let route = Route::of(assignment);
        let portals = match &route {
            Some(route) => route.addresses(),
            None => self.portals_of(assignment),
        };
        let name = assignment.iqn.to_lowercase();
        self.withdraw_except(volume.id(), &name);
        let served = self.0.targets.borrow().get(&name).cloned();
        let target = match served {
            Some(target) if target.volume.id() != volume.id() => {
                return Err(format!("{name} is the target of another volume"));
            }
            Some(target) => {
                let mut machine = target.target.borrow_mut();
                machine.set_access(access);
                machine.set_portals(portals);
                machine.unit_mut().capacity_changed(assignment.size_bytes);
                machine.unit_mut().set_keeping(keeping(assignment));
                drop(machine);
                target
            }
            None => self.make_target(entry, assignment, &name, access, portals)?,
        };
        target.route_is(route);
        let announcement = target.target.borrow().announcement();
        self.announce(name, Some(announcement));
        Ok(())
    }

    /// What the agent says, else what the process listens on.
    fn portals_of(&self, assignment: &Assignment) -> Vec<TargetAddress> {
        let addresses = if assignment.advertised_portals.is_empty() {
            &self.0.portals
        } else {
            &assignment.advertised_portals
        };
        let with_group = |address: &String| TargetAddress {
            address: address.clone(),
            group: TARGET_PORT,
        };
        addresses.iter().map(with_group).collect()
    }

    fn make_target(
        &self,
        entry: &VolumeEntry,
        assignment: &Assignment,
        name: &str,
        access: Access,
        portals: Vec<TargetAddress>,
    ) -> Result<Rc<TargetEntry>, String> {
        let volume = &entry.volume;
        let config = UnitConfig {
            volume: volume.id(),
            target_name: name.to_owned(),
            capacity_bytes: assignment.size_bytes,
            block: LogicalBlock::Bytes512,
            keeping: keeping(assignment),
        };
        let machine = volume.store().machine();
        // Never as if none had been saved.
        let Some(attributes) = machine.attributes(volume.id()) else {
            return Err(ATTRIBUTES_LOST.into());
        };
        let unit = LogicalUnit::new(config, attributes)
            .map_err(|error| format!("the volume's saved reservations: {error}"))?;
        let target = Target::new(TargetConfig {
            name: name.to_owned(),
            unit,
            access,
            portals,
        });
        let target = Rc::new(TargetEntry {
            target: RefCell::new(target),
            volume: Rc::clone(volume),
            connections: RefCell::default(),
            route: RefCell::default(),
            serving: Cell::new(false),
        });
        self.0
            .targets
            .borrow_mut()
            .insert(name.to_owned(), Rc::clone(&target));
        Ok(target)
    }

    /// Stops serving a volume; its hosts are logged out.
    pub(crate) fn withdraw(&self, id: VolumeId) {
        self.withdraw_except(id, "");
    }

    fn withdraw_except(&self, id: VolumeId, kept: &str) {
        let names: Vec<String> = self
            .0
            .targets
            .borrow()
            .iter()
            .filter(|(name, target)| target.volume.id() == id && *name != kept)
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let target = self.0.targets.borrow_mut().remove(&name);
            self.announce(name, None);
            for conn in target.iter().flat_map(|target| target.live()) {
                conn.shut_down();
            }
        }
    }

    /// Tells the accepting shard.
    fn announce(&self, name: String, target: Option<holdfast_iscsi::target::Announcement>) {
        let announcement = Announcement {
            name,
            shard: self.0.shard,
            target,
        };
        if self.0.shard == 0 {
            return self.on_announcement(announcement);
        }
        if self.0.peers.borrow_mut()[0]
            .send(ToShard::Announce(announcement))
            .is_err()
        {
            warn!("the accepting shard takes no messages: a target change is not announced");
        }
    }

    /// Sessions on a volume.
    pub(crate) fn sessions(&self, id: VolumeId) -> u32 {
        let targets = self.0.targets.borrow();
        let target = targets.values().find(|target| target.volume.id() == id);
        let count = target.map_or(0, |target| target.connections.borrow().len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The volume's copy has another role: hosts go where it is served now.
    pub(crate) fn role_changed(&self, id: VolumeId) {
        let targets = self.0.targets.borrow();
        let target = targets.values().find(|target| target.volume.id() == id);
        if let Some(target) = target.cloned() {
            drop(targets);
            target.follow_role();
        }
    }

    /// Time passed.
    pub(crate) fn tick(&self) {
        let targets: Vec<_> = self.0.targets.borrow().values().cloned().collect();
        for target in targets {
            target.follow_role();
        }
        let ticks = self.0.ticks.get().wrapping_add(1);
        self.0.ticks.set(ticks);
        if ticks.is_multiple_of(TICKS_PER_CONNECTION_TICK) {
            for conn in self.0.all() {
                conn.tick();
            }
        }
    }

    /// Bytes that connections and transfers have used at most since the last call, about.
    pub(crate) fn take_memory_peak(&self) -> u64 {
        let transfers = self.0.read_budget.take_peak() + self.0.write_budget.take_peak();
        transfers as u64 + self.0.connections.borrow().len() as u64 * CONNECTION_BYTES
    }

    /// Asks all hosts to log out and waits until they are gone, a bounded time.
    pub(crate) async fn log_out_all(&self) {
        /// Between two looks at who is still there.
        const POLL: Duration = Duration::from_millis(10);
        self.0.closing.set(true);
        for conn in self.0.all() {
            conn.shut_down();
        }
        let start = task::now();
        while !self.0.connections.borrow().is_empty() && task::now() - start < LOG_OUT_MAX {
            task::sleep(POLL).await;
        }
        for conn in self.0.all() {
            info!(host = conn.remote, "the host did not log out: cut off");
            conn.cut();
            conn.on_socket_gone();
        }
        self.0.waiting.drained().await;
        self.0.commands.drained().await;
    }
}

impl TargetEntry {
    /// Takes the way to the volume as assigned.
    fn route_is(&self, route: Option<Route>) {
        let alone = route.is_none();
        self.route.replace(route);
        if alone {
            let mut target = self.target.borrow_mut();
            target.set_entrance(Entrance::Open);
            target.unit_mut().set_paths(Paths::default());
        } else {
            self.follow_role();
            self.show(self.here());
        }
    }

    fn here(&self) -> Here {
        if self.serving.get() {
            Here::Serving
        } else {
            Here::NotServing
        }
    }

    /// Opens to hosts when the copy begins to serve, closes when it has stopped. A lease that is late
    /// changes nothing: commands wait for it.
    fn follow_role(&self) {
        if self.route.borrow().is_none() {
            return;
        }
        let (store, id) = (self.volume.store(), self.volume.id());
        match store.may_serve(id) {
            Serve::Yes if !self.serving.get() => {
                // Another primary may have kept the reservations until now.
                let machine = store.machine();
                let Some(attributes) = machine.attributes(id) else {
                    return warn!(volume = %id, "not served: {ATTRIBUTES_LOST}");
                };
                let taken = self.target.borrow_mut().unit_mut().take_over(attributes);
                if let Err(error) = taken {
                    return warn!(volume = %id, "not served: {error}");
                }
                self.serving.set(true);
                self.show(Here::Serving);
            }
            Serve::No(_) if self.serving.get() => {
                self.serving.set(false);
                self.show(Here::NotServing);
                let ends = self
                    .route
                    .borrow()
                    .as_ref()
                    .is_some_and(Route::ends_sessions);
                // Without an answer: the host tries again what it waits for, behind the next login.
                for conn in self.live().iter().filter(|_| ends) {
                    conn.cut();
                }
            }
            Serve::Yes | Serve::No(_) | Serve::Wait => {}
        }
    }

    /// What hosts see of it.
    fn show(&self, here: Here) {
        if let Some(route) = &*self.route.borrow() {
            let mut target = self.target.borrow_mut();
            target.set_entrance(route.entrance(here));
            target.unit_mut().set_paths(route.paths(here));
        }
    }

    fn live(&self) -> Vec<Rc<Conn>> {
        self.connections
            .borrow()
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

impl Inner {
    /// Whether the process is ending.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// A number for a connection, unique in the process because only one shard accepts.
    pub(super) fn next_peer(&self) -> PeerId {
        self.peers_made.set(self.peers_made.get() + 1);
        PeerId(self.peers_made.get())
    }

    /// Makes sure that one more connection fits; false when it cannot.
    pub(super) fn make_room(&self) -> bool {
        let mut half_open = self.half_open.borrow_mut();
        let connections = self.connections.borrow();
        half_open.retain(|peer| {
            connections
                .get(peer)
                .is_some_and(|conn| conn.is_half_open())
        });
        let full = connections.len() >= self.connections_max;
        if !full && half_open.len() < HALF_OPEN_MAX {
            return true;
        }
        let oldest = half_open
            .pop_front()
            .and_then(|peer| connections.get(&peer));
        if let Some(oldest) = oldest {
            debug!(
                host = oldest.remote,
                "an unfinished login makes room for a newer one"
            );
            oldest.cut();
        }
        !full || oldest.is_some()
    }

    /// Runs a connection on this shard.
    pub(super) fn adopt(self: &Rc<Self>, handover: Handover) {
        let Handover {
            fd,
            machine,
            peer,
            remote,
            unread,
            target_name,
        } = handover;
        let (reader, writer, ender) = match socket::split(fd) {
            Ok(halves) => halves,
            Err(error) => return warn!(host = remote, "no descriptors for a connection: {error}"),
        };
        let (output, ender) = (Rc::new(Output::default()), Rc::new(ender));
        let conn = Conn::new(
            Rc::clone(self),
            peer,
            remote,
            machine,
            Rc::clone(&output),
            Rc::clone(&ender),
        );
        self.connections.borrow_mut().insert(peer, Rc::clone(&conn));
        task::spawn(output::write(output, writer, ender));
        if target_name.is_empty() {
            self.half_open.borrow_mut().push_back(peer);
        } else {
            let target = self.targets.borrow().get(&target_name).cloned();
            conn.bind(target);
        }
        task::spawn(reader::read(Rc::clone(self), conn, reader, unread));
    }

    /// Forgets a connection that moved to another shard; its socket lives on there.
    pub(super) fn leave(&self, conn: &Conn) {
        conn.output.depart();
        self.forget(conn.peer);
    }

    /// Forgets a connection.
    pub(super) fn forget(&self, peer: PeerId) {
        self.connections.borrow_mut().remove(&peer);
    }

    fn all(&self) -> Vec<Rc<Conn>> {
        self.connections.borrow().values().cloned().collect()
    }
}

fn keeping(assignment: &Assignment) -> Keeping {
    match assignment.role() {
        Role::Alone => Keeping::Wanted,
        Role::Primary | Role::Secondary => Keeping::All,
    }
}
