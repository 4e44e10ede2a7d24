//! The logical unit: one per volume, shared by all its sessions.
//!
//! A command goes `start` → (data from the host) → `execute` → (storage) → `finish`. Reservations are
//! checked at `start` and again at `execute`: data that was still on its way when its nexus was
//! fenced is not written.

#[cfg(test)]
mod tests;

use crate::request::{BlockRequest, BlockResponse, ByteRange};
use crate::scsi::alua::{self, AccessState, Paths};
use crate::scsi::attention::{Attention, Attentions};
use crate::scsi::block::{self, Answer};
use crate::scsi::cdb::{self, Command, ModeForm, SameSource};
use crate::scsi::geometry::{Geometry, LogicalBlock};
use crate::scsi::mode::ModeState;
use crate::scsi::nexus::{Lun, Nexus, NexusId};
use crate::scsi::reply::{Dispatch, Executed, Reply, Status, Transfer};
use crate::scsi::reservation::kind::{OutAction, ReservationType};
use crate::scsi::reservation::{Refusal, Reservations, parameters};
use crate::scsi::sense::{AdditionalSense, Sense, SenseFormat, SenseKey};
use crate::scsi::{capacity, inquiry, opcode, report, vpd};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
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
    /// Whether reservations must outlive this process.
    pub keeping: Keeping,
}

/// Which reservations are kept with the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Those that a host wants to survive power loss (APTPL): the unit is here or nowhere.
    Wanted,
    /// All: the unit goes on on another node, and for hosts that is the same unit.
    All,
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
    paths: Paths,
    geometry: Geometry,
    mode: ModeState,
    reservations: Reservations,
    /// Storage refused the last command; TEST UNIT READY asks it again.
    suspect: bool,
    /// Bounded by the portal's bound on sessions.
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
        Ok(LogicalUnit {
            geometry: Geometry::new(config.capacity_bytes, config.block),
            config,
            paths: Paths::default(),
            mode: ModeState::default(),
            reservations: Reservations::decode(attributes)?,
            suspect: false,
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
        // SPC-2 7.21: a RESERVE ends with its nexus; registrations stay.
        self.reservations.release(nexus);
        self.nexuses.remove(&nexus);
    }

    /// Forgets what a reset forgets and tells every nexus. Tasks were aborted by the caller.
    pub fn reset(&mut self, kind: Reset) {
        let attention = match kind {
            Reset::Unit => Attention::UnitReset,
            Reset::TargetWarm => Attention::TargetReset,
            Reset::TargetCold => Attention::PowerOn,
        };
        // SAM-5 6.3.3: mode parameters and RESERVE go back, persistent reservations stay.
        self.mode = ModeState::default();
        self.reservations.on_reset();
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

    /// The volume has this size now; nobody is told when that is the size it had.
    pub fn capacity_changed(&mut self, capacity_bytes: u64) {
        if capacity_bytes == self.config.capacity_bytes {
            return;
        }
        self.config.capacity_bytes = capacity_bytes;
        self.geometry = Geometry::new(capacity_bytes, self.config.block);
        for state in self.nexuses.values_mut() {
            state.attentions.establish(Attention::CapacityChanged);
        }
    }

    /// The paths to the unit.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The paths are these now. Every nexus is told when another one is the active one.
    pub fn set_paths(&mut self, paths: Paths) {
        if paths == self.paths {
            return;
        }
        self.paths = paths;
        // SPC-4 5.15.2.1: implicit changes are told to every nexus of the unit.
        for state in self.nexuses.values_mut() {
            state.attentions.establish(Attention::AccessStateChanged);
        }
    }

    /// Which reservations are kept from the next change on.
    pub fn set_keeping(&mut self, keeping: Keeping) {
        self.config.keeping = keeping;
    }

    /// Another node kept the reservations until now, and this is what it stored last.
    pub fn take_over(&mut self, attributes: &[u8]) -> Result<(), AttributesError> {
        self.reservations = Reservations::decode(attributes)?;
        Ok(())
    }

    /// Takes a CDB in. CDBs shorter than 16 bytes are padded with zeros by the protocol.
    pub fn start(&mut self, nexus: NexusId, lun: Lun, cdb: &[u8; 16]) -> Started {
        match self.try_start(nexus, lun, cdb) {
            Ok(started) => started,
            Err(refusal) => Started::Complete(self.refusal(&refusal)),
        }
    }

    fn try_start(&mut self, id: NexusId, lun: Lun, cdb: &[u8; 16]) -> Result<Started, Refusal> {
        if !lun.is_zero() {
            return Ok(Started::Complete(self.answer_without_unit(cdb)?));
        }
        let state = self.nexuses.get_mut(&id).expect("the nexus is live");
        // SAM-5 5.14.4: these neither report nor clear a unit attention (REQUEST SENSE does so itself).
        let exempt = matches!(cdb[0], INQUIRY | REPORT_LUNS | REQUEST_SENSE);
        if !exempt && let Some(attention) = state.attentions.take() {
            return Err(attention.sense().into());
        }
        let command = cdb::decode(cdb, &self.geometry)?;
        self.admit(id, &command)?;
        Ok(Started::Accepted(Accepted {
            transfer: command.transfer(&self.geometry),
            command,
        }))
    }

    /// Fits a command to what the host said it would send; 0 when it said it would send nothing.
    ///
    /// A write that the host cut short at a block boundary is run as far as its data goes, and the
    /// residual tells the rest; anything else that is too short is refused. The residual is counted
    /// against the transfer that `start` gave.
    pub fn announced(&self, accepted: Accepted, from_host_bytes: u32) -> Result<Accepted, Sense> {
        let wanted = match accepted.transfer {
            Transfer::PayloadFromHost { bytes } | Transfer::ParametersFromHost { bytes } => bytes,
            Transfer::None | Transfer::PayloadToHost { .. } | Transfer::ParametersToHost { .. } => {
                0
            }
        };
        let cut = |range: ByteRange| ByteRange {
            bytes: u64::from(from_host_bytes),
            ..range
        };
        let whole_blocks = u64::from(from_host_bytes).is_multiple_of(self.geometry.block_bytes());
        let command = match accepted.command {
            // SBC-3 5.2: the halves of the data are found by its length, so it must be exact.
            Command::CompareAndWrite(_) if from_host_bytes != wanted => {
                return Err(Sense::cdb_byte(13));
            }
            // SBC-3 5.42: the data is one logical block. More is a host that means something else.
            Command::WriteSame {
                source: SameSource::Host,
                ..
            } if from_host_bytes != wanted => {
                return Err(Sense::illegal(
                    AdditionalSense::INVALID_FIELD_IN_INFORMATION_UNIT,
                ));
            }
            _ if from_host_bytes >= wanted => return Ok(accepted),
            Command::Write(range) if whole_blocks => Command::Write(cut(range)),
            Command::WriteAndVerify(range) if whole_blocks => Command::WriteAndVerify(cut(range)),
            _ => {
                let code = AdditionalSense::INVALID_FIELD_IN_INFORMATION_UNIT;
                return Err(Sense::illegal(code));
            }
        };
        Ok(Accepted {
            transfer: command.transfer(&self.geometry),
            command,
        })
    }

    /// LUNs other than 0 (SPC-4 6.6.1, 6.39; SAM-5 5.11).
    fn answer_without_unit(&self, cdb: &[u8; 16]) -> Result<Reply, Sense> {
        const NO_UNIT: Sense = Sense::illegal(AdditionalSense::UNIT_NOT_SUPPORTED);
        if !matches!(cdb[0], INQUIRY | REPORT_LUNS | REQUEST_SENSE) {
            return Err(NO_UNIT);
        }
        match cdb::decode(cdb, &self.geometry)? {
            Command::Inquiry {
                page: None,
                allocation,
            } => Ok(Reply::parameters(inquiry::no_unit(), allocation)),
            Command::Inquiry { page: Some(_), .. } => Err(Sense::cdb_byte(2)),
            Command::ReportLuns { select, allocation } => {
                Ok(Reply::parameters(report::luns(select), allocation))
            }
            Command::RequestSense { format, allocation } => {
                Ok(Reply::parameters(NO_UNIT.encode(format), allocation))
            }
            _ => Err(NO_UNIT),
        }
    }

    /// The path, reservations and write protection let the command through. Hot path.
    fn admit(&self, id: NexusId, command: &Command) -> Result<(), Refusal> {
        self.paths.admits(command)?;
        let state = self.nexuses.get(&id).expect("the nexus is live");
        let access = command.access();
        if self.reservations.conflicts(id, &state.nexus, access) {
            return Err(Refusal::Conflict);
        }
        // SPC-4 7.5.10: SWP.
        if self.mode.write_protected && command.writes_medium() {
            let code = AdditionalSense::SOFTWARE_WRITE_PROTECTED;
            return Err(Sense::new(SenseKey::DataProtect, code).into());
        }
        Ok(())
    }

    /// Runs a command whose data from the host has arrived.
    ///
    /// `parameters` has exactly the length that [`Transfer::ParametersFromHost`] said, else it is empty.
    pub fn execute(&mut self, nexus: NexusId, command: &Command, parameters: &[u8]) -> Executed {
        match self.try_execute(nexus, command, parameters) {
            Ok(executed) => executed,
            Err(refusal) => self.refusal(&refusal).into(),
        }
    }

    fn try_execute(
        &mut self,
        id: NexusId,
        command: &Command,
        list: &[u8],
    ) -> Result<Executed, Refusal> {
        self.admit(id, command)?;
        match *command {
            Command::PersistentReserveOut { action, kind, .. } => {
                return self.persistent_reserve_out(id, action, kind, list);
            }
            Command::ModeSelect { form, .. } => {
                self.mode_select(id, form, list)?;
                return Ok(Reply::status(Status::Good).into());
            }
            Command::Reserve => self.reservations.reserve(id),
            Command::Release => self.reservations.release(id),
            // Ready as far as anyone knows; else an empty request finds out.
            Command::TestUnitReady if self.suspect => {
                return Ok(Dispatch::Block(BlockRequest::Flush).into());
            }
            Command::RequestSense { format, allocation } => {
                return Ok(self.request_sense(id, format, allocation).into());
            }
            _ => {}
        }
        if let Some((data, allocation)) = self.parameter_data(command)? {
            return Ok(Reply::parameters(data, allocation).into());
        }
        Ok(match block::request(command, list, &self.geometry)? {
            Some(request) => Dispatch::Block(request).into(),
            None => Reply::status(Status::Good).into(),
        })
    }

    /// Parameter data of the commands that only tell something, with their allocation lengths.
    fn parameter_data(&self, command: &Command) -> Result<Option<(Vec<u8>, usize)>, Sense> {
        Ok(Some(match *command {
            Command::Inquiry { page, allocation } => {
                let data = match page {
                    None => inquiry::standard(),
                    Some(page) => vpd::page(
                        page,
                        self.config.volume,
                        &self.config.target_name,
                        self.paths.own(),
                        &self.geometry,
                    )?,
                };
                (data, allocation)
            }
            Command::ReportLuns { select, allocation } => (report::luns(select), allocation),
            Command::ModeSense(ask) => (self.mode.sense(&ask, &self.geometry)?, ask.allocation),
            Command::LogSense {
                page,
                subpage,
                allocation,
            } => (report::log_page(page, subpage)?, allocation),
            Command::ReadCapacity10 => (capacity::read_capacity10(&self.geometry), usize::MAX),
            Command::ReadCapacity16 { allocation } => {
                (capacity::read_capacity16(&self.geometry), allocation)
            }
            Command::ReadDefectData {
                form,
                lists,
                allocation,
            } => (report::defects(form, lists), allocation),
            Command::PersistentReserveIn { report, allocation } => {
                (self.reservations.report(report), allocation)
            }
            Command::ReportTargetPortGroups { format, allocation } => {
                (report::target_port_groups(format, &self.paths), allocation)
            }
            Command::ReportSupportedOpcodes {
                what,
                timeouts,
                allocation,
            } => (opcode::report(what, timeouts)?, allocation),
            Command::ReportSupportedTasks {
                extended,
                allocation,
            } => (report::task_functions(extended), allocation),
            _ => return Ok(None),
        }))
    }

    /// REQUEST SENSE tells a waiting unit attention and clears it (SPC-4 6.39.1).
    fn request_sense(&mut self, id: NexusId, format: SenseFormat, allocation: usize) -> Reply {
        let state = self.nexuses.get_mut(&id).expect("the nexus is live");
        let sense = match state.attentions.take() {
            Some(attention) => attention.sense(),
            None => Sense::new(SenseKey::NoSense, AdditionalSense::NONE),
        };
        Reply::parameters(sense.encode(format), allocation)
    }

    fn mode_select(&mut self, id: NexusId, form: ModeForm, list: &[u8]) -> Result<(), Sense> {
        let mode = self.mode.select(form, list, &self.geometry)?;
        if mode == self.mode {
            return Ok(());
        }
        self.mode = mode;
        // SPC-4 6.11: every other nexus learns of it.
        for (other, state) in &mut self.nexuses {
            if *other != id {
                state.attentions.establish(Attention::ModeParametersChanged);
            }
        }
        Ok(())
    }

    /// The change holds at once: who is fenced is fenced. GOOD waits until it is durable, if it
    /// must be. When storage cannot keep it, the host gets an error and the next change is saved
    /// with it.
    fn persistent_reserve_out(
        &mut self,
        id: NexusId,
        action: OutAction,
        kind: Option<ReservationType>,
        list: &[u8],
    ) -> Result<Executed, Refusal> {
        let nexus = self
            .nexuses
            .get(&id)
            .expect("the nexus is live")
            .nexus
            .clone();
        let parameters = parameters::decode(action, list)?;
        let consequences = self.reservations.out(&nexus, action, kind, &parameters)?;
        let mut aborted = Vec::new();
        for (other, state) in &mut self.nexuses {
            for (told, attention) in &consequences.told {
                if state.nexus == *told {
                    state.attentions.establish(*attention);
                }
            }
            if *other != id && consequences.aborted.contains(&state.nexus) {
                aborted.push(*other);
            }
        }
        let save = consequences.save || self.config.keeping == Keeping::All;
        let dispatch = match save {
            true => Dispatch::Block(BlockRequest::SaveAttributes(
                self.reservations.encode(self.config.keeping),
            )),
            false => Dispatch::Complete(Reply::status(Status::Good)),
        };
        Ok(Executed { dispatch, aborted })
    }

    /// Ends a command that storage answered. The nexus may be gone.
    pub fn finish(&mut self, _: NexusId, command: &Command, response: BlockResponse) -> Reply {
        self.suspect = matches!(response, BlockResponse::Failed | BlockResponse::NotReady);
        // It was taken in before the unit's active path became another one: the host tries that.
        let moved = self.paths.state() == AccessState::Standby;
        if moved && response == BlockResponse::NotReady {
            return self.refuse(&alua::STANDBY);
        }
        match block::answer(command, &response, &self.geometry) {
            Ok(reply) => reply,
            Err(Answer::Check(sense)) => self.refuse(&sense),
            Err(Answer::Busy) => Reply::status(Status::Busy),
        }
    }

    /// CHECK CONDITION with this sense data, in the format the control mode page asks for.
    ///
    /// The protocol uses it for what only it can see: wrong amounts of data, digest errors.
    pub fn refuse(&self, sense: &Sense) -> Reply {
        Reply {
            sense: sense.encode(self.mode.sense_format),
            ..Reply::status(Status::CheckCondition)
        }
    }

    fn refusal(&self, refusal: &Refusal) -> Reply {
        match refusal {
            Refusal::Conflict => Reply::status(Status::ReservationConflict),
            Refusal::Check(sense) => self.refuse(sense),
        }
    }

    /// Size and logical block.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The two ends of a live nexus.
    pub fn nexus(&self, nexus: NexusId) -> Option<&Nexus> {
        self.nexuses.get(&nexus).map(|state| &state.nexus)
    }
}

const REQUEST_SENSE: u8 = 0x03;
const INQUIRY: u8 = 0x12;
const REPORT_LUNS: u8 = 0xA0;
