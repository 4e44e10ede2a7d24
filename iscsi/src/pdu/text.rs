//! Text Request and Text Response (RFC 7143 §11.10, §11.11).

use crate::framing::HEADER_BYTES;
use crate::pdu::{self, CONTINUE, FINAL, Header, Numbers, opcode};

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRequest {
    /// I bit.
    pub immediate: bool,
    /// F bit: the host has no more to say.
    pub is_final: bool,
    /// C bit: the text goes on in the next request.
    pub text_continues: bool,
    /// LUN, as in the response that it answers.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// Reserved in the first request of a sequence.
    pub target_transfer_tag: u32,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
}

impl TextRequest {
    /// From a header.
    pub fn decode(header: &Header) -> Self {
        TextRequest {
            immediate: pdu::is_immediate(header),
            is_final: header[1] & FINAL != 0,
            text_continues: header[1] & CONTINUE != 0,
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
            opcode::TEXT_REQUEST,
            self.immediate,
            self.cmd_sn,
            self.exp_stat_sn,
        );
        header[1] = if self.is_final { FINAL } else { 0 };
        if self.text_continues {
            header[1] |= CONTINUE;
        }
        header[8..16].copy_from_slice(&self.lun);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, self.target_transfer_tag);
        header
    }
}

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextResponse {
    /// F bit: the sequence is over.
    pub is_final: bool,
    /// C bit: the text goes on in the next response.
    pub text_continues: bool,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// Reserved in the last response of a sequence.
    pub target_transfer_tag: u32,
    /// Sequence numbers.
    pub numbers: Numbers,
}

impl TextResponse {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::TEXT_RESPONSE;
        header[1] = if self.is_final { FINAL } else { 0 };
        if self.text_continues {
            header[1] |= CONTINUE;
        }
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, self.target_transfer_tag);
        self.numbers.put(&mut header);
        header
    }

    /// From a header.
    pub fn decode(header: &Header) -> Self {
        TextResponse {
            is_final: header[1] & FINAL != 0,
            text_continues: header[1] & CONTINUE != 0,
            initiator_task_tag: pdu::u32_at(header, 16),
            target_transfer_tag: pdu::u32_at(header, 20),
            numbers: Numbers::decode(header),
        }
    }
}
