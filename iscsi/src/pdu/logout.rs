//! Logout Request and Logout Response (RFC 7143 §11.14, §11.15).

use crate::framing::HEADER_BYTES;
use crate::pdu::{self, FINAL, Header, Numbers, opcode};

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    /// I bit.
    pub immediate: bool,
    /// 0 close the session, 1 close the connection, 2 remove it for recovery.
    pub reason: u8,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// The connection meant by reasons 1 and 2.
    pub cid: u16,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
}

impl LogoutRequest {
    /// From a header.
    pub fn decode(header: &Header) -> Self {
        LogoutRequest {
            immediate: pdu::is_immediate(header),
            reason: header[1] & 0x7F,
            initiator_task_tag: pdu::u32_at(header, 16),
            cid: pdu::u16_at(header, 20),
            cmd_sn: pdu::u32_at(header, 24),
            exp_stat_sn: pdu::u32_at(header, 28),
        }
    }

    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = pdu::request(
            opcode::LOGOUT_REQUEST,
            self.immediate,
            self.cmd_sn,
            self.exp_stat_sn,
        );
        header[1] = FINAL | self.reason;
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u16(&mut header, 20, self.cid);
        header
    }
}

/// Answers (RFC 7143 §11.15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Response {
    /// The connection closes now.
    Closed = 0,
    /// No such connection in this session.
    CidNotFound = 1,
    /// ErrorRecoveryLevel is 0.
    RecoveryNotSupported = 2,
    /// The request makes no sense.
    CleanupFailed = 3,
}

/// A response. Time2Wait and Time2Retain are zero: nothing is kept that one could wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutResponse {
    /// What came of it.
    pub response: u8,
    /// Of the request.
    pub initiator_task_tag: u32,
    /// Sequence numbers.
    pub numbers: Numbers,
}

impl LogoutResponse {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::LOGOUT_RESPONSE;
        header[1] = FINAL;
        header[2] = self.response;
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        self.numbers.put(&mut header);
        header
    }

    /// From a header.
    pub fn decode(header: &Header) -> Self {
        LogoutResponse {
            response: header[2],
            initiator_task_tag: pdu::u32_at(header, 16),
            numbers: Numbers::decode(header),
        }
    }
}
