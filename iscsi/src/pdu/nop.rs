//! NOP-Out and NOP-In (RFC 7143 §11.18, §11.19).

use crate::framing::HEADER_BYTES;
use crate::pdu::{self, FINAL, Header, Numbers, opcode};

/// A ping of the host, or its answer to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopOut {
    /// I bit.
    pub immediate: bool,
    /// LUN, copied from the NOP-In that it answers.
    pub lun: [u8; 8],
    /// Reserved when no answer is wanted.
    pub initiator_task_tag: u32,
    /// Reserved unless it answers a NOP-In.
    pub target_transfer_tag: u32,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
}

impl NopOut {
    /// From a header.
    pub fn decode(header: &Header) -> Self {
        NopOut {
            immediate: pdu::is_immediate(header),
            lun: pdu::lun_at(header),
            initiator_task_tag: pdu::u32_at(header, 16),
            target_transfer_tag: pdu::u32_at(header, 20),
            cmd_sn: pdu::u32_at(header, 24),
            exp_stat_sn: pdu::u32_at(header, 28),
        }
    }

    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = pdu::request(
            opcode::NOP_OUT,
            self.immediate,
            self.cmd_sn,
            self.exp_stat_sn,
        );
        header[8..16].copy_from_slice(&self.lun);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, self.target_transfer_tag);
        header
    }
}

/// The answer to a ping, or a ping of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopIn {
    /// LUN of the NOP-Out, or 0.
    pub lun: [u8; 8],
    /// Of the NOP-Out; reserved when it is our ping.
    pub initiator_task_tag: u32,
    /// Reserved when it is an answer.
    pub target_transfer_tag: u32,
    /// Sequence numbers.
    pub numbers: Numbers,
}

impl NopIn {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::NOP_IN;
        header[1] = FINAL;
        header[8..16].copy_from_slice(&self.lun);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, self.target_transfer_tag);
        self.numbers.put(&mut header);
        header
    }

    /// From a header.
    pub fn decode(header: &Header) -> Self {
        NopIn {
            lun: pdu::lun_at(header),
            initiator_task_tag: pdu::u32_at(header, 16),
            target_transfer_tag: pdu::u32_at(header, 20),
            numbers: Numbers::decode(header),
        }
    }
}
