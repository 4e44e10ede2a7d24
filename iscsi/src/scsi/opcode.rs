//! Every operation code the unit knows: one row each, from which decoding and
//! REPORT SUPPORTED OPERATION CODES (SPC-4 6.35) both follow. What has no row is refused with 20/00.

#[cfg(test)]
mod tests;

use crate::scsi::cdb::{Cdb, Command, OpcodeQuestion, block, primary};
use crate::scsi::geometry::Geometry;
use crate::scsi::sense::{AdditionalSense, Sense};
use alloc::vec;
use alloc::vec::Vec;

/// One command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Service action, when the operation code has them (always in the low bits of byte 1).
    pub(crate) action: Option<u8>,
    /// CDB USAGE DATA (SPC-4 6.35.3): the operation code, then the bits we evaluate; its length is
    /// the CDB's.
    pub(crate) usage: &'static [u8],
    /// Reads the fields.
    pub(crate) decode: fn(Cdb<'_>, &Geometry) -> Result<Command, Sense>,
}

type Decode = fn(Cdb<'_>, &Geometry) -> Result<Command, Sense>;

const fn plain(usage: &'static [u8], decode: Decode) -> Row {
    Row {
        action: None,
        usage,
        decode,
    }
}

const fn action(action: u8, usage: &'static [u8], decode: Decode) -> Row {
    Row {
        action: Some(action),
        usage,
        decode,
    }
}

const FF: u8 = 0xFF;

/// Ascending by operation code, then by service action.
#[rustfmt::skip]
pub(crate) static ROWS: &[Row] = &[
    plain(&[0x00, 0, 0, 0, 0, 4], primary::test_unit_ready),
    plain(&[0x03, 1, 0, 0, FF, 4], primary::request_sense),
    plain(&[0x08, 0x1F, FF, FF, FF, 4], block::read),
    plain(&[0x0A, 0x1F, FF, FF, FF, 4], block::write),
    plain(&[0x12, 3, FF, FF, FF, 4], primary::inquiry),
    plain(&[0x15, 0x11, 0, 0, FF, 4], primary::mode_select6),
    plain(&[0x16, 0x1F, 0, 0, 0, 4], primary::reserve),
    plain(&[0x17, 0x1F, 0, 0, 0, 4], primary::release),
    plain(&[0x1A, 8, FF, FF, FF, 4], primary::mode_sense6),
    plain(&[0x1B, 0, 0, 0, 0xF3, 4], block::start_stop_unit),
    plain(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 4], block::read_capacity10),
    plain(&[0x28, 0xF8, FF, FF, FF, FF, 0, FF, FF, 4], block::read),
    plain(&[0x2A, 0xF8, FF, FF, FF, FF, 0, FF, FF, 4], block::write),
    plain(&[0x2E, 0xF6, FF, FF, FF, FF, 0, FF, FF, 4], block::write_and_verify),
    plain(&[0x2F, 0xF6, FF, FF, FF, FF, 0, FF, FF, 4], block::verify),
    plain(&[0x34, 2, FF, FF, FF, FF, 0, FF, FF, 4], block::prefetch),
    plain(&[0x35, 2, FF, FF, FF, FF, 0, FF, FF, 4], block::synchronize_cache),
    plain(&[0x37, 0, 0x1F, 0, 0, 0, 0, FF, FF, 4], block::read_defect_data10),
    plain(&[0x41, 0xFE, FF, FF, FF, FF, 0, FF, FF, 4], block::write_same),
    plain(&[0x42, 1, 0, 0, 0, 0, 0, FF, FF, 4], block::unmap),
    plain(&[0x4D, 1, FF, FF, 0, 0, 0, FF, FF, 4], primary::log_sense),
    plain(&[0x55, 0x11, 0, 0, 0, 0, 0, FF, FF, 4], primary::mode_select10),
    plain(&[0x56, 0x1F, 0, 0, 0, 0, 0, 0, 0, 4], primary::reserve),
    plain(&[0x57, 0x1F, 0, 0, 0, 0, 0, 0, 0, 4], primary::release),
    plain(&[0x5A, 0x18, FF, FF, 0, 0, 0, FF, FF, 4], primary::mode_sense10),
    action(0, &[0x5E, 0, 0, 0, 0, 0, 0, FF, FF, 4], primary::persistent_reserve_in),
    action(1, &[0x5E, 1, 0, 0, 0, 0, 0, FF, FF, 4], primary::persistent_reserve_in),
    action(2, &[0x5E, 2, 0, 0, 0, 0, 0, FF, FF, 4], primary::persistent_reserve_in),
    action(3, &[0x5E, 3, 0, 0, 0, 0, 0, FF, FF, 4], primary::persistent_reserve_in),
    action(0, &[0x5F, 0, 0, 0, 0, FF, FF, FF, FF, 4], primary::persistent_reserve_out),
    action(1, &[0x5F, 1, FF, 0, 0, FF, FF, FF, FF, 4], primary::persistent_reserve_out),
    action(2, &[0x5F, 2, FF, 0, 0, FF, FF, FF, FF, 4], primary::persistent_reserve_out),
    action(3, &[0x5F, 3, 0, 0, 0, FF, FF, FF, FF, 4], primary::persistent_reserve_out),
    action(4, &[0x5F, 4, FF, 0, 0, FF, FF, FF, FF, 4], primary::persistent_reserve_out),
    action(5, &[0x5F, 5, FF, 0, 0, FF, FF, FF, FF, 4], primary::persistent_reserve_out),
    action(6, &[0x5F, 6, 0, 0, 0, FF, FF, FF, FF, 4], primary::persistent_reserve_out),
    action(7, &[0x5F, 7, 0, 0, 0, FF, FF, FF, FF, 4], primary::persistent_reserve_out),
    plain(&[0x88, 0xF8, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::read),
    plain(&[0x89, 0xF8, FF, FF, FF, FF, FF, FF, FF, FF, 0, 0, 0, FF, 0, 4], block::compare_and_write),
    plain(&[0x8A, 0xF8, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::write),
    plain(&[0x8B, 0xF8, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::or_write),
    plain(&[0x8E, 0xF6, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::write_and_verify),
    plain(&[0x8F, 0xF6, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::verify),
    plain(&[0x90, 2, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::prefetch),
    plain(&[0x91, 2, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::synchronize_cache),
    plain(&[0x93, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::write_same),
    action(0x10, &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, FF, FF, FF, FF, 0, 4], block::read_capacity16),
    action(0x12, &[0x9E, 0x12, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::get_lba_status),
    plain(&[0xA0, 0, FF, 0, 0, 0, FF, FF, FF, FF, 0, 4], primary::report_luns),
    action(0x0A, &[0xA3, 0xEA, 0, 0, 0, 0, FF, FF, FF, FF, 0, 4], primary::report_target_port_groups),
    action(0x0C, &[0xA3, 0x0C, 0x87, FF, FF, FF, FF, FF, FF, FF, 0, 4], primary::report_supported_opcodes),
    action(0x0D, &[0xA3, 0x0D, 0x80, 0, 0, 0, FF, FF, FF, FF, 0, 4], primary::report_supported_tasks),
    plain(&[0xA8, 0xF8, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::read),
    plain(&[0xAA, 0xF8, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::write),
    plain(&[0xAE, 0xF6, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::write_and_verify),
    plain(&[0xAF, 0xF6, FF, FF, FF, FF, FF, FF, FF, FF, 0, 4], block::verify),
    plain(&[0xB7, 0x1F, 0, 0, 0, 0, FF, FF, FF, FF, 0, 4], block::read_defect_data12),
];

/// Bits of byte 1 that hold a service action.
const ACTION_MASK: u8 = 0x1F;

/// The row of a CDB.
pub(crate) fn find(cdb: &[u8; 16]) -> Result<&'static Row, Sense> {
    let mut rows = ROWS.iter().filter(|row| row.usage[0] == cdb[0]).peekable();
    if rows.peek().is_none() {
        return Err(Sense::illegal(AdditionalSense::INVALID_OPERATION_CODE));
    }
    let wanted = cdb[1] & ACTION_MASK;
    rows.find(|row| row.action.is_none_or(|action| action == wanted))
        .ok_or(Sense::cdb_bit(1, 4))
}

/// Answers REPORT SUPPORTED OPERATION CODES.
pub(crate) fn report(what: OpcodeQuestion, timeouts: bool) -> Result<Vec<u8>, Sense> {
    let (code, action) = match what {
        OpcodeQuestion::All => return Ok(report_all(timeouts)),
        OpcodeQuestion::Code(code) => {
            // SPC-4 table 275: 001b for a command that has service actions.
            if ROWS
                .iter()
                .any(|r| r.usage[0] == code && r.action.is_some())
            {
                return Err(Sense::cdb_bit(2, 2));
            }
            (code, None)
        }
        OpcodeQuestion::CodeAndAction(code, action) => {
            // SPC-4 table 275: 010b for a command that has none.
            if ROWS
                .iter()
                .any(|r| r.usage[0] == code && r.action.is_none())
            {
                return Err(Sense::cdb_bit(2, 2));
            }
            (code, Some(action))
        }
        OpcodeQuestion::Either(code, action) => {
            let plain = ROWS
                .iter()
                .any(|r| r.usage[0] == code && r.action.is_none());
            // SPC-4 table 275: 011b, a service action of zero goes with a command that has none.
            if plain && action != 0 {
                return Ok(report_one(None, timeouts));
            }
            (code, (!plain).then_some(action))
        }
    };
    let row = ROWS
        .iter()
        .find(|row| row.usage[0] == code && row.action.map(u16::from) == action);
    Ok(report_one(row, timeouts))
}

/// No timeout is indicated: zeros (SPC-4 6.35.4).
const TIMEOUTS: [u8; 12] = [0, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// SPC-4 6.35.2.
fn report_all(timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for row in ROWS {
        let flags = u8::from(timeouts) << 1 | u8::from(row.action.is_some());
        let cdb_bytes = u8::try_from(row.usage.len()).expect("a CDB has 16 bytes at most");
        let action = row.action.unwrap_or(0);
        data.extend([row.usage[0], 0, 0, action, 0, flags, 0, cdb_bytes]);
        if timeouts {
            data.extend(TIMEOUTS);
        }
    }
    let bytes = u32::try_from(data.len() - 4).expect("the table is small");
    data[..4].copy_from_slice(&bytes.to_be_bytes());
    data
}

/// SPC-4 6.35.3.
fn report_one(row: Option<&Row>, timeouts: bool) -> Vec<u8> {
    const SUPPORTED: u8 = 0b011;
    const NOT_SUPPORTED: u8 = 0b001;
    let Some(row) = row else {
        return vec![0, NOT_SUPPORTED, 0, 0];
    };
    let cdb_bytes = u8::try_from(row.usage.len()).expect("a CDB has 16 bytes at most");
    let mut data = vec![0, u8::from(timeouts) << 7 | SUPPORTED, 0, cdb_bytes];
    data.extend(row.usage);
    if timeouts {
        data.extend(TIMEOUTS);
    }
    data
}
