//! What a CDB asks for: bytes to a closed [`Command`], checked against the disk's geometry.
//!
//! Which operation codes exist is in [`crate::scsi::opcode`]; the readers of their fields are in
//! `primary` (SPC-4) and `block` (SBC-3). A command that is not understood is refused, never guessed.

pub(crate) mod block;
pub(crate) mod primary;
#[cfg(test)]
mod tests;

use crate::request::ByteRange;
use crate::scsi::geometry::Geometry;
use crate::scsi::opcode;
use crate::scsi::reply::Transfer;
use crate::scsi::reservation::kind::{OutAction, ReservationType};
use crate::scsi::sense::{AdditionalSense, Sense, SenseFormat};

/// A decoded command. Ranges lie inside the disk; allocation lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// TEST UNIT READY (SPC-4 6.47).
    TestUnitReady,
    /// REQUEST SENSE (SPC-4 6.39).
    RequestSense {
        /// DESC bit.
        format: SenseFormat,
        /// Allocation length.
        allocation: usize,
    },
    /// INQUIRY (SPC-4 6.6).
    Inquiry {
        /// VPD page, when EVPD is one.
        page: Option<u8>,
        /// Allocation length.
        allocation: usize,
    },
    /// REPORT LUNS (SPC-4 6.33).
    ReportLuns {
        /// SELECT REPORT field: 00h, 01h or 02h.
        select: u8,
        /// Allocation length.
        allocation: usize,
    },
    /// MODE SENSE(6) and (10) (SPC-4 6.13, 6.14).
    ModeSense(ModeSense),
    /// MODE SELECT(6) and (10) (SPC-4 6.11, 6.12).
    ModeSelect {
        /// Layout of the header.
        form: ModeForm,
        /// Parameter list length.
        bytes: u16,
    },
    /// LOG SENSE (SPC-4 6.8).
    LogSense {
        /// Page code.
        page: u8,
        /// Subpage code.
        subpage: u8,
        /// Allocation length.
        allocation: usize,
    },
    /// READ DEFECT DATA(10) and (12) (SBC-3 5.17, 5.18).
    ReadDefectData {
        /// Layout of the header.
        form: DefectForm,
        /// REQ_PLIST, REQ_GLIST and DEFECT LIST FORMAT.
        lists: u8,
        /// Allocation length.
        allocation: usize,
    },
    /// READ CAPACITY(10) (SBC-3 5.15).
    ReadCapacity10,
    /// READ CAPACITY(16) (SBC-3 5.16).
    ReadCapacity16 {
        /// Allocation length.
        allocation: usize,
    },
    /// GET LBA STATUS (SBC-3 5.6).
    GetLbaStatus {
        /// First byte asked for.
        offset: u64,
        /// Allocation length.
        allocation: usize,
    },
    /// READ(6), (10), (12), (16) (SBC-3 5.11 to 5.14).
    Read(ByteRange),
    /// WRITE(6), (10), (12), (16) (SBC-3 5.32 to 5.35).
    Write(ByteRange),
    /// WRITE AND VERIFY(10), (12), (16) (SBC-3 5.37 to 5.39).
    WriteAndVerify(ByteRange),
    /// VERIFY(10), (12), (16) (SBC-3 5.28 to 5.30).
    Verify {
        /// What is verified.
        range: ByteRange,
        /// BYTCHK field.
        check: ByteCheck,
    },
    /// COMPARE AND WRITE (SBC-3 5.2).
    CompareAndWrite(ByteRange),
    /// ORWRITE(16) (SBC-3 5.7).
    OrWrite(ByteRange),
    /// WRITE SAME(10), (16) (SBC-3 5.42, 5.43).
    WriteSame {
        /// What is overwritten.
        range: ByteRange,
        /// NDOB field.
        source: SameSource,
    },
    /// UNMAP (SBC-3 5.25).
    Unmap {
        /// Parameter list length.
        bytes: u16,
    },
    /// SYNCHRONIZE CACHE(10), (16) (SBC-3 5.22, 5.23).
    SynchronizeCache {
        /// IMMED bit.
        immediate: bool,
    },
    /// PRE-FETCH(10), (16) (SBC-3 5.9, 5.10).
    Prefetch(ByteRange),
    /// START STOP UNIT (SBC-3 5.20).
    StartStopUnit(PowerChange),
    /// PERSISTENT RESERVE IN (SPC-4 6.15).
    PersistentReserveIn {
        /// Service action.
        report: ReservationReport,
        /// Allocation length.
        allocation: usize,
    },
    /// PERSISTENT RESERVE OUT (SPC-4 6.16).
    PersistentReserveOut {
        /// Service action.
        action: OutAction,
        /// TYPE field; `None` when it names no type, which matters to some actions only.
        kind: Option<ReservationType>,
        /// Parameter list length.
        bytes: u32,
    },
    /// RESERVE(6), (10) (SPC-2 7.21, 7.22).
    Reserve,
    /// RELEASE(6), (10) (SPC-2 7.16, 7.17).
    Release,
    /// REPORT TARGET PORT GROUPS (SPC-4 6.37).
    ReportTargetPortGroups {
        /// PARAMETER DATA FORMAT field.
        format: PortGroupFormat,
        /// Allocation length.
        allocation: usize,
    },
    /// REPORT SUPPORTED OPERATION CODES (SPC-4 6.35).
    ReportSupportedOpcodes {
        /// REPORTING OPTIONS and the command asked for.
        what: OpcodeQuestion,
        /// RCTD bit.
        timeouts: bool,
        /// Allocation length.
        allocation: usize,
    },
    /// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36).
    ReportSupportedTasks {
        /// REPD bit.
        extended: bool,
        /// Allocation length.
        allocation: usize,
    },
}

/// Fields of MODE SENSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeSense {
    /// Layout of the header.
    pub form: ModeForm,
    /// DBD and LLBAA.
    pub descriptor: BlockDescriptor,
    /// PC field.
    pub control: PageControl,
    /// Page code.
    pub page: u8,
    /// Subpage code.
    pub subpage: u8,
    /// Allocation length.
    pub allocation: usize,
}

/// Which of the two mode parameter headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeForm {
    /// Four bytes.
    Six,
    /// Eight bytes.
    Ten,
}

/// Which block descriptor goes with mode pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockDescriptor {
    /// None.
    Absent,
    /// Eight bytes.
    Short,
    /// Sixteen bytes.
    Long,
}

/// Which values of mode pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageControl {
    /// As they are.
    Current,
    /// A mask of what MODE SELECT may change.
    Changeable,
    /// As after power on.
    Default,
}

/// Which of the two defect list headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefectForm {
    /// Four bytes.
    Ten,
    /// Eight bytes.
    Twelve,
}

/// BYTCHK of VERIFY (SBC-3 table 109).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteCheck {
    /// 00b: check the medium, no data.
    Medium,
    /// 01b: compare with as many blocks from the host.
    Each,
    /// 11b: compare each block with the one from the host.
    Same,
}

/// Where WRITE SAME has its block from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSource {
    /// One block from the host.
    Host,
    /// NDOB: zeros.
    Zeros,
}

/// START bit of START STOP UNIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerChange {
    /// Start.
    Start,
    /// Stop.
    Stop,
}

/// Service action of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationReport {
    /// READ KEYS.
    Keys,
    /// READ RESERVATION.
    Reservation,
    /// REPORT CAPABILITIES.
    Capabilities,
    /// READ FULL STATUS.
    FullStatus,
}

/// PARAMETER DATA FORMAT of REPORT TARGET PORT GROUPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortGroupFormat {
    /// Length only header.
    LengthOnly,
    /// Extended header.
    Extended,
}

/// What REPORT SUPPORTED OPERATION CODES asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpcodeQuestion {
    /// 000b: every command.
    All,
    /// 001b: a command without service actions.
    Code(u8),
    /// 010b: a command with service actions.
    CodeAndAction(u8, u16),
    /// 011b: either.
    Either(u8, u16),
}

/// Reads the fields of a CDB, which are big endian.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cdb<'a>(pub(crate) &'a [u8; 16]);

impl Cdb<'_> {
    pub(crate) fn u8(self, at: usize) -> u8 {
        self.0[at]
    }

    pub(crate) fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn u32(self, at: usize) -> u32 {
        (u32::from(self.u16(at)) << 16) | u32::from(self.u16(at + 2))
    }

    pub(crate) fn u64(self, at: usize) -> u64 {
        (u64::from(self.u32(at)) << 32) | u64::from(self.u32(at + 4))
    }

    pub(crate) fn bit(self, at: usize, bit: u8) -> bool {
        self.0[at] & (1 << bit) != 0
    }

    /// An allocation length of four bytes.
    pub(crate) fn allocation32(self, at: usize) -> usize {
        usize::try_from(self.u32(at)).unwrap_or(usize::MAX)
    }
}

/// Decodes a CDB.
pub fn decode(cdb: &[u8; 16], geometry: &Geometry) -> Result<Command, Sense> {
    let row = opcode::find(cdb)?;
    let control = row.usage.len() - 1;
    // SAM-5 5.2: NACA is one while NORMACA is zero.
    if cdb[control] & 0x04 != 0 {
        let byte = u16::try_from(control).expect("a CDB has 16 bytes at most");
        return Err(Sense::cdb_bit(byte, 2));
    }
    (row.decode)(Cdb(cdb), geometry)
}

impl Command {
    /// What the command moves.
    pub fn transfer(&self, geometry: &Geometry) -> Transfer {
        match self {
            Command::TestUnitReady
            | Command::SynchronizeCache { .. }
            | Command::Prefetch(_)
            | Command::StartStopUnit(_)
            | Command::Reserve
            | Command::Release => Transfer::None,
            Command::RequestSense { allocation, .. }
            | Command::Inquiry { allocation, .. }
            | Command::ReportLuns { allocation, .. }
            | Command::LogSense { allocation, .. }
            | Command::ReadCapacity16 { allocation }
            | Command::ReadDefectData { allocation, .. }
            | Command::GetLbaStatus { allocation, .. }
            | Command::PersistentReserveIn { allocation, .. }
            | Command::ReportTargetPortGroups { allocation, .. }
            | Command::ReportSupportedOpcodes { allocation, .. }
            | Command::ReportSupportedTasks { allocation, .. }
            | Command::ModeSense(ModeSense { allocation, .. }) => to_host(*allocation),
            Command::ReadCapacity10 => to_host(8),
            Command::ModeSelect { bytes, .. } | Command::Unmap { bytes } => {
                parameters(u32::from(*bytes))
            }
            Command::PersistentReserveOut { bytes, .. } => parameters(*bytes),
            Command::Read(range) => match payload_bytes(range.bytes) {
                0 => Transfer::None,
                bytes => Transfer::PayloadToHost { bytes },
            },
            Command::Write(range) | Command::WriteAndVerify(range) | Command::OrWrite(range) => {
                payload(range.bytes)
            }
            Command::CompareAndWrite(range) => payload(2 * range.bytes),
            Command::Verify { range, check } => match check {
                ByteCheck::Medium => Transfer::None,
                ByteCheck::Each => payload(range.bytes),
                ByteCheck::Same => payload(range.bytes.min(geometry.block_bytes())),
            },
            Command::WriteSame { source, .. } => match source {
                SameSource::Host => payload(geometry.block_bytes()),
                SameSource::Zeros => Transfer::None,
            },
        }
    }
}

fn payload_bytes(bytes: u64) -> u32 {
    u32::try_from(bytes).expect("decoding bounds transfers by TRANSFER_BYTES_MAX")
}

fn payload(bytes: u64) -> Transfer {
    match payload_bytes(bytes) {
        0 => Transfer::None,
        bytes => Transfer::PayloadFromHost { bytes },
    }
}

fn parameters(bytes: u32) -> Transfer {
    match bytes {
        0 => Transfer::None,
        bytes => Transfer::ParametersFromHost { bytes },
    }
}

fn to_host(allocation: usize) -> Transfer {
    match u32::try_from(allocation).unwrap_or(u32::MAX) {
        0 => Transfer::None,
        bytes_max => Transfer::ParametersToHost { bytes_max },
    }
}

/// A length of a parameter list that we would not take in.
pub(crate) fn list_too_long() -> Sense {
    // SPC-4 4.2.5.5: a list that is longer than the device can hold.
    Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR)
}
