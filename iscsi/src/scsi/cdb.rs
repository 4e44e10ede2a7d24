//! What a CDB asks for: bytes to a closed [`Command`], checked against the disk's geometry.

use crate::scsi::geometry::Geometry;
use crate::scsi::reply::Transfer;
use crate::scsi::sense::{AdditionalSense, Sense};

/// A decoded command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// TEST UNIT READY (SPC-4 6.47).
    TestUnitReady,
}

impl Command {
    /// What the command moves.
    pub fn transfer(&self, _geometry: &Geometry) -> Transfer {
        Transfer::None
    }
}

/// Decodes a CDB.
pub fn decode(cdb: &[u8; 16], _geometry: &Geometry) -> Result<Command, Sense> {
    match cdb[0] {
        0x00 => Ok(Command::TestUnitReady),
        _ => Err(Sense::illegal(AdditionalSense::INVALID_OPERATION_CODE)),
    }
}
