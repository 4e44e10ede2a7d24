//! Readers of SPC-4 CDBs.

use crate::scsi::cdb::{
    BlockDescriptor, Cdb, Command, ModeForm, ModeSense, OpcodeQuestion, PageControl,
    PortGroupFormat, ReservationReport, list_too_long,
};
use crate::scsi::geometry::Geometry;
use crate::scsi::limits::PARAMETER_LIST_BYTES_MAX;
use crate::scsi::reservation::kind::{OutAction, ReservationType};
use crate::scsi::sense::{AdditionalSense, Sense, SenseFormat};

/// TEST UNIT READY.
pub(crate) fn test_unit_ready(_: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::TestUnitReady)
}

/// REQUEST SENSE.
pub(crate) fn request_sense(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::RequestSense {
        format: match cdb.bit(1, 0) {
            true => SenseFormat::Descriptor,
            false => SenseFormat::Fixed,
        },
        allocation: usize::from(cdb.u8(4)),
    })
}

/// INQUIRY.
pub(crate) fn inquiry(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    // CMDDT was made obsolete in favour of REPORT SUPPORTED OPERATION CODES.
    if cdb.bit(1, 1) {
        return Err(Sense::cdb_bit(1, 1));
    }
    let page = cdb.u8(2);
    let page = match cdb.bit(1, 0) {
        true => Some(page),
        // SPC-4 6.6.1: EVPD zero and a page code.
        false if page != 0 => return Err(Sense::cdb_byte(2)),
        false => None,
    };
    Ok(Command::Inquiry {
        page,
        allocation: usize::from(cdb.u16(3)),
    })
}

/// REPORT LUNS.
pub(crate) fn report_luns(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    let select = cdb.u8(2);
    if select > 0x02 {
        return Err(Sense::cdb_byte(2));
    }
    Ok(Command::ReportLuns {
        select,
        allocation: cdb.allocation32(6),
    })
}

fn page_control(cdb: Cdb<'_>) -> Result<PageControl, Sense> {
    match cdb.u8(2) >> 6 {
        0 => Ok(PageControl::Current),
        1 => Ok(PageControl::Changeable),
        2 => Ok(PageControl::Default),
        // SPC-4 6.13.5: no saved values.
        _ => Err(Sense::illegal(AdditionalSense::SAVING_NOT_SUPPORTED)),
    }
}

/// MODE SENSE(6).
pub(crate) fn mode_sense6(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::ModeSense(ModeSense {
        form: ModeForm::Six,
        descriptor: match cdb.bit(1, 3) {
            true => BlockDescriptor::Absent,
            false => BlockDescriptor::Short,
        },
        control: page_control(cdb)?,
        page: cdb.u8(2) & 0x3F,
        subpage: cdb.u8(3),
        allocation: usize::from(cdb.u8(4)),
    }))
}

/// MODE SENSE(10).
pub(crate) fn mode_sense10(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::ModeSense(ModeSense {
        form: ModeForm::Ten,
        descriptor: match (cdb.bit(1, 3), cdb.bit(1, 4)) {
            (true, _) => BlockDescriptor::Absent,
            (false, true) => BlockDescriptor::Long,
            (false, false) => BlockDescriptor::Short,
        },
        control: page_control(cdb)?,
        page: cdb.u8(2) & 0x3F,
        subpage: cdb.u8(3),
        allocation: usize::from(cdb.u16(7)),
    }))
}

fn mode_select(cdb: Cdb<'_>, form: ModeForm, bytes: u16) -> Result<Command, Sense> {
    // SPC-4 6.11: PF zero means a vendor's own format, SP asks for saving.
    if !cdb.bit(1, 4) {
        return Err(Sense::cdb_bit(1, 4));
    }
    if cdb.bit(1, 0) {
        return Err(Sense::cdb_bit(1, 0));
    }
    if usize::from(bytes) > PARAMETER_LIST_BYTES_MAX {
        return Err(list_too_long());
    }
    Ok(Command::ModeSelect { form, bytes })
}

/// MODE SELECT(6).
pub(crate) fn mode_select6(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    mode_select(cdb, ModeForm::Six, u16::from(cdb.u8(4)))
}

/// MODE SELECT(10).
pub(crate) fn mode_select10(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    mode_select(cdb, ModeForm::Ten, cdb.u16(7))
}

/// LOG SENSE.
pub(crate) fn log_sense(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    // SPC-4 6.8: SP asks for saving, PPC is obsolete.
    if cdb.bit(1, 0) {
        return Err(Sense::cdb_bit(1, 0));
    }
    Ok(Command::LogSense {
        page: cdb.u8(2) & 0x3F,
        subpage: cdb.u8(3),
        allocation: usize::from(cdb.u16(7)),
    })
}

/// PERSISTENT RESERVE IN.
pub(crate) fn persistent_reserve_in(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::PersistentReserveIn {
        report: match cdb.u8(1) & 0x1F {
            0 => ReservationReport::Keys,
            1 => ReservationReport::Reservation,
            2 => ReservationReport::Capabilities,
            3 => ReservationReport::FullStatus,
            _ => return Err(Sense::cdb_bit(1, 4)),
        },
        allocation: usize::from(cdb.u16(7)),
    })
}

/// PERSISTENT RESERVE OUT.
pub(crate) fn persistent_reserve_out(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    let action = OutAction::from_code(cdb.u8(1) & 0x1F).ok_or(Sense::cdb_bit(1, 4))?;
    let bytes = cdb.u32(5);
    if u64::from(bytes) > PARAMETER_LIST_BYTES_MAX as u64 {
        return Err(list_too_long());
    }
    let kind = ReservationType::from_code(cdb.u8(2) & 0x0F);
    if action.uses_type() {
        // SPC-4 6.15.3.2: LU_SCOPE is the only scope.
        if cdb.u8(2) >> 4 != 0 {
            return Err(Sense::cdb_bit(2, 7));
        }
        if kind.is_none() {
            return Err(Sense::cdb_bit(2, 3));
        }
    }
    Ok(Command::PersistentReserveOut {
        action,
        kind,
        bytes,
    })
}

/// Third party and extent reservations do not exist here (SPC-2 7.21).
fn refuse_third_party(cdb: Cdb<'_>) -> Result<(), Sense> {
    match cdb.u8(1) & 0x1F {
        0 => Ok(()),
        _ => Err(Sense::cdb_bit(1, 4)),
    }
}

/// RESERVE(6) and (10).
pub(crate) fn reserve(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    refuse_third_party(cdb)?;
    Ok(Command::Reserve)
}

/// RELEASE(6) and (10).
pub(crate) fn release(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    refuse_third_party(cdb)?;
    Ok(Command::Release)
}

/// REPORT TARGET PORT GROUPS.
pub(crate) fn report_target_port_groups(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::ReportTargetPortGroups {
        format: match cdb.u8(1) >> 5 {
            0 => PortGroupFormat::LengthOnly,
            1 => PortGroupFormat::Extended,
            _ => return Err(Sense::cdb_bit(1, 7)),
        },
        allocation: cdb.allocation32(6),
    })
}

/// REPORT SUPPORTED OPERATION CODES.
pub(crate) fn report_supported_opcodes(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    let (code, action) = (cdb.u8(3), cdb.u16(4));
    Ok(Command::ReportSupportedOpcodes {
        what: match cdb.u8(2) & 0x07 {
            0 => OpcodeQuestion::All,
            1 => OpcodeQuestion::Code(code),
            2 => OpcodeQuestion::CodeAndAction(code, action),
            3 => OpcodeQuestion::Either(code, action),
            _ => return Err(Sense::cdb_bit(2, 2)),
        },
        timeouts: cdb.bit(2, 7),
        allocation: cdb.allocation32(6),
    })
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
pub(crate) fn report_supported_tasks(cdb: Cdb<'_>, _: &Geometry) -> Result<Command, Sense> {
    Ok(Command::ReportSupportedTasks {
        extended: cdb.bit(2, 7),
        allocation: cdb.allocation32(6),
    })
}
