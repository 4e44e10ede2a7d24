//! What a command moves and how it ends.

use crate::request::BlockRequest;
use crate::scsi::nexus::NexusId;
use alloc::vec::Vec;

/// Status byte (SAM-5 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Sense data says why not.
    CheckCondition = 0x02,
    /// PRE-FETCH: the blocks fit the cache.
    ConditionMet = 0x04,
    /// Try again.
    Busy = 0x08,
    /// Another nexus holds the unit.
    ReservationConflict = 0x18,
    /// The task set has no room.
    TaskSetFull = 0x28,
    /// Aborted by another nexus, told because TAS is one.
    TaskAborted = 0x40,
}

/// What a command moves between host and task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Nothing.
    None,
    /// The host sends exactly this many bytes into the task buffer.
    PayloadFromHost {
        /// Length, at most `TRANSFER_BYTES_MAX`.
        bytes: u32,
    },
    /// The host sends exactly this many bytes of parameter list, handed to `execute`.
    ParametersFromHost {
        /// Length, at most `PARAMETER_LIST_BYTES_MAX`.
        bytes: u32,
    },
    /// The host gets exactly this many bytes from the task buffer when the command ends GOOD.
    PayloadToHost {
        /// Length, at most `TRANSFER_BYTES_MAX`.
        bytes: u32,
    },
    /// The host gets at most this many bytes, with the reply.
    ParametersToHost {
        /// The allocation length.
        bytes_max: u32,
    },
}

/// Data for the host that goes with a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyData {
    /// None.
    None,
    /// These bytes, cut to the allocation length already.
    Parameters(Vec<u8>),
    /// The first `bytes` of the task buffer.
    Payload {
        /// Length.
        bytes: u32,
    },
}

impl ReplyData {
    /// Length in bytes: what a residual is counted against.
    pub fn bytes(&self) -> usize {
        match self {
            ReplyData::None => 0,
            ReplyData::Parameters(bytes) => bytes.len(),
            ReplyData::Payload { bytes } => usize::try_from(*bytes).unwrap_or(usize::MAX),
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status byte.
    pub status: Status,
    /// Encoded sense data; empty unless the status is CHECK CONDITION.
    pub sense: Vec<u8>,
    /// Data for the host.
    pub data: ReplyData,
}

impl Reply {
    /// A reply that is only a status.
    pub fn status(status: Status) -> Self {
        Reply {
            status,
            sense: Vec::new(),
            data: ReplyData::None,
        }
    }

    /// GOOD with parameter data, cut to the allocation length (SPC-4 4.2.5.6).
    pub fn parameters(mut data: Vec<u8>, allocation: usize) -> Self {
        data.truncate(allocation);
        Reply {
            status: Status::Good,
            sense: Vec::new(),
            data: ReplyData::Parameters(data),
        }
    }
}

/// What happens next with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// It ended.
    Complete(Reply),
    /// Storage works; its answer goes to `finish`.
    ///
    /// `SaveAttributes` requests must take effect in the order in which they were handed out.
    Block(BlockRequest),
}

/// Result of executing a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// What happens with the command itself.
    pub dispatch: Dispatch,
    /// Nexuses all of whose other tasks must be aborted now, without a response (PREEMPT AND ABORT,
    /// SPC-4 5.9.11.5, TAS = 0). Usually empty. The unit attention is established already.
    pub aborted: Vec<NexusId>,
}

impl From<Dispatch> for Executed {
    fn from(dispatch: Dispatch) -> Self {
        Executed {
            dispatch,
            aborted: Vec::new(),
        }
    }
}

impl From<Reply> for Executed {
    fn from(reply: Reply) -> Self {
        Dispatch::Complete(reply).into()
    }
}
