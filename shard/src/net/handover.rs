//! A connection on its way to the shard that owns its target.

use holdfast_iscsi::connection::Connection as Machine;
use std::os::fd::OwnedFd;

/// All there is of a connection during login: no task, nothing queued to send.
#[derive(Debug)]
pub(crate) struct Handover {
    /// The socket.
    pub(crate) fd: OwnedFd,
    /// The protocol machine, waiting to be bound.
    pub(crate) machine: Machine,
    /// Its number.
    pub(crate) peer: holdfast_iscsi::effect::PeerId,
    /// Who, for messages.
    pub(crate) remote: String,
    /// Received and not yet looked at.
    pub(crate) unread: Vec<u8>,
    /// What the login named.
    pub(crate) target_name: String,
}
