//! Data-Out, Data-In and Ready To Transfer (RFC 7143 §11.7, §11.8).

use crate::framing::HEADER_BYTES;
use crate::pdu::scsi::Residual;
use crate::pdu::{self, FINAL, Header, Numbers, opcode};

/// Data from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// F bit: last of its sequence.
    pub is_final: bool,
    /// LUN, as in the R2T.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// Of the R2T; reserved when unsolicited.
    pub target_transfer_tag: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
    /// Number within its sequence.
    pub data_sn: u32,
    /// First byte within the command's data.
    pub buffer_offset: u32,
}

impl DataOut {
    /// From a header.
    pub fn decode(header: &Header) -> Self {
        DataOut {
            is_final: header[1] & FINAL != 0,
            lun: pdu::lun_at(header),
            initiator_task_tag: pdu::u32_at(header, 16),
            target_transfer_tag: pdu::u32_at(header, 20),
            exp_stat_sn: pdu::u32_at(header, 28),
            data_sn: pdu::u32_at(header, 36),
            buffer_offset: pdu::u32_at(header, 40),
        }
    }

    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = pdu::request(opcode::DATA_OUT, false, 0, self.exp_stat_sn);
        header[1] = if self.is_final { FINAL } else { 0 };
        header[8..16].copy_from_slice(&self.lun);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, self.target_transfer_tag);
        pdu::put_u32(&mut header, 36, self.data_sn);
        pdu::put_u32(&mut header, 40, self.buffer_offset);
        header
    }
}

/// Data for the host, the last one with the status of a command that ended GOOD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataIn {
    /// F bit: last of its burst.
    pub is_final: bool,
    /// S bit: this ends the command with this status and residual.
    pub status: Option<(u8, Residual)>,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// StatSN counts only with a status.
    pub numbers: Numbers,
    /// Number within the command.
    pub data_sn: u32,
    /// First byte within the command's data.
    pub buffer_offset: u32,
}

impl DataIn {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::DATA_IN;
        header[1] = if self.is_final { FINAL } else { 0 };
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, pdu::RESERVED_TAG);
        self.numbers.put(&mut header);
        pdu::put_u32(&mut header, 36, self.data_sn);
        pdu::put_u32(&mut header, 40, self.buffer_offset);
        match self.status {
            Some((status, residual)) => {
                header[1] |= 0x01;
                header[3] = status;
                residual.put(&mut header);
            }
            //= RFC 7143 §11.7.6
            //# StatSN, Status and Residual Count have meaningful content only if the S bit is set.
            None => pdu::put_u32(&mut header, 24, 0),
        }
        header
    }

    /// From a header.
    pub fn decode(header: &Header) -> Self {
        DataIn {
            is_final: header[1] & FINAL != 0,
            status: (header[1] & 0x01 != 0).then(|| (header[3], Residual::get(header))),
            initiator_task_tag: pdu::u32_at(header, 16),
            numbers: Numbers::decode(header),
            data_sn: pdu::u32_at(header, 36),
            buffer_offset: pdu::u32_at(header, 40),
        }
    }
}

/// Asks the host for a burst of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyToTransfer {
    /// LUN of the command.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// To be repeated in the data.
    pub target_transfer_tag: u32,
    /// StatSN is the next one, not used up.
    pub numbers: Numbers,
    /// Number within the command.
    pub r2t_sn: u32,
    /// First byte wanted.
    pub buffer_offset: u32,
    /// Bytes wanted.
    pub desired_bytes: u32,
}

impl ReadyToTransfer {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::R2T;
        header[1] = FINAL;
        header[8..16].copy_from_slice(&self.lun);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, self.target_transfer_tag);
        self.numbers.put(&mut header);
        pdu::put_u32(&mut header, 36, self.r2t_sn);
        pdu::put_u32(&mut header, 40, self.buffer_offset);
        pdu::put_u32(&mut header, 44, self.desired_bytes);
        header
    }

    /// From a header.
    pub fn decode(header: &Header) -> Self {
        ReadyToTransfer {
            lun: pdu::lun_at(header),
            initiator_task_tag: pdu::u32_at(header, 16),
            target_transfer_tag: pdu::u32_at(header, 20),
            numbers: Numbers::decode(header),
            r2t_sn: pdu::u32_at(header, 36),
            buffer_offset: pdu::u32_at(header, 40),
            desired_bytes: pdu::u32_at(header, 44),
        }
    }
}
