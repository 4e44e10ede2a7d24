//! SCSI Command and SCSI Response (RFC 7143 §11.3, §11.4).

use crate::framing::HEADER_BYTES;
use crate::pdu::{self, FINAL, Header, Numbers, opcode};

/// Task attribute (RFC 7143 §11.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Untagged or simple: in any order. ACA and reserved values are taken as this.
    Simple,
    /// After all older commands, before all younger ones.
    Ordered,
    /// At once.
    HeadOfQueue,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// I bit.
    pub immediate: bool,
    /// F bit: no unsolicited Data-Out follows.
    pub is_final: bool,
    /// R bit: the host expects data.
    pub read: bool,
    /// W bit: the host offers data.
    pub write: bool,
    /// Order among the tasks.
    pub attribute: Attribute,
    /// LUN.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// Bytes that the host expects or offers.
    pub expected_bytes: u32,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
    /// First 16 bytes of the CDB.
    pub cdb: [u8; 16],
}

impl ScsiCommand {
    /// From a header.
    pub fn decode(header: &Header) -> Self {
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&header[32..48]);
        ScsiCommand {
            immediate: pdu::is_immediate(header),
            is_final: header[1] & FINAL != 0,
            read: header[1] & 0x40 != 0,
            write: header[1] & 0x20 != 0,
            attribute: match header[1] & 0x07 {
                2 => Attribute::Ordered,
                3 => Attribute::HeadOfQueue,
                _ => Attribute::Simple,
            },
            lun: pdu::lun_at(header),
            initiator_task_tag: pdu::u32_at(header, 16),
            expected_bytes: pdu::u32_at(header, 20),
            cmd_sn: pdu::u32_at(header, 24),
            exp_stat_sn: pdu::u32_at(header, 28),
            cdb,
        }
    }

    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = pdu::request(
            opcode::SCSI_COMMAND,
            self.immediate,
            self.cmd_sn,
            self.exp_stat_sn,
        );
        header[1] = match self.attribute {
            Attribute::Simple => 1,
            Attribute::Ordered => 2,
            Attribute::HeadOfQueue => 3,
        };
        for (set, bit) in [
            (self.is_final, FINAL),
            (self.read, 0x40),
            (self.write, 0x20),
        ] {
            if set {
                header[1] |= bit;
            }
        }
        header[8..16].copy_from_slice(&self.lun);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, self.expected_bytes);
        header[32..48].copy_from_slice(&self.cdb);
        header
    }
}

/// Difference between what the host expected and what the command moves (RFC 7143 §11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// None.
    #[default]
    None,
    /// So many bytes did not fit.
    Overflow(u32),
    /// So many bytes less than expected.
    Underflow(u32),
}

impl Residual {
    /// Of a command that moves `actual` bytes where the host expected `expected`.
    pub fn of(expected: u32, actual: u32) -> Self {
        match expected.cmp(&actual) {
            core::cmp::Ordering::Equal => Residual::None,
            core::cmp::Ordering::Less => Residual::Overflow(actual - expected),
            core::cmp::Ordering::Greater => Residual::Underflow(expected - actual),
        }
    }

    /// Flags and count as SCSI Response and Data-In have them.
    pub(crate) fn put(self, header: &mut Header) {
        let (bit, count) = match self {
            Residual::None => (0, 0),
            Residual::Overflow(count) => (0x04, count),
            Residual::Underflow(count) => (0x02, count),
        };
        header[1] |= bit;
        pdu::put_u32(header, 44, count);
    }

    pub(crate) fn get(header: &Header) -> Self {
        let count = pdu::u32_at(header, 44);
        match header[1] & 0x06 {
            0x04 => Residual::Overflow(count),
            0x02 => Residual::Underflow(count),
            _ => Residual::None,
        }
    }
}

/// How a command ended. iSCSI service response is always "completed at target".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiResponse {
    /// SAM status byte.
    pub status: u8,
    /// Residual.
    pub residual: Residual,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// Number of R2T and Data-In PDUs sent for the command.
    pub exp_data_sn: u32,
    /// Sequence numbers.
    pub numbers: Numbers,
}

impl ScsiResponse {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::SCSI_RESPONSE;
        header[1] = FINAL;
        header[3] = self.status;
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        self.numbers.put(&mut header);
        pdu::put_u32(&mut header, 36, self.exp_data_sn);
        self.residual.put(&mut header);
        header
    }

    /// From a header; `None` when the service response is not "completed at target".
    pub fn decode(header: &Header) -> Option<Self> {
        (header[2] == 0).then(|| ScsiResponse {
            status: header[3],
            residual: Residual::get(header),
            initiator_task_tag: pdu::u32_at(header, 16),
            exp_data_sn: pdu::u32_at(header, 36),
            numbers: Numbers::decode(header),
        })
    }
}
