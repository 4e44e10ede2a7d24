//! Task Management Function Request and Response (RFC 7143 §11.5, §11.6).

use crate::framing::HEADER_BYTES;
use crate::pdu::{self, FINAL, Header, Numbers, opcode};

/// Functions (RFC 7143 §11.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Function {
    /// One task of this session.
    AbortTask = 1,
    /// All tasks of this session.
    AbortTaskSet = 2,
    /// Ends an ACA condition; the unit has none.
    ClearAca = 3,
    /// All tasks of all sessions.
    ClearTaskSet = 4,
    /// All tasks of all sessions, and what the unit forgets on a reset.
    LogicalUnitReset = 5,
    /// The same for all units of the target.
    TargetWarmReset = 6,
    /// The same, and every connection closes.
    TargetColdReset = 7,
    /// Moves a task to another connection; needs ErrorRecoveryLevel 2.
    TaskReassign = 8,
}

impl Function {
    /// From the code of a request.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Function::AbortTask,
            2 => Function::AbortTaskSet,
            3 => Function::ClearAca,
            4 => Function::ClearTaskSet,
            5 => Function::LogicalUnitReset,
            6 => Function::TargetWarmReset,
            7 => Function::TargetColdReset,
            8 => Function::TaskReassign,
            _ => return None,
        })
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementRequest {
    /// I bit.
    pub immediate: bool,
    /// Function code, see [`Function::from_code`].
    pub function: u8,
    /// LUN.
    pub lun: [u8; 8],
    /// Of this request.
    pub initiator_task_tag: u32,
    /// The task to abort.
    pub referenced_task_tag: u32,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
    /// CmdSN of the task to abort.
    pub ref_cmd_sn: u32,
}

impl TaskManagementRequest {
    /// From a header.
    pub fn decode(header: &Header) -> Self {
        TaskManagementRequest {
            immediate: pdu::is_immediate(header),
            function: header[1] & 0x7F,
            lun: pdu::lun_at(header),
            initiator_task_tag: pdu::u32_at(header, 16),
            referenced_task_tag: pdu::u32_at(header, 20),
            cmd_sn: pdu::u32_at(header, 24),
            exp_stat_sn: pdu::u32_at(header, 28),
            ref_cmd_sn: pdu::u32_at(header, 32),
        }
    }

    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = pdu::request(
            opcode::TASK_MANAGEMENT_REQUEST,
            self.immediate,
            self.cmd_sn,
            self.exp_stat_sn,
        );
        header[1] = FINAL | self.function;
        header[8..16].copy_from_slice(&self.lun);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u32(&mut header, 20, self.referenced_task_tag);
        pdu::put_u32(&mut header, 32, self.ref_cmd_sn);
        header
    }
}

/// Answers (RFC 7143 §11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Response {
    /// Done: no affected task runs any more.
    Complete = 0,
    /// The task is not known; it has ended.
    TaskDoesNotExist = 1,
    /// No such logical unit.
    LunDoesNotExist = 2,
    /// Tasks stay with their connection.
    ReassignNotSupported = 4,
    /// No such function.
    NotSupported = 5,
    /// Too many functions at a time.
    Rejected = 255,
}

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementResponse {
    /// What came of it.
    pub response: u8,
    /// Of the request.
    pub initiator_task_tag: u32,
    /// Sequence numbers.
    pub numbers: Numbers,
}

impl TaskManagementResponse {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::TASK_MANAGEMENT_RESPONSE;
        header[1] = FINAL;
        header[2] = self.response;
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        self.numbers.put(&mut header);
        header
    }

    /// From a header.
    pub fn decode(header: &Header) -> Self {
        TaskManagementResponse {
            response: header[2],
            initiator_task_tag: pdu::u32_at(header, 16),
            numbers: Numbers::decode(header),
        }
    }
}
