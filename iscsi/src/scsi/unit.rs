//! The logical unit: one per volume, shared by all its sessions.
//!
//! A command goes `start` → (data from the host) → `execute` → (storage) → `finish`. Reservations are
//! checked at `start` and again at `execute`: data that was still on its way when its nexus was
//! fenced is not written.

use crate::request::BlockResponse;
use crate::scsi::attention::{Attention, Attentions};
use crate::scsi::cdb::{self, Command};
use crate::scsi::geometry::{Geometry, LogicalBlock};
use crate::scsi::nexus::{Lun, Nexus, NexusId};
use crate::scsi::reply::{Executed, Reply, Status, Transfer};
use crate::scsi::sense::{AdditionalSense, Sense, SenseFormat, SenseKey};
use alloc::collections::BTreeMap;
use alloc::string::String;
use holdfast_core::id::VolumeId;

/// What a logical unit is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitConfig {
    /// The volume; every identifier the host sees comes from it.
    pub volume: VolumeId,
    /// iSCSI target name.
    pub target_name: String,
    /// Size of the volume.
    pub capacity_bytes: u64,
    /// Logical block.
    pub block: LogicalBlock,
}

/// A command taken in, on its way to `execute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The command, to be given back to `execute` and `finish`.
    pub command: Command,
    /// What it moves.
    pub transfer: Transfer,
}

/// What `start` made of a CDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// Collect data from the host as `transfer` says, then call `execute`.
    Accepted(Accepted),
    /// It ended; what the host sends for it is thrown away.
    Complete(Reply),
}

/// Which reset a task management function or the portal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// LOGICAL UNIT RESET.
    Unit,
    /// TARGET WARM RESET.
    TargetWarm,
    /// TARGET COLD RESET.
    TargetCold,
}

/// The attributes blob of the volume cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("persistent reservations of the volume cannot be read: {0}")]
pub struct AttributesError(pub &'static str);

/// The disk that hosts see.
#[derive(Debug)]
pub struct LogicalUnit {
    config: UnitConfig,
    geometry: Geometry,
    nexuses: BTreeMap<NexusId, NexusState>,
    next_nexus: u64,
}

#[derive(Debug)]
struct NexusState {
    nexus: Nexus,
    attentions: Attentions,
}

impl LogicalUnit {
    /// A unit after power on. `attributes` is what `SaveAttributes` stored last, empty if nothing.
    pub fn new(config: UnitConfig, attributes: &[u8]) -> Result<Self, AttributesError> {
        let _ = attributes;
        Ok(LogicalUnit {
            geometry: Geometry::new(config.capacity_bytes, config.block),
            config,
            nexuses: BTreeMap::new(),
            next_nexus: 1,
        })
    }

    /// A session reached full feature phase.
    pub fn nexus_added(&mut self, nexus: Nexus) -> NexusId {
        let id = NexusId(self.next_nexus);
        self.next_nexus += 1;
        let mut attentions = Attentions::default();
        attentions.establish(Attention::PowerOn);
        self.nexuses.insert(id, NexusState { nexus, attentions });
        id
    }

    /// A session ended, by logout, loss or reinstatement. Its tasks were aborted by the caller.
    pub fn nexus_lost(&mut self, nexus: NexusId) {
        self.nexuses.remove(&nexus);
    }

    /// Forgets what a reset forgets and tells every nexus. Tasks were aborted by the caller.
    pub fn reset(&mut self, kind: Reset) {
        let attention = match kind {
            Reset::Unit => Attention::UnitReset,
            Reset::TargetWarm => Attention::TargetReset,
            Reset::TargetCold => Attention::PowerOn,
        };
        for state in self.nexuses.values_mut() {
            state.attentions.establish(attention);
        }
    }

    /// CLEAR TASK SET by another nexus took tasks of this one (SAM-5 7.5, TAS = 0).
    pub fn commands_cleared(&mut self, nexus: NexusId) {
        if let Some(state) = self.nexuses.get_mut(&nexus) {
            state.attentions.establish(Attention::CommandsCleared);
        }
    }

    /// The volume has another size now.
    pub fn capacity_changed(&mut self, capacity_bytes: u64) {
        self.config.capacity_bytes = capacity_bytes;
        self.geometry = Geometry::new(capacity_bytes, self.config.block);
        for state in self.nexuses.values_mut() {
            state.attentions.establish(Attention::CapacityChanged);
        }
    }

    /// Takes a CDB in. CDBs shorter than 16 bytes are padded with zeros by the protocol.
    pub fn start(&mut self, nexus: NexusId, lun: Lun, cdb: &[u8; 16]) -> Started {
        let state = self.nexuses.get_mut(&nexus).expect("the nexus is live");
        if !lun.is_zero() {
            let sense = Sense::illegal(AdditionalSense::UNIT_NOT_SUPPORTED);
            return Started::Complete(self.refuse(&sense));
        }
        if let Some(attention) = state.attentions.take() {
            return Started::Complete(self.refuse(&attention.sense()));
        }
        match cdb::decode(cdb, &self.geometry) {
            Ok(command) => Started::Accepted(Accepted {
                transfer: command.transfer(&self.geometry),
                command,
            }),
            Err(sense) => Started::Complete(self.refuse(&sense)),
        }
    }

    /// Runs a command whose data from the host has arrived.
    ///
    /// `parameters` has exactly the length that [`Transfer::ParametersFromHost`] said, else it is empty.
    pub fn execute(&mut self, nexus: NexusId, command: &Command, parameters: &[u8]) -> Executed {
        assert!(self.nexuses.contains_key(&nexus));
        assert!(parameters.is_empty());
        match command {
            Command::TestUnitReady => Reply::status(Status::Good).into(),
        }
    }

    /// Ends a command that storage answered.
    pub fn finish(&mut self, nexus: NexusId, command: &Command, response: BlockResponse) -> Reply {
        let _ = (nexus, command, response);
        let sense = Sense::new(
            SenseKey::HardwareError,
            AdditionalSense::INTERNAL_TARGET_FAILURE,
        );
        self.refuse(&sense)
    }

    /// CHECK CONDITION with this sense data, in the format the control mode page asks for.
    ///
    /// The protocol uses it for what only it can see: wrong amounts of data, digest errors.
    pub fn refuse(&self, sense: &Sense) -> Reply {
        Reply {
            sense: sense.encode(SenseFormat::Fixed),
            ..Reply::status(Status::CheckCondition)
        }
    }

    /// Size and logical block.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

impl LogicalUnit {
    /// The nexuses of this initiator port, for the portal's own bookkeeping.
    pub fn nexus(&self, nexus: NexusId) -> Option<&Nexus> {
        self.nexuses.get(&nexus).map(|state| &state.nexus)
    }
}
