//! What the machines ask of the driver, in order.

use crate::framing::Digests;
use crate::request::BlockRequest;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// One command of one connection, from `StartTask` or `Execute` to `EndTask`.
///
/// Unique among the live tasks of its connection; `slot` is below [`TASKS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskTag {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
}

/// Tasks of one connection at most.
pub const TASKS_MAX: usize =
    crate::limits::COMMAND_WINDOW as usize + crate::limits::IMMEDIATE_COMMANDS_MAX;

impl TaskTag {
    /// Index for a table of [`TASKS_MAX`] entries.
    pub fn slot(self) -> usize {
        usize::from(self.slot)
    }
}

/// The driver's own name for a connection, unique in its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// Where the bytes of the data segment that follows a header go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// No data segment follows.
    None,
    /// To `finish`, as one slice.
    Inline {
        /// Length.
        bytes: usize,
    },
    /// Into the task buffer; what does not fit the command is thrown away.
    Task {
        /// Whose buffer.
        task: TaskTag,
        /// First byte in the buffer.
        offset: usize,
        /// Bytes that go into the buffer.
        bytes: usize,
        /// Bytes after them that are thrown away.
        excess: usize,
    },
    /// Nowhere.
    Discard {
        /// Length.
        bytes: usize,
    },
}

impl Segment {
    /// Length on the wire, without padding and digest.
    pub fn bytes(self) -> usize {
        match self {
            Segment::None => 0,
            Segment::Inline { bytes } | Segment::Discard { bytes } => bytes,
            Segment::Task { bytes, excess, .. } => bytes + excess,
        }
    }
}

/// Data of a PDU to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendData {
    /// None.
    None,
    /// Control text, sense, parameters.
    Bytes(Vec<u8>),
    /// A part of what the task read.
    Task {
        /// Whose data.
        task: TaskTag,
        /// First byte in it.
        offset: usize,
        /// Length.
        bytes: usize,
    },
}

/// One PDU to send. On the wire: header, header digest, data, padding to four bytes, data digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The basic header segment, whole; we never send additional ones.
    pub header: [u8; 48],
    /// The data segment.
    pub data: SendData,
    /// Digests in force for this PDU.
    pub digests: Digests,
}

/// What the driver does next, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send; never overtakes an earlier one.
    Send(Outgoing),
    /// Make a buffer for data from the host. Comes before any segment or request that uses it.
    StartTask {
        /// Whose buffer.
        task: TaskTag,
        /// Its size, 1 to `TRANSFER_BYTES_MAX`.
        buffer_bytes: usize,
    },
    /// Do this and call `completed` exactly once, whatever happens to the connection meanwhile.
    Execute {
        /// For which task.
        task: TaskTag,
        /// What.
        request: BlockRequest,
    },
    /// The answer to `Execute` is no longer wanted; hurry. `completed` is still called, once.
    Abort {
        /// Which task.
        task: TaskTag,
    },
    /// Forget buffer and read data of the task; sends queued before it keep what they need.
    EndTask {
        /// Which task.
        task: TaskTag,
    },
    /// Login names its target: call `bound`, and nothing else but `closed` and `tick` before it.
    Bind {
        /// iSCSI name as the host wrote it, in lower case.
        target_name: String,
    },
    /// A discovery session asks what there is: call `listed`, and nothing else but `closed` and
    /// `tick` before it.
    ListTargets,
    /// Call `attend` on this other connection of the same target soon.
    Wake {
        /// Which connection.
        peer: PeerId,
    },
    /// Send what is queued, close the socket, then call `closed`. Nothing more is read.
    Close {
        /// For the log.
        reason: CloseReason,
    },
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The host logged out.
    Logout,
    /// Login was refused with this class and detail (RFC 7143 §11.13.5).
    LoginRefused(u16),
    /// Login took too long or too much.
    LoginLimit(&'static str),
    /// The host broke the protocol.
    Protocol(&'static str),
    /// The host did not answer in time.
    Timeout(&'static str),
    /// A new session of the same initiator port took its place.
    Reinstated,
    /// TARGET COLD RESET.
    Reset,
    /// This side shuts down.
    Shutdown,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Logout => f.write_str("logged out"),
            CloseReason::LoginRefused(status) => {
                write!(f, "login refused with status {status:04x}")
            }
            CloseReason::LoginLimit(what) => write!(f, "login limit: {what}"),
            CloseReason::Protocol(what) => write!(f, "protocol error: {what}"),
            CloseReason::Timeout(what) => write!(f, "timed out: {what}"),
            CloseReason::Reinstated => f.write_str("replaced by a new session of the same port"),
            CloseReason::Reset => f.write_str("target cold reset"),
            CloseReason::Shutdown => f.write_str("shut down"),
        }
    }
}
