//! One target: the logical unit of a volume, who may use it, and its sessions.
//!
//! Lives on the shard that owns the volume, together with all its connections. Sessions reach each
//! other only through this table: one posts a notice, the driver wakes the other.

use crate::access::Access;
use crate::effect::{Effect, PeerId};
use crate::limits::SESSIONS_MAX;
use crate::scsi::nexus::{InitiatorPort, Nexus, NexusId, TARGET_PORT, TargetPort};
use crate::scsi::unit::LogicalUnit;
use alloc::string::String;
use alloc::vec::Vec;

/// What a target is made from.
#[derive(Debug)]
pub struct TargetConfig {
    /// iSCSI target name, lower case.
    pub name: String,
    /// The disk, LUN 0.
    pub unit: LogicalUnit,
    /// Who may log in.
    pub access: Access,
    /// Addresses to announce; empty: where the host came to.
    pub portals: Vec<TargetAddress>,
}

/// An address by which a target can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetAddress {
    /// `ADDR:PORT`, IPv6 in brackets.
    pub address: String,
    /// Portal group tag.
    pub group: TargetPort,
}

/// What becomes of a host that logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// It may come in.
    Open,
    /// It is sent on to this address, as in [`TargetAddress`].
    Elsewhere(String),
    /// It shall try again later.
    Closed,
}

/// A target with its sessions.
#[derive(Debug)]
pub struct Target {
    name: String,
    pub(crate) unit: LogicalUnit,
    access: Access,
    portals: Vec<TargetAddress>,
    entrance: Entrance,
    sessions: Vec<Entry>,
    /// Logins that wait until the session before them is over.
    waiting: Vec<PeerId>,
    affairs: Vec<Affair>,
    next_key: u64,
    next_affair: u64,
    next_tsih: u16,
}

/// Name of a session within its target; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionKey(u64);

/// A task management function that waits for sessions to lose their tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AffairId(u64);

/// What an affair does to other sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AffairKind {
    /// The unit tells them itself.
    Reset,
    /// Those that lost tasks get a unit attention.
    ClearTaskSet,
}

/// What one session tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Abort all tasks; tell the affair when the last one is over.
    Abort(Option<AffairId>),
    /// The same for CLEAR TASK SET, which tells the unit of tasks that were taken.
    Clear(AffairId),
    /// Your affair is over: answer the function.
    AffairOver(AffairId),
    /// A new session of your port wants your place.
    Reinstated,
    /// The target was cold reset.
    ColdReset,
}

#[derive(Debug)]
struct Entry {
    key: SessionKey,
    peer: PeerId,
    port: InitiatorPort,
    tsih: u16,
    nexus: NexusId,
    notices: Vec<Notice>,
    /// Whether its connection is there; without, it only waits for its tasks.
    connected: bool,
}

#[derive(Debug)]
struct Affair {
    id: AffairId,
    owner: SessionKey,
    remaining: usize,
}

/// A session that was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) key: SessionKey,
    pub(crate) nexus: NexusId,
    pub(crate) tsih: u16,
}

/// What came of a session's wish to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Admitted(Admitted),
    /// The session before it must end first; the login is woken then.
    Wait,
    /// Too many sessions.
    Full,
}

/// One session, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo<'a> {
    /// Initiator name and ISID.
    pub port: &'a InitiatorPort,
    /// Its connection.
    pub peer: PeerId,
}

impl Target {
    /// A target without sessions.
    pub fn new(config: TargetConfig) -> Self {
        Target {
            name: config.name,
            unit: config.unit,
            access: config.access,
            portals: config.portals,
            entrance: Entrance::Open,
            sessions: Vec::new(),
            waiting: Vec::new(),
            affairs: Vec::new(),
            next_key: 1,
            next_affair: 1,
            next_tsih: 1,
        }
    }

    /// iSCSI target name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The disk.
    pub fn unit(&self) -> &LogicalUnit {
        &self.unit
    }

    /// The disk, to tell it of a new capacity.
    pub fn unit_mut(&mut self) -> &mut LogicalUnit {
        &mut self.unit
    }

    /// Who may log in.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Replaces who may log in; sessions that exist stay.
    pub fn set_access(&mut self, access: Access) {
        self.access = access;
    }

    /// Replaces the addresses to announce.
    pub fn set_portals(&mut self, portals: Vec<TargetAddress>) {
        self.portals = portals;
    }

    /// What becomes of hosts that log in.
    pub fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// Decides about hosts that log in from now on; sessions that exist stay.
    pub fn set_entrance(&mut self, entrance: Entrance) {
        self.entrance = entrance;
    }

    /// Sessions in full feature phase.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo<'_>> {
        self.sessions
            .iter()
            .filter(|entry| entry.connected)
            .map(|entry| SessionInfo {
                port: &entry.port,
                peer: entry.peer,
            })
    }

    /// What discovery says of this target.
    pub fn announcement(&self) -> Announcement {
        Announcement {
            target_name: self.name.clone(),
            portals: self.portals.clone(),
            access: self.access.clone(),
        }
    }

    /// Takes a session in, or asks the one that has its port to go.
    pub(crate) fn admit(
        &mut self,
        port: InitiatorPort,
        peer: PeerId,
        effects: &mut Vec<Effect>,
    ) -> Admission {
        //= RFC 7143 §6.3.5
        //# A login with a TSIH of 0 and the initiator name, ISID and portal group of an active session reinstates it: the old one ends first.
        if let Some(old) = self.sessions.iter().position(|entry| entry.port == port) {
            if !self.waiting.contains(&peer) {
                self.waiting.push(peer);
            }
            self.post_at(old, Notice::Reinstated, effects);
            return Admission::Wait;
        }
        self.waiting.retain(|&waiting| waiting != peer);
        if self.sessions.len() >= SESSIONS_MAX {
            return Admission::Full;
        }
        let key = SessionKey(self.next_key);
        self.next_key += 1;
        let nexus = self.unit.nexus_added(Nexus {
            initiator: port.clone(),
            target: TARGET_PORT,
        });
        let tsih = self.unused_tsih();
        self.sessions.push(Entry {
            key,
            peer,
            port,
            tsih,
            nexus,
            notices: Vec::new(),
            connected: true,
        });
        Admission::Admitted(Admitted { key, nexus, tsih })
    }

    /// Whether a session of this port with this TSIH lives.
    pub(crate) fn has_session(&self, port: &InitiatorPort, tsih: u16) -> bool {
        self.sessions
            .iter()
            .any(|entry| entry.tsih == tsih && entry.port == *port)
    }

    /// A login that waited has gone.
    pub(crate) fn stop_waiting(&mut self, peer: PeerId) {
        self.waiting.retain(|&waiting| waiting != peer);
    }

    /// The session's connection is gone; its tasks may still run.
    pub(crate) fn disconnected(&mut self, key: SessionKey) {
        let Some(entry) = self.entry(key).filter(|entry| entry.connected) else {
            return;
        };
        entry.connected = false;
        let nexus = entry.nexus;
        self.unit.nexus_lost(nexus);
    }

    /// The session's last task is over: its place is free.
    pub(crate) fn remove(&mut self, key: SessionKey, effects: &mut Vec<Effect>) {
        self.disconnected(key);
        for notice in self.take_notices(key) {
            // It has no tasks left, so whoever waits for them need not.
            if let Notice::Abort(Some(affair)) | Notice::Clear(affair) = notice {
                self.affair_done(affair, key, effects);
            }
        }
        self.sessions.retain(|entry| entry.key != key);
        effects.extend(self.waiting.iter().map(|&peer| Effect::Wake { peer }));
    }

    /// Notices of a session, oldest first.
    pub(crate) fn take_notices(&mut self, key: SessionKey) -> Vec<Notice> {
        self.entry(key)
            .map(|entry| core::mem::take(&mut entry.notices))
            .unwrap_or_default()
    }

    /// Asks every other session to abort its tasks; the owner reports its own like the others.
    pub(crate) fn begin_affair(
        &mut self,
        owner: SessionKey,
        kind: AffairKind,
        effects: &mut Vec<Effect>,
    ) -> AffairId {
        let id = AffairId(self.next_affair);
        self.next_affair += 1;
        let others: Vec<usize> = (0..self.sessions.len())
            .filter(|&at| self.sessions[at].key != owner)
            .collect();
        self.affairs.push(Affair {
            id,
            owner,
            remaining: others.len() + 1,
        });
        for at in others {
            let notice = match kind {
                AffairKind::Reset => Notice::Abort(Some(id)),
                AffairKind::ClearTaskSet => Notice::Clear(id),
            };
            self.post_at(at, notice, effects);
        }
        id
    }

    /// One session has lost its tasks. True when it was the last and `reporter` is the owner.
    pub(crate) fn affair_done(
        &mut self,
        id: AffairId,
        reporter: SessionKey,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(at) = self.affairs.iter().position(|affair| affair.id == id) else {
            return false;
        };
        self.affairs[at].remaining -= 1;
        if self.affairs[at].remaining > 0 {
            return false;
        }
        let owner = self.affairs.swap_remove(at).owner;
        if owner == reporter {
            return true;
        }
        self.post(owner, Notice::AffairOver(id), effects);
        false
    }

    /// Posts to the session of a nexus.
    pub(crate) fn post_to_nexus(
        &mut self,
        nexus: NexusId,
        notice: Notice,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(at) = self.sessions.iter().position(|entry| entry.nexus == nexus) {
            self.post_at(at, notice, effects);
        }
    }

    /// Posts to all sessions but this one.
    pub(crate) fn post_to_others(
        &mut self,
        key: SessionKey,
        notice: Notice,
        effects: &mut Vec<Effect>,
    ) {
        for at in 0..self.sessions.len() {
            if self.sessions[at].key != key {
                self.post_at(at, notice, effects);
            }
        }
    }

    /// Addresses to announce, given where the host came to.
    pub(crate) fn portals(&self) -> &[TargetAddress] {
        &self.portals
    }

    fn post(&mut self, key: SessionKey, notice: Notice, effects: &mut Vec<Effect>) {
        if let Some(at) = self.sessions.iter().position(|entry| entry.key == key) {
            self.post_at(at, notice, effects);
        }
    }

    fn post_at(&mut self, at: usize, notice: Notice, effects: &mut Vec<Effect>) {
        let entry = &mut self.sessions[at];
        // Affairs differ from each other, everything else waits at most once: bounded.
        if !entry.notices.contains(&notice) {
            entry.notices.push(notice);
        }
        effects.push(Effect::Wake { peer: entry.peer });
    }

    fn entry(&mut self, key: SessionKey) -> Option<&mut Entry> {
        self.sessions.iter_mut().find(|entry| entry.key == key)
    }

    fn unused_tsih(&mut self) -> u16 {
        // Bounded: there are far fewer sessions than values.
        loop {
            let tsih = self.next_tsih;
            self.next_tsih = tsih.checked_add(1).unwrap_or(1);
            if self.sessions.iter().all(|entry| entry.tsih != tsih) {
                return tsih;
            }
        }
    }
}

/// What a discovery session may say of one target. Plain data: shards exchange it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// iSCSI target name.
    pub target_name: String,
    /// Addresses, as in [`TargetConfig::portals`].
    pub portals: Vec<TargetAddress>,
    /// Initiators that are not admitted do not hear of the target.
    pub access: Access,
}
